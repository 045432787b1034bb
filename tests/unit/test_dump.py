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
from others import HELD, META, MOVER, VICTIM, Others, story
from others import META as OTHERS
from simulated_kernel import PAGE, Kernel
from test_report_others import busy

from mptrace.cli import main
from mptrace.cli.dump import TABLES
from mptrace.outcomes.correlate import correlate
from mptrace.outcomes.dump import dumped_table
from mptrace.recording.layouts import MAPPER, NO_LOOKUP, NOT_COUNTED, OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.reporting.numbers.profile import profile

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


def invoke(*arguments: object, width: int = 80) -> Result:
    """Run the command line in this process, in a terminal of so many columns."""
    return CliRunner(env={"COLUMNS": str(width)}).invoke(
        main, ["dump", *(str(argument) for argument in arguments)]
    )


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
    found = correlate(recorded.tables(), Meta.of(recorded.META)).rows
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
    """Entries that stayed or were never attempted; the calls, migrations, folios they are of."""
    path = recorded.write(tmp_path / "r")
    entries = dumped(path, "--failed")
    assert [row["outcome"] for row in entries] == ["failed", "failed"] + ["not_attempted"] * 4
    assert entries[1]["cause"] == "extra_references"
    # the first returned 0 with a page that was refused
    assert [row["ret"] for row in dumped(path, "--failed", "--table", "calls")] == [0, 4, -19]
    assert [row["rc"] for row in dumped(path, "--failed", "--table", "migrations")] == [1]
    folios = dumped(path, "--failed", "--table", "folios")
    assert [row["move_rc"] for row in folios] == [-11]
    assert folios[0]["folio"] == entries[1]["folio"]


def write_others(path: Path, others: Others, **meta: Any) -> Path:
    """A recording of migrations without a call."""
    with RecordingWriter(path, meta={**META, **meta}) as writer:
        for name, rows in others.tables().items():
            writer.append(name, rows)
        writer.finish()
    return path


def test_failed_folios_of_migrations_without_a_call(tmp_path: Path) -> None:
    """By what became of them, whoever wanted them moved: nobody isolated them for a call."""
    path = write_others(tmp_path / "r", story())
    folios = dumped(path, "--failed", "--table", "folios")
    assert [(row["outcome"], row["cause"]) for row in folios] == [
        ("failed", "extra_references"),
        ("failed", "cant_tell"),
    ]
    assert [row["migration"] for row in folios] == [23, 24]
    numbers = profile(story().tables(), Meta.of(META))
    assert len(folios) == sum(row["folios"]["failed"] for row in numbers["paths"]) == 2
    lines = invoke(path, "--failed", "--table", "folios").stdout.splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [
        ["failed", "extra_references"],
        ["failed", "cant_tell"],
    ]


def test_failed_folios_of_calls_are_those_that_stayed(tmp_path: Path) -> None:
    """Refused before a migration had them, or never come to: each with its entry's cause."""
    kernel = Kernel("6.12", 2)
    kernel.folio(1, 0, shared=True)
    kernel.folio(2, 1)
    kernel.folio(3, 0)
    kernel.folio(4, 0, trait="pinned")
    kernel.move_pages([PAGE * page for page in (1, 2, 3, 4)], [1] * 4)
    with RecordingWriter(tmp_path / "r", meta=kernel.meta()) as writer:
        for name, rows in kernel.tables().items():
            writer.append(name, rows)
        writer.finish()
    by_entry = {row["folio"]: row["outcome"] for row in dumped(tmp_path / "r")}
    folios = dumped(tmp_path / "r", "--table", "folios")
    assert {row["folio"]: row["outcome"] for row in folios} == by_entry
    assert sorted(by_entry.values()) == ["already_there", "failed", "failed", "moved"]
    failed = dumped(tmp_path / "r", "--table", "folios", "--failed")
    assert [row["cause"] for row in failed] == ["shared", "extra_references"]


