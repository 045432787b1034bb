# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of a recording as columns and rows of plain values, joined by number.  Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Table
from mptrace.outcomes.causes import obstacles, rules
from mptrace.outcomes.correlate import (
    ALREADY_THERE,
    ENTRY_REASONS,
    FAILED,
    MOVED,
    NOT_ATTEMPTED,
    UNKNOWN,
    WRITTEN,
    correlate,
)
from mptrace.outcomes.fates import failed_migrations, fates, outcomes
from mptrace.outcomes.own import own_of
from mptrace.outcomes.paths import PATHS, mode_name, of_migrations, reason_name
from mptrace.outcomes.processes import Processes
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import (
    END_NAMES,
    MAPPER,
    MIGRATION_COMPAT,
    MIGRATION_KTHREAD,
    NO_LOOKUP,
    NO_UID,
    NOT_COUNTED,
    OUTCOMES,
    PADDING,
    PROCESS,
    READ_NODES,
    READ_PAGES,
    STAGE_NAMES,
    STAGE_NONE,
    WAIT,
    WAIT_NAMES,
    WITNESSES,
)
from mptrace.recording.meta import Meta

#: Rows that are turned into Python values at a time.
_BATCH = 8192
_ADDRESSES = frozenset(
    {
        "address",
        "src",
        "dst",
        "pages_ptr",
        "nodes_ptr",
        "status_ptr",
        "page_flags",
        "mapping",
        "private",
        "a_ops",
        "migrate_op",
        "pte",
        "vm_start",
        "vm_end",
        "vm_flags",
    }
)

#: Columns of `entries` in the order in which they are given.
ENTRY_COLUMNS = (
    "call",
    "entry",
    "address",
    "target_nid",
    "status",
    "outcome",
    "entry_reason",
    "final_nid",
    "witnesses",
    "cause",
    "before_nid",
    "status_before",
    "status_after",
    "status_expected",
    "folio",
    "own",
)
#: Those of them that fit a terminal.
ENTRY_COLUMNS_SHORT = ENTRY_COLUMNS[:10]

_SHORT = {
    "entries": ENTRY_COLUMNS_SHORT,
    "calls": ("call", "tid", "nr_pages", "flags", "ret", "n_lookups", "n_migrations", "lost"),
    "migrations": ("migration", "call", "path", "mode_name", "rc", "succeeded", "tgid", "comm"),
    "folios": (
        "folio",
        "call",
        "address",
        "nr_pages",
        "src_nid",
        "dst_nid",
        "outcome",
        "cause",
    ),
    "obstacles": (
        "obstacle",
        "call",
        "folio",
        "address",
        "stage",
        "rc",
        "refcount",
        "mapcount",
        "fs",
    ),
    "mappers": ("call", "lookup_seq", "src", "pid", "comm", "address"),
    "waits": ("wait", "tid", "comm", "address", "wait_ns", "kind", "migration", "holder_tid"),
    "processes": ("tgid", "comm", "uid", "cgroup"),
}


