# SPDX-License-Identifier: GPL-2.0-or-later
"""A target node outside the cpuset of the process whose pages move; the caller's own allows it."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.memfd import map_shared, memory_file
from mptrace.driver import PAGE_SIZE, unmap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    group = stage.cgroup(cpuset_mems=str(stage.source))
    # Entering a cpuset brings a process's own pages to its nodes (cpuset_migrate_mm()):
    # only a file's page, mapped afterwards, can be elsewhere.
    file = memory_file()
    there = map_shared(file)
    stage.bind(there, PAGE_SIZE, stage.target)
    stage.touch([there])
    unmap(there, PAGE_SIZE)
    mapped = map_shared(file)
    pages = stage.anonymous(2, touch=False)

    def confine() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        stage.touch([mapped, *pages])

    child = stage.fork(confine)
    stage.move([mapped, *pages], [stage.source, stage.target, stage.target], pid=child)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EACCES",
        (
            MOVED,
            Entry("untouched", "not_attempted", "node_not_allowed"),
            Entry("untouched", "not_attempted", "aborted_by_refused_node"),
        ),
    )


SCENARIO = Scenario(
    name="ret_eacces_target_cpuset",
    subject=RETURN_CODE,
    title="a node outside the cpuset of the process whose pages move",
    documented="EACCES: one of the target nodes is not allowed by the current cpuset",
    function="cpuset_mems_allowed",
    source=("move_pages(2), errors; cpuset_mems_allowed() in find_mm_struct(), do_pages_move()"),
    provoke=_provoke,
    expect=_expect,
    cause="node_not_allowed",
    changes="a cgroup with a cpuset",
)
