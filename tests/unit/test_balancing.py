# SPDX-License-Identifier: GPL-2.0-or-later
"""What NUMA balancing does beside its migrations, from BPF's sums to what a report says."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from others import META, MOVER, OTHER, VICTIM, Others

from mptrace.cli import main
from mptrace.outcomes.selection import EVERYTHING, Selection, paths_named
from mptrace.recording.balancing import (
    BALANCING_KEY,
    BALANCING_SUMS,
    PERIOD_SHIFT,
    SETTLED_NS,
    rows_of_sums,
)
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.recording.writer import RecordingWriter
from mptrace.report import answer
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.numbers.top import shortened
from mptrace.tracer import Tracer

PHASES = ("numa_scan", "hint_fault", "hint_fault_end")
TRACED = [
    *META["coverage"],
    *(
        {"phase": phase, "unit": "x", "attach": phase, "method": "fentry", "state": "unproved"}
        for phase in PHASES
    ),
]
SECOND = 10**9
#: Of the wall clock at monotonic 5 (META).
BEGAN = "2023-11-14T22:13:"


def key(period: int, tgid: int, cpu: int) -> Any:
    """A key of BPF's map."""
    return np.array([(period, tgid, cpu)], BALANCING_KEY)[0]


def sums(**values: Any) -> Any:
    """Sums of BPF's map."""
    row = np.zeros(1, BALANCING_SUMS)
    for name, value in values.items():
        row[name] = value
    return row[0]


