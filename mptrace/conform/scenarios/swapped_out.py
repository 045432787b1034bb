# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that is in swap."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import swap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    swap.switch_on(stage)
    pages = stage.anonymous(3)
    swap.page_out(stage, pages[1])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("ENOENT", "failed", "swapped_out"), MOVED))


SCENARIO = Scenario(
    name="swapped_out",
    subject=PAGE_STATE,
    title="a page in swap",
    documented="status -ENOENT: the page is not present",
    function="folio_walk_start",
    source="move_pages(2), page states; folio_walk_start(), follow_page()",
    provoke=_provoke,
    expect=_expect,
    cause="swapped_out",
    changes="swap (one more, on a loop device)",
)
