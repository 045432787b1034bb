# SPDX-License-Identifier: GPL-2.0-or-later
"""A workload in place: its pages on their first node, its calls ready to be made."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace import driver
from mptrace.arrays import Addresses, Nids
from mptrace.driver import PAGE_SIZE
from mptrace.driving import address_space, memory, other_process, patterns
from mptrace.driving.memory import Memory, MemoryRequest
from mptrace.driving.other_process import Survey
from mptrace.driving.rounds import PlannedCalls
from mptrace.driving.workloads import Workload, resolve
from mptrace.errors import HostError
from mptrace.host import proc
from mptrace.units import many

# Where unmapped addresses are taken from: far below what mmap(2) hands out by
# itself and far above the heap of a program that is not position-independent.
_UNMAPPED_BASES = (1 << 40, 3 << 40, 5 << 40, 7 << 40)


@dataclass
class Prepared:
    """The calls of both directions, and what must be given back at the end."""

    workload: Workload  #: as resolved
    target_pid: int  #: the process whose pages move, never 0
    base_pages: int
    forward: PlannedCalls
    backward: PlannedCalls
    memory: Memory | None  #: of our own
    survey: Survey | None  #: of another process
    moved: bool = False  #: whether a round was begun: else nothing is to be moved back

    def close(self) -> tuple[int, int]:
        """Give the memory back, or move another process's pages back unless told otherwise.

        Returns how many pages were moved back and how many stayed elsewhere.
        Raises :class:`TargetError` where that process went away.
        """
        if self.memory:
            self.memory.close()
        if not self.survey or not self.workload.back or not self.moved:
            return 0, 0
        survey = self.survey
        return other_process.restore(
            self.target_pid, survey.addresses, survey.nids, self.forward.flags
        )


def prepare(workload: Workload, own_pid: int) -> Prepared:
    """Put the pages of ``workload`` in place and lay out its calls; moves nothing yet.

    ``own_pid`` is the calling process.  Raises :class:`UsageError` for a
    workload that makes no sense here, :class:`HostError` where the memory can't
    be had, :class:`TargetError` where another process can't be looked at.
    """
    workload = resolve(workload, driver.memory_nodes())
    return _foreign(workload) if workload.target == "pid" else _own(workload, own_pid)


def _own(workload: Workload, own_pid: int) -> Prepared:
    folio = memory.folio_bytes(workload.kind)
    folio_pages = folio // PAGE_SIZE
    folios = -(-workload.pages // folio_pages)
    source = workload.source_nids[0]
    memory.check_room(workload.kind, folios, source)
    explicit = workload.explicit
    if explicit:
        step = PAGE_SIZE
        entries = patterns.explicit_entries([page for page, _ in explicit.entries])
        pinned = explicit.pinned
    else:
        step = PAGE_SIZE if workload.every_page else folio
        entries = patterns.entries(workload, folios * folio // step)
        pinned = tuple(patterns.pinned(workload, folios, folio_pages).tolist())
    holes = entries.count(patterns.NAMES_HOLE)
    request = MemoryRequest(workload.kind, folios, holes, source, workload.directory, pinned)
    made = memory.make(request, workload.target == "child")
    pid = made.pid or own_pid
    base = made.base
    pages = base + np.arange(folios * folio // step) * step
    hole_pages = base + folios * folio + np.arange(holes) * folio
    addresses = _addresses(entries, pages, hole_pages, pid)
    back = np.full(len(entries), source, np.int32)
    there = np.array([nid for _, nid in explicit.entries], np.int32) if explicit else None
    forward, backward = _calls(workload, made.pid, addresses, there, back)
    return Prepared(workload, pid, folios * folio_pages, forward, backward, made, None)


def _foreign(workload: Workload) -> Prepared:
    found = other_process.survey(
        workload.pid,
        workload.source_nids,
        workload.target_nids,
        workload.ranges,
        workload.every_page,
    )
    entries = patterns.entries(workload, found.addresses.size)
    none = np.empty(0, np.int64)
    addresses = _addresses(entries, found.addresses.astype(np.int64), none, workload.pid)
    named = entries.what == patterns.NAMES_PAGE
    back = np.where(named, found.nids[np.where(named, entries.index, 0)], found.nids[0])
    forward, backward = _calls(workload, workload.pid, addresses, None, back.astype(np.int32))
    return Prepared(workload, workload.pid, found.base_pages, forward, backward, None, found)


def _calls(
    workload: Workload, pid: int, addresses: Addresses, there: Nids | None, back: Nids
) -> tuple[PlannedCalls, PlannedCalls]:
    """Both directions; ``there`` None spreads the workload's target nodes over the entries."""
    bounds = patterns.call_bounds(addresses.size, workload.threads, workload.pages_per_call)
    if there is None:
        there = patterns.target_nids(bounds, workload.target_nids, workload.alternate)
    flags = driver.MPOL_MF_MOVE_ALL if workload.move_all else driver.MPOL_MF_MOVE
    return (
        PlannedCalls(addresses, there, bounds, pid, flags, False),
        PlannedCalls(addresses, back, bounds, pid, flags, True),
    )


def _addresses(
    entries: patterns.NamedEntries,
    pages: npt.NDArray[np.int64],
    holes: npt.NDArray[np.int64],
    pid: int,
) -> Addresses:
    """Return the address uint64[n] of each entry."""
    unmapped = _unmapped(pid, entries.count(patterns.NAMES_UNMAPPED))
    starts = np.cumsum([0, pages.size, holes.size])
    table = np.concatenate([pages, holes, unmapped])
    return table[starts[entries.what] + entries.index].astype(np.uint64)


def _unmapped(pid: int, count: int) -> npt.NDArray[np.int64]:
    """Return ``count`` addresses of pages where process ``pid`` has no mapping."""
    if not count:
        return np.empty(0, np.int64)
    mapped = _mapped(pid)
    for base in _UNMAPPED_BASES:
        end = base + count * PAGE_SIZE
        if not any(one.start < end and one.end > base for one in mapped):
            return base + np.arange(count, dtype=np.int64) * PAGE_SIZE
    raise HostError(f"found no room for {many(count, 'unmapped page')} in process {pid}")


def _mapped(pid: int) -> list[proc.Mapped]:
    try:
        return list(proc.mapped(proc.maps(pid)))
    except OSError as error:
        raise address_space.proc_error(pid, error) from error
