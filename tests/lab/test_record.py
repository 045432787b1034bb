# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace record` in a guest: whom and what it records, and what it makes of hostile callers.

Most of it is one run of recorder/conduct.py per kernel, with several sessions over one
workload, as a session's start takes long.
"""

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from recorder.told import (
    MOVED,
    UNKNOWN,
    Judged,
    Told,
    assert_right_or_unknown,
    read_compat,
    read_told,
)
from test_run import LEFTOVERS, Refusals, assert_error, assert_nothing_left, sh

from mptrace.cli import main
from mptrace.lab.guest import Guest
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.implied import with_implied
from mptrace.outcomes.paths import PATHS, of_migrations
from mptrace.recording.layouts import END_DONE, FOLIO_CHOSEN, OUTCOMES, READ_STATUS
from mptrace.recording.mapping import MAPPED
from mptrace.recording.reader import Recording
from mptrace.recording.rotated import open_recording
from mptrace.reporting.numbers.profile import profile

HERE = Path(__file__).parent
PYTHON = sys.executable
NOBODY = 65534
#: What identifies a folio's record in two recordings of the same moment.
FOLIO_KEY = (
    *("src", "tid", "address", "lookup_seq", "lookup_rc", "isolate_rc", "move_rc"),
    *("src_nid", "dst_nid", "nr_pages", "end", "flags", "owner_tgid"),
)
MIGRATION_KEY = ("tid", "tgid", "reason", "mode", "rc", "succeeded", "failed", "comm", "syscall")
CALL_KEY = ("tid", "tgid", "nr_pages", "pages_ptr", "nodes_ptr", "status_ptr", "ret", "n_lookups")
ENTRY_KEY = ("entry", "address", "target_nid", "status_before", "status_after", "unread")

#: Three tracers and a million entries at once: with 2G the kernel ended one of them.
pytestmark = pytest.mark.nodes("2G,2G")

#: Seconds, for several sessions that start at once on a busy machine.
PATIENCE = 900

#: By kernel; None where it failed.
_runs: dict[str, "Run | None"] = {}


@dataclass(frozen=True)
class Run:
    """What conduct.py left."""

    path: Path
    about: dict[str, Any]
    #: The session that saw everything.
    whole: Judged

    def recording(self, name: str) -> Recording:
        """One by its name."""
        return Recording.open(self.path / name)

    def told(self, label: str) -> Told:
        """What the mover kept of a call."""
        calls = [call for case in self.about["cases"].values() for call in case["calls"]]
        call = next(c for c in [*calls, *self.about["long"]] if c["label"] == label)
        stem = self.path / "mover" / label
        count = call["count"]
        status, before, after = np.fromfile(f"{stem}.out", np.int32).reshape(3, count)
        address = np.fromfile(f"{stem}.addresses", np.uint64)
        target = np.fromfile(f"{stem}.targets", np.int32)
        return Told(count, address, target, status, before, after, call["ret"], call["tid"])


@pytest.fixture
def run(
    guest: Guest,
    kernel: str,
    guest_dir: str,
    holder: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """This kernel's one run."""
    if kernel not in _runs:
        _runs[kernel] = None
        path = tmp_path_factory.mktemp("record")
        compat = path / "compat"
        flags = "-m32 -nostdlib -static -ffreestanding -fno-stack-protector -fno-pie -no-pie -O1"
        source = HERE / "recorder/compat.c"
        subprocess.run(["gcc", *flags.split(), "-o", compat, source], check=True)
        guest.put(f"{guest_dir}/compat", compat.read_bytes(), mode=0o755)
        conduct = [PYTHON, str(HERE / "recorder/conduct.py"), f"{guest_dir}/compat", holder]
        done = guest.run(conduct, cwd=guest_dir, timeout=2 * PATIENCE)
        assert done.returncode == 0, done.errors
        print(done.errors)
        packed = guest.run(["tar", "-C", guest_dir, "-cf", "-", "."])
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as tar:
            tar.extractall(path)
        about = json.loads((path / "about.json").read_text())
        _runs[kernel] = Run(path, about, Judged(path / "all"))
    run = _runs[kernel]
    assert run is not None, "the run failed, as the first of these tests says"
    return run


