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
from recorder.told import (
    Judged,
    Told,
    assert_right_or_unknown,
    read_told,
)
from test_run import sh

from mptrace.lab.guest import Guest
from mptrace.recording import Recording
from mptrace.records import FOLIO_CHOSEN, READ_STATUS

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
def run(guest: Guest, kernel: str, guest_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """This kernel's one run."""
    if kernel not in _runs:
        _runs[kernel] = None
        path = tmp_path_factory.mktemp("record")
        compat = path / "compat"
        flags = "-m32 -nostdlib -static -ffreestanding -fno-stack-protector -fno-pie -no-pie -O1"
        source = HERE / "recorder/compat.c"
        subprocess.run(["gcc", *flags.split(), "-o", compat, source], check=True)
        guest.put(f"{guest_dir}/compat", compat.read_bytes(), mode=0o755)
        conduct = [PYTHON, str(HERE / "recorder/conduct.py"), f"{guest_dir}/compat"]
        done = guest.run(conduct, cwd=guest_dir, timeout=2 * PATIENCE)
        assert done.returncode == 0, done.errors
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
            assert recording.meta["cgroups"][str(row["cgroup_id"])] == "/mptrace-test"


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
    number = next(
        int(number) for number, name in run.whole.meta["reasons"].items() if name == "compaction"
    )
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
    """What failed, as the kernel counts it, and of its folios those that stayed."""
    migrations, folios, every, every_folio = filtered(run, "failed")
    bad = every[(every["rc"] != 0) | (every["failed"] != 0)]
    assert bad.size
    same(migrations, bad, MIGRATION_KEY)
    same(folios, every_folio[every_folio["move_rc"] != 0], FOLIO_KEY)


# ---- for how long, and in how many pieces ---------------------------------------------------


# ---- hostile callers --------------------------------------------------------------------------


def judge(run: Run, name: str) -> tuple[Told, np.void, np.ndarray, dict[str, int]]:
    """What a caller kept, the call's record and rows, and the rows by outcome; all compared."""
    told = read_told(run.path / f"hostile/{name}.npz")
    call = run.whole.call_of(told)
    rows = run.whole.rows_of(call)
    return told, call, rows, assert_right_or_unknown(told, call, rows)


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


# ---- a command, its rights, and what becomes of it -----------------------------------------------


#: The command: who it is, what it has, and a child that moves pages.
WHO = f"""
id -u; id -g; id -G
grep CapEff /proc/self/status
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
    assert lines[3].split() == ["CapEff:", "0" * 16]
    assert lines[4].endswith(" nobody")
    opened = [line.partition(" -> ") for line in lines if " -> " in line]
    numbers = {int(left.split()[-1]) for left, _, _ in opened}
    # the user's own 7 is passed on, 10 is the shell's, for its script; nothing is ours
    assert {0, 1, 2, 7} <= numbers <= {0, 1, 2, 7, 10}, done.text
    assert not any("bpf" in where or "perf" in where for _, _, where in opened)
    fetch(f"{guest_dir}/kept")
    judged = Judged(fetch(f"{guest_dir}/data"))
    assert judged.meta["scope"]["as"] == "nobody"
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
WORK = f"""
{PYTHON} -c 'import time
memory = bytearray(b"x") * (24 << 20)
print(flush=True)
time.sleep(1000)' >ready & victim=$!
while ! [ -s ready ]; do sleep 0.1; done
for round in 1 2 3 4; do migratepages $victim 0 1; migratepages $victim 1 0; sleep 1; done
kill $victim
echo to the end
exit 7
"""