def seconds(others: Others, tgid: int, at_s: float, **values: Any) -> None:
    """A row that lasts from ``at_s`` for half a second."""
    start = int(at_s * SECOND)
    values = {"from_ns": start, "to_ns": start + SECOND // 2, "comm": b"thread", **values}
    others.add("balancing", tgid=tgid, **values)


def story() -> Others:
    """VICTIM is scanned in three periods, OTHER in one; a row of mptrace itself."""
    others = Others()
    others.process(VICTIM, b"python3")
    others.process(OTHER, b"redis")
    scan = {"scan_max_ns": 16_040_000, "scan_max_at_ns": 2 * SECOND + 7}
    seconds(others, VICTIM, 1, scans=5, scan_ns=10_000_000, scan_max_ns=3_000_000)
    others.rows["balancing"][-1]["scan_max_at_ns"] = SECOND + 3
    seconds(others, VICTIM, 2, scans=7, scan_ns=21_100_000, **scan)
    fault = {"fault_max_ns": 1_200_000, "fault_max_at_ns": 3 * SECOND + 9}
    seconds(others, VICTIM, 3, faults=2003, faults_timed=2003, fault_ns=14_100_000, **fault)
    seconds(others, OTHER, 3, scans=1, scan_ns=900, scan_max_ns=900, scan_max_at_ns=3 * SECOND)
    seconds(others, 77, 3, scans=99, scan_ns=99 * SECOND, scan_max_ns=5, scan_max_at_ns=5)
    for ns in (400_400, 600_600):
        others.migrate("numa_misplaced", tgid=VICTIM, comm=b"thread", folios=[{}], ns=ns)
    others.migrate("numa_misplaced", tgid=OTHER, comm=b"redis", folios=[{}], ns=50)
    others.migrate("compaction", tgid=VICTIM, comm=b"thread", folios=[{}], ns=9_000_000)
    return others


def numbers_of(others: Others, selection: Selection = EVERYTHING, **meta: Any) -> dict[str, Any]:
    """The report's numbers."""
    known = Meta.of({**META, "coverage": TRACED, "own": [77], **meta})
    found: dict[str, Any] = profile(others.tables(), known, selection=selection)
    return found


# ---- from BPF's sums to rows


def test_the_cpus_of_a_period_are_one_row() -> None:
    """Counts and times add up; begin, end and the longest with its moment are those of all."""
    keys = np.array([key(7, 23, 0), key(7, 23, 5), key(8, 23, 0), key(7, 29, 0)])
    values = np.array(
        [
            sums(from_ns=50, to_ns=70, scans=2, scan_ns=12, scan_max_ns=9, scan_max_at_ns=51),
            sums(
                from_ns=40, to_ns=60, scans=1, scan_ns=8, scan_max_ns=8, scan_max_at_ns=40,
                faults=5, faults_timed=4, fault_ns=11, fault_max_ns=6, fault_max_at_ns=44,
            ),
            sums(from_ns=90, to_ns=91, faults=1, comm=b"worker"),
            sums(from_ns=45, to_ns=46, faults=3, faults_timed=3, fault_ns=1 << 40),
        ]
    )  # fmt: skip
    rows = {(int(row["tgid"]), int(row["from_ns"])): row for row in rows_of_sums(keys, values)}
    assert set(rows) == {(23, 40), (23, 90), (29, 45)}
    both = rows[23, 40]
    assert (both["to_ns"], both["scans"], both["scan_ns"]) == (70, 3, 20)
    assert (both["scan_max_ns"], both["scan_max_at_ns"]) == (9, 51)
    assert (both["faults"], both["faults_timed"], both["fault_ns"]) == (5, 4, 11)
    assert (both["fault_max_ns"], both["fault_max_at_ns"]) == (6, 44)
    assert (rows[23, 90]["faults"], rows[23, 90]["comm"]) == (1, b"worker")
    assert rows[29, 45]["fault_ns"] == 1 << 40
    assert rows_of_sums(keys[:0], values[:0]).size == 0


class PlayedMap:
    """BPF's map as bytes."""

    def __init__(self, *keys: Any) -> None:
        self.rows = {each.tobytes(): sums(from_ns=1, to_ns=2, faults=1).tobytes() for each in keys}

    def keys(self) -> list[bytes]:
        """All keys."""
        return list(self.rows)

    def at(self, wanted: bytes) -> bytes:
        """The value of one."""
        return self.rows[wanted]

    def delete(self, wanted: bytes) -> None:
        """Forget one."""
        del self.rows[wanted]


def test_only_what_is_over_is_taken() -> None:
    """A period that may still change stays, until everything is asked for; nothing comes twice."""
    played = PlayedMap(key(5, 23, 0), key(5, 23, 1), key(6, 23, 0))
    tracer = Tracer.__new__(Tracer)
    tracer._maps = {"balancing": played}  # type: ignore[dict-item]
    tracer.plan = SimpleNamespace(defines={"BALANCING": 1})  # type: ignore[assignment]
    end = 6 << PERIOD_SHIFT
    assert tracer.balancing(end + SETTLED_NS - 1).size == 0
    assert tracer.balancing(end + SETTLED_NS)["faults"].tolist() == [2]
    assert tracer.balancing(end + SETTLED_NS).size == 0
    assert tracer.balancing(end + SETTLED_NS, every=True)["faults"].tolist() == [1]
    assert not played.rows
    tracer.plan = SimpleNamespace(defines={})  # type: ignore[assignment]
    assert tracer.balancing(end, every=True).size == 0


# ---- numbers


def test_by_process_with_the_time_of_its_own_migrations() -> None:
    """Sums of all periods; the longest and when it was, also in UTC; mptrace's own is left out."""
    found = numbers_of(story())["balancing"]
    victim, other = found["processes"]
    assert {name: victim[name] for name in ("tgid", "comm", "scans", "scan_ns", "faults")} == {
        "tgid": VICTIM,
        "comm": "python3",
        "scans": 12,
        "scan_ns": 31_100_000,
        "faults": 2003,
    }
    assert (victim["scan_max_ns"], victim["scan_max_at_ns"]) == (16_040_000, 2 * SECOND + 7)
    assert victim["scan_max_at_utc"] == f"{BEGAN}22.000000002Z"
    assert (victim["fault_ns"], victim["faults_timed"]) == (14_100_000, 2003)
    assert (victim["fault_max_ns"], victim["fault_max_at_ns"]) == (1_200_000, 3 * SECOND + 9)
    assert victim["migrating_ns"] == 1_001_000
    assert (victim["first_ns"], victim["last_ns"]) == (SECOND, 3 * SECOND + SECOND // 2)
    assert (other["scans"], other["faults"], other["fault_ns"]) == (1, 0, 0)
    assert (other["fault_max_ns"], other["fault_max_at_ns"]) == (None, None)
    assert other["migrating_ns"] == 50
    totals = found["totals"]
    assert (totals["scans"], totals["scan_ns"], totals["faults"]) == (13, 31_100_900, 2003)
    assert totals["scan_max_ns"] == 16_040_000
    assert not any(found["why_unknown"].values())
    assert not found["is_least"]


@pytest.mark.parametrize(
    "change",
    [{"filters": {"min_ns": 5}}, {"filters": {"failed": True}}, {"lost": {"call_ring_full": 1}}],
)
def test_migrations_that_are_missing_have_no_time(change: dict[str, Any]) -> None:
    """Null and why, not the sum of those that are there."""
    found = numbers_of(story(), **change)["balancing"]
    assert [row["migrating_ns"] for row in found["processes"]] == [None, None]
    assert found["why_unknown"]["migrating_ns"]
    assert found["processes"][0]["scans"] == 12


def without(*phases: str) -> list[dict[str, Any]]:
    """Coverage of a kernel that has not these functions."""
    missing = {"method": "", "attach": "", "state": "missing", "reason": "not in this kernel"}
    return [{**row, **missing} if row["phase"] in phases else row for row in TRACED]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"coverage": META["coverage"]}, "the mptrace that recorded it did not look at it"),
        ({"coverage": [], "tier": "tracepoints"}, "tracepoints alone don't tell"),
        ({"coverage": META["coverage"], "scope": None}, "only mptrace record looks at it"),
        ({"coverage": without(*PHASES)}, "not in this kernel"),
        ({"filters": {"reasons": ["compaction"]}}, "reason numa_misplaced was not asked for"),
    ],
)
def test_what_was_not_looked_at_is_null(change: dict[str, Any], why: str) -> None:
    """And never zero: the reason stands beside, and no line of text has a number."""
    numbers = numbers_of(Others(), **change)
    found = numbers["balancing"]
    assert found["processes"] is None
    assert found["totals"] is None
    assert found["why_unknown"]["scans"] == found["why_unknown"]["fault_ns"] == why
    assert numbers["summary"]["balancing"] is None
    text = answer(numbers, ("all",))
    looked = "hint_fault" in {row["phase"] for row in change.get("coverage", TRACED)}
    assert ("NUMA balancing beside its migrations: unknown" in text) == looked
    assert "NUMA balancing took" not in text


