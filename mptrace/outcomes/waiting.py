# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that waited for a page under migration, each joined with what held the page.  Pure.

A wait names its holder where the kernel's record of the folio was there.  Where
it does not, the folio (or the address in the victim's process) that was
inaccessible when the wait began says who it was: marked ``time``.  What fits
nothing stays unknown.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Table, Tables
from mptrace.recording.joins import pair_ids, ranks, rows_of_ids
from mptrace.recording.layouts import END_OPEN, WAIT
from mptrace.recording.meta import Meta

#: How a wait was joined with its initiator.
MATCHES = ("unknown", "holder", "time")
_UNKNOWN, _HOLDER, _TIME = range(len(MATCHES))


@dataclass(frozen=True)
class Join:
    """For each wait: how it was joined, and with what.

    ``how``: index into :data:`MATCHES`; ``migration``: row in `migrations`, -1;
    ``call``: row in `calls` where the folio was held by a call, -1.
    """

    how: Ints
    migration: Ints
    call: Ints


def join(tables: Tables, meta: Meta) -> Join:
    """Join every wait with the migration (or the call) that held its page.

    Of `folios` it needs those that :func:`maybe_waited_for` finds for the waits that
    :func:`without_holder` has.
    """
    page_bytes = meta.kernel.page_size
    waits, folios = waits_of(tables), tables["folios"]
    how = np.zeros(waits.size, np.int64)
    migration = rows_of_ids(tables["migrations"]["migration_id"], waits["holder_id"])
    call = rows_of_ids(tables["calls"]["call_id"], waits["holder_id"])
    named = waits["holder_id"] != 0
    migration[~named], call[~named] = -1, -1
    how[(migration >= 0) | (call >= 0)] = _HOLDER
    left = np.flatnonzero(how == _UNKNOWN)
    if left.size and folios.size:
        found = _by_time(waits[left], folios, page_bytes)
        hit = found >= 0
        of_folio = folios[found[hit]]
        where = left[hit]
        migration[where] = rows_of_ids(
            tables["migrations"]["migration_id"], of_folio["migration_id"]
        )
        migration[where[of_folio["migration_id"] == 0]] = -1
        call[where] = rows_of_ids(tables["calls"]["call_id"], of_folio["call_id"])
        call[where[of_folio["call_id"] == 0]] = -1
        known = (migration[where] >= 0) | (call[where] >= 0)
        how[where[known]] = _TIME
    return Join(how, migration, call)


def without_holder(tables: Tables) -> Table:
    """Waits that name no holder of which there is a record."""
    waits = waits_of(tables)
    ids = np.concatenate([tables["migrations"]["migration_id"], tables["calls"]["call_id"]])
    there = (rows_of_ids(ids, waits["holder_id"]) >= 0) & (waits["holder_id"] != 0)
    left: Table = waits[~there]
    return left


def maybe_waited_for(waits: Table, folios: Table, page_bytes: int) -> Ints:
    """Rows of folios that were inaccessible and that these waits may have been for.

    By pointer or address, whenever that was.
    """
    dark = np.flatnonzero(folios["n_dark"] > 0)
    found = np.isin(folios["src"][dark], waits["folio"][waits["folio"] != 0])
    address, pages = folios["address"][dark], np.maximum(folios["nr_pages"][dark], 1)
    for size in np.unique(pages).tolist():
        scale = np.uint64(size * page_bytes)
        found |= (pages == size) & np.isin(address // scale, waits["address"] // scale)
    rows: Ints = dark[found]
    return rows


def waits_of(tables: Tables) -> Table:
    """The table of waits; empty where a recording has none."""
    found = tables.get("waits")
    return np.zeros(0, WAIT) if found is None else found


def _by_time(waits: Table, folios: Table, page_bytes: int) -> Ints:
    """Folio that was inaccessible when each wait began, by its pointer, else its address; -1."""
    dark = np.flatnonzero(folios["n_dark"] > 0)
    found = np.full(waits.size, -1, np.int64)
    has = np.flatnonzero(waits["folio"] != 0)
    found[has] = _covering(folios, dark, folios["src"][dark], waits[has], waits["folio"][has])
    # A large folio lies at a multiple of its size, in the process, too.
    mapped = dark[(folios["owner_tgid"][dark] != 0) & (folios["address"][dark] != 0)]
    sizes, of_size = ranks(np.maximum(folios["nr_pages"][mapped], 1))
    for number, size in enumerate(sizes.tolist()):
        left = np.flatnonzero((found < 0) & (waits["address"] != 0))
        own = mapped[of_size == number]
        some = waits[left]
        scale = np.uint64(size * page_bytes)
        place = np.concatenate([folios["address"][own] // scale, some["address"] // scale])
        tgids = np.concatenate([folios["owner_tgid"][own], some["tgid"]]).astype(np.int64)
        key = pair_ids(tgids, place)
        found[left] = _covering(folios, own, key[: own.size], some, key[own.size :])
    return found


def _covering(folios: Table, rows: Ints, keys: Any, waits: Table, wanted: Any) -> Ints:
    """For each wait the last of these folios with its key whose time has its start, -1: none."""
    if not rows.size or not waits.size:
        return np.full(waits.size, -1, np.int64)
    some = folios[rows]
    last = np.maximum(some["light_last_ns"], some["end_ns"])
    last[some["end"] == END_OPEN] = np.iinfo(np.uint64).max
    _, key = ranks(np.concatenate([keys, wanted]))
    _, time = ranks(np.concatenate([some["dark_first_ns"], waits["start_ns"]]))
    whole = (key << 32) + time
    theirs, ours = whole[: rows.size], whole[rows.size :]
    order = np.argsort(theirs, kind="stable")
    place = np.searchsorted(theirs[order], ours, side="right") - 1
    at = order[np.maximum(place, 0)]
    fits = (place >= 0) & (key[at] == key[rows.size :]) & (last[at] >= waits["start_ns"])
    found: Ints = np.where(fits, rows[at], -1)
    return found
