# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that end a session in order: raised once, or noted until a step is done."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


def interrupted_by(*numbers: signal.Signals) -> None:
    """Let these signals, too, end this process in order: by KeyboardInterrupt."""
    for number in numbers:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No signal of the terminal ends what is being restored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Interrupts:
    """While inside, the first SIGINT or SIGTERM is noted, a second one raises KeyboardInterrupt.

    Raised at once it could come between a round and its recording.  They are taken also
    where they were ignored before: a shell's script starts its background commands so, and
    has no better way to end a session.  Outside the main thread none is taken.
    """

    def __init__(self) -> None:
        #: Whether a signal came.
        self.noted = False
        #: Its number, 0: none.
        self.number = 0
        self._previous: dict[signal.Signals, Any] = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.number = number

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous.clear()
