# SPDX-License-Identifier: GPL-2.0-or-later
"""By what counts can be looked at, apart from what takes long to load.  Pure."""

#: A line each of these has its own counts.
VIEWS = ("reason", "process", "cgroup")
