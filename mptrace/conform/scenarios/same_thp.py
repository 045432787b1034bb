# SPDX-License-Identifier: GPL-2.0-or-later
"""Three addresses of one transparent huge page in one call."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.thp(stage)
    stage.move([first, huge, huge + 5 * PAGE_SIZE, huge + 9 * PAGE_SIZE, last])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (
            MOVED,
            MOVED,
            Entry("EBUSY", "moved", entry_reason="same_folio"),
            # the refused entry ended its group: the huge page is there when the next one asks
            Entry("target", "moved", entry_reason="same_folio"),
            MOVED,
        ),
        "the manual's busy page moved: an entry of the same folio had isolated it",
    )


SCENARIO = Scenario(
    name="same_thp",
    subject=PAGE_STATE,
    title="several addresses of one transparent huge page",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_isolate_lru",
    source="move_pages(2), page states; do_pages_move() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
)
