# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF side of `mptrace stat`: maps that count, read and emptied from here."""

import struct

import numpy as np

from mptrace.errors import HostError
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
from mptrace.tracing.counting.plan import WAIT_PHASES, StatPlan
from mptrace.tracing.plan.scope import KINDS, Scope
from mptrace.tracing.program.program import Program

#: struct control of bpf/stat/state.h.
CONTROL = struct.Struct("IIIIQ")
#: Beyond this share of the rows, those of now are taken away and new ones begun.
_FULL = 0.5


class StatTracer(Program):
    """Counts as `plan` says; nothing is counted before `open_gate`.

    Rows are for reasons, processes and cgroups, and processes come and go: where
    they become many, a new epoch begins, and the rows of the old one, which nobody
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
        self._scope = Scope("all")
        self._is_open = False
        self._skipped_before = 0

    def unseen(self) -> tuple[str, ...]:
        """What can't be counted here, a sentence each."""
        return self.plan.unseen()

    @property
    def sees_time(self) -> bool:
        """Whether the time of migrations can be seen."""
        return bool(self.plan.phase("begin").method)

    @property
    def sees_waits(self) -> bool:
        """Whether waits can be seen, of some kind of page at least."""
        return any(self.plan.phase(name).method for name in WAIT_PHASES)

    def choose(self, scope: Scope) -> None:
        """Count what these do, not all; to be called before the gate opens.

        Raises HostError where this kernel can't decide by it.
        """
        if why := self.plan.undecided.get(scope.kind):
            raise HostError(
                f"{why}: this kernel's BTF lacks what tells them",
                "count for everybody, or with --tier tracepoints",
            )
        for tgid in scope.tgids:
            self._maps["chosen"].put(struct.pack("I", tgid), b"\1")
        self._scope = scope

    def followed(self) -> set[int]:
        """The chosen processes and what they forked, as far as they have not ended."""
        keys = self._maps["chosen"].keys()
        return {tgid for (tgid,) in struct.iter_unpack("I", b"".join(keys))}

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
        scope = self._scope
        control = CONTROL.pack(
            self._is_open, KINDS.index(scope.kind), self._epoch, scope.uid, scope.cgroup_id
        )
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
