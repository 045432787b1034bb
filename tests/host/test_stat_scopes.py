# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom `mptrace stat` counts: a process and what it forks, a user, a cgroup, a command.

The oracle is an instance of tracefs with the kernel's own mm_migrate_pages.  Needs root,
tracefs and a cgroup (v2) file system; says so if one is not there.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as prometheus_families

from mptrace.host import tracefs

pytestmark = pytest.mark.xdist_group("host")

NOBODY = 65534
MPTRACE = [sys.executable, "-m", "mptrace"]
CGROUPS = next(
    (
        place
        for place in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
        if (place / "cgroup.procs").exists() and (place / "cgroup.controllers").exists()
    ),
    None,
)
#: Makes holes in its memory and has the kernel close them; the sysctl looks at the effective
#: user, a scope at the real one.  argv: the real user, the cgroup's directory or "".
WORKER = """
import ctypes, mmap, os, sys
if sys.argv[2]:
    with open(sys.argv[2] + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
os.setresuid(int(sys.argv[1]), 0, 0)
print("ready", flush=True)
sys.stdin.readline()
def moved():
    with open("/proc/vmstat") as file:
        return int(dict(map(str.split, file))["pgmigrate_success"])
def compact():
    # where its holes lie is the kernel's choice: more of them, until something is moved
    pages, kept, before = 32 << 8, [], moved()
    for _ in range(12):
        memory = mmap.mmap(-1, pages * 4096)
        kept.append(memory)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            memory[page * 4096] = 1
        for page in range(0, pages, 2):
            memory.madvise(mmap.MADV_DONTNEED, page * 4096, 4096)
        with open("/proc/sys/vm/compact_memory", "w") as file:
            file.write("1")
        if moved() > before:
            return
compact()
# the child stays, too: tracepoints alone do not tell the user of who has ended
ready, done = os.pipe()
wait, go = os.pipe()
child = os.fork()
if not child:
    os.close(go)
    compact()
    os.write(done, b"d")
    os.read(wait, 1)
    os._exit(0)
os.read(ready, 1)
print(os.getpid(), child, flush=True)
sys.stdin.readline()
os.close(go)
os.waitpid(child, 0)
"""
_LINE = re.compile(
    r"^\s*\S.*?-(\d+)\s+\[.* mm_migrate_pages: nr_succeeded=(\d+) nr_failed=(\d+)", re.MULTILINE
)


@contextlib.contextmanager
def instance() -> Iterator[dict[int, tuple[int, int, int]]]:
    """After it, of each thread: migrations, pages moved, pages failed, by tracefs."""
    told: dict[int, tuple[int, int, int]] = {}
    with tracefs.readable() as root:
        place = root / "instances" / f"mptrace-scope-{os.getpid()}"
        place.mkdir()
        try:
            (place / "buffer_size_kb").write_text("8192")
            event = place / "events/migrate/mm_migrate_pages/enable"
            event.write_text("1")
            yield told
            event.write_text("0")
            for tid, moved, failed in _LINE.findall((place / "trace").read_text()):
                before = told.get(int(tid), (0, 0, 0))
                told[int(tid)] = before[0] + 1, before[1] + int(moved), before[2] + int(failed)
        finally:
            place.rmdir()


