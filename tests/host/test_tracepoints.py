# SPDX-License-Identifier: GPL-2.0-or-later
"""On this machine's own kernel, which may refuse BPF and kprobes: compaction, for real.

What `mptrace record -a` shows is compared with /proc/vmstat and with the kernel's own
tracepoint as an instance of tracefs has it.  These tests need root, perf_event_open(2)
and tracefs: where one of them is refused they fail, and say which.
"""

import contextlib
import ctypes
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.host import tracefs
from mptrace.host.processes import Processes
from mptrace.recording.reader import Recording
from mptrace.recording.rotated import open_recording
from mptrace.reporting.numbers.profile import profile
from mptrace.tracing.tracepoints.perf_events import PerfEvents, Probe, online_cpus
from mptrace.tracing.tracepoints.perf_records import head, record_bytes
from mptrace.tracing.tracepoints.session import TracepointRequest, read_formats, record

PAGE = mmap.PAGESIZE
COMPACT = Path("/proc/sys/vm/compact_memory")
_LINE = re.compile(
    r"^\s*(?P<comm>\S.*?)-(?P<tid>\d+)\s+\[.* (?P<at>\d+\.\d+): mm_migrate_pages: "
    r"nr_succeeded=(?P<ok>\d+) nr_failed=(?P<bad>\d+)",
    re.MULTILINE,
)
# tracefs prints microseconds
_ROUNDED = 500

pytestmark = pytest.mark.xdist_group("host")


@pytest.fixture(autouse=True)
def _environment() -> None:
    """Fails where this machine can't be expected to do what is tested."""
    if os.geteuid() != 0:
        pytest.fail("environment: these tests need root")
    if not COMPACT.exists():
        pytest.fail("environment: this kernel has no compaction")


@contextlib.contextmanager
def tracefs_instance() -> Iterator[dict[str, Any]]:
    """Each mm_migrate_pages while inside, in `migrations` afterwards."""
    told: dict[str, Any] = {}
    with tracefs.readable() as root:
        instance = root / "instances" / f"mptrace-test-{os.getpid()}"
        instance.mkdir()
        try:
            (instance / "trace_clock").write_text("mono")
            event = instance / "events/migrate/mm_migrate_pages/enable"
            event.write_text("1")
            yield told
            event.write_text("0")
            told["migrations"] = [
                (
                    round(float(match["at"]) * 1e9),
                    (match["comm"], int(match["tid"]), int(match["ok"]), int(match["bad"])),
                )
                for match in _LINE.finditer((instance / "trace").read_text())
            ]
        finally:
            instance.rmdir()


