# SPDX-License-Identifier: GPL-2.0-or-later
"""Where scenarios run: each in its own process, with a journal that undoes its changes."""
