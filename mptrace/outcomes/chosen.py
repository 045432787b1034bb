# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of each table a selection has: the one place that decides it.  Pure, vectorized.

Outcomes are computed from all records before: what is chosen changes no verdict.  A row
of which nobody can say whether it fits is not chosen, and counted.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.balancing import balancing_of, told_of_balancing
from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.correlate import NOT_ATTEMPTED, UNKNOWN, Correlation
from mptrace.outcomes.failed import Failed
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.own import Own, has_all, rows_of
from mptrace.outcomes.paths import PATHS, of_migrations
from mptrace.outcomes.selection import Selection
from mptrace.outcomes.stacks import told_of_stacks
from mptrace.outcomes.taking_part import taking_part
from mptrace.outcomes.told import Told, every, known, none
from mptrace.outcomes.waiting import join, waits_of
from mptrace.recording.layouts import MAPPER, NO_LOOKUP, PROCESS, READ_NODES
from mptrace.recording.mapping import MAPPING
from mptrace.recording.meta import Meta

_LAST = np.iinfo(np.int64).max
_ESRCH = 3
_MOVE_PAGES = next(code for code, path in enumerate(PATHS) if path.key == "move_pages")
#: Tables whose rows are counted in what is said of a selection.
COUNTED = ("calls", "entries", "migrations", "folios", "waits", "balancing")


@dataclass(frozen=True)
class Chosen:
    """Of each row of a table whether it is chosen, and whether nobody can say.

    ``masks`` and ``unsure``: table -> mask; ``entries`` are rows of the correlation.
    ``ordinals``: calls by their ordinal there.  ``beyond_bound`` counts entries of chosen
    calls that were not read, ``unsure_beyond`` those of them that may not be chosen.
    """

    masks: dict[str, Bools]
    unsure: dict[str, Bools]
    ordinals: Bools
    beyond_bound: int
    unsure_beyond: int


def choose(
    tables: Tables, meta: Meta, selection: Selection, found: Correlation, fate: Fates, own: Own
) -> Chosen:
    """Which rows of each table are chosen.

    **Time**: a call, or a migration without one, that was under way at any moment from
    ``from_ns`` until before ``to_ns``, whole: with its entries, migrations and folios; a
    wait by its own time.  **Processes**: what they moved, what was theirs, and their
    waits.  **Path**: of the migration, and of waits for it.  **Node**: folios from it or
    to it, entries that name it, calls and migrations with such, waits for these.

    :param found: of all calls, those of mptrace itself among them; so are ``fate``, ``own``.
    """
    chooser = _Chooser(tables, meta, selection, found)
    failed = Failed(tables, meta, found, fate, own)
    return chooser.chosen(failed)


