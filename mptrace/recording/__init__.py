# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings on disk: the layout of their tables, writing, reading and rotation."""
