# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that another process has isolated for a migration of its own."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import blockdev, mover

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    device, _, page = blockdev.page_in_writeback(stage)
    other = mover.moving(stage, page)
    stage.await_(lambda: mover.waits_in(other, "folio_wait_writeback"), "the other's migration")
    before, after = stage.anonymous(2)  # after the helper began: else it would share them
    stage.move([before, page, after])
    device.fast()


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EBUSY", "failed", "isolated_by_other"), MOVED))


SCENARIO = Scenario(
    name="another_migrator",
    subject=REASON,
    title="a page that another process is migrating",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_isolate_lru",
    source="move_pages(2), page states; folio_isolate_lru() in mm/vmscan.c: PG_lru is clear",
    provoke=_provoke,
    expect=_expect,
    cause="isolated_by_other",
    changes="a loop device and a device-mapper device, and a mount of it that nobody else sees",
    everyone=True,
)
