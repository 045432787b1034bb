# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations counted from tracepoint events, as bpf/stat.c counts them."""

import numpy as np
import pytest

from mptrace.tracing.counting.counts import OTHERS, by_process, by_reason
from mptrace.tracing.counting.events import EventCounts
from mptrace.tracing.tracepoints.formats import END, EVENT, START

NAMES = {7: (b"mover", False), 42: (b"kcompactd0", True)}
REASONS = {0: "compaction", 3: "syscall"}
Event = tuple[int, int, int, int, int, int, int]


def event(
    kind: int, ns: int, tid: int, tgid: int, reason: int = 3, pages: tuple[int, int] = (0, 0)
) -> Event:
    """One event: kind, time, thread, process, reason, pages moved and failed."""
    return (ns, *pages, tid, tgid, reason, kind)


def events(*rows: Event) -> np.ndarray:
    """EVENT rows of these."""
    table = np.zeros(len(rows), EVENT)
    for name, column in zip(
        ("time_ns", "first", "second", "tid", "tgid", "reason", "kind"),
        zip(*rows, strict=True),
        strict=False,
    ):
        table[name] = column
    return table


def test_pairs_of_threads_that_interleave() -> None:
    """Two threads of one process and a kernel thread migrate at once; the order given is free."""
    counts = EventCounts(64)
    counts.add(
        events(
            event(END, 1900, 9, 7, pages=(11, 1)),
            event(START, 1000, 8, 7),
            event(START, 1200, 9, 7),
            event(END, 3000, 8, 7, pages=(23, 0)),
            event(START, 1100, 42, 42, 0),
        )
    )
    assert counts.unfinished == 1
    counts.add(events(event(END, 1600, 42, 42, 0, (5, 6))))
    kcompactd, mover = sorted(by_process(counts.rows(NAMES), REASONS), key=lambda g: g.name)
    assert (mover.name, mover.migrations, mover.succeeded, mover.failed) == ("mover", 2, 34, 1)
    assert mover.time_ns == 2000 + 700
    assert (mover.histogram[9], mover.histogram[10]) == (1, 1)
    assert kcompactd.is_kthread
    assert (kcompactd.time_ns, kcompactd.succeeded, kcompactd.failed) == (500, 5, 6)
    assert counts.unfinished == 0


def test_the_time_of_a_nested_migration_counts_once() -> None:
    """Compaction inside the allocation of a migration: each has its own, their sum is the whole."""
    counts = EventCounts(64)
    counts.add(
        events(
            event(START, 1000, 8, 7),
            event(START, 1300, 8, 7, 0),
            event(END, 1500, 8, 7, 0, (4, 0)),
            event(END, 2000, 8, 7, pages=(9, 0)),
        )
    )
    groups = {group.name: group for group in by_reason(counts.rows(NAMES), REASONS)}
    assert (groups["syscall"].time_ns, groups["compaction"].time_ns) == (800, 200)
    assert (groups["syscall"].nested, groups["compaction"].nested) == (0, 1)
    # how long it took is the whole all the same
    assert groups["syscall"].histogram[9] == 1


@pytest.mark.parametrize("has_begin", [True, False])
def test_an_end_without_a_begin_is_counted_without_time(has_begin: bool) -> None:
    """Begun before the session, or on a kernel without that tracepoint: the pages count."""
    counts = EventCounts(64)
    counts.add(events(event(END, 2000, 8, 7, pages=(9, 2))), has_begin=has_begin)
    group = by_process(counts.rows(NAMES), REASONS)[0]
    assert (group.succeeded, group.failed, group.untimed, group.time_ns) == (9, 2, 1, None)


def test_after_a_loss_no_time_is_made_up() -> None:
    """A begin whose end may have been lost is not paired with a later end."""
    counts = EventCounts(64)
    counts.add(events(event(START, 1000, 8, 7)))
    counts.forget_open()
    counts.add(events(event(END, 9000, 8, 7, pages=(9, 0))))
    assert by_process(counts.rows(NAMES), REASONS)[0].untimed == 1
    assert counts.unfinished == 0


def test_others_and_chosen_processes() -> None:
    """Beyond the rows there is room for, a migration is the others'; who isn't chosen, nobody's."""
    rows = events(*(event(END, 1000 + n, n, n, pages=(n, 0)) for n in range(1, 6)))
    counts = EventCounts(2)
    counts.add(rows)
    groups = {group.tgid: group for group in by_process(counts.rows({}), REASONS)}
    assert {tgid: group.succeeded for tgid, group in groups.items()} == {1: 1, 2: 2, None: 12}
    assert counts.beyond == 3
    assert counts.tgids() == {1, 2}
    assert OTHERS not in counts.tgids()
    chosen = EventCounts(64, {4}.__contains__)
    chosen.add(rows)
    assert [g.tgid for g in by_process(chosen.rows({}), REASONS)] == [4]
