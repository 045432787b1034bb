# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that was asked to die with its parent does."""

import os
import select
import signal
from collections.abc import Callable

from mptrace.host.parent import die_with_parent

SECONDS = 30


def said_by_orphan(bind: Callable[[int, int], None]) -> bytes:
    """What a process says that calls ``bind`` and whose parent is killed then, until its end.

    ``bind`` gets the parent's process id and a descriptor to write to.
    """
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        own = os.getpid()
        if not os.fork():
            try:
                bind(own, writing)
                os.write(writing, b"bound")
                signal.pause()
            finally:
                os._exit(0)
        os.close(writing)
        signal.pause()
    os.close(writing)
    said = os.read(reading, 32)
    assert said == b"bound"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while select.select([reading], [], [], SECONDS)[0]:
        data = os.read(reading, 32)
        if not data:
            os.close(reading)
            return said
        said += data
    raise AssertionError("the process has outlived its parent")


def exit_status(act: Callable[[], None]) -> int:
    """Of a child that does it and leaves with 23."""
    pid = os.fork()
    if not pid:
        act()
        os._exit(23)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_process_dies_with_its_parent() -> None:
    """However the parent ended."""
    assert said_by_orphan(lambda parent, _: die_with_parent(parent)) == b"bound"


def test_another_signal_may_be_asked_for() -> None:
    """Which the process may handle, to end in order."""

    def bind(parent: int, writing: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: (os.write(writing, b", told"), os._exit(0)))
        die_with_parent(parent, signal.SIGTERM)

    assert said_by_orphan(bind) == b"bound, told"


def test_where_the_parent_is_gone_already_the_process_ends_at_once() -> None:
    """It has another parent by then."""
    assert exit_status(lambda: die_with_parent(os.getppid() + 1)) == 1


def test_a_parent_that_is_not_named_is_not_looked_at() -> None:
    """The process goes on."""
    assert exit_status(die_with_parent) == 23
