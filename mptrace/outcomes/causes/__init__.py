# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's reasons: their table, the rules that tell them, the state they look at."""
