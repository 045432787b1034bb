# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording's ``meta.json`` as one typed value, with the default of every key.  Pure.

The reader makes a :class:`Meta` of what `shapes` has checked.  It has the keys that
mptrace computes with; ``raw`` is the object as it stands, with those that are only shown
and those that a newer version added.  Sessions write plain objects, key by key as they
become known: what is written and what is read agree by `shapes`, which tests ask of both.

What all keys mean: docs/architecture.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mptrace.recording.detail import LEVEL_ALL
from mptrace.recording.layouts import MAX_ENTRIES

#: Of a recording that does not say what its kernel's base pages are.
DEFAULT_PAGE_SIZE = 4096
#: Of a recording of an mptrace that did not read the mappings of processes.
NO_MAPPINGS = "the mptrace that recorded it read no mappings"


@dataclass(frozen=True)
class Instant:
    """A moment on both clocks, taken together, in ns; None where it is not said."""

    wall_ns: int | None  # CLOCK_REALTIME
    monotonic_ns: int | None  # CLOCK_MONOTONIC, as all times of the tables


@dataclass(frozen=True)
class RecordedKernel:
    """The kernel that was traced; every version names it."""

    machine: str  # as uname(2) has it, "" where it is not said
    page_size: int  # bytes of a base page

    @property
    def syscall_machine(self) -> str:
        """Whose numbers of system calls the recording has: x86_64's where it does not say."""
        return self.machine or "x86_64"


@dataclass(frozen=True)
class RecordedNode:
    """One NUMA node of the host, at the start."""

    nid: int
    cpus: tuple[int, ...]  # () also where it is not said
    memory_bytes: int | None  # None where it is not said

    @property
    def has_memory(self) -> bool:
        """Whether it has memory, or may have."""
        return self.memory_bytes is None or self.memory_bytes > 0


@dataclass(frozen=True)
class Coverage:
    """The proof of one phase; see docs/architecture.md for ``state``.

    ``unit`` is what ``expected`` and ``seen`` count, in calibration (None: not counted);
    ``attach`` a function of the kernel, ``method`` how it is attached to, both "" where
    the phase is missing.
    """

    phase: str
    unit: str
    attach: str
    method: str
    state: str
    expected: int | None
    seen: int | None
    reason: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Coverage":
        """That of a row of ``coverage``."""
        return cls(
            phase=row["phase"],
            unit=row.get("unit", ""),
            attach=row.get("attach") or "",
            method=row.get("method") or "",
            state=row.get("state", ""),
            expected=row.get("expected"),
            seen=row.get("seen"),
            reason=row.get("reason") or "",
        )

    @property
    def is_seen(self) -> bool:
        """Whether the phase is attached, and no calibration refuted it."""
        refuted = self.state == "unproved" and self.expected != self.seen
        return self.state != "missing" and not refuted

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``meta.json``."""
        return dict(vars(self))


@dataclass(frozen=True)
class RecordedScope:
    """Whom a session without a driver is about; ``kind`` is one of `request.Wanted`'s."""

    kind: str
    pids: tuple[int, ...]  # those asked for by number, or the command's


@dataclass(frozen=True)
class PartOf:
    """Which of a session's recordings this is; several where they are read as one."""

    numbers: tuple[int, ...]  # from 1
    base: str  # the session's name


#: `clock` of a cost that is CPU time of the threads that call.
CPU_CLOCK = "thread_cpu"


@dataclass(frozen=True)
class Cost:
    """What tracing cost the driver: times of interleaved runs with and without, in ns."""

    clock: str  # CPU_CLOCK: CPU time of the calling threads; "": the calls' time, of older ones
    open_ns: tuple[float, ...]
    closed_ns: tuple[float, ...]
    pages: int | None  # entries of a run
    bpf: tuple[Mapping[str, Any], ...]  # ``handler``, ``run_count``, ``run_ns`` of each


@dataclass(frozen=True)
class RecorderCost:
    """What recording itself took: CPU time of mptrace's process while it traced."""

    cpu_ns: int
    wall_ns: int
    cpus: int
    folios: int

    @classmethod
    def of(cls, took: Iterable[Mapping[str, int]]) -> "RecorderCost | None":
        """The sum of what it took for several recordings of a session; None of none."""
        some = list(took)
        if not some:
            return None
        sums = {name: sum(each[name] for each in some) for name in ("cpu_ns", "wall_ns", "folios")}
        return cls(**sums, cpus=some[-1]["cpus"])


