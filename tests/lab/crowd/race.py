# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the race of 32 threads in 8 processes while memory is compacted in a loop.

Leaves ``told`` (a file for each thread, see race.c) and returns the ``target`` of all,
the process that compacts (``compactor``), how often it did (``compactions``), and by how
much counters of /proc/vmstat grew between ``start_ns`` and ``end_ns``.
"""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROCESSES, THREADS, ROUNDS = 8, 4, 10
#: Memory in which every other piece is given back before each compaction.
HOLEY_BYTES = 8 << 20
PIECE = 4 * mmap.PAGESIZE
_COUNTERS = ("pgmigrate_success", "pgmigrate_fail")


def vmstat() -> dict[str, int]:
    """The counters of migrations, in base pages."""
    pairs = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in pairs if name in _COUNTERS}


def compact(end: int, done: int) -> None:
    """Make holes, compact, again and again until ``end`` can be read; then tell how often."""
    memory = mmap.mmap(-1, HOLEY_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    count = 0
    os.set_blocking(end, False)
    while True:
        memory[:: mmap.PAGESIZE] = b"x" * (HOLEY_BYTES // mmap.PAGESIZE)
        for start in range(0, HOLEY_BYTES, 2 * PIECE):
            memory.madvise(mmap.MADV_DONTNEED, start, PIECE)
        Path("/proc/sys/vm/compact_memory").write_text("1")
        count += 1
        try:
            if os.read(end, 1) == b"":
                break
        except BlockingIOError:
            continue
    os.write(done, str(count).encode())


@contextmanager
def compactor(about: dict[str, int]) -> Iterator[None]:
    """A process that compacts while inside."""
    end, stop = os.pipe()
    result, done = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(stop)
        # should this process go, so does the loop: the other end is closed then
        compact(end, done)
        os._exit(0)
    os.close(end)
    os.close(done)
    about["compactor"] = pid
    yield
    os.close(stop)
    about["compactions"] = int(os.read(result, 32))
    os.waitpid(pid, 0)


def run(directory: Path, rounds: int = ROUNDS) -> dict[str, int]:
    """The race; see the module."""
    program = directory / "race"
    (directory / "told").mkdir()
    about: dict[str, int] = {}
    numbers = map(str, (PROCESSES, THREADS, rounds))
    about["start_ns"], before = time.monotonic_ns(), vmstat()
    with compactor(about):
        done = subprocess.run(
            [str(program), *numbers, str(directory / "told")], stdout=subprocess.PIPE, check=True
        )
    after, about["end_ns"] = vmstat(), time.monotonic_ns()
    print("race done", file=sys.stderr, flush=True)
    about["target"] = int(done.stdout)
    return about | {name: after[name] - before[name] for name in _COUNTERS}
