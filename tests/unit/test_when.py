# SPDX-License-Identifier: GPL-2.0-or-later
"""Beside each time of a recording stands what the wall clock said, in dump, JSON and text.

Real recordings; a reader that knows pyarrow alone (plain_reader) says what is right.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from plain_reader import Plain

from mptrace.cli import main
from mptrace.cli.dump import TABLES
from mptrace.recording.when import TIMES

HERE = Path(__file__).parent
RECORDINGS = {name: HERE / "recordings" / name for name in ("run", "record", "stalls", "lost")} | {
    "conform": HERE.parent / "fixtures" / "conform-6.12" / "recording"
}


def told(*arguments: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_time_in_dump_has_its_wall_clock_time(name: str) -> None:
    """ISO 8601 with nanoseconds; null where there is no time."""
    plain, seen = Plain(RECORDINGS[name]), 0
    for table in TABLES:
        rows = told("dump", "--table", table, "--format", "jsonl", str(RECORDINGS[name]))
        for row in map(json.loads, rows.splitlines()):
            for key in TIMES & set(row):
                utc = row[key.removesuffix("_ns") + "_utc"]
                assert utc == (plain.utc(row[key]) if row[key] else None)
                seen += 1
    assert seen > 100 or name == "lost"


def pairs(value: Any) -> Iterator[tuple[int | None, str | None]]:
    """Each time of a JSON value, and the wall-clock time beside it."""
    if isinstance(value, list):
        for each in value:
            yield from pairs(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in TIMES:
                yield each, value[key.removesuffix("_ns") + "_utc"]
            yield from pairs(each)


@pytest.mark.parametrize("command", [("report",), ("explain",)])
@pytest.mark.parametrize("name", ["run", "record", "stalls", "conform"])
def test_so_has_every_time_in_json(name: str, command: tuple[str, ...]) -> None:
    """Of paths, callers, threads that waited, failures, entries and folios."""
    plain = Plain(RECORDINGS[name])
    lines = told(*command, "--json", str(RECORDINGS[name]))
    values = [json.loads(lines)] if command == ("report",) else lines.splitlines()
    found = list(pairs([json.loads(v) if isinstance(v, str) else v for v in values]))
    assert found or (name, command) == ("stalls", ("explain",))
    assert all(utc == (plain.utc(ns) if ns else None) for ns, utc in found)


def test_a_table_has_the_time_of_the_day() -> None:
    """Of migrations, calls, folios and waits, to the millisecond."""
    for name, table, column in (
        ("stalls", "migrations", "enter_ns"),
        ("stalls", "waits", "start_ns"),
        ("stalls", "folios", "start_ns"),
        ("run", "calls", "enter_ns"),
    ):
        plain = Plain(RECORDINGS[name])
        head, *lines = told("dump", "--table", table, str(RECORDINGS[name])).splitlines()
        lines = [line for line in lines if not line.startswith(" ")]
        assert head.split()[1] == "when"
        assert [line.split()[1] for line in lines] == [
            plain.utc(row[column])[11:23] for row in plain.rows(table)
        ]


def test_text_says_when_pages_stayed_and_threads_waited() -> None:
    """In the first screen, the sections of the report, and explain."""
    plain = Plain(RECORDINGS["record"])
    stayed = min(row["start_ns"] for row in plain.rows("folios") if row["move_rc"] != 0)
    when = plain.utc(stayed)[11:23]
    path = str(RECORDINGS["record"])
    assert f"  first {when}: " in told("report", path)
    assert f"first at {when}" in " ".join(told("report", "--failures", path).split())
    assert f"  when       {plain.utc(stayed)[:10]} {when} UTC\n" in told("explain", path)
    plain = Plain(RECORDINGS["stalls"])
    text = told("report", "--stalls", str(RECORDINGS["stalls"]))
    for row in plain.rows("waits"):
        assert f"  {plain.utc(row['start_ns'])[11:23]}: worker/" in text
