# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that fails, and behind it a bad node, whose error hides the failure."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(4)
    stage.vmsplice(pages[1])
    bad = max(stage.nodes) + 77
    stage.move(pages, [stage.target, stage.target, bad, stage.target])


def _expect(known: Known) -> Expectation:
    return Expectation(
        "ENODEV",
        (
            Entry("untouched", "moved"),
            Entry("untouched", "failed", "extra_references"),
            Entry("untouched", "not_attempted", "bad_node"),
            Entry("untouched", "not_attempted", "aborted_by_bad_node"),
        ),
        "since 4.17 (a49bd4d71637) an error stands before the count of the last group (err1)",
    )


SCENARIO = Scenario(
    name="error_hides_count",
    subject=RETURN_CODE,
    title="a page that fails, hidden by a later entry's error",
    documented="positive value: the number of nonmigrated pages; ENODEV: a node is not online",
    function="do_pages_move",
    source="move_pages(2), errors; do_pages_move(): out_flush",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
)
