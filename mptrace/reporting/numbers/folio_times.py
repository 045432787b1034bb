# SPDX-License-Identifier: GPL-2.0-or-later
"""The folio records of calls, column by column, and what they sum up to.  Pure."""

import numpy as np

from mptrace.arrays import Bools, Bytes, Ints, Table, Words
from mptrace.outcomes.joined import FAILED, MOVED
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import NO_LOOKUP
from mptrace.reporting.numbers.sums import Numbers, distribution, summed_over_folios


class FolioTimes:
    """The folio records of calls that ended, column by column.

    :param closed: call_id of these calls.
    :param outcome: of each row of ``folios``, by ``fates.outcomes()``.
    :param split: rows of ``folios`` that were split.
    :param left_out: which rows of ``folios`` are mptrace's own.
    """

    def __init__(
        self,
        folios: Table,
        closed: Words,
        outcome: Bytes,
        split: Ints,
        left_out: Bools,
    ) -> None:
        inside = (folios["call_id"] != 0) & ~left_out
        if not inside.all() or not np.isin(np.unique(folios["call_id"]), closed).all():
            inside &= np.isin(folios["call_id"], closed)
        self._all = folios
        self._rows = np.flatnonzero(inside)
        self.isolated = self.column("isolate_rc") == 0
        self.moved = outcome[self._rows] == MOVED
        self.failed = outcome[self._rows] == FAILED
        self.pages = self.column("nr_pages")
        # A folio that was split moved as its head page; the tails have their own records.
        self.pages[np.isin(self._rows, split)] = 1

    def column(self, name: str) -> Ints:
        """A field of the records, int64."""
        return self._all[name][self._rows].astype(np.int64)

    def summary(self) -> Numbers:
        """Folios seen, isolated, moved; base pages moved; by size."""
        sizes, counts = np.unique(self.pages[self.moved], return_counts=True)
        looked_up = self.column("lookup_seq") != NO_LOOKUP
        return {
            "lookups": int(looked_up.sum()),
            "isolated": int((self.isolated & looked_up).sum()),
            "moved": int(self.moved.sum()),
            "moved_pages": int(self.pages[self.moved].sum()),
            "moved_by_size": {
                str(int(size)): int(count) for size, count in zip(sizes, counts, strict=True)
            },
            "allocations": int(self.column("n_alloc").sum()),
            "moves_tried": int(self.column("n_move").sum()),
        }

    def matrix(self) -> list[Numbers]:
        """Base pages that really moved, from node to node."""
        source, target = self.column("src_nid")[self.moved], self.column("dst_nid")[self.moved]
        key, place = ranks((source << 16) + (target & 0xFFFF))
        pages = np.bincount(place, weights=self.pages[self.moved], minlength=key.size)
        return [
            {
                "from": int(pair >> 16),
                "to": int(np.int16(pair & 0xFFFF)),
                "pages": int(count),
            }
            for pair, count in zip(key, pages, strict=True)
        ]

    def blackout(self) -> Numbers:
        """How long pages of folios were inaccessible: the sum of each one's windows."""
        dark = self.column("n_dark")
        total = self.column("blackout_ns")
        # A window that was open when its record ended has no sensible sum.
        whole = (dark > 0) & (total >= 0)
        span = (self.column("light_last_ns") - self.column("dark_first_ns"))[whole]
        return {
            "unit": "folio",
            "folios": int(whole.sum()),
            "open": int(((dark > 0) & ~whole).sum()),
            "windows": int(dark[whole].sum()),
            **summed_over_folios(total[whole]),
            **distribution(total[whole]),
            "span": distribution(span[span >= 0]),
            "stayed": distribution(total[whole & self.failed]),
        }
