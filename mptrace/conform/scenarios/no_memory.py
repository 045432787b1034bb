# SPDX-License-Identifier: GPL-2.0-or-later
"""To a node that has no memory left."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    hugepages.fill(stage, stage.smallest)
    stage.move(stage.anonymous(3), stage.smallest)


def _expect(known: Known) -> Expectation:
    left = Entry("untouched", "failed", "ended_before_its_turn", times=2)
    return Expectation(
        "ENOMEM",
        (Entry("untouched", "failed", "no_memory"), left),
        "migrate_pages() gives up on the first folio without memory; no status is written",
    )


SCENARIO = Scenario(
    name="no_memory",
    subject=REASON,
    title="to a node without free memory",
    documented="status -ENOMEM: unable to allocate memory on target node",
    function="alloc_migration_target",
    source="move_pages(2), page states; alloc_migration_target() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="no_memory",
    changes="the target node (filled); vm.min_free_kbytes and compaction_proactiveness",
)
