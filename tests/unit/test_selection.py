# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows a session by tracepoints keeps: whose, and by the filters."""

import numpy as np

from mptrace.recording.layouts import CALL, FOLIO, MIGRATION, NOT_COUNTED
from mptrace.tracing.plan.scope import Filters
from mptrace.tracing.tracepoints.rows import Assembled
from mptrace.tracing.tracepoints.selection import select

COMPACTION, SYSCALL = 0, 3


def table(layout: np.dtype, *rows: dict[str, int]) -> np.ndarray:
    """Rows of a layout; what is not named is 0."""
    made = np.zeros(len(rows), layout)
    for row, values in zip(made, rows, strict=True):
        for name, value in values.items():
            row[name] = value
    return made


#: A call of process 5 on process 6, and migrations of processes 5 and 8 without a call.
ROWS = Assembled(
    table(CALL, {"call_id": 1, "tgid": 5, "target_tgid": 6}),
    table(
        MIGRATION,
        {"migration_id": 2, "call_id": 1, "tgid": 5, "reason": SYSCALL, "enter_ns": 1,
         "exit_ns": 2},
        {"migration_id": 3, "tgid": 8, "reason": COMPACTION, "enter_ns": 10, "exit_ns": 20},
        {"migration_id": 4, "tgid": 5, "reason": COMPACTION, "enter_ns": 10, "exit_ns": 99,
         "failed": 1},
        {"migration_id": 5, "tgid": 8, "reason": COMPACTION, "exit_ns": 99,
         "failed": NOT_COUNTED},
    ),
    table(
        FOLIO,
        {"migration_id": 2, "call_id": 1, "src_nid": 0, "dst_nid": 1},
        {"migration_id": 3, "src_nid": 0, "dst_nid": 1},
        {"migration_id": 4, "src_nid": 1, "dst_nid": 1},
        {"migration_id": 4, "src_nid": 0, "dst_nid": -1, "move_rc": 1},
    ),
)  # fmt: skip


def kept(
    wants: set[int] | None = None, **filters: object
) -> tuple[list[int], list[int], list[int]]:
    """Calls, migrations, and the folios' migrations that are kept."""
    chosen = Filters(**filters)  # type: ignore[arg-type]
    rows = select(ROWS, None if wants is None else wants.__contains__, chosen, SYSCALL)
    return (
        rows.calls["call_id"].tolist(),
        rows.migrations["migration_id"].tolist(),
        rows.folios["migration_id"].tolist(),
    )


def test_everything_for_everybody() -> None:
    """Without a scope and filters nothing is left out."""
    assert kept() == ([1], [2, 3, 4, 5], [2, 3, 4, 4])


def test_a_process_counts_as_caller_and_as_target() -> None:
    """Its own migrations, its calls, and calls that move its pages with their migrations."""
    assert kept({5}) == ([1], [2, 4], [2, 4, 4])
    assert kept({6}) == ([1], [2], [2])
    assert kept({8}) == ([], [3, 5], [3])
    assert kept({9}) == ([], [], [])


def test_reasons_decide_on_calls_too() -> None:
    """Compaction only: no call; move_pages(2)'s reason: the call whole."""
    assert kept(reasons=(COMPACTION,)) == ([], [3, 4, 5], [3, 4, 4])
    assert kept(reasons=(SYSCALL,)) == ([1], [2], [2])


def test_other_filters_leave_calls_whole() -> None:
    """Nodes and failures choose among folios without a call; unknown counts and times stay."""
    assert kept(source_nids=(1,)) == ([1], [2, 4], [2, 4])
    assert kept(target_nids=(1,)) == ([1], [2, 3, 4], [2, 3, 4])
    assert kept(failed=True) == ([1], [2, 4, 5], [2, 4])
    assert kept(min_ns=50) == ([1], [2, 4, 5], [2, 4, 4])
