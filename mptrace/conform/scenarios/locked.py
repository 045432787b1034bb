# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that another process has locked: the call waits for the lock, and then it moves."""

import os
import threading
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import blockdev

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

# __folio_lock() itself leaves no frame: it ends by calling this
_SLEEPS = "folio_wait_bit_common"


def _provoke(stage: "Stage") -> None:
    device, file, page = blockdev.page_in_writeback(stage, stable=True)
    writer = stage.fork(threading.Thread(target=os.pwrite, args=(file, b"x", 0)).start)
    stage.await_(
        lambda: blockdev.any_in(writer, "folio_wait_writeback"), "the writer to hold the lock"
    )
    mover = os.getpid()
    blockdev.meanwhile(stage, lambda: blockdev.is_in(mover, _SLEEPS), device.fast)
    # after the forks, which share private pages
    before, after = stage.anonymous(2)
    stage.move([before, page, after])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("target", "moved", delay="folio_lock"), MOVED))


SCENARIO = Scenario(
    name="locked",
    subject=REASON,
    title="a page that a write(2) has locked: it moves, late",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="__folio_lock",
    source="move_pages(2), page states; migrate_folio_unmap() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="a loop device and a device-mapper device, and a mount of it that nobody else sees",
)
