# SPDX-License-Identifier: GPL-2.0-or-later
"""One traced session from its request to its recording."""
