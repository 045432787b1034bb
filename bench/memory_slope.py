# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether `mptrace record` grows while pages move: its resident size against time and pages.

Usage, on a NUMA host as root or in a guest:

    mptrace lab --kernel 6.12 -- .venv/bin/python bench/memory_slope.py --pages 2000000

`record -a` runs as users run it, rotating so that the disk stays small; all pages of one
process go there and back by move_pages(2) and, with its huge pages, by migrate_pages(2) in
turn, and a new process moves some of its own each time.  Once a second the recorder's resident
size is read from /proc.  Writes its table for this kernel into docs/memory.md.
"""

import argparse
import ctypes
import itertools
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from mptrace.host.parent import die_with_parent

PAGE = mmap.PAGESIZE
DOCUMENT = Path(__file__).parents[1] / "docs" / "memory.md"
_MOVE_PAGES, _MIGRATE_PAGES, _MOVE = 279, 256, 2
#: Base pages of the process that moves its memory, and of each new one; huge pages of the former.
PAGES, FEW, HUGE = 4093, 23, 96
HUGE_BYTES = 2 << 20
#: Pages that move before the first sample: the mover takes its time to get ready.
FIRST = 2 * PAGES
#: Means over so many equal parts of the time are fitted: neighbouring samples depend on each other.
PARTS = 20
#: Part of the time in which rings, pools and caches fill: not fitted.
WARM_UP = 0.25
FIELDS = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "AnonHugePages")

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: object) -> int:
    words = [a if isinstance(a, ctypes.Array) else ctypes.c_long(a) for a in arguments]
    ret = _libc.syscall(ctypes.c_long(number), *words)
    if ret < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return int(ret)


def _memory(pages: int) -> tuple[mmap.mmap, ctypes.Array]:
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[::PAGE] = b"x" * pages
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, (ctypes.c_uint64 * pages)(*range(base, base + pages * PAGE, PAGE))


def _move(addresses: ctypes.Array, nid: int) -> None:
    count = len(addresses)
    status = (ctypes.c_int * count)()
    _syscall(
        _MOVE_PAGES, 0, count, addresses, (ctypes.c_int * count)(*[nid] * count), status, _MOVE
    )


def _short_lived() -> None:
    """A process that moves a few pages of its own, and is gone."""
    pid = os.fork()
    if not pid:
        _, addresses = _memory(FEW)
        for nid in (1, 0):
            _move(addresses, nid)
        os._exit(0)
    os.waitpid(pid, 0)


def load() -> None:
    """Move memory until killed."""
    die_with_parent()
    _, addresses = _memory(PAGES)
    huge = mmap.mmap(-1, (HUGE + 1) * HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    huge.madvise(mmap.MADV_HUGEPAGE)
    huge[::PAGE] = b"x" * (len(huge) // PAGE)
    for number in itertools.count():
        target = (number + 1) % 2
        if number // 2 % 2:
            masks = [(ctypes.c_ulong * 1)(1 << nid) for nid in (1 - target, target)]
            _syscall(_MIGRATE_PAGES, 0, 64, *masks)
        else:
            _move(addresses, target)
        _short_lived()


def moved() -> int:
    """Base pages that this machine has migrated."""
    text = Path("/proc/vmstat").read_text()
    return int(re.search(r"^pgmigrate_success (\d+)", text, re.M)[1])


def resident(pid: int) -> list[int]:
    """FIELDS of a process in bytes."""
    text = "".join(Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "smaps_rollup"))
    return [int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) << 10 for name in FIELDS]


def sample(pid: int, wanted: int, until: float) -> np.ndarray:
    """A row each second, shape (n, 2 + FIELDS): seconds since the first, pages moved, bytes.

    Ends when ``wanted`` pages have moved, or at the time ``until`` (CLOCK_MONOTONIC).
    """
    pages = moved()
    while moved() - pages < FIRST and time.monotonic() < until:
        time.sleep(1)
    rows, began, pages = [], time.monotonic(), moved()
    while not rows or (rows[-1][1] < wanted and time.monotonic() < until):
        at = time.monotonic() - began
        rows.append([at, moved() - pages, *resident(pid)])
        time.sleep(max(0.0, 1 - (time.monotonic() - began - at)))
    return np.array(rows, float)


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of y over x by least squares over PARTS means, and its standard error."""
    parts = [
        (a.mean(), b.mean())
        for a, b in zip(np.array_split(x, PARTS), np.array_split(y, PARTS), strict=True)
    ]
    a, b = np.array(parts).T
    a = a - a.mean()
    rise = float((a * b).sum() / (a * a).sum())
    rest = b - b.mean() - rise * a
    return rise, float(np.sqrt((rest * rest).sum() / (PARTS - 2) / (a * a).sum()))


