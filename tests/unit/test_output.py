# SPDX-License-Identifier: GPL-2.0-or-later
"""Output that can't be written: one line, status 1; messages that can't be written: nothing."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import recorded
import stat_rows
from click.testing import CliRunner
from test_doctor import ACCESS, HOST, KERNEL

from mptrace.cli import COMMANDS, main
from mptrace.driving.places import Where
from mptrace.errors import OutputError
from mptrace.host.facts import HostFacts
from mptrace.lab import runner, wire
from mptrace.lab.guest import Completed, Guest
from mptrace.lab.kernels import Kernel
from mptrace.lab.topology import parse_nodes
from mptrace.recording.layouts import TABLES
from mptrace.recording.reader import Recording
from mptrace.sessions.request import RecordResult
from mptrace.sessions.run import RunResult

FULL = "mptrace: can't write to standard output: No space left on device\n"
MPTRACE = [sys.executable, "-m", "mptrace"]

Faked = Callable[[pytest.MonkeyPatch], None]


class Sampler:
    """Counts of two seconds, in place of a kernel's."""

    unseen, reasons, tier = (), stat_rows.REASONS, "bpf"
    start_ns, poll_seconds = 0, 0.1

    def __init__(self, *_: object, **__: object) -> None:
        self.total = lambda: stat_rows.interval(stat_rows.busy())

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _run(request: Any, _progress: object, _ending: object) -> RunResult:
    return RunResult(recorded.write(request.output), False)


def _record(request: Any, progress: Callable[[str], None], _ending: object) -> RecordResult:
    progress("tracing")
    path = recorded.write(request.output)
    return RecordResult((path,), dict.fromkeys(TABLES, 1), {"ring": 2}, None, False)


def _count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("mptrace.tracing.counting.sampler.Sampler", Sampler)
    each = iter([stat_rows.interval(stat_rows.busy())])
    patch.setattr("mptrace.tracing.counting.intervals.intervals", lambda *_: each)


@contextlib.contextmanager
def _screen() -> Iterator[Any]:
    yield SimpleNamespace(draw=lambda _: None, keys=lambda: ["q"], size=(24, 80), fd=0)


def _top(patch: pytest.MonkeyPatch) -> None:
    _count(patch)
    patch.setattr("mptrace.cli.screen.check", lambda: None)
    patch.setattr("mptrace.cli.screen.opened", _screen)


def _doctor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("mptrace.host.read.read_kernel_facts", lambda *_: KERNEL)
    patch.setattr("mptrace.host.read.read_host_facts", lambda: HOST)
    patch.setattr("mptrace.host.read.read_access", lambda: ACCESS)
    patch.setattr("mptrace.host.read.try_attach", lambda *_: "")


class TalkingGuest:
    """A guest whose command prints a line and ends; there are no programs in it."""

    kernel = Kernel("a kernel", Path(), Path(), Path())

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> "TalkingGuest":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, argv: list[str], **options: Any) -> Completed:
        """What `Guest.run` does with its sinks."""
        if argv[0] == "ls":
            return Completed(2, b"", b"")
        options["stderr"](b"a warning\n")
        options["stdout"](b"a result\n")
        return Completed(0, b"", b"")


def _lab(patch: pytest.MonkeyPatch) -> None:
    # the sinks of `run_in_guest` are descriptors 1 and 2, which are pytest's here
    sink = runner._sink
    patch.setattr(
        "mptrace.lab.runner._sink",
        lambda number, **more: sink({1: sys.stdout, 2: sys.stderr}[number].fileno(), **more),
    )
    patch.setattr("mptrace.lab.runner.Guest", TalkingGuest)
    patch.setattr("mptrace.lab.runner.find_kernel", lambda *_, **__: "a kernel")


def _nothing(_: pytest.MonkeyPatch) -> None:
    """Nothing is faked."""


