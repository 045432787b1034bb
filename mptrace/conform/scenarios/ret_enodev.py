# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that does not exist."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.move(pages, [stage.target, max(stage.nodes) + 77, stage.target])


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
    name="ret_enodev",
    subject=RETURN_CODE,
    title="a node that does not exist",
    documented="ENODEV: one of the target nodes is not online",
    function="node_state",
    source="move_pages(2), errors; node_state(node, N_MEMORY) in do_pages_move()",
    provoke=_provoke,
    expect=_expect,
    cause="bad_node",
)