@dataclass(frozen=True)
class Meta:
    """What a recording says of its session, kernel and host.

    Where a key is absent, the field has what the lines below call its default.
    """

    #: The whole object, as JSON has it: for what is passed through.
    raw: Mapping[str, Any]
    #: 2 or 3; 0 of tables that were never in a recording.
    format_version: int
    #: mptrace's own, "" by default.
    tool_version: str
    #: Whether the session ended in order, False by default.
    complete: bool
    #: Whether a signal ended it, False by default.
    interrupted: bool
    kernel: RecordedKernel
    #: In the host's order, () by default.
    nodes: tuple[RecordedNode, ...]
    #: Of this recording; ``ended`` is None where it did not end in order.
    started: Instant | None
    ended: Instant | None
    #: ``bpf`` or ``tracepoints``; None: a version before 3, or a driver's session.
    tier: str | None
    #: How much of each page was traced: one of `detail.DETAILS`; "all" by default.
    detail: str
    #: None: a version before 3, or a driver's session.
    scope: RecordedScope | None
    #: Processes (tgid) that were mptrace itself; None where that is not known, as before
    #: and at the begin of version 3.
    own: tuple[int, ...] | None
    #: None without rotation, and before version 3.
    rotation: PartOf | None
    #: When a session that rotates began; None of others, and at the begin of version 3.
    session: Instant | None
    #: What began before it (CLOCK_MONOTONIC) has a part in the recordings before; 0: none
    #: before this one, or not said, as in the begin of version 3.
    boundary_ns: int
    #: Whether it is the last recording of a session that rotated and ended in order.
    last_part: bool
    #: One for each phase that mptrace knew of, () by default.
    coverage: tuple[Coverage, ...]
    #: Cause -> records dropped, zeros included; {} where that was not recorded.
    lost: Mapping[str, int]
    #: Table -> number of its parts; {} where the session did not end.
    parts: Mapping[str, int]
    #: Number -> the kernel's name, of enum migrate_reason and enum migrate_mode; {} by default.
    reasons: Mapping[int, str]
    modes: Mapping[int, str]
    #: Name ("PG_locked") -> bit; {} in version 1, which has no evidence of refusals.
    page_flags: Mapping[str, int]
    #: Kernel address -> name of the operations that evidence names; {} in version 1.
    symbols: Mapping[int, str]
    #: Id of a cgroup -> its path; {} before version 3.
    cgroups: Mapping[int, str]
    #: Start, end and name of each mapping of the driver's target; () without a driver.
    mappings: tuple[tuple[int, int, str], ...]
    #: Why the table `mappings` was not filled, "" where it was.
    mappings_gap: str
    #: Entries per call that BPF reads, MAX_ENTRIES by default.
    max_entries: int
    #: None where it was not measured; then ``cost_reason`` says why.
    cost: Cost | None
    cost_reason: str
    #: None in recordings of older versions, and where the session did not end in order.
    recorder: RecorderCost | None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Meta":
        """The typed value of an object that has the shapes of `shapes.SHAPES`."""
        scope, cost, own = raw.get("scope"), raw.get("cost"), raw.get("own")
        return cls(
            raw=raw,
            format_version=raw.get("format_version", 0),
            tool_version=raw.get("tool_version", ""),
            complete=raw.get("complete", False),
            interrupted=raw.get("interrupted", False),
            kernel=_kernel(raw.get("kernel", {})),
            nodes=tuple(_node(row) for row in raw.get("nodes", ())),
            started=_instant(raw.get("started")),
            ended=_instant(raw.get("ended")),
            tier=raw.get("tier"),
            detail=raw.get("detail") or LEVEL_ALL,
            scope=None if scope is None else _scope(scope),
            own=None if own is None else tuple(own),
            rotation=_part_of(raw.get("rotation")),
            session=_instant(raw.get("session")),
            boundary_ns=raw.get("boundary_ns") or 0,
            last_part=raw.get("last_part", False),
            coverage=tuple(Coverage.of(row) for row in raw.get("coverage", ())),
            lost={cause: count or 0 for cause, count in raw.get("lost", {}).items()},
            parts=raw.get("parts", {}),
            reasons=_by_number(raw.get("reasons", {})),
            modes=_by_number(raw.get("modes", {})),
            page_flags=raw.get("page_flags", {}),
            symbols=_by_number(raw.get("symbols", {}), 16),
            cgroups=_by_number(raw.get("cgroups", {})),
            mappings=tuple((start, end, name) for start, end, name in raw.get("mappings", ())),
            mappings_gap=raw.get("mappings_gap", NO_MAPPINGS) or "",
            max_entries=raw.get("max_entries", MAX_ENTRIES),
            cost=_cost(cost) if cost else None,
            cost_reason=raw.get("cost_reason") or "not measured",
            recorder=RecorderCost.of([raw["recorder"]] if raw.get("recorder") else []),
        )

    @cached_property
    def phases(self) -> Mapping[str, Coverage]:
        """Coverage by the name of its phase."""
        return {row.phase: row for row in self.coverage}


def _instant(value: Mapping[str, Any] | None) -> Instant | None:
    return None if value is None else Instant(value.get("wall_ns"), value.get("monotonic_ns"))


def _kernel(value: Mapping[str, Any]) -> RecordedKernel:
    return RecordedKernel(value.get("machine", ""), value.get("page_size", DEFAULT_PAGE_SIZE))


def _node(row: Mapping[str, Any]) -> RecordedNode:
    return RecordedNode(row["nid"], tuple(row.get("cpus") or ()), row.get("memory_bytes"))


def _scope(value: Mapping[str, Any]) -> RecordedScope:
    return RecordedScope(value.get("kind", ""), tuple(value.get("pids", ())))


def _part_of(value: Mapping[str, Any] | None) -> PartOf | None:
    if value is None:
        return None
    numbers = value.get("numbers") or ([value["number"]] if "number" in value else [])
    return PartOf(tuple(numbers), value.get("of", ""))


def _cost(value: Mapping[str, Any]) -> Cost:
    return Cost(
        clock=value.get("clock", ""),
        open_ns=tuple(value.get("open_ns", ())),
        closed_ns=tuple(value.get("closed_ns", ())),
        pages=value.get("pages"),
        bpf=tuple(value.get("bpf") or ()),
    )


def _by_number(names: Mapping[str, str], base: int = 10) -> dict[int, str]:
    return {int(number, base): name for number, name in names.items()}
