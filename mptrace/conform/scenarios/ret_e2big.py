# SPDX-License-Identifier: GPL-2.0-or-later
"""A count far beyond the arrays: the kernel takes entry after entry until they end."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), count=1 << 40)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EFAULT",
        # arrays that end before their count can't be read in the pieces that the tracer reads
        (Entry("target", "unknown", "unread", times=3),),
        "since 2.6.29 (3140a2273009) there is no copy of the arrays that could be too big: "
        "what is there moves, then they end",
    )


SCENARIO = Scenario(
    name="ret_e2big",
    subject=RETURN_CODE,
    title="a count of 2^40",
    documented="E2BIG: too many pages to move (not since 2.6.29)",
    function="do_pages_move",
    source="move_pages(2), errors; get_user() in do_pages_move()",
    provoke=_provoke,
    expect=_expect,
)
