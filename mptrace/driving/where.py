# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the pages of a process are: query mode over its mappings, counted per node and state."""

import errno

import numpy as np

from mptrace import driver
from mptrace.arrays import Nids
from mptrace.driver import PAGE_SIZE
from mptrace.driving import address_space
from mptrace.driving.address_space import Mapping, Pagemap
from mptrace.driving.places import Place, Where, add
from mptrace.host import proc

_QUERY_PAGES = 1 << 20  # addresses of one query: 8 MiB of them


def where(pid: int, ranges: tuple[tuple[int, int], ...] = ()) -> Where:
    """Ask where the pages of process ``pid`` are, in ``ranges`` or everywhere.

    Ranges are widened to whole pages; what of them is not mapped is no row.
    Raises :class:`TargetError` where the process can't be asked.
    """
    mappings = address_space.clip(address_space.mappings(pid), ranges)
    with Pagemap(pid) as pagemap:
        places = tuple(_place(pagemap, mapping) for mapping in mappings)
    return Where(pid, _comm(pid), driver.memory_nodes(), PAGE_SIZE, places)


def _place(pagemap: Pagemap, mapping: Mapping) -> Place:
    place = Place(mapping.start, mapping.end, mapping.perms, mapping.name, mapping.pages)
    seen_end, present = mapping.start, 0
    hole: int | None = None
    for end, ranges in pagemap.present(mapping):
        hole = _first_hole(seen_end, end, ranges) if hole is None else hole
        seen_end = end
        for addresses in address_space.addresses_in(ranges, _QUERY_PAGES):
            present += addresses.size
            _count(place, driver.query(pagemap.pid, addresses))
    place.unread = (mapping.end - seen_end) // PAGE_SIZE
    place.absent = (seen_end - mapping.start) // PAGE_SIZE - present
    if hole is not None:
        answer = int(driver.query(pagemap.pid, np.array([hole], np.uint64))[0])
        if answer >= 0:  # touched meanwhile: nothing else is known of the others
            answer = -errno.ENOENT
        add(place.states, {_name(answer): place.absent})
    return place


def _first_hole(start: int, end: int, ranges: address_space.Ranges) -> int | None:
    """Return the first address from ``start`` to ``end`` that no range covers."""
    starts = np.concatenate([[start], ranges[:, 1]])
    ends = np.concatenate([ranges[:, 0], [end]])
    gaps = starts[starts < ends]
    return int(gaps[0]) if gaps.size else None


def _count(place: Place, nids: Nids) -> None:
    found, counts = np.unique(nids, return_counts=True)
    for nid, count in zip(found.tolist(), counts.tolist(), strict=True):
        if nid >= 0:
            add(place.nodes, {nid: count})
        else:
            add(place.states, {_name(nid): count})


def _name(status: int) -> str:
    return errno.errorcode.get(-status, str(status))


def _comm(pid: int) -> str:
    try:
        return proc.comm(pid).decode(errors="replace")
    except OSError:
        return ""
