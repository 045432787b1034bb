# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps of bpf/stat.c parsed, summed, subtracted and grouped."""

import re

import numpy as np
import pytest
from stat_rows import MIGRATION, REASONS, WAIT, busy, entry, table

from mptrace.tracing.counting import counts as stat_counts
from mptrace.tracing.counting.counts import (
    COUNTS,
    KEY,
    LOST_CAUSES,
    OTHERS,
    PROGRAM_CAUSES,
    ROW,
    bound_ns,
    by_process,
    by_reason,
    combined,
    counts_of,
    difference,
    others_of,
    ranked,
    split,
    total,
)
from mptrace.tracing.counting.tracer import CONTROL
from mptrace.tracing.program.source import source_of

SOURCE = source_of("stat.c")


def test_epochs_of_one_row_are_summed() -> None:
    """A process has a row in the old and in the new epoch: they are one, with the last name."""
    old = entry(MIGRATION, 3, 7, "sh", epoch=0, count=2, succeeded=10, time_ns=5, slot=3)
    new = entry(MIGRATION, 3, 7, "mover", epoch=1, count=1, succeeded=4, time_ns=6, slot=3)
    found = counts_of(old[0] + new[0], old[1] + new[1])
    assert len(found) == 1
    assert (found["count"][0], found["succeeded"][0], found["time_ns"][0]) == (3, 14, 11)
    assert found["histogram"][0, 3] == 3
    assert found["comm"][0] == b"mover"


def test_no_rows_are_no_rows() -> None:
    """Empty maps parse, sum and group to nothing."""
    nothing = counts_of(b"", b"")
    assert nothing.dtype == COUNTS
    assert len(difference(nothing, nothing)) == 0
    assert by_reason(nothing, REASONS) == by_process(nothing, REASONS) == []
    assert (total(nothing).migrations, total(nothing).time_ns) == (0, 0)


def test_a_difference_is_what_came_since() -> None:
    """Rows that did not change go; new ones and grown ones stay, with what they grew by."""
    before = busy()
    grown = table(
        entry(MIGRATION, 3, 178, "renamed", count=2, succeeded=18, time_ns=7, slot=23),
        entry(WAIT, -2, 5, "new", count=1, time_ns=3, slot=1),
    )
    found = difference(combined(before, grown), before)
    assert found[["kind", "reason", "tgid", "count", "succeeded", "time_ns"]].tolist() == [
        (MIGRATION, 3, 178, 2, 18, 7),
        (WAIT, -2, 5, 1, 0, 3),
    ]
    assert found["comm"][0] == b"renamed"
    assert found["histogram"].sum() == 3


def test_a_difference_keeps_what_came_without_a_count() -> None:
    """A read in the middle of a count: the kernel adds up one number after the other."""
    before = table(entry(MIGRATION, 3, 7, "a", count=1, succeeded=5))
    now = table(entry(MIGRATION, 3, 7, "a", count=1, succeeded=5, failed=3, time_ns=500))
    (row,) = difference(now, before)
    assert (row["count"], row["failed"], row["time_ns"]) == (0, 3, 500)
    assert not len(difference(now, now))


def test_what_found_no_room_is_there_as_others() -> None:
    """The array `others` becomes rows of no process, by kind and reason, empty ones left out."""
    values = np.zeros(32, ROW)
    values["count"][[3, 16 + 3, 16 + 15]] = 5, 2, 1
    values["succeeded"][3] = 100
    found = others_of(values.tobytes())
    assert found[["kind", "reason", "tgid", "count"]].tolist() == [
        (MIGRATION, 3, OTHERS, 5),
        (WAIT, -1, OTHERS, 1),
        (WAIT, 3, OTHERS, 2),
    ]
    group = by_process(found, REASONS)[0]
    assert (group.name, group.tgid, group.succeeded) == ("(others)", None, 100)


