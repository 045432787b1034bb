# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of a file in memory (memfd) that nobody touched: no page is there."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.memfd import map_shared, memory_file

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(2)
    stage.move([pages[0], map_shared(memory_file()), pages[1]])


def _expect(known: Known) -> Expectation:
    nothing = Entry("ENOENT", "failed", "never_touched")
    return Expectation("0", (MOVED, nothing, MOVED))


SCENARIO = Scenario(
    name="never_touched_file",
    subject=PAGE_STATE,
    title="a page of a file never touched (memfd)",
    documented="status -ENOENT: the page is not present",
    function="add_folio_for_migration",
    source=(
        "move_pages(2), page states; add_page_for_migration(), add_folio_for_migration(): no "
        "page, -ENOENT"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="never_touched",
)
