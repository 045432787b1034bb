# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of another process: which would move, where each was, and the way back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace import driver
from mptrace.arrays import Addresses, Nids
from mptrace.driving import address_space
from mptrace.errors import TargetError

# Mapped into every process by the kernel; their pages never move.
_KERNELS_OWN = ("[vdso]", "[vvar]", "[vvar_vclock]", "[uprobes]")
# Entries of one call on the way back: bounds the time that the target's lock is held.
_RESTORE_ENTRIES = 4096
_QUERY_PAGES = 1 << 20


@dataclass(frozen=True)
class Survey:
    """The pages found, in address order, one address per folio unless every page was wanted."""

    addresses: Addresses
    nids: Nids  #: where each was
    base_pages: int  #: base pages on the source nodes, tails of folios included
    mappings: tuple[dict[str, Any], ...]  #: start, end, name, pages, nodes of each with pages


def survey(
    pid: int,
    source_nids: tuple[int, ...],
    target_nids: tuple[int, ...],
    ranges: tuple[tuple[int, int], ...],
    every_page: bool,
) -> Survey:
    """Find the pages of process ``pid`` that are on the source nodes; moves nothing.

    No source nodes mean every node; a page already on the only target is left
    out then.  Raises :class:`TargetError` where the process can't be looked at
    or has no such page.
    """
    every = [
        mapping
        for mapping in address_space.clip(address_space.mappings(pid), ranges)
        if mapping.name not in _KERNELS_OWN
    ]
    addresses, nids, told = [], [], []
    base_pages = 0
    with address_space.Pagemap(pid) as pagemap:
        for mapping in every:
            found, where = _on_nodes(pagemap, mapping, source_nids, target_nids)
            if not found.size:
                continue
            base_pages += found.size
            told.append(_row(mapping, where))
            heads = None if every_page else pagemap.folio_heads(found)
            if heads is not None:
                found, where = found[heads], where[heads]
            addresses.append(found)
            nids.append(where)
    if not addresses:
        there = f"node {','.join(map(str, source_nids))}" if source_nids else "any other node"
        raise TargetError(
            f"process {pid} has no page to move from {there}",
            f"mptrace where -p {pid} shows where its pages are",
        )
    return Survey(np.concatenate(addresses), np.concatenate(nids), base_pages, tuple(told))


def restore(pid: int, addresses: Addresses, nids: Nids, flags: int) -> tuple[int, int]:
    """Move pages that are elsewhere back to ``nids``, where each was before.

    Returns how many are back and how many still are elsewhere; pages that are
    gone or swapped out count as neither.  Raises :class:`TargetError` where the
    process can't be reached any more.
    """
    away = _away(pid, addresses, nids)
    for first in range(0, away.size, _RESTORE_ENTRIES):
        chosen = away[first : first + _RESTORE_ENTRIES]
        status = np.full(chosen.size, driver.SENTINEL, np.int32)
        result = driver.move_pages(
            pid,
            np.ascontiguousarray(addresses[chosen]),
            np.ascontiguousarray(nids[chosen]),
            status,
            flags,
        )
        if result.errno in driver.GONE:
            raise driver.target_error(pid, result.errno, "move its pages back")
    left = _away(pid, addresses, nids).size
    return away.size - left, left


def _away(pid: int, addresses: Addresses, nids: Nids) -> npt.NDArray[np.int64]:
    now = driver.query(pid, addresses)
    return np.flatnonzero((now >= 0) & (now != nids))


def _on_nodes(
    pagemap: address_space.Pagemap,
    mapping: address_space.Mapping,
    source_nids: tuple[int, ...],
    target_nids: tuple[int, ...],
) -> tuple[Addresses, Nids]:
    """The pages of a mapping that are on the source nodes, and where each is."""
    found, where = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    for _, ranges in pagemap.present(mapping):
        for addresses in address_space.addresses_in(ranges, _QUERY_PAGES):
            nids = driver.query(pagemap.pid, addresses)
            if source_nids:
                chosen = np.isin(nids, source_nids)
            else:
                chosen = (nids >= 0) & ((nids != target_nids[0]) | (len(target_nids) > 1))
            found.append(addresses[chosen])
            where.append(nids[chosen])
    return np.concatenate(found), np.concatenate(where)


def _row(mapping: address_space.Mapping, nids: Nids) -> dict[str, Any]:
    found, counts = np.unique(nids, return_counts=True)
    return {
        "start": mapping.start,
        "end": mapping.end,
        "name": mapping.name,
        "pages": int(nids.size),
        "nodes": {str(nid): int(count) for nid, count in zip(found, counts, strict=True)},
    }
