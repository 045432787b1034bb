# SPDX-License-Identifier: GPL-2.0-or-later
"""Where pages were before and after a call, as the driver's queries found them.  Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.joined import CallColumns, EntryColumns
from mptrace.outcomes.later import NO_END
from mptrace.recording.joins import ranks
from mptrace.recording.slices import ASKED, Slice, whole_of


def of_driver(tables: Tables, calls: CallColumns) -> Bools:
    """Which calls a thread of mptrace's own driver made, which asks for the locations.

    One that has no record may be the driver's in a session that had one.
    """
    has, driver = calls.row >= 0, whole_of(tables)["driver_calls"]
    found = ~has & (driver.size > 0)
    tids = tables["calls"]["tid"][calls.row[has]]
    found[has] = np.isin(tids, np.unique(driver["tid"]))
    return found


@dataclass(frozen=True)
class Locations:
    """Where each entry's page was before and after its call, as the driver's queries said."""

    known: Bools  # the driver asked about the entry
    before: Ints  # node or -errno, where known
    final: Ints
    asked_before: npt.NDArray[np.uint64]  # per call: a time before which the query after it was

    @classmethod
    def of(cls, tables: Tables, calls: CallColumns, entries: EntryColumns) -> "Locations":
        """Join the locations with the entries, by the driver's calls."""
        none = np.zeros(entries.count, np.bool_)
        nowhere = np.full(entries.count, -1, np.int64)
        asked_before = np.full(calls.count, NO_END)
        locations = tables["locations"]
        if not locations.size or not calls.count:
            return cls(none, nowhere, nowhere.copy(), asked_before)
        asked = tables.of.asked if isinstance(tables, Slice) else asked_of(tables)
        driver_call = np.full(calls.count, -1, np.int64)
        of_call = calls.index_of(asked["call_id"])
        of_call, asked = of_call[of_call >= 0], asked[of_call >= 0]
        driver_call[of_call], asked_before[of_call] = asked["driver_call"], asked["before_ns"]

        place_key = (locations["driver_call"].astype(np.int64) << 32) + locations["entry"]
        order = np.arange(locations.size)
        if (np.diff(place_key) <= 0).any():
            order = np.argsort(place_key, kind="stable")
            place_key = place_key[order]
        ask = driver_call[entries.call]
        row = np.minimum(
            np.searchsorted(place_key, (ask << 32) + entries.entry), place_key.size - 1
        )
        hit = (ask >= 0) & (place_key[row] == (ask << 32) + entries.entry)
        row = order[row]
        hit &= entries.readable & (locations["address"][row] == entries.address)
        before = np.where(hit, locations["before_nid"][row], -1).astype(np.int64)
        final = np.where(hit, locations["final_nid"][row], -1).astype(np.int64)
        return cls(hit, before, final, asked_before)


def asked_of(tables: Tables) -> Table:
    """Which call each of the driver's calls was, by thread and time; dtype `slices.ASKED`.

    The query after a call was made before its thread's next call.  A call of the driver that
    can be told from no other has no row.
    """
    driver, calls = tables["driver_calls"], tables["calls"]
    asks = np.flatnonzero(calls["nodes_ptr"] != 0)
    if not driver.size or not asks.size:
        return np.zeros(0, ASKED)
    # of two records of one call the last
    ids, last = np.unique(calls["call_id"][asks][::-1], return_index=True)
    own = calls[asks[::-1][last]]
    # The traced call of the driver's thread inside the driver's interval.
    threads = np.unique(driver["tid"])
    thread = np.minimum(np.searchsorted(threads, own["tid"]), threads.size - 1)
    is_known = threads[thread] == own["tid"]
    _, rank = ranks(np.concatenate([driver["before_ns"], own["enter_ns"]]))
    order = np.lexsort((driver["before_ns"], driver["tid"]))
    driver_thread = np.searchsorted(threads, driver["tid"])
    keys = (driver_thread.astype(np.int64) << 40) + rank[: driver.size]
    wanted = (thread.astype(np.int64) << 40) + rank[driver.size :]
    place = np.searchsorted(keys[order], wanted, side="right") - 1
    which = order[np.maximum(place, 0)]
    fits = is_known & (place >= 0) & (driver["tid"][which] == own["tid"])
    fits &= (own["exit_ns"] <= driver["after_ns"][which]) & (
        own["enter_ns"] >= driver["before_ns"][which]
    )
    fits &= own["nr_pages"] == driver["entries"][which]
    # Two calls in one interval can't be told apart.
    uses = np.bincount(which[fits], minlength=driver.size)
    fits &= uses[which] == 1
    found: Table = np.zeros(ids.size, ASKED)
    found["call_id"], found["driver_call"] = ids, driver["driver_call"][which]
    following = np.minimum(place + 1, order.size - 1)
    same = (following > place) & (driver_thread[order[following]] == thread)
    found["before_ns"] = np.where(same, driver["before_ns"][order[following]], NO_END)
    kept: Table = found[fits]
    return kept
