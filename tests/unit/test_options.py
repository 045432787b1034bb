# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line takes, and in which words it refuses the rest."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import recorded
from click.testing import CliRunner, Result

from mptrace.cli import COMMANDS, main
from mptrace.recording.layouts import TABLES
from mptrace.sessions.request import RecordRequest, RecordResult

#: Words of click's that say nothing to who does not know it.
JARGON = ("integer range", "float range", "valid integer", "valid float", "<=x", "x>=")


def call(*arguments: str) -> Result:
    """mptrace with these arguments."""
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[RecordRequest]:
    """What `mptrace record` asks a session for; there is none."""
    asked: list[RecordRequest] = []

    def session(request: RecordRequest, _progress: object, _ending: object) -> RecordResult:
        asked.append(request)
        return RecordResult((), dict.fromkeys(TABLES, 0), {}, None, False)

    monkeypatch.setattr("mptrace.sessions.record.record", session)
    return asked


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["ls", "-l"], ("ls", "-l")),
        (["-d", "5", "ls", "-d", "x", "--force"], ("ls", "-d", "x", "--force")),
        (["--", "ls", "-l"], ("ls", "-l")),
        (["sh", "-c", "exit 3", "--", "-a"], ("sh", "-c", "exit 3", "--", "-a")),
    ],
)
def test_options_end_at_the_commands_name(
    requests: list[RecordRequest], arguments: list[str], command: tuple[str, ...]
) -> None:
    """What follows is the command's own, whatever mptrace would make of it."""
    assert call("record", *arguments).exit_code == 0
    (request,) = requests
    assert request.wanted.command == command
    assert not request.force


def test_a_guests_command_has_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of `record`."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr("mptrace.cli.lab.run_in_guest", lambda c, **_: ran.append(c) or 0)
    assert call("lab", "--cpus", "2", "ls", "--cpus", "nan", "-l").exit_code == 0
    assert ran == [("ls", "--cpus", "nan", "-l")]


@pytest.mark.parametrize("form", [["-p", "23,42,23"], ["-p", "23", "-p", "42"], ["--pid=23,42"]])
def test_processes_by_commas_and_by_repetition(
    requests: list[RecordRequest], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """Each once, wherever several make sense."""
    assert call("record", *form).exit_code == 0
    assert requests[0].wanted.pids == (23, 42)
    watched: list[Any] = []

    def sampler(scope: Any, *_: Any, **__: Any) -> None:
        watched.append(scope.tgids)
        raise KeyboardInterrupt

    monkeypatch.setattr("mptrace.tracing.counting.sampler.Sampler", sampler)
    monkeypatch.setattr("mptrace.cli.screen.check", lambda: None)
    monkeypatch.setattr("mptrace.sessions.request.proc.tgid", int)
    for command in ("stat", "top"):
        assert call(command, *form).exit_code == 130
    assert watched == [(23, 42), (23, 42)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-a", "-p", "1"], "-a and -p exclude each other"),
        (["-p", "1", "-u", "root"], "-p and -u exclude each other"),
        (["--cgroup", ""], "--cgroup names no cgroup"),
        (["-a", "--cgroup", "/"], "-a and --cgroup exclude each other"),
        (["-a", "ls"], "-a and COMMAND ('ls') exclude each other"),
        (["-a", "-p", "1", "-u", "0"], "-a, -p and -u exclude each other"),
        ([], "say whom to trace"),
    ],
)
def test_whom_to_trace_is_said_once(
    requests: list[RecordRequest], arguments: list[str], words: str
) -> None:
    """What contradicts itself is named; only who says nothing is asked."""
    result = call("record", *arguments)
    assert result.exit_code == 2
    assert f"mptrace: {words}" in result.stderr
    assert not requests


BOUNDED = [
    ("record", "-a", "--buffer", "1"),
    ("record", "-a", "--buffer", "1000000G"),
    ("record", "-a", "--max-folios", "0"),
    ("record", "-a", "--max-folios", "99999999999"),
    ("record", "-a", "--rotate-size", "0"),
    ("record", "-a", "--rotate-time", "0.5"),
    ("record", "-a", "--rotate-time", "1", "--keep", "0"),
    ("record", "-a", "-d", "0"),
    ("record", "-a", "--min-us", "-1"),
    ("record", "-p", "0"),
    ("record", "-p", "1,x"),
    ("record", "-p", "1,"),
    ("record", "-p", "99999999999"),
    ("run", "--pages", "0"),
    ("run", "--size", "0"),
    ("run", "--pid", "x"),
    ("run", "--buffer", "1"),
    ("run", "--pin", "2"),
    ("stat", "0"),
    ("stat", "1", "0"),
    ("stat", "--max-rows", "1"),
    ("stat", "-p", "x"),
    ("top", "0"),
    ("top", "-p", "x"),
    ("where", "-p", "1,2"),
    ("lab", "--cpus", "0"),
    ("lab", "--timeout", "0"),
]
#: Options that take a number of seconds or the like, without it.
NUMBERS = [
    ("record", "-a", "-d"),
    ("record", "-a", "--rotate-time"),
    ("record", "-a", "--min-us"),
    ("stat",),
    ("stat", "-d"),
    ("top",),
    ("top", "-d"),
    ("run", "--pin"),
    ("run", "--holes"),
    ("lab", "--timeout"),
]


