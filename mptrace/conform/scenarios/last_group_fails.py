# SPDX-License-Identifier: GPL-2.0-or-later
"""Two target nodes, and only the second group fails: the first one's statuses are written."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    back, there = stage.anonymous(2, nid=stage.target), stage.anonymous(3)
    stage.vmsplice(there[1])
    stage.move([*back, *there], [stage.source] * 2 + [stage.target] * 3)


def _expect(known: Known) -> Expectation:
    moved = Entry("untouched", "moved")
    return Expectation(
        "1",
        (MOVED, MOVED, moved, Entry("untouched", "failed", "extra_references"), moved),
        "since 4.17 (a49bd4d71637) a failed migration writes no status: the return value counts it",
    )


SCENARIO = Scenario(
    name="last_group_fails",
    subject=RETURN_CODE,
    title="several target nodes, and the last group fails",
    documented="positive value: the number of nonmigrated pages",
    function="migrate_pages",
    source=(
        "move_pages(2), errors; migrate_pages() of each group, its count in "
        "move_pages_and_store_status()"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
)