def migrated() -> tuple[int, int]:
    """pgmigrate_success and pgmigrate_fail."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["pgmigrate_success"]), int(counts["pgmigrate_fail"])


def make_holes() -> list[mmap.mmap]:
    """Memory with holes in it, so that compaction has something to move."""
    maps = [
        mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(4001)
    ]
    for each in maps:
        each[:] = b"x" * len(each)
    for each in maps[::2]:
        each.close()
    return maps[1::2]


def compacted_until_pages_moved() -> None:
    """Compact until at least a page has moved: right after another compaction none may."""
    before = migrated()
    for _ in range(20):
        held = make_holes()
        COMPACT.write_text("1")
        del held
        if migrated()[0] > before[0]:
            return
    pytest.fail("environment: compaction moved no page in 20 tries")


@contextlib.contextmanager
def recorded(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`mptrace record` while inside, from when it says that it traces."""
    argv = [sys.executable, "-m", "mptrace", "record", *options, "-o", str(directory)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if "tracing:" in line:
                break
        else:
            pytest.fail(f"mptrace record ended: {seen}")
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.stderr.read()


def test_compaction_of_this_host(tmp_path: Path) -> None:
    """Every migration, page and initiator that the kernel counts, on a kernel as it is."""
    place = tmp_path / "host.data"
    with recorded(place, "-a", "--tier", "tracepoints") as process, tracefs_instance() as told:
        since, before = time.monotonic_ns(), migrated()
        compacted_until_pages_moved()
        until, after = time.monotonic_ns(), migrated()
    assert process.returncode == 0
    recording = Recording.open(place)
    migrations = recording.table("migrations")
    migrations = migrations[(migrations["exit_ns"] >= since) & (migrations["exit_ns"] <= until)]
    succeeded, failed = migrations["succeeded"].sum(), migrations["failed"].sum()
    assert (succeeded, failed) == (after[0] - before[0], after[1] - before[1])
    assert Counter(
        (row["comm"].decode(), int(row["tid"]), int(row["succeeded"]), int(row["failed"]))
        for row in migrations
    ) == Counter(what for at, what in told["migrations"] if since <= at + _ROUNDED <= until)
    folios = recording.table("folios")
    moved = folios[folios["move_rc"] == 0]
    assert 0 < moved["nr_pages"].sum() <= recording.table("migrations")["succeeded"].sum()
    assert set(recording.meta.lost.values()) == {0}
    assert recording.meta.reasons[0] == "compaction"
    assert set(migrations["reason"]) == {0}


def test_a_rotated_session_is_read_as_one(tmp_path: Path) -> None:
    """Every migration of its recordings once, as the kernel counts them, across all of them."""
    place = tmp_path / "host.data"
    options = ("-a", "--tier", "tracepoints", "--rotate-time", "1")
    with recorded(place, *options) as process, tracefs_instance() as told:
        since, before = time.monotonic_ns(), migrated()
        for number in (2, 3):
            compacted_until_pages_moved()
            deadline = time.monotonic() + 30
            while not (tmp_path / f"host.data.{number:06d}").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        compacted_until_pages_moved()
        until, after = time.monotonic_ns(), migrated()
    assert process.returncode == 0
    session, notes = open_recording(place)
    assert (notes, session.missing_parts, session.complete) == ((), (), True)
    parts = session.meta.rotation.numbers
    assert parts == (*range(1, len(list(tmp_path.iterdir())) + 1),)
    assert len(parts) >= 3
    assert session.meta.started.monotonic_ns < since
    assert session.meta.ended.monotonic_ns > until
    migrations = session.table("migrations")
    migrations = migrations[(migrations["exit_ns"] >= since) & (migrations["exit_ns"] <= until)]
    assert (migrations["succeeded"].sum(), migrations["failed"].sum()) == (
        after[0] - before[0],
        after[1] - before[1],
    )
    assert Counter(
        (row["comm"].decode(), int(row["tid"]), int(row["succeeded"]), int(row["failed"]))
        for row in migrations
    ) == Counter(what for at, what in told["migrations"] if since <= at + _ROUNDED <= until)
    processes = session.table("processes")
    assert np.count_nonzero(processes["tgid"] == os.getpid()) == 1


def test_the_choice_is_made_alone_and_the_report_says_so(tmp_path: Path) -> None:
    """Without --tier: where BPF is refused tracepoints it is, with what can't be seen."""
    place = tmp_path / "host.data"
    with recorded(place, "-a"):
        compacted_until_pages_moved()
    argv = [sys.executable, "-m", "mptrace", "report", str(place)]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=True)
    numbers = json.loads(done.stdout)
    assert [row["path"] for row in numbers["paths"]].count("compaction_sysctl") == 1
    (row,) = [row for row in numbers["paths"] if row["path"] == "compaction_sysctl"]
    assert row["initiator"]["tgid"] == os.getpid()
    assert row["folios"]["moved"] > 0
    if numbers["tier"] == "tracepoints":
        assert any("why a page stayed" in sentence for sentence in numbers["unseen"])
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert "tracepoints only" in text


