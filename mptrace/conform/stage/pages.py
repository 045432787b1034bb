# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says about a page of this process: its frame and flags, whether it is in swap."""

import os
from collections.abc import Sequence

import numpy as np

from mptrace.driving import address_space

#: Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
KPF_WRITEBACK, KPF_SWAPCACHE, KPF_KSM, KPF_THP = 8, 13, 21, 22

_SWAPPED = 1 << 62  # /proc/PID/pagemap
_FRAME = (1 << 55) - 1


def is_swapped(address: int) -> bool:
    """Whether the page's table entry names a place in swap."""
    return bool(_entries([address])[0] & _SWAPPED)


def frames(addresses: Sequence[int]) -> list[int]:
    """Frame numbers of the pages mapped there; 0 where there is none, or it is hidden."""
    return [0 if entry & _SWAPPED else entry & _FRAME for entry in _entries(addresses)]


def has_flag(address: int, bit: int) -> bool:
    """Whether the page that is mapped there has a KPF_* flag."""
    flags = address_space.page_flags(np.array(frames([address]), np.uint64))
    return flags is not None and bool(int(flags[0]) >> bit & 1)


def _entries(addresses: Sequence[int]) -> list[int]:
    with address_space.Pagemap(os.getpid(), scan=False) as pagemap:
        return [int(entry) for entry in pagemap.entries(np.array(addresses, np.uint64))]
