# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a process that has exited and was not waited for."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    stage.undo.callback(os.waitpid, pid, 0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stage.move(stage.anonymous(3), pid=pid)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EINVAL",
        (Entry("untouched", "not_attempted", "call_refused_EINVAL", times=0),),
        "find_mm_struct() answers for a process without memory as for a kernel thread",
    )


SCENARIO = Scenario(
    name="ret_einval_zombie",
    subject=RETURN_CODE,
    title="the pid of a zombie",
    documented="ESRCH: process does not exist; EINVAL is for kernel threads",
    function="find_mm_struct",
    source="move_pages(2), errors; find_mm_struct() in mm/migrate.c: no mm, -EINVAL",
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_EINVAL",
)
