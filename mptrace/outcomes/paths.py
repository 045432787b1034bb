# SPDX-License-Identifier: GPL-2.0-or-later
"""Which path of the kernel a migration took.  Pure.

migrate_pages() in mm/migrate.c is told a reason by each of its callers, and
several of them share one: the rest follows from who called it, in which system
call and in which mode.  What these don't tell apart is one path that names both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import MIGRATION_COMPAT, MIGRATION_KTHREAD, MODES
from mptrace.recording.meta import Meta


@dataclass(frozen=True)
class Path:
    """One way to migrate_pages(): ``label`` in at most 24 characters, ``source`` its caller."""

    key: str
    label: str
    meaning: str
    source: str = ""


_DO_MIGRATE = "do_migrate_pages()"
_COMPACT = "compact_zone()"
_DEMOTE = "demote_folio_list()"
_OFFLINE = "soft_offline_in_use_page()"

PATHS = (
    Path(
        "move_pages",
        "move_pages(2)",
        "a call names pages and a node for each",
        "do_move_pages_to_node()",
    ),
    Path(
        "migrate_pages",
        "migrate_pages(2)",
        "all pages of a process from some nodes to others: migratepages, numa_migrate_pages()",
        _DO_MIGRATE,
    ),
    Path(
        "cpuset",
        "cpuset",
        "a change of cpuset.mems, or a process moved into another cpuset; done by a kworker",
        "cpuset_migrate_mm_workfn()",
    ),
    Path(
        "migrate_pages_or_cpuset",
        "migrate_pages or cpuset",
        "migrate_pages(2), or a change of cpuset.mems: not told apart here",
        _DO_MIGRATE,
    ),
    Path(
        "syscall_or_cpuset",
        "a system call or cpuset",
        "move_pages(2), migrate_pages(2) or a change of cpuset.mems: not told apart here",
    ),
    Path("mbind", "mbind(2)", "with MPOL_MF_MOVE or MPOL_MF_MOVE_ALL", "do_mbind()"),
    Path(
        "numa_balancing",
        "NUMA balancing",
        "a page follows the thread that touches it",
        "migrate_misplaced_folio()",
    ),
    Path(
        "numa_balancing_or_promotion",
        "NUMA balancing/promotion",
        "a page follows the thread that touches it, or leaves a slow node: not told apart",
        "migrate_misplaced_folio()",
    ),
    Path(
        "compaction_direct",
        "direct compaction",
        "compaction by a thread that wants contiguous memory and waits for it",
        _COMPACT,
    ),
    Path(
        "compaction_kcompactd",
        "kcompactd",
        "compaction in the background, on demand or proactive (they look alike)",
        _COMPACT,
    ),
    Path(
        "compaction_sysctl",
        "compaction by sysctl",
        "somebody wrote to /proc/sys/vm/compact_memory or to a node's compact file",
        "compact_node()",
    ),
    Path("compaction", "compaction", "compaction; who wanted it is not known", _COMPACT),
    Path("demotion_kswapd", "demotion by kswapd", "reclaim in the background demotes", _DEMOTE),
    Path(
        "demotion_direct",
        "demotion, direct reclaim",
        "a thread that wants memory reclaims, which demotes",
        _DEMOTE,
    ),
    Path(
        "demotion_write",
        "demotion in a write",
        "a write to a cgroup's memory.reclaim, memory.high or memory.max, or direct reclaim in "
        "a write: not told apart",
        _DEMOTE,
    ),
    Path("demotion", "demotion", "reclaim demotes; who reclaims is not known", _DEMOTE),
    Path(
        "hot_unplug",
        "memory hot-unplug",
        "memory is taken offline: a node's or a block's state, a device, the firmware",
        "do_migrate_range()",
    ),
    Path(
        "soft_offline_madvise",
        "soft offline by madvise",
        "madvise(2) with MADV_SOFT_OFFLINE",
        _OFFLINE,
    ),
    Path(
        "soft_offline_sysfs",
        "soft offline by sysfs",
        "somebody wrote to /sys/devices/system/memory/soft_offline_page",
        _OFFLINE,
    ),
    Path(
        "soft_offline_kernel",
        "soft offline by kernel",
        "corrected memory errors were reported for the page",
        _OFFLINE,
    ),
    Path("soft_offline", "soft offline", "a page is soft-offlined; by whom is unknown", _OFFLINE),
    Path(
        "contiguous",
        "contiguous allocation",
        "a range is emptied: CMA, a gigantic hugetlb page, virtio-mem",
        "__alloc_contig_migrate_range()",
    ),
    Path(
        "longterm_pin",
        "long-term pin",
        "pages are moved out of movable memory before they are pinned: io_uring, RDMA, vfio",
        "migrate_longterm_unpinnable_folios()",
    ),
    Path("damon", "DAMON", "a scheme of it: migrate_hot or migrate_cold", "damon_migrate_folios()"),
    Path("other", "another reason", "a reason that this mptrace does not know"),
)
BY_KEY = {path.key: path for path in PATHS}
_CODE = {path.key: code for code, path in enumerate(PATHS)}

# Reasons that have one caller, in any context.
_PLAIN = {
    "mempolicy_mbind": "mbind",
    "memory_hotplug": "hot_unplug",
    "contig_range": "contiguous",
    "longterm_pin": "longterm_pin",
    "damon": "damon",
}
# What the thread of a move_pages(2) call may do besides: its allocations compact and reclaim.
_BESIDES = frozenset({"compaction", "demotion", "memory_failure", "numa_misplaced", *_PLAIN})
_WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice"})
# One per node; a process may bear the name, so it counts for kernel threads only.
_KCOMPACTD = re.compile(r"kcompactd\d+")
_KSWAPD = re.compile(r"kswapd\d+")


def reason_name(meta: Meta, number: int) -> str:
    """The kernel's name of a reason without its prefix: ``compaction``; ``reason 7`` if unknown."""
    return _named(meta.reasons, number, "mr_") or f"reason {number}"


