# SPDX-License-Identifier: GPL-2.0-or-later
"""One address in the middle of a transparent huge page: all of it moves."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.thp(stage)
    stage.move([first, huge + 7 * PAGE_SIZE, last])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="thp_tail",
    subject=PAGE_STATE,
    title="an address in the middle of a transparent huge page",
    documented="status: a node number",
    function="set_pmd_migration_entry",
    source="move_pages(2), page states; set_pmd_migration_entry() in mm/huge_memory.c",
    provoke=_provoke,
    expect=_expect,
)