def test_a_part_that_was_not_seen_is_unknown_alone() -> None:
    """Without the end of hint faults they are counted, without scans the rest is there."""
    numbers = numbers_of(story(), coverage=without("hint_fault_end"))
    (victim, _) = numbers["balancing"]["processes"]
    assert (victim["faults"], victim["faults_timed"], victim["fault_ns"]) == (2003, None, None)
    text = answer(numbers, ("phases",))
    assert "2,003 hint faults;" in text
    assert "unknown: times of hint faults: not in this kernel" in text
    numbers = numbers_of(story(), coverage=without("numa_scan"))
    (victim, _) = numbers["balancing"]["processes"]
    assert (victim["scans"], victim["fault_ns"]) == (None, 14_100_000)
    assert "scan" not in answer(numbers).replace("--phases", "")


def test_every_field_stands_in_the_docs() -> None:
    """In the row of its key, and in that of the summary."""
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    numbers = numbers_of(story())
    for value, start in (
        (numbers["balancing"], "| `balancing` | what NUMA"),
        (numbers["summary"]["balancing"], "| `balancing` | null"),
    ):
        row = next(line for line in text.splitlines() if line.startswith(start))
        assert names(value) <= set(re.findall(r"`(\w+)`", row))


def names(value: Any) -> set[str]:
    """Keys at any depth."""
    if isinstance(value, list):
        return {name for each in value for name in names(each)}
    if not isinstance(value, dict):
        return set()
    return set(value) | {name for each in value.values() for name in names(each)}


# ---- text


