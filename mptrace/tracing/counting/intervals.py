# SPDX-License-Identifier: GPL-2.0-or-later
"""When `mptrace stat` and `mptrace top` look at their counts, and what ends them."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Self

from mptrace.host.signals import Interrupts
from mptrace.tracing.counting.counts import Interval
from mptrace.tracing.counting.sampler import Sampler


class Ending:
    """What ends a session early: SIGINT, SIGTERM, or the end of all chosen processes.

    The first signal ends it in order, a second one at once (KeyboardInterrupt).
    """

    def __init__(self) -> None:
        self.gone = False
        self._hung_up = False
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
        """Whether a signal came, or the terminal went."""
        return self._signals.noted or self._hung_up

    def __bool__(self) -> bool:
        return self.interrupted or self.gone

    def wait(self, seconds: float, sampler: Sampler, *others: int) -> set[int]:
        """Wait that long or for an end; returns those of ``others`` that are readable.

        One of ``others`` that is gone, a terminal say, is an end as a signal is.
        """
        poll = select.poll()
        for fd in (self._reader, *sampler.alive, *others):
            poll.register(fd, select.POLLIN)
        events = dict(poll.poll(max(0.0, seconds) * 1000))
        ready = set(events)
        gone = select.POLLHUP | select.POLLERR | select.POLLNVAL
        self._hung_up |= any(events.get(fd, 0) & gone for fd in others)
        if self._reader in ready:
            os.read(self._reader, 4096)
        for fd in ready & sampler.alive:
            sampler.ended(fd)
        self.gone = sampler.is_left_alone()
        return ready & set(others)


def _nothing() -> None:
    return None


def intervals(
    sampler: Sampler,
    ending: Ending,
    interval_s: float | None,
    count: int | None,
    duration_s: float | None,
    polled: Callable[[], None] = _nothing,
) -> Iterator[Interval]:
    """An interval every ``interval_s``, until there were ``count``, or ``duration_s`` is over.

    When it is exhausted, by ``ending`` too, the sampler is finished; the last
    interval may be shorter.  Without ``interval_s`` there is none.  ``polled`` is
    called each time that the counts were looked at meanwhile.
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
        polled()
    sampler.finish()
    if step is not None:
        yield sampler.sample()


def clock(wall_ns: int) -> str:
    """The time of day, HH:MM:SS in the local time zone."""
    return time.strftime("%H:%M:%S", time.localtime(wall_ns / 1e9))
