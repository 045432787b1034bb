# SPDX-License-Identifier: GPL-2.0-or-later
"""A node number below 0."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.move(pages, [stage.target, -1, stage.target])


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
    name="ret_enodev_negative",
    subject=RETURN_CODE,
    title="a node number below 0",
    documented="ENODEV: one of the target nodes is not online",
    function="do_pages_move",
    source="move_pages(2), errors; do_pages_move(): node < 0 || node >= MAX_NUMNODES",
    provoke=_provoke,
    expect=_expect,
    cause="bad_node",
)
