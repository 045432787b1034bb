# SPDX-License-Identifier: GPL-2.0-or-later
"""What to attach to on this kernel, chosen by what is there and proved by counts."""
