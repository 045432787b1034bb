# SPDX-License-Identifier: GPL-2.0-or-later
"""A hugetlb page twice in one call, by its first address."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.hugetlb(stage)
    stage.move([first, huge, huge, last])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, MOVED, Entry("EBUSY", "moved", entry_reason="duplicate"), MOVED),
        "the manual's busy page moved: its first entry had isolated it (isolate_hugetlb())",
    )


SCENARIO = Scenario(
    name="hugetlb_twice",
    subject=PAGE_STATE,
    title="a hugetlb page twice",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="isolate_hugetlb",
    source="move_pages(2), page states; isolate_hugetlb() in mm/hugetlb.c",
    provoke=_provoke,
    expect=_expect,
    changes="the hugetlb pools of two nodes",
)
