# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that a disk is reading into: O_DIRECT holds it until the read is over."""

import ctypes
import os
import threading
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import blockdev, files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    device = blockdev.SlowDevice(stage)
    file = files.opened(stage, device.path, os.O_RDONLY | os.O_DIRECT)
    pages = stage.anonymous(3)
    buffer = (ctypes.c_char * PAGE_SIZE).from_address(pages[1])
    reader = threading.Thread(target=os.preadv, args=(file, [buffer], 0))
    stage.undo.callback(reader.join)
    device.slow()
    reader.start()
    tid = reader.native_id or 0
    stage.await_(lambda: blockdev.is_in(tid, "blkdev_read_iter"), "the read to be on its way")
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    # folio_add_pin() came with the pins of direct I/O
    if known.function("folio_add_pin"):
        return one_stays(
            "pinned",
            "since 6.5 (a7e689dd1c06) direct I/O pins pages, before it only held references",
        )
    return one_stays("extra_references")


SCENARIO = Scenario(
    name="o_direct",
    subject=REASON,
    title="a buffer of O_DIRECT while the device works",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="bio_iov_iter_get_pages",
    source="move_pages(2), page states; bio_iov_iter_get_pages() in block/bio.c",
    provoke=_provoke,
    expect=_expect,
    cause="pinned",
    changes="a loop device and a device-mapper device",
)
