# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat` and `mptrace top` in a guest, against tracefs and /proc/vmstat."""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mptrace.lab.guest import Completed, Guest

HERE = Path(__file__).parent
Mptrace = Callable[..., Completed]
Refusals = Callable[..., list[Completed]]
# as in stat_guest.py
PAGES, PINNED, ROUNDS, STORM, ROOM = 509, 11, 6, 211, 64
#: Names of tracefs -> names of BTF.
REASONS = {"syscall_or_cpuset": "syscall"}
_seen: dict[str, dict[str, Any]] = {}


@pytest.fixture
def seen(guest: Guest, kernel: str) -> dict[str, Any]:
    """What stat_guest.py printed on this kernel; run once, as attaching takes its time."""
    if kernel not in _seen:
        argv = ["/usr/bin/python3", str(HERE / "stat_guest.py"), sys.executable]
        done = guest.run(argv, cwd=str(HERE.parents[1]), timeout=900)
        assert done.returncode == 0, done.errors
        _seen[kernel] = json.loads(done.text)
    return _seen[kernel]


def total_of(stat: dict[str, Any]) -> dict[str, Any]:
    """The last line that a stat printed."""
    last: dict[str, Any] = stat["values"][-1]
    assert last["type"] == "total"
    return last


def traced(seen: dict[str, Any], of: dict[str, Any]) -> list[dict[str, Any]]:
    """What tracefs has of the time that a total is of."""
    # its times are cut to microseconds
    start, end = of["start_ns"] // 1000 * 1000, of["end_ns"]
    fields = ("ns", "tid", "kind", "moved", "failed", "reason")
    rows = [dict(zip(fields, row, strict=True)) for row in seen["traced"]]
    return [row for row in rows if start <= row["ns"] <= end]


def test_the_total_is_what_tracefs_and_vmstat_counted(seen: dict[str, Any]) -> None:
    """All migrations and pages of everybody, although there was room for 64 processes only."""
    total = total_of(seen["everybody"])
    rows = [row for row in traced(seen, total) if row["kind"] == "migration"]
    counted = total["total"]
    assert counted["migrations"] == len(rows) > 2 * ROUNDS + STORM
    assert counted["moved_pages"] == sum(row["moved"] for row in rows)
    assert counted["failed_pages"] == sum(row["failed"] for row in rows)
    assert counted["migrations_untimed"] == 0
    # vmstat was read before mptrace began and after it ended
    inside = {row["ns"] for row in rows}
    outside = [row for row in seen["traced"] if row[2] == "migration" and row[0] not in inside]
    assert seen["vmstat"] == [
        counted["moved_pages"] + sum(row[3] for row in outside),
        counted["failed_pages"] + sum(row[4] for row in outside),
    ]
    lost = {cause: n for cause, n in total["lost"].items() if cause != "row_map_full"}
    assert set(lost.values()) == {0}
    assert total["unfinished"] == {"migrations": 0, "waits": 0}


def test_intervals_add_up_to_the_total(seen: dict[str, Any]) -> None:
    """No interval overlaps another or leaves a gap, and nothing counts twice."""
    *intervals, total = seen["everybody"]["values"]
    assert len(intervals) > 3
    for name in ("migrations", "moved_pages", "failed_pages", "time_ns", "waits", "wait_ns"):
        assert sum(each["total"][name] for each in intervals) == total["total"][name], name
    bounds = [(each["start_ns"], each["end_ns"]) for each in intervals]
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert (bounds[0][0], bounds[-1][1]) == (total["start_ns"], total["end_ns"])


def test_processes_are_told_apart(seen: dict[str, Any]) -> None:
    """The mover, migratepages(8) and who asked for compaction have what tracefs says of them."""
    total = total_of(seen["everybody"])
    rows = traced(seen, total)
    processes = {p["tgid"]: p for p in total["processes"] if p["migrations"]}
    mover = processes[seen["mover"]["tgid"]]
    assert mover["comm"] == "statmover"
    assert mover["moved_pages"] == 2 * ROUNDS * (PAGES - PINNED)
    # on the way back they are there already
    assert mover["failed_pages"] == ROUNDS * PINNED
    assert mover["migrations"] == sum(
        row["kind"] == "migration" and row["tid"] == seen["mover"]["tgid"] for row in rows
    )
    tools = [p for p in processes.values() if p["comm"] == "migratepages"]
    assert len(tools) == 2
    for process in (*tools, processes[seen["compacting"]]):
        mine = [r for r in rows if r["tid"] == process["tgid"] and r["kind"] == "migration"]
        assert process["moved_pages"] == sum(row["moved"] for row in mine) > 0
        names = {REASONS.get(row["reason"], row["reason"]) for row in mine}
        assert {reason["reason"] for reason in process["reasons"]} == names


