# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts from a start to an end; `mptrace stat` and `mptrace top` are built on it."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from mptrace.errors import HostError, Progress, TargetError, UsageError
from mptrace.host import proc
from mptrace.host.facts import KernelFacts
from mptrace.host.privileges import check_privileges
from mptrace.host.processes import (
    NOT_TOLD_APART,
    Processes,
    in_initial_namespace,
    own_tgids,
)
from mptrace.host.read import read_kernel_facts
from mptrace.tracing.counting.counts import COUNTS, Counts, Interval, difference, split
from mptrace.tracing.counting.plan import (
    ESSENTIAL,
    StatBounds,
    StatPlan,
    make_stat_plan,
    stat_functions,
    stat_offsets,
    stat_tracepoints,
)
from mptrace.tracing.counting.tracepoints import StatTracepoints
from mptrace.tracing.counting.tracer import StatTracer
from mptrace.tracing.plan.attaching import Excluded, attached
from mptrace.tracing.plan.scope import Scope

#: Processes that may be chosen by their numbers.
MOST_CHOSEN = 1024
#: After the gate has closed: for handlers that were under way.
_SETTLE_SECONDS = 0.01


class Sampler:
    """Counts from its beginning as a context to `finish`.

    ``scope`` is of kind "all", "pids", "user" or "cgroup"; it has no filters.
    Chosen processes are followed when they fork.  ``is_command``: they are a
    command, with whose end the session ends, whatever it has left behind.
    ``tier`` "auto" counts by tracepoints alone where BPF can't be had.  Raises
    HostError where this host can't count migrations, or can't tell by the scope,
    TargetError and UsageError for processes that are not there or too many.
    """

    def __init__(
        self,
        scope: Scope,
        bounds: StatBounds,
        progress: Progress,
        tier: str = "auto",
        *,
        is_command: bool = False,
    ) -> None:
        self._wanted_tier = tier
        self._scope = scope
        self._is_command = is_command
        self._bounds = replace(bounds, follows=scope.kind == "pids")
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._pidfds: dict[int, int] = {}  # descriptor -> process
        self._ended: set[int] = set()
        self._processes = Processes()
        self._last: Counts = np.zeros(0, COUNTS)
        self._latest: Counts = self._last
        self._finished: Counts | None = None
        self._unfinished: dict[str, int] = {}
        #: Reasons by number, what can't be seen here, and whether by "bpf" or "tracepoints".
        self.reasons: Mapping[int, str] = {}
        self.unseen: tuple[str, ...] = ()
        self.tier = ""

    def __enter__(self) -> Self:
        check_privileges()
        if len(self._scope.tgids) > MOST_CHOSEN:
            raise UsageError(f"-p takes at most {MOST_CHOSEN:,} processes")
        facts = read_kernel_facts(
            stat_functions(),
            stat_offsets(),
            tracepoints=stat_tracepoints(),
            variables=(),
            tries=False,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_pidfds)
            for pid in self._scope.tgids:
                self._pidfds[_watched(pid)] = pid
            self._tracer = self._open(facts)
            stack.callback(self._tracer.close)
            # perf tells process numbers as they are in this process's namespace
            own = [os.getpid()] if self.tier == "tracepoints" else own_tgids()
            self._own = frozenset(own or ())
            if self._scope.kind == "pids" and self.tier != "tracepoints":
                _check_namespace()
            self.unseen = self._tracer.unseen()
            if own is None:
                self.unseen += (NOT_TOLD_APART,)
            self._tracer.choose(self._scope)
            self._kernel_before = _kernel_pages()
            self._tracer.open_gate()
            self.start_ns = self._last_ns = self._now_ns = time.monotonic_ns()
            self._last_lost = self._tracer.losses()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _open(self, facts: KernelFacts) -> StatTracer | StatTracepoints:
        self.reasons = facts.migrate_reasons
        if self._wanted_tier != "tracepoints":
            try:
                self._progress("attaching the probes")
                self.tier = "bpf"
                return _open(facts, self._bounds)
            except HostError:
                if self._wanted_tier == "bpf":
                    raise
                self._progress("no BPF here ('mptrace doctor' says why): counting with tracepoints")
        self.tier = "tracepoints"
        tracer = StatTracepoints(self._bounds, self._processes)
        self.reasons = self.reasons or tracer.reasons
        return tracer

    @property
    def sees_time(self) -> bool:
        """Whether the time of migrations can be seen here."""
        return self._tracer.sees_time

    @property
    def sees_waits(self) -> bool:
        """Whether waits can be seen here, of some kind of page at least."""
        return self._tracer.sees_waits

    @property
    def poll_seconds(self) -> float:
        """`poll` is to be called at least this often."""
        return self._tracer.poll_seconds

    def _close_pidfds(self) -> None:
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds.clear()

    @property
    def alive(self) -> set[int]:
        """Descriptors of the chosen processes, readable when one has ended."""
        return set(self._pidfds)

    def ended(self, fd: int) -> None:
        """Note that the process of a descriptor has ended."""
        self._ended.add(self._pidfds.pop(fd))
        os.close(fd)

    def is_left_alone(self) -> bool:
        """Whether all chosen processes have ended, and all that they forked; never of others."""
        if not self._scope.tgids or self._pidfds:
            return False
        forked = self._tracer.followed() - self._ended
        return self._is_command or not any(map(proc.is_there, forked))

    def poll(self) -> None:
        """Take what has come, lest it becomes too much."""
        self._latest = self._read()

    def so_far(self) -> Interval:
        """What was counted from the start until the counts were last looked at."""
        rows, own = split(self._latest, self._own)
        return Interval(
            start_ns=self.start_ns,
            end_ns=self._now_ns,
            wall_ns=time.time_ns(),
            rows=rows,
            own=own,
            cgroups=self._processes.cgroups,
            lost=self._tracer.losses(),
        )

    def sample(self) -> Interval:
        """What was counted since the last sample."""
        now, lost = self._read(), self._tracer.losses()
        self._latest = now
        rows, own = split(difference(now, self._last), self._own)
        interval = Interval(
            start_ns=self._last_ns,
            end_ns=self._now_ns,
            wall_ns=time.time_ns(),
            rows=rows,
            own=own,
            cgroups=self._processes.cgroups,
            lost={cause: lost[cause] - self._last_lost[cause] for cause in lost},
        )
        self._last, self._last_ns, self._last_lost = now, self._now_ns, lost
        return interval

    def finish(self) -> None:
        """Stop counting; `sample` and `total` then say what there was until now."""
        if self._finished is not None:
            return
        self._tracer.close_gate()
        self._now_ns = time.monotonic_ns()
        after = _kernel_pages()
        time.sleep(_SETTLE_SECONDS)
        self._unfinished = self._tracer.unfinished()
        self._finished = self._latest = self._named(self._tracer.read())
        self._kernel_pages = (
            None
            if self._kernel_before is None or after is None
            else (after[0] - self._kernel_before[0], after[1] - self._kernel_before[1])
        )

    def total(self) -> Interval:
        """Everything from the start to `finish`."""
        self.finish()
        return replace(
            self.so_far(),
            unfinished=self._unfinished,
            # the kernel counts for all
            kernel_pages=self._kernel_pages if self._scope.kind == "all" else None,
        )

    def _read(self) -> Counts:
        if self._finished is not None:
            return self._finished
        rows = self._tracer.read()
        self._now_ns = time.monotonic_ns()
        return self._named(rows)

    def _named(self, rows: Counts) -> Counts:
        # at once, while its cgroups are there
        self._processes.learn(np.unique(rows["cgroup"]).tolist())
        return rows


