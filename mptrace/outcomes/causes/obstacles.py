# SPDX-License-Identifier: GPL-2.0-or-later
"""Obstacles decoded: what the state of a refused folio says.  Pure, vectorized.

Obstacles are rows of ``layouts.OBSTACLE``.  Flags are resolved by the names of
the recording's kernel (``Meta.page_flags``); page table entries are x86-64's.
"""

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Addresses, Bools, Ints, Table, Tables
from mptrace.recording.joins import pair_ids, ranks
from mptrace.recording.layouts import (
    NO_LOOKUP,
    OBSTACLE,
    SEEN_HUGE_ZERO,
    SEEN_PTE,
    SEEN_STATE,
    SEEN_ZERO,
    STAGE_VMA,
)
from mptrace.recording.meta import Meta

#: What a mapping word points to, by its two low bits (include/linux/page-flags.h).
MAPPING_KINDS = ("file", "anonymous", "movable", "ksm")
#: What a page table entry is.
PTE_KINDS = ("", "none", "present", "prot_none", "swap", "special", "zero", "huge_zero")
PTE_UNKNOWN, PTE_NONE, PTE_PRESENT, PTE_PROT_NONE, PTE_SWAP, PTE_SPECIAL, PTE_ZERO, PTE_HUGE = (
    range(len(PTE_KINDS))
)

#: A pin adds this much to the count of a small folio (GUP_PIN_COUNTING_BIAS, linux/mm.h).
PIN_BIAS = 1024
# Swap types of real swap files lie below this (MAX_SWAPFILES with every special
# type configured: device private, migration, hwpoison, markers; linux/swap.h).
_SWAP_FILES = 23
# Flags that decide how many references a folio may have.
_COUNTING_FLAGS = ("PG_private", "PG_swapcache", "PG_swapbacked")
_PRESENT, _PROT_NONE_BIT = 1, 1 << 8


def of(tables: Tables) -> Table:
    """The table of obstacles; empty where a recording has none.

    A file system's name ends at its first NUL: 16 bytes were read, and what lies
    behind a shorter name in the kernel's memory is something else.
    """
    found = tables.get("obstacles")
    if found is None:
        return np.zeros(0, OBSTACLE)
    names = np.unique(found["fs"])
    if not any(b"\0" in name for name in names):
        return found
    found = found.copy()
    for name in names:
        found["fs"][found["fs"] == name] = name.split(b"\0")[0]
    return found


def of_folios(tables: Tables) -> Ints:
    """For each row of `folios`, the row of `obstacles` that is its evidence, -1: none."""
    folios, obstacles = tables["folios"], of(tables)
    found = np.full(folios.size, -1, np.int64)
    rows = np.flatnonzero(obstacles["stage"] != STAGE_VMA)
    if not rows.size or not folios.size:
        return found
    seq = np.ascontiguousarray(folios["lookup_seq"])
    looked_up = seq != NO_LOOKUP
    maybe = _maybe(seq, folios["call_id"], obstacles[rows])
    named = obstacles["lookup_seq"][rows] != NO_LOOKUP
    # by the lookup where there was one, else by migration and folio
    for folio_rows, obstacle_rows, names in (
        (np.flatnonzero(looked_up & maybe), rows[named], ("call_id", "lookup_seq")),
        (np.flatnonzero(~looked_up), rows[~named], ("migration_id", "src")),
    ):
        if not folio_rows.size or not obstacle_rows.size:
            continue
        keys = [np.concatenate([folios[n][folio_rows], obstacles[n][obstacle_rows]]) for n in names]
        key = pair_ids(*keys)
        ours, theirs = key[: folio_rows.size], key[folio_rows.size :]
        order = np.argsort(theirs, kind="stable")
        place = np.minimum(np.searchsorted(theirs[order], ours), order.size - 1)
        hit = theirs[order][place] == ours
        found[folio_rows[hit]] = obstacle_rows[order[place[hit]]]
    return found


def _maybe(seq: npt.NDArray[np.uint32], call_id: Addresses, obstacles: Table) -> Bools:
    """Which lookups may have an obstacle: true of all that have, and of few others."""

    def mixed(seq: npt.NDArray[np.uint32], call_id: Addresses) -> npt.NDArray[np.uint64]:
        both = call_id ^ (seq.astype(np.uint64) << np.uint64(32))
        return (both * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)

    seen = np.zeros(1 << 20, np.bool_)
    seen[mixed(obstacles["lookup_seq"], obstacles["call_id"])] = True
    found: Bools = seen[mixed(seq, call_id)]
    return found


def of_addresses(tables: Tables, call_ids: Addresses, addresses: Addresses) -> Ints:
    """The row of `obstacles` of the mapping that vma_migratable() refused at an address, -1: none.

    :param call_ids: of each address: the call that named it.
    """
    found = np.full(call_ids.size, -1, np.int64)
    table = of(tables)
    rows = np.flatnonzero(table["stage"] == STAGE_VMA)
    if not rows.size or not call_ids.size:
        return found
    refused = table[rows]
    # mappings of one address space do not overlap: the last that starts at or below an address
    _, rank = ranks(np.concatenate([refused["vm_start"], addresses]))
    _, call = ranks(np.concatenate([refused["call_id"], call_ids]))
    key = (call.astype(np.int64) << 32) + rank
    theirs, ours = key[: rows.size], key[rows.size :]
    order = np.argsort(theirs, kind="stable")
    place = order[np.maximum(np.searchsorted(theirs[order], ours, side="right") - 1, 0)]
    inside = (refused["vm_start"][place] <= addresses) & (addresses < refused["vm_end"][place])
    own = inside & (refused["call_id"][place] == call_ids)
    found[own] = rows[place[own]]
    return found


