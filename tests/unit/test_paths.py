# SPDX-License-Identifier: GPL-2.0-or-later
"""Which path a migration took: by its reason, its initiator, its system call and its mode."""

from typing import Any

import numpy as np
import pytest
from recorded_facts import facts_of

from mptrace.outcomes.paths import BY_KEY, PATHS, mode_name, of_migrations, path_of, reason_name
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.layouts import (
    MIGRATION,
    MIGRATION_COMPAT,
    MIGRATION_KTHREAD,
    SYSCALL_NONE,
    SYSCALL_UNKNOWN,
)
from mptrace.recording.meta import Meta

WITH_CPUS = [{"nid": 0, "cpus": [0], "memory_bytes": 1}, {"nid": 1, "cpus": [1]}]
SLOW = [*WITH_CPUS, {"nid": 2, "cpus": [], "memory_bytes": 1 << 30}]
META: dict[str, Any] = {
    "kernel": {"machine": "x86_64"},
    "reasons": {str(n): name for n, name in facts_of("6.12").migrate_reasons.items()},
    "modes": {str(n): name for n, name in facts_of("6.12").migrate_modes.items()},
    "coverage": [{"phase": "call", "state": "proved"}],
    "nodes": WITH_CPUS,
}
NUMBER = {name: number for number, name in facts_of("6.12").migrate_reasons.items()}


def path(reason: str, meta: dict[str, Any] | None = None, **fields: Any) -> str:
    """Key of the path of one migration with these fields."""
    row = np.zeros(1, MIGRATION)
    for name, value in {"reason": NUMBER[reason], "syscall": SYSCALL_NONE, **fields}.items():
        row[name] = value
    return PATHS[of_migrations(row, Meta.of({**META, **(meta or {})}))[0]].key


KTHREAD = {"flags": MIGRATION_KTHREAD}
UNKNOWN = {"syscall": SYSCALL_UNKNOWN}


@pytest.mark.parametrize(
    ("key", "reason", "fields"),
    [
        ("move_pages", "syscall", {"call_id": 7}),
        ("move_pages", "syscall", {"syscall": 279}),
        ("move_pages", "syscall", {"syscall": 0x40000000 + 533}),
        ("migrate_pages", "syscall", {"syscall": 256}),
        ("migrate_pages", "syscall", {"syscall": 294, "flags": MIGRATION_COMPAT}),
        ("syscall_or_cpuset", "syscall", {"syscall": 294}),
        ("cpuset", "syscall", {**KTHREAD, "comm": b"kworker/u4:1"}),
        ("migrate_pages_or_cpuset", "syscall", UNKNOWN),
        ("mbind", "mempolicy_mbind", {"syscall": 237}),
        ("numa_balancing", "numa_misplaced", {}),
        ("compaction_direct", "compaction", {}),
        ("compaction_direct", "compaction", {"syscall": 1, "mode": 1}),
        ("compaction_direct", "compaction", {**KTHREAD, "comm": b"khugepaged", "mode": 1}),
        ("compaction_sysctl", "compaction", {"syscall": 1, "mode": 2}),
        ("compaction_sysctl", "compaction", {**UNKNOWN, "mode": 2}),
        ("compaction_kcompactd", "compaction", {**KTHREAD, "comm": b"kcompactd0", "mode": 1}),
        ("compaction_direct", "compaction", {"comm": b"kcompactd0", "mode": 1}),
        ("compaction", "compaction", {**UNKNOWN, "mode": 1}),
        # an allocation of a target inside a call compacts
        ("compaction_direct", "compaction", {"call_id": 7, "syscall": 279, "mode": 0}),
        ("demotion_kswapd", "demotion", {**KTHREAD, "comm": b"kswapd1"}),
        ("demotion_direct", "demotion", {}),
        ("demotion_write", "demotion", {"syscall": 1}),
        ("demotion", "demotion", UNKNOWN),
        ("hot_unplug", "memory_hotplug", {"syscall": 1}),
        ("soft_offline_madvise", "memory_failure", {"syscall": 28}),
        ("soft_offline_sysfs", "memory_failure", {"syscall": 1}),
        ("soft_offline_kernel", "memory_failure", KTHREAD),
        ("soft_offline", "memory_failure", UNKNOWN),
        ("contiguous", "contig_range", {"syscall": 1}),
        ("longterm_pin", "longterm_pin", {"syscall": 427}),
        ("damon", "damon", {**KTHREAD, "comm": b"kdamond.0"}),
    ],
)
def test_the_path_of_a_migration(key: str, reason: str, fields: dict[str, Any]) -> None:
    """Each path that can be told is told; one that can't names all that it may be."""
    assert path(reason, **fields) == key


