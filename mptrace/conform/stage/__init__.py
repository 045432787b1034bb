# SPDX-License-Identifier: GPL-2.0-or-later
"""Where scenarios run: a process for each, what they may change, and the way back."""
