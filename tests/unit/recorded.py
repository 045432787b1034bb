# SPDX-License-Identifier: GPL-2.0-or-later
"""A small recording with a known story, made by the model of the kernel."""

from pathlib import Path
from typing import Any

import numpy as np
from simulated_kernel import PAGE, Kernel

from mptrace.recording.layouts import MIGRATION, MIGRATION_KTHREAD, SYSCALL_NONE
from mptrace.recording.writer import RecordingWriter

BASE = 0x7F0000000000 // PAGE

META: dict[str, Any] = {
    "tool_version": "0.1",
    "command": ["run", "--pages", "23"],
    "interrupted": False,
    "kernel": {"release": "6.1.0-test", "machine": "x86_64", "page_size": PAGE},
    "nodes": [
        {"nid": 0, "cpus": [0, 1], "memory_bytes": 1 << 30, "free_bytes": 1, "distances": [10, 20]},
        {"nid": 1, "cpus": [], "memory_bytes": 3 << 28, "free_bytes": 1, "distances": [20, 10]},
    ],
    "hypervisor": "TCG",
    "emulated": True,
    "counted": None,
    "started": {"wall_ns": 1_700_000_000 * 10**9, "monotonic_ns": 5},
    "ended": {"wall_ns": 1_700_000_001 * 10**9, "monotonic_ns": 10**9 + 5},
    "settings": {"numa_balancing": "0"},
    "workload": {"pages": 23},
    "reasons": {"0": "compaction", "3": "syscall"},
    "page_flags": {"PG_swapcache": 10, "PG_private": 13, "PG_swapbacked": 17},
    "coverage": [
        {
            "phase": phase,
            "unit": unit,
            "attach": attach,
            "method": method,
            "state": state,
            "expected": expected,
            "seen": seen,
            "reason": reason,
        }
        for phase, unit, attach, method, state, expected, seen, reason in (
            ("call", "call", "kernel_move_pages", "fentry", "proved", 2, 2, ""),
            ("drain", "call", "lru_cache_disable", "fentry", "proved", 2, 2, ""),
            ("lookup", "entry", "follow_page", "fentry", "proved", 46, 46, ""),
            ("isolate", "folio", "isolate_lru_page", "fentry", "proved", 46, 46, ""),
            ("migration", "migration", "migrate_pages", "kprobe", "proved", 2, 2, ""),
            ("allocate", "folio", "alloc_migration_target", "fentry", "proved", 46, 46, ""),
            ("unmap", "folio", "try_to_migrate", "fentry", "proved", 46, 46, ""),
            ("tlb_flush_pte", "PTE", "", "", "not_separable", None, None, "never fires here"),
            ("tlb_flush_batch", "batch", "", "", "missing", None, None, "not in this kernel"),
            ("move", "folio", "move_to_new_folio", "fentry", "proved", 46, 46, ""),
            ("copy", "folio", "folio_copy", "fentry", "proved", 46, 46, ""),
            ("remap", "PTE", "remove_migration_pte", "fentry", "unproved", 46, 44, "two short"),
        )
    ],
    "unproved_kinds": ["THP", "hugetlb"],
    "lost": {"folio_ring_full": 0, "call_ring_full": 0},
    "cost": {
        "open_ns": [2_000_000, 2_200_000, 2_100_000],
        "closed_ns": [1_000_000, 1_050_000, 1_100_000],
        "pages": 46,
        "bpf": [{"handler": "exit_lookup", "run_count": 46, "run_ns": 9_200}],
    },
    "cost_reason": "",
    "memory_bound_bytes": 1 << 27,
    "max_entries": 1 << 20,
    "mappings": [[BASE * PAGE, (BASE + 64) * PAGE, ""], [1 << 47, (1 << 47) + PAGE, "[heap]"]],
}


def tables() -> dict[str, np.ndarray[Any, Any]]:
    """23 pages to node 1 and back, one pinned, one absent, one named twice; one THP."""
    kernel = Kernel("6.1", 2)
    for page in range(23):
        kernel.folio(BASE + page, 0, trait="pinned" if page == 17 else "")
    kernel.pages[BASE + 5] = None
    large = (BASE // 512 + 1) * 512
    kernel.folio(large, 0, 512)
    pages = [(BASE + page) * PAGE for page in range(23)]
    kernel.move_pages([*pages[:7], pages[3], large * PAGE], [1] * 9)
    kernel.move_pages(pages[7:], [1] * 13 + [0] * 3)
    kernel.move_pages(pages[:3], [0, 0, 7])
    result = kernel.tables()
    # Times in proportion, so that each phase has its share.
    calls, migrations, folios = result["calls"], result["migrations"], result["folios"]
    zero = int(calls["enter_ns"][0])
    for table, names in (
        (calls, ("enter_ns", "exit_ns")),
        (migrations, ("enter_ns", "exit_ns")),
        (folios, ("start_ns", "end_ns")),
        (result["driver_calls"], ("before_ns", "after_ns")),
    ):
        for name in names:
            table[name] = (table[name].astype(np.int64) - zero) * 10 + 10**6
    calls["drain_ns"], calls["n_drain"] = 500, 1
    moved = folios["move_rc"] == 0
    folios["remap_ns"][moved], folios["n_remap"][moved] = 40, 1
    folios["blackout_ns"][moved], folios["n_dark"][moved] = 90, 1
    folios["dark_first_ns"][moved] = folios["start_ns"][moved]
    folios["light_last_ns"][moved] = folios["start_ns"][moved] + 90
    strange = np.zeros(1, MIGRATION)
    strange["migration_id"], strange["enter_ns"], strange["exit_ns"] = 999, 10, 5010
    strange["tgid"], strange["comm"], strange["flags"] = 31, b"kcompactd0", MIGRATION_KTHREAD
    strange["syscall"], strange["mode"] = SYSCALL_NONE, 1
    result["migrations"] = np.concatenate([migrations, strange])
    return result


def write(path: Path, **changes: Any) -> Path:
    """Write it as a recording; ``changes`` replace keys of its meta.json."""
    with RecordingWriter(path, meta={**META, **changes}) as writer:
        for name, rows in tables().items():
            writer.append(name, rows)
        writer.finish()
    return path
