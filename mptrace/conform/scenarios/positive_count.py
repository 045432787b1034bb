# SPDX-License-Identifier: GPL-2.0-or-later
"""A first group with two pages that fail: those counted with all that were never attempted."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    there, back = stage.anonymous(3), stage.anonymous(3, nid=stage.target)
    stage.vmsplice(there[1], 2 * PAGE_SIZE)
    stage.move([*there, *back], [stage.target] * 3 + [stage.source] * 3)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "5",
        (
            Entry("untouched", "moved"),
            Entry("untouched", "failed", "extra_references", times=2),
            Entry("untouched", "not_attempted", "aborted_by_earlier_group", times=3),
        ),
        "since 4.17 (a49bd4d71637) a group that fails ends the call; since 5.6 (5984fabb6e82) "
        "the pages not attempted are counted",
    )


SCENARIO = Scenario(
    name="positive_count",
    subject=RETURN_CODE,
    title="a count of failed and never attempted pages",
    documented="positive value: the number of nonmigrated pages",
    function="move_pages_and_store_status",
    source="move_pages(2), errors; move_pages_and_store_status(): err += nr_pages - i",
    provoke=_provoke,
    expect=_expect,
    cause="aborted_by_earlier_group",
)
