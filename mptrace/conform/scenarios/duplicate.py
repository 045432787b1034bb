# SPDX-License-Identifier: GPL-2.0-or-later
"""The same address twice in one call."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.move([pages[0], pages[1], pages[1], pages[2]])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, MOVED, Entry("EBUSY", "moved", entry_reason="duplicate"), MOVED),
        "the manual's busy page moved: its first entry had isolated it (folio_isolate_lru())",
    )


SCENARIO = Scenario(
    name="duplicate",
    subject=PAGE_STATE,
    title="the same address twice: busy by the call's own doing",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_isolate_lru",
    source="move_pages(2), page states; do_pages_move() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
)
