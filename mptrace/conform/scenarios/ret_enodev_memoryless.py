# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that is online and has only CPUs."""

from pathlib import Path
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.driver import parse_nodelist

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    online = parse_nodelist(Path("/sys/devices/system/node/online").read_text())
    without = [nid for nid in online if nid not in stage.nodes]
    if not without:
        stage.skip("every node here has memory")
    pages = stage.anonymous(3)
    stage.move(pages, [stage.target, without[0], stage.target])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "ENODEV",
        (
            MOVED,
            Entry("untouched", "not_attempted", "bad_node"),
            Entry("untouched", "not_attempted", "aborted_by_bad_node"),
        ),
    )


SCENARIO = Scenario(
    name="ret_enodev_memoryless",
    subject=RETURN_CODE,
    title="an online node without memory",
    documented="ENODEV: one of the target nodes is not online",
    function="node_states",
    source="move_pages(2), errors; node_states[N_MEMORY] in do_pages_move()",
    provoke=_provoke,
    expect=_expect,
    cause="bad_node",
)
