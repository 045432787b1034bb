# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are in memory only (memfd_create(2)): pages with a mapping, and no disk beneath."""

import mmap
import os

from mptrace import driver
from mptrace.driver import PAGE_SIZE


def memory_file(pages: int = 1) -> int:
    """A file of so many pages, none of which is there yet; closed with the process."""
    fd = os.memfd_create("mptrace")
    os.ftruncate(fd, pages * PAGE_SIZE)
    return fd


def map_shared(fd: int, pages: int = 1) -> int:
    """Map the first pages of a file, untouched; their address."""
    return driver.map_memory(pages * PAGE_SIZE, mmap.MAP_SHARED, fd)
