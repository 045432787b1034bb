# SPDX-License-Identifier: GPL-2.0-or-later
"""Has pages moved under the hands of those who touch them, one mover after the other.

Leaves a file NAME of touches (see touch.c) for each section, and returns of each its
``name``, the toucher's ``pid``, ``tids``, ``base``, ``kind``, ``pages`` and ``touches``, and its
``movers``: who moved and when (``tid``, ``comm``, ``before_ns``, ``after_ns`` of
CLOCK_MONOTONIC, ``reason``, and ``ret`` of the system call or program); and ``maps``, the text
of the toucher's /proc/PID/maps before its pages were moved and afterwards.
"""

import ctypes
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAGE = 4096
#: What a touch must take to be noted; of files' pages, one of which is locked at a time on 6.1.
MIN_NS, FILE_MIN_NS = 1_000_000, 100_000
SMALL_PAGES = 1021
FILE_PAGES = 61
HUGE_PAGES = 5 * 512
#: Moves at the least, and how often touchers must have slept; else so many times as many moves.
ROUNDS, FILE_ROUNDS = 6, 100
SLEEPS, MOST_TIMES = 30, 12
THREADS = 2
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
POOLS = [
    Path(f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/nr_hugepages")
    for nid in (0, 1)
]
_MOVE_PAGES, _MPOL_MF_MOVE = 279, 2

_libc = ctypes.CDLL(None, use_errno=True)
Section = dict[str, Any]


@contextmanager
def toucher(program: Path, kind: str, pages: int, path: Path) -> Iterator[Section]:
    """Touchers at work while inside; afterwards the section has their ``touches``."""
    # faults on files' pages lock them, those on hugetlb's share a mutex by page: two threads
    # would wait for one another, too (seen in hugetlb_fault() on 6.12, by sched_switch's stacks)
    threads = 1 if "/" in kind or kind == "hugetlb" else THREADS
    min_ns = FILE_MIN_NS if "/" in kind else MIN_NS
    argv = [str(program), str(pages), str(threads), kind, str(min_ns), str(path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid, base, *tids = map(int, process.stdout.readline().split())
        section: Section = {"name": path.name, "pid": pid, "base": base, "tids": tids}
        section |= {"kind": kind, "pages": pages, "min_ns": min_ns, "movers": []}
        yield section
        process.stdin.close()
        section["touches"] = int(process.stdout.readline())
    assert process.returncode == 0, f"touch: {process.returncode}"


def sleeps(section: Section) -> int:
    """How often the touchers gave up their CPU of their own accord, as the kernel counts."""
    count = 0
    for tid in section["tids"]:
        text = Path(f"/proc/{section['pid']}/task/{tid}/status").read_text()
        count += int(re.search(r"^voluntary_ctxt_switches:\t(\d+)$", text, re.MULTILINE)[1])
    return count


def rounds(section: Section, least: int) -> Iterator[int]:
    """Numbers of moves: how soon touchers sleep depends on what else the machine does."""
    before = sleeps(section)
    for number in range(MOST_TIMES * least):
        if number >= least and sleeps(section) - before >= SLEEPS:
            return
        yield number


def by_program(*argv: str) -> dict[str, Any]:
    """Run a program: its only thread is the mover."""
    before = time.monotonic_ns()
    with subprocess.Popen(argv) as process:
        pass
    assert process.returncode == 0, f"{argv}: {process.returncode}"
    after = time.monotonic_ns()
    times = {"before_ns": before, "after_ns": after, "ret": process.returncode}
    return {"tid": process.pid, "comm": Path(argv[0]).name, **times}


def migratepages(section: Section) -> None:
    """All pages of the process there and back, by numactl's program."""
    for number in rounds(section, ROUNDS):
        nodes = ("0", "1") if number % 2 == 0 else ("1", "0")
        mover = by_program("migratepages", str(section["pid"]), *nodes)
        section["movers"].append({**mover, "reason": "syscall"})


def move_pages(section: Section, least: int = ROUNDS) -> None:
    """All pages of the mapping there and back, a call of move_pages(2) each."""
    count = section["pages"]
    addresses = (ctypes.c_uint64 * count)(
        *range(section["base"], section["base"] + count * PAGE, PAGE)
    )
    for number in rounds(section, least):
        nodes = (ctypes.c_int * count)(*[1 - number % 2] * count)
        status = (ctypes.c_int * count)(*[-1000] * count)
        before = time.monotonic_ns()
        ret = _libc.syscall(
            ctypes.c_long(_MOVE_PAGES),
            ctypes.c_long(section["pid"]),
            ctypes.c_long(count),
            addresses,
            nodes,
            status,
            ctypes.c_long(_MPOL_MF_MOVE),
        )
        after = time.monotonic_ns()
        section["movers"].append(
            {
                "tid": threading.get_native_id(),
                "comm": Path("/proc/thread-self/comm").read_text().strip(),
                "before_ns": before,
                "after_ns": after,
                "ret": ret if ret >= 0 else -ctypes.get_errno(),
                "reason": "syscall",
            }
        )


def move_file(section: Section) -> None:
    """The same more often, of fewer pages."""
    move_pages(section, FILE_ROUNDS)


#: A file's page that a fault looks for while it is moved: the thread sleeps for the folio's lock.
SHMEM, DISK = "/dev/shm/touched", "{directory}/ext4/touched"
SECTIONS: dict[str, tuple[str, int, Callable[[Section], None]]] = {
    "migratepages": ("4k", SMALL_PAGES, migratepages),
    "move_pages": ("4k", SMALL_PAGES, move_pages),
    "shmem": (SHMEM, FILE_PAGES, move_file),
    "file": (DISK, FILE_PAGES, move_file),
    "huge": ("thp", HUGE_PAGES, migratepages),
    "hugetlb": ("hugetlb", HUGE_PAGES, migratepages),
}


@contextmanager
def _facilities(directory: Path) -> Iterator[None]:
    """A small ext4 file system in ``directory``, and huge pages for hugetlb on either node."""
    disk, image = directory / "ext4", directory / "ext4.image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    disk.mkdir()
    subprocess.run(["modprobe", "loop"], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        # one more than the toucher has, for its alignment
        wanted = str(HUGE_PAGES // 512 + 1)
        for pool in POOLS:
            pool.write_text(wanted)
            assert pool.read_text().strip() == wanted, f"{pool}: not as many huge pages"
        # others where they are asked for only: not beneath the touchers' stacks
        THP.write_text("madvise")
        yield
    finally:
        for pool in POOLS:
            pool.write_text("0")
        subprocess.run(["umount", str(disk)], check=True)
        image.unlink()
        disk.rmdir()


def run(directory: Path) -> list[Section]:
    """All sections; see the module."""
    program = directory / "touch"
    sections = []
    with _facilities(directory):
        for name, (kind, pages, move) in SECTIONS.items():
            memory = kind.format(directory=directory)
            with toucher(program, memory, pages, directory / name) as section:
                maps = Path(f"/proc/{section['pid']}/maps")
                section["maps"] = [maps.read_text()]
                move(section)
                section["maps"].append(maps.read_text())
            sections.append(section)
            print(name, "done", file=sys.stderr, flush=True)
    return sections