@pytest.mark.parametrize(
    "fields", [{"rc": 1, "failed": 0}, {"rc": 0, "failed": 1}, {"rc": 0, "failed": NOT_COUNTED}]
)
def test_a_migration_fails_by_any_of_its_witnesses(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Its return value, the kernel's own count, or a folio that stayed; report and dump alike."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"a", folios=[{}], rc=0, failed=0)
    stayed = [HELD] if fields["failed"] == NOT_COUNTED else [{}]
    others.migrate("compaction", tgid=31, comm=b"a", folios=stayed, **fields)
    path = write_others(tmp_path / "r", others)
    rows = dumped(path, "--failed", "--table", "migrations")
    assert [row["migration"] for row in rows] == [1]
    numbers = profile(others.tables(), Meta.of(META))
    assert [row["failed_migrations"] for row in numbers["paths"]] == [1]
    assert [group["failed"] for group in numbers["migrations"]["without_call"]] == [1]


def test_an_obstacle_that_was_overcome_is_no_failure(tmp_path: Path) -> None:
    """A folio that was refused once and moved at last did not fail, nor did its obstacle."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"a", folios=[{**HELD, "move_rc": 0}, HELD])
    path = write_others(tmp_path / "r", others)
    assert len(dumped(path, "--table", "obstacles")) == 2
    (row,) = dumped(path, "--table", "obstacles", "--failed")
    assert row["folio"] == 1


NO_ROWS = {
    "entries": "the recording has no entries of calls",
    "calls": "the recording has no calls of move_pages(2)",
    "migrations": "the recording has no migrations",
    "folios": "the recording has no folios",
    "obstacles": "nothing refused or delayed a page in this recording",
    "mappers": "no mappings were recorded of a page that was refused as shared",
    "mappings": "the recording has no mappings of processes",
    "waits": "no thread waited for a page in this recording",
    "balancing": "what NUMA balancing did is unknown: the mptrace that recorded it did not look at "
    "it",
    "processes": "the recording does not describe processes",
    "stacks": "no stacks were recorded ('mptrace record --stacks' records them)",
    "stack_uses": "no stacks were recorded ('mptrace record --stacks' records them)",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
@pytest.mark.parametrize("failed", [[], ["--failed"]])
def test_a_table_without_rows_says_so(
    tmp_path: Path, table: str, form: str, failed: list[str]
) -> None:
    """One line on stderr; on stdout the head of the format, where it has one."""
    path = write_others(tmp_path / "r", Others())
    result = invoke(path, "--table", table, "--format", form, *failed)
    assert result.exit_code == 0
    assert result.stderr == f"no rows: {NO_ROWS[table]}\n"
    assert len(result.stdout.splitlines()) == (0 if form == "jsonl" else 1)


def test_a_table_in_which_nothing_failed_says_of_how_many(tmp_path: Path) -> None:
    """So that an empty answer is no riddle."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"a", folios=[{}] * 23)
    path = write_others(tmp_path / "r", others)
    assert invoke(path, "--table", "folios").stderr == ""
    result = invoke(path, "--table", "folios", "--failed")
    assert result.stderr == "no rows: of 23 folios none failed\n"
    result = invoke(path, "--table", "migrations", "--failed")
    assert result.stderr == "no rows: of 1 migration none failed\n"


#: As where the function that moves a page could not be traced.
NO_MOVE = [
    {**phase, "state": "missing"} if phase["phase"] == "move" else phase
    for phase in META["coverage"]
]


@pytest.mark.parametrize("table", ["folios", "migrations"])
def test_unknown_folios_are_none_that_did_not_fail(tmp_path: Path, table: str) -> None:
    """Where no move was seen nothing is claimed of any folio, nor of its migration."""
    others = Others()
    for _ in range(5):
        others.migrate("compaction", tgid=31, comm=b"a", folios=[{}] * 23)
    path = write_others(tmp_path / "r", others, coverage=NO_MOVE)
    count = {"folios": 115, "migrations": 5}[table]
    told = f"no rows: of {count} {table} none is known to have failed; {count} unknown\n"
    assert invoke(path, "--table", table, "--failed").stderr == told


def test_a_migration_with_lost_records_may_have_failed(tmp_path: Path) -> None:
    """Of the others it is known that they did not."""
    others = Others()
    for lost in (0, 0, 3):
        others.migrate("compaction", tgid=31, comm=b"a", folios=[{}], lost=lost)
    result = invoke(write_others(tmp_path / "r", others), "--table", "migrations", "--failed")
    assert result.stderr == ("no rows: of 3 migrations none is known to have failed; 1 unknown\n")


@pytest.mark.parametrize("table", ["entries", "calls"])
def test_unknown_entries_are_none_that_did_not_fail(tmp_path: Path, table: str) -> None:
    """Of entries whose moves nobody saw, and of those beyond what is read of a call."""
    kernel = Kernel("6.12", 2)
    for page in range(1, 24):
        kernel.folio(page, 0)
    kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23, tid=501)
    with RecordingWriter(tmp_path / "r", meta={**META, "coverage": NO_MOVE}) as writer:
        for name, rows in kernel.tables().items():
            writer.append(name, rows)
        writer.finish()
    count = {"entries": 23, "calls": 1}[table]
    told = f"no rows: of {count} {table} none is known to have failed; {count} unknown\n"
    assert invoke(tmp_path / "r", "--table", table, "--failed").stderr == told
    said = CliRunner().invoke(main, ["explain", str(tmp_path / "r")]).stdout
    assert said == (
        "of 23 entries none is known to have failed; 23 unknown: mptrace report says why\n"
    )