def test_what_the_recorder_itself_migrates_is_in_no_sum(tmp_path: Path) -> None:
    """It compacts here, and so does another process: the recording has both, the report one."""
    place = tmp_path / "host.data"
    others: list[int] = []

    def compact() -> None:
        compacted_until_pages_moved()
        before = migrated()
        for _ in range(20):
            held = make_holes()
            with subprocess.Popen(["sh", "-c", f"echo 1 >{COMPACT}"]) as other:
                others.append(other.pid)
            del held
            if migrated()[0] > before[0]:
                return
        pytest.fail("environment: compaction moved no page in 20 tries")

    record(TracepointRequest(place, on_ready=compact, until=lambda: bool(others)), lambda _: None)
    recording = Recording.open(place)
    assert recording.meta.own == (os.getpid(),)
    numbers = profile(recording.tables(), recording.meta)
    migrations = recording.table("migrations")
    own = migrations["tgid"] == os.getpid()
    assert 0 < own.sum() == numbers["own"]["migrations"]
    initiators = {row["initiator"]["tgid"] for row in numbers["paths"]}
    assert os.getpid() not in initiators
    assert initiators & set(others)
    counted = migrations["succeeded"][~own].sum()
    assert 0 < counted == sum(row["kernel_counted"]["moved_pages"] for row in numbers["paths"])
    argv = [sys.executable, "-m", "mptrace", "dump", "--table", "migrations", "--format", "jsonl"]
    done = subprocess.run([*argv, str(place)], capture_output=True, text=True, check=True)
    assert [json.loads(line)["own"] for line in done.stdout.splitlines()] == own.tolist()


_MOVER = """
import ctypes, sys
pid, address = int(sys.argv[1]), int(sys.argv[2])
pages, nodes, status = (ctypes.c_void_p * 1)(address), (ctypes.c_int * 1)(), (ctypes.c_int * 1)()
print("ready", flush=True)
sys.stdin.readline()
count = ctypes.c_ulong(1)
print(ctypes.CDLL(None).syscall(279, pid, count, pages, nodes, status, 2), flush=True)
sys.stdin.readline()
"""