def test_the_first_screen_says_it_in_a_sentence() -> None:
    """Of one process its name, of several how many, and the one of most time."""
    others = story()
    others.rows["balancing"] = others.rows["balancing"][:3]
    lines = answer(numbers_of(others)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("NUMA balancing"))
    assert lines[at : at + 2] == [
        f"NUMA balancing took 45.2 ms of python3/{VICTIM}: 12 scans 31.1 ms (longest 16.0 ms),",
        "  2,003 hint faults 14.1 ms (--phases)",
    ]
    text = " ".join(answer(numbers_of(story())).split())
    assert (
        "NUMA balancing took 45.2 ms of 2 processes: 13 scans 31.1 ms (longest 16.0 ms), "
        f"2,003 hint faults 14.1 ms; 45.2 ms of python3/{VICTIM} (--phases)"
    ) in text
    assert len(answer(numbers_of(story())).splitlines()) <= 25


def test_what_is_less_than_all_is_said_to_be() -> None:
    """Sums of which something was lost, and times of hint faults that did not all end."""
    text = answer(numbers_of(story(), lost={"balancing_map_full": 3}))
    assert "took >= 45.2 ms" in text
    assert ">= 13 scans" in text
    assert "what NUMA balancing took is a least number" in " ".join(text.split())
    others = story()
    others.rows["balancing"][2]["faults_timed"] = 1990
    text = " ".join(answer(numbers_of(others), ("phases",)).split())
    assert "2,003 hint faults >= 14.1 ms" in text
    assert "13 hint faults without a time" in text


def test_the_phases_have_a_table_of_it() -> None:
    """By process, the most time first; cut like other lists, in 80 columns."""
    text = answer(numbers_of(story()), ("phases",))
    row = next(line for line in text.splitlines() if line.startswith(f"python3/{VICTIM}  "))
    assert row.split() == [
        f"python3/{VICTIM}", "12", "31.1", "ms", "16.0", "ms", "2,003", "14.1", "ms", "1.20", "ms",
        "1.00", "ms",
    ]  # fmt: skip
    assert "longest scan at 22:13:22.000; longest hint fault at 22:13:23.000" in text
    others = story()
    for number in range(40):
        seconds(others, 6000 + number, 5, scans=1, scan_ns=number)
    numbers = numbers_of(others)
    text = answer(numbers, ("phases",))
    assert "and 32 more processes: --json" in text
    assert max(map(len, text.splitlines())) <= 80
    cut = shortened({**numbers, "selection": {}}, 3)
    assert len(cut["balancing"]["processes"]) == 3
    assert cut["selection"]["cut"]["balancing.processes"] == 39


def test_nothing_is_said_to_be_nothing_where_it_was_looked_for() -> None:
    """A session in which nothing was balanced."""
    text = answer(numbers_of(Others()), ("phases",))
    assert "NUMA balancing beside its migrations: no scan and no hint fault was seen" in text
    assert "NUMA balancing took" not in text


# ---- what is selected


