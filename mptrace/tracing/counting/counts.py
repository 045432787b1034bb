# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of migrations and of waits, as the kernel added them up: parsed, summed, grouped.

The layouts are those of `bpf/stat.c`, field by field.  Pages are base pages,
times nanoseconds of CLOCK_MONOTONIC.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

#: Causes of loss, with what they mean; the first are those of LOST_* in bpf/stat.c, in order.
LOST_CAUSES = {
    "row_map_full": "migrations and waits of '(others)', for want of room (--max-rows)",
    "thread_map_full": "migrations without their time, too many threads at once",
    "nested_too_deep": "migrations without their time, nested deeper than four",
    "wait_map_full": "waits not counted, too many threads at once",
    "wait_end_missed": "waits not counted, their end was not seen",
    "chosen_map_full": "processes not followed, too many of them",
    "handler_skipped": "migrations or waits not counted, the kernel skipped our handler",
    "event_ring_full": "migrations not counted, or without time: events were lost",
}
#: Of these the program counts so many.
PROGRAM_CAUSES = 6

SLOTS = 40  # powers of two of nanoseconds; the last has all above
REASONS = 16
KIND_MIGRATION, KIND_WAIT = 0, 1
#: Instead of the reason of a wait: several kinds of migration ran as it began, or none did.
DURING_SEVERAL, DURING_NONE = -1, -2
#: Instead of a process: those that found no room.
OTHERS = 0xFFFFFFFF
_ROW_KTHREAD = 1

KEY = np.dtype(
    [("tgid", "u4"), ("reason", "i2"), ("kind", "u1"), ("epoch", "u1"), ("cgroup", "u8")]
)
_SUMS = ("count", "time_ns", "untimed", "nested", "succeeded", "failed", "histogram")
_FIELDS = [
    *((name, "i8") for name in _SUMS[:-1]),
    ("histogram", "i8", (SLOTS,)),
    ("flags", "u8"),
    ("comm", "S16"),
]
ROW = np.dtype(_FIELDS)
#: A row per kind, reason, process and the id of its cgroup (v2; 0 where that is unknown).
COUNTS = np.dtype([("tgid", "u4"), ("reason", "i2"), ("kind", "u1"), ("cgroup", "u8"), *_FIELDS])

Counts = NDArray[np.void]


@dataclass(frozen=True)
class Interval:
    """What was counted from one moment to another.

    ``rows`` has shape (n,), dtype COUNTS, each (kind, reason, tgid, cgroup) once.
    ``kernel_pages`` is what /proc/vmstat added to pgmigrate_success and
    pgmigrate_fail meanwhile, None where that was not compared.  ``wall_ns`` is
    the time of day at its end.
    """

    start_ns: int
    end_ns: int
    wall_ns: int
    rows: Counts
    lost: Mapping[str, int]
    #: Of the whole time: migrations and waits that had not ended.
    unfinished: Mapping[str, int] = field(default_factory=dict)
    kernel_pages: tuple[int, int] | None = None
    #: Paths of cgroups by their ids, as far as they are known.
    cgroups: Mapping[int, str] = field(default_factory=dict)
    #: What mptrace itself did meanwhile; in ``rows`` there is nothing of it.
    own: Counts = field(default_factory=lambda: np.zeros(0, COUNTS))

    @property
    def seconds(self) -> float:
        """Length in seconds, never 0."""
        return max(self.end_ns - self.start_ns, 1) / 1e9


@dataclass(frozen=True)
class Group:
    """The counts of a reason, of a process, of a cgroup, or of all.

    ``reasons`` are (name, pages moved, migrations) of what a process
    migrated, the most pages first.  ``time_ns`` is None where no migration's
    time is known.
    """

    name: str
    tgid: int | None
    is_kthread: bool
    reasons: tuple[tuple[str, int, int], ...]
    migrations: int
    untimed: int
    nested: int
    time_ns: int | None
    succeeded: int
    failed: int
    histogram: tuple[int, ...]
    waits: int
    wait_ns: int
    wait_histogram: tuple[int, ...]
    #: Of a group that is a cgroup: its id, 0 where it is unknown.
    cgroup: int | None = None


# ---- tables ---------------------------------------------------------------------


def counts_of(keys: bytes, values: bytes) -> Counts:
    """Rows of the map `rows` from its keys and values, in the same order; epochs left out."""
    key, row = np.frombuffer(keys, KEY), np.frombuffer(values, ROW)
    table = np.zeros(len(key), COUNTS)
    for name in ("tgid", "reason", "kind", "cgroup"):
        table[name] = key[name]
    for name in ROW.names or ():
        table[name] = row[name]
    return combined(table)


def others_of(values: bytes) -> Counts:
    """Rows of the array `others`, those that counted something."""
    row = np.frombuffer(values, ROW)
    table = np.zeros(len(row), COUNTS)
    table["tgid"] = OTHERS
    table["kind"], table["reason"] = np.divmod(np.arange(len(row)), REASONS)
    for name in ROW.names or ():
        table[name] = row[name]
    # the last stands for every other reason; a wait has none of these there
    last = table["reason"] == REASONS - 1
    table["reason"][last & (table["kind"] == KIND_WAIT)] = DURING_SEVERAL
    return combined(table)


def combined(*tables: Counts) -> Counts:
    """The sum of tables, each (kind, reason, tgid, cgroup) once, in that order.

    Rows of nothing go.
    """
    table = np.concatenate(tables) if tables else np.zeros(0, COUNTS)
    if not len(table):
        return table
    order = np.lexsort((table["cgroup"], table["tgid"], table["reason"], table["kind"]))
    table = table[order]
    keys = table[["kind", "reason", "tgid", "cgroup"]]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(starts[1:], len(table)) - 1
    # a name as it was last, lexsort being stable
    result = table[ends]
    for name in _SUMS:
        result[name] = np.add.reduceat(table[name], starts, axis=0)
    # a read in the middle of a count sees some of its numbers: the rest comes alone, later
    counted = [(result[name] != 0).reshape(len(result), -1).any(axis=1) for name in _SUMS]
    kept: Counts = result[np.logical_or.reduce(counted)]
    return kept


