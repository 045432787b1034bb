# SPDX-License-Identifier: GPL-2.0-or-later
"""A flag that move_pages(2) does not know."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.driver import MPOL_MF_MOVE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), flags=MPOL_MF_MOVE | 1 << 7)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EINVAL", (Entry("untouched", "not_attempted", "call_refused_EINVAL", times=0),)
    )


SCENARIO = Scenario(
    name="ret_einval_flags",
    subject=RETURN_CODE,
    title="an unknown flag",
    documented="EINVAL: flags other than MPOL_MF_MOVE and MPOL_MF_MOVE_ALL",
    function="kernel_move_pages",
    source="move_pages(2), errors; kernel_move_pages() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_EINVAL",
)