def mode_name(meta: Meta, number: int) -> str:
    """The kernel's name of a mode without its prefix: ``sync_light``."""
    known = _named(meta.modes, number, "migrate_")
    if known:
        return known
    return MODES[number] if number < len(MODES) else f"mode {number}"


def path_of(
    *,
    reason: str,
    in_call: bool = False,
    syscall: str | None = None,
    is_kthread: bool = False,
    comm: str = "",
    mode: str = "",
    calls_seen: bool = False,
    all_nodes_have_cpus: bool = False,
) -> str:
    """Key of the path that one migration took.

    :param reason: :func:`reason_name`.
    :param in_call: it belongs to a recorded move_pages(2) call.
    :param syscall: :func:`~mptrace.outcomes.syscalls.syscall_name` of the initiator's.
    :param calls_seen: every move_pages(2) call that migrates has a record here.
    """
    if in_call and reason not in _BESIDES:
        return "move_pages"
    if reason in ("syscall", "syscall_or_cpuset"):
        return _of_syscall(syscall, is_kthread=is_kthread, calls_seen=calls_seen)
    if reason == "compaction":
        return _of_compaction(syscall, is_kthread=is_kthread, comm=comm, mode=mode)
    if reason == "demotion":
        if is_kthread:
            return "demotion_kswapd" if _KSWAPD.fullmatch(comm) else "demotion_direct"
        if syscall is None:
            return "demotion"
        return "demotion_write" if syscall in _WRITES else "demotion_direct"
    if reason == "memory_failure":
        if is_kthread:
            return "soft_offline_kernel"
        if syscall in ("madvise", "process_madvise"):
            return "soft_offline_madvise"
        return "soft_offline_sysfs" if syscall in _WRITES else "soft_offline"
    if reason == "numa_misplaced":
        # A node that has CPUs is of the top tier: nothing is promoted from it
        # (node_is_toptier(), mm/memory-tiers.c).
        return "numa_balancing" if all_nodes_have_cpus else "numa_balancing_or_promotion"
    return _PLAIN.get(reason, "other")


