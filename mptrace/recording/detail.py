# SPDX-License-Identifier: GPL-2.0-or-later
"""Levels of detail: how much of each page a session traced (`Meta.detail`)."""

#: From the least that is traced to the most.
DETAILS = ("outcomes", "all")
LEVEL_OUTCOMES, LEVEL_ALL = DETAILS