def test_a_short_lived_process_has_the_name_that_its_migration_has(tmp_path: Path) -> None:
    """What any table knows stands in every table; what none knows is null, and no number."""
    others = Others()
    others.migrate(
        "syscall", tgid=MOVER, tid=9, comm=b"worker", cgroup_id=77, folios=[{}], syscall=256
    )
    others.migrate("syscall", tgid=MOVER, comm=b"mover", cgroup_id=77, folios=[{}], syscall=256)
    others.migrate("compaction", tgid=MOVER, tid=9, comm=b"", folios=[{}])
    others.add("processes", tgid=MOVER, uid=0xFFFFFFFF, seen_ns=1)
    others.add("processes", tgid=VICTIM, uid=0xFFFFFFFF, seen_ns=1)
    others.add("mappers", pid=MOVER, call_id=1)
    path = write_others(tmp_path / "r", others)
    keys = ("tgid", "comm", "uid", "cgroup_id", "cgroup")
    assert [[row[key] for key in keys] for row in dumped(path, "--table", "processes")] == [
        [MOVER, "mover", None, 77, "/system.slice/mover.service"],
        [VICTIM, "", None, None, None],
    ]
    rows = dumped(path, "--table", "migrations")
    assert [row["comm"] for row in rows] == ["worker", "mover", "worker"]
    assert [row["comm"] for row in dumped(path, "--table", "mappers")] == ["mover"]
    lines = invoke(path, "--table", "processes").stdout.splitlines()
    assert lines[1].split() == [str(MOVER), "mover", "-", "/system.slice/mover.service"]


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
    lines = invoke(recorded.write(tmp_path / "r"), width=120).stdout.splitlines()
    assert lines[0].split() == PROMISED
    assert len(lines) == 1 + 28
    assert all(len(line.split()) == len(PROMISED) for line in lines)


def test_a_table_fits_80_columns_and_cuts_nothing(tmp_path: Path) -> None:
    """Columns without room stand below, where they have a value: here causes of six entries."""
    path = recorded.write(tmp_path / "r")
    wide, narrow = (invoke(path, width=width).stdout.splitlines() for width in (120, 80))
    assert max(map(len, narrow)) <= 80
    heads = "call entry address target status outcome reason final witnesses cause"
    assert " ".join(narrow[:2]).split() == heads.split()
    assert [line for line in narrow if line.startswith(" ")][1:] == [
        "    " + line.split()[-1] for line in wide[1:] if line.split()[-1] != "-"
    ]
    assert len(narrow) == 2 + 28 + 6
    first = next(line for line in wide if "aborted_by_earlier_group" in line).split()
    at = narrow.index("    aborted_by_earlier_group")
    assert narrow[at - 1].split() == first[:-1]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_fits_80_columns(table: str, tmp_path: Path) -> None:
    """However long names are, and however large numbers; and each value is there whole."""
    tables = busy()
    cgroup = "/kubepods.slice/burstable/" + "pod0123456789abcdef-" * 9 + "end.scope"
    for rows in tables.values():
        for name in rows.dtype.names or ():
            if name in ("tid", "tgid", "pid", "holder_tid"):
                rows[name][rows[name] != 0] += 4_000_000
            elif name == "comm":
                rows[name] = b"a_comm_of_15_by"
            elif name in ("succeeded", "n_lookups", "nr_pages", "wait_ns"):
                rows[name] = np.iinfo(rows[name].dtype).max >> 1
            elif name in ("address", "src"):
                rows[name] |= np.uint64(1 << 63)
            elif name == "cgroup_id":
                rows[name] = 77
    with RecordingWriter(tmp_path / "r", meta={**OTHERS, "cgroups": {"77": cgroup}}) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    result = invoke(tmp_path / "r", "--table", table)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    words = "".join(lines).replace(" ", "")
    rows_ = dumped(tmp_path / "r", "--table", table)
    for row in rows_[:3]:
        for name in dumped_table(table, busy(), Meta.of(OTHERS), failed=False).short:
            value = row[name] if row[name] not in (None, "") else "-"
            # a table has the time of the day
            assert (str(value)[11:23] if name.endswith("_utc") else str(value)) in words


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
