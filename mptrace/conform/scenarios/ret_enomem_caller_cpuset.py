# SPDX-License-Identifier: GPL-2.0-or-later
"""A target node outside the caller's own cpuset: allocated by the caller, for another process."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    far = stage.anonymous(1, nid=stage.target, touch=False)
    near = stage.anonymous(2, touch=False)
    child = stage.fork(lambda: stage.touch([*far, *near]))
    stage.enter(stage.cgroup(cpuset_mems=str(stage.source)))
    stage.move([*far, *near], [stage.source, stage.target, stage.target], pid=child)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "ENOMEM",
        (
            MOVED,
            Entry("untouched", "failed", "node_outside_callers_cpuset"),
            Entry("untouched", "failed", "ended_before_its_turn"),
        ),
        "since 4.17 (a49bd4d71637) no status tells it, the return value does",
    )


SCENARIO = Scenario(
    name="ret_enomem_caller_cpuset",
    subject=RETURN_CODE,
    title="a node outside the caller's cpuset",
    documented="status -ENOMEM: unable to allocate memory on target node",
    function="alloc_migration_target",
    source=(
        "move_pages(2), page states; prepare_alloc_pages(): cpuset_current_mems_allowed of "
        "the caller"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="node_outside_callers_cpuset",
    changes="a cgroup with a cpuset",
)