def test_what_cant_be_told_apart_says_so() -> None:
    """Without records of calls, or with nodes that have no CPUs, less is claimed."""
    assert path("syscall", {"coverage": []}, **UNKNOWN) == "syscall_or_cpuset"
    missing = [{"phase": "call", "state": "missing"}]
    assert path("syscall", {"coverage": missing}, **UNKNOWN) == "syscall_or_cpuset"
    for nodes in (SLOW, []):
        assert path("numa_misplaced", {"nodes": nodes}) == "numa_balancing_or_promotion"
    assert path("compaction", {"reasons": {}}) == "other"


def test_reasons_are_named_as_any_recording_has_them() -> None:
    """With the kernel's prefixes or without; a number that has no name keeps its number."""
    meta = Meta.of({"reasons": {"0": "MR_COMPACTION"}, "modes": {"2": "MIGRATE_SYNC"}})
    assert (reason_name(meta, 0), reason_name(meta, 9)) == (
        "compaction",
        "reason 9",
    )
    assert (
        mode_name(meta, 2),
        mode_name(meta, 1),
        mode_name(meta, 9),
    ) == (
        "sync",
        "sync_light",
        "mode 9",
    )


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_every_reason_of_the_kernels_has_a_path(release: str) -> None:
    """None of those in the kernel's BTF is left to `other`."""
    reasons = [name for name in facts_of(release).migrate_reasons.values() if name != "types"]
    assert {"compaction", "syscall", "demotion"} <= set(reasons)
    assert [name for name in reasons if path_of(reason=name) == "other"] == []


def test_the_paths_are_a_table() -> None:
    """Keys are distinct, labels fit their column, each has a meaning."""
    assert len(BY_KEY) == len(PATHS)
    assert all(path.meaning and 0 < len(path.label) <= 24 for path in PATHS)


def test_many_migrations_are_named_by_their_kinds() -> None:
    """Each row gets its own path, in the order of the rows."""
    rows = np.zeros(20011, MIGRATION)
    rows["syscall"] = SYSCALL_NONE
    rows["reason"] = np.arange(rows.size) % 3 * 4  # compaction, mbind, demotion
    rows["comm"] = np.where(np.arange(rows.size) % 2, b"kswapd0", b"worker")
    rows["flags"] = np.where(np.arange(rows.size) % 2, MIGRATION_KTHREAD, 0)
    keys = [PATHS[code].key for code in of_migrations(rows, Meta.of(META))]
    expected = ["compaction_direct", "mbind", "demotion_direct"]
    assert keys[:6] == [*expected[:2], "demotion_direct", "compaction_direct", "mbind", keys[5]]
    assert keys[5] == "demotion_kswapd"
    assert keys == (keys[:6] * 3336)[:20011]
    assert of_migrations(rows[:0], Meta.of(META)).size == 0


def test_names_of_system_calls() -> None:
    """By the table of the number, as the kernel's headers have it."""
    assert syscall_name(16, is_compat=False) == "ioctl"
    assert syscall_name(54, is_compat=True) == "ioctl"
    assert syscall_name(318, is_compat=False) == syscall_name(355, is_compat=True) == "getrandom"
    assert syscall_name(0x40000000 + 514, is_compat=False) == "ioctl"
    assert syscall_name(0x40000000 + 256, is_compat=False) == "migrate_pages"
    # a caller with 32-bit pointers, and yet not of the 32-bit table
    assert syscall_name(0x40000000 + 533, is_compat=True) == "move_pages"
    assert [syscall_name(n, is_compat=False) for n in (0, 1, 51, 237, 279, 334, 424, 462)] == [
        *("read", "write", "getsockname", "mbind", "move_pages", "rseq"),
        *("pidfd_send_signal", "mseal"),
    ]
    assert [syscall_name(n, is_compat=True) for n in (3, 4, 294, 317, 386, 416, 462)] == [
        *("read", "write", "migrate_pages", "move_pages", "rseq", "io_pgetevents_time64"),
        "mseal",
    ]
    assert syscall_name(239, is_compat=False, machine="aarch64") == "move_pages"
    assert syscall_name(SYSCALL_NONE, is_compat=False) == ""


@pytest.mark.parametrize("number", [337, 423, 471, 4095, 9999, 0x40000000 + 548, SYSCALL_UNKNOWN])
def test_a_number_that_no_table_has_is_unknown(number: int) -> None:
    """It is no call: who migrates is told as where the number could not be read."""
    assert syscall_name(number, is_compat=False) is None
    assert path("compaction", syscall=number, mode=1) == "compaction"
    assert path("memory_failure", syscall=number) == "soft_offline"


def test_a_number_is_of_the_machines_table() -> None:
    """What reads like a call of x86 is none on a machine whose table is not known."""
    assert syscall_name(16, is_compat=False, machine="aarch64") is None
    assert syscall_name(279, is_compat=False, machine="riscv32") is None
    assert syscall_name(317, is_compat=False, machine="i686") == "move_pages"
