# SPDX-License-Identifier: GPL-2.0-or-later
"""An anonymous page that was read and never written: the shared zero page."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3, touch=False)
    stage.touch([pages[0], pages[2]])
    stage.touch([pages[1]], write=False)
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EFAULT", "failed", "zero_page"), MOVED))


SCENARIO = Scenario(
    name="zero_page",
    subject=PAGE_STATE,
    title="an anonymous page read, never written",
    documented="status -EFAULT: this is a zero page",
    function="is_zero_folio",
    source="move_pages(2), page states; is_zero_pfn() in follow_page_pte(), is_zero_folio()",
    provoke=_provoke,
    expect=_expect,
    cause="zero_page",
)
