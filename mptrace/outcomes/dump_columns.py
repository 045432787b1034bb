# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of each table that `mptrace dump` prints, joined by number.  Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints, Table
from mptrace.outcomes.balancing import balancing_of, unseen
from mptrace.outcomes.causes import obstacles, rules
from mptrace.outcomes.chosen import choose
from mptrace.outcomes.correlate import (
    ENTRY_REASONS,
    WRITTEN,
    correlate,
)
from mptrace.outcomes.failed import Failed
from mptrace.outcomes.fates import fates
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.own import own_of
from mptrace.outcomes.paths import PATHS, mode_name, of_migrations, reason_name
from mptrace.outcomes.plain_table import Column, Columns, flags_at, hexadecimal, named, places_in
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.outcomes.said import Said, said_of
from mptrace.outcomes.selection import Selection
from mptrace.outcomes.stacks import TABLE_OF_KIND, rows_of_uses, table_of
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
    WAIT,
    WAIT_NAMES,
    WITNESSES,
)
from mptrace.recording.mapping import MAPPED, MAPPING, STATE_NAMES
from mptrace.recording.meta import Meta
from mptrace.recording.stack_layouts import FRAME_NAMES, USE_NAMES, WITHOUT_STACK
from mptrace.recording.when import TIMES, UTC, Clock


