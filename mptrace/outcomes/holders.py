# SPDX-License-Identifier: GPL-2.0-or-later
"""Who had the page that a thread waited for, where the kernel's side follows no folios.  Pure."""

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.recording.joins import consecutive, ranks


def with_holders(tables: Tables) -> Table:
    """The waits, with the call's migration that had the folio which each one waited for.

    It is the one that was under way, of the calls whose lookups found the folio.
    """
    waits, lookups, migrations = tables["waits"], tables["lookups"], tables["migrations"]
    open_ = np.flatnonzero((waits["holder_id"] == 0) & (waits["folio"] != 0))
    made = migrations[migrations["call_id"] != 0]
    if not open_.size or not lookups.size or not made.size:
        return waits
    made = made[np.lexsort((made["enter_ns"], made["call_id"]))]
    # each wait with each call that found its folio
    src = np.sort(np.unique(lookups[["src", "call_id"]]), order="src")
    first, last = (
        np.searchsorted(src["src"], waits["folio"][open_], side=side) for side in ("left", "right")
    )
    counts = last - first
    wait, call = np.repeat(open_, counts), src["call_id"][consecutive(first, counts)]
    start = waits["start_ns"][wait]
    # the last migration of the call that began before
    _, of_call = ranks(np.concatenate([made["call_id"], call]))
    times, of_time = ranks(np.concatenate([made["enter_ns"], start]))
    key = of_call * times.size + of_time
    place = np.searchsorted(key[: made.size], key[made.size :], side="right") - 1
    found = made[np.maximum(place, 0)]
    hit = (place >= 0) & (found["call_id"] == call)
    hit &= (found["exit_ns"] >= start) | (found["exit_ns"] == 0)
    wait, place = wait[hit], place[hit]
    alone = np.flatnonzero(np.bincount(wait, minlength=waits.size)[wait] == 1)
    waits = waits.copy()
    waits["holder_id"][wait[alone]] = made["migration_id"][place[alone]]
    waits["holder_tid"][wait[alone]] = made["tid"][place[alone]]
    return waits
