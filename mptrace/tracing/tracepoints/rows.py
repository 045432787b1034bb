# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns tracepoint events into rows of a recording: migrations, calls and folios.  Pure.

The rows have what the tracepoints tell: of a migration its mode, reason and the kernel's
own counts; of a folio that somebody maps where it was, where it went and how long it was
inaccessible; of a call its arguments and what it returned.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Ints, Table
from mptrace.host.facts import NodeRanges
from mptrace.recording.layouts import (
    CALL,
    END_DONE,
    END_OPEN,
    MIGRATION,
    NOT_COUNTED,
    SYSCALL_UNKNOWN,
)
from mptrace.tracing.tracepoints.formats import (
    ARGUMENTS,
    END,
    ENTER,
    EVENT,
    EXIT,
    MADE_UP,
    PFN_BITS,
    REMOVE,
    SET,
    START,
)
from mptrace.tracing.tracepoints.nesting import (
    depths,
    enclosing,
    last_before,
    partners,
    repaired,
    sort_events,
)
from mptrace.tracing.tracepoints.page_pairs import folios
from mptrace.tracing.tracepoints.perf_records import LOSS

#: Events of migrations under way that are kept; beyond it their pages count as lost.
MAX_HELD = 1 << 22


@dataclass(frozen=True)
class Assembled:
    """Rows of a recording's tables, and what became of no row."""

    calls: Table
    migrations: Table
    folios: Table
    #: Page table entries taken away outside a migration: a large folio is split.
    outside: int = 0