class DumpColumns:
    """The columns of each table, by a method that has the table's name.

    It takes those rows only that are selected: see `chosen.choose`.
    """

    def __init__(self, tables: Mapping[str, Table], meta: Meta, selection: Selection) -> None:
        self._tables, self._meta = tables, meta
        self._found = correlate(tables, meta)
        self._fates = fates(tables, meta)
        self._people = RecordedProcesses(tables, meta)
        self._own = own_of(tables, meta)
        self._top = selection.top
        self._failed = Failed(tables, meta, self._found, self._fates, self._own)
        self.chosen = choose(tables, meta, selection, self._found, self._fates, self._own)
        self._clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))
        self._lying = Lying(tables, meta)

    def total(self, table: str) -> int:
        """Rows of a table, those that ``failed`` leaves out among them."""
        if table == "entries":
            return int(self._found.rows.size) + self._found.beyond_bound
        whole = self._tables.get(table)
        return 0 if whole is None else int(whole.size)

    def unsure(self, table: str) -> int:
        """Rows that are left out as nobody can say whether they are selected."""
        beyond = self.chosen.unsure_beyond if table == "entries" else 0
        return int(self.chosen.unsure[table].sum()) + beyond

    def said(self, selection: Selection) -> Said:
        """What of the recording is chosen, mptrace's own rows among it."""
        return said_of(selection, self.chosen, self._tables, self._meta, self._found)

    def _where(self, table: str) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self.chosen.masks[table])[: self._top]

    def entries(self) -> Columns:
        rows = self._found.rows[self._where("entries")]
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
            **self._places(
                self._lying.of_entries(
                    self._tables, self._found.call_ids[rows["call"]], rows["address"]
                ),
                rows["address"],
            ),
            "own": (self._of_own_calls(self._found.call_ids)[rows["call"]], known),
        }
        return columns

    def calls(self) -> Columns:
        rows = self._tables["calls"]
        numbers, known = self._call_numbers(rows["call_id"])
        first = {
            "call": (numbers, known),
            "own": (self._own.calls, np.ones(rows.size, np.bool_)),
        }
        return self._raw(rows, self._where("calls"), first)

    def migrations(self) -> Columns:
        rows = self._tables["migrations"]
        where = self._where("migrations")
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
        return columns

    def folios(self) -> Columns:
        rows = self._tables["folios"]
        outcome, cause, is_told = self._failed.outcomes
        where = self._where("folios")
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
        lies = self._lying.of_folios(self._tables)[where]
        columns |= self._places(lies, rows["address"][where])
        return columns

    def obstacles(self) -> Columns:
        rows = obstacles.of(self._tables)
        folio = self._failed.folio_of_obstacles
        where = self._where("obstacles")
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
        return columns

    def mappers(self) -> Columns:
        found = self._tables.get("mappers")
        rows = np.zeros(0, MAPPER) if found is None else found
        first = {
            "call": self._call_numbers(rows["call_id"]),
            "own": (self._of_own_calls(rows["call_id"]), np.ones(rows.size, np.bool_)),
        }
        return self._raw(rows, self._where("mappers"), first)

    def waits(self) -> Columns:
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
        where = self._where("waits")
        columns = self._raw(rows, where, first)
        rows, yes = rows[where], yes[where]
        names = np.array([*WAIT_NAMES, "?"], object)
        columns["kind"] = (names[np.minimum(rows["kind"], len(WAIT_NAMES))], yes)
        columns["address"] = (rows["address"], rows["address"] != 0)
        columns["folio"] = (hexadecimal(rows["folio"]), rows["folio"] != 0)
        columns["holder_id"] = (hexadecimal(rows["holder_id"]), rows["holder_id"] != 0)
        columns |= self._places(self._lying.of_waits(rows), rows["address"])
        return columns

    def balancing(self) -> Columns:
        rows, why = balancing_of(self._tables), unseen(self._meta)
        where = self._where("balancing")
        first = {"own": (self._own.balancing, np.ones(rows.size, np.bool_))}
        columns = self._raw(rows, where, first)
        groups = {"scan": ("scans", "scans"), "fault": ("fault_ns", "faults_timed")}
        for what, (seen, count) in groups.items():
            for name in (count, f"{what}_ns", f"{what}_max_ns", f"{what}_max_at_ns"):
                values, known = columns[name]
                some = name == count or name == f"{what}_ns" or columns[count][0] != 0
                columns[name] = (values, known & (not why[seen]) & some)
        columns["faults"] = (columns["faults"][0], columns["faults"][1] & (not why["faults"]))
        return columns

    def processes(self) -> Columns:
        known = self._tables.get("processes")
        rows = np.zeros(0, PROCESS) if known is None else known
        is_own = np.isin(rows["tgid"], self._own.tgids or ())
        where = self._where("processes")
        columns = self._raw(rows, where, {"own": (is_own, np.ones(rows.size, np.bool_))})
        # one that was gone before it was asked: what its migrations, calls and waits say of it
        rows = rows[where]
        gone = np.flatnonzero(rows["cgroup_id"] == 0)
        rows["cgroup_id"][gone] = [self._people.cgroup_id(n) for n in rows["tgid"][gone].tolist()]
        columns["cgroup_id"] = (rows["cgroup_id"], rows["cgroup_id"] != 0)
        columns["uid"] = (rows["uid"], rows["uid"] != NO_UID)
        columns["cgroup"] = self._cgroups(rows)
        return columns

    def stacks(self) -> Columns:
        rows = table_of(self._tables, "stacks")
        is_own = (rows["tgid"] != 0) & np.isin(rows["tgid"], self._own.tgids or ())
        where = self._where("stacks")
        columns = self._raw(rows, where, {"own": (is_own, np.ones(rows.size, np.bool_))})
        rows, yes = rows[where], np.ones(where.size, np.bool_)
        names = np.array([*FRAME_NAMES, "?"], object)
        columns["kind"] = (names[np.minimum(rows["kind"], len(FRAME_NAMES))], yes)
        columns["tgid"] = (rows["tgid"], rows["tgid"] != 0)
        columns["address"] = (rows["address"], rows["address"] != 0)
        has_place = (rows["symbol"] != b"") | (rows["module"] != b"")
        columns["offset"] = (rows["offset"], has_place)
        return columns

    def stack_uses(self) -> Columns:
        rows, row = table_of(self._tables, "stack_uses"), rows_of_uses(self._tables)
        yes = np.ones(rows.size, np.bool_)
        is_own, first = np.zeros(rows.size, np.bool_), {}
        numbers = {"calls": self._call_numbers(self._tables["calls"]["call_id"])[0]}
        for kind, table in TABLE_OF_KIND.items():
            there = (rows["kind"] == kind) & (row >= 0)
            number = np.where(there, row, 0)
            is_own |= flags_at(getattr(self._own, table), np.where(there, row, -1))
            if table in numbers and numbers[table].size:
                number = numbers[table][number]
            first[table.removesuffix("s")] = (number, there)
        where = self._where("stack_uses")
        columns = self._raw(rows, where, {**first, "own": (is_own, yes)})
        some, yes = rows[where], yes[where]
        names = np.array([*USE_NAMES, "?"], object)
        columns["kind"] = (names[np.minimum(some["kind"], len(USE_NAMES))], yes)
        columns["id"] = (hexadecimal(some["id"]), yes)
        for name in ("kernel_stack", "user_stack"):
            columns[name] = (some[name], some[name] != WITHOUT_STACK)
        return columns

    def _times_of_calls(self, ordinals: npt.NDArray[Any]) -> Columns:
        """When the call of each entry began."""
        row = self._found.call_row[ordinals]
        enter = np.append(self._tables["calls"]["enter_ns"], np.uint64(0))[row]
        return {
            "enter_ns": (enter, enter != 0),
            "enter_utc": self._clock.wall(enter),
        }

    def mappings(self) -> Columns:
        found = self._tables.get("mappings")
        rows = np.zeros(0, MAPPING) if found is None else found
        is_own = np.isin(rows["tgid"], self._own.tgids or ())
        where = self._where("mappings")
        columns = self._raw(rows, where, {"own": (is_own, np.ones(rows.size, np.bool_))})
        rows, yes = rows[where], np.ones(where.size, np.bool_)
        names = np.array([*STATE_NAMES, "?"], object)
        columns["state"] = (names[np.minimum(rows["state"], len(STATE_NAMES))], yes)
        is_mapping = rows["state"] == MAPPED
        for name in ("start", "end"):
            columns[name] = (hexadecimal(rows[name]), is_mapping | (rows[name] != 0))
        for name in ("offset", "inode", "dev"):
            columns[name] = (rows[name], is_mapping & (rows["inode"] != 0))
        columns["comm"] = named(rows["tgid"], lambda tgid: self._people.comm(tgid) or None)
        return columns

    def _places(self, lies: Ints, address: npt.NDArray[np.uint64]) -> Columns:
        """What lies at addresses, at which offset of a file, and why that is unknown."""
        words, why, shift = self._lying.names(lies)
        is_known = lies >= 0
        offset = address.astype(np.int64) + shift
        return {
            "lies_in": (words, is_known),
            "lies_at": (offset, self._lying.has_file(lies)),
            "lies_gap": (why, ~is_known),
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
