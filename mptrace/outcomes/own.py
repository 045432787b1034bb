# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of a recording are mptrace's own: its pages, whoever moved them, its waits.  Pure.

The recording says who mptrace was (`own` in its meta.json).  The rows stay where they
are, so that their numbers stay, too; whoever sums up leaves them out, and says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.fates import TRACEPOINTS, Fates
from mptrace.recording.balancing import BALANCING
from mptrace.recording.joins import rows_of_ids
from mptrace.recording.layouts import NO_LOOKUP, NOT_COUNTED, WAIT
from mptrace.recording.meta import Meta


@dataclass(frozen=True)
class Own:
    """For each row of these tables, whether it is mptrace's own.

    ``tgids`` is None where the recording does not say who mptrace was: then
    nothing is its own.
    """

    tgids: tuple[int, ...] | None
    calls: Bools
    migrations: Bools
    folios: Bools
    waits: Bools
    balancing: Bools

    def of_calls(self, calls: Table, call_id: npt.NDArray[np.uint64]) -> Bools:
        """Whether each of these ids is that of an own call; ``calls`` is the table."""
        if not self.calls.any():
            return np.zeros(call_id.size, np.bool_)
        found: Bools = np.isin(call_id, calls["call_id"][self.calls]) & (call_id != 0)
        return found

    def beside(self, found: Fates) -> Bools:
        """Which of these folios are own in a migration that had others' folios, too."""
        mine: Bools = self.folios[found.row] & ~_told(self.migrations, found.migration)
        return mine


def own_tgids(meta: Meta) -> tuple[int, ...] | None:
    """Processes that were mptrace itself, None where the recording does not say."""
    return None if meta.own is None else tuple(tgid for tgid in meta.own if tgid > 0)


def own_of(tables: Tables, meta: Meta) -> Own:
    """Tell mptrace's own rows from everybody else's.

    Own are a folio that a process of mptrace maps and nobody else; a migration that had
    no other folio; a call about mptrace's pages, whoever made it, with its folios and
    migrations; a wait of a thread of mptrace, and what NUMA balancing did in one.  A page
    that others map, too, is everybody's, and what mptrace does to others' pages is its
    doing like anybody's.  Tracepoints tell no owner: there a migration without a call is
    own that mptrace began, with its folios, as nothing else can be told.

    :param tables: tables of a recording by name, layouts of ``layouts.TABLES``.
    :param meta: its meta.json; ``own`` and ``tier`` are used.
    """
    calls, migrations, folios = tables["calls"], tables["migrations"], tables["folios"]
    known = tables.get("waits")
    waits = np.zeros(0, WAIT) if known is None else known
    found = tables.get("balancing")
    balancing = np.zeros(0, BALANCING) if found is None else found
    tgids = own_tgids(meta)
    if not tgids:
        sizes = (calls.size, migrations.size, folios.size, waits.size, balancing.size)
        return Own(tgids, *(np.zeros(size, np.bool_) for size in sizes))
    # where no page told the target, a call with no pid is about its caller's pages
    about_itself = (calls["target_tgid"] == 0) & (calls["pid"] == 0)
    of_call: Bools = np.isin(np.where(about_itself, calls["tgid"], calls["target_tgid"]), tgids)
    call = rows_of(calls["call_id"], migrations["call_id"])
    of_migration = _told(of_call, call)
    if meta.tier == TRACEPOINTS:
        of_migration |= np.isin(migrations["tgid"], tgids) & (migrations["call_id"] == 0)
    call = rows_of(calls["call_id"], folios["call_id"])
    migration = rows_of(migrations["migration_id"], folios["migration_id"])
    mapped = np.isin(folios["owner_tgid"], tgids)
    # one mapping in each attempt at the most: nobody else maps it
    mapped &= folios["n_maps"] <= np.maximum(folios["n_unmap"], 1)
    # a page that a call asked for is its target's, whoever else maps it
    mapped &= (call < 0) | (folios["lookup_seq"] == NO_LOOKUP)
    of_folio: Bools = mapped | _told(of_call, call) | _told(of_migration, migration)
    whole = _has_only(migrations, folios, migration, of_folio) & (migrations["call_id"] == 0)
    of_threads = np.isin(waits["tgid"], tgids), np.isin(balancing["tgid"], tgids)
    return Own(tgids, of_call, of_migration | whole, of_folio, *of_threads)


def rows_of(ids: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> Ints:
    """Row of each wanted id, -1 where there is none; 0 is no id."""
    found: Ints = np.where(wanted != 0, rows_of_ids(ids, wanted), -1)
    return found


def _told(flags: Bools, row: Ints) -> Bools:
    """The flag of each row, False for -1."""
    if not flags.size:
        return np.zeros(row.size, np.bool_)
    found: Bools = flags[np.maximum(row, 0)] & (row >= 0)
    return found


def _has_only(migrations: Table, folios: Table, migration: Ints, own: Bools) -> Bools:
    """Whether every folio that a migration had is an own one, as far as the kernel counted."""
    inside = migration >= 0
    size = folios["nr_pages"][inside].astype(np.int64)
    of, mine = migration[inside], own[inside]
    count = np.bincount(of, minlength=migrations.size)
    pages = np.bincount(of, weights=size, minlength=migrations.size)
    strange = np.bincount(of, weights=~mine, minlength=migrations.size)
    found: Bools = (count > 0) & (strange == 0) & has_all(migrations, pages)
    return found


def has_all(migrations: Table, pages: npt.NDArray[Any]) -> Bools:
    """Whether a migration's folios have records, as far as the kernel counted.

    What it counted beyond them may be anybody's, as may what was lost.

    :param pages: of each migration the base pages of its folios' records.
    """
    counted = (migrations["succeeded"] != NOT_COUNTED) & (migrations["failed"] != NOT_COUNTED)
    told = migrations["succeeded"].astype(np.int64) + migrations["failed"].astype(np.int64)
    found: Bools = ~(counted & (told > pages)) & (migrations["lost"] == 0)
    return found
