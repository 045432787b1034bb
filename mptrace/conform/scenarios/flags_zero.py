# SPDX-License-Identifier: GPL-2.0-or-later
"""No flag at all: taken for MPOL_MF_MOVE."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    stage.fork()
    stage.touch([pages[0], pages[2]])  # a copy of one's own
    stage.move(pages, flags=0)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, Entry("EACCES", "failed", "shared"), MOVED),
        "only flags that are unknown are refused: kernel_move_pages()",
    )


SCENARIO = Scenario(
    name="flags_zero",
    subject=RETURN_CODE,
    title="flags of 0",
    documented="EINVAL: flags other than MPOL_MF_MOVE and MPOL_MF_MOVE_ALL",
    function="kernel_move_pages",
    source="move_pages(2), errors; kernel_move_pages() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="shared",
)