def test_reasons_have_their_migrations_and_the_waits_during_them() -> None:
    """Sums by reason over processes; waits whose reason is not known have a group of their own."""
    groups = {group.name: group for group in by_reason(busy(), REASONS)}
    assert list(groups) == ["compaction", "syscall", "numa_misplaced", "(several)"]
    compaction = groups["compaction"]
    assert (compaction.migrations, compaction.succeeded, compaction.failed) == (8, 211, 28)
    assert (compaction.untimed, compaction.nested, compaction.time_ns) == (1, 2, 9_100_000)
    assert (groups["syscall"].waits, groups["syscall"].wait_ns) == (122, 127_000_000)
    assert (groups["(several)"].migrations, groups["(several)"].waits) == (0, 3)


def test_processes_have_their_migrations_by_reason_and_their_own_waits() -> None:
    """Sums by process over reasons, the reason of most pages first."""
    groups = {group.tgid: group for group in by_process(busy(), REASONS)}
    postgres = groups[901]
    assert postgres.reasons == (("numa_misplaced", 4, 4), ("compaction", 0, 1))
    assert (postgres.waits, postgres.wait_ns) == (125, 129_000_000)
    assert not postgres.is_kthread
    assert groups[42].is_kthread


def test_a_time_that_is_not_known_is_none() -> None:
    """Where the begin of no migration was seen, there is no time, which is not a time of 0."""
    rows = table(entry(MIGRATION, 0, 1, "x", count=2, untimed=2, succeeded=3))
    assert by_reason(rows, REASONS)[0].time_ns is None
    assert total(busy()).time_ns == 192_181_000


def test_a_reason_without_a_name_keeps_its_number() -> None:
    """A reason that BTF did not name is not taken for another one."""
    rows = table(entry(MIGRATION, 12, 1, "x", count=1, succeeded=3, time_ns=1))
    assert by_reason(rows, REASONS)[0].name == "reason-12"


@pytest.mark.parametrize(
    ("sort", "first"), [("pages", 178), ("time", 178), ("failed", 42), ("stalls", 901)]
)
def test_processes_are_ranked(sort: str, first: int) -> None:
    """The greatest comes first, ties by the number of migrations."""
    assert ranked(by_process(busy(), REASONS), sort)[0].tgid == first


def test_the_bound_of_a_fraction() -> None:
    """The end of the slot in which the fraction is reached; none without one, or without any."""
    histogram = [0] * 40
    assert bound_ns(tuple(histogram), 0.99) is None
    histogram[10], histogram[20] = 98, 2
    assert bound_ns(tuple(histogram), 0.5) == 1 << 11
    assert bound_ns(tuple(histogram), 0.99) == 1 << 21
    histogram[39] = 1000
    assert bound_ns(tuple(histogram), 0.99) is None


def test_layouts_are_those_of_the_program() -> None:
    """Sizes, the number of slots and of causes are the same in bpf/stat.c."""
    found = re.findall(r"sizeof\(struct \w+\) == (\d+), \"\w+\.(\w+)\"", SOURCE)
    sizes = {name: int(size) for size, name in found}
    assert sizes == {"KEY": KEY.itemsize, "ROW": ROW.itemsize, "CONTROL": CONTROL.size}
    number = {name: int(n) for name, n in re.findall(r"#define (\w+)\s+(\d+)", SOURCE)}
    assert (number["SLOTS"], number["REASONS"]) == (stat_counts.SLOTS, stat_counts.REASONS)
    assert number["LOST_CAUSES"] == PROGRAM_CAUSES < len(LOST_CAUSES)


def test_rows_of_mptrace_itself_are_set_apart() -> None:
    """Both parts together are the whole; of nobody's the whole is left."""
    rest, own = split(busy(), [901])
    assert set(own["tgid"]) == {901}
    assert not set(rest["tgid"]) & {901}
    assert np.array_equal(combined(rest, own), busy())
    rest, own = split(busy(), ())
    assert np.array_equal(rest, busy())
    assert own.size == 0
