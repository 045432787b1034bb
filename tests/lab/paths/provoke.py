# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths that begin with a request: system calls, cpusets, NUMA balancing, pins.

A path is a function that makes its migrations happen and returns what the programs
themselves know: ``pid`` of who asks (0: a kernel thread), ``comm`` where that is sure,
``reason`` as the tracepoint writes it, ``owner`` (thread group whose pages move, 0: not
one), ``from`` and ``to`` (nids, None where the kernel chooses), ``pages`` (base pages that
moved, by numa_maps or the program's own word; None where nobody but the kernel knows),
or the ``least`` and the ``most`` that may be.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .holder import LIBNUMA, MPOL_MF_MOVE, PAGE, Holder

About = dict[str, Any]
Path_ = Callable[[], About]
CGROUPS = Path("/sys/fs/cgroup")
#: Primes, each path its own, so that no count is right by accident.
PAGES = {
    "migratepages": 509,
    "migspeed": 257,
    "move_pages": 263,
    "mbind": 401,
    "cpuset": 307,
    "numa-balancing": 1021,
    "soft-offline": 23,
}


def run(*argv: str) -> tuple[int, str]:
    """Run a program to its end: its process number and output; fails where it fails."""
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 0, f"{argv}: {process.returncode}: {text}"
    return process.pid, text


def wait_for(what: str, done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look until ``done``; fails after ``seconds``, saying ``what`` did not happen."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what}: not in {seconds:g} s"
        time.sleep(0.05)


def about(pid: int, comm: str, reason: str, **more: Any) -> About:
    """What a path returns; see the module."""
    known = {"pid": pid, "comm": comm, "reason": reason, "owner": 0, "from": None, "to": None}
    return {**known, "pages": None, **more}


def moved(before: dict[int, int], after: dict[int, int], nid: int) -> int:
    """How many pages of a mapping came to node ``nid``."""
    return after.get(nid, 0) - before.get(nid, 0)


def _of_holder(holder: Holder, nid: int, before: dict[int, int]) -> About:
    return {"owner": holder.pid, "to": nid, "pages": moved(before, holder.nodes(), nid)}


def migratepages() -> About:
    """migrate_pages(2) on another process, by numactl's program: all pages that it has."""
    with Holder(PAGES["migratepages"], "--node", 0) as holder:
        before = _all_pages(holder.pid)
        pid, _ = run("migratepages", str(holder.pid), "0", "1")
        pages = moved(before, _all_pages(holder.pid), 1)
        owned = {"owner": holder.pid, "from": 0, "to": 1, "least": holder.pages, "most": pages}
        assert holder.nodes() == {1: holder.pages}
        return about(pid, "migratepages", "syscall_or_cpuset", **owned)


def _all_pages(pid: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        for word in line.split():
            if word[0] == "N" and "=" in word:
                nid, _, count = word[1:].partition("=")
                total[int(nid)] = total.get(int(nid), 0) + int(count)
    return total


def migspeed() -> About:
    """mbind(2) on its own memory, by numactl's benchmark, which says that it migrates."""
    pid, _ = run("migspeed", "-p", str(PAGES["migspeed"]), "0", "1")
    known = {"owner": pid, "from": 0, "to": 1, "pages": PAGES["migspeed"]}
    return about(pid, "migspeed", "mempolicy_mbind", **known)


def move_pages() -> About:
    """move_pages(2) on another process, by libnuma's numa_move_pages()."""
    count = PAGES["move_pages"]
    with Holder(count, "--node", 0, "--free") as holder:
        before = holder.nodes()
        pages = (ctypes.c_void_p * count)(*(holder.address + i * PAGE for i in range(count)))
        nodes = (ctypes.c_int * count)(*[1] * count)
        status = (ctypes.c_int * count)(*[-1000] * count)
        result = LIBNUMA.numa_move_pages(
            holder.pid, ctypes.c_ulong(count), pages, nodes, status, MPOL_MF_MOVE
        )
        assert result == 0
        assert set(status) == {1}
        known = _of_holder(holder, 1, before)
        return about(os.getpid(), "", "syscall_or_cpuset", **{"from": 0}, **known)


def mbind_move() -> About:
    """mbind(2) with MPOL_MF_MOVE on its own memory, by libnuma."""
    with Holder(PAGES["mbind"], "--node", 0) as holder:
        before = holder.nodes()
        holder.tell("mbind", 1)
        known = _of_holder(holder, 1, before)
        return about(holder.pid, "", "mempolicy_mbind", **{"from": 0}, **known)


def cpuset() -> About:
    """A cpuset that gets another node: a kernel thread moves the pages of its processes."""
    group = CGROUPS / "mptrace-paths"
    (CGROUPS / "cgroup.subtree_control").write_text("+cpuset +memory")
    group.mkdir()
    try:
        (group / "cpuset.mems").write_text("0")
        with Holder(PAGES["cpuset"], "--node", 0, "--free") as holder:
            (group / "cgroup.procs").write_text(str(holder.pid))
            before = holder.nodes()
            run("sh", "-c", f"echo 1 > {group}/cpuset.mems")
            wait_for("the cpuset's pages move", lambda: holder.nodes().get(1) == holder.pages)
            known = _of_holder(holder, 1, before)
            known |= {"from": 0, "least": known.pop("pages")}
            return about(0, "kworker", "syscall_or_cpuset", **known)
    finally:
        wait_for("the cgroup is empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


_DEBUG = Path("/sys/kernel/debug/sched/numa_balancing")
_BALANCING = Path("/proc/sys/kernel/numa_balancing")
_DELAYS_MS = {"scan_delay_ms": 20, "scan_period_min_ms": 20, "scan_period_max_ms": 100}


class Balancing:
    """NUMA balancing in ``mode`` (1: usual, 2: between tiers) and quick, while it is entered."""

    def __init__(self, mode: int) -> None:
        self._mode = mode
        self._before: dict[Path, str] = {}

    def __enter__(self) -> None:
        for path in (_BALANCING, *(_DEBUG / name for name in _DELAYS_MS)):
            self._before[path] = path.read_text()
        for name, value in _DELAYS_MS.items():
            (_DEBUG / name).write_text(str(value))
        run("sysctl", "-qw", f"kernel.numa_balancing={self._mode}")

    def __exit__(self, *_: object) -> None:
        for path, text in self._before.items():
            path.write_text(text)


def numa_balancing() -> About:
    """A thread that was moved away from its memory, by taskset: the pages follow it."""
    with Holder(PAGES["numa-balancing"], "--node", 0, "--free") as holder, Balancing(1):
        run("taskset", "-acp", "0", str(holder.pid))
        holder.tell("busy")
        before = holder.nodes()
        run("taskset", "-acp", "1", str(holder.pid))
        wait_for("pages follow", lambda: holder.nodes().get(1, 0) > holder.pages // 2, 120)
        holder.tell("idle")
        Path("/proc/sys/kernel/numa_balancing").write_text("0")
        known = _of_holder(holder, 1, before)
        known |= {"from": 0, "least": known.pop("pages")}
        return about(holder.pid, "", "numa_misplaced", **known)


def soft_offline() -> About:
    """madvise(MADV_SOFT_OFFLINE) on its own memory: the pages' frames are given up."""
    count = PAGES["soft-offline"]
    with Holder(count, "--node", 0) as holder:
        failed = holder.tell("soft-offline", count)["failed"]
        assert not failed
        pages = {"pages": count, "owner": holder.pid, "from": 0}
        return about(holder.pid, "", "memory_failure", **pages)


def soft_offline_sysfs() -> About:
    """The same by the frame's address, written to sysfs by a shell: no process is named."""
    with Holder(1, "--node", 0) as holder:
        frame = frames(holder.pid, holder.address, 1)[0]
        place = "/sys/devices/system/memory/soft_offline_page"
        pid, _ = run("sh", "-c", f"echo {frame * PAGE:#x} > {place}")
        known = {"pages": 1, "owner": holder.pid, "from": 0}
        return about(pid, "sh", "memory_failure", **known)


def frames(pid: int, address: int, count: int) -> list[int]:
    """Page frame numbers of ``count`` pages, by pagemap; 0 where there is none."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(address // PAGE * 8)
        data = file.read(8 * count)
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    return [word & (1 << 55) - 1 if word >> 63 else 0 for word in words]


REQUESTS: dict[str, Path_] = {
    "migratepages": migratepages,
    "migspeed": migspeed,
    "move_pages": move_pages,
    "mbind": mbind_move,
    "cpuset": cpuset,
    "numa-balancing": numa_balancing,
    "soft-offline": soft_offline,
    "soft-offline-sysfs": soft_offline_sysfs,
}
