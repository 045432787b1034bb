# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that are already on their target node: the lookup ends with them."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    there = stage.anonymous(2, nid=stage.target)
    stage.move([pages[0], there[0], pages[1], there[1], pages[2]])


def _expect(known: Known) -> Expectation:
    there = Entry("target", "already_there")
    return Expectation("0", (MOVED, there, MOVED, there, MOVED))


SCENARIO = Scenario(
    name="already_there",
    subject=PAGE_STATE,
    title="pages that are already on their target node",
    documented="status: a node number",
    function="add_folio_for_migration",
    source=(
        "move_pages(2), page states; add_page_for_migration(), add_folio_for_migration(): "
        "page on its node, 0"
    ),
    provoke=_provoke,
    expect=_expect,
)