class Worker:
    """One that migrates when it is told to, and has a child that does, too."""

    def __init__(self, uid: int, cgroup: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(uid), str(cgroup or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.tids: list[int] = []

    def work(self) -> None:
        """Migrate; it stays there afterwards."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.tids = [int(word) for word in self.process.stdout.readline().split()]
        assert len(self.tids) == 2

    def end(self) -> None:
        """Let it go."""
        self.process.communicate("\n", timeout=60)


class Stat:
    """`mptrace stat --json` that counts when this is made."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*MPTRACE, "stat", "0.2", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()

    def end(self, *, stop: bool = True) -> dict[str, Any]:
        """Its total."""
        if stop:
            self.process.terminate()
        out, errors = self.process.communicate(timeout=60)
        assert self.first, errors
        assert self.process.returncode == (130 if stop else 0), errors
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert set(told["lost"].values()) == {0}
        return told


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup below one of ours."""
    if CGROUPS is None:
        pytest.fail("environment: there is no cgroup (v2) file system")
    above = CGROUPS / f"mptrace-test-{os.getpid()}"
    below = above / "below"
    below.mkdir(parents=True)
    yield below
    below.rmdir()
    above.rmdir()


def counted(told: dict[str, Any]) -> tuple[int, int, int]:
    """Migrations, pages moved, pages failed."""
    return told["migrations"], told["moved_pages"], told["failed_pages"]


def summed(tids: list[int], told: dict[int, tuple[int, int, int]]) -> tuple[int, int, int]:
    """The same of threads, by tracefs."""
    rows = [told.get(tid, (0, 0, 0)) for tid in tids]
    migrations, moved, failed = (sum(column) for column in zip(*rows, strict=True))
    return migrations, moved, failed


@pytest.mark.parametrize("tier", ["bpf", "tracepoints"])
def test_scopes_count_whom_they_name(tier: str, cgroup: Path, tmp_path: Path) -> None:
    """-p with what it forks, -u, --cgroup with what is below it: each exactly its own."""
    one, other = Worker(NOBODY, None), Worker(0, cgroup)
    above = f"/{cgroup.parent.name}"
    file = tmp_path / "counters.txt"
    scopes = {
        "pid": ["-p", str(one.process.pid)],
        "uid": ["-u", str(NOBODY)],
        "cgroup": ["--cgroup", above],
        "everybody": ["--by", "cgroup", "--openmetrics", str(file)],
        "processes": ["-a", "--by", "process"],
    }
    with instance() as kernel:
        stats = {name: Stat("--tier", tier, *options) for name, options in scopes.items()}
        one.work()
        other.work()
        told = {name: stat.end() for name, stat in stats.items() if name != "pid"}
        # it goes on until the chosen process has ended
        one.end()
        told["pid"] = stats["pid"].end(stop=False)
    other.end()
    mine, theirs = summed(one.tids, kernel), summed(other.tids, kernel)
    assert mine[1] > 0
    assert theirs[1] > 0
    assert min(kernel[tid][0] for tid in (*one.tids, *other.tids)) > 0
    assert counted(told["pid"]["total"]) == mine
    assert counted(told["uid"]["total"]) == mine
    assert counted(told["cgroup"]["total"]) == theirs
    groups = {row["cgroup"]: row for row in told["everybody"]["cgroups"]}
    assert counted(groups[f"{above}/below"]) == theirs
    processes = {row["tgid"]: row for row in told["processes"]["processes"]}
    for tid in (*one.tids, *other.tids):
        assert counted(processes[tid]) == kernel[tid]
    families = {f.name: f for f in text_string_to_metric_families(file.read_text())}
    exposed = [
        {s.labels["cgroup"]: s.value for s in families[f"mptrace_{name}"].samples}
        for name in ("migrations", "pages_moved", "pages_failed")
    ]
    assert tuple(each[f"{above}/below"] for each in exposed) == theirs


@pytest.mark.parametrize("tier", ["bpf", "tracepoints"])
def test_a_command_is_counted_with_what_it_starts(tier: str) -> None:
    """Nobody else is, not even one that migrates meanwhile; its exit status is passed on."""
    # each child says who it is
    child = "echo $$; echo 1 >/proc/sys/vm/compact_memory"
    script = f"for n in 1 2 3; do sh -c '{child}'; done; exit 7"
    stranger = Worker(NOBODY, None)
    with instance() as kernel:
        process = subprocess.Popen(
            [*MPTRACE, "stat", "--json", "--by", "process", "--tier", tier, "--", "sh", "-c",
             f"echo ready; read x; {WORKER_SH}; {script}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        # it runs, and everything is counted by now
        assert process.stdout.readline() == "ready\n"
        stranger.work()
        out, errors = process.communicate("\n", timeout=120)
    stranger.end()
    assert process.returncode == 7, errors
    *children, last = out.splitlines()
    total = json.loads(last)
    mine = {row["tgid"]: row for row in total["processes"]}
    assert any(kernel.get(tid, (0, 0, 0))[0] for tid in stranger.tids)
    assert not set(stranger.tids) & set(mine)
    started = {int(line) for line in children if int(line) in kernel}
    assert started
    assert started <= set(mine)
    assert total["total"]["migrations"] > 0
    for tgid, row in mine.items():
        assert counted(row) == kernel[tgid]
    assert total["vmstat_moved_pages"] is None


#: Holes in memory, by another process of the command's.
WORKER_SH = (
    f"{sys.executable} -c 'import mmap; n = 32 << 8; m = mmap.mmap(-1, n * 4096)\n"
    "m.madvise(mmap.MADV_NOHUGEPAGE)\n"
    "for p in range(n): m[p * 4096] = 1\n"
    "for p in range(0, n, 2): m.madvise(mmap.MADV_DONTNEED, p * 4096, 4096)\n"
    'open("/proc/sys/vm/compact_memory", "w").write("1")\''
)


def test_a_port_serves_what_tracefs_counted() -> None:
    """By HTTP on this host alone, in both formats, until the end; by reason."""
    worker = Worker(NOBODY, None)
    stat = subprocess.Popen(
        [*MPTRACE, "stat", "-u", str(NOBODY), "--openmetrics", ":0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stat.stderr is not None
    with instance() as kernel:
        lines = iter(stat.stderr.readline, "")
        url = next(
            m[1] for line in lines if (m := re.search(r"(http://127\.0\.0\.1:\d+/\S+)", line))
        )
        assert any("counting" in line for line in lines)
        worker.work()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        # it is the same, and something, over two looks of stat's at its counts
        moved, since = 0.0, time.monotonic()
        deadline = since + 60
        while not (moved and time.monotonic() - since > 2.5) and time.monotonic() < deadline:
            with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as answer:
                text = answer.read().decode()
            families = {f.name: f for f in text_string_to_metric_families(text)}
            seen = sum(s.value for s in families["mptrace_pages_moved"].samples)
            if seen != moved:
                moved, since = seen, time.monotonic()
            time.sleep(0.1)
        with urllib.request.urlopen(url) as answer:
            older = {f.name: f for f in prometheus_families(answer.read().decode())}
        stat.terminate()
        out, errors = stat.communicate(timeout=60)
    worker.end()
    assert stat.returncode == 130, errors
    expected = summed(worker.tids, kernel)
    assert "total of" in out
    assert {s.labels["reason"] for s in families["mptrace_pages_moved"].samples} == {"compaction"}
    assert seen == expected[1] > 0
    assert sum(s.value for s in older["mptrace_pages_moved"].samples) == expected[1]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)
