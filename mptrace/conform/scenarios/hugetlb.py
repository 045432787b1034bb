# SPDX-License-Identifier: GPL-2.0-or-later
"""A hugetlb page, by its first address."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, hugepages.hugetlb(stage), last])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="hugetlb",
    subject=PAGE_STATE,
    title="a hugetlb page",
    documented="status: a node number",
    function="migrate_huge_page_move_mapping",
    source="move_pages(2), page states; unmap_and_move_huge_page() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="the hugetlb pools of two nodes",
)
