# SPDX-License-Identifier: GPL-2.0-or-later
"""No huge page left on the target node, and a huge page that can't be split."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, UNTOLD, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.thp(stage, held=(7,))
    hugepages.leave_base_pages(stage, stage.smallest)
    stage.move([first, huge, last], stage.smallest)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "ENOMEM",
        (
            UNTOLD,
            Entry("untouched", "failed", "split_failed"),
            Entry("untouched", "failed", "ended_before_its_turn"),
        ),
        "migrate_pages() gives up on the first folio without memory; no status is written",
    )


SCENARIO = Scenario(
    name="thp_not_split",
    subject=REASON,
    title="a held transparent huge page, no huge page on the target node",
    documented="status -ENOMEM: unable to allocate memory on target node",
    function="split_huge_page_to_list",
    source="move_pages(2), page states; try_split_folio() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="split_failed",
    changes="the target node (filled); vm.min_free_kbytes and compaction_proactiveness",
)