def _of_syscall(syscall: str | None, *, is_kthread: bool, calls_seen: bool) -> str:
    if syscall in ("move_pages", "migrate_pages"):
        return syscall
    # do_migrate_pages() has two callers: the system call, and a work item of cpuset.
    if is_kthread:
        return "cpuset"
    return "migrate_pages_or_cpuset" if calls_seen and not syscall else "syscall_or_cpuset"


def _of_compaction(syscall: str | None, *, is_kthread: bool, comm: str, mode: str) -> str:
    # compact_node() asks for MIGRATE_SYNC, everybody else for less (mm/compaction.c:
    # compact_zone_order(), kcompactd_do_work(), proactive_compact_node()).
    if mode == "sync":
        return "compaction_sysctl"
    if is_kthread:
        return "compaction_kcompactd" if _KCOMPACTD.fullmatch(comm) else "compaction_direct"
    return "compaction" if syscall is None else "compaction_direct"


def of_migrations(migrations: Table, meta: Meta) -> Ints:
    """Path of each migration, as an index into :data:`PATHS`.

    :param migrations: layout of ``layouts.MIGRATION``.
    :param meta: meta.json; ``reasons``, ``modes``, ``kernel``, ``coverage`` and ``nodes`` are used.
    """
    if not migrations.size:
        return np.zeros(0, np.int64)
    # With its index np.unique sorts stably: see joins.ranks().
    _, _, comm = np.unique(migrations["comm"], return_index=True, return_inverse=True)
    flags = migrations["flags"].astype(np.int64) & (MIGRATION_KTHREAD | MIGRATION_COMPAT)
    key = comm.astype(np.int64)
    for column in (
        migrations["reason"].astype(np.int64),
        migrations["mode"].astype(np.int64),
        migrations["syscall"].astype(np.int64),
        flags * 2 + (migrations["call_id"] != 0),
    ):
        values, place = ranks(column)
        key = key * values.size + place
    distinct, place = ranks(key)
    first = np.zeros(distinct.size, np.int64)
    first[place[::-1]] = np.arange(migrations.size)[::-1]
    host = {
        "calls_seen": _sees_calls(meta),
        "all_nodes_have_cpus": _has_only_nodes_with_cpus(meta),
    }
    machine = meta.kernel.syscall_machine
    codes = np.zeros(distinct.size, np.int64)
    for number, row in enumerate(migrations[first]):
        bits = int(row["flags"])
        codes[number] = _CODE[
            path_of(
                reason=reason_name(meta, int(row["reason"])),
                in_call=bool(row["call_id"]),
                syscall=syscall_name(
                    int(row["syscall"]), is_compat=bool(bits & MIGRATION_COMPAT), machine=machine
                ),
                is_kthread=bool(bits & MIGRATION_KTHREAD),
                comm=bytes(row["comm"]).decode("utf-8", "replace"),
                mode=mode_name(meta, int(row["mode"])),
                **host,
            )
        ]
    return codes[place]


def path_of_balancing(meta: Meta) -> int:
    """Path of NUMA balancing's migrations on this host, as an index into :data:`PATHS`."""
    has_all = _has_only_nodes_with_cpus(meta)
    return _CODE["numa_balancing" if has_all else "numa_balancing_or_promotion"]


def _named(names: Mapping[int, str], number: int, prefix: str) -> str:
    return names.get(number, "").lower().removeprefix(prefix)


def _sees_calls(meta: Meta) -> bool:
    return "call" in meta.phases and meta.phases["call"].state != "missing"


def _has_only_nodes_with_cpus(meta: Meta) -> bool:
    nodes = [node for node in meta.nodes if node.has_memory]
    return bool(nodes) and all(node.cpus for node in nodes)
