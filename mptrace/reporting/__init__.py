# SPDX-License-Identifier: GPL-2.0-or-later
"""From outcomes to a report: its numbers, then its text."""
