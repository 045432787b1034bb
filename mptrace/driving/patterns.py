# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of a workload's arrays: which page, in which order, to which node.  Pure."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.driving.workloads import HOLE, UNMAPPED, Workload

#: What an entry names (`NamedEntries.what`).
NAMES_PAGE, NAMES_HOLE, NAMES_UNMAPPED = 0, 1, 2


@dataclass(frozen=True)
class NamedEntries:
    """The entries in array order.

    ``what`` is uint8[n] of NAMES_*; ``index`` is int64[n], the ordinal of the
    page, hole or unmapped address among its like.
    """

    what: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.index.size)

    def count(self, what: int) -> int:
        """Return how many different ones of ``what`` the entries name."""
        indexes = self.index[self.what == what]
        return int(indexes.max()) + 1 if indexes.size else 0


def entries(workload: Workload, count: int) -> NamedEntries:
    """Return the entries over ``count`` pages, in the order of the workload's pattern.

    Every page is named once; repeats, holes and unmapped addresses are added at
    random positions, each hole and unmapped address another one.  The same
    workload gives the same entries.
    """
    is_random = workload.pattern == "random"
    if not (is_random or workload.duplicates or workload.holes or workload.bad):
        # numpy's random numbers take long to load
        return NamedEntries(np.full(count, NAMES_PAGE, np.uint8), _in_order(workload, count))
    random = np.random.default_rng(workload.seed)
    order = random.permutation(count) if is_random else _in_order(workload, count)
    repeats = random.choice(order, round(workload.duplicates * count))
    extra = np.concatenate(
        [repeats, np.arange(round(workload.holes * count)), np.arange(workload.bad)]
    ).astype(np.int64)
    what = np.full(extra.size, NAMES_UNMAPPED, np.uint8)
    what[: extra.size - workload.bad] = NAMES_HOLE
    what[: repeats.size] = NAMES_PAGE
    return _mixed_in(order, extra, what, random)


def explicit_entries(pages: npt.ArrayLike) -> NamedEntries:
    """Return the entries that name ``pages`` (int64[n]): base pages, HOLE or UNMAPPED.

    Each hole and each unmapped address is another one.
    """
    index = np.array(pages, dtype=np.int64)
    what = np.full(index.size, NAMES_PAGE, np.uint8)
    for code, named in ((HOLE, NAMES_HOLE), (UNMAPPED, NAMES_UNMAPPED)):
        positions = np.flatnonzero(index == code)
        what[positions] = named
        index[positions] = np.arange(positions.size)
    return NamedEntries(what, index)


def pinned(workload: Workload, folios: int, pages_per_folio: int) -> npt.NDArray[np.int64]:
    """Return the base pages to pin, ascending: one of each folio chosen at random."""
    if not workload.pin:
        return np.empty(0, np.int64)
    random = np.random.default_rng([workload.seed, 1])
    chosen = np.sort(random.choice(folios, round(workload.pin * folios), replace=False))
    inside = random.integers(0, pages_per_folio, chosen.size)
    return np.asarray(chosen * pages_per_folio + inside, dtype=np.int64)


def call_bounds(count: int, threads: int, per_call: int) -> npt.NDArray[np.int64]:
    """Return int64[calls, 3] of ``(thread, first, end)``: who passes which entries.

    Each thread has one run of the ``count`` entries (the first ones an entry
    more where it doesn't come out even), cut into calls of ``per_call`` entries
    (0: one call).  A thread without entries makes no call.
    """
    edges = (np.arange(threads + 1) * count + threads - 1) // threads
    rows = []
    for thread, (first, end) in enumerate(itertools.pairwise(edges.tolist())):
        starts = np.arange(first, end, per_call or max(end - first, 1))
        ends = np.minimum(starts + (per_call or count), end)
        rows.append(np.column_stack([np.full(starts.size, thread), starts, ends]))
    return np.concatenate(rows).astype(np.int64)


def target_nids(
    bounds: npt.NDArray[np.int64], nids: tuple[int, ...], alternate: bool
) -> npt.NDArray[np.int32]:
    """Return int32[n], the target node of each entry.

    In each call anew: entry by entry in turn with ``alternate``, else one run
    of entries for each node in turn.
    """
    lengths = bounds[:, 2] - bounds[:, 1]
    position = np.arange(int(lengths.sum())) - np.repeat(bounds[:, 1], lengths)
    if alternate:
        chosen = position % len(nids)
    else:
        chosen = position * len(nids) // np.repeat(lengths, lengths)
    return np.array(nids, dtype=np.int32)[chosen]


def _in_order(workload: Workload, count: int) -> npt.NDArray[np.int64]:
    if workload.pattern == "strided":
        return np.argsort(np.arange(count) % workload.stride, kind="stable")
    return np.arange(count)


def _mixed_in(
    order: npt.NDArray[np.int64],
    extra: npt.NDArray[np.int64],
    what: npt.NDArray[np.uint8],
    random: "np.random.Generator",
) -> NamedEntries:
    """Put ``extra`` at random positions among ``order``, whose own order stays."""
    total = order.size + extra.size
    positions = random.permutation(total)[: extra.size]
    index = np.empty(total, np.int64)
    named = np.zeros(total, np.uint8)
    ours = np.ones(total, bool)
    ours[positions] = False
    index[ours] = order
    index[positions] = extra
    named[positions] = what
    return NamedEntries(named, index)
