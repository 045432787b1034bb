# SPDX-License-Identifier: GPL-2.0-or-later
"""MPOL_MF_MOVE_ALL by a user without CAP_SYS_NICE."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.driver import MPOL_MF_MOVE_ALL

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


_NOBODY = 65534


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.become(_NOBODY)
    stage.move(pages, flags=MPOL_MF_MOVE_ALL)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EPERM", (Entry("untouched", "not_attempted", "call_refused_EPERM", times=0),)
    )


SCENARIO = Scenario(
    name="ret_eperm_move_all",
    subject=RETURN_CODE,
    title="MPOL_MF_MOVE_ALL without CAP_SYS_NICE",
    documented="EPERM: MPOL_MF_MOVE_ALL without sufficient privileges (CAP_SYS_NICE)",
    function="capable",
    source="move_pages(2), errors; capable(CAP_SYS_NICE) in kernel_move_pages()",
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_EPERM",
)
