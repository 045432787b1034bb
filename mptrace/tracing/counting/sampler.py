# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts from a start to an end; `mptrace stat` and `mptrace top` are built on it."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from mptrace.errors import HostError, Progress, TargetError, UsageError
from mptrace.host import proc
from mptrace.host.facts import KernelFacts
from mptrace.host.privileges import check_privileges
from mptrace.host.processes import NOT_TOLD_APART, in_initial_namespace, own_tgids
from mptrace.host.read import read_kernel_facts
from mptrace.host.signals import Interrupts
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

#: After the gate has closed: for handlers that were under way.
_SETTLE_SECONDS = 0.01


class Sampler:
    """Counts from its beginning as a context to `finish`.

    ``tier`` "auto" counts by tracepoints alone where BPF can't be had.  Raises
    HostError where this host can't count migrations, TargetError and UsageError
    for a ``pids`` that is no process.
    """

    def __init__(
        self, pids: Collection[int], bounds: StatBounds, progress: Progress, tier: str = "auto"
    ) -> None:
        self._wanted_tier = tier
        self._pids = tuple(dict.fromkeys(pids))
        self._bounds = bounds
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._pidfds: set[int] = set()
        self._last: Counts = np.zeros(0, COUNTS)
        self._finished: Counts | None = None
        self._unfinished: dict[str, int] = {}
        #: Reasons by number, what can't be seen here, and whether by "bpf" or "tracepoints".
        self.reasons: Mapping[int, str] = {}
        self.unseen: tuple[str, ...] = ()
        self.tier = ""

    def __enter__(self) -> Self:
        check_privileges()
        for pid in self._pids:
            _check_process(pid)
        facts = read_kernel_facts(
            stat_functions(), stat_offsets(), tracepoints=stat_tracepoints(), variables=()
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_pidfds)
            for pid in self._pids:
                self._pidfds.add(_watched(pid))
            self._tracer = self._open(facts)
            # perf tells process numbers as they are in this process's namespace
            own = [os.getpid()] if self.tier == "tracepoints" else own_tgids()
            self._own = frozenset(own or ())
            stack.callback(self._tracer.close)
            self.unseen = self._tracer.unseen()
            if own is None:
                self.unseen += (NOT_TOLD_APART,)
            self._tracer.choose(self._pids)
            self._kernel_before = _kernel_pages()
            self._tracer.open_gate()
            self.start_ns = self._last_ns = time.monotonic_ns()
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
        tracer = StatTracepoints(self._bounds)
        self.reasons = self.reasons or tracer.reasons
        return tracer

    @property
    def poll_seconds(self) -> float:
        """`poll` is to be called at least this often."""
        return self._tracer.poll_seconds

    def _close_pidfds(self) -> None:
        while self._pidfds:
            os.close(self._pidfds.pop())

    @property
    def alive(self) -> set[int]:
        """Descriptors of the chosen processes, readable when one has ended."""
        return self._pidfds

    def ended(self, fd: int) -> bool:
        """Note that the process of a descriptor has ended; whether it was the last."""
        self._pidfds.discard(fd)
        os.close(fd)
        return not self._pidfds

    def poll(self) -> None:
        """Take what has come, lest it becomes too much."""
        if self._finished is None:
            self._tracer.read()

    def sample(self) -> Interval:
        """What was counted since the last sample."""
        now, lost = self._read(), self._tracer.losses()
        rows, own = split(difference(now, self._last), self._own)
        interval = Interval(
            start_ns=self._last_ns,
            end_ns=self._now_ns,
            wall_ns=time.time_ns(),
            rows=rows,
            own=own,
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
        self._finished = self._tracer.read()
        self._kernel_pages = (
            None
            if self._kernel_before is None or after is None
            else (after[0] - self._kernel_before[0], after[1] - self._kernel_before[1])
        )

    def total(self) -> Interval:
        """Everything from the start to `finish`."""
        self.finish()
        rows, own = split(self._read(), self._own)
        return Interval(
            start_ns=self.start_ns,
            end_ns=self._now_ns,
            wall_ns=time.time_ns(),
            rows=rows,
            own=own,
            lost=self._tracer.losses(),
            unfinished=self._unfinished,
            # the kernel counts for all
            kernel_pages=None if self._pids else self._kernel_pages,
        )

    def _read(self) -> Counts:
        if self._finished is not None:
            return self._finished
        rows = self._tracer.read()
        self._now_ns = time.monotonic_ns()
        return rows


class Ending:
    """What ends a session early: SIGINT, SIGTERM, or the end of all chosen processes.

    The first signal ends it in order, a second one at once (KeyboardInterrupt).
    """

    def __init__(self) -> None:
        self.gone = False
        self._signals = Interrupts()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, reader)
        self._stack.callback(os.close, writer)
        self._reader = reader
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, previous)
        self._stack.enter_context(self._signals)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._signals.noted

    def __bool__(self) -> bool:
        return self.interrupted or self.gone

    def wait(self, seconds: float, sampler: Sampler, *others: int) -> set[int]:
        """Wait that long or for an end; returns those of ``others`` that are readable."""
        poll = select.poll()
        for fd in (self._reader, *sampler.alive, *others):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self._reader in ready:
            os.read(self._reader, 4096)
        for fd in ready & sampler.alive:
            self.gone = sampler.ended(fd) or self.gone
        return ready & set(others)


def intervals(
    sampler: Sampler,
    ending: Ending,
    interval_s: float | None,
    count: int | None,
    duration_s: float | None,
) -> Iterator[Interval]:
    """An interval every ``interval_s``, until there were ``count``, or ``duration_s`` is over.

    When it is exhausted, by ``ending`` too, the sampler is finished; the last
    interval may be shorter.  Without ``interval_s`` there is none.
    """
    start = sampler.start_ns
    end = None if duration_s is None else start + round(duration_s * 1e9)
    step = None if interval_s is None else round(interval_s * 1e9)
    number = 0
    tick = None if step is None else start + step
    while not ending:
        now = time.monotonic_ns()
        if end is not None and now >= end:
            break
        if tick is not None and step is not None and now >= tick:
            number += 1
            if number == count:
                break
            yield sampler.sample()
            # what was missed is not made up for
            tick += max(1, -(-(now - tick + 1) // step)) * step
            continue
        wake = min(t for t in (tick, end, now + round(sampler.poll_seconds * 1e9)) if t is not None)
        ending.wait((wake - now) / 1e9, sampler)
        sampler.poll()
    sampler.finish()
    if step is not None:
        yield sampler.sample()


def clock(wall_ns: int) -> str:
    """The time of day, HH:MM:SS in the local time zone."""
    return time.strftime("%H:%M:%S", time.localtime(wall_ns / 1e9))


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


def _check_process(pid: int) -> None:
    """Raise where ``pid`` is no process that the kernel's side could know by that number."""
    try:
        tgid = proc.tgid(pid)
        is_initial = in_initial_namespace()
    except OSError as error:
        raise TargetError(f"there is no process {pid}") from error
    if tgid != pid:
        raise UsageError(f"{pid} is a thread of process {tgid}", f"use -p {tgid}")
    if not is_initial:
        raise HostError(
            "-p needs the kernel's process numbers, and this is another PID namespace",
            "run mptrace in the initial PID namespace (a container needs the host's), "
            "or without -p",
        )


def _watched(pid: int) -> int:
    """A descriptor that is readable when the process has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise TargetError(f"there is no process {pid}") from error


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
