# SPDX-License-Identifier: GPL-2.0-or-later
"""A hugetlb page that a pipe holds."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, hugepages.hugetlb(stage, held=(7,)), last])


def _expect(known: Known) -> Expectation:
    return one_stays("extra_references")


SCENARIO = Scenario(
    name="hugetlb_held",
    subject=REASON,
    title="a hugetlb page in a pipe",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="migrate_huge_page_move_mapping",
    source="move_pages(2), page states; unmap_and_move_huge_page() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
    changes="the hugetlb pools of two nodes",
)
