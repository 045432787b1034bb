# SPDX-License-Identifier: GPL-2.0-or-later
"""How many folios of each size moved whole, were split, or stayed.  Pure."""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Ints
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.joined import FAILED, MOVED, PMD_BYTES
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import FOLIO_HUGETLB
from mptrace.recording.meta import Coverage, Meta
from mptrace.reporting.numbers.parts import FolioColumns
from mptrace.reporting.numbers.sums import Numbers

#: What a folio is, by its size and how it is put back.
KINDS = ("page", "large", "thp", "hugetlb")
#: Without one of these, pages of a folio that was split have no records of their own.
_TAILS = ("move", "unmap")


class SizeSums:
    """Folios of each kind and size, slice by slice."""

    def __init__(self, meta: Meta) -> None:
        self._page_size = meta.kernel.page_size
        #: Number of a size and kind -> folios, and those that moved, were split, stayed, unknown.
        self.counts: dict[int, Ints] = {}

    def add(self, columns: FolioColumns, part: Fates) -> None:
        """Add some; ``part``: of others' folios."""
        nr_pages = np.maximum(columns["nr_pages"][part.row], 1)
        is_hugetlb = (columns["flags"][part.row] & FOLIO_HUGETLB) != 0
        kind = np.where(
            is_hugetlb,
            3,
            np.where(nr_pages == 1, 0, np.where(nr_pages * self._page_size < PMD_BYTES, 1, 2)),
        )
        sizes, place = ranks(nr_pages * len(KINDS) + kind)
        moved, failed = part.outcome == MOVED, part.outcome == FAILED
        masks = (
            np.ones(place.size, np.bool_),
            moved & ~part.is_split,
            part.is_split,
            failed & ~part.is_split,
            ~(moved | failed) & ~part.is_split,
        )
        counts = [np.bincount(place[mask], minlength=sizes.size) for mask in masks]
        for size, row in zip(sizes.tolist(), np.array(counts).T, strict=True):
            self.counts[size] = self.counts.get(size, 0) + row


def sizes_of(sums: SizeSums, meta: Meta) -> list[Numbers]:
    """A dict for each kind and size of folios that migrations had, the small ones first.

    ``kind``: of :data:`KINDS`; ``order``: of two, its base pages; ``folios``; of these
    ``moved`` as a whole, were ``split`` (what then became of their pages is in the row of
    kind "page", or of the new size), ``stayed``, ``unknown``.  ``split`` is None where that
    could not be seen: split folios are then among the others.
    """
    # at the level of detail `outcomes` only those that stayed have records of their own
    can_tell, found = meta.detail != LEVEL_OUTCOMES and _sees_splits(meta.phases), []
    for size in sorted(sums.counts):
        folios, moved, split, stayed, unknown = sums.counts[size].tolist()
        found.append(
            {
                "kind": KINDS[size % len(KINDS)],
                "order": (size // len(KINDS)).bit_length() - 1,
                "folios": folios,
                "moved": moved,
                "stayed": stayed,
                "unknown": unknown,
                "split": split if can_tell or size % len(KINDS) == 0 or split else None,
            }
        )
    return found


def _sees_splits(phases: Mapping[str, Coverage]) -> bool:
    """Whether the pages of a folio that was split have records of their own."""
    return all(name not in phases or phases[name].is_seen for name in _TAILS)
