# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows behind a report, in each format."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded
from click.testing import CliRunner, Result

from mptrace.cli import main
from mptrace.correlate import correlate
from mptrace.recording import RecordingWriter
from mptrace.records import MAPPER, NO_LOOKUP, OUTCOMES

PROMISED = [
    "call",
    "entry",
    "address",
    "target_nid",
    "status",
    "outcome",
    "entry_reason",
    "final_nid",
    "witnesses",
    "cause",
]


def invoke(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, ["dump", *(str(argument) for argument in arguments)])


def dumped(*arguments: object) -> list[dict[str, Any]]:
    """Rows of the JSON lines."""
    result = invoke(*arguments, "--format", "jsonl")
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_row_for_each_entry_of_each_call(tmp_path: Path) -> None:
    """In order, with the promised fields, and what the correlator says."""
    rows = dumped(recorded.write(tmp_path / "r"))
    assert [(row["call"], row["entry"]) for row in rows] == [
        (call, entry) for call, count in enumerate((9, 16, 3)) for entry in range(count)
    ]
    assert list(rows[0])[: len(PROMISED)] == PROMISED
    found = correlate(recorded.tables(), recorded.META).rows
    assert [row["outcome"] for row in rows] == [OUTCOMES[code] for code in found["outcome"]]
    assert rows[0]["address"] == "0x7f0000000000"


def test_status_is_null_where_the_kernel_left_it_untouched(tmp_path: Path) -> None:
    """The pinned page's group has none, though most of its pages moved."""
    rows = dumped(recorded.write(tmp_path / "r"))
    group = [row for row in rows if row["call"] == 1]
    assert [row["status"] for row in group] == [None] * 16
    assert {row["witnesses"] for row in group} == {"silent"}
    assert [row["outcome"] for row in group].count("moved") == 12
    assert [row["status"] for row in rows if row["call"] == 0] == [1] * 5 + [-14, 1, 1, 1]


def test_failed_leaves_what_did_not_succeed(tmp_path: Path) -> None:
    """Entries that stayed or were never attempted; calls and migrations with a return value."""
    path = recorded.write(tmp_path / "r")
    entries = dumped(path, "--failed")
    assert [row["outcome"] for row in entries] == ["failed", "failed"] + ["not_attempted"] * 4
    assert entries[1]["cause"] == "extra_references"
    assert [row["ret"] for row in dumped(path, "--failed", "--table", "calls")] == [4, -19]
    assert [row["rc"] for row in dumped(path, "--failed", "--table", "migrations")] == [1]
    folios = dumped(path, "--failed", "--table", "folios")
    assert [row["move_rc"] for row in folios] == [-11]
    assert folios[0]["folio"] == entries[1]["folio"]


def test_numbers_join_the_tables(tmp_path: Path) -> None:
    """`folio`, `migration` and `call` are the places of rows; null where there is none."""
    path = recorded.write(tmp_path / "r")
    folios, migrations = dumped(path, "--table", "folios"), dumped(path, "--table", "migrations")
    calls = dumped(path, "--table", "calls")
    for row in dumped(path):
        if row["folio"] is not None:
            folio = folios[row["folio"]]
            assert folio["call"] == row["call"]
            if folio["migration"] is not None:
                assert migrations[folio["migration"]]["call"] == row["call"]
    assert [row["call"] for row in calls] == [0, 1, 2]
    assert migrations[-1]["call"] is None
    assert {"isolate_ns", "alloc_ns", "unmap_ns", "copy_ns", "remap_ns"} <= set(folios[0])
    assert "pad" not in folios[0]


