# SPDX-License-Identifier: GPL-2.0-or-later
"""mptrace tells the truth about page migration on Linux."""

__version__ = "0.1.0"
