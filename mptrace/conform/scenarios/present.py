# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that is there and free to go: the documented success."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3))


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="present",
    subject=PAGE_STATE,
    title="present pages, on the node that was asked for afterwards",
    documented="status: a node number",
    function="migrate_folio_done",
    source="move_pages(2), page states",
    provoke=_provoke,
    expect=_expect,
)