def test_obstacles_are_the_evidence_behind_explanations(tmp_path: Path) -> None:
    """Raw state of each page that was refused, with the row of its folio and its call."""
    path = recorded.write(tmp_path / "r")
    (row,) = dumped(path, "--table", "obstacles")
    assert row == dumped(path, "--table", "obstacles", "--failed")[0]
    assert (row["obstacle"], row["call"], row["stage"], row["rc"]) == (0, 1, "move", -11)
    assert (row["refcount"], row["n_move"], row["mapping"]) == (2, 10, "0xffff888000000001")
    assert dumped(path, "--table", "folios")[row["folio"]]["move_rc"] == -11
    assert invoke(path, "--table", "obstacles").stdout.splitlines()[1].split()[4:6] == [
        "move",
        "-11",
    ]


def test_an_obstacle_that_only_delayed_is_no_failure(tmp_path: Path) -> None:
    """It has no stage, and --failed leaves it out; one without a folio has null there."""
    tables = recorded.tables()
    waited = np.zeros(1, tables["obstacles"].dtype)
    waited["call_id"], waited["lookup_seq"] = 999, NO_LOOKUP
    waited["fs"] = b"ext4"
    tables["obstacles"] = np.concatenate([tables["obstacles"], waited])
    with RecordingWriter(tmp_path / "r", meta=recorded.META) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    row = dumped(tmp_path / "r", "--table", "obstacles")[1]
    assert (row["stage"], row["folio"], row["call"], row["lookup_seq"]) == ("", None, None, None)
    assert row["fs"] == "ext4"
    assert len(dumped(tmp_path / "r", "--table", "obstacles", "--failed")) == 1


def test_who_maps_a_refused_page(tmp_path: Path) -> None:
    """A row for each mapping that was found; none in a recording that has no such table."""
    tables = recorded.tables()
    mapper = np.zeros(1, MAPPER)
    mapper["call_id"] = tables["calls"]["call_id"][1]
    mapper["pid"], mapper["comm"], mapper["address"] = 1234, b"postgres", 0x1000
    with RecordingWriter(tmp_path / "r", meta=recorded.META) as writer:
        for name, rows in {**tables, "mappers": mapper}.items():
            writer.append(name, rows)
        writer.finish()
    (row,) = dumped(tmp_path / "r", "--table", "mappers", "--failed")
    assert (row["call"], row["pid"], row["comm"], row["address"]) == (1, 1234, "postgres", "0x1000")
    assert dumped(recorded.write(tmp_path / "other"), "--table", "mappers") == []


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    """An empty cell is null or the empty text."""
    path = recorded.write(tmp_path / "r")
    result = invoke(path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in dumped(path)
    ]
    assert rows == expected


def test_the_table_has_a_head_and_a_line_for_each_row(tmp_path: Path) -> None:
    """Columns stand below their names; nothing is left empty."""
    lines = invoke(recorded.write(tmp_path / "r")).stdout.splitlines()
    assert lines[0].split() == PROMISED
    assert len(lines) == 1 + 28
    assert all(len(line.split()) == len(PROMISED) for line in lines)


def test_an_unread_entry_has_nulls(tmp_path: Path) -> None:
    """What could not be read is null, not zero."""
    tables = recorded.tables()
    tables["entries"] = np.delete(tables["entries"], 1)
    with RecordingWriter(tmp_path / "r", meta=recorded.META) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    row = dumped(tmp_path / "r")[1]
    assert (row["entry"], row["address"], row["target_nid"], row["status"]) == (1, None, None, None)
    assert (row["outcome"], row["cause"], row["final_nid"]) == ("unknown", "lost", None)


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_a_closed_pipe_is_quiet(tmp_path: Path, form: str) -> None:
    """`mptrace dump | head -1` prints a line and no traceback."""
    tables = recorded.tables()
    tables["folios"] = np.tile(tables["folios"], 2000)
    with RecordingWriter(tmp_path / "r", meta=recorded.META) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mptrace", "dump", "--table", "folios"),
            *("--format", form, str(tmp_path / "r")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_without_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is mptrace.data here; where there is none, that is said."""
    monkeypatch.chdir(tmp_path)
    result = invoke()
    assert result.exit_code == 1
    assert "mptrace.data" in result.stderr
    recorded.write(tmp_path / "mptrace.data")
    assert invoke().exit_code == 0
