# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns what was drained from the rings into rows of a recording's tables."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mptrace.recording.layouts import TABLES
from mptrace.tracer import Drained, Tracer
from mptrace.tracing.program.chunks import EntryMerger

#: Rows by the names of a recording's tables.
Tables = dict[str, NDArray[np.void]]
#: Fields of the evidence with addresses of the kernel whose names a reader will want.
_ADDRESSES = ("a_ops", "migrate_op")


class Assembler:
    """Takes what is drained, in order, and gives the rows that are complete."""

    def __init__(self) -> None:
        #: Calls and migrations that began before it lie in two recordings (CLOCK_MONOTONIC).
        self.boundary_ns = 0
        #: Kernel addresses met in evidence.
        self.addresses: set[int] = set()
        self._merger = EntryMerger()

    def add(self, drained: Drained) -> Tables:
        """Rows of what was drained, and entries of the calls that ended in it.

        Calls and migrations of which a part lies elsewhere have 1 more in ``lost``.
        """
        # the end of a call that turned out to be of no interest has no nodes
        unwanted = drained.calls["nodes_ptr"] == 0
        dropped = drained.calls["call_id"][unwanted]
        self._merger.forget(dropped)
        calls = drained.calls[~unwanted] if dropped.size else drained.calls
        for rows in (calls, drained.migrations):
            rows["lost"][rows["enter_ns"] < self.boundary_ns] += 1
        calls["lost"][self._merger.incomplete(calls["call_id"])] += 1
        self._note_addresses(drained.obstacles)
        sides = drained.sides.without(dropped)
        return {
            "calls": calls,
            "migrations": drained.migrations,
            "folios": drained.folios,
            "obstacles": drained.obstacles,
            "waits": drained.waits,
            "lookups": drained.lookups,
            "entries": self._merger.add(sides, calls["call_id"]),
        }

    def rest(self, tracer: Tracer) -> Tables:
        """Rows of what never came to an end; nothing of it is left anywhere."""
        entries = self._merger.rest()
        folios, obstacles = tracer.open_folios(), tracer.open_obstacles()
        self._note_addresses(obstacles)
        return {"entries": entries, "folios": folios, "obstacles": obstacles}

    def _note_addresses(self, obstacles: NDArray[np.void]) -> None:
        for name in _ADDRESSES if obstacles.size else ():
            self.addresses.update(np.unique(obstacles[name]).tolist())


def joined(parts: Iterable[Tables]) -> Tables:
    """The rows of all parts, in their order; every table is there, some without rows."""
    found = {name: [np.empty(0, dtype)] for name, dtype in TABLES.items()}
    for part in parts:
        for name, rows in part.items():
            found[name].append(rows)
    return {name: np.concatenate(rows) for name, rows in found.items()}