def flag(obstacles: Table, meta: Meta, name: str) -> Bools:
    """Whether a page flag such as ``"PG_locked"`` was set; False where it is not known."""
    bit = meta.page_flags.get(name)
    if bit is None:
        return np.zeros(obstacles.size, np.bool_)
    is_set: Bools = (obstacles["page_flags"] >> np.uint64(bit)) & np.uint64(1) != 0
    return is_set


def mapping_kind(obstacles: Table) -> Ints:
    """Index into :data:`MAPPING_KINDS`, -1 where there is no mapping."""
    kind = (obstacles["mapping"] & np.uint64(3)).astype(np.int64)
    return np.where(obstacles["mapping"] == 0, -1, kind)


def pte_kind(obstacles: Table, machine: str) -> Ints:
    """Index into :data:`PTE_KINDS` of each page table entry."""
    pte = obstacles["pte"]
    seen = (obstacles["seen"] & SEEN_PTE) != 0
    if machine != "x86_64":
        seen = np.zeros(obstacles.size, np.bool_)
    # __swp_type(): the five highest bits
    swap_type = (pte >> np.uint64(59)).astype(np.int64)
    kind = np.select(
        [
            ~seen,
            (obstacles["seen"] & SEEN_HUGE_ZERO) != 0,
            (obstacles["seen"] & SEEN_ZERO) != 0,
            pte == 0,
            (pte & np.uint64(_PRESENT)) != 0,
            (pte & np.uint64(_PROT_NONE_BIT)) != 0,
            swap_type < _SWAP_FILES,
        ],
        [PTE_UNKNOWN, PTE_HUGE, PTE_ZERO, PTE_NONE, PTE_PRESENT, PTE_PROT_NONE, PTE_SWAP],
        PTE_SPECIAL,
    )
    return kind.astype(np.int64)


def expected_references(obstacles: Table, meta: Meta) -> Ints:
    """References that a folio may have when its mappings are gone; -1 where that is not modelled.

    One of whoever isolated it, one per base page of the page or swap cache, one
    for private data: folio_expected_refs(), folio_expected_ref_count() in
    mm/migrate.c and linux/mm.h.  Not of hugetlb files and AIO rings, which count
    otherwise.
    """
    pages = obstacles["nr_pages"].astype(np.int64)
    kind = mapping_kind(obstacles)
    cached = (kind == 0) | in_swap_cache(obstacles, meta)
    private = flag(obstacles, meta, "PG_private")
    count = 1 + np.where(cached, pages, 0) + np.where(cached & private, 1, 0)
    known = (obstacles["seen"] & SEEN_STATE) != 0
    known &= ~np.isin(obstacles["fs"], (b"hugetlbfs", b"aio"))
    # a flag that has no name here would pass for one that is clear
    known &= all(name in meta.page_flags for name in _COUNTING_FLAGS)
    return np.where(known, count, -1)


def in_swap_cache(obstacles: Table, meta: Meta) -> Bools:
    """Whether a folio is in the swap cache (PG_swapcache with PG_swapbacked).

    That is an anonymous one, one of KSM, or one of shmem, whose mapping is gone then.
    """
    both = flag(obstacles, meta, "PG_swapcache") & flag(obstacles, meta, "PG_swapbacked")
    cached: Bools = both & np.isin(mapping_kind(obstacles), (-1, 1, 3))
    return cached


def in_hugetlb(obstacles: Table) -> Bools:
    """Whether the address lies in a mapping of hugetlb pages (VM_HUGETLB, linux/mm.h)."""
    return np.asarray((obstacles["vm_flags"] & np.uint64(0x400000)) != 0, np.bool_)


def named(pointers: npt.NDArray[np.uint64], meta: Meta, prefix: str) -> Bools:
    """Whether the kernel's name at each address begins so; False where it has none."""
    wanted = [at for at, name in meta.symbols.items() if name.startswith(prefix)]
    return np.isin(pointers, np.array(wanted, np.uint64))


def is_pinned(obstacles: Table, meta: Meta) -> Bools:
    """Whether the counts show a pin (FOLL_PIN): folio_maybe_dma_pinned() in linux/mm.h.

    Exact for large folios.  A small one without a pin never shows one; a
    thousand ordinary references beyond the mappings look like a pin.
    """
    small = obstacles["nr_pages"] <= 1
    mapped = np.maximum(obstacles["mapcount"].astype(np.int64), 0)
    expected = np.maximum(expected_references(obstacles, meta), 0)
    extra = obstacles["refcount"].astype(np.int64) - expected - mapped
    known = (obstacles["seen"] & SEEN_STATE) != 0
    pinned: Bools = known & np.where(small, extra >= PIN_BIAS, obstacles["pincount"] > 0)
    return pinned


def waited_for(obstacles: Table) -> npt.NDArray[np.object_]:
    """What a migration had to wait for longest: ``"folio_lock"``, ``"writeback"`` or ``""``."""
    lock, writeback = obstacles["lock_wait_ns"], obstacles["writeback_wait_ns"]
    names = np.array(["", "folio_lock", "writeback"], object)
    which = np.where((lock == 0) & (writeback == 0), 0, np.where(lock > writeback, 1, 2))
    found: npt.NDArray[np.object_] = names[which]
    return found