#: Command -> what stands in for root, a guest, a kernel; and arguments with which it prints.
PRINTING: dict[str, tuple[Faked, list[list[str]]]] = {
    "run": (
        lambda patch: patch.setattr("mptrace.sessions.run.run", _run),
        [["-o", "new"], ["--json", "-o", "new"]],
    ),
    "record": (lambda patch: patch.setattr("mptrace.sessions.record.record", _record), []),
    "stat": (_count, [["-d", "1"], ["1", "1"], ["--json", "-d", "1"]]),
    "top": (_top, [["-d", "1"]]),
    "where": (
        lambda patch: patch.setattr(
            "mptrace.driving.where.where", lambda *_: Where(1, "a", (0,), 1, ())
        ),
        [["-p", "1"], ["-p", "1", "--json"]],
    ),
    "lab": (_lab, [["--no-bring", "--", "true"]]),
    "doctor": (_doctor, [[], ["--json"]]),
    "conform": (_nothing, [["--list"], ["--list", "--json"]]),
    "report": (_nothing, [["r"], ["--json", "r"], ["--strict", "r"]]),
    "explain": (_nothing, [["r"], ["--all", "r"], ["--json", "r"]]),
    "dump": (
        _nothing,
        [["r"], ["--format", "csv", "r"], ["--format", "jsonl", "r"], ["--table", "folios", "r"]],
    ),
}


@pytest.fixture(autouse=True)
def _recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording `r` in the current directory."""
    monkeypatch.chdir(tmp_path)
    recorded.write(Path("r"))


def status_of(arguments: list[str], patch: pytest.MonkeyPatch, *, stdout: str, stderr: str) -> Any:
    """Exit status of a command line whose streams, the interpreter's own, are these files."""
    with open(stdout, "w") as out, open(stderr, "w") as err, patch.context() as streams:
        for name, stream in (("stdout", out), ("stderr", err)):
            streams.setattr(sys, name, stream)
            streams.setattr(sys, f"__{name}__", stream)
        with pytest.raises(SystemExit) as leaving:
            main(arguments, prog_name="mptrace")
    return leaving.value.code


def told() -> str:
    """What the command line said on standard error, without its progress."""
    progress = ("mptrace: recording: ", "mptrace: counting", "mptrace: will ", "lab: ", "a warning")
    lines = Path("err").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(progress))


def test_every_command_is_tried() -> None:
    """A new command needs an entry in PRINTING."""
    assert set(PRINTING) == set(COMMANDS)


@pytest.mark.parametrize("argument", ["--help", "--version", "-h"])
def test_help_on_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    """Help and version are output like any other."""
    arguments = [argument]
    assert status_of(arguments, monkeypatch, stdout="/dev/full", stderr="err") == 1
    assert told() == FULL


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Each command, with and without --json, and its help: no traceback, nothing half told."""
    fake, invocations = PRINTING[command]
    fake(monkeypatch)
    for number, options in enumerate([["--help"], *invocations]):
        arguments = [command, *(f"new{number}" if each == "new" else each for each in options)]
        assert status_of(arguments, monkeypatch, stdout="/dev/full", stderr="err") == 1, arguments
        assert told() == FULL, arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_messages_that_cant_be_written_change_nothing(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A full standard error: the same output and the same status as otherwise."""
    fake, invocations = PRINTING[command]
    for number, options in enumerate([*invocations, ["--no-such-option"]]):
        seen = []
        for kind, stderr in (("a", "err"), ("b", "/dev/full")):
            arguments = [command, *(f"{kind}{number}" if o == "new" else o for o in options)]
            with monkeypatch.context() as patch:
                fake(patch)
                status = status_of(arguments, patch, stdout=f"out-{kind}", stderr=stderr)
            seen.append((status, Path(f"out-{kind}").read_text()))
        assert seen[0] == seen[1], options
        assert bool(seen[0][1]) == (options != ["--no-such-option"]), options


def test_a_full_stderr_ends_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, the summary and what was lost are dropped; the recording is whole."""
    monkeypatch.setattr("mptrace.sessions.record.record", _record)
    arguments = ["record", "-a", "-o", "new"]
    assert status_of(arguments, monkeypatch, stdout="out", stderr="/dev/full") == 0
    assert Recording.open("new").complete


def test_the_report_of_a_run_may_fail_but_not_its_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was recorded is there and whole, and its place was said before."""
    monkeypatch.setattr("mptrace.sessions.run.run", _run)
    arguments = ["run", "-o", "new"]
    assert status_of(arguments, monkeypatch, stdout="/dev/full", stderr="err") == 1
    _, *lines = Path("err").read_text().splitlines(keepends=True)
    assert "".join(lines) == "mptrace: recording: new\n" + FULL
    assert Recording.open("new").complete


