# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF side of `mptrace stat`: maps that count, read and emptied from here."""

import struct
from collections.abc import Collection

import numpy as np

from mptrace.tracing.counting.counts import (
    COUNTS,
    KEY,
    LOST_CAUSES,
    PROGRAM_CAUSES,
    ROW,
    Counts,
    combined,
    counts_of,
    others_of,
)
from mptrace.tracing.counting.plan import StatPlan
from mptrace.tracing.program.program import Program

#: Beyond this share of the rows, those of now are taken away and new ones begun.
_FULL = 0.5


class StatTracer(Program):
    """Counts as `plan` says; nothing is counted before `open_gate`.

    Rows are for reasons and processes, and processes come and go: where they
    become many, a new epoch begins, and the rows of the old one, which nobody
    counts in any more, are added up here and deleted in the kernel.
    """

    #: Seconds after which the kernel's rows must be looked at again, lest they become too many.
    poll_seconds = 1.0

    def __init__(self, plan: StatPlan, release: str) -> None:
        super().__init__("stat.c", plan.phases, plan.defines, release)
        self.plan = plan
        self._epoch = 0
        self._old: int | None = None
        self._taken: Counts = np.zeros(0, COUNTS)
        self._filtered = False
        self._is_open = False
        self._skipped_before = 0

    def unseen(self) -> tuple[str, ...]:
        """What can't be counted here, a sentence each."""
        return self.plan.unseen()

    def choose(self, tgids: Collection[int]) -> None:
        """Count what these processes do, not all; to be called before the gate opens."""
        for tgid in tgids:
            self._maps["wanted"].put(struct.pack("I", tgid), struct.pack("I", 1))
        self._filtered = bool(tgids)

    def open_gate(self) -> None:
        """Count from now on."""
        self._skipped_before = self.skipped()
        self._is_open = True
        self._control()

    def close_gate(self) -> None:
        """Count nothing further."""
        self._is_open = False
        self._control()

    def _control(self) -> None:
        # struct control
        control = struct.pack("IIII", self._is_open, self._filtered, self._epoch, 0)
        self._maps["control"].put(struct.pack("I", 0), control)

    def read(self) -> Counts:
        """Everything counted since the gate was opened, shape (n,), dtype COUNTS.

        Two calls must lie some milliseconds apart: after a new epoch has begun,
        handlers under way may still count in the old one.
        """
        table = self._maps["rows"]
        pairs = table.items()
        keys = np.frombuffer(b"".join(key for key, _ in pairs), KEY)
        values = np.frombuffer(b"".join(value for _, value in pairs), ROW)
        if self._old is not None:
            # nobody has counted in these since the last call
            old = keys["epoch"] == self._old
            self._taken = combined(
                self._taken, counts_of(keys[old].tobytes(), values[old].tobytes())
            )
            for index in np.flatnonzero(old):
                table.delete(pairs[index][0])
            keys, values = keys[~old], values[~old]
            self._old = None
        elif len(keys) > _FULL * self.plan.bounds.max_rows:
            self._old = self._epoch
            self._epoch = (self._epoch + 1) % 256
            self._control()
        others = b"".join(self._maps["others"].values())
        return combined(self._taken, others_of(others), counts_of(keys.tobytes(), values.tobytes()))

    def losses(self) -> dict[str, int]:
        """Count per cause of `LOST_CAUSES`, zeros included."""
        return {
            **dict.fromkeys(LOST_CAUSES, 0),
            **self._lost(list(LOST_CAUSES)[:PROGRAM_CAUSES]),
            "handler_skipped": self.skipped() - self._skipped_before,
        }

    def unfinished(self) -> dict[str, int]:
        """Migrations and waits that have begun and not ended, of all processes."""
        return {
            # struct thread begins with their number
            "migrations": sum(
                struct.unpack_from("I", thread)[0] for thread in self._maps["threads"].values()
            ),
            "waits": len(self._maps["waits"].keys()),
        }
