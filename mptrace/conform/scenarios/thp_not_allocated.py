# SPDX-License-Identifier: GPL-2.0-or-later
"""No huge page left on the target node, base pages there: the huge page is split."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages
from mptrace.conform.stage.stage import StageError

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.thp(stage)
    hugepages.leave_base_pages(stage, stage.smallest)
    stage.move([first, huge, last], stage.smallest)
    if not hugepages.was_split(huge):
        raise StageError("the target node had a huge page after all")


def _expect(known: Known) -> Expectation:
    # migrate_pages() counts a split folio as failed, but returns 0 where all of its pages moved
    return Expectation("0", (MOVED, Entry("target", "moved", entry_reason="split"), MOVED))


SCENARIO = Scenario(
    name="thp_not_allocated",
    subject=REASON,
    title="a transparent huge page, no huge page on the target node",
    documented="status: a node number",
    function="split_huge_page_to_list",
    source="move_pages(2), return value; try_split_folio() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="the target node (filled); vm.min_free_kbytes and compaction_proactiveness",
)
