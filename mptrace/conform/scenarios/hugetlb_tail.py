# SPDX-License-Identifier: GPL-2.0-or-later
"""A hugetlb page, by an address that is not its first."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, hugepages.hugetlb(stage) + 7 * PAGE_SIZE, last])


def _expect(known: Known) -> Expectation:
    # 6.7 removed the test for the head (Kefeng Wang: "mm: migrate: remove PageHead() check for
    # HugeTLB in add_page_for_migration()"); a function of the same release tells which code it is
    if known.function("alloc_migration_target_by_mpol"):
        return Expectation("0", (MOVED, MOVED, MOVED))
    return Expectation(
        "0",
        (MOVED, Entry("EACCES", "failed", "hugetlb_tail"), MOVED),
        "add_page_for_migration() before 6.7 takes a hugetlb page by its head alone",
    )


SCENARIO = Scenario(
    name="hugetlb_tail",
    subject=REASON,
    title="an address in the middle of a hugetlb page",
    documented="status: a node number",
    function="isolate_hugetlb",
    source="move_pages(2), page states; add_page_for_migration() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="hugetlb_tail",
    changes="the hugetlb pools of two nodes",
)
