# SPDX-License-Identifier: GPL-2.0-or-later
"""A BPF program, from its source to its maps; compiled once and then cached."""
