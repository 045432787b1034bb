# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of migrations that no call asked for, one by one, with a story that the test knows."""

import errno
import itertools
from typing import Any

import numpy as np
from recorded_facts import facts_of
from simulated_kernel import PAGE

from mptrace.recording.layouts import (
    END_DONE,
    END_PUTBACK,
    FOLIO_OBSTACLE,
    FOLIO_UNEXPECTED,
    ISOLATE_NOT_TRIED,
    MIGRATION_KTHREAD,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    NOT_COUNTED,
    SEEN_STATE,
    STAGE_MOVE,
    SYSCALL_NONE,
    TABLES,
)

REASONS = facts_of("6.12").migrate_reasons
MODES = facts_of("6.12").migrate_modes
NUMBER = {name: number for number, name in REASONS.items()}
BASE = 0x7F0000000000
#: Processes of the stories: tgid -> comm.
VICTIM, OTHER, MOVER, WRITER = 4001, 4002, 5001, 5002
META: dict[str, Any] = {
    "format_version": 3,
    "tool_version": "0.1",
    "command": ["record", "-a"],
    "complete": True,
    "kernel": {"release": "6.12.0-test", "machine": "x86_64", "page_size": PAGE},
    "nodes": [
        {"nid": 0, "cpus": [0, 1], "memory_bytes": 1 << 30},
        {"nid": 1, "cpus": [2, 3], "memory_bytes": 1 << 30},
    ],
    "hypervisor": "",
    "emulated": False,
    "started": {"wall_ns": 1_700_000_000 * 10**9, "monotonic_ns": 5},
    "coverage": [
        {"phase": phase, "unit": "folio", "attach": phase, "method": "fentry", "state": "proved"}
        for phase in ("call", "lookup", "isolate", "migration", "move")
    ],
    "lost": {"folio_ring_full": 0},
    "reasons": {str(number): name for number, name in REASONS.items()},
    "modes": {str(number): name for number, name in MODES.items()},
    "page_flags": {"PG_swapcache": 10, "PG_private": 13, "PG_swapbacked": 17},
    "cgroups": {"77": "/system.slice/mover.service"},
    "cost": None,
    "cost_reason": "not measured in record",
    "scope": {"kind": "all"},
    "tier": "bpf",
}


