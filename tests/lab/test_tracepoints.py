# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace record --tier tracepoints` in guests, against page frames, vmstat and tracefs.

The judges are /proc/self/pagemap as the moving program read it before and after
(`frames`), /proc/vmstat, and the kernel's tracepoint by a tracefs instance of its own.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mptrace.cli import main
from mptrace.lab.guest import Completed, Guest
from mptrace.recording.layouts import END_DONE, END_PUTBACK, FOLIO_PMD
from mptrace.recording.reader import Recording

HERE = Path(__file__).parent
Fetch = Callable[[str], Path]
IDENTITY = 64
#: What the program itself moved by move_pages(2), and the folios' size.
CALLS = {
    "base_pages": 1,
    "huge_pages": 512,
    "large_by_ptes": 512,
    "gigantic": 512,
    "shared_pages": 1,
}
_SEEN: dict[str, tuple[dict[str, Any], Recording]] = {}


@pytest.fixture
def seen(
    kernel: str, guest: Guest, guest_dir: str, fetch: Fetch, tmp_path_factory: Any
) -> tuple[dict[str, Any], Recording]:
    """What the program told of its pages, and the recording; made once on each kernel."""
    if kernel not in _SEEN:
        done = guest.run([sys.executable, str(HERE / "frames.py"), guest_dir], timeout=300)
        assert done.returncode == 0, done.errors
        place = fetch(f"{guest_dir}/frames.data")
        kept = tmp_path_factory.mktemp("frames") / kernel
        place.rename(kept)
        _SEEN[kernel] = json.loads(done.text), Recording.open(kept)
    return _SEEN[kernel]


def during(rows: np.ndarray, case: dict[str, Any], name: str = "dark_first_ns") -> np.ndarray:
    """Rows of the time of a case."""
    return rows[(rows[name] >= case["since_ns"]) & (rows[name] <= case["until_ns"])]


def followed(case: dict[str, Any], folios: np.ndarray, size: int) -> list[int]:
    """Where each page is in the end, by the recording alone: frame before, then move by move."""
    rows = np.sort(folios[folios["end"] == END_DONE], order="light_last_ns")
    moves: dict[int, list[np.void]] = {}
    for row in rows:
        moves.setdefault(int(row["src"]), []).append(row)
    found = []
    for frame in case["before"]:
        at = 0
        while frame:
            head = frame // size * size
            after = [r for r in moves.get(head * IDENTITY, []) if r["dark_first_ns"] > at]
            if not after:
                break
            row = after[0]
            frame = int(row["dst"]) // IDENTITY + frame - head
            at = int(row["dark_first_ns"])
        found.append(frame)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_frames_and_nodes(name: str, seen: tuple[dict[str, Any], Recording]) -> None:
    """Every page is where pagemap has it, on the node that the kernel says, and those only."""
    told, recording = seen
    case, size = told["cases"][name], CALLS[name]
    rows = during(recording.table("folios"), case)
    rows = rows[rows["tid"] == case["pid"]]
    assert followed(case, rows, size) == case["after"]
    moved = rows[rows["end"] == END_DONE]
    changed = sum(a != b for a, b in zip(case["before"], case["after"], strict=True))
    assert len(moved) == changed // (size if name == "large_by_ptes" else 1) > 0
    assert set(moved["nr_pages"]) == {size}
    assert set(moved["src_nid"]) == {0}
    assert set(moved["dst_nid"]) == {1}
    assert set(moved["address"]) <= set(case["addresses"])
    assert case["vmstat"]["pgmigrate_success"] == moved["nr_pages"].sum()
    dark = moved["light_last_ns"].astype(int) - moved["dark_first_ns"].astype(int)
    assert ((moved["blackout_ns"] > 0) & (moved["blackout_ns"] <= dark)).all()


def test_pinned_pages_stay(seen: tuple[dict[str, Any], Recording]) -> None:
    """Five are put back, after as many windows as the kernel tried; nothing says why."""
    told, recording = seen
    case = told["cases"]["base_pages"]
    rows = during(recording.table("folios"), case)
    stayed = rows[(rows["end"] == END_PUTBACK) & (rows["tid"] == case["pid"])]
    pinned = [
        address
        for address, before, after in zip(
            case["addresses"], case["before"], case["after"], strict=True
        )
        if before == after
    ]
    assert sorted(stayed["address"].tolist()) == pinned
    assert len(pinned) == 5
    assert (stayed["n_dark"] > 1).all()
    assert case["vmstat"]["pgmigrate_fail"] == 5


