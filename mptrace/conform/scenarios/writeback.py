# SPDX-License-Identifier: GPL-2.0-or-later
"""A page on its way to the disk: the call waits for it, and then it moves."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import blockdev

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    device, _, page = blockdev.page_in_writeback(stage)
    mover = os.getpid()
    blockdev.meanwhile(stage, lambda: blockdev.is_in(mover, "folio_wait_writeback"), device.fast)
    # after the fork, which shares private pages
    before, after = stage.anonymous(2)
    stage.move([before, page, after])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("target", "moved", delay="writeback"), MOVED))


SCENARIO = Scenario(
    name="writeback",
    subject=REASON,
    title="a page under writeback: it moves, late",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_wait_writeback",
    source="move_pages(2), page states; migrate_folio_unmap() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="a loop device and a device-mapper device, and a mount of it that nobody else sees",
)
