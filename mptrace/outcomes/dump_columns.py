# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of each table that `mptrace dump` prints, joined by number.  Pure."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.outcomes.balancing import balancing_of, unseen
from mptrace.outcomes.causes import obstacles, rules
from mptrace.outcomes.correlate import ENTRY_REASONS, WRITTEN
from mptrace.outcomes.dump_rows import DumpRows
from mptrace.outcomes.implied import NOT_IMPLIED
from mptrace.outcomes.paths import PATHS, mode_name, of_migrations, reason_name
from mptrace.outcomes.plain_table import Columns, flags_at, hexadecimal, named
from mptrace.outcomes.stacks import TABLE_OF_KIND, rows_of_uses, table_of
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.layouts import (
    END_NAMES,
    MAPPER,
    MIGRATION_COMPAT,
    MIGRATION_KTHREAD,
    NO_LOOKUP,
    NO_UID,
    NOT_COUNTED,
    OUTCOMES,
    PROCESS,
    READ_NODES,
    READ_PAGES,
    STAGE_NAMES,
    WAIT,
    WAIT_NAMES,
    WITNESSES,
)
from mptrace.recording.mapping import MAPPED, MAPPING, STATE_NAMES
from mptrace.recording.slices import rows_in
from mptrace.recording.stack_layouts import FRAME_NAMES, USE_NAMES, WITHOUT_STACK


class DumpColumns(DumpRows):
    """The columns of each table, by a method that has the table's name."""

    def entries(self) -> Columns:
        rows = self._found.rows[self._where("entries")]
        known = np.ones(rows.size, np.bool_)
        location = rows["has_location"] != 0
        folio = np.append(rows_in(self._tables, "folios"), -1)[rows["folio"]]
        codes = np.unique(rows["cause"])
        causes = np.array([rules.cause_name(int(code)) for code in codes], object)
        columns: Columns = {
            "call": (rows["call"].astype(np.int64) + self._calls_before, known),
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
            "folio": (folio, folio >= 0),
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
            "migration": (rows_in(self._tables, "migrations"), np.ones(rows.size, np.bool_)),
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
            "folio": (rows_in(self._tables, "folios"), np.ones(rows.size, np.bool_)),
            "own": (self._own.folios, np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "migration": self._migration_numbers(rows["migration_id"]),
        }
        columns = self._raw(rows, where, first)
        if self._meta.detail == LEVEL_OUTCOMES:
            unknown = np.zeros(where.size, np.bool_)
            columns |= {name: (columns[name][0], unknown) for name in NOT_IMPLIED}
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
            "obstacle": (rows_in(self._tables, "obstacles"), np.ones(rows.size, np.bool_)),
            "call": self._call_numbers(rows["call_id"]),
            "migration": self._migration_numbers(rows["migration_id"]),
            "folio": (np.append(rows_in(self._tables, "folios"), -1)[folio], folio >= 0),
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
