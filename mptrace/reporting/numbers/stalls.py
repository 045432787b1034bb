# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that waited for a page under migration, each joined with who migrated it.  Pure.

`outcomes.waiting` joins them; what fits nothing stays unknown.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.outcomes.paths import BY_KEY, PATHS, of_migrations, reason_name
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.outcomes.waiting import MATCHES, Join, join, maybe_waited_for, waits_of, without_holder
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import MIGRATION_KTHREAD, TABLES, WAIT_NAMES
from mptrace.recording.meta import Meta
from mptrace.recording.slices import Slices
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.sums import Numbers, Spread, distribution

#: Waits, and threads that waited, named one by one, the longest first.
MAX_LONGEST = 10
MAX_THREADS = 50
_MOVE_PAGES = next(code for code, path in enumerate(PATHS) if path.key == "move_pages")
_WAIT_PHASES = ("wait_pte", "wait_pmd", "wait_hugetlb", "io_sleep")


class Stalls:
    """Who waited, for how long, for whom; folios are added slice by slice.

    A wait names the migration that held its page, whichever slice that is in.  Of the waits
    that name none the folio that was inaccessible then tells it: where there are such, all
    slices are gone through before.

    :param recording: its slices, or all of its tables.
    :param most: threads and longest waits that are named, if more than usual.
    """

    def __init__(
        self,
        recording: Tables | Slices,
        meta: Meta,
        processes: RecordedProcesses,
        lying: Lying,
        *,
        most: int = 0,
    ) -> None:
        self._meta = meta
        self._tables = recording.whole if isinstance(recording, Slices) else recording
        self._parts = recording, processes, lying, most
        self._view: _View | None = None

    def add(self, part: Part, gathered: Gathered) -> None:
        """Add the folios of a slice, which ``gathered`` has."""
        self._seen(gathered).add(part)

    def _seen(self, gathered: Gathered) -> "_View":
        if self._view is None:
            recording, processes, lying, most = self._parts
            joined, kept = _joined(recording, self._meta), np.flatnonzero(~gathered.out.waits)
            waits = waits_of(self._tables)[kept]
            joined = Join(joined.how[kept], joined.migration[kept], joined.call[kept])
            start, end = waits["start_ns"].astype(np.int64), waits["end_ns"].astype(np.int64)
            who = _Initiators(self._tables, self._meta, joined, processes)
            names = Mappings(self._meta.mappings)
            some = kept, waits, end - start, end >= start, joined, who, self._tables["calls"]
            self._view = _View(*some, processes, names, lying, most)
        return self._view

    def numbers(self, gathered: Gathered) -> Numbers:
        """By victim, by initiator, by thread, and the longest; times in ns.

        ``blackout`` beside a victim is that of the folios it maps, beside an initiator
        that of the folios it migrated.  Waits and folios of mptrace itself are left out.
        """
        view, meta, migrations = self._seen(gathered), self._meta, self._tables["migrations"]
        waits, joined = view.waits, view.joined
        states = [meta.phases[name].state for name in _WAIT_PHASES if name in meta.phases]
        return {
            "traced": any(state != "missing" for state in states),
            "count": int(waits.size),
            "open": int((~view.closed).sum()),
            "threads": int(np.unique(waits["tid"]).size),
            **view.times(np.arange(waits.size)),
            "matches": {name: int((joined.how == code).sum()) for code, name in enumerate(MATCHES)},
            "by_victim": view.by_victim(),
            "by_initiator": view.by_initiator(),
            "by_thread": view.by_thread(meta, migrations),
            "longest": view.longest(meta, migrations),
        }


def _joined(recording: Tables | Slices, meta: Meta) -> Join:
    if not isinstance(recording, Slices):
        return join(recording, meta)
    whole, left = recording.whole, without_holder(recording.whole)
    found = [np.zeros(0, TABLES["folios"])]
    for tables in recording if left.size else ():
        folios = tables["folios"]
        found.append(np.take(folios, maybe_waited_for(left, folios, meta.kernel.page_size)))
    return join({**whole, "folios": np.concatenate(found)}, meta)


class _Initiators:
    """Who held the page of each wait: numbered by (path, process, comm); -1: unknown."""

    def __init__(
        self, tables: Tables, meta: Meta, joined: Join, processes: RecordedProcesses
    ) -> None:
        self._processes = processes
        migrations, calls = tables["migrations"], tables["calls"]
        count = joined.how.size
        path, tgid = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        comm, self.flags = np.zeros(count, "S16"), np.zeros(count, np.int64)
        inside = np.flatnonzero(joined.migration >= 0)
        rows = migrations[joined.migration[inside]]
        path[inside], tgid[inside] = of_migrations(rows, meta), rows["tgid"]
        comm[inside], self.flags[inside] = rows["comm"], rows["flags"]
        inside = np.flatnonzero((joined.migration < 0) & (joined.call >= 0))
        rows = calls[joined.call[inside]]
        path[inside], tgid[inside], comm[inside] = _MOVE_PAGES, rows["tgid"], rows["comm"]
        # With its index np.unique sorts stably: see joins.ranks().
        _, _, name = np.unique(comm, return_index=True, return_inverse=True)
        number = name.astype(np.int64)
        for column in (tgid, path):
            values, place = ranks(column)
            number = ranks(number * max(values.size, 1) + place)[1]
        self.number: Ints = np.where(path >= 0, number, -1)
        self.path, self.tgid, self.comm = path, tgid, comm

    def name(self, wait: int) -> Numbers | None:
        """Who held the page of a wait, None where that is unknown."""
        if self.path[wait] < 0:
            return None
        path = PATHS[int(self.path[wait])]
        return {
            "path": path.key,
            "label": path.label,
            "tgid": int(self.tgid[wait]),
            "comm": text(self.comm[wait]) or self._processes.comm(int(self.tgid[wait])),
            "kernel_thread": bool(self.flags[wait] & MIGRATION_KTHREAD),
        }


