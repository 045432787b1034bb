# SPDX-License-Identifier: GPL-2.0-or-later
"""Two equal pages that KSM merged into one, without MPOL_MF_MOVE_ALL."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import ksm

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    merged = ksm.merged(stage, 2)
    stage.move([first, *merged, last])


def _expect(known: Known) -> Expectation:
    shared = Entry("EACCES", "failed", "shared_ksm")
    return Expectation("0", (MOVED, shared, shared, MOVED))


SCENARIO = Scenario(
    name="ksm",
    subject=REASON,
    title="pages merged by KSM",
    documented="status -EACCES: the page is mapped by multiple processes",
    function="folio_likely_mapped_shared",
    source="move_pages(2), page states; page_mapcount(), folio_likely_mapped_shared()",
    provoke=_provoke,
    expect=_expect,
    cause="shared_ksm",
    changes="the switch of KSM",
)