def test_a_reader_that_has_enough_is_no_error() -> None:
    """A closed pipe is met in silence; the status is that of the command otherwise."""
    for arguments, expected in ((["report", "r"], 0), (["report", "--strict", "r"], 3)):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*MPTRACE, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) in {(0, b""), (expected, b"")}


@pytest.mark.parametrize(
    ("redirection", "status", "expected"),
    [
        (">/dev/full", 1, FULL),
        (">&-", 1, "mptrace: can't write to standard output: Bad file descriptor\n"),
        (">/dev/full 2>/dev/full", 1, ""),
        (">/dev/full 2>&-", 1, ""),
        ("2>/dev/full >out", 0, ""),
        ("2>&- <&- >out", 0, ""),
    ],
)
def test_nothing_is_said_at_exit(redirection: str, status: int, expected: str) -> None:
    """The interpreter finds nothing left to flush, whatever the streams are."""
    script = f'exec "$@" {redirection}'
    for arguments in (["dump", "r"], ["--version"]):
        done = subprocess.run(
            ["sh", "-c", script, "sh", *MPTRACE, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", expected)


def test_a_name_that_the_terminal_lacks_is_escaped() -> None:
    """Output in an encoding without the characters of a path is no traceback either."""
    recorded.write(Path("m"), hypervisor="頁")
    done = subprocess.run(
        [*MPTRACE, "report", "--all", "m"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "iso8859-1:strict"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"emulated (\\u9801)" in done.stdout


class ScriptedGuest(Guest):
    """A guest whose agent sends what a test wrote; what it is told is kept."""

    def __init__(self, frames: list[tuple[bytes, bytes]]) -> None:
        super().__init__(Kernel("k", Path("k"), Path("m"), Path("b")), parse_nodes("1"))
        self._script = iter(frames)
        self.sent: list[bytes] = []

    def _send(self, kind: bytes, payload: bytes = b"") -> None:  # noqa: ARG002
        self.sent.append(kind)

    def _receive(self, *_: object) -> tuple[bytes, bytes]:
        return next(self._script)


def test_a_guests_command_ends_where_its_output_has_no_room() -> None:
    """It is killed, and waited for: what it changed can be brought back."""
    guest = ScriptedGuest(
        [(wire.STDOUT, b"a"), (wire.STDOUT, b"b"), (wire.EXIT, b'{"returncode": -9}')]
    )
    with open("/dev/full", "wb", buffering=0) as full:
        sink = runner._sink(full.fileno())
        with pytest.raises(OutputError, match="No space left on device"):
            guest.run(["yes"], stdout=sink)
        quiet = runner._sink(full.fileno(), is_result=False)
        quiet(b"dropped")
    assert guest.sent == [wire.JOB, wire.KILL]


def test_a_pipe_that_would_not_wait_is_waited_for() -> None:
    """Somebody made the pipe non-blocking: all of the output comes, none is an error."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    columns = ["--table", "folios", "--format", "jsonl"]
    with subprocess.Popen(
        [*MPTRACE, "dump", *columns, "r"], stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        with open(reader, "rb") as pipe:
            text = pipe.read()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert len(text.splitlines()) == recorded.tables()["folios"].size


@pytest.mark.parametrize(
    ("counted", "emulated", "note"),
    [
        ({"cpu": "x", "string_moves": ""}, True, "times are instructions, 1 ns is one"),
        (None, True, "times are emulated"),
        (None, False, ""),
    ],
)
def test_stat_says_what_its_times_are(
    monkeypatch: pytest.MonkeyPatch, counted: dict[str, str] | None, emulated: bool, note: str
) -> None:
    """Below its total, as the head of a report does, and in JSON."""
    host = HostFacts((), "", emulated, counted=counted)
    monkeypatch.setattr("mptrace.host.read.read_host_facts", lambda: host)
    _count(monkeypatch)
    text = CliRunner().invoke(main, ["stat", "-d", "1"]).stdout
    assert text.endswith(f"\n{note}\n") if note else "times are" not in text
    _count(monkeypatch)
    lines = CliRunner().invoke(main, ["stat", "--json", "-d", "1"]).stdout.splitlines()
    total = json.loads(lines[-1])
    assert (total["counted"], total["emulated"]) == (counted, emulated)