class EventAssembler:
    """Puts events together, batch by batch; a migration's rows come when it has ended.

    :param nodes: which node a page frame is on.
    :param pfn_bits: see `tracepoints.migration_pfn`.
    :param has_start: the kernel says when a migration begins; otherwise `enter_ns` is 0
        and pages belong to none.
    :param max_held: bound of the events that are kept.
    """

    def __init__(
        self,
        nodes: NodeRanges,
        *,
        pfn_bits: int = PFN_BITS,
        has_start: bool = True,
        max_held: int = MAX_HELD,
    ) -> None:
        self._nodes = nodes
        self._pfn_bits = pfn_bits
        self._has_start = has_start
        self._max_held = max_held
        self._later = np.empty(0, EVENT)
        self._later_arguments = np.empty(0, ARGUMENTS)
        self._migrating = np.empty(0, EVENT)
        self._calling = np.empty(0, EVENT)  # ENTERs without EXIT; `first` is the call_id
        self._arguments = np.empty(0, ARGUMENTS)
        self._n_migrations: dict[int, int] = {}  # of calls under way
        self._losses = np.empty(0, LOSS)
        self._next_id = 1
        #: Events given up because too many migrations were under way.
        self.given_up = 0

    def add(self, events: Table, arguments: Table, losses: Table, until_ns: int) -> Assembled:
        """Rows of what ended at or before ``until_ns``; what is later is kept.

        Every event up to ``until_ns`` of a thread must have come before any later one.
        """
        self._losses = np.concatenate([self._losses, losses])
        events = np.concatenate([self._later, events])
        arguments = np.concatenate([self._later_arguments, arguments])
        due = events["time_ns"] <= until_ns
        self._later, events = events[~due], events[due]
        due = arguments["time_ns"] <= until_ns
        self._later_arguments = arguments[~due]
        self._arguments = np.concatenate([self._arguments, arguments[due]])
        return self._rows(sort_events(events), last=False)

    @property
    def waits(self) -> bool:
        """Whether there are events that were not due yet."""
        return bool(self._later.size or self._later_arguments.size)

    def finish(self) -> Assembled:
        """Rows of everything that is left, ended or not (`exit_ns` 0)."""
        events, self._later = sort_events(self._later), np.empty(0, EVENT)
        self._arguments = np.concatenate([self._arguments, self._later_arguments])
        return self._rows(events, last=True)

    def _rows(self, events: Table, *, last: bool) -> Assembled:
        brackets = (events["kind"] == ENTER) | (events["kind"] == EXIT)
        spans = self._spans(events[brackets])
        migrations, folio_rows, outside = self._migrations(events[~brackets], spans, last)
        calls = self._calls(spans, migrations, last)
        self._forget_losses()
        return Assembled(calls, migrations, folio_rows, outside)

    # ---- system calls -----------------------------------------------------------

    def _spans(self, events: Table) -> Table:
        """System calls of this batch and those under way, sorted by thread and time."""
        fresh = np.flatnonzero((events["kind"] == ENTER) & (events["mark"] != 0))
        events["first"][events["kind"] == ENTER] = 0
        events["first"][fresh] = self._ids(fresh.size)
        events = sort_events(np.concatenate([self._calling, events]))
        enters = np.flatnonzero(events["kind"] == ENTER)
        spans = np.zeros(enters.size, _SPAN)
        for name in ("tid", "tgid"):
            spans[name] = events[name][enters]
        spans["enter_ns"] = events["time_ns"][enters]
        spans["call_id"] = events["first"][enters]
        spans["syscall"] = events["reason"][enters]
        after = np.minimum(enters + 1, max(events.size - 1, 0))
        same = (after > enters) & (events["tid"][after] == events["tid"][enters])
        ended = same & (events["kind"][after] == EXIT)
        ended &= events["reason"][after] == events["reason"][enters]
        spans["exit_ns"][ended] = events["time_ns"][after[ended]]
        spans["ret"][ended] = events["first"][after[ended]].view(np.int64)
        # another call of the thread without an exit of this one: it is over all the same
        spans["over"] = same
        self._calling = events[enters[~same]]
        return spans

    def _calls(self, spans: Table, migrations: Table, last: bool) -> Table:
        """CALL rows of the spans of move_pages(2) that are over."""
        ids, counts = np.unique(migrations["call_id"], return_counts=True)
        for call_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if call_id:
                self._n_migrations[call_id] = self._n_migrations.get(call_id, 0) + count
        ready = spans[(spans["call_id"] != 0) & (spans["over"] | last)]
        rows = np.zeros(ready.size, CALL)
        for name in ("call_id", "enter_ns", "exit_ns", "ret", "tid", "tgid"):
            rows[name] = ready[name]
        place = last_before(
            (self._arguments["tid"],), self._arguments["time_ns"], (ready["tid"],),
            ready["enter_ns"],
        )  # fmt: skip
        for ours, theirs in _ARGUMENT_OF.items():
            rows[ours][place >= 0] = self._arguments[theirs][place[place >= 0]]
        rows["target_tgid"] = np.where(rows["pid"] == 0, rows["tgid"], 0)
        rows["n_migrations"] = [self._n_migrations.pop(i, 0) for i in rows["call_id"].tolist()]
        rows["lost"] = self._lost(rows["enter_ns"], rows["exit_ns"])
        open_tids = self._calling["tid"]
        self._arguments = self._arguments[np.isin(self._arguments["tid"], open_tids)]
        return rows

    # ---- migrations ---------------------------------------------------------------

    def _migrations(self, events: Table, spans: Table, last: bool) -> tuple[Table, Table, int]:
        events = sort_events(np.concatenate([self._migrating, events]))
        if not self._has_start:
            events = _with_starts(events)
        events = repaired(events, self._losses)
        depth = depths(events)
        # what belongs to a migration of its thread that has not ended is kept
        is_end = (events["kind"] == END) & (depth == 1)
        ends_after = _any_after(is_end, events["tid"])
        kept = ~ends_after & (depth > 0) & (not last)
        self._migrating = events[kept]
        self._bound_kept()
        outside = int(((depth == 0) & (events["kind"] == SET)).sum())
        events, depth = events[~kept], depth[~kept]
        rows, of_start = self._migration_rows(events, depth, spans)
        around = enclosing(events, depth)
        pages = (around >= 0) & ((events["kind"] == SET) | (events["kind"] == REMOVE))
        folio_rows, which = folios(
            events[pages], of_start[around[pages]], self._nodes, self._pfn_bits
        )
        for name in ("call_id", "migration_id", "tid"):
            folio_rows[name] = rows[name][which]
        # where events were lost an entry that was put back may have gone away again
        unsure = (rows["lost"][which] > 0) & (folio_rows["end"] != END_DONE)
        folio_rows["end"][unsure] = END_OPEN
        _one_target(rows, folio_rows, which)
        return rows, folio_rows, outside

    def _migration_rows(self, events: Table, depth: Ints, spans: Table) -> tuple[Table, Ints]:
        """MIGRATION rows, and for each START in ``events`` the number of its row."""
        starts = np.flatnonzero(events["kind"] == START)
        end = partners(events, depth)[starts]
        first, final = events[starts], events[end]
        has_end = (end >= 0) & (final["mark"] != MADE_UP) if starts.size else end >= 0
        rows = np.zeros(starts.size, MIGRATION)
        for name in ("tid", "tgid", "mode", "reason"):
            rows[name] = first[name]
        rows["migration_id"] = self._ids(starts.size)
        began = first["mark"] != MADE_UP
        rows["enter_ns"][began] = first["time_ns"][began]
        rows["exit_ns"][has_end] = final["time_ns"][has_end]
        rows["succeeded"] = NOT_COUNTED
        rows["failed"] = NOT_COUNTED
        for ours, theirs in (("succeeded", "first"), ("failed", "second")):
            rows[ours][has_end] = np.minimum(final[theirs][has_end], NOT_COUNTED - 1)
        # what is returned is not told; without an error it is what is left behind
        rows["rc"][has_end] = np.minimum(rows["failed"][has_end], 0x7FFFFFFF)
        rows["dst_nid"] = -1
        rows["syscall"] = SYSCALL_UNKNOWN
        span = last_before((spans["tid"],), spans["enter_ns"], (first["tid"],), first["time_ns"])
        inside = span >= 0
        if spans.size:
            inside &= (spans["exit_ns"][span] >= first["time_ns"]) | (spans["over"][span] == 0)
            rows["call_id"][inside] = spans["call_id"][span[inside]]
            rows["syscall"][inside] = spans["syscall"][span[inside]]
        rows["lost"] = self._lost(first["time_ns"], rows["exit_ns"])
        if self._has_start:
            rows["lost"] = np.maximum(rows["lost"], ~began | (~has_end & (end >= 0)))
        of_start = np.full(events.size, -1, np.int64)
        of_start[starts] = np.arange(starts.size)
        return rows, of_start

    def _ids(self, count: int) -> NDArray[np.uint64]:
        ids = np.arange(self._next_id, self._next_id + count, dtype=np.uint64)
        self._next_id += count
        return ids

    # ---- losses ---------------------------------------------------------------------

    def _lost(self, enter_ns: NDArray[np.uint64], exit_ns: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Records lost in each interval, all of them: whose they were can't be known."""
        total = np.zeros(enter_ns.size, np.int64)
        for loss in self._losses:
            overlap = (enter_ns <= loss["to_ns"]) & ((exit_ns >= loss["from_ns"]) | (exit_ns == 0))
            total[overlap] += int(loss["count"])
        return np.minimum(total, 0xFFFFFFFF)

    def _forget_losses(self) -> None:
        kept = [self._migrating["time_ns"], self._calling["time_ns"], self._later["time_ns"]]
        times = np.concatenate(kept)
        oldest = int(times.min()) if times.size else None
        keep = self._losses["to_ns"] >= (oldest or 0) if oldest else np.zeros(0, np.bool_)
        self._losses = self._losses[keep] if oldest else np.empty(0, LOSS)

    def _bound_kept(self) -> None:
        if self._migrating.size <= self._max_held:
            return
        pages = (self._migrating["kind"] == SET) | (self._migrating["kind"] == REMOVE)
        times = self._migrating["time_ns"][pages]
        count = int(pages.sum())
        self.given_up += count
        loss = np.array([(times.min(), times.max(), count)], LOSS)
        self._losses = np.concatenate([self._losses, loss])
        self._migrating = self._migrating[~pages]


_SPAN = np.dtype(
    [
        ("enter_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("call_id", "<u8"),
        ("ret", "<i8"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("syscall", "<i4"),
        ("over", "?"),
    ]
)
_ARGUMENT_OF = {
    "pid": "pid",
    "nr_pages": "nr_pages",
    "pages_ptr": "pages",
    "nodes_ptr": "nodes",
    "status_ptr": "status",
    "flags": "flags",
}


def _with_starts(events: Table) -> Table:
    """For a kernel that does not say when a migration begins: a START made up for each END."""
    starts = events[(events["kind"] == END)].copy()
    starts["kind"], starts["mark"] = START, MADE_UP
    return sort_events(np.concatenate([events[events["kind"] != START], starts]))


def _any_after(flags: NDArray[np.bool_], tid: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether at an event or after it in its thread there is one with the flag."""
    if not flags.size:
        return flags
    total = np.cumsum(flags)
    last = np.concatenate([tid[1:] != tid[:-1], [True]])
    final = np.minimum.accumulate(np.where(last, np.arange(tid.size), tid.size)[::-1])[::-1]
    after: NDArray[np.bool_] = (total[final] - total + flags) > 0
    return after


def _one_target(rows: Table, folio_rows: Table, which: Ints) -> None:
    """Fill in the target node of migrations whose moved folios all went to one node."""
    moved = folio_rows["move_rc"] == 0
    nids, of = folio_rows["dst_nid"][moved], which[moved]
    least = np.full(rows.size, 0x7FFF, np.int64)
    most = np.full(rows.size, -1, np.int64)
    np.minimum.at(least, of, nids)
    np.maximum.at(most, of, nids)
    one = least == most
    rows["dst_nid"][one] = most[one]
