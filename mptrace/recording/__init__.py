# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording's tables and their directory: layouts, writing, reading, rotation."""
