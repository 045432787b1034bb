# SPDX-License-Identifier: GPL-2.0-or-later
"""A pointer to pages that is none."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), bad="pages")


def _expect(known: Known) -> Expectation:
    # who can't read the addresses can't say what became of them either
    return Expectation("EFAULT", (Entry("untouched", "unknown", "unread", times=0),))


SCENARIO = Scenario(
    name="ret_efault_pages",
    subject=RETURN_CODE,
    title="a bad pointer to pages",
    documented="EFAULT: parameter array could not be accessed",
    function="get_user",
    source="move_pages(2), errors; get_user(p, pages + i) in do_pages_move()",
    provoke=_provoke,
    expect=_expect,
    cause="unread",
)
