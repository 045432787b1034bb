# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user is told at once: what a session will do, and that a recording is being read."""

import io
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mptrace.cli import patience
from mptrace.cli.starting import will_move, will_watch
from mptrace.driving.workloads import Workload
from mptrace.sessions.request import Wanted

PROBES = ", once the probes are attached"


@pytest.mark.parametrize(
    ("wanted", "duration", "words"),
    [
        (Wanted(), 30.0, "record every process and kernel thread for 30 s"),
        (Wanted(), None, "record every process and kernel thread until Ctrl-C"),
        (Wanted(pids=(7,)), None, "record process 7 until it ends or Ctrl-C"),
        (Wanted(pids=(7, 9)), None, "record processes 7, 9 until they end or Ctrl-C"),
        (Wanted(pids=(7,)), 0.5, "record process 7 for 0.5 s"),
        (Wanted(uid=65534), None, "record processes of user 65534 until Ctrl-C"),
        (Wanted(cgroup="/a"), None, "record processes of cgroup /a until Ctrl-C"),
        (Wanted(command=("ls", "-l")), None, "record 'ls' and what it starts until it ends"),
    ],
)
def test_what_will_be_watched_and_for_how_long(
    wanted: Wanted, duration: float | None, words: str
) -> None:
    """Whom, and what ends it."""
    assert will_watch("record", wanted, duration) == f"will {words}{PROBES}"


def test_how_often_is_counted() -> None:
    """Each interval, and how many of these."""
    everybody = "will count for every process and kernel thread"
    assert will_watch("count for", Wanted(), None, 2.0, 3) == (
        f"{everybody} every 2 s, 3 times{PROBES}"
    )
    assert will_watch("count for", Wanted(), None, 1.0) == (
        f"{everybody} every 1 s until Ctrl-C{PROBES}"
    )


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(repeats=3), "509 pages 3 times there and back"),
        (Workload(pages=1, back=False), "1 page"),
        (Workload(pages=1024, kind="thp"), "1,024 pages of thp there and back"),
        (Workload(target="pid", pid=7), "pages of process 7 there and back"),
    ],
)
def test_what_will_be_moved(workload: Workload, words: str) -> None:
    """How many pages, or whose."""
    assert will_move(workload) == f"will move {words}{PROBES}"


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_while_a_recording_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name and size, for how long, and at the end the line is empty again."""
    (tmp_path / "calls-000000.parquet").write_bytes(b"x" * 2_000_000)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(patience, "FIRST_S", 0.0)
    with patience.reading(tmp_path):
        while "reading" not in screen.getvalue():
            time.sleep(0.001)
    assert f"mptrace: reading '{tmp_path}' (2 MB): 0 s" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_what_is_read_at_once_is_not_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal either; and what is no terminal is never told."""
    for screen, first_s in ((Terminal(), 600.0), (io.StringIO(), 0.0)):
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setattr(patience, "FIRST_S", first_s)
        with patience.reading(tmp_path):
            pass
        assert screen.getvalue() == ""


def test_a_terminal_is_told_that_probes_are_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the results are printed, and as long as it takes; then the line is empty again."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(patience, "FIRST_S", 0.0)

    def close() -> None:
        while "detaching" not in screen.getvalue():
            time.sleep(0.001)
        assert screen.getvalue().endswith(" s"), "as long as it takes"

    with patience.detaching() as ending:
        ending.callback(close)
        screen.write("report\n")
    assert screen.getvalue().startswith("report\n\r\x1b[Kmptrace: detaching the probes: 0 s")
    assert screen.getvalue().endswith("\r\x1b[K")


def test_probes_are_detached_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the report can't be printed, for example; it comes out afterwards."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    done = []

    def fails(ending: ExitStack) -> None:
        ending.callback(done.append, "detached")
        raise ValueError("report")

    with pytest.raises(ValueError, match="report"), patience.detaching() as ending:
        fails(ending)
    assert done == ["detached"]


def test_an_error_inside_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the line is ended before it is said."""
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(ValueError, match="damaged"), patience.reading(tmp_path):
        raise ValueError("damaged")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        # a session's first line is printed before anything of this is there
        ("import mptrace.cli.run", "numpy"),
        ("import mptrace.cli.record", "numpy"),
        ("import mptrace.cli.stat", "numpy"),
        # only to look at the version of a library that is asked for by an option
        ("import mptrace.sessions.counted, mptrace.cli.stat", "importlib.metadata"),
        # the report is loaded while the probes are detached
        ("import mptrace.cli.run, mptrace.sessions.run", "mptrace.report"),
        # bcc loads all of LLVM, and compiles only what was not kept
        ("import mptrace.sessions.run, mptrace.sessions.record, mptrace.sessions.counted", "bcc"),
        # most workloads need no random numbers
        (
            "from mptrace.driving import worker, patterns\n"
            "patterns.entries(patterns.Workload(pattern='strided'), 23)\n"
            "patterns.pinned(patterns.Workload(), 23, 1)",
            "numpy.random",
        ),
    ],
)
def test_what_is_not_needed_yet_is_not_loaded(code: str, absent: str) -> None:
    """Loading modules is a third of a short session."""
    script = f"import sys\n{code}\nprint({absent!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"False\n"
