# SPDX-License-Identifier: GPL-2.0-or-later
"""How many folios of each size moved whole, were split, or stayed.  Pure."""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Table
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.joined import FAILED, MOVED, PMD_BYTES
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import FOLIO_HUGETLB
from mptrace.recording.meta import Coverage, Meta
from mptrace.reporting.numbers.sums import Numbers

#: What a folio is, by its size and how it is put back.
KINDS = ("page", "large", "thp", "hugetlb")
#: Without one of these, pages of a folio that was split have no records of their own.
_TAILS = ("move", "unmap")


def sizes_of(folios: Table, part: Fates, meta: Meta) -> list[Numbers]:
    """A dict for each kind and size of folios that migrations had, the small ones first.

    ``kind``: of :data:`KINDS`; ``order``: of two, its base pages; ``folios``; of these
    ``moved`` as a whole, were ``split`` (what then became of their pages is in the row of
    kind "page", or of the new size), ``stayed``, ``unknown``.  ``split`` is None where that
    could not be seen: split folios are then among the others.

    :param part: of others' folios.
    """
    if not part.row.size:
        return []
    nr_pages = np.maximum(folios["nr_pages"][part.row].astype(np.int64), 1)
    is_hugetlb = (folios["flags"][part.row] & FOLIO_HUGETLB) != 0
    kind = np.where(
        is_hugetlb,
        3,
        np.where(nr_pages == 1, 0, np.where(nr_pages * meta.kernel.page_size < PMD_BYTES, 1, 2)),
    )
    sizes, place = ranks(nr_pages * len(KINDS) + kind)
    can_tell = _sees_splits(meta.phases)
    sums = {
        name: np.bincount(place[mask], minlength=sizes.size).tolist()
        for name, mask in (
            ("moved", (part.outcome == MOVED) & ~part.is_split),
            ("split", part.is_split),
            ("stayed", (part.outcome == FAILED) & ~part.is_split),
            ("unknown", ~np.isin(part.outcome, (MOVED, FAILED)) & ~part.is_split),
        )
    }
    counts = np.bincount(place, minlength=sizes.size).tolist()
    return [
        {
            "kind": KINDS[size % len(KINDS)],
            "order": (size // len(KINDS)).bit_length() - 1,
            "folios": counts[number],
            **{name: sums[name][number] for name in ("moved", "stayed", "unknown")},
            "split": sums["split"][number]
            if can_tell or size % len(KINDS) == 0 or sums["split"][number]
            else None,
        }
        for number, size in enumerate(sizes.tolist())
    ]


def _sees_splits(phases: Mapping[str, Coverage]) -> bool:
    """Whether the pages of a folio that was split have records of their own."""
    return all(name not in phases or phases[name].is_seen for name in _TAILS)
