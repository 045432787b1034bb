# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a kernel thread: it has none of its own."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import RETURN_CODE, Entry, Expectation, Known, Scenario
from mptrace.host import proc

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _kernel_threads() -> Iterator[int]:
    for pid in proc.pids():
        with contextlib.suppress(OSError):  # it is gone
            if proc.stat(pid).is_kthread:
                yield pid


def _provoke(stage: "Stage") -> None:
    thread = next(_kernel_threads(), 0)
    if not thread:
        stage.skip("no kernel thread can be seen from here (a pid namespace)")
    stage.move(stage.anonymous(3), pid=thread)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "EINVAL", (Entry("untouched", "not_attempted", "call_refused_EINVAL", times=0),)
    )


SCENARIO = Scenario(
    name="ret_einval_kthread",
    subject=RETURN_CODE,
    title="a kernel thread's pid",
    documented="EINVAL: an attempt was made to migrate pages of a kernel thread",
    function="get_task_mm",
    source="move_pages(2), errors; get_task_mm(): PF_KTHREAD",
    provoke=_provoke,
    expect=_expect,
    cause="call_refused_EINVAL",
)
