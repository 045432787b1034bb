# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap of a process that records for months: one arena, given back when it is free."""

import contextlib
import ctypes

import pyarrow as pa

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_PR_SET_THP_DISABLE = 41  # linux/prctl.h
#: What is larger goes back to the kernel when it is freed.
_LARGE_BYTES = 256 << 10


def keep_small() -> None:
    """Let this process have one heap of small pages, and give back at once what was large.

    Arrays of a moment are made by one thread and freed by another: each thread's own
    arena, Arrow's pool beside them, and thresholds that glibc raises by itself let the
    resident size grow for millions of records, as khugepaged does where it fills the
    holes of the heap (docs/memory.md).  Call it before there are threads, and after
    whatever must not inherit it was forked.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    # elsewhere than in glibc there is nothing to be set
    with contextlib.suppress(AttributeError):
        mallopt = libc.mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