def keys(rows: np.ndarray, names: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    """How often there is each combination of values of some fields."""
    return Counter(zip(*(rows[name].tolist() for name in names), strict=True))


def between(rows: np.ndarray, case: dict[str, Any], first: str, last: str) -> np.ndarray:
    """Rows that lie in a case's time."""
    return rows[(rows[first] >= case["before_ns"]) & (rows[last] <= case["after_ns"])]


# ---- how much of each page ------------------------------------------------------------------


def of_threads(rows: np.ndarray) -> dict[tuple[int, int], np.void]:
    """Calls by their thread and by which of its calls each one is."""
    seen: Counter[int] = Counter()
    found = {}
    for row in np.sort(rows, order="enter_ns"):
        tid = int(row["tid"])
        found[tid, seen[tid]] = row
        seen[tid] += 1
    return found


def test_less_detail_judges_calls_alike(run: Run) -> None:
    """Two sessions saw the same calls: each entry has one outcome, or is unknown at less detail."""
    less = Judged(run.path / "less")
    assert less.meta.detail == "outcomes"
    whole, few = (of_threads(judged.tables["calls"]) for judged in (run.whole, less))
    # what was under way, or was made by hostile callers, as one session began or ended
    assert set(few) <= set(whole)
    told: Counter[tuple[str, str]] = Counter()
    for key, call in few.items():
        ours, theirs = less.rows_of(call), run.whole.rows_of(whole[key])
        assert ours.size == theirs.size
        for ours_row, theirs_row in zip(ours, theirs, strict=True):
            pair = OUTCOMES[theirs_row["outcome"]], OUTCOMES[ours_row["outcome"]]
            told[pair] += 1
            if pair[1] == "unknown" and pair[0] != "unknown":
                assert cause_name(int(ours_row["cause"])) in ("not_traced", "maybe_same_folio")
    print(told)
    wrong = {pair for pair in told if pair[1] not in (pair[0], "unknown")}
    # a page that was freed while it moved counts as moved
    assert wrong <= {("unknown", "moved")}, told
    assert told["moved", "moved"] > 20 * told["moved", "unknown"]


def test_less_detail_counts_pages_alike(run: Run) -> None:
    """Of other paths both have the same migrations; what moved and stayed is the kernel's count."""

    def counts(name: str) -> Counter[tuple[Any, ...]]:
        migrations = run.recording(name).table("migrations")
        asked = np.isin(migrations["comm"], [b"migratepages", b"python", b"python3"])
        names = ("tid", "reason", "rc", "succeeded", "failed")
        return keys(migrations[asked & (migrations["call_id"] == 0)], names)

    assert counts("less") == counts("all")
    assert counts("less")
    recording = run.recording("less")
    tables = with_implied(recording.tables(), recording.meta)
    for row in profile(tables, recording.meta)["paths"]:
        if row["path"] != "move_pages":
            counted = row["kernel_counted"]
            assert row["pages"]["moved"] == counted["moved_pages"]
            assert row["pages"]["failed"] >= counted["failed_pages"]


# ---- whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "callers"),
    [
        ("pid_of_caller", ["own", "own"]),
        ("pid_of_target", ["stranger"]),
        ("user", ["user", "user"]),
        ("cgroup", ["grouped", "grouped"]),
    ],
)
def test_calls_of_those_asked_for_are_recorded_whole(
    run: Run, case: str, callers: list[str]
) -> None:
    """As callers and as targets; nobody else's are."""
    about = run.about["cases"][case]
    judged = Judged(run.path / case)
    pids = run.about["pids"]
    wanted = [
        call
        for call in about["calls"]
        if call["caller"] == callers[0]
        and (case != "pid_of_target" or call["label"].endswith("victim"))
    ]
    calls = judged.tables["calls"]
    assert calls["tgid"].tolist() == [pids[name] for name in callers]
    assert set(judged.tables["entries"]["call_id"]) == set(calls["call_id"])
    for call in wanted:
        told = run.told(call["label"])
        (record,) = calls[
            (calls["enter_ns"] >= call["before_ns"]) & (calls["exit_ns"] <= call["after_ns"])
        ]
        counts = assert_right_or_unknown(told, record, judged.rows_of(record))
        assert counts["moved"] == told.count
    assert not any(about["answer"]["lost"].values())


