# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing to do: every page is on its target node already."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.move(stage.anonymous(3, nid=stage.target))


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (Entry("target", "already_there", times=3),),
        "since 2008 (e78bbfa82624) the statuses say it, and the call succeeds",
    )


SCENARIO = Scenario(
    name="ret_enoent",
    subject=RETURN_CODE,
    title="no page that would have to move",
    documented="ENOENT: no pages were found that require moving (older manuals)",
    function="store_status",
    source=(
        "move_pages(2), errors of older manuals; do_pages_move(): store_status() of the page's node"
    ),
    provoke=_provoke,
    expect=_expect,
)
