# SPDX-License-Identifier: GPL-2.0-or-later
"""An anonymous page that nobody touched: no page is there."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3, touch=False)
    stage.touch([pages[0], pages[2]])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    # folio_walk_start() returns NULL, where follow_page() answered for a core dump
    # (FOLL_DUMP, no_page_table()) that anonymous memory reads as zeroes
    walks = known.function("folio_walk_start")
    nothing = Entry("ENOENT" if walks else "EFAULT", "failed", "never_touched")
    return Expectation(
        "0",
        (MOVED, nothing, MOVED),
        ""
        if walks
        else "4.3 (d899844e9c98) to 6.11: told as the zero page; 6.12 (7dff875c9436) undid that",
    )


SCENARIO = Scenario(
    name="never_touched_anon",
    subject=PAGE_STATE,
    title="an anonymous page never touched",
    documented="status -ENOENT: the page is not present",
    function="no_page_table",
    source=(
        "move_pages(2), page states; no_page_table() in mm/gup.c, folio_walk_start() in "
        "mm/pagewalk.c"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="never_touched",
)