@dataclass
class _View:
    number: Ints  # row of the table that each wait is
    waits: Table
    ns: Ints
    closed: Bools
    joined: Join
    who: _Initiators
    calls: Table
    processes: RecordedProcesses
    mappings: Mappings
    lying: Lying
    most: int

    def __post_init__(self) -> None:
        tgids = self.waits["tgid"].astype(np.int64)
        self._victims, self._of_victim = ranks(tgids)
        self._holders, self._of_initiator = ranks(self.who.number)
        self._dark_of_victims = [Spread() for _ in self._victims]
        self._dark_of_initiators = [Spread() for _ in self._holders]
        held = self.joined.migration
        self._held = np.unique(held[held >= 0])
        # of each migration that was waited for who made it
        self._holder = np.full(int(held.max(initial=-1)) + 1, -1, np.int64)
        self._holder[held[held >= 0]] = self._of_initiator[held >= 0]
        #: Folios that waits name by pointer and holder.
        self._named = [np.zeros(0, TABLES["folios"])]

    def add(self, part: Part) -> None:
        """Add the folios of a slice."""
        if not self.waits.size:
            return
        folios, columns = part.tables["folios"], part.columns
        ns = columns["blackout_ns"]
        is_dark = (columns["n_dark"] > 0) & (ns >= 0) & ~part.out.folios
        dark = np.flatnonzero(is_dark)
        owner = columns["owner_tgid"][dark]
        place = np.minimum(np.searchsorted(self._victims, owner), self._victims.size - 1)
        theirs = self._victims[place] == owner
        _spread_out(self._dark_of_victims, place[theirs], ns[dark[theirs]])
        fate = part.fate
        rows = np.append(part.rows("migrations"), -1)[fate.migration]
        held = (rows >= 0) & (rows < self._holder.size) & is_dark[fate.row]
        who = self._holder[rows[held]]
        _spread_out(self._dark_of_initiators, who[who >= 0], ns[fate.row[held][who >= 0]])
        pointers, holders = np.unique(self.waits["folio"]), np.unique(self.waits["holder_id"])
        named = np.flatnonzero(_among(folios["src"], pointers))
        some = np.take(folios, named)
        mine = _among(some["migration_id"], holders) | _among(some["call_id"], holders)
        self._named.append(some[mine])

    def times(self, rows: Ints) -> Numbers:
        some = self.ns[rows[self.closed[rows]]]
        return {"total_ns": int(some.sum()), **distribution(some)}

    def by_victim(self) -> list[Numbers]:
        tgids, place = self._victims, self._of_victim
        victims = []
        for number, rows in enumerate(members(place, tgids.size)):
            tgid = int(tgids[number])
            victims.append(
                {
                    "tgid": tgid,
                    "comm": self.processes.comm(tgid) or text(self.waits["comm"][rows[0]]),
                    "threads": int(np.unique(self.waits["tid"][rows]).size),
                    "count": int(rows.size),
                    **self.times(rows),
                    "kinds": _kinds(self.waits["kind"][rows]),
                    "initiators": self._initiators(rows),
                    "blackout": _blackout(self._dark_of_victims[number]),
                }
            )
        return sorted(victims, key=lambda victim: -int(victim["total_ns"]))

    def _initiators(self, rows: Ints) -> list[Numbers]:
        numbers, place = ranks(self.who.number[rows])
        found = []
        for group in members(place, numbers.size):
            some = rows[group]
            name = self.who.name(int(some[0]))
            found.append({"initiator": name, "count": int(some.size), **self._total(some)})
        return sorted(found, key=lambda each: -int(each["total_ns"]))

    def _total(self, rows: Ints) -> Numbers:
        return {"total_ns": int(self.ns[rows[self.closed[rows]]].sum())}

    def by_initiator(self) -> list[Numbers]:
        groups = members(self._of_initiator, self._holders.size)
        initiators = []
        for rows, dark in zip(groups, self._dark_of_initiators, strict=True):
            victims, which = ranks(self.waits["tgid"][rows].astype(np.int64))
            named = []
            for number, group in enumerate(members(which, victims.size)):
                tgid = int(victims[number])
                comm = self.processes.comm(tgid) or text(self.waits["comm"][rows[group[0]]])
                some = rows[group]
                named.append(
                    {"tgid": tgid, "comm": comm, "count": int(some.size), **self._total(some)}
                )
            initiators.append(
                {
                    "initiator": self.who.name(int(rows[0])),
                    "count": int(rows.size),
                    **self.times(rows),
                    "matches": {
                        name: int((self.joined.how[rows] == code).sum())
                        for code, name in enumerate(MATCHES)
                    },
                    "victims": sorted(named, key=lambda each: -int(each["total_ns"])),
                    "blackout": _blackout(dark),
                }
            )
        return sorted(initiators, key=lambda each: -int(each["total_ns"]))

    def longest(self, meta: Meta, migrations: Table) -> list[Numbers]:
        rows = np.flatnonzero(self.closed)
        rows = rows[np.argsort(-self.ns[rows], kind="stable")][: max(MAX_LONGEST, self.most)]
        return [self._wait(row, meta, migrations) for row in rows.tolist()]

    def by_thread(self, meta: Meta, migrations: Table) -> list[Numbers]:
        """Each thread with its longest wait; of more than MAX_THREADS those of most time."""
        tids, place = ranks(self.waits["tid"].astype(np.int64))
        total = np.bincount(place, np.where(self.closed, self.ns, 0), tids.size)
        of_thread, found = members(place, tids.size), []
        for number in np.argsort(-total, kind="stable")[: max(MAX_THREADS, self.most)].tolist():
            rows = of_thread[number]
            ended = rows[self.closed[rows]]
            longest = ended[np.argmax(self.ns[ended])] if ended.size else rows[0]
            wait = self._wait(int(longest), meta, migrations)
            found.append(
                {
                    **{name: wait.pop(name) for name in ("tid", "tgid", "comm", "process")},
                    "count": int(rows.size),
                    "open": int(rows.size - ended.size),
                    **self._total(rows),
                    **first_and_last(self.waits["start_ns"][rows], self.waits["end_ns"][rows]),
                    "initiators": self._initiators(rows),
                    "longest": wait if ended.size else None,
                }
            )
        return found

    def _wait(self, row: int, meta: Meta, migrations: Table) -> Numbers:
        wait = self.waits[row]
        address, migration = int(wait["address"]), int(self.joined.migration[row])
        mapped = address or self._mapped_at(wait)
        name = self.who.name(row)
        tgid = int(wait["tgid"])
        return {
            "wait": int(self.number[row]),
            "tid": int(wait["tid"]),
            "tgid": tgid,
            "comm": text(wait["comm"]),
            "process": self.processes.comm(tgid) or text(wait["comm"]),
            "wait_ns": int(self.ns[row]),
            "start_ns": int(wait["start_ns"]),
            "address": hex(address) if address else None,
            "mapped_at": hex(mapped) if mapped else None,
            "mapping": self.mappings.name(mapped) if mapped else None,
            "lies_in": self.lying.at(tgid, mapped, int(wait["start_ns"])).as_dict(),
            "kind": _kind(int(wait["kind"])),
            "match": MATCHES[self.joined.how[row]],
            "initiator": name,
            "holder_tid": int(wait["holder_tid"]) or None,
            "migration": migration if migration >= 0 else None,
            "reason": None
            if migration < 0
            else reason_name(meta, int(migrations["reason"][migration])),
            "why": "" if name is None else BY_KEY[name["path"]].meaning,
        }

    def _mapped_at(self, wait: np.void) -> int:
        """Where the migration found the wait's folio mapped by the process that waited; 0: not."""
        if not wait["holder_id"] or not wait["folio"]:
            return 0
        folios = np.concatenate(self._named)
        own = folios[
            (folios["src"] == wait["folio"])
            & (
                (folios["migration_id"] == wait["holder_id"])
                | (folios["call_id"] == wait["holder_id"])
            )
        ]
        if own.size != 1:
            return 0
        # of a call the address is the one that was asked for, in its target
        target = self.calls["target_tgid"][self.calls["call_id"] == own["call_id"][0]]
        whose = target[0] if target.size else own["owner_tgid"][0]
        return int(own["address"][0]) if whose == wait["tgid"] else 0


def _kinds(kinds: npt.NDArray[Any]) -> dict[str, int]:
    values, place = ranks(kinds.astype(np.int64))
    counts = np.bincount(place, minlength=values.size)
    return {_kind(int(value)): int(n) for value, n in zip(values, counts, strict=True)}


def _kind(code: int) -> str:
    return WAIT_NAMES[code] if code < len(WAIT_NAMES) else f"kind {code}"


def _blackout(ns: Spread) -> Numbers:
    return {"unit": "folio", "folios": ns.count, **ns.numbers()}


def _spread_out(spreads: list[Spread], place: Ints, values: Ints) -> None:
    """Add each value to the spread at its place."""
    for number, rows in enumerate(members(place, len(spreads))):
        spreads[number].add(values[rows])


def _among(values: npt.NDArray[Any], distinct: npt.NDArray[Any]) -> Bools:
    """Which of many values are among a few, which are in order."""
    place = np.minimum(np.searchsorted(distinct, values), distinct.size - 1)
    found: Bools = distinct[place] == values
    return found
