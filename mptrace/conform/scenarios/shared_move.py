# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that a forked child still maps, moved with MPOL_MF_MOVE."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.fork()
    stage.touch([pages[0], pages[2]])  # a copy of one's own
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EACCES", "failed", "shared"), MOVED))


SCENARIO = Scenario(
    name="shared_move",
    subject=PAGE_STATE,
    title="a page that two processes map, MPOL_MF_MOVE",
    documented="status -EACCES: the page is mapped by multiple processes",
    function="folio_likely_mapped_shared",
    source=(
        "move_pages(2), page states; page_mapcount(), folio_likely_mapped_shared() in mm/migrate.c"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="shared",
)