class Rows:
    """Columns and rows of one table of a recording.

    :param table: ``entries``, ``calls``, ``migrations``, ``folios``, ``obstacles``,
        ``mappers``, ``waits`` or ``processes``.
    :param failed: only what did not succeed: entries whose page stayed or was never
        attempted, calls with such an entry or an error, migrations that left
        something behind, folios that stayed, obstacles of such.  Waits and processes
        do not fail: all of them.
    """

    def __init__(
        self, table: str, tables: Mapping[str, Table], meta: Meta, *, failed: bool
    ) -> None:
        self._tables, self._meta = tables, meta
        self._found = correlate(tables, meta)
        self._fates = fates(tables, meta)
        self._people = Processes(tables, meta)
        self._own = own_of(tables, meta)
        #: Rows of the table of which nobody can say whether they failed.
        self.unknown = 0
        make: Callable[[bool], tuple[dict[str, Any], int]] = getattr(self, f"_{table}")
        self._columns, self.count = make(failed)
        # behind what a row is about
        if "own" in self._columns:
            self._columns["own"] = self._columns.pop("own")
        whole = self._found.rows if table == "entries" else tables.get(table)
        #: Rows of the table, those that ``failed`` leaves out among them.
        self.total = 0 if whole is None else int(whole.size)
        if table == "entries":
            self.total += self._found.beyond_bound
        self.columns = tuple(self._columns)
        #: Columns for a table on a terminal: where a row is mptrace's own, that it is.
        self.short = (*_SHORT[table], "own") if self._columns["own"][0].any() else _SHORT[table]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self.values(self.columns)

    def values(self, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        """Rows of plain values (int, str, None), a batch at a time."""
        for first in range(0, self.count, _BATCH):
            part = slice(first, first + _BATCH)
            yield from zip(
                *(_plain(name, self._columns[name], part) for name in columns), strict=True
            )

    def width(self, column: str) -> int:
        """Letters of the longest value of a column, 1 at the least."""
        values = self._columns[column][0]
        if not values.size:
            return 1
        if values.dtype.kind == "b":
            return len("yes")
        if values.dtype.kind in "iu":
            ends = (int(values.min()), int(values.max()))
            return max(len(hex(end) if column in _ADDRESSES else str(end)) for end in ends)
        return max(len(str(value)) for value in set(values.tolist()))

    def _entries(self, failed: bool) -> tuple[dict[str, Any], int]:
        rows = self._found.rows
        self.unknown = int((rows["outcome"] == UNKNOWN).sum()) + self._found.beyond_bound
        if failed:
            rows = rows[np.isin(rows["outcome"], (FAILED, NOT_ATTEMPTED))]
        known = np.ones(rows.size, np.bool_)
        location = rows["has_location"] != 0
        codes = np.unique(rows["cause"])
        causes = np.array([rules.cause_name(int(code)) for code in codes], object)
        columns: dict[str, Any] = {
            "call": (rows["call"], known),
            "entry": (rows["entry"], known),
            "address": (rows["address"], (rows["unread"] & READ_PAGES) == 0),
            "target_nid": (rows["target_nid"], (rows["unread"] & READ_NODES) == 0),
            "status": (rows["status_after"], rows["has_status"] != 0),
            "outcome": (np.array(OUTCOMES, object)[rows["outcome"]], known),
            "entry_reason": (np.array(ENTRY_REASONS, object)[rows["entry_reason"]], known),
            "final_nid": (rows["final_nid"], location),
            "witnesses": (np.array(WITNESSES, object)[rows["witnesses"]], known),
            "cause": (
                causes[np.searchsorted(codes, rows["cause"])] if rows.size else codes,
                known,
            ),
            "before_nid": (rows["before_nid"], location),
            "status_before": (rows["status_before"], rows["unread_before"] == 0),
            "status_after": (rows["status_after"], known),
            "status_expected": (rows["status_expected"], rows["written"] == WRITTEN),
            "folio": (rows["folio"], rows["folio"] >= 0),
            "own": (self._of_own_calls(self._found.call_ids)[rows["call"]], known),
        }
        return columns, rows.size

    def _calls(self, failed: bool) -> tuple[dict[str, Any], int]:
        rows = self._tables["calls"]
        numbers, known = self._call_numbers(rows["call_id"])
        entries = self._found.rows
        stayed = np.zeros(self._found.call_ids.size, np.bool_)
        stayed[entries["call"][np.isin(entries["outcome"], (FAILED, NOT_ATTEMPTED))]] = True
        # what was returned says little of the pages: 0 also where one was refused
        bad = rows["ret"] != 0
        bad[known] |= stayed[numbers[known]]
        doubt = (rows["lost"] != 0) | (rows["exit_ns"] == 0)
        unclear = np.zeros(stayed.size, np.bool_)
        unclear[entries["call"][entries["outcome"] == UNKNOWN]] = True
        doubt[known] |= unclear[numbers[known]]
        self.unknown = int((doubt & ~bad).sum())
        where = np.flatnonzero(bad) if failed else np.arange(rows.size)
        first = {
            "call": (numbers, known),
            "own": (self._own.calls, np.ones(rows.size, np.bool_)),
        }
        return self._raw(rows, where, first), where.size

    def _migrations(self, failed: bool) -> tuple[dict[str, Any], int]:
        rows = self._tables["migrations"]
        bad = failed_migrations(rows, self._fates, self._own.beside(self._fates))
        doubt = rows["lost"] != 0
        of_unknown = self._fates.migration[self._fates.outcome == UNKNOWN]
        doubt[of_unknown[of_unknown >= 0]] = True
        self.unknown = int((doubt & ~bad).sum())
        where = np.flatnonzero(bad) if failed else np.arange(rows.size)
        first = {
            "migration": (np.arange(rows.size), np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "own": (self._own.migrations, np.ones(rows.size, np.bool_)),
        }
        columns = self._raw(rows, where, first)
        known = np.ones(where.size, np.bool_)
        some = rows[where]
        for name in ("succeeded", "failed"):
            columns[name] = (some[name], some[name] != NOT_COUNTED)
        machine = self._meta.kernel.syscall_machine
        keys = np.array([path.key for path in PATHS], object)
        columns["path"] = (keys[of_migrations(some, self._meta)], known)
        columns["reason_name"] = _named(some["reason"], lambda n: reason_name(self._meta, n))
        columns["mode_name"] = _named(some["mode"], lambda n: mode_name(self._meta, n))
        compat = (some["flags"] & MIGRATION_COMPAT).astype(np.int64)
        columns["syscall_name"] = _named(
            some["syscall"].astype(np.int64) * 4 + compat,
            lambda n: syscall_name(n >> 2, is_compat=bool(n & 3), machine=machine),
        )
        columns["kernel_thread"] = ((some["flags"] & MIGRATION_KTHREAD).astype(np.bool_), known)
        columns["cgroup_id"] = (some["cgroup_id"], some["cgroup_id"] != 0)
        columns["cgroup"] = self._cgroups(some)
        return columns, where.size

    def _folios(self, failed: bool) -> tuple[dict[str, Any], int]:
        rows = self._tables["folios"]
        outcome, cause, is_told = self._outcomes()
        stayed = is_told & (outcome == FAILED)
        # a lookup that found nothing has no folio
        self.unknown = int(((outcome == UNKNOWN) & (is_told | (rows["nr_pages"] > 0))).sum())
        where = np.flatnonzero(stayed) if failed else np.arange(rows.size)
        first = {
            "folio": (np.arange(rows.size), np.ones(rows.size, np.bool_)),
            "own": (self._own.folios, np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "migration": _numbers(self._tables["migrations"]["migration_id"], rows["migration_id"]),
        }
        columns = self._raw(rows, where, first)
        names = np.array([*END_NAMES, "?"], object)
        end = np.minimum(rows["end"][where], len(END_NAMES))
        columns["end"] = (names[end], np.ones(where.size, np.bool_))
        seq = rows["lookup_seq"][where]
        columns["lookup_seq"] = (seq, seq != NO_LOOKUP)
        columns["outcome"] = (np.array(OUTCOMES, object)[outcome[where]], is_told[where])
        columns["cause"] = (_named(cause[where], rules.cause_name)[0], is_told[where])
        return columns, where.size

    def _outcomes(self) -> tuple[Any, Any, Any]:
        """Outcome and cause of each folio, and whether they are known.

        By its own records, else by those of the entries that it decided: one that was
        not isolated stayed, too, or was there already.
        """
        rows = self._tables["folios"]
        outcome, is_told = outcomes(self._tables, self._meta, self._fates)
        cause = np.zeros(rows.size, np.int64)
        cause[self._fates.row] = self._fates.cause
        entries = self._found.rows
        entries = entries[(entries["folio"] >= 0) & (entries["outcome"] != NOT_ATTEMPTED)]
        # of several entries of one folio one that failed decides: it comes last
        entries = entries[np.argsort(entries["outcome"] == FAILED, kind="stable")]
        folio = entries["folio"]
        # a lookup that found nothing has no folio
        of_entry = ~is_told[folio] & (rows["nr_pages"][folio] > 0)
        outcome[folio[of_entry]] = entries["outcome"][of_entry]
        is_told[folio[of_entry]] = True
        # of one that no migration had only the entry knows why
        alone = is_told[folio] & (rows["migration_id"][folio] == 0)
        cause[folio[alone]] = entries["cause"][alone]
        return outcome, cause, is_told

    def _obstacles(self, failed: bool) -> tuple[dict[str, Any], int]:
        rows = obstacles.of(self._tables)
        of_folio = obstacles.of_folios(self._tables)
        folio = np.full(rows.size, -1, np.int64)
        has = np.flatnonzero(of_folio >= 0)
        folio[of_folio[has]] = has
        # one that has no stage only delayed its folio; another may have been overcome
        bad = rows["stage"] != STAGE_NONE
        outcome, _, is_told = self._outcomes()
        fine = is_told & np.isin(outcome, (MOVED, ALREADY_THERE))
        bad[folio >= 0] &= ~fine[folio[folio >= 0]]
        where = np.flatnonzero(bad) if failed else np.arange(rows.size)
        first = {
            "obstacle": (np.arange(rows.size), np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "migration": _numbers(self._tables["migrations"]["migration_id"], rows["migration_id"]),
            "folio": (folio, folio >= 0),
            "own": (
                (_at(self._own.folios, folio)) | self._of_own_calls(rows["call_id"]),
                np.ones(rows.size, np.bool_),
            ),
        }
        columns = self._raw(rows, where, first)
        names = np.array([*STAGE_NAMES, "?"], object)
        stage = np.minimum(rows["stage"][where], len(STAGE_NAMES))
        columns["stage"] = (names[stage], np.ones(where.size, np.bool_))
        seq = rows["lookup_seq"][where]
        columns["lookup_seq"] = (seq, seq != NO_LOOKUP)
        return columns, where.size

    def _mappers(self, _failed: bool) -> tuple[dict[str, Any], int]:
        # each is of a page that was refused
        found = self._tables.get("mappers")
        rows = np.zeros(0, MAPPER) if found is None else found
        first = {
            "call": self._call_numbers(rows["call_id"]),
            "own": (self._of_own_calls(rows["call_id"]), np.ones(rows.size, np.bool_)),
        }
        return self._raw(rows, np.arange(rows.size), first), rows.size

    def _waits(self, _failed: bool) -> tuple[dict[str, Any], int]:
        known = self._tables.get("waits")
        rows = np.zeros(0, WAIT) if known is None else known
        yes = np.ones(rows.size, np.bool_)
        holders = self._tables["migrations"]["migration_id"]
        first = {
            "wait": (np.arange(rows.size), yes),
            "own": (self._own.waits, yes),
            "migration": _numbers(holders, rows["holder_id"]),
            "call": self._call_numbers(rows["holder_id"]),
            "wait_ns": (
                rows["end_ns"].astype(np.int64) - rows["start_ns"].astype(np.int64),
                rows["end_ns"] >= rows["start_ns"],
            ),
        }
        columns = self._raw(rows, np.arange(rows.size), first)
        names = np.array([*WAIT_NAMES, "?"], object)
        columns["kind"] = (names[np.minimum(rows["kind"], len(WAIT_NAMES))], yes)
        columns["address"] = (rows["address"], rows["address"] != 0)
        columns["folio"] = (_hexadecimal(rows["folio"]), rows["folio"] != 0)
        columns["holder_id"] = (_hexadecimal(rows["holder_id"]), rows["holder_id"] != 0)
        return columns, rows.size

    def _processes(self, _failed: bool) -> tuple[dict[str, Any], int]:
        known = self._tables.get("processes")
        rows = np.zeros(0, PROCESS) if known is None else known
        is_own = np.isin(rows["tgid"], self._own.tgids or ())
        columns = self._raw(rows, np.arange(rows.size), {"own": (is_own, np.ones(rows.size, "?"))})
        # one that was gone before it was asked: what its migrations, calls and waits say of it
        rows = rows.copy()
        gone = np.flatnonzero(rows["cgroup_id"] == 0)
        rows["cgroup_id"][gone] = [self._people.cgroup_id(n) for n in rows["tgid"][gone].tolist()]
        columns["cgroup_id"] = (rows["cgroup_id"], rows["cgroup_id"] != 0)
        columns["uid"] = (rows["uid"], rows["uid"] != NO_UID)
        columns["cgroup"] = self._cgroups(rows)
        return columns, rows.size

    def _cgroups(self, rows: Table) -> tuple[Any, Any]:
        return _named(rows["cgroup_id"], self._people.cgroup)

    def _of_own_calls(self, call_id: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        return self._own.of_calls(self._tables["calls"], call_id)

    def _call_numbers(self, call_id: npt.NDArray[np.uint64]) -> tuple[Any, Any]:
        return _numbers(self._found.call_ids, call_id)

    def _raw(self, rows: Table, where: Any, first: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
        columns: dict[str, Any] = {
            name: (values[where], known[where]) for name, (values, known) in first.items()
        }
        known = np.ones(where.size, np.bool_)
        for name in rows.dtype.names or ():
            if name in (*PADDING, "call_id", "migration_id"):
                continue
            values = rows[name][where]
            if values.dtype.kind == "S":
                values = np.char.decode(values, "utf-8", "replace").astype(object)
            columns[name] = (values, known)
        if "comm" in columns:
            self._fill_in_names(rows[where], columns["comm"][0])
        return columns

    def _fill_in_names(self, rows: Table, names: npt.NDArray[np.object_]) -> None:
        """Names that a row lacks, of its thread or process, from any other table."""
        lacking = np.flatnonzero(rows["comm"] == b"")
        fields = rows.dtype.names or ()
        of = next(name for name in ("tid", "pid", "tgid") if name in fields)
        name = self._people.thread if of == "tid" else self._people.comm
        names[lacking] = _named(rows[of][lacking], name)[0]


def _numbers(ids: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> tuple[Any, Any]:
    """Place of each wanted id among ``ids``, and whether it is there (0 is never)."""
    if not ids.size:
        return np.zeros(wanted.size, np.int64), np.zeros(wanted.size, np.bool_)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), ids.size - 1)
    return order[place], (ids[order][place] == wanted) & (wanted != 0)


def _at(flags: npt.NDArray[np.bool_], place: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The flag at each place, False for -1."""
    return np.append(flags, False)[place]


def _named(codes: npt.NDArray[Any], name: Callable[[int], str | None]) -> tuple[Any, Any]:
    """The name of each number, and whether it has one; each distinct number is asked once."""
    values, place = ranks(codes)
    names = np.empty(values.size, object)
    names[:] = [name(int(value)) for value in values]
    found = names[place]
    return found, np.array([each is not None for each in names], np.bool_)[place]


def _hexadecimal(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.object_]:
    found = np.empty(values.size, object)
    found[:] = [hex(value) for value in values.tolist()]
    return found


def _plain(name: str, column: tuple[Any, Any], part: slice) -> list[Any]:
    values, known = column[0][part], column[1][part]
    plain: list[Any] = values.tolist()
    if name in _ADDRESSES:
        plain = [hex(value) for value in plain]
    if not known.all():
        plain = [value if good else None for value, good in zip(plain, known.tolist(), strict=True)]
    return plain
