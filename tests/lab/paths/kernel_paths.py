# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths on which the kernel needs the memory itself: compaction, tiers, offlining, ranges.

What a path is and what it returns: `provoke`.
"""

import ctypes
import os
import time
from pathlib import Path

from .holder import PAGE, Holder
from .provoke import CGROUPS, About, Balancing, Path_, about, frames, run, wait_for
from .witness import vmstat

#: The node without CPUs, of the lower tier where the kernel knows tiers.
SLOW = 2
MEMORY = Path("/sys/devices/system/memory")


def compaction() -> About:
    """All zones compacted on request, by sysctl."""
    with Holder(30_011, "--node", 1, "--keep", 16):
        pid, _ = run("sysctl", "-qw", "vm.compact_memory=1")
    return about(pid, "sysctl", "compaction")


def direct_compaction() -> About:
    """A pool of huge pages is filled, by a shell, where memory is in small pieces."""
    pool = Path("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages")
    with Holder(100_003, "--node", 1, "--keep", 16):
        try:
            pid, _ = run("sh", "-c", f"echo 400 > {pool}")
        finally:
            pool.write_text("0")
    known = {"from": 1, "to": 1}
    return about(pid, "sh", "compaction", **known)


def proactive_compaction() -> About:
    """kcompactd works by itself where free memory is in small pieces."""
    knob = Path("/proc/sys/vm/compaction_proactiveness")
    before = knob.read_text()
    isolated = vmstat()["compact_isolated"]
    with Holder(100_003, "--node", 1, "--keep", 16):
        try:
            run("sysctl", "-qw", "vm.compaction_proactiveness=100")
            wait_for("kcompactd compacts", lambda: vmstat()["compact_isolated"] > isolated, 90)
        finally:
            knob.write_text(before)
    known = {"from": 1, "to": 1}
    return about(0, "kcompactd1", "compaction", **known)


_DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")


class Demoting:
    """Reclaim may demote, and there is a cgroup for memory, while it is entered."""

    def __init__(self) -> None:
        self.group = CGROUPS / "mptrace-demote"

    def __enter__(self) -> Path:
        (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        self.group.mkdir()
        _DEMOTION.write_text("true")
        return self.group

    def __exit__(self, *_: object) -> None:
        _DEMOTION.write_text("false")
        procs = self.group / "cgroup.procs"
        wait_for("the cgroup is empty", lambda: not procs.read_text())
        self.group.rmdir()


def _reclaim(group: Path, size: str) -> int:
    # what can't be reclaimed in full is an error of the write, and no matter here
    return run("sh", "-c", f"exec 2>&-; echo {size} > {group}/memory.reclaim; exit 0")[0]


def demotion() -> About:
    """A cgroup's memory is reclaimed on request, by a shell: it goes to the slower node."""
    with Demoting() as group, Holder(2053, "--node", 0, "--free", "--cgroup", group) as holder:
        pid = _reclaim(group, "6M")
        known = {"from": 0, "to": SLOW, "least": holder.nodes().get(SLOW, 0), "owner": holder.pid}
        assert known["least"]
        return about(pid, "sh", "demotion", **known)


def demotion_by_kswapd() -> About:
    """A node overflows (memhog, bound to it): kswapd and memhog itself demote."""
    free = int(next(x for x in _meminfo(0) if "MemFree" in x).split()[3]) // 1024
    with Demoting():
        run("numactl", "--membind=0", "memhog", "-r1", f"{free + 64}m")
    known = {"from": 0, "to": SLOW}
    return about(0, "kswapd0", "demotion", **known)


def _meminfo(nid: int) -> list[str]:
    return Path(f"/sys/devices/system/node/node{nid}/meminfo").read_text().splitlines()


