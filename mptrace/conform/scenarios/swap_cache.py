# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that came back from swap and still has its place there."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.conform.stage import swap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    swap.switch_on(stage)
    pages = stage.anonymous(3)
    swap.page_out(stage, pages[1])
    swap.read_back(stage, pages[1])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="swap_cache",
    subject=PAGE_STATE,
    title="a page in the swap cache",
    documented="status: a node number",
    function="folio_migrate_mapping",
    source="move_pages(2), page states; folio_migrate_mapping() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="swap (one more, on a loop device)",
)
