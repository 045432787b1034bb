# SPDX-License-Identifier: GPL-2.0-or-later
"""To a node without CPUs: memory alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    folder = Path("/sys/devices/system/node")
    alone = [n for n in stage.nodes if not (folder / f"node{n}" / "cpulist").read_text().strip()]
    if not alone:
        stage.skip("every node of this host that has memory has CPUs too")
    elsewhere = next(n for n in stage.nodes if n != alone[-1])
    stage.move(stage.anonymous(3, nid=elsewhere), alone[-1])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="memory_only_node",
    subject=PAGE_STATE,
    title="to a node without CPUs",
    documented="status: a node number",
    function="alloc_migration_target",
    source="move_pages(2), page states; do_pages_move(): node_state(node, N_MEMORY)",
    provoke=_provoke,
    expect=_expect,
)