def promotion() -> About:
    """Demoted pages that are used again come back: NUMA balancing between tiers."""
    with Demoting() as group, Holder(2053, "--node", 0, "--free", "--cgroup", group) as holder:
        _reclaim(group, "6M")
        below = holder.nodes().get(SLOW, 0)
        assert below
        with Balancing(2):
            run("taskset", "-acp", "0", str(holder.pid))
            holder.tell("busy")
            wait_for("pages come up", lambda: holder.nodes().get(SLOW, 0) < below // 2, 120)
            holder.tell("idle")
            Path("/proc/sys/kernel/numa_balancing").write_text("0")
        known = {"from": SLOW, "to": 0, "least": below - holder.nodes().get(SLOW, 0)}
        return about(holder.pid, "", "numa_misplaced", owner=holder.pid, **known)


def block_bytes() -> int:
    """Size of a memory block of sysfs."""
    return int((MEMORY / "block_size_bytes").read_text(), 16)


def movable_block() -> tuple[Path, int]:
    """A memory block that is the slow node's ZONE_MOVABLE, and its first address.

    Movable pages of that node are allocated there first.  It stays so: to take it
    offline again is a migration, too.
    """
    found = Path(f"/sys/devices/system/node/node{SLOW}").glob("memory[0-9]*")
    blocks = sorted(found, key=lambda path: int(path.name[6:]), reverse=True)
    movable = [x for x in blocks if (x / "valid_zones").read_text().split() == ["Movable"]]
    # those at the node's end are the likeliest to be empty; the last has the memmap
    for block in movable or blocks:
        if not movable:
            try:
                (block / "state").write_text("offline")
            except OSError:
                continue
            (block / "state").write_text("online_movable")
        return block / "state", int(block.name[6:]) * block_bytes()
    raise AssertionError("no memory block can be taken offline")


def offlining() -> About:
    """A memory block with pages in it is taken offline, by util-linux' chmem."""
    state, first = movable_block()
    with Holder(2063, "--node", SLOW, "--free") as holder:
        before = frames(holder.pid, holder.address, holder.pages)
        inside = range(first // PAGE, (first + block_bytes()) // PAGE)
        there = sum(frame in inside for frame in before)
        assert there
        pid, _ = run("chmem", "-d", f"{first:#x}-{first + block_bytes() - 1:#x}")
        assert state.read_text().strip() == "offline"
        after = frames(holder.pid, holder.address, holder.pages)
        assert not sum(frame in inside for frame in after)
        state.write_text("online_movable")
        known = {"from": SLOW, "least": there, "owner": holder.pid}
        return about(pid, "chmem", "memory_hotplug", **known)


def longterm_pin() -> About:
    """fio registers its buffers with io_uring: what is in a movable zone has to leave it."""
    movable_block()
    argv = ["numactl", f"--membind={SLOW}", "fio", "--name=pin", "--ioengine=io_uring"]
    argv += ["--fixedbufs=1", "--rw=write", "--size=2m", "--bs=64k", "--iodepth=32"]
    argv += ["--filename=/dev/shm/mptrace-fio", "--unlink=1", "--thread"]
    pid, _ = run(*argv)
    known = {"from": SLOW, "to": SLOW, "owner": pid, "least": 32 * 65536 // PAGE}
    return about(pid, "fio", "longterm_pin", **known)


def contiguous() -> About:
    """A 1G huge page is asked for, by a shell, of a node where every such range has pages."""
    pool = Path(f"/sys/devices/system/node/node{SLOW}/hugepages/hugepages-1048576kB/nr_hugepages")
    place = Path("/run/mptrace-contiguous")
    place.mkdir()
    size = int(next(x for x in _meminfo(SLOW) if "MemFree" in x).split()[3]) // 1024 - 64
    run("mount", "-t", "tmpfs", "-o", f"mpol=bind:{SLOW},size={size + 16}m", "tmpfs", str(place))
    try:
        run("fallocate", "-l", f"{size}m", str(place / "file"))
        # a page of each 4 MB stays
        step = 4 << 20
        for first in range(0, size << 20, step):
            _punch(place / "file", first + PAGE, step - PAGE)
        pid, _ = run("sh", "-c", f"echo 1 > {pool}")
        got = int(pool.read_text())
        pool.write_text("0")
    finally:
        run("umount", str(place))
        place.rmdir()
    assert got == 1, "no 1G page"
    return about(pid, "sh", "contig_range", **{"from": SLOW})


def _punch(path: Path, first: int, length: int) -> None:
    # fallocate(2): FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        result = libc.fallocate(file.fileno(), 3, ctypes.c_long(first), ctypes.c_long(length))
        assert not result, os.strerror(ctypes.get_errno())


def damon() -> About:
    """DAMON moves cold pages to another node, set up by its project's tool, damo."""
    with Holder(1031, "--node", 1, "--free") as holder:
        argv = ["damo", "start", "--ops", "paddr", "--numa_node", "1"]
        argv += ["--monitoring_intervals", "5ms", "100ms", "1s"]
        argv += ["--damos_action", "migrate_cold", "0", "--damos_access_rate", "0%", "0%"]
        argv += ["--damos_quotas", "1s", "16MB", "1s"]
        migrated = vmstat()["pgmigrate_success"]
        run(*argv)
        try:
            wait_for("DAMON migrates", lambda: vmstat()["pgmigrate_success"] > migrated, 60)
            time.sleep(0.5)
        finally:
            run("damo", "stop")
        known = {"from": 1, "to": 0, "least": holder.nodes().get(0, 0), "owner": holder.pid}
    return about(0, "kdamond", "damon", **known)


def missing(name: str) -> str:
    """What this kernel lacks for the path ``name``, "" where nothing; no path is tried then."""
    if name in ("demotion", "demotion-kswapd", "promotion"):
        tiers = Path("/sys/devices/virtual/memory_tiering").glob("memory_tier*/nodelist")
        # with one tier reclaim has nowhere to demote to, and memhog ends by the OOM killer
        if len([tier for tier in tiers if tier.read_text().strip()]) < 2:
            return "all nodes are of one memory tier"
    if name == "damon" and not Path("/sys/kernel/mm/damon/admin").exists():
        return "no DAMON"
    return ""


KERNEL: dict[str, Path_] = {
    "compaction": compaction,
    "compaction-direct": direct_compaction,
    "compaction-kcompactd": proactive_compaction,
    "demotion": demotion,
    "demotion-kswapd": demotion_by_kswapd,
    "promotion": promotion,
    "offlining": offlining,
    "longterm-pin": longterm_pin,
    "contiguous": contiguous,
    "damon": damon,
}