class Others:
    """Migrations, folios, obstacles, waits and processes, as a tracer of everybody has them."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {name: [] for name in TABLES}
        self.ids = itertools.count(0x1000)
        self.sources = itertools.count(0xFFFFEA0000100000, 64 * 512)
        self.addresses = itertools.count(BASE, 512 * PAGE)
        self.clock = 1_000_000

    def add(self, table: str, **values: Any) -> Any:
        """Append a row."""
        row = np.zeros(1, TABLES[table])
        for name, value in values.items():
            row[name] = value
        self.rows[table].append(row[0])
        return row[0]

    def process(self, tgid: int, comm: bytes, cgroup_id: int = 0) -> None:
        """What /proc said of a process."""
        self.add("processes", tgid=tgid, comm=comm, cgroup_id=cgroup_id, seen_ns=self.clock)

    def migrate(
        self,
        reason: str,
        *,
        tgid: int,
        comm: bytes,
        folios: list[dict[str, Any]],
        kthread: bool = False,
        mode: str = "async",
        ns: int = 1000,
        **fields: Any,
    ) -> Any:
        """One migration: each folio moves, or stays where it has a ``move_rc`` of its own."""
        migration_id, enter = next(self.ids), self.clock
        counts = {"moved": 0, "failed": 0}
        for number, folio in enumerate(folios):
            row = self._folio(migration_id, tgid, enter + 10 + 20 * number, folio)
            counts["moved" if row["move_rc"] == 0 else "failed"] += int(row["nr_pages"])
        self.clock += ns + 1000
        return self.add(
            "migrations",
            **{
                "migration_id": migration_id,
                "enter_ns": enter,
                "exit_ns": enter + ns,
                "tid": tgid,
                "tgid": tgid,
                "rc": counts["failed"],
                "mode": {name: number for number, name in MODES.items()}[mode],
                "reason": NUMBER[reason],
                "flags": MIGRATION_KTHREAD if kthread else 0,
                "syscall": SYSCALL_NONE,
                "succeeded": counts["moved"],
                "failed": counts["failed"],
                "dst_nid": -1,
                "comm": comm,
                **fields,
            },
        )

    def _folio(self, migration_id: int, tgid: int, start: int, changes: dict[str, Any]) -> Any:
        values = {
            "migration_id": migration_id,
            "src": next(self.sources),
            "dst": next(self.sources),
            "address": next(self.addresses),
            "start_ns": start,
            "end_ns": start + 900,
            "dark_first_ns": start + 5,
            "light_last_ns": start + 505,
            "blackout_ns": 500,
            "n_dark": 1,
            "n_alloc": 1,
            "n_unmap": 1,
            "n_move": 1,
            "n_remap": 1,
            "n_maps": 1,
            "tid": tgid,
            "lookup_seq": NO_LOOKUP,
            "isolate_rc": ISOLATE_NOT_TRIED,
            "move_rc": 0,
            "nr_pages": 1,
            "src_nid": 0,
            "dst_nid": 1,
            "owner_tgid": VICTIM,
            "end": END_DONE,
            "flags": FOLIO_UNEXPECTED,
            **changes,
        }
        state = values.pop("obstacle", None)
        if values["move_rc"] != 0:
            values = {**values, "end": changes.get("end", END_PUTBACK)}
        if state is not None:
            values["flags"] |= FOLIO_OBSTACLE
            known = ("migration_id", "src", "nr_pages", "tid")
            self.add(
                "obstacles",
                **{name: values[name] for name in known},
                lookup_seq=NO_LOOKUP,
                first_ns=start,
                last_ns=start + 100,
                allowed=-1,
                **state,
            )
        return self.add("folios", **values)

    def tables(self) -> dict[str, Any]:
        """The records so far, by table."""
        return {
            name: np.array(rows, TABLES[name]) if rows else np.zeros(0, TABLES[name])
            for name, rows in self.rows.items()
        }


#: A folio that stays: somebody holds a reference; with its state, and without.
HELD = {
    "move_rc": -errno.EAGAIN,
    "n_move": 10,
    "obstacle": {
        "stage": STAGE_MOVE,
        "rc": -errno.EAGAIN,
        "seen": SEEN_STATE,
        "mapping": 0xFFFF888000000001,
        "refcount": 2,
        "n_move": 10,
    },
}
NEVER_MOVED = {"move_rc": MOVE_NOT_TRIED, "n_move": 0, "n_alloc": 0, "n_unmap": 0, "dst": 0}


def story() -> Others:
    """kcompactd, migrate_pages(2) with a page that is held, a THP demoted, NUMA balancing."""
    others = Others()
    others.process(VICTIM, b"postgres")
    others.process(OTHER, b"redis")
    others.process(MOVER, b"migratepages", 77)
    same = {"src_nid": 0, "dst_nid": 0}
    for _ in range(23):
        others.migrate(
            "compaction",
            tgid=31,
            comm=b"kcompactd0",
            kthread=True,
            mode="sync_light",
            folios=[same, {**same, "owner_tgid": OTHER}, {**same, "owner_tgid": 0, "n_maps": 0}],
        )
    others.migrate(
        "syscall",
        tgid=MOVER,
        comm=b"migratepages",
        mode="sync",
        ns=50_000,
        folios=[{}] * 7 + [HELD],
        syscall=256,
        cgroup_id=77,
    )
    others.migrate(
        "demotion",
        tgid=41,
        comm=b"kswapd0",
        kthread=True,
        folios=[{"nr_pages": 512}, {"nr_pages": 512, **NEVER_MOVED}],
        failed=NOT_COUNTED,
        succeeded=NOT_COUNTED,
        ns=7000,
    )
    for _ in range(5):
        others.migrate("numa_misplaced", tgid=VICTIM, comm=b"worker-3", folios=[{"dst_nid": 1}])
    return others