@pytest.mark.parametrize(
    ("wanted", "scans", "unsure"),
    [
        (Selection(pids=(OTHER,)), 1, 0),
        (Selection(pids=(MOVER,)), 0, 0),
        (Selection(from_ns=2 * SECOND, to_ns=3 * SECOND), 7, 0),
        # it ends where the time begins, and begins where that ends
        (Selection(from_ns=SECOND + SECOND // 2, to_ns=2 * SECOND), 5, 0),
        (Selection(from_ns=SECOND + SECOND // 2 + 1, to_ns=2 * SECOND), 0, 0),
        (Selection(from_ns=-(10**30), to_ns=10**30), 13, 0),
        (Selection(nids=(1,)), 0, 4),
        (Selection(failed=True), 13, 0),
    ],
)
def test_rows_are_selected(wanted: Selection, scans: int, unsure: int) -> None:
    """By process, and by any moment of their time; of a node nobody can say."""
    numbers = numbers_of(story(), wanted)
    assert numbers["balancing"]["totals"]["scans"] == scans
    assert numbers["selection"]["unsure"]["balancing"] == unsure
    assert numbers["selection"]["rows"]["balancing"]["of"] == 4


@pytest.mark.parametrize(
    ("name", "scans", "unsure"),
    [("numa_balancing", 13, 0), ("numa_misplaced", 13, 0), ("compaction", 0, 0)],
)
@pytest.mark.parametrize("has_slow", [False, True])
def test_the_path_is_that_of_its_migrations(
    name: str, scans: int, unsure: int, has_slow: bool
) -> None:
    """Also where the host has a node without CPUs, to be promoted from."""
    nodes = [*META["nodes"], *([{"nid": 2, "cpus": [], "memory_bytes": 5}] * has_slow)]
    meta = {"nodes": nodes}
    codes, maybe, reasons = paths_named([name], Meta.of({**META, **meta}))
    wanted = Selection(names=(name,), paths=codes, maybe=maybe, reasons=reasons)
    numbers = numbers_of(story(), wanted, **meta)
    assert numbers["balancing"]["totals"]["scans"] == scans
    assert numbers["selection"]["unsure"]["balancing"] == unsure


def write(path: Path, others: Others, **meta: Any) -> Path:
    """A recording."""
    with RecordingWriter(path, meta={**META, "coverage": TRACED, "own": [77], **meta}) as writer:
        for name, rows in others.tables().items():
            writer.append(name, rows)
        writer.finish()
    return path


def run(*arguments: object) -> Any:
    """The command line."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_rows_are_dumped(tmp_path: Path) -> None:
    """With what the wall clock said, whose they are, and null where there is no longest."""
    path = write(tmp_path / "r", story())
    done = run("dump", "--table", "balancing", "--format", "csv", path)
    head, *rows = (line.split(",") for line in done.stdout.splitlines())
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["tgid"] for row in found] == [str(n) for n in (VICTIM, VICTIM, VICTIM, OTHER, 77)]
    assert [row["own"] for row in found] == ["False"] * 4 + ["True"]
    assert found[0]["from_utc"] == f"{BEGAN}20.999999995Z"
    assert (found[0]["fault_ns"], found[0]["fault_max_ns"]) == ("0", "")
    assert found[1]["scan_max_at_utc"] == f"{BEGAN}22.000000002Z"
    text = run("dump", "--table", "balancing", "--pid", OTHER, path).stdout
    assert "1 of 5 rows of NUMA balancing" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    strict = run("report", "--strict", "--node", 1, path)
    assert strict.exit_code == 3


def test_what_a_kernel_lacks_is_not_dumped_as_zero(tmp_path: Path) -> None:
    """Null in the columns of it."""
    path = write(tmp_path / "r", story(), coverage=without("hint_fault_end", "numa_scan"))
    done = run("dump", "--table", "balancing", "--format", "csv", path)
    head, *rows = (line.split(",") for line in done.stdout.splitlines())
    third = dict(zip(head, rows[2], strict=True))
    assert third["faults"] == "2003"
    assert {third[name] for name in ("scans", "scan_ns", "fault_ns", "faults_timed")} == {""}
    empty = write(tmp_path / "e", Others(), coverage=without(*PHASES))
    done = run("dump", "--table", "balancing", empty)
    assert "no rows: what NUMA balancing did is unknown: not in this kernel" in done.stderr


def test_processes_that_were_only_balanced_are_named(tmp_path: Path) -> None:
    """By what /proc said of them, else by a thread; they take part in what is selected."""
    others = story()
    others.rows["processes"] = others.rows["processes"][:1]
    numbers = numbers_of(others)
    assert [row["comm"] for row in numbers["balancing"]["processes"]] == ["python3", "redis"]
    seconds(others, 6001, 9, scans=1, scan_ns=10**9)
    assert numbers_of(others)["balancing"]["processes"][0]["comm"] == "thread"
    others.process(6001, b"sleeper")
    path = write(tmp_path / "r", others)
    text = run("dump", "--table", "processes", "--pid", 6001, "--format", "csv", path).stdout
    assert len(text.splitlines()) == 2
    nothing = run("report", "--pid", 6002, path).stdout
    assert "sleeper/6001" in " ".join(nothing.split())


def test_a_recording_without_the_table_is_read(tmp_path: Path) -> None:
    """As versions before wrote it."""
    path = write(tmp_path / "r", story())
    for part in path.glob("balancing-*.parquet"):
        part.unlink()
    text = (path / "meta.json").read_text()
    (path / "meta.json").write_text(re.sub(r',?\s*"balancing": \d+', "", text))
    found = Recording.open(path)
    assert not found.missing_parts
    assert found.table("balancing").size == 0
