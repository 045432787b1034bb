# SPDX-License-Identifier: GPL-2.0-or-later
"""A group that fails when an entry's own status ends it: that entry is written, and not counted."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.driver import PAGE_SIZE, unmap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(5)
    stage.vmsplice(pages[1])
    unmap(pages[2], PAGE_SIZE)
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "3",
        (
            Entry("untouched", "moved"),
            Entry("untouched", "failed", "extra_references"),
            Entry("EFAULT", "failed", "no_vma"),
            Entry("untouched", "not_attempted", "aborted_by_earlier_group", times=2),
        ),
        "since 4.17 (a49bd4d71637) a group that fails ends the call; since 5.6 (5984fabb6e82) "
        "the pages not attempted are counted",
    )


SCENARIO = Scenario(
    name="positive_count_direct",
    subject=RETURN_CODE,
    title="a failing group ended by an entry with a status of its own",
    documented="positive value: the number of nonmigrated pages",
    function="store_status",
    source=(
        "move_pages(2), errors; do_pages_move(): the page's own status is stored, then err += "
        "nr_pages - i - 1"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="aborted_by_earlier_group",
)
