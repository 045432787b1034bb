# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of root's process, asked for by somebody else."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


_NOBODY = 65534


def _provoke(stage: "Stage") -> None:
    # the process that this one was forked from: root, and there as long as this one
    pages, other = stage.anonymous(3), os.getppid()
    stage.become(_NOBODY)
    stage.move(pages, pid=other)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EPERM", (Entry("untouched", "not_attempted", "call_refused_EPERM", times=0),)
    )


SCENARIO = Scenario(
    name="ret_eperm_other_user",
    subject=RETURN_CODE,
    title="a process of another user",
    documented="EPERM: pages of a process belonging to another user, without CAP_SYS_NICE",
    function="ptrace_may_access",
    source=(
        "move_pages(2), errors; ptrace_may_access(PTRACE_MODE_READ_REALCREDS) since 4.13 "
        "(197e7e521384)"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_EPERM",
)