def test_what_found_no_room_is_counted_and_said(seen: dict[str, Any]) -> None:
    """211 processes in a moment: more are known than there is room for at once, the rest said."""
    total = total_of(seen["everybody"])
    others = [p for p in total["processes"] if p["comm"] == "(others)"]
    counted = sum(p["migrations"] + p["waits"] for p in others)
    assert total["lost"]["row_map_full"] == counted
    assert len(total["processes"]) - len(others) > ROOM
    for name in ("migrations", "moved_pages", "failed_pages"):
        assert sum(p[name] for p in total["processes"]) == total["total"][name]


def test_a_chosen_process_is_seen_alone(seen: dict[str, Any]) -> None:
    """-p: the same numbers as among all, nobody else's, and an end in order with the process."""
    chosen = seen["chosen"]
    assert chosen["status"] == 0, chosen["errors"]
    assert "ended" in chosen["errors"]
    total = total_of(chosen)
    everybody = total_of(seen["everybody"])["processes"]
    mover = next(p for p in everybody if p["tgid"] == seen["mover"]["tgid"])
    for name in ("migrations", "moved_pages", "failed_pages", "waits"):
        assert total["total"][name] == mover[name], name
    assert [reason["reason"] for reason in total["reasons"] if reason["migrations"]] == ["syscall"]
    assert total["vmstat_moved_pages"] is None


def test_waits_are_those_that_the_kernel_entered(seen: dict[str, Any]) -> None:
    """Every entry into migration_entry_wait() and the like by the mover's threads is a wait."""
    total = total_of(seen["chosen"])
    waits = [
        row
        for row in traced(seen, total)
        if row["kind"] == "wait" and row["tid"] in seen["mover"]["tids"]
    ]
    assert total["total"]["waits"] == len(waits) > 0
    assert sum(count for _, count in total["total"]["wait_histogram_ns"]) == len(waits)
    assert total["total"]["wait_ns"] > 0
    during = {r["reason"]: r["waits"] for r in total["reasons"] if r["waits"]}
    # nobody else migrated while it did
    assert set(during) <= {"syscall", "(none seen)", "(several)"}
    assert during["syscall"] > 0


def test_a_signal_ends_it_with_a_total(seen: dict[str, Any]) -> None:
    """SIGINT: the total, and the exit status of an interrupted command."""
    everybody = seen["everybody"]
    assert everybody["status"] == 130, everybody["errors"]
    assert "Traceback" not in everybody["errors"]
    assert total_of(everybody)["interrupted"] is True


def test_top_shows_the_mover_until_q(seen: dict[str, Any]) -> None:
    """In a terminal: the mover's line, another sort by s, the end and a total by q."""
    top = seen["top"]
    assert top["status"] == 0
    assert "statmover" in top["text"]
    assert "total of" in top["text"]
    assert "Traceback" not in top["text"]


@cache
def _unprivileged() -> list[str]:
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "mptrace"]


@pytest.mark.one_kernel
def test_what_cannot_be_done_is_said(guest: Guest, guest_dir: str, refusals: Refusals) -> None:
    """No privilege, no such process, a thread, no terminal, a COUNT alone: message and status."""
    for command in (["stat"], ["stat", "1", "1"]):
        done = guest.run([*_unprivileged(), *command], cwd=guest_dir)
        assert (done.returncode, "tracing needs root" in done.errors) == (1, True), done.errors
    wrong = [["nan"], ["-1"], ["0"], ["1", "0"], ["-d", "inf"], ["--by", "page"]]
    nobody, top, *usage = refusals(
        ["stat", "-p", "4194303"], ["top"], *(["stat", *arguments] for arguments in wrong)
    )
    assert (nobody.returncode, "there is no process 4194303" in nobody.errors) == (1, True)
    assert top.returncode == 1
    assert "mptrace stat" in top.errors
    assert [done.returncode for done in usage] == [2] * len(wrong)


@pytest.mark.one_kernel
def test_a_duration_ends_it_with_status_0(mptrace: Mptrace) -> None:
    """-d and COUNT: the text has as many intervals, a total, and fits 80 columns."""
    done = mptrace("stat", "0.3", "3", "-d", "60")
    assert done.returncode == 0, done.errors
    lines = done.text.splitlines()
    assert lines[0].startswith("time     reason")
    assert len([line for line in lines if line[2:3] == ":"]) == 3
    assert any(line.startswith("total of") for line in lines)
    assert max(map(len, lines)) <= 80
