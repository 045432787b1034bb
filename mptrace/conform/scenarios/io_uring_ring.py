# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of the rings of io_uring: the kernel's own, mapped by a process."""

import ctypes
import mmap
import os
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    with files.on_node(stage.source):
        ring = files.syscall(425, 1, ctypes.create_string_buffer(120))
    stage.undo.callback(os.close, ring)
    page = driver.map_memory(PAGE_SIZE, mmap.MAP_SHARED, ring)
    stage.touch([page], write=False)
    stage.move([first, page, last])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EBUSY", "failed", "not_on_lru"), MOVED))


SCENARIO = Scenario(
    name="io_uring_ring",
    subject=REASON,
    title="a page of io_uring's rings",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="io_uring_mmap",
    source="move_pages(2), page states; io_uring_mmap() in io_uring/",
    provoke=_provoke,
    expect=_expect,
    cause="not_on_lru",
)
