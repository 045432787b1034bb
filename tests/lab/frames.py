# SPDX-License-Identifier: GPL-2.0-or-later
"""In a guest: pages are moved in many ways under `mptrace record --tier tracepoints`.

Tells what this program knows itself: page frames from /proc/self/pagemap before and
after, /proc/vmstat, and the kernel's tracepoint as a tracefs instance of its own has it.
Usage: frames.py DIRECTORY; the answer is JSON on stdout.
"""

import contextlib
import ctypes
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mover import Mover, locate, vmstat

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
MOVE_PAGES, MBIND = 279, 237
MOVE, MOVE_ALL = 2, 4
MPOL_BIND = 2
MADV_DONTNEED = 4
#: Prime, as everywhere.
BASE, SHARED, BOUND, FOREIGN, PINNED, HOLES = 509, 23, 101, 211, 5, 100003

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def frames(addresses: list[int]) -> list[int]:
    """Page frame of each address, 0 where none is present."""
    found = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for address in addresses:
            pagemap.seek(address // PAGE * 8)
            (word,) = struct.unpack("<Q", pagemap.read(8))
            found.append(word & (1 << 55) - 1 if word >> 63 else 0)
    return found


def nodes(addresses: list[int]) -> list[int]:
    """Node of each address."""
    array = (ctypes.c_uint64 * len(addresses))(*addresses)
    raw = locate(0, ctypes.addressof(array), len(addresses))
    return list(struct.unpack(f"<{len(addresses)}i", raw))


def told(addresses: list[int], action: Any) -> dict[str, Any]:
    """What is known of pages around an action."""
    before, from_nodes = frames(addresses), nodes(addresses)
    since, counted = time.monotonic_ns(), vmstat()
    result = action()
    grown = {name: value - counted[name] for name, value in vmstat().items()}
    return {
        "addresses": addresses,
        "before": before,
        "after": frames(addresses),
        "from": from_nodes,
        "to": nodes(addresses),
        "since_ns": since,
        "until_ns": time.monotonic_ns(),
        "vmstat": grown,
        "result": result,
        "pid": os.getpid(),
    }


def move(addresses: list[int], nid: int, flags: int = MOVE) -> int:
    """move_pages(2) of this process's pages; its return value."""
    count = len(addresses)
    status = (ctypes.c_int * count)(*[-99] * count)
    return int(
        _libc.syscall(
            ctypes.c_long(MOVE_PAGES),
            0,
            ctypes.c_ulong(count),
            (ctypes.c_uint64 * count)(*addresses),
            (ctypes.c_int * count)(*[nid] * count),
            status,
            flags,
        )
    )


def bind(base: int, count: int, nid: int) -> int:
    """mbind(2) of pages with MPOL_MF_MOVE; its return value."""
    mask = ctypes.c_ulong(1 << nid)
    return int(
        _libc.syscall(
            ctypes.c_long(MBIND),
            ctypes.c_ulong(base),
            ctypes.c_ulong(count * PAGE),
            MPOL_BIND,
            ctypes.byref(mask),
            ctypes.c_ulong(64),
            MOVE,
        )
    )


def pages(base: int, count: int, step: int = PAGE) -> list[int]:
    """Addresses of pages one after the other."""
    return list(range(base, base + count * step, step))


@contextlib.contextmanager
def recorder(directory: Path) -> Iterator[None]:
    """`mptrace record -a` by tracepoints, from when it traces until it ended in order."""
    argv = [sys.executable, "-m", "mptrace", "record", "-a", "--tier", "tracepoints"]
    argv += ["-o", str(directory)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "tracing:" in line:
                break
        if process.poll() is not None or not lines or "tracing:" not in lines[-1]:
            raise SystemExit("".join(lines) or "mptrace record said nothing")
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stderr.read(), file=sys.stderr)
    assert process.returncode == 0, process.returncode


@contextlib.contextmanager
def counted_by_the_kernel(into: dict[str, Any]) -> Iterator[None]:
    """Each mm_migrate_pages while inside, as a tracefs instance of its own prints it."""
    instance = Path("/sys/kernel/tracing/instances/frames")
    instance.mkdir()
    try:
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text("4096")
        event = instance / "events/migrate/mm_migrate_pages/enable"
        into["since_ns"] = time.monotonic_ns()
        event.write_text("1")
        try:
            yield
        finally:
            event.write_text("0")
            into["until_ns"] = time.monotonic_ns()
            into["migrations"] = [
                [match["comm"], int(match["tid"]), int(match["ok"]), int(match["bad"]),
                 match["mode"], match["reason"]]
                for match in _LINE.finditer((instance / "trace").read_text())
            ]  # fmt: skip
    finally:
        instance.rmdir()


_LINE = re.compile(
    r"^\s*(?P<comm>\S.*?)-(?P<tid>\d+)\s+\[.*mm_migrate_pages: nr_succeeded=(?P<ok>\d+)"
    r" nr_failed=(?P<bad>\d+).*mode=(?P<mode>\w+) reason=(?P<reason>\w+)",
    re.MULTILINE,
)


def base_pages(mover: Mover) -> dict[str, Any]:
    """4 KiB pages, five of them pinned by a pipe."""
    addresses = pages(mover.do_map("4k", [[BASE, 0]])["base"], BASE)
    mover.do_pin(addresses[7 :: BASE // PINNED][:PINNED])
    done = told(addresses, lambda: move(addresses, 1))
    mover.do_unpin()
    return done


def huge_pages(mover: Mover) -> dict[str, Any]:
    """THPs mapped by a PMD, by their first address."""
    base = mover.do_map("thp", [[2048, 0]])["base"]
    assert mover.do_huge(base, 4 * HUGE)["bytes"] == 4 * HUGE
    addresses = pages(base, 4, HUGE)
    return told(addresses, lambda: move(addresses, 1))


def large_by_ptes(mover: Mover) -> dict[str, Any]:
    """A THP of which one page has another protection: mapped by 512 entries."""
    base = mover.do_map("thp", [[512, 0]])["base"]
    _libc.mprotect(ctypes.c_void_p(base + 17 * PAGE), ctypes.c_size_t(PAGE), 1)
    every = pages(base, 512)
    return told(every, lambda: move(every[:1], 1))


def gigantic(mover: Mover) -> dict[str, Any]:
    """hugetlb pages."""
    for nid in (0, 1):
        pool = Path(f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/nr_hugepages")
        pool.write_text("4")
    addresses = pages(mover.do_map("hugetlb", [[1024, 0]])["base"], 2, HUGE)
    return told(addresses, lambda: move(addresses, 1))


def no_access(mover: Mover) -> dict[str, Any]:
    """Pages behind PROT_NONE, whose entries have inverted bits; by mbind(2)."""
    base = mover.do_map("4k", [[SHARED, 0]])["base"]
    _libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(SHARED * PAGE), 0)
    return told(pages(base, SHARED), lambda: bind(base, SHARED, 1))


def shared_pages(mover: Mover) -> dict[str, Any]:
    """Shared memory that children map, too, at the same addresses."""
    addresses = pages(mover.do_map("shmem", [[SHARED, 0]])["base"], SHARED)
    inside, outside = os.pipe()
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(outside)
        for address in addresses:
            ctypes.string_at(address, 1)
        os.write(say, b"r")
        os.read(inside, 1)
        os._exit(0)
    os.close(inside)
    os.read(ready, 1)
    done = told(addresses, lambda: move(addresses, 1, MOVE_ALL))
    os.close(outside)
    os.waitpid(child, 0)
    return done


def bound_pages(mover: Mover) -> dict[str, Any]:
    """mbind(2) with MPOL_MF_MOVE."""
    base = mover.do_map("4k", [[BOUND, 0]])["base"]
    return told(pages(base, BOUND), lambda: bind(base, BOUND, 1))


def by_another(mover: Mover) -> dict[str, Any]:
    """numactl's migratepages moves this process; it is gone soon after."""
    addresses = pages(mover.do_map("4k", [[FOREIGN, 0]])["base"], FOREIGN)

    def act() -> int:
        with subprocess.Popen(["migratepages", str(os.getpid()), "0", "1"]) as program:
            program.wait()
        return program.pid

    return told(addresses, act)


def compaction(mover: Mover) -> dict[str, Any]:
    """The whole memory compacted, with holes in it and pages of ours between them."""
    # without huge pages, which compaction leaves alone
    every = pages(mover.do_map("4k", [[HOLES, 0]])["base"], HOLES)
    addresses = every[::29]
    for first in range(0, HOLES, 29):
        _libc.madvise(
            ctypes.c_void_p(every[first] + PAGE),
            ctypes.c_size_t((min(29, HOLES - first) - 1) * PAGE),
            MADV_DONTNEED,
        )
    return told(addresses, lambda: Path("/proc/sys/vm/compact_memory").write_text("1"))


CASES = (
    base_pages,
    huge_pages,
    large_by_ptes,
    gigantic,
    no_access,
    shared_pages,
    bound_pages,
    by_another,
    compaction,
)


def main() -> None:
    """Every case under one recorder."""
    directory = Path(sys.argv[1])
    mover = Mover()
    kernel: dict[str, Any] = {}
    counts = vmstat()
    with (
        recorder(directory / "frames.data"),
        counted_by_the_kernel(kernel),
    ):
        counts = vmstat()
        cases = {case.__name__: case(mover) for case in CASES}
        grown = {name: value - counts[name] for name, value in vmstat().items()}
    print(json.dumps({"cases": cases, "kernel": kernel, "vmstat": grown}))


if __name__ == "__main__":
    main()