# ---- the start -------------------------------------------------------------------


def _open(facts: KernelFacts, bounds: StatBounds) -> StatTracer:
    """A tracer with everything attached that this kernel lets it, its gate closed."""
    refused: Excluded = {}

    def planned() -> StatTracer:
        plan = make_stat_plan(facts, bounds, refused)
        _check(plan)
        return StatTracer(plan, facts.release)

    return attached(planned, refused)


def _check(plan: StatPlan) -> None:
    end = plan.phase(ESSENTIAL)
    if not end.method:
        raise HostError(
            "no usable attach point for the end of a migration",
            "'mptrace doctor' says why; '--tier tracepoints' counts with tracepoints alone",
        )


def _check_namespace() -> None:
    """Raise where the kernel does not know processes by the numbers that they have here."""
    try:
        is_initial = in_initial_namespace()
    except OSError:
        is_initial = False
    if not is_initial:
        raise HostError(
            "-p and COMMAND need the kernel's process numbers, and this is another PID namespace",
            "run mptrace in the initial PID namespace (a container needs the host's), "
            "with --tier tracepoints, or for everybody",
        )


def _watched(pid: int) -> int:
    """A descriptor that is readable when the process has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise TargetError(f"there is no process {pid}") from error
    except OSError as error:
        raise HostError(
            f"can't watch process {pid}: {error.strerror}",
            "raise the limit of open files (ulimit -n), or name fewer processes",
        ) from error


def _kernel_pages() -> tuple[int, int] | None:
    """pgmigrate_success and pgmigrate_fail of /proc/vmstat, in base pages; None without them."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return None
    fields = dict(line.split() for line in text.splitlines())
    try:
        return int(fields["pgmigrate_success"]), int(fields["pgmigrate_fail"])
    except KeyError:
        return None
