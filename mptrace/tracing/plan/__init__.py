# SPDX-License-Identifier: GPL-2.0-or-later
"""Chooses what to attach to on this kernel: by what is there, proved by exact counts."""
