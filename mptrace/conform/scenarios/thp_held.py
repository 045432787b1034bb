# SPDX-License-Identifier: GPL-2.0-or-later
"""A transparent huge page of which a pipe holds one base page: all of it stays."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.thp(stage, held=(7,))
    stage.move([first, huge, last])


def _expect(known: Known) -> Expectation:
    return one_stays("extra_references")


SCENARIO = Scenario(
    name="thp_held",
    subject=REASON,
    title="a transparent huge page with one base page in a pipe",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="__migrate_folio",
    source="move_pages(2), page states; __migrate_folio(), folio_migrate_mapping() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
)
