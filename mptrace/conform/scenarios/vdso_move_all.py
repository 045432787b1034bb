# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of the vDSO with MPOL_MF_MOVE_ALL: the kernel's own, on no LRU list."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.vdso import vdso
from mptrace.driver import MPOL_MF_MOVE_ALL

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    address, nid = vdso(stage)
    elsewhere = stage.source if nid == stage.target else stage.target
    pages = stage.anonymous(2, nid=nid)
    stage.move([pages[0], address, pages[1]], elsewhere, flags=MPOL_MF_MOVE_ALL)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EBUSY", "failed", "not_on_lru"), MOVED))


SCENARIO = Scenario(
    name="vdso_move_all",
    subject=PAGE_STATE,
    title="a page of the vDSO, MPOL_MF_MOVE_ALL",
    documented="status -EBUSY: another kernel subsystem is holding a reference",
    function="folio_isolate_lru",
    source="move_pages(2), page states; folio_isolate_lru() in mm/vmscan.c: PG_lru is clear",
    provoke=_provoke,
    expect=_expect,
    cause="not_on_lru",
)