@pytest.mark.parametrize("tier", ["bpf", "tracepoints"])
@pytest.mark.parametrize("arguments", BOUNDED)
def test_what_is_out_of_bounds_is_refused_in_plain_words(
    requests: list[RecordRequest], arguments: tuple[str, ...], tier: str
) -> None:
    """Before there is a session, by whatever tier; the value is quoted."""
    more = ["--tier", tier] if arguments[0] in ("record", "stat", "top") else []
    result = call(arguments[0], *more, *arguments[1:])
    assert result.exit_code == 2
    assert f"'{arguments[-1]}' is not a" in result.stderr or (
        f"'{arguments[-1]}' is not the" in result.stderr
    )
    assert not [words for words in JARGON if words in result.stderr]
    assert not requests


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "1e400"])
@pytest.mark.parametrize("arguments", NUMBERS)
def test_no_number_is_endless(
    requests: list[RecordRequest], arguments: tuple[str, ...], value: str
) -> None:
    """Nor none at all: a session would never end."""
    # a negative number would look like an option where an argument is meant
    before = ["--"] if arguments == ("top",) else []
    result = call(*arguments, *before, value)
    assert result.exit_code == 2
    assert not requests
    # `stat -inf` is an option that is not there, as what follows `--` is a command
    is_option = arguments == ("stat",) and value == "-inf"
    assert ("No such option" if is_option else f"'{value}' is not a") in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_bounds(name: str) -> None:
    """click's own ranges take NaN, and speak of themselves."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for param in command.params:
        assert not isinstance(param.type, click.IntRange | click.FloatRange), param.name
        assert param.type is not click.FLOAT, param.name


@contextmanager
def as_a_stranger() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("command", ["report", "explain", "dump"])
@pytest.mark.parametrize("what", ["directory", "meta.json", "part"])
def test_what_may_not_be_read_is_said_in_a_line(tmp_path: Path, command: str, what: str) -> None:
    """With the way out, and without the command's usage."""
    recorded.write(tmp_path / "r")
    # also that whoever may read nothing has every module by now
    assert call(command, str(tmp_path / "r")).exit_code == 0
    (tmp_path / "r").chmod(0o755)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o11)
    for path in (tmp_path / "r").iterdir():
        path.chmod(0o644)
    part = next((tmp_path / "r").glob("entries-*"))
    mine = {"directory": tmp_path / "r", "meta.json": tmp_path / "r/meta.json", "part": part}[what]
    mine.chmod(0)
    with as_a_stranger():
        result = call(command, str(tmp_path / "r"))
    mine.chmod(0o700)
    assert result.exit_code == 1
    first, hint = result.stderr.splitlines()
    assert first == f"mptrace: can't read '{mine}': Permission denied"
    assert hint == (
        f"  read it with sudo, or make it yours: sudo chown -R \"$USER\" '{tmp_path / 'r'}'"
    )


