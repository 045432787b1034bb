# SPDX-License-Identifier: GPL-2.0-or-later
"""A pointer to nodes that is none."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), bad="nodes")


def _expect(known: Known) -> Expectation:
    # who can't read the nodes can't say what became of the entries either
    return Expectation("EFAULT", (Entry("untouched", "unknown", "unread", times=0),))


SCENARIO = Scenario(
    name="ret_efault_nodes",
    subject=RETURN_CODE,
    title="a bad pointer to nodes",
    documented="EFAULT: parameter array could not be accessed",
    function="do_pages_move",
    source="move_pages(2), errors; get_user(node, nodes + i) in do_pages_move()",
    provoke=_provoke,
    expect=_expect,
    cause="unread",
)
