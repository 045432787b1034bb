# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts as the kernel's maps would hold them, made by hand for the tests of `mptrace stat`."""

from typing import Any

import numpy as np

from mptrace.tracing.counting.counts import (
    COUNTS,
    KEY,
    LOST_CAUSES,
    ROW,
    Counts,
    Interval,
    combined,
)

REASONS = {0: "compaction", 3: "syscall", 5: "numa_misplaced", 8: "demotion"}
MIGRATION, WAIT = 0, 1
SECOND = 10**9


def entry(
    kind: int, reason: int, tgid: int, comm: str, *, epoch: int = 0, cgroup: int = 0, **values: int
) -> tuple[bytes, bytes]:
    """Key and value of one row; ``values`` by field, ``slot`` gets the whole count."""
    key = np.zeros(1, KEY)
    key["kind"], key["reason"], key["tgid"], key["epoch"] = kind, reason, tgid, epoch
    key["cgroup"] = cgroup
    row = np.zeros(1, ROW)
    row["comm"] = comm.encode()
    for name, value in values.items():
        if name == "slot":
            row["histogram"][0, value] = values["count"]
        else:
            row[name] = value
    return key.tobytes(), row.tobytes()


def table(*entries: tuple[bytes, bytes]) -> Counts:
    """The table of these rows."""
    made = np.zeros(len(entries), COUNTS)
    for target, (key, row) in zip(made, entries, strict=True):
        for source, dtype in ((key, KEY), (row, ROW)):
            values = np.frombuffer(source, dtype)[0]
            for name in set(dtype.names or ()) - {"epoch"}:
                target[name] = values[name]
    return combined(made)


def busy() -> Counts:
    """A mover, a database whose pages compaction moves and which waits, kcompactd."""
    return table(
        entry(
            MIGRATION, 3, 178, "mover", count=13, succeeded=6617, time_ns=183_000_000, slot=23
        ),
        entry(
            MIGRATION, 0, 42, "kcompactd0", count=7, succeeded=211, failed=23,
            time_ns=9_100_000, nested=2, slot=20, flags=1,
        ),
        entry(MIGRATION, 0, 901, "postgres", count=1, failed=5, untimed=1),
        entry(MIGRATION, 5, 901, "postgres", count=4, succeeded=4, time_ns=81_000, slot=14),
        entry(WAIT, 3, 901, "postgres", count=122, time_ns=127_000_000, slot=19),
        entry(WAIT, -1, 901, "postgres", count=3, time_ns=2_000_000, slot=19),
    )  # fmt: skip


def interval(rows: Counts, **changes: Any) -> Interval:
    """Two seconds of these rows, with nothing lost unless ``changes`` say otherwise."""
    fields: dict[str, Any] = {
        "start_ns": 5 * SECOND,
        "end_ns": 7 * SECOND,
        "wall_ns": 1_000 * SECOND,
        "rows": rows,
        "lost": dict.fromkeys(LOST_CAUSES, 0),
    }
    return Interval(**{**fields, **changes})