def test_the_target_of_a_call_has_its_name(tmp_path: Path) -> None:
    """It is the caller's parent, lives, and was not asked for: it is met all the same."""
    place = tmp_path / "host.data"
    page = mmap.mmap(-1, PAGE)
    page[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    argv = [sys.executable, "-c", _MOVER, str(os.getpid()), str(address)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **pipes) as mover:
        assert mover.stdin is not None
        assert mover.stdout is not None
        assert mover.stdout.readline() == "ready\n"
        with recorded(place, "-p", str(mover.pid), "--tier", "tracepoints") as process:
            mover.stdin.write("\n")
            mover.stdin.flush()
            assert mover.stdout.readline() == "0\n"
        mover.stdin.write("\n")
    assert process.returncode == 0
    own = Path("/proc/self/comm").read_text().rstrip("\n")
    recording = Recording.open(place)
    (call,) = recording.table("calls")
    assert (int(call["tgid"]), int(call["target_tgid"])) == (mover.pid, os.getpid())
    people = {int(row["tgid"]): row for row in recording.table("processes")}
    assert people.keys() == {mover.pid, os.getpid()}
    assert people[os.getpid()]["comm"].decode() == own
    assert people[os.getpid()]["uid"] == 0
    argv = [sys.executable, "-m", "mptrace", "report", "--all", str(place)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    caller = people[mover.pid]["comm"].decode()
    moved = f"{caller}/{mover.pid} moved pages of {own}/{os.getpid()} 1"
    assert moved in " ".join(text.split())


def test_a_full_disk_and_a_command(tmp_path: Path) -> None:
    """The recording ends with a message and can be read; the command goes on to its end."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24K", "none", small], check=True)
    try:
        (small / "filling").write_bytes(bytes(16 << 10))
        script = "for n in 1 2 3; do echo 1 >$0; sleep 1; done; echo to the end; exit 7"
        options = ["--tier", "tracepoints", "-o", str(small / "data")]
        argv = [sys.executable, "-m", "mptrace", "record", *options]
        held = make_holes()
        done = subprocess.run(
            [*argv, "--", "sh", "-c", script, COMPACT], capture_output=True, text=True, check=False
        )
        del held
        recording = Recording.open(small / "data")
        recording.tables()
    finally:
        subprocess.run(["umount", small], check=True)
    assert (done.returncode, done.stdout) == (1, "to the end\n"), done.stderr
    for words in ("recording has ended", "waiting for 'sh'", "what was recorded until then"):
        assert words in done.stderr
    assert not recording.complete


def test_nothing_is_left_by_a_session_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL: the recording can be read, and no mount is there that was not there before."""
    mounts = Path("/proc/self/mounts").read_text()
    place = tmp_path / "host.data"
    with recorded(place, "-a", "--tier", "tracepoints") as process:
        compacted_until_pages_moved()
        deadline = time.monotonic() + 30
        while not list(place.glob("migrations-*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
        process.wait()
    assert Path("/proc/self/mounts").read_text() == mounts
    recording = Recording.open(place)
    assert not recording.complete
    assert recording.table("migrations").size > 0


def test_the_kernel_counts_what_it_has_no_room_for() -> None:
    """Counts are of all events; what comes out of the rings and what was lost adds up to it."""
    formats, _ = read_formats()
    name = "migrate:mm_migrate_pages"
    layout = formats[name]
    events = PerfEvents([Probe(name, layout.event_id, record_bytes(layout.raw_bytes))])
    try:
        assert events.cpus == online_cpus()
        with tracefs_instance() as told:
            since = time.monotonic_ns()
            events.enable()
            compacted_until_pages_moved()
            events.disable()
        drained = events.drain()
        count = sum(len(run) for run in drained.samples)
        assert events.counts() == {name: count}
        assert count == len(told["migrations"])
        assert drained.losses.size == 0
        times = [at for run in drained.samples for at in head(run)["time_ns"].tolist()]
        assert since <= min(times)
        assert max(times) <= time.monotonic_ns()
    finally:
        events.close()
    assert events.memory_bytes == 0


def test_an_earlier_recording_makes_room_when_the_next_begins(tmp_path: Path) -> None:
    """By the default name alone, and not for a session that fails before it records."""

    def record(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "mptrace", "record", "--tier", "tracepoints", *options]
        return subprocess.run(
            argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
        )

    def began(name: str) -> int:
        return Recording.open(tmp_path / name).meta.started.monotonic_ns

    assert record("-a", "-d", "0.1").returncode == 0
    first = began("mptrace.data")
    second = record("-a", "-d", "0.1")
    assert second.returncode == 0
    assert "the earlier 'mptrace.data' is now 'mptrace.data.old'" in second.stderr
    assert began("mptrace.data.old") == first
    kept = began("mptrace.data")
    assert record("-p", "999999999").returncode == 1
    assert record("-a", "--reason", "none").returncode == 2
    named = record("-a", "-d", "0.1", "-o", "mptrace.data")
    assert (named.returncode, "--force" in named.stderr) == (1, True)
    assert (began("mptrace.data"), began("mptrace.data.old")) == (kept, first)
    assert record("-a", "-d", "2.1", "--rotate-time", "1").returncode == 0
    assert began("mptrace.data.old") == kept
    parts = sorted(path.name for path in tmp_path.iterdir())
    assert parts[:2] == ["mptrace.data.000001", "mptrace.data.000002"]


def test_a_cgroup_is_named_by_its_number_alone() -> None:
    """Whoever was in it is gone; a number that no cgroup has stays without a name."""
    processes = Processes()
    mounts = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    mount = next((each for each in mounts if (each / "cgroup.controllers").exists()), None)
    if mount is None:
        pytest.fail("environment: cgroups of version 2 are not mounted")
    group = mount / f"mptrace-test-{os.getpid()}"
    group.mkdir()
    try:
        numbers = [group.stat().st_ino, mount.stat().st_ino]
        processes.learn([0, *numbers, 2**40 + 23])
    finally:
        group.rmdir()
    assert processes.cgroups == {numbers[0]: f"/{group.name}", numbers[1]: "/"}
    gone = Processes()
    gone.learn(numbers)
    assert gone.cgroups == {numbers[1]: "/"}
