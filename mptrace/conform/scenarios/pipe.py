# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that a pipe holds: vmsplice(2) took a reference and nobody reads."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.vmsplice(pages[1])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    moved = Entry("untouched", "moved")
    return Expectation(
        "1",
        (moved, Entry("untouched", "failed", "extra_references"), moved),
        "since 4.17 (a49bd4d71637) a failed migration writes no status: the return value counts it",
    )


SCENARIO = Scenario(
    name="pipe",
    subject=REASON,
    title="a page in a pipe (vmsplice)",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_migrate_mapping",
    source="move_pages(2), page states; folio_migrate_mapping(), __migrate_folio() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
)
