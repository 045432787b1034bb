# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of the vDSO, which every process maps."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.vdso import vdso

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    address, nid = vdso(stage)
    elsewhere = stage.source if nid == stage.target else stage.target
    pages = stage.anonymous(2, nid=nid)
    stage.move([pages[0], address, pages[1]], elsewhere)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EACCES", "failed", "shared"), MOVED))


SCENARIO = Scenario(
    name="vdso",
    subject=PAGE_STATE,
    title="a page of the vDSO",
    documented="status -EACCES: the page is mapped by multiple processes",
    function="page_mapcount",
    source="move_pages(2), page states; page_mapcount(), folio_likely_mapped_shared()",
    provoke=_provoke,
    expect=_expect,
    cause="shared",
)
