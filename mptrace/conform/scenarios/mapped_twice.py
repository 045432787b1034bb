# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that one process maps twice: counted like one that two processes share."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.memfd import map_shared, memory_file
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(2)
    file = memory_file()
    first = map_shared(file)
    stage.bind(first, PAGE_SIZE, stage.source)
    stage.touch([first, map_shared(file)])
    stage.move([pages[0], first, pages[1]])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, Entry("EACCES", "failed", "shared"), MOVED),
        "it is mappings that are counted, not processes: page_mapcount(), folio_mapcount()",
    )


SCENARIO = Scenario(
    name="mapped_twice",
    subject=PAGE_STATE,
    title="a page that one process maps twice",
    documented="status: a node number (-EACCES: the page is mapped by multiple processes)",
    function="folio_mapcount",
    source=(
        "move_pages(2), page states; page_mapcount(), folio_likely_mapped_shared() in mm/migrate.c"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="shared",
)
