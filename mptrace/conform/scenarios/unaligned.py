# SPDX-License-Identifier: GPL-2.0-or-later
"""An address in the middle of a page stands for the page."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.move([pages[0], pages[1] + 123, pages[2]])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="unaligned",
    subject=PAGE_STATE,
    title="an address in the middle of a page",
    documented="status: a node number (addresses should be aligned to page boundaries)",
    function="do_pages_move",
    source="move_pages(2), pages; do_pages_move(): the lookup rounds down",
    provoke=_provoke,
    expect=_expect,
)
