# SPDX-License-Identifier: GPL-2.0-or-later
"""The layouts of what mptrace's own driver says of its calls, beside what the kernel shows."""

import numpy as np

#: One row per call of mptrace's own driver: its side of the story.
DRIVER_CALL = np.dtype(
    [
        ("driver_call", "<u4"),  # ordinal in this session
        ("tid", "<u4"),
        ("before_ns", "<u8"),  # CLOCK_MONOTONIC just before and just after the syscall
        ("after_ns", "<u8"),
        ("ret", "<i8"),  # >= 0 as returned, -1 with errno_ set otherwise
        ("errno_", "<i4"),
        ("sentinel", "<i4"),  # what the status array was filled with before
        ("entries", "<u4"),
        ("pid", "<i4"),
        ("round", "<u4"),  # round of the workload that issued it
        ("backward", "u1"),  # 1: moving back to the source node
    ]
)

#: One row per entry of a driver call: where the page was, asked before and after the call.
LOCATION = np.dtype(
    [
        ("driver_call", "<u4"),
        ("entry", "<u4"),
        ("address", "<u8"),
        ("before_nid", "<i4"),  # node, or -errno of the page
        ("final_nid", "<i4"),
    ]
)
