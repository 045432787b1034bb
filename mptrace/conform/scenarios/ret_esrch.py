# SPDX-License-Identifier: GPL-2.0-or-later
"""A process id that no process can have."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


_PID_MAX_LIMIT = 4 * 1024 * 1024


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), pid=_PID_MAX_LIMIT + 1)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "ESRCH", (Entry("untouched", "not_attempted", "call_refused_ESRCH", times=0),)
    )


SCENARIO = Scenario(
    name="ret_esrch",
    subject=RETURN_CODE,
    title="a process that does not exist",
    documented="ESRCH: process does not exist",
    function="find_task_by_vpid",
    source="move_pages(2), errors; find_task_by_vpid() in find_mm_struct()",
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_ESRCH",
)