class _Chooser:
    def __init__(
        self, tables: Tables, meta: Meta, selection: Selection, found: Correlation
    ) -> None:
        self._tables, self._meta, self._wanted, self._found = tables, meta, selection, found
        self._calls, self._migrations = tables["calls"], tables["migrations"]
        self._folios, self._waits = tables["folios"], waits_of(tables)
        self._joined = join(tables, meta)
        self._call_of_migration = rows_of(self._calls["call_id"], self._migrations["call_id"])
        self._call_of_folio = rows_of(self._calls["call_id"], self._folios["call_id"])
        self._migration_of_folio = rows_of(
            self._migrations["migration_id"], self._folios["migration_id"]
        )
        #: Row in `calls` of each entry's call, -1.
        self._call_of_entry = found.call_row[found.rows["call"]]

    def chosen(self, failed: Failed) -> Chosen:
        wanted, rows = self._wanted, self._found.rows
        told = self._fitting(failed) if wanted.is_about else self._everything()
        if wanted.failed:
            verdicts = {
                "calls": failed.calls(),
                "entries": failed.entries(),
                "migrations": failed.migrations(),
                "folios": failed.folios(),
            }
            for table, (bad, unknown) in verdicts.items():
                told[table] &= Told(bad, unknown & ~bad)
            told["obstacles"] &= known(failed.obstacles())
        told |= told_of_stacks(self._tables, told, whole=not wanted.is_filter)
        ordinals = self._of_ordinals(told, rows)
        # which node they name, or what became of them, was not read
        is_unread = wanted.failed or bool(wanted.nids)
        maybe = {**told, "calls": known(told["calls"].yes | told["calls"].unsure)}
        beyond = self._beyond(ordinals)
        unread = self._beyond(self._of_ordinals(maybe, rows)) if is_unread else 0
        return Chosen(
            {table: each.yes for table, each in told.items()},
            {table: each.unsure for table, each in told.items()},
            ordinals,
            0 if is_unread else beyond,
            unread,
        )

    def _beyond(self, ordinals: Bools) -> int:
        """Entries of these calls that were not read, as there were too many."""
        pages = self._calls["nr_pages"][
            self._found.call_row[ordinals & (self._found.call_row >= 0)]
        ]
        bound = self._meta.max_entries
        return sum(int(count) - bound for count in pages[pages > bound])

    def _everything(self) -> dict[str, Told]:
        sizes = {"entries": self._found.rows.size, "waits": self._waits.size}
        sizes["balancing"] = balancing_of(self._tables).size
        for table in ("calls", "migrations", "folios", "mappers", "processes", "mappings"):
            some = self._tables.get(table)
            sizes[table] = 0 if some is None else some.size
        sizes["obstacles"] = obstacles.of(self._tables).size
        return {table: every(size) for table, size in sizes.items()}

    def _fitting(self, failed: Failed) -> dict[str, Told]:
        """By all but `failed`: table -> which rows fit."""
        wanted = self._wanted
        calls_alike = self._call_time & self._call_path & self._call_pid
        entries = calls_alike.at(self._call_of_entry) & self._entry_node
        by_call = self._any(self._found.rows["call"], entries, self._found.call_ids.size)
        # a query has no entries, and asks for no node
        of_ordinal = np.full(self._calls.size, -1, np.int64)
        has = np.flatnonzero(self._found.call_row >= 0)
        of_ordinal[self._found.call_row[has]] = has
        calls = calls_alike
        if wanted.nids:
            # entries that were not read may name any node
            beyond = self._calls["nr_pages"] > self._meta.max_entries
            beyond &= (self._calls["nodes_ptr"] != 0) & (of_ordinal >= 0)
            no = none(self._calls.size)
            calls &= by_call.at(of_ordinal, no) | Told(no.yes, beyond)
        folios = self._folio_time & self._folio_path & self._folio_pid & self._folio_node
        migrations = self._migration_time & self._migration_path
        direct = self._migration_pid & self._migration_node
        if wanted.pids or wanted.nids:
            inside = self._any(self._migration_of_folio, folios, self._migrations.size)
            migrations &= direct | inside | self._partial
        waits = self._wait_time & self._wait_path & self._wait_pid & self._wait_node
        refused = self._of_obstacles(folios, calls, failed.folio_of_obstacles)
        told = {
            "calls": calls,
            "entries": entries,
            "migrations": migrations,
            "folios": folios,
            "waits": waits,
            "balancing": told_of_balancing(self._tables, self._meta, wanted),
            "obstacles": refused,
            "mappers": self._of_mappers(calls),
        }
        told["processes"] = self._of_processes(told)
        return {**told, "mappings": self._of_mappings(told)}

    def _of_ordinals(self, told: dict[str, Told], rows: Table) -> Bools:
        chosen = np.zeros(self._found.call_ids.size, np.bool_)
        has = self._found.call_row >= 0
        chosen[has] = told["calls"].yes[self._found.call_row[has]]
        # one without a record by its entries
        lone = rows["call"][told["entries"].yes & (self._call_of_entry < 0)]
        chosen[lone] = True
        return chosen

    # ---- when

    def _within(self, start: npt.NDArray[np.uint64], end: npt.NDArray[np.uint64]) -> Told:
        """Under way then: 0 is a time that was not seen; one without an end may go on."""
        wanted = self._wanted
        if not wanted.has_time:
            return every(start.size)
        first = -_LAST if wanted.from_ns is None else max(wanted.from_ns, -_LAST)
        last = _LAST if wanted.to_ns is None else min(max(wanted.to_ns, -_LAST), _LAST)
        begin = np.where(start != 0, start, end).astype(np.int64)
        stop = np.where(end >= start, end, np.uint64(_LAST)).astype(np.int64)
        stop[end == 0] = _LAST
        seen = (start != 0) | (end != 0)
        return Told(seen & (begin < last) & (stop >= first), ~seen)

    @cached_property
    def _call_time(self) -> Told:
        return self._within(self._calls["enter_ns"], self._calls["exit_ns"])

    @cached_property
    def _migration_time(self) -> Told:
        own = self._within(self._migrations["enter_ns"], self._migrations["exit_ns"])
        return self._call_time.at(self._call_of_migration, own)

    @cached_property
    def _folio_time(self) -> Told:
        own = self._within(self._folios["start_ns"], self._folios["end_ns"])
        by_migration = self._migration_time.at(self._migration_of_folio, own)
        return self._call_time.at(self._call_of_folio, by_migration)

    @cached_property
    def _wait_time(self) -> Told:
        return self._within(self._waits["start_ns"], self._waits["end_ns"])

    # ---- whose

    def _is_theirs(self, tgids: npt.NDArray[np.uint32]) -> Bools:
        return np.isin(tgids, self._wanted.pids)

    @cached_property
    def _call_pid(self) -> Told:
        calls = self._calls
        if not self._wanted.pids:
            return every(calls.size)
        passed = (calls["target_tgid"] == 0) & np.isin(calls["pid"], self._wanted.pids)
        theirs = self._is_theirs(calls["tgid"]) | self._is_theirs(calls["target_tgid"])
        # a number may be a thread's, or of another namespace; for none there is no target
        unclear = (calls["target_tgid"] == 0) & (calls["pid"] != 0) & (calls["ret"] != -_ESRCH)
        return Told(theirs | passed, unclear & ~(theirs | passed))

    @cached_property
    def _migration_pid(self) -> Told:
        if not self._wanted.pids:
            return every(self._migrations.size)
        mine = known(self._is_theirs(self._migrations["tgid"]))
        of_call = self._call_pid.at(self._call_of_migration, none(self._migrations.size))
        return mine | of_call

    @cached_property
    def _folio_pid(self) -> Told:
        folios = self._folios
        if not self._wanted.pids:
            return every(folios.size)
        theirs = self._is_theirs(folios["owner_tgid"])
        phase = self._meta.phases.get("owner")
        is_seen = phase is not None and phase.is_seen
        # nobody who maps it was seen; or several map it, and the record names one
        unknown = (folios["owner_tgid"] == 0) & ((folios["n_maps"] > 0) | (not is_seen))
        # a page that a call asked for is its target's
        target = np.append(self._calls["target_tgid"], np.uint32(0))[self._call_of_folio]
        unknown &= (target == 0) | (folios["lookup_seq"] == NO_LOOKUP)
        unknown |= folios["n_maps"] > np.maximum(folios["n_unmap"], 1)
        mine = Told(theirs, unknown & ~theirs)
        no = none(folios.size)
        return (
            mine
            | self._migration_pid.at(self._migration_of_folio, no)
            | self._call_pid.at(self._call_of_folio, no)
        )

    @cached_property
    def _wait_pid(self) -> Told:
        if not self._wanted.pids:
            return every(self._waits.size)
        return known(self._is_theirs(self._waits["tgid"])) | self._held(
            self._migration_pid, self._call_pid
        )

    def _held(self, migrations: Told, calls: Told) -> Told:
        """Of each wait what is told of the migration, else the call, that held its page."""
        return migrations.at(self._joined.migration, calls.at(self._joined.call))

    # ---- by which path

    @property
    def _is_call_path(self) -> bool:
        named = {"syscall", "syscall_or_cpuset"} & set(self._wanted.names)
        return _MOVE_PAGES in self._wanted.paths or bool(named)

    @cached_property
    def _call_path(self) -> Told:
        is_chosen = not self._wanted.names or self._is_call_path
        return every(self._calls.size) if is_chosen else none(self._calls.size)

    @cached_property
    def _migration_path(self) -> Told:
        rows, wanted = self._migrations, self._wanted
        if not wanted.names:
            return every(rows.size)
        paths = of_migrations(rows, self._meta)
        fits = np.isin(paths, wanted.paths) | np.isin(rows["reason"], wanted.reasons)
        return Told(fits, np.isin(paths, wanted.maybe) & ~fits)

    @cached_property
    def _folio_path(self) -> Told:
        if not self._wanted.names:
            return every(self._folios.size)
        in_call = self._folios["call_id"] != 0
        otherwise = Told(in_call & self._is_call_path, ~in_call)
        return self._migration_path.at(self._migration_of_folio, otherwise)

    @cached_property
    def _wait_path(self) -> Told:
        if not self._wanted.names:
            return every(self._waits.size)
        return self._held(self._migration_path, self._call_path)

    # ---- from where, to where

    @cached_property
    def _folio_node(self) -> Told:
        folios = self._folios
        if not self._wanted.nids:
            return every(folios.size)
        nids = self._wanted.nids
        aimed = np.append(self._migrations["dst_nid"], -1)[self._migration_of_folio]
        target = np.where(folios["dst"] != 0, folios["dst_nid"], aimed)
        fits = np.isin(folios["src_nid"], nids) | np.isin(target, nids)
        return Told(fits, ~fits & (folios["src_nid"] < 0) & (folios["nr_pages"] > 0))

    @cached_property
    def _migration_node(self) -> Told:
        if not self._wanted.nids:
            return every(self._migrations.size)
        return known(np.isin(self._migrations["dst_nid"], self._wanted.nids))

    @cached_property
    def _entry_node(self) -> Told:
        rows = self._found.rows
        if not self._wanted.nids:
            return every(rows.size)
        read = (rows["unread"] & READ_NODES) == 0
        fits = read & np.isin(rows["target_nid"], self._wanted.nids)
        fits |= (rows["has_location"] != 0) & np.isin(rows["before_nid"], self._wanted.nids)
        from_there = np.append(self._folios["src_nid"], -1)[rows["folio"]]
        fits |= np.isin(from_there, self._wanted.nids)
        # of one that nobody looked at it is not known where it lies
        somewhere = (rows["has_location"] != 0) | (from_there >= 0)
        somewhere |= ~np.isin(rows["outcome"], (UNKNOWN, NOT_ATTEMPTED))
        return Told(fits, ~fits & (~read | ~somewhere))

    @cached_property
    def _wait_node(self) -> Told:
        if not self._wanted.nids:
            return every(self._waits.size)
        folios, entries = self._folio_node, self._entry_node
        migrations = self._migration_node | self._partial
        migrations |= self._any(self._migration_of_folio, folios, self._migrations.size)
        calls = self._any(self._call_of_entry, entries, self._calls.size)
        return self._held(migrations, calls)

    @cached_property
    def _partial(self) -> Told:
        """Of a migration that lacks folios' records nobody can say whose these were, or where."""
        inside = self._migration_of_folio >= 0
        pages = np.bincount(
            self._migration_of_folio[inside],
            weights=self._folios["nr_pages"][inside],
            minlength=self._migrations.size,
        )
        no = np.zeros(self._migrations.size, np.bool_)
        return Told(no, ~has_all(self._migrations, pages))

    # ---- the tables that go with these

    @staticmethod
    def _any(group: npt.NDArray[np.integer], told: Told, count: int) -> Told:
        """Of each of ``count`` groups whether one of its rows fits; -1 is no group."""
        yes, unsure = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        inside = group >= 0
        yes[group[inside & told.yes]] = True
        unsure[group[inside & told.unsure]] = True
        return Told(yes, unsure & ~yes)

    def _of_obstacles(self, folios: Told, calls: Told, folio: Ints) -> Told:
        rows = obstacles.of(self._tables)
        own = self._within(rows["first_ns"], rows["last_ns"])
        only_time = not (self._wanted.pids or self._wanted.names or self._wanted.nids)
        otherwise = own
        if not only_time:
            otherwise = Told(np.zeros(rows.size, np.bool_), own.yes | own.unsure)
        of_call = calls.at(rows_of(self._calls["call_id"], rows["call_id"]), otherwise)
        return folios.at(folio, of_call)

    def _of_mappers(self, calls: Told) -> Told:
        found = self._tables.get("mappers")
        rows = np.zeros(0, MAPPER) if found is None else found
        return calls.at(rows_of(self._calls["call_id"], rows["call_id"]))

    def _of_processes(self, told: dict[str, Told]) -> Told:
        """Those that take part in what is chosen."""
        found = self._tables.get("processes")
        rows = np.zeros(0, PROCESS) if found is None else found
        return known(np.isin(rows["tgid"], taking_part(self._tables, told)))

    def _of_mappings(self, told: dict[str, Told]) -> Told:
        """Of processes that were asked for; without such, of those that take part."""
        found = self._tables.get("mappings")
        rows = np.zeros(0, MAPPING) if found is None else found
        whose = self._wanted.pids or taking_part(self._tables, told)
        return known(np.isin(rows["tgid"], whose))
