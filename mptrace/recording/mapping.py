# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of what /proc/PID/maps said of the processes that a session met.  Pure."""

import numpy as np

#: Bytes of a name; of a longer one begin and end are kept, with :data:`CUT_NAME` between them.
NAME_BYTES = 240
CUT_NAME = b"..."

# What a row is (`state`): a mapping, or why there is none.
MAPPED = 0
ENDED = 1  # the process had ended, or replaced its program, before it was read
DENIED = 2  # it may not be looked at
LEFT_OUT = 3  # beyond the bounds of what is read in a session
CUT = 4  # mappings from `start` on are beyond the bound of what is read of a process
NO_MEMORY = 5  # a kernel thread
STATE_NAMES = ("mapped", "ended", "denied", "left_out", "cut", "no_memory")

#: One row per mapping of a process at one reading.  Rows of one reading have one `seen_ns`.
MAPPING = np.dtype(
    [
        ("seen_ns", "<u8"),  # CLOCK_MONOTONIC, before it was read
        ("born_ns", "<u8"),  # the process's start, to a tick below; numbers are used again
        ("start", "<u8"),
        ("end", "<u8"),  # exclusive
        ("offset", "<u8"),  # of `start` in the file, bytes
        ("inode", "<u8"),  # 0: no file
        ("tgid", "<u4"),  # 0: processes of which nothing more is known, left out
        ("dev", "<u4"),  # as in `obstacles`: major << 20 | minor
        ("state", "u1"),
        ("perms", "S4"),  # "rw-p"
        ("name", f"S{NAME_BYTES}"),  # as maps has it: a path, "[heap]", ""
    ]
)
