# SPDX-License-Identifier: GPL-2.0-or-later
"""mptrace traces page migration on Linux and says what became of each page, and why."""

__version__ = "0.1.0"