def table(samples: np.ndarray, folios: int, lost: str) -> list[str]:
    """The rows of the document; ``folios`` were recorded in all, what was ``lost`` in words."""
    kept = samples[int(len(samples) * WARM_UP) :]
    # a record for each folio: what the recorder has to do goes by these
    folios_of = folios / samples[-1, 1]
    rows = [
        f"{samples[-1, 1] / 1e6:.2f} million base pages moved in {samples[-1, 0]:.0f} s of the "
        f"guest's clock, {folios / 1e6:.2f} million folios recorded; lost: {lost}. Fitted: the "
        f"last {(kept[-1, 1] - kept[0, 1]) / 1e6:.2f} million pages.",
        "",
        "| resident | first | last | slope per million pages | per million folios |",
        "|---|---|---|---|---|",
    ]
    for column, name in enumerate(FIELDS, 2):
        first, last = kept[0, column] / 2**20, kept[-1, column] / 2**20
        rise, error = slope(kept[:, 1] / 1e6, kept[:, column] / 2**10)
        per_pages = f"{rise:+.1f} ± {error:.1f} KiB"
        per_folios = f"{rise / folios_of:+.1f} ± {error / folios_of:.1f} KiB"
        rows.append(f"| {name} | {first:.1f} MiB | {last:.1f} MiB | {per_pages} | {per_folios} |")
    return rows


def write(rows: list[str]) -> None:
    """Replace or add this kernel's section."""
    release = os.uname().release
    text = DOCUMENT.read_text()
    section = f"## {release}\n\n" + "\n".join(rows) + "\n"
    head, *rest = re.split(r"^(?=## )", text, flags=re.M)
    rest = [each.rstrip() + "\n" for each in rest if not each.startswith(f"## {release}\n")]
    DOCUMENT.write_text("\n".join([head.rstrip() + "\n", *sorted([*rest, section])]))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=float, default=2e6, help="base pages to be moved")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most")
    parser.add_argument("--samples", type=Path, help="keep the samples, too (.npy)")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="memory-slope-"))
    # rings of a size that is filled within the warm-up
    bounds = ["--tier", "bpf", "--rotate-size", "16M", "--keep", "2", "--buffer", "2M"]
    argv = [
        sys.executable,
        "-m",
        "mptrace",
        "record",
        "-a",
        *bounds,
        "-o",
        str(directory / "data"),
    ]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as recorder:
        for line in recorder.stderr:
            print(line, end="", flush=True)
            if "tracing:" in line:
                break
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(recorder.stderr))
        listener.start()
        with subprocess.Popen([sys.executable, __file__, "load"]) as mover:
            samples = sample(
                recorder.pid, int(arguments.pages), time.monotonic() + arguments.seconds
            )
            assert mover.poll() is None, "nobody moved pages any more"
            mover.kill()
        recorder.send_signal(signal.SIGINT)
        listener.join()
    print("".join(said), end="")
    assert not recorder.returncode, recorder.returncode
    if arguments.samples:
        np.save(arguments.samples, samples)
    shutil.rmtree(directory)
    lost = [line.partition("lost: ")[2].strip() for line in said if "lost: " in line]
    folios = int(re.search(r"(\d+) folios", "".join(said))[1])
    rows = table(samples, folios, ", ".join(lost) or "nothing")
    print("\n".join(rows))
    write(rows)


if __name__ == "__main__":
    load() if sys.argv[1:] == ["load"] else main()
