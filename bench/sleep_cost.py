# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mptrace record -a` costs a thread that sleeps for I/O: with and without, in turn.

Usage, in a guest, with nothing else running:

    mptrace lab --kernel 6.12 -- .venv/bin/python bench/sleep_cost.py

Reads pages of a file that are not in the page cache: where the device is not done at once, the
reader sleeps for the page's lock.
Writes its table for this kernel into docs/sleep-cost.md.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evidence_cost import write

from mptrace.sessions.calibrated import read_facts
from mptrace.tracer import Tracer
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import Scope
from mptrace.units import format_ns

PAGE_SIZE, PAGES = 4096, 1009
ROUNDS, READS = 5, 5
PAGE = Path(__file__).parents[1] / "docs" / "sleep-cost.md"
#: Phases that only sleeps for a folio's lock need.
SLEEPS = {"io_sleep": "io_schedule", "wake": "wake_page_function"}
WAYS = ("nothing traced", "without probes of sleeps", "with them")


@contextmanager
def cold_file() -> Iterator[int]:
    """A file on an ext4 file system of its own, on a loop device, without readahead."""
    with tempfile.TemporaryDirectory() as name:
        image, disk = Path(name) / "image", Path(name) / "disk"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        disk.mkdir()
        subprocess.run(["modprobe", "loop"], check=True)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
        try:
            fd = os.open(disk / "pages", os.O_RDWR | os.O_CREAT)
            try:
                os.write(fd, b"x" * PAGES * PAGE_SIZE)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
                yield fd
            finally:
                os.close(fd)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def read_all(fd: int) -> float:
    """Nanoseconds per page of reading all of it cold."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    before = time.monotonic_ns()
    for number in range(PAGES):
        os.pread(fd, 1, number * PAGE_SIZE)
    return (time.monotonic_ns() - before) / PAGES


def tracer_of(sleeps: bool) -> Tracer:
    """A tracer as `mptrace record -a` has it, its gate open, with or without the probes."""
    facts = read_facts()
    excluded = {
        (phase, function, way): "left out"
        for phase, function in SLEEPS.items()
        for way in ("fentry", "kprobe")
        if not sleeps
    }
    plan = make_plan(facts, Request(others=True, max_folios=4096), excluded)
    assert all(bool(p.method) == sleeps for p in plan.phases if p.phase in SLEEPS)
    tracer = Tracer(plan, facts.release)
    assert not tracer.open()
    tracer.open_scope(Scope("all"))
    return tracer


def main() -> None:
    """Measure in turn and write the table."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with cold_file() as fd:
        read_all(fd)
        for number in range(ROUNDS):
            # there and back: a drift of the machine falls on all alike
            for way in WAYS if number % 2 else WAYS[::-1]:
                tracer = None if way == WAYS[0] else tracer_of(way == WAYS[2])
                times[way] += [read_all(fd) for _ in range(READS)]
                if tracer:
                    tracer.close()
        tracer = tracer_of(sleeps=True)
        with tracer.statistics():
            read_all(fd)
            costs = {cost.handler.partition("@")[0]: cost for cost in tracer.handler_costs()}
        tracer.close()
    slept = costs["enter_io_sleep"].run_count / PAGES
    assert slept > 0.1, f"{slept:.2f} sleeps per page: the device is too quick to measure any"
    middle = {way: statistics.median(values) for way, values in times.items()}
    rows = ["| a page read | median | ratio |", "|---|---|---|"]
    rows += [
        f"| {way} | {format_ns(int(middle[way]))} | {middle[way] / middle[WAYS[0]]:.3f} |"
        for way in WAYS
    ]
    rows += ["", "| program | runs per page | each |", "|---|---|---|"]
    for handler in ("enter_io_sleep", "exit_io_sleep", "enter_wake"):
        cost = costs[handler]
        each = format_ns(cost.run_ns // max(cost.run_count, 1))
        rows.append(f"| {handler} | {cost.run_count / PAGES:.2f} | {each} |")
    write(PAGE, HEAD, os.uname().release, rows)
    print("\n".join(rows))


HEAD = f"""# What sleeping for I/O costs under `mptrace record -a`

Under `mptrace record -a`, a thread that sleeps in `io_schedule()` runs two short BPF programs,
and each wake-up for a folio runs one ([kernels.md](kernels.md)). The tables show what that
costs a read.

`bench/sleep_cost.py` reads {PAGES} pages of a file that are not in the page cache, one by one;
the reader mostly sleeps for the page's lock. A round does this {READS} times with nothing
traced, {READS} times with the probes of `record -a` without these three, and {READS} times with
them; there are {ROUNDS} rounds. The device is a loop device on memory; on a slower device, the
programs are a smaller part of the time. The second table is from a separate run with BPF's
run-time statistics. Under emulation, only the ratios mean anything. There is no figure for the
lab's 6.1, because the device was too quick for a read to sleep there.
"""

if __name__ == "__main__":
    main()
