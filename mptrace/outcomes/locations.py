# SPDX-License-Identifier: GPL-2.0-or-later
"""Where pages were before and after a call, as the driver's queries found them.  Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Tables
from mptrace.outcomes.joined import CallColumns, EntryColumns
from mptrace.outcomes.later import NO_END
from mptrace.recording.joins import ranks


def of_driver(tables: Tables, calls: CallColumns) -> Bools:
    """Which calls a thread of mptrace's own driver made, which asks for the locations.

    One that has no record may be the driver's in a session that had one.
    """
    has = calls.row >= 0
    found = ~has & (tables["driver_calls"].size > 0)
    tids = tables["calls"]["tid"][calls.row[has]]
    found[has] = np.isin(tids, np.unique(tables["driver_calls"]["tid"]))
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
        """Join the locations with the entries, by thread and time of the driver's calls.

        The query after a call was made before its thread's next call.
        """
        none = np.zeros(entries.count, np.bool_)
        nowhere = np.full(entries.count, -1, np.int64)
        asked_before = np.full(calls.count, NO_END)
        driver, locations = tables["driver_calls"], tables["locations"]
        records = np.flatnonzero(calls.row >= 0)
        if not driver.size or not locations.size or not records.size:
            return cls(none, nowhere, nowhere.copy(), asked_before)
        # The traced call of the driver's thread inside the driver's interval.
        table = tables["calls"]
        own = table[calls.row[records]]
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
        driver_call = np.full(calls.count, -1, np.int64)
        driver_call[records[fits]] = driver["driver_call"][which[fits]]
        following = np.minimum(place + 1, order.size - 1)
        same = (following > place) & (driver_thread[order[following]] == thread)
        same &= fits
        asked_before[records[same]] = driver["before_ns"][order[following[same]]]

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
