# SPDX-License-Identifier: GPL-2.0-or-later
"""Two addresses that KSM merged into one page, with MPOL_MF_MOVE_ALL."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import ksm
from mptrace.driver import MPOL_MF_MOVE_ALL

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    merged = ksm.merged(stage, 2)
    stage.move([first, *merged, last], flags=MPOL_MF_MOVE_ALL)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, MOVED, Entry("EBUSY", "moved", entry_reason="same_folio"), MOVED),
        "the manual's busy page moved: another address of it had isolated it",
    )


SCENARIO = Scenario(
    name="same_ksm",
    subject=PAGE_STATE,
    title="two addresses of one page merged by KSM",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_migrate_ksm",
    source="move_pages(2), page states; folio_migrate_ksm() in mm/ksm.c",
    provoke=_provoke,
    expect=_expect,
    changes="the switch of KSM",
)
