# SPDX-License-Identifier: GPL-2.0-or-later
"""A pointer to statuses that is none: the pages move before the kernel notices."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3), bad="status")


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EFAULT",
        (Entry("untouched", "moved", times=3),),
        "since 4.17 (a49bd4d71637) statuses are stored after each group's migration",
    )


SCENARIO = Scenario(
    name="ret_efault_status",
    subject=RETURN_CODE,
    title="a bad pointer to statuses",
    documented="EFAULT: parameter array could not be accessed",
    function="store_status",
    source="move_pages(2), errors; store_status() in move_pages_and_store_status()",
    provoke=_provoke,
    expect=_expect,
)