def options() -> Iterator[tuple[str, click.Option]]:
    """Each option of each command."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        yield from ((name, each) for each in command.params if isinstance(each, click.Option))


#: Names that stand for one thing in all commands, and a word that the help has in each.
TOPICS = {
    "--pid": "process",
    "--uid": "user",
    "--cgroup": "cgroup",
    "--as": "COMMAND",
    "--output": "recording|directory",
    "--force": "existing",
    "--json": "JSON",
    "--duration": "seconds",
    "--tier": "BPF",
    "--detail": "each page",
    "--strict": "status 3",
    "--stacks": "stacks",
    "--failed": "failed|succeed|stayed",
    "--buffer": "ring",
    "--max-folios": "folios",
    "--max-rows": "rows",
    "--by": "line per",
    "--all": "every|all|each",
    "--histogram": "histogram",
    "--from": "or later",
    "--to": "before this time",
    "--path": "path",
    "--node": "node",
    "--top": "rows",
}
#: Letters of these: everybody, of whom a command is about; of report and explain, all there is.
LETTERS = {"-a": "--all", "-p": "--pid", "-u": "--uid", "-o": "--output", "-d": "--duration"}
#: The one option of several names: who writes scripts for perf knows it as --uid.
TWO_NAMES = {"--uid", "--user"}


def shape(option: click.Option) -> tuple[object, ...]:
    """What an option takes: nothing, or values of a type; one process or several are the same."""
    names = {"PID,...": "PID", "path": "Path"}
    kind = names.get(option.type.name, option.type.name)
    return option.is_flag, None if option.is_flag else kind


def test_a_name_takes_the_same_in_all_commands() -> None:
    """A flag is one everywhere, a value has one type; choices are a command's own."""
    found: dict[str, set[tuple[object, ...]]] = {}
    for _, option in options():
        for name in (*option.opts, *option.secondary_opts):
            found.setdefault(name, set()).add(shape(option))
    assert {name: shapes for name, shapes in found.items() if len(shapes) > 1} == {}


def test_a_name_means_the_same_in_all_commands() -> None:
    """A name that several commands have has a topic, which the help of each is about."""
    found: dict[str, list[tuple[str, str]]] = {}
    for command, option in options():
        names = {"--uid"} if set(option.opts) & TWO_NAMES else set(option.opts)
        for name in names:
            if name.startswith("--"):
                found.setdefault(name, []).append((command, option.help or ""))
    shared = {name for name, uses in found.items() if len(uses) > 1}
    assert shared <= set(TOPICS)
    for name in shared:
        for command, words in found[name]:
            assert re.search(TOPICS[name], words), (command, name)


def test_a_meaning_has_one_name() -> None:
    """What the code calls by one name, the command line does; types of one use have one option."""
    by_variable: dict[str, set[tuple[str, ...]]] = {}
    for _, option in options():
        by_variable.setdefault(str(option.name), set()).add(tuple(option.opts))
        kind = option.type.name
        if kind in ("PID", "PID,..."):
            assert option.opts == ["-p", "--pid"]
        if option.name == "as_json":
            assert option.opts == ["--json"]
    assert {name: names for name, names in by_variable.items() if len(names) > 1} == {}


def test_letters_and_names_come_together() -> None:
    """-p never without --pid, --pid never without -p; --all of a report has no letter."""
    for command, option in options():
        letters = [name for name in option.opts if not name.startswith("--")]
        names = [name for name in option.opts if name.startswith("--")]
        for letter in letters:
            assert LETTERS.get(letter) in names, (command, option.opts)
        for letter, name in LETTERS.items():
            if name in names and command not in ("report", "explain"):
                assert letter in letters, (command, option.opts)


def test_an_old_name_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the guest's threads, which `run --threads` has nothing to do with; not in COMMAND."""
    ran: list[tuple[Any, Any]] = []

    def run(command: Any, **more: Any) -> int:
        ran.append((command, more["threads"]))
        return 0

    monkeypatch.setattr("mptrace.cli.lab.run_in_guest", run)
    for name in ("--threads", "--host-threads"):
        assert call("lab", name, "multi", "ls", "--threads").exit_code == 0
    assert ran == [(("ls", "--threads"), "multi")] * 2


def test_old_names_of_nodes_still_work() -> None:
    """`record --from 999` is refused for the node, as --from-node is; what follows is COMMAND's."""
    for name in ("--from", "--from-node", "--to", "--to-node"):
        result = call("record", name, "999", "ls", "--from", "1")
        assert result.exit_code == 2
        assert "no node 999" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "interval", "count", "command"),
    [
        (["1", "3", "--by", "process"], 1.0, 3, ()),
        (["--by", "process", "1", "ls", "-l", "2"], 1.0, None, ("ls", "-l", "2")),
        (["ls", "1", "--json"], None, None, ("ls", "1", "--json")),
        (["1", "--", "2", "3"], 1.0, None, ("2", "3")),
        (["1", "2", "3"], 1.0, 2, ("3",)),
    ],
)
def test_numbers_and_a_command(
    arguments: list[str],
    interval: float | None,
    count: int | None,
    command: tuple[str, ...],
) -> None:
    """Options anywhere before COMMAND, INTERVAL and COUNT among them; the rest is COMMAND's."""
    stat = main.get_command(click.Context(main), "stat")
    assert stat is not None
    context = stat.make_context("stat", list(arguments))
    found = [context.params[name] for name in ("interval", "count", "command_line")]
    assert found == [interval, count, command]