def test_kinds_of_folios(seen: tuple[dict[str, Any], Recording]) -> None:
    """By PMD, by 512 entries, by two processes: as the page tables had them."""
    told, recording = seen
    folios = recording.table("folios")
    rows = {name: during(folios, told["cases"][name]) for name in CALLS}
    assert ((rows["huge_pages"]["flags"] & FOLIO_PMD) != 0).all()
    (large,) = rows["large_by_ptes"]
    assert (large["flags"] & FOLIO_PMD, large["n_remap"]) == (0, 512)
    assert set(rows["shared_pages"]["n_maps"]) == {2}
    assert set(rows["base_pages"]["n_maps"] // rows["base_pages"]["n_dark"]) == {1}


def test_calls_have_what_they_were_given_and_returned(
    seen: tuple[dict[str, Any], Recording],
) -> None:
    """Arguments and return value of each call; its migrations and folios belong to it."""
    told, recording = seen
    calls = recording.table("calls")
    for name in CALLS:
        case = told["cases"][name]
        (call,) = [row for row in during(calls, case, "enter_ns") if row["nodes_ptr"]]
        entries = 1 if name == "large_by_ptes" else len(case["addresses"])
        assert (call["nr_pages"], call["ret"]) == (entries, case["result"]), name
        assert (call["pid"], call["tgid"], call["target_tgid"]) == (0, case["pid"], case["pid"])
        migrations = recording.table("migrations")
        mine = migrations[migrations["call_id"] == call["call_id"]]
        assert len(mine) == call["n_migrations"] > 0
        assert set(mine["syscall"]) == {279}
        rows = during(recording.table("folios"), case)
        assert set(rows["call_id"]) == {call["call_id"]}


def test_other_paths(seen: tuple[dict[str, Any], Recording]) -> None:
    """mbind(2), another process's migratepages, compaction: who, in which system call, where to."""
    told, recording = seen
    migrations, folios = recording.table("migrations"), recording.table("folios")
    cases = told["cases"]
    for name, syscall in (("bound_pages", 237), ("no_access", 237), ("by_another", 256)):
        case = cases[name]
        mine = during(migrations, case, "enter_ns")
        assert set(mine["syscall"]) == {syscall}, name
        assert set(mine["call_id"]) == {0}
        assert set(mine["tgid"]) == {case["result" if name == "by_another" else "pid"]}
        rows = during(folios, case)
        assert followed(case, rows, 1) == case["after"]
        assert set(rows[rows["end"] == END_DONE]["dst_nid"]) == {1}
        # 6.1 does not say where a page behind PROT_NONE is
        assert {nid for nid in case["to"] if nid >= 0} <= {1}
        assert set(case["after"]).isdisjoint(case["before"])
    assert set(during(migrations, cases["by_another"], "enter_ns")["comm"]) == {b"migratepages"}
    case = cases["compaction"]
    rows = during(folios, case)
    assert followed(case, rows, 1) == case["after"]
    assert case["before"] != case["after"], "compaction moved none of our pages"


def test_the_kernel_counts_the_same(seen: tuple[dict[str, Any], Recording]) -> None:
    """Migration by migration what a tracefs instance has; in all what /proc/vmstat has."""
    told, recording = seen
    kernel = told["kernel"]
    migrations = during(recording.table("migrations"), kernel, "exit_ns")
    mine = Counter(
        (row["comm"].decode(), int(row["tid"]), int(row["succeeded"]), int(row["failed"]))
        for row in migrations
    )
    theirs = Counter((comm, tid, ok, bad) for comm, tid, ok, bad, _, _ in kernel["migrations"])
    assert mine == theirs
    names = {"syscall": "syscall_or_cpuset"}
    reasons = {n: names.get(name, name) for n, name in recording.meta.reasons.items()}
    assert Counter(reasons[int(n)] for n in migrations["reason"]) == Counter(
        reason for *_, reason in kernel["migrations"]
    )
    assert migrations["succeeded"].sum() == told["vmstat"]["pgmigrate_success"]
    assert migrations["failed"].sum() == told["vmstat"]["pgmigrate_fail"]
    assert set(migrations["lost"]) == {0}
    assert set(recording.meta.lost.values()) == {0}


def test_the_report_says_what_it_cannot_see(seen: tuple[dict[str, Any], Recording]) -> None:
    """Paths and pages, no entry with an outcome, and what tracepoints don't tell."""
    told, recording = seen
    done = CliRunner().invoke(main, ["report", "--json", str(recording.path)])
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["tier"] == "tracepoints"
    assert any("why a page stayed" in sentence for sentence in numbers["unseen"])
    assert {row["path"] for row in numbers["paths"]} >= {
        "move_pages", "migrate_pages", "mbind", "compaction_sysctl"
    }  # fmt: skip
    outcomes = numbers["outcomes"]
    assert outcomes["unknown"] == sum(outcomes.values()) > 0
    for command in ("report", "dump", "explain"):
        done = CliRunner().invoke(main, [command, str(recording.path)])
        assert done.exit_code == 0, done.output
    assert told["cases"]


def sh(guest: Guest, script: str, cwd: str) -> Completed:
    """Run a shell script in the guest; `mptrace` is the checkout's, `RECORD` this tier's."""
    python = sys.executable
    lines = (
        f'RECORD="{python} -m mptrace record --tier tracepoints"',
        f'MOVER="{python} {HERE / "bulk.py"}"; mover() {{ $MOVER "$@"; }}',
        "ready() { until grep -qs tracing: err; do kill -0 $! || exit 9; sleep 0.1; done; }",
        script,
    )
    return guest.run(["sh", "-c", "\n".join(lines)], cwd=cwd, timeout=300)


def recording_of(fetch: Fetch, guest_dir: str) -> Recording:
    """The recording of a test's directory, brought here."""
    return Recording.open(fetch(f"{guest_dir}/mptrace.data"))


def test_a_command_is_followed_with_its_children(
    guest: Guest, guest_dir: str, fetch: Fetch
) -> None:
    """Its own and its child's moves are recorded, nobody else's; its exit status is passed on."""
    child = f"{sys.executable} {HERE / 'bulk.py'} 101; exit 7"
    script = f'mover 23 & $RECORD -- sh -c "{child}"; status=$?; wait; exit $status'
    done = sh(guest, script, guest_dir)
    assert done.returncode == 7, done.errors
    recording = recording_of(fetch, guest_dir)
    calls = recording.table("calls")
    assert [(row["nr_pages"], row["ret"]) for row in calls[calls["nodes_ptr"] != 0]] == [(101, 0)]
    folios = recording.table("folios")
    assert (len(folios), set(folios["end"])) == (101, {END_DONE})


def test_records_that_had_no_room_are_counted(guest: Guest, guest_dir: str, fetch: Fetch) -> None:
    """The recorder is stopped while its rings run over: what is lost is counted to the record.

    The mover stays on its CPU: the ring of a second one would have room for entries that are
    put back of which the first lost that they were taken away, and no folio has these.
    """
    script = """
    $RECORD -a 2>err & P=$!
    ready
    kill -STOP $P
    taskset -c 0 $MOVER 60013 >told
    kill -CONT $P
    sleep 1
    mover 23 >>told
    kill -INT $P
    wait $P
    cat told
    """
    done = sh(guest, script, guest_dir)
    assert done.returncode == 0, done.errors
    recording = recording_of(fetch, guest_dir)
    told = [json.loads(line) for line in done.text.splitlines()]
    lost = recording.meta.lost["perf_ring"]
    folios, migrations = recording.table("folios"), recording.table("migrations")
    big = folios[folios["tid"] == told[0]["pid"]]
    dark = int(big["n_maps"].sum()) + int(big["n_remap"].sum())
    assert lost > 0
    assert len(big) < 60013
    # a record for each entry taken away, and one for each put back
    assert dark + lost == 2 * 60013 * told[0]["moves"]
    ours = migrations[migrations["tid"] == told[0]["pid"]]
    assert (ours["lost"] > 0).all()
    assert ours["succeeded"].sum() == 60013 * told[0]["moves"]
    after = folios[folios["tid"] == told[1]["pid"]]
    assert (len(after), set(after["end"])) == (23 * told[1]["moves"], {END_DONE})
    whole = migrations[migrations["tid"] == told[1]["pid"]]
    assert set(whole["lost"]) == {0}


def test_killed_in_the_middle(guest: Guest, guest_dir: str, fetch: Fetch) -> None:
    """Kill -9 leaves a readable recording, and no event, ring or mount in the kernel."""
    script = """
    # as it is without tracefs mounted
    umount /sys/kernel/tracing; umount /sys/kernel/debug 2>/dev/null
    $RECORD -a 2>err & P=$!
    ready
    mover 101 >told
    until ls mptrace.data/folios-*.parquet >/dev/null 2>&1; do
        kill -0 $P || exit 9
        sleep 0.2
    done
    kill -9 $P
    wait $P
    grep tracefs /proc/self/mounts
    mount -t tracefs tracefs /sys/kernel/tracing
    cat /sys/kernel/tracing/events/enable
    cat told
    """
    done = sh(guest, script, guest_dir)
    assert done.returncode == 0, done.errors
    enabled, told = done.text.splitlines()
    assert enabled == "0"
    recording = recording_of(fetch, guest_dir)
    assert not recording.complete
    folios = recording.table("folios")
    assert len(folios[folios["tid"] == json.loads(told)["pid"]]) == 101
