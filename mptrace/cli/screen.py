# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal of `mptrace top`: draws lines and reads keys."""

import contextlib
import curses
import os
import sys
from collections.abc import Iterator, Sequence

from mptrace.errors import HostError

#: What curses gives -> what it is called here; other keys that are no letters are none.
_NAMES: dict[int | str, str] = {
    curses.KEY_RESIZE: "resize",
    curses.KEY_BACKSPACE: "backspace",
    "\x7f": "backspace",
    "\b": "backspace",
    curses.KEY_ENTER: "enter",
    "\n": "enter",
    "\r": "enter",
    "\x1b": "escape",
}
#: Milliseconds in which a key that sends several letters must have sent them.
_ESCAPE_MS = 50


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
        """Keys pressed since the last call: letters, or names of `_NAMES`.

        "resize" stands for a change of the terminal's size.
        """
        keys = []
        # raises where there is no key
        with contextlib.suppress(curses.error):
            while True:
                key = self._window.get_wch()
                name = _NAMES.get(key, key)
                if isinstance(name, str):
                    keys.append(name)
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
        curses.set_escdelay(_ESCAPE_MS)
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
