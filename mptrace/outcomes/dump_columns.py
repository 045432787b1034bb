# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of each table that `mptrace dump` prints, joined by number.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from mptrace.outcomes.plain_table import Column, Columns, flags_at, hexadecimal, named, places_in
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.outcomes.syscalls import syscall_name
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
from mptrace.recording.when import TIMES, UTC, Clock


@dataclass(frozen=True)
class Selected:
    """Rows of a table, and of how many rows nobody can say whether they failed."""

    columns: Columns
    unknown: int = 0


class DumpColumns:
    """The columns of each table, by a method that has the table's name.

    With ``failed`` it takes those rows only that did not succeed: see `dump.dumped_table`.
    """

    def __init__(self, tables: Mapping[str, Table], meta: Meta) -> None:
        self._tables, self._meta = tables, meta
        self._found = correlate(tables, meta)
        self._fates = fates(tables, meta)
        self._people = RecordedProcesses(tables, meta)
        self._own = own_of(tables, meta)
        self._clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))

    def total(self, table: str) -> int:
        """Rows of a table, those that ``failed`` leaves out among them."""
        if table == "entries":
            return int(self._found.rows.size) + self._found.beyond_bound
        whole = self._tables.get(table)
        return 0 if whole is None else int(whole.size)

    def entries(self, failed: bool) -> Selected:
        rows = self._found.rows
        unknown = int((rows["outcome"] == UNKNOWN).sum()) + self._found.beyond_bound
        if failed:
            rows = rows[np.isin(rows["outcome"], (FAILED, NOT_ATTEMPTED))]
        known = np.ones(rows.size, np.bool_)
        location = rows["has_location"] != 0
        codes = np.unique(rows["cause"])
        causes = np.array([rules.cause_name(int(code)) for code in codes], object)
        columns: Columns = {
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
            **self._times_of_calls(rows["call"]),
            "own": (self._of_own_calls(self._found.call_ids)[rows["call"]], known),
        }
        return Selected(columns, unknown)

    def calls(self, failed: bool) -> Selected:
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
        unknown = int((doubt & ~bad).sum())
        where = np.flatnonzero(bad) if failed else np.arange(rows.size)
        first = {
            "call": (numbers, known),
            "own": (self._own.calls, np.ones(rows.size, np.bool_)),
        }
        return Selected(self._raw(rows, where, first), unknown)

    def migrations(self, failed: bool) -> Selected:
        rows = self._tables["migrations"]
        bad = failed_migrations(rows, self._fates, self._own.beside(self._fates))
        doubt = rows["lost"] != 0
        of_unknown = self._fates.migration[self._fates.outcome == UNKNOWN]
        doubt[of_unknown[of_unknown >= 0]] = True
        unknown = int((doubt & ~bad).sum())
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
        columns["reason_name"] = named(some["reason"], lambda n: reason_name(self._meta, n))
        columns["mode_name"] = named(some["mode"], lambda n: mode_name(self._meta, n))
        compat = (some["flags"] & MIGRATION_COMPAT).astype(np.int64)
        columns["syscall_name"] = named(
            some["syscall"].astype(np.int64) * 4 + compat,
            lambda n: syscall_name(n >> 2, is_compat=bool(n & 3), machine=machine),
        )
        columns["kernel_thread"] = ((some["flags"] & MIGRATION_KTHREAD).astype(np.bool_), known)
        columns["cgroup_id"] = (some["cgroup_id"], some["cgroup_id"] != 0)
        columns["cgroup"] = self._cgroups(some)
        return Selected(columns, unknown)

    def folios(self, failed: bool) -> Selected:
        rows = self._tables["folios"]
        outcome, cause, is_told = self._outcomes()
        stayed = is_told & (outcome == FAILED)
        # a lookup that found nothing has no folio
        unknown = int(((outcome == UNKNOWN) & (is_told | (rows["nr_pages"] > 0))).sum())
        where = np.flatnonzero(stayed) if failed else np.arange(rows.size)
        first = {
            "folio": (np.arange(rows.size), np.ones(rows.size, np.bool_)),
            "own": (self._own.folios, np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "migration": places_in(
                self._tables["migrations"]["migration_id"], rows["migration_id"]
            ),
        }
        columns = self._raw(rows, where, first)
        names = np.array([*END_NAMES, "?"], object)
        end = np.minimum(rows["end"][where], len(END_NAMES))
        columns["end"] = (names[end], np.ones(where.size, np.bool_))
        seq = rows["lookup_seq"][where]
        columns["lookup_seq"] = (seq, seq != NO_LOOKUP)
        columns["outcome"] = (np.array(OUTCOMES, object)[outcome[where]], is_told[where])
        columns["cause"] = (named(cause[where], rules.cause_name)[0], is_told[where])
        return Selected(columns, unknown)

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

    def obstacles(self, failed: bool) -> Selected:
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
            "migration": places_in(
                self._tables["migrations"]["migration_id"], rows["migration_id"]
            ),
            "folio": (folio, folio >= 0),
            "own": (
                (flags_at(self._own.folios, folio)) | self._of_own_calls(rows["call_id"]),
                np.ones(rows.size, np.bool_),
            ),
        }
        columns = self._raw(rows, where, first)
        names = np.array([*STAGE_NAMES, "?"], object)
        stage = np.minimum(rows["stage"][where], len(STAGE_NAMES))
        columns["stage"] = (names[stage], np.ones(where.size, np.bool_))
        seq = rows["lookup_seq"][where]
        columns["lookup_seq"] = (seq, seq != NO_LOOKUP)
        return Selected(columns)

    def mappers(self, _failed: bool) -> Selected:
        # each is of a page that was refused
        found = self._tables.get("mappers")
        rows = np.zeros(0, MAPPER) if found is None else found
        first = {
            "call": self._call_numbers(rows["call_id"]),
            "own": (self._of_own_calls(rows["call_id"]), np.ones(rows.size, np.bool_)),
        }
        return Selected(self._raw(rows, np.arange(rows.size), first))

    def waits(self, _failed: bool) -> Selected:
        known = self._tables.get("waits")
        rows = np.zeros(0, WAIT) if known is None else known
        yes = np.ones(rows.size, np.bool_)
        first = {
            "wait": (np.arange(rows.size), yes),
            "own": (self._own.waits, yes),
            "migration": self._migration_numbers(rows["holder_id"]),
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
        columns["folio"] = (hexadecimal(rows["folio"]), rows["folio"] != 0)
        columns["holder_id"] = (hexadecimal(rows["holder_id"]), rows["holder_id"] != 0)
        return Selected(columns)

    def processes(self, _failed: bool) -> Selected:
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
        return Selected(columns)

    def _times_of_calls(self, ordinals: npt.NDArray[Any]) -> Columns:
        """When the call of each entry began."""
        row = self._found.call_row[ordinals]
        enter = np.append(self._tables["calls"]["enter_ns"], np.uint64(0))[row]
        return {
            "enter_ns": (enter, enter != 0),
            "enter_utc": self._clock.wall(enter),
        }

    def _cgroups(self, rows: Table) -> Column:
        return named(rows["cgroup_id"], self._people.cgroup)

    def _of_own_calls(self, call_id: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        return self._own.of_calls(self._tables["calls"], call_id)

    def _call_numbers(self, call_id: npt.NDArray[np.uint64]) -> Column:
        return places_in(self._found.call_ids, call_id)

    def _migration_numbers(self, migration_id: npt.NDArray[np.uint64]) -> Column:
        return places_in(self._tables["migrations"]["migration_id"], migration_id)

    def _raw(self, rows: Table, where: Any, first: Columns) -> Columns:
        columns: Columns = {
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
            if name in TIMES:
                columns[name.removesuffix("_ns") + UTC] = self._clock.wall(values)
        if "comm" in columns:
            self._fill_in_names(rows[where], columns["comm"][0])
        return columns

    def _fill_in_names(self, rows: Table, names: npt.NDArray[np.object_]) -> None:
        """Names that a row lacks, of its thread or process, from any other table."""
        lacking = np.flatnonzero(rows["comm"] == b"")
        fields = rows.dtype.names or ()
        of = next(name for name in ("tid", "pid", "tgid") if name in fields)
        name = self._people.thread if of == "tid" else self._people.comm
        names[lacking] = named(rows[of][lacking], name)[0]
