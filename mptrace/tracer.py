# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF side of a session: compile or fetch, attach per plan, gate, drain, losses, detach.

Reading a recording needs none of it, nor root.
"""

import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from mptrace.arrays import Table, Tgids
from mptrace.recording.balancing import (
    BALANCING,
    BALANCING_KEY,
    BALANCING_SUMS,
    PERIOD_SHIFT,
    SETTLED_NS,
    rows_of_sums,
)
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.joins import distinct
from mptrace.recording.layouts import (
    CALL,
    CHUNK_LARGE,
    CHUNK_MEDIUM,
    CHUNK_SMALL,
    END_OPEN,
    FOLIO,
    FOLIO_KEEP,
    MIGRATION,
    OBSTACLE,
    WAIT,
)
from mptrace.recording.lookup_layouts import LOOKUP, LOOKUPS_FEW, LOOKUPS_MANY
from mptrace.recording.stack_layouts import STACK_SAMPLE
from mptrace.tracing.plan.plan import Plan
from mptrace.tracing.plan.scope import CONTROL, Scope
from mptrace.tracing.program.chunks import Sides, chunk_sides, joined, lookup_rows
from mptrace.tracing.program.program import Program, word
from mptrace.tracing.program.ring import Ring

#: Causes of loss in the order of LOST_* in bpf/move_pages/records.h, with what they mean.
LOST_IN_BPF = {
    "folio_ring_full": "records of folios dropped: the ring was full (--buffer makes it larger)",
    "call_ring_full": "records of calls or migrations dropped: their ring was full",
    "chunk_ring_full": "arrays of a call read in part only, as it began or ended: a ring was full",
    "folio_map_full": "folios not tracked: too many isolated at once (--max-folios)",
    "thread_map_full": "calls not tracked: too many threads inside move_pages at once",
    "nested_too_deep": "migrations not tracked: nested deeper than two",
    "obstacle_ring_full": "evidence of refusals dropped: its ring was full",
    "obstacle_map_full": "evidence of refusals not kept: too many refused folios at once",
    "wait_ring_full": "waits of threads dropped: their ring was full",
    "wait_map_full": "waits of threads not tracked: too many waited, or slept for I/O, at once",
    "chosen_map_full": "processes not followed: too many of them",
    "return_missed": "returns not seen: more threads at once than a kretprobe can follow",
    "stack_ring_full": "stacks dropped: their ring was full",
    "stack_map_full": "stacks not kept: another stack had the place, or there were too many",
    "balancing_map_full": "scans and hint faults of NUMA balancing not summed: too many at once",
    "lookup_ring_full": "lookups dropped: their ring was full (--buffer makes it larger)",
    "refusal_map_full": "refusals not seen: too many migrations left folios behind at once",
}
#: Those that can't happen without stacks.
_OF_STACKS = ("stack_ring_full", "stack_map_full")
#: Those that can happen at the level `outcomes` only.
_OF_OUTCOMES = ("lookup_ring_full", "refusal_map_full")
#: Those that can't happen where nothing of NUMA balancing but its migrations is seen.
_OF_BALANCING = ("balancing_map_full",)
#: All of them: what the kernel counts, too.
LOST_CAUSES = {
    **LOST_IN_BPF,
    "handler_skipped": "events not seen: another thread's was being handled on the same CPU",
}

#: Rings whose records name processes, which are to be met while they are there -> their fields.
_TGIDS = {
    "call_ring": ("tgid", "target_tgid"),
    "migration_ring": ("tgid",),
    "wait_ring": ("tgid",),
    "folio_ring": ("owner_tgid",),
}


@dataclass(frozen=True)
class Drained:
    """What one look at the rings brought; arrays of shape (n,) of `recording.layouts`.

    ``sides`` are what the arrays of calls said, not yet merged per entry.
    """

    folios: Table
    obstacles: Table
    migrations: Table
    calls: Table
    sides: Sides
    waits: Table
    stacks: Table = field(default_factory=lambda: np.empty(0, STACK_SAMPLE))
    lookups: Table = field(default_factory=lambda: np.empty(0, LOOKUP))

    def __len__(self) -> int:
        return sum(map(len, vars(self).values()))


class Tracer(Program):
    """The program that traces; its gate is closed until `open_gate`."""

    def __init__(self, plan: Plan, release: str) -> None:
        super().__init__("move_pages.c", plan.phases, plan.defines, release)
        self.plan = plan
        self._rings: dict[str, Ring] = {}
        #: Folios that were taken last, where there was a bound; filled again and again.
        self._block = np.empty(0, FOLIO)

    def _build(self) -> None:
        super()._build()
        defines = self.plan.defines
        page = self.page_size
        for name, pages, dtype in (
            ("folio_ring", defines["FOLIO_RING_PAGES"], FOLIO),
            ("obstacle_ring", defines["OBSTACLE_RING_PAGES"], OBSTACLE),
            ("migration_ring", defines["CALL_RING_PAGES"], MIGRATION),
            ("call_ring", defines["CALL_RING_PAGES"], CALL),
            ("small_ring", defines["SMALL_RING_PAGES"], CHUNK_SMALL),
            ("medium_ring", defines["MEDIUM_RING_PAGES"], CHUNK_MEDIUM),
            ("large_ring", defines["LARGE_RING_PAGES"], CHUNK_LARGE),
            ("wait_ring", defines["WAIT_RING_PAGES"], WAIT),
        ):
            self._rings[name] = Ring(self._maps[name].fd, int(pages) * page, dtype)
        if self.has_lookups:
            for name, dtype in (("few", LOOKUPS_FEW), ("many", LOOKUPS_MANY)):
                pages = int(defines[f"{name.upper()}_RING_PAGES"])
                ring = f"{name}_ring"
                self._rings[ring] = Ring(self._maps[ring].fd, pages * page, dtype)
        if self.has_stacks:
            pages = defines["STACK_RING_PAGES"]
            self._rings["stack_ring"] = Ring(
                self._maps["stack_ring"].fd, int(pages) * page, STACK_SAMPLE
            )

    def close(self) -> None:
        """Detach and free everything; harmless when called again."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        super().close()

    # ---- the gate -----------------------------------------------------------

    def open_gate(self, tgid: int) -> None:
        """Trace calls of process ``tgid`` (0: of any), and nothing else."""
        self.open_scope(Scope("caller", tgids=(tgid,) if tgid else ()))

    def open_scope(self, scope: Scope) -> None:
        """Trace what is of interest; a scope of processes follows what they fork."""
        if scope.kind == "pids":
            self.choose(scope.tgids)
        self._maps["control"].put(word(0), scope.control().tobytes())

    def choose(self, tgids: Iterable[int]) -> None:
        """Processes that are of interest under a scope of processes, from now on."""
        for tgid in tgids:
            self._maps["chosen"].put(word(tgid), b"\1")

    def followed(self) -> list[int]:
        """Processes that are followed under a scope of processes, as far as they have not ended."""
        return [int.from_bytes(key, sys.byteorder) for key in self._maps["chosen"].keys()]  # noqa: SIM118

    def close_gate(self) -> None:
        """Trace no further call or migration; those under way are finished."""
        control = np.frombuffer(self._maps["control"].at(word(0)), CONTROL).copy()
        control["gate"] = 0
        self._maps["control"].put(word(0), control.tobytes())

    # ---- what came ----------------------------------------------------------

    @property
    def fill(self) -> float:
        """How full the fullest ring is, from 0 to 1; reads memory only."""
        return max(ring.fill for ring in self._rings.values())

    def fresh_tgids(self) -> Tgids:
        """Processes that records name which came since the last time."""
        met = []
        for name, fields in _TGIDS.items():
            rows = self._rings[name].fresh()
            met += [distinct(rows[each]) for each in fields if rows.size]
        return np.concatenate(met) if met else np.empty(0, np.uint32)

    def fresh_obstacles(self) -> Table:
        """Obstacles that came since the last time, shape (n,), dtype OBSTACLE, until `drain`."""
        return self._rings["obstacle_ring"].fresh()

    @property
    def has_fresh_stacks(self) -> bool:
        """Whether there are stacks in their ring, of processes that may end soon."""
        return self.has_stacks and self._rings["stack_ring"].fill > 0

    def drain(self, most: int = 0) -> Drained:
        """Take everything that is in the rings.

        :param most: take no more folios than this, in memory that the next such call
            overwrites; 0: all of them.
        """
        rings = self._rings
        if most > len(self._block):
            self._block = np.empty(most, FOLIO)
        # calls before their folios would look complete too early: take them first
        calls = rings["call_ring"].take()
        migrations = rings["migration_ring"].take()
        sides = joined(
            chunk_sides(rings[f"{size}_ring"].take()) for size in ("small", "medium", "large")
        )
        # a folio's record comes after its obstacle's
        folios = rings["folio_ring"].take(self._block[:most] if most else None)
        obstacles = rings["obstacle_ring"].take()
        waits = rings["wait_ring"].take()
        drained = Drained(folios, obstacles, migrations, calls, sides, waits)
        if self.has_lookups:
            found = [lookup_rows(rings[f"{name}_ring"].take()) for name in ("many", "few")]
            drained = replace(drained, lookups=np.concatenate(found))
        if self.has_stacks:
            drained = replace(drained, stacks=rings["stack_ring"].take())
        return drained

    @property
    def has_lookups(self) -> bool:
        """Whether lookups stand for folios: at the level `outcomes`."""
        return self.plan.request.detail == LEVEL_OUTCOMES

    @property
    def has_stacks(self) -> bool:
        """Whether it takes stacks."""
        return self.plan.request.stacks

    def stack(self, part: str, key: int) -> tuple[int, ...]:
        """Addresses of a stack, the innermost first; () where the kernel has none by that key.

        :param part: "kernel" or "user".
        """
        found = self._maps[f"{part}_stacks"].get(word(key))
        addresses = [] if found is None else np.frombuffer(found, "<u8").tolist()
        return tuple(itertools.takewhile(bool, addresses))

    @property
    def has_balancing(self) -> bool:
        """Whether it sees what NUMA balancing does beside its migrations."""
        return "BALANCING" in self.plan.defines

    def balancing(self, now_ns: int, *, every: bool = False) -> Table:
        """Take what NUMA balancing did in the periods that are over; rows of `BALANCING`.

        :param now_ns: CLOCK_MONOTONIC.
        :param every: the period under way, too: of an open gate some of it would be lost.
        """
        if not self.has_balancing:
            return np.empty(0, BALANCING)
        sums = self._maps["balancing"]
        over = max(now_ns - SETTLED_NS, 0) >> PERIOD_SHIFT
        keys, found = [], []
        for key in sums.keys():  # noqa: SIM118
            if every or np.frombuffer(key, BALANCING_KEY)["period"][0] < over:
                keys.append(key)
                found.append(sums.at(key))
                sums.delete(key)
        return rows_of_sums(
            np.frombuffer(b"".join(keys), BALANCING_KEY),
            np.frombuffer(b"".join(found), BALANCING_SUMS),
        )

    def open_folios(self) -> Table:
        """Folios whose end was not seen, shape (n,), dtype FOLIO, `end` = END_OPEN; clears them."""
        found = b"".join(self._maps["folios"].values())
        self._maps["folios"].clear()
        folios: Table = np.frombuffer(found, FOLIO)
        folios = folios[(folios["flags"] & FOLIO_KEEP) != 0]
        folios["flags"] &= 0xFF ^ FOLIO_KEEP
        folios["end"] = END_OPEN
        return folios

    def open_obstacles(self) -> Table:
        """Obstacles of folios whose end was not seen, shape (n,), dtype OBSTACLE; clears them."""
        found = b"".join(self._maps["obstacles"].values())
        self._maps["obstacles"].clear()
        return np.frombuffer(found, OBSTACLE).copy()

    def losses(self) -> dict[str, int]:
        """Count per cause of everything that was not recorded, zeros included."""
        counts = self._lost(LOST_IN_BPF)
        if not self.has_stacks:
            counts = {cause: n for cause, n in counts.items() if cause not in _OF_STACKS}
        if not self.has_lookups:
            counts = {cause: n for cause, n in counts.items() if cause not in _OF_OUTCOMES}
        if not self.has_balancing:
            counts = {cause: n for cause, n in counts.items() if cause not in _OF_BALANCING}
        return counts | {"handler_skipped": self.skipped()}