def test_a_targets_pages_are_followed_on_every_path(run: Run) -> None:
    """migratepages(8) is a stranger: of its work the pages of the process asked for are there."""
    pids = run.about["pids"]
    recording = run.recording("pid_of_target")
    migrations = recording.table("migrations")
    others = migrations[migrations["call_id"] == 0]
    assert set(others["comm"]) == {b"migratepages"}
    folios = recording.table("folios")
    theirs = folios[folios["call_id"] == 0]
    assert set(theirs["owner_tgid"]) == {pids["victim"]}
    assert (theirs["flags"] & FOLIO_CHOSEN).all()
    base = run.told("pid_of_target-victim").address
    assert set(base) <= set(theirs["address"][theirs["move_rc"] == 0])
    # of everybody else's pages: nothing
    for case in ("pid_of_caller", "user", "cgroup"):
        rows = run.recording(case).table("folios")
        assert not np.isin(rows["address"], base).any()


@pytest.mark.parametrize("page", [0, 1])
def test_a_pages_history_has_every_move_by_whoever_made_it(run: Run, page: int) -> None:
    """A call by one program, and back by another one: each move hides the one before it.

    Page 0 was held whenever migratepages(8) was to take it to node 1 for a session with filters.
    """
    pids = run.about["pids"]
    address = int(run.told("pid_of_target-victim").address[page])
    options = ["--address", hex(address + 17), "--pid", str(pids["victim"]), "--json"]
    done = CliRunner().invoke(main, ["explain", *options, str(run.path / "all")])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    (history,) = [
        line
        for line in lines
        if line.get("kind") == "history" and line["owner_tgid"] == pids["victim"]
    ]
    # compaction may have moved it within its node
    steps = [step for step in history["steps"] if step["path"]["key"] != "compaction_sysctl"]
    stranger, other = (pids["stranger"], "move_pages"), ("migratepages", "migrate_pages")
    there, back = (0, 1, "moved"), (1, 0, "moved")
    expected = [(*stranger, *there), (*other, *back)] * 4
    expected += [(*other, *there), (*other, *back)] * 5 if page else [(*other, 0, 1, "failed")] * 5
    told = []
    for step in steps:
        who = step["initiator"]
        name = who["comm"] if who["comm"] == "migratepages" else who["tgid"]
        told.append(
            (name, step["path"]["key"], step["source_nid"], step["target_nid"], step["outcome"])
        )
    assert told == expected
    times = [step["since_start_ns"] for step in history["steps"]]
    assert times == sorted(times)
    started = run.whole.meta.started
    calls = [case["calls"][-1] for case in run.about["cases"].values()][:4]
    for call, step in zip(calls, steps[::2], strict=False):
        assert call["before_ns"] <= step["start_ns"] <= call["after_ns"]
        assert step["wall_ns"] - started.wall_ns == step["start_ns"] - started.monotonic_ns


def test_the_system_call_of_an_initiator(run: Run) -> None:
    """As the programs made them: migrate_pages(2) and write(2), and no other number."""
    migrations = run.whole.tables["migrations"]
    others = migrations[migrations["call_id"] == 0]
    assert set(others["syscall"][others["comm"] == b"migratepages"]) == {256}
    paths = np.array([PATHS[code].key for code in of_migrations(others, run.whole.meta)])
    written = others[paths == "compaction_sysctl"]
    assert written.size
    assert set(written["syscall"]) == {1}
    calls = migrations[(migrations["call_id"] != 0) & (migrations["flags"] == 0)]
    assert set(
        calls["syscall"][calls["reason"] == others["reason"][paths == "migrate_pages"][0]]
    ) == {279}


def test_who_they_are_is_recorded(run: Run) -> None:
    """Name, user and cgroup of those met."""
    pids = run.about["pids"]
    for case, uid in (("user", NOBODY), ("cgroup", 0)):
        recording = run.recording(case)
        name = {"user": "user", "cgroup": "grouped"}[case]
        processes = recording.table("processes")
        (row,) = processes[processes["tgid"] == pids[name]]
        assert row["uid"] == uid
        if case == "cgroup":
            assert recording.meta.cgroups[int(row["cgroup_id"])] == "/mptrace-test"


