# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user sees on a terminal while a long recording is read, or probes are detached."""

import glob
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mptrace.reporting.text.layout import printable

#: Seconds until something is said, and between two times.
FIRST_S, EVERY_S = 1.0, 0.5
_ERASE = "\r\x1b[K"


@contextmanager
def reading(recording: Path) -> Iterator[None]:
    """Say on a terminal that ``recording`` is being read, and for how long, while inside.

    Nothing is written where standard error is no terminal, or reading takes less than
    FIRST_S seconds; nothing of it stays on the screen.
    """

    def what() -> str:
        size = sum(path.stat().st_size for path in _files(recording))
        return f"reading '{printable(str(recording))}' ({size / 1e6:,.0f} MB)"

    with _telling(what):
        yield


@contextmanager
def detaching() -> Iterator[ExitStack]:
    """What a session leaves to the end: its probes; say in the same way that they are waited for.

    It is waited for once whoever is inside has printed the results.
    """
    with ExitStack() as ending:
        try:
            yield ending
        finally:
            with _telling(lambda: "detaching the probes"):
                ending.close()


@contextmanager
def _telling(what: Callable[[], str]) -> Iterator[None]:
    if not _is_terminal():
        yield
        return
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, ended), daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _tell(what: Callable[[], str], ended: threading.Event) -> None:
    began = time.monotonic()
    if ended.wait(FIRST_S):
        return
    # a terminal may go away meanwhile
    with suppress(OSError, ValueError):
        text = what()
        while True:
            sys.stderr.write(f"{_ERASE}mptrace: {text}: {time.monotonic() - began:.0f} s")
            sys.stderr.flush()
            if ended.wait(EVERY_S):
                break
        sys.stderr.write(_ERASE)
        sys.stderr.flush()


def _files(recording: Path) -> Iterator[Path]:
    """Those of a recording, or of all recordings of a session that rotated."""
    if recording.is_dir():
        yield from recording.iterdir()
        return
    for part in recording.parent.glob(f"{glob.escape(recording.name)}.*"):
        if part.is_dir():
            yield from part.iterdir()


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        # closed, or none
        return False
