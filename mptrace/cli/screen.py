# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal of `mptrace top`: draws lines and reads keys."""

import contextlib
import curses
import os
import sys
from collections.abc import Iterator, Sequence

from mptrace.errors import HostError


class Screen:
    """A full-screen terminal; lines go in, keys come out."""

    def __init__(self, window: "curses.window") -> None:
        self._window = window
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        window.nodelay(True)
        #: To wait on for keys.
        self.fd = sys.stdin.fileno()

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns."""
        return self._window.getmaxyx()

    def draw(self, lines: Sequence[str], headings: frozenset[int] = frozenset()) -> None:
        """Show these lines, those of ``headings`` reversed; what doesn't fit is cut."""
        height, width = self.size
        self._window.erase()
        for number, line in enumerate(lines[:height]):
            style = curses.A_REVERSE if number in headings else curses.A_NORMAL
            text = line.ljust(width) if number in headings else line
            # the last column of the last line can't be written without scrolling
            with contextlib.suppress(curses.error):
                self._window.addnstr(number, 0, text, width - (number == height - 1), style)
        self._window.refresh()

    def keys(self) -> list[str]:
        """Keys pressed since the last call; "resize" where the terminal's size changed."""
        keys = []
        while (code := self._window.getch()) != -1:
            if code == curses.KEY_RESIZE:
                keys.append("resize")
            elif 0 <= code < 128:
                keys.append(chr(code))
        return keys


@contextlib.contextmanager
def opened() -> Iterator[Screen]:
    """A screen on the terminal, which is as it was afterwards; HostError where it can't be."""
    check()
    try:
        curses.setupterm(fd=sys.stdout.fileno())
        window = curses.initscr()
    except curses.error as error:
        term = os.environ.get("TERM", "")
        raise HostError(
            f"the terminal '{term}' can't be used: {error}",
            "set TERM to the type of your terminal, or use 'mptrace stat 1'",
        ) from error
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        yield Screen(window)
    finally:
        curses.endwin()


def check() -> None:
    """Raise HostError where there is no terminal, before anything else is done."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError(
            "'mptrace top' needs a terminal for its input and output",
            "'mptrace stat 1' prints the same numbers line by line",
        )