# ---- which --------------------------------------------------------------------------------


def filtered(run: Run, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Migrations and folios without a call: of a session with a filter, of the one without."""
    about = run.about["cases"][case]
    recording = run.recording(case)
    found = []
    for tables in (recording.tables(), run.whole.tables):
        migrations = between(tables["migrations"], about, "enter_ns", "exit_ns")
        folios = between(tables["folios"], about, "start_ns", "end_ns")
        found += [migrations[migrations["call_id"] == 0], folios[folios["call_id"] == 0]]
    assert found[2].size, "there was nothing to filter"
    assert found[3].size
    return tuple(found)


def same(one: np.ndarray, other: np.ndarray, names: tuple[str, ...]) -> None:
    """Two tables have the same rows."""
    assert keys(one, names) == keys(other, names)


def test_by_reason(run: Run) -> None:
    """All migrations for it, no others, and no calls: these have another reason."""
    migrations, folios, every, every_folio = filtered(run, "reason")
    number = next(number for number, name in run.whole.meta.reasons.items() if name == "compaction")
    assert (every["reason"] != number).any()
    same(migrations, every[every["reason"] == number], MIGRATION_KEY)
    ids = every["migration_id"][every["reason"] == number]
    key = tuple(name for name in FOLIO_KEY if name != "flags")
    same(folios, every_folio[np.isin(every_folio["migration_id"], ids)], key)
    assert not run.recording("reason").table("calls").size


@pytest.mark.parametrize(("case", "field"), [("from", "src_nid"), ("to", "dst_nid")])
def test_by_node(run: Run, case: str, field: str) -> None:
    """Folios from and to a node, as far as they came; calls stay whole."""
    _, folios, _, every = filtered(run, case)
    assert (every[field] == 1).any()
    wanted = every[np.isin(every[field], (0, -1))]
    same(folios, wanted, FOLIO_KEY)
    calls = run.recording(case).table("calls")
    assert calls["tgid"].tolist() == [run.about["pids"]["own"]] * 2


def test_by_time(run: Run) -> None:
    """Nothing quicker is there, and nothing much slower is missing."""
    migrations, folios, every, every_folio = filtered(run, "min")
    limit = run.about["cases"]["min"]["filters"]["min_ns"]
    assert (migrations["exit_ns"] - migrations["enter_ns"] >= limit).all()
    assert (folios["end_ns"] - folios["start_ns"] >= limit).all()
    took = every["exit_ns"] - every["enter_ns"]
    # two tracers on one path measure one another
    slow = every[took > 10 * limit]
    assert not keys(slow, MIGRATION_KEY) - keys(migrations, MIGRATION_KEY)
    assert folios.size < every_folio.size


def test_by_failure(run: Run) -> None:
    """What failed, as the kernel counts it, and of its folios those that stayed.

    A folio that was freed meanwhile was not tried, and has not failed.
    """
    migrations, folios, every, every_folio = filtered(run, "failed")
    bad = every[(every["rc"] != 0) | (every["failed"] != 0)]
    assert bad.size
    same(migrations, bad, MIGRATION_KEY)
    stayed = (every_folio["move_rc"] != 0) & (every_folio["end"] != END_DONE)
    same(folios, every_folio[stayed], FOLIO_KEY)


# ---- for how long, and in how many pieces ---------------------------------------------------


def test_it_ends_in_order(run: Run) -> None:
    """Ctrl-C and SIGTERM are the ends of a session that has no other: status 0."""
    for name in ("whole", "parts"):
        assert run.about[name]["status"] == 0, run.about[name]["err"]
        assert "Traceback" not in run.about[name]["err"]
    assert run.whole.meta.complete
    assert (run.about["hostile_status"], run.about["compat_status"]) == (0, 0)


def test_a_rotated_session_saw_the_same(run: Run) -> None:
    """All its recordings together have the rows of the one that was not rotated."""
    parts = [Recording.open(path) for path in sorted(run.path.glob("part.0*"))]
    assert len(parts) > 3
    assert all(part.complete for part in parts)
    assert [part.meta.raw["rotation"] for part in parts] == [
        {"number": number + 1, "of": "part"} for number in range(len(parts))
    ]
    assert not any(any(part.meta.lost.values()) for part in parts)
    everybody = list(run.about["pids"].values())

    def of_callers(table: str, tables: list[Any]) -> np.ndarray:
        """Rows of the programs that were there from before the first session to the end."""
        rows = np.concatenate([each.table(table) for each in tables])
        return rows[np.isin(rows["tid"], everybody)]

    whole = [run.recording("all")]
    for table, key in (
        ("calls", CALL_KEY),
        ("migrations", MIGRATION_KEY),
        ("folios", FOLIO_KEY),
    ):
        rows = of_callers(table, parts)
        assert rows.size > 10
        same(rows, of_callers(table, whole), key)
    entries = []
    for tables in (parts, whole):
        ids = of_callers("calls", tables)["call_id"]
        rows = np.concatenate([each.table("entries") for each in tables])
        entries.append(rows[np.isin(rows["call_id"], ids)])
    same(*entries, ENTRY_KEY)


def test_calls_in_two_recordings_are_never_wrong(run: Run) -> None:
    """Each call has its end in one of them; what that lacks makes its entries unknown."""
    straddling = 0
    for path in sorted(run.path.glob("part.0*")):
        judged = Judged(path)
        for call in judged.tables["calls"]:
            labels = [c["label"] for c in run.about["long"] if c["tid"] == call["tid"]]
            for label in labels:
                about = next(c for c in run.about["long"] if c["label"] == label)
                if not about["before_ns"] <= call["enter_ns"] <= about["after_ns"]:
                    continue
                counts = assert_right_or_unknown(run.told(label), call, judged.rows_of(call))
                straddling += call["lost"] > 0
                if not call["lost"]:
                    assert counts["unknown"] == 0
    assert straddling


def test_recordings_read_together_are_whole(run: Run) -> None:
    """A call that lies in two of them has lost nothing then, and nothing of it is unknown."""
    judged = Judged(run.path / "part")
    parts = [Recording.open(path) for path in sorted(run.path.glob("part.0*"))]
    assert judged.meta.complete
    assert judged.meta.rotation.numbers == (*range(1, len(parts) + 1),)
    for table in ("calls", "migrations", "folios", "entries"):
        assert judged.tables[table].size == sum(part.table(table).size for part in parts)
    marked = {int(call["call_id"]) for p in parts for call in p.table("calls") if call["lost"] > 0}
    assert marked
    straddling = 0
    for call in judged.tables["calls"]:
        assert not call["lost"]
        labels = [c["label"] for c in run.about["long"] if c["tid"] == call["tid"]]
        for label in labels:
            about = next(c for c in run.about["long"] if c["label"] == label)
            if about["before_ns"] <= call["enter_ns"] <= about["after_ns"]:
                counts = assert_right_or_unknown(run.told(label), call, judged.rows_of(call))
                assert counts["unknown"] == 0
                straddling += int(call["call_id"]) in marked
    assert straddling


def test_mappings_of_a_rotated_session(run: Run) -> None:
    """Most of its recordings have those of the processes that they meet; together all do."""
    pids = [run.about["pids"][name] for name in ("own", "user", "grouped", "stranger")]
    of_pages = {
        run.about["pids"][call["caller"]]: run.told(call["label"]).address
        for case in run.about["cases"].values()
        for call in case["calls"]
        if not call["label"].endswith("victim")
    }

    def known(recording: Any) -> dict[int, bool]:
        """Process that was met -> whether all of its pages have a mapping."""
        met = recording.table("calls")["target_tgid"]
        mappings = recording.table("mappings")
        mappings = mappings[mappings["state"] == MAPPED]
        found = {}
        for tgid in set(met[np.isin(met, pids)].tolist()):
            rows, pages = mappings[mappings["tgid"] == tgid], of_pages[tgid][:, None]
            within = (rows["start"] <= pages) & (pages < rows["end"])
            found[tgid] = bool(within.any(axis=1).all())
        return found

    whole, missing = open_recording(run.path / "part")
    assert not missing
    assert known(whole) == dict.fromkeys(pids, True)
    # a second has to do for reading them before the next one begins, on a busy machine
    parts = [known(Recording.open(path)) for path in sorted(run.path.glob("part.0*"))]
    each = [is_known for part in parts for is_known in part.values()]
    assert sum(each) > len(each) / 2


# ---- hostile callers --------------------------------------------------------------------------


def judge(run: Run, name: str) -> tuple[Told, np.void, np.ndarray, dict[str, int]]:
    """What a caller kept, the call's record and rows, and the rows by outcome; all compared."""
    told = read_told(run.path / f"hostile/{name}.npz")
    call = run.whole.call_of(told)
    rows = run.whole.rows_of(call)
    return told, call, rows, assert_right_or_unknown(told, call, rows)


def test_nothing_was_lost(run: Run) -> None:
    """So that what is unknown is so for another reason."""
    assert not any(run.whole.meta.lost.values()), run.whole.meta.lost


def test_32_bit_callers(run: Run) -> None:
    """Arrays of 32-bit pointers, in chunks of each size: every entry is known."""
    told = read_compat(run.path / "hostile/compat.raw")
    assert [each.count for each in told] == [61, 1009, 17011]
    for each, moved in zip(told, (61, 1009 - 61, 1009), strict=True):
        call = run.whole.call_of(each)
        counts = assert_right_or_unknown(each, call, run.whole.rows_of(call))
        assert counts["unknown"] == 0
        assert counts["moved"] == moved == int((each.before != each.after).sum())


def test_a_caller_in_another_pid_namespace(run: Run) -> None:
    """Everything is known, under the number that it has here."""
    told, call, _, counts = judge(run, "in_pid_namespace")
    assert counts["moved"] == told.count
    assert call["tgid"] > 5
    processes = run.whole.tables["processes"]
    assert call["tgid"] in processes["tgid"]


@pytest.mark.parametrize("name", ["bad_pages", "bad_nodes"])
def test_arrays_that_are_not_there(run: Run, name: str) -> None:
    """The kernel could not read them and mptrace can't: unknown, with that as reason."""
    told, _, rows, counts = judge(run, name)
    assert told.ret == -14
    assert counts["unknown"] + counts["not_attempted"] == told.count == len(rows)
    assert (told.before == told.after).all()


def test_no_place_for_statuses(run: Run) -> None:
    """The call fails, pages move all the same, and that is what is said."""
    told, _, rows, counts = judge(run, "bad_status")
    assert told.ret == -14
    moved = int((told.before != told.after).sum())
    assert counts["moved"] == moved > 0
    assert (rows["unread"] & READ_STATUS).all()


@pytest.mark.parametrize(
    ("name", "piece"), [("short_pages", 64), ("short_nodes", 1024), ("short_status", 1)]
)
def test_an_array_that_ends_too_early(run: Run, name: str, piece: int) -> None:
    """What lies before its end is known, but for the piece that the end lies in."""
    told, _, rows, counts = judge(run, name)
    assert told.ret == -14
    moved = int((told.before != told.after).sum())
    assert moved > 0
    assert counts["moved"] == moved // piece * piece
    assert len(rows) == told.count


@pytest.mark.parametrize("number", [0, 1, 2])
def test_huge_counts(run: Run, number: int) -> None:
    """Up to 2^63: the call is there, with what it returned; of its entries nothing is claimed."""
    told, call, rows, counts = judge(run, f"huge_{number}")
    assert told.ret == -14
    assert call["nr_pages"] == told.count
    moved = int((told.before != told.after).sum())
    assert moved > 0
    # the one piece of 16384 entries that they lie in can't be read as a whole
    assert counts["moved"] == 0
    assert counts["unknown"] == len(rows)


def test_a_million_statuses_in_memory_never_touched(run: Run) -> None:
    """Those that can't be read are unread, and outcomes are known by the kernel's events."""
    told, _, rows, counts = judge(run, "million")
    assert told.ret is not None
    assert told.ret > 0
    moved = int((told.before != told.after).sum())
    assert 0 < moved < 3001
    assert counts["moved"] == moved
    assert len(rows) == told.count == 1_000_003
    assert rows["unread_before"].all()
    assert (rows["unread"] & READ_STATUS)[-16384:].all()


@pytest.mark.parametrize("name", ["exits", "execs", "killed"])
def test_a_caller_that_ends_in_the_middle(run: Run, name: str) -> None:
    """The call has its record; its statuses are those that another process sees."""
    told, call, rows, counts = judge(run, name)
    assert len(rows) == told.count
    written = told.status == 1
    assert (rows["outcome"][written] == MOVED).all() or counts["unknown"]
    known = rows["outcome"] != UNKNOWN
    assert known.any() or not call["exit_ns"]


# ---- what a batch costs -------------------------------------------------------------------------


def test_the_largest_batch_within_a_budget(run: Run) -> None:
    """The kernel's times of calls by their size lie below those that the caller took."""
    told = json.loads((run.path / "batches.json").read_text())
    times = {int(size): np.array(each) for size, each in told["times_ns"].items()}
    budget_ns = max(int(each.max()) for each in times.values())
    options = ["report", "--json", "--budget", f"{budget_ns}ns", str(run.path / "all")]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    (curve,) = [each for each in numbers["cost_curve"] if each["measure"] == "call_duration"]
    groups = {group["pages"]: group for group in curve["groups"]}
    for size, each in times.items():
        assert groups[size]["samples"] == len(each)
        assert 0 < groups[size]["p50_ns"] <= np.median(each)
        assert groups[size]["p99_ns"] <= groups[size]["max_ns"] <= each.max()
    # of no other size there are 100 calls
    enough = {size for size, group in groups.items() if group["is_enough"]}
    assert enough == set(times)
    (answer,) = [each for each in numbers["budget"] if each["measure"] == "call_duration"]
    assert (answer["state"], answer["pages"]) == ("at_least", max(times))
    assert answer["p99_ns"] == groups[max(times)]["p99_ns"]


# ---- a command, its rights, and what becomes of it -----------------------------------------------


#: The command: who it is, what it has, and a child that moves pages.
WHO = f"""
id -u; id -g; id -G
grep -E 'CapEff|THP_enabled' /proc/self/status
echo $HOME $LOGNAME
ls -l /proc/$$/fd
exec 2>&1
{PYTHON} {HERE}/recorder/hostile.py kept short_status
exit 23
"""


def test_a_command_has_its_callers_rights(
    guest: Guest, guest_dir: str, fetch: Callable[[str], Path]
) -> None:
    """Under sudo it is who called: user, groups, capabilities; its children are followed."""
    guest.put(f"{guest_dir}/who", WHO.encode())
    done = sh(
        guest,
        """
        echo 0 >/proc/sys/kernel/numa_balancing
        mkdir -m 777 kept; chmod 755 .
        export SUDO_UID=65534 SUDO_GID=65534
        (mptrace record --strict -o data -- sh who) >said 2>err 7</dev/null
        status=$?; cat said; cat err >&2; exit $status
        """,
        guest_dir,
        timeout=PATIENCE,
    )
    assert done.returncode == 23, done.errors
    lines = done.text.splitlines()
    assert lines[:3] == ["65534"] * 3
    assert lines[3].split() == ["THP_enabled:", "1"]
    assert lines[4].split() == ["CapEff:", "0" * 16]
    assert lines[5].endswith(" nobody")
    opened = [line.partition(" -> ") for line in lines if " -> " in line]
    numbers = {int(left.split()[-1]) for left, _, _ in opened}
    # the user's own 7 is passed on, 10 is the shell's, for its script; nothing is ours
    assert {0, 1, 2, 7} <= numbers <= {0, 1, 2, 7, 10}, done.text
    assert not any("bpf" in where or "perf" in where for _, _, where in opened)
    fetch(f"{guest_dir}/kept")
    judged = Judged(fetch(f"{guest_dir}/data"))
    assert judged.meta.raw["scope"]["as"] == "nobody"
    (path,) = fetch(f"{guest_dir}/kept").iterdir()
    told = read_told(path)
    call = judged.call_of(told)
    assert call["comm"].startswith(b"python")
    assert_right_or_unknown(told, call, judged.rows_of(call))
    assert set(judged.tables["calls"]["tgid"]) == {call["tgid"]}
    # what root wrote belongs to who called
    owner = guest.run(["stat", "-c", "%u:%g %a", f"{guest_dir}/data"]).text
    assert owner == "65534:65534 700\n"


#: Fills a small disk with what is recorded of it, and goes on for a moment.
WORK = """
mkfifo wait
./holder 4096 0 <wait >ready & victim=$!
exec 3>wait
while ! [ -s ready ]; do sleep 0.1; done
for round in 1 2 3 4; do migratepages $victim 0 1; migratepages $victim 1 0; sleep 1; done
exec 3>&-
wait $victim
echo to the end
exit 7
"""


@pytest.mark.usefixtures("holder")
def test_a_full_disk(guest: Guest, guest_dir: str, fetch: Callable[[str], Path]) -> None:
    """A clear message and status 1; the recording can be read, the command goes on to its end."""
    guest.put(f"{guest_dir}/work", WORK.encode())
    done = sh(
        guest,
        """
        mkdir small; mount -t tmpfs -o size=160K none small
        (mptrace record -o small/data -- sh work) 2>err; status=$?
        cat err >&2; exit $status
        """,
        guest_dir,
        timeout=PATIENCE,
    )
    assert_error(done, 1, "No space left on device", "what was recorded until then", "disk is full")
    assert done.text == "to the end\n"
    path = fetch(f"{guest_dir}/small/data")
    assert guest.run(["umount", f"{guest_dir}/small"]).returncode == 0
    recording = Recording.open(path)
    assert not recording.complete
    assert recording.table("folios").size + recording.table("migrations").size > 0
    report = CliRunner().invoke(main, ["report", "--json", str(path)])
    assert report.exit_code == 0, report.output
    assert json.loads(report.stdout)["complete"] is False


@pytest.mark.one_kernel
def test_how_a_session_ends(guest: Guest, guest_dir: str) -> None:
    """By its time: 0; by Ctrl-C before that: 130; killed: nothing is left in the kernel.

    The first one rotates meanwhile and keeps its last two recordings.
    """
    done = sh(
        guest,
        f"""
        (mptrace record -a -d 5 --rotate-time 1 --keep 2 -o timed) 2>timed.err & timed=$!
        mptrace record -a -d 1000 -o stopped 2>stopped.err & stopped=$!
        mptrace record -p $$ -o killed 2>killed.err & killed=$!
        wait $timed; echo $?
        while ! grep -q tracing stopped.err || ! grep -q tracing killed.err; do sleep 0.1; done
        kill -INT $stopped; wait $stopped; echo $?
        {{
        {LEFTOVERS}
        }} | grep -c migrate
        kill -KILL $killed; wait $killed; echo $?
        # the kernel frees what hung on its descriptors a moment later
        while grep -q . /sys/kernel/tracing/enabled_functions; do sleep 0.1; done
        cat *.err >&2
        ls -d timed.0*
        """,
        guest_dir,
        timeout=PATIENCE,
    )
    timed, stopped, attached, killed, *kept = done.text.splitlines()
    assert (timed, stopped, killed) == ("0", "130", "137"), done.errors
    assert int(attached) > 0
    assert "Traceback" not in done.errors
    numbers = [int(name.removeprefix("timed.")) for name in kept]
    assert len(numbers) == 2, done.errors
    assert numbers[0] + 1 == numbers[1] > 2
    assert_nothing_left(guest)


@pytest.mark.one_kernel
def test_what_cannot_be_recorded(guest: Guest, guest_dir: str, refusals: Refusals) -> None:
    """Each wrong request gets its message and status, starts no command and leaves nothing."""
    wrong = {
        ("-p", "999999"): (1, "no process 999999"),
        ("--cgroup", "/no/where"): (1, "no cgroup (v2) '/no/where'"),
        ("-a", "--reason", "fun"): (2, "'fun'", "compaction"),
        ("-a", "--from", "7"): (2, "no node 7"),
        ("--as", "nobody", "-a"): (2, "--as"),
        ("--", "no-such-command"): (127, "not found"),
    }
    done = refusals(*(["record", *arguments] for arguments in wrong))
    for each, (status, *words) in zip(done, wrong.values(), strict=True):
        assert_error(each, status, *words)
    powerless = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PYTHON]
    done = guest.run([*powerless, "-m", "mptrace", "record", "--", "touch", "ran"], cwd=guest_dir)
    assert_error(done, 1, "CAP_BPF", "sudo")
    assert sh(guest, "ls", guest_dir).text == ""