def split(table: Counts, tgids: Iterable[int]) -> tuple[Counts, Counts]:
    """The rows of everybody else, and those of these processes."""
    mine = np.isin(table["tgid"], list(tgids))
    return table[~mine], table[mine]


def difference(now: Counts, before: Counts) -> Counts:
    """What ``now`` has counted beyond ``before``."""
    negative = before.copy()
    for name in _SUMS:
        negative[name] = -negative[name]
    # the newer name last
    return combined(negative, now)


# ---- groups ---------------------------------------------------------------------


def reason_name(number: int, names: Mapping[int, str]) -> str:
    """A reason as the kernel calls it, or what stands for it."""
    if number == DURING_SEVERAL:
        return "(several)"
    if number == DURING_NONE:
        return "(none seen)"
    return names.get(number, f"reason-{number}")


def by_reason(rows: Counts, names: Mapping[int, str]) -> list[Group]:
    """A group for each reason, the kernel's order; what waits can't be given to comes last."""
    numbers = sorted({int(n) for n in rows["reason"]}, key=lambda n: (n < 0, n if n >= 0 else -n))
    return [
        _group(rows[rows["reason"] == number], reason_name(number, names), None, names)
        for number in numbers
    ]


def by_process(rows: Counts, names: Mapping[int, str]) -> list[Group]:
    """A group for each process: what it migrated, and its own waits; by process number."""
    groups = []
    for tgid in sorted({int(n) for n in rows["tgid"]}):
        mine = rows[rows["tgid"] == tgid]
        comm = bytes(mine["comm"][-1]).decode(errors="replace")
        groups.append(_group(mine, "(others)" if tgid == OTHERS else comm, tgid, names))
    return groups


def by_cgroup(rows: Counts, names: Mapping[int, str], cgroups: Mapping[int, str]) -> list[Group]:
    """A group for each cgroup that had members migrate or wait; by its path.

    ``cgroups`` are paths by id.  Processes that found no room are one group, and
    so are those whose cgroup is unknown.
    """
    found: dict[tuple[str, int], Counts] = {}
    others = rows["tgid"] == OTHERS
    if others.any():
        found["(others)", 0] = rows[others]
    rest = rows[~others]
    for number in sorted({int(n) for n in rest["cgroup"]}):
        found[cgroup_name(number, cgroups), number] = rest[rest["cgroup"] == number]
    return [
        replace(_group(mine, name, None, names), cgroup=number, is_kthread=False)
        for (name, number), mine in sorted(found.items())
    ]


def cgroup_name(number: int, cgroups: Mapping[int, str]) -> str:
    """A cgroup's path, or why it has none: it was removed before it could be asked for."""
    if not number:
        return "(unknown)"
    return cgroups.get(number, f"(gone: id {number})")


def total(rows: Counts) -> Group:
    """Everything in one group, of no reason."""
    return replace(_group(rows, "total", None, {}), reasons=())


def _group(rows: Counts, name: str, tgid: int | None, names: Mapping[int, str]) -> Group:
    migrations = rows[rows["kind"] == KIND_MIGRATION]
    waits = rows[rows["kind"] == KIND_WAIT]
    count, untimed = int(migrations["count"].sum()), int(migrations["untimed"].sum())
    reasons: dict[str, tuple[int, int]] = {}
    for row in migrations:
        label = reason_name(int(row["reason"]), names)
        pages, n = reasons.get(label, (0, 0))
        reasons[label] = pages + int(row["succeeded"]), n + int(row["count"])
    ranked = sorted(reasons.items(), key=lambda item: item[1], reverse=True)
    return Group(
        name=name,
        tgid=None if tgid == OTHERS else tgid,
        is_kthread=bool(len(rows) and rows["flags"][-1] & _ROW_KTHREAD),
        reasons=tuple((label, pages, n) for label, (pages, n) in ranked),
        migrations=count,
        untimed=untimed,
        nested=int(migrations["nested"].sum()),
        time_ns=None if count and untimed == count else int(migrations["time_ns"].sum()),
        succeeded=int(migrations["succeeded"].sum()),
        failed=int(migrations["failed"].sum()),
        histogram=tuple(migrations["histogram"].sum(axis=0).tolist()),
        waits=int(waits["count"].sum()),
        wait_ns=int(waits["time_ns"].sum()),
        wait_histogram=tuple(waits["histogram"].sum(axis=0).tolist()),
    )


#: What `mptrace top` sorts by: name -> value of a group, the greatest first.
SORTS: dict[str, Callable[[Group], int]] = {
    "pages": lambda group: group.succeeded,
    "time": lambda group: group.time_ns or 0,
    "failed": lambda group: group.failed,
    "stalls": lambda group: group.wait_ns,
}


def ranked(groups: Iterable[Group], by: str) -> list[Group]:
    """Groups in the order of a sort, ties by their migrations and name."""
    return sorted(groups, key=lambda g: (-SORTS[by](g), -g.migrations, g.name, g.tgid or 0))


def bound_ns(histogram: tuple[int, ...], fraction: float) -> int | None:
    """The power of two below which that fraction of durations lies; None without any.

    The last slot has no upper bound: None, too.
    """
    counts = np.array(histogram, np.int64)
    if not counts.sum():
        return None
    slot = int(np.searchsorted(counts.cumsum(), fraction * counts.sum()))
    return 1 << (slot + 1) if slot < SLOTS - 1 else None
