# SPDX-License-Identifier: GPL-2.0-or-later
"""The first line of a session: what it will do, and for how long."""

from typing import TYPE_CHECKING

from mptrace.units import many

if TYPE_CHECKING:
    from mptrace.driving.workloads import Workload
    from mptrace.sessions.request import Wanted


def will_watch(
    verb: str,
    wanted: "Wanted",
    duration_s: float | None,
    interval_s: float | None = None,
    count: int | None = None,
) -> str:
    """``will record every process and kernel thread for 30 s, once the probes are attached``.

    :param interval_s: seconds between two groups of lines, and ``count`` of these.
    """
    every = "" if interval_s is None else f" every {interval_s:g} s"
    if duration_s:
        ends = f" for {duration_s:g} s"
    elif count is not None:
        ends = f", {many(count, 'time')}"
    elif wanted.command:
        ends = " until it ends"
    elif wanted.pids:
        ends = " until they end or Ctrl-C" if len(wanted.pids) > 1 else " until it ends or Ctrl-C"
    else:
        ends = " until Ctrl-C"
    return f"will {verb} {whom(wanted)}{every}{ends}, once the probes are attached"


def whom(wanted: "Wanted") -> str:
    """Whom a session is about."""
    if wanted.command:
        return f"'{wanted.command[0]}' and what it starts"
    if wanted.pids:
        name = "process" if len(wanted.pids) == 1 else "processes"
        return f"{name} " + ", ".join(map(str, wanted.pids))
    if wanted.uid is not None:
        return f"processes of user {wanted.uid}"
    if wanted.cgroup:
        return f"processes of cgroup {wanted.cgroup}"
    return "every process and kernel thread"


def will_move(workload: "Workload") -> str:
    """``will move 509 pages 3 times there and back, once the probes are attached``."""
    if workload.target == "pid":
        what = f"pages of process {workload.pid}"
    else:
        kind = "" if workload.kind == "4k" else f" of {workload.kind}"
        what = f"{many(workload.pages, 'page')}{kind}"
    times = "" if workload.repeats == 1 else f" {many(workload.repeats, 'time')}"
    way = " there and back" if workload.back else ""
    return f"will move {what}{times}{way}, once the probes are attached"
