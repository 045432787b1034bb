# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of each page, from a recording's tables alone."""
