# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that a forked child still maps, moved with MPOL_MF_MOVE_ALL."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.driver import MPOL_MF_MOVE_ALL

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.fork()
    stage.touch([pages[0], pages[2]])  # a copy of one's own
    stage.move(pages, flags=MPOL_MF_MOVE_ALL)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="shared_move_all",
    subject=PAGE_STATE,
    title="a page that two processes map, MPOL_MF_MOVE_ALL",
    documented="status: a node number; MPOL_MF_MOVE_ALL moves shared pages too",
    function="rmap_walk_anon",
    source=("move_pages(2), page states; rmap_walk_anon() in mm/rmap.c: every mapping is replaced"),
    provoke=_provoke,
    expect=_expect,
)
