# SPDX-License-Identifier: GPL-2.0-or-later
"""A page in the swap cache that a pipe holds, beside one that nobody holds."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, UNTOLD, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import swap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    swap.switch_on(stage)
    pages = stage.anonymous(4)
    for page in pages[1:3]:
        swap.page_out(stage, page)
        swap.read_back(stage, page)
    stage.vmsplice(pages[2])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "1",
        (UNTOLD, UNTOLD, Entry("untouched", "failed", "extra_references"), UNTOLD),
        "since 4.17 (a49bd4d71637) a failed migration writes no status: the return value counts it",
    )


SCENARIO = Scenario(
    name="swap_cache_held",
    subject=REASON,
    title="a page in the swap cache and in a pipe",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_expected_ref_count",
    source="move_pages(2), page states; folio_expected_refs(), folio_expected_ref_count()",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
    changes="swap (one more, on a loop device)",
)
