# SPDX-License-Identifier: GPL-2.0-or-later
"""The folio records of calls, column by column, and what they sum up to.  Pure."""

import numpy as np

from mptrace.arrays import Bools, Ints
from mptrace.outcomes.joined import FAILED, MOVED
from mptrace.recording.detail import LEVEL_ALL
from mptrace.recording.joins import runs
from mptrace.recording.layouts import NO_LOOKUP
from mptrace.reporting.numbers.parts import Part
from mptrace.reporting.numbers.sums import (
    Numbers,
    Spread,
    add_to,
    matrix_of,
    summed_over_folios,
    sums_of_pairs,
)


class FolioTimes:
    """The folio records of calls that ended, column by column.

    :param left_out: which folios of the slice are in no sum.
    """

    def __init__(self, part: Part, left_out: Bools) -> None:
        folios, closed = part.tables["folios"], part.closed
        inside = (folios["call_id"] != 0) & ~left_out
        heads, lengths = runs(folios["call_id"])
        of_closed = np.isin(heads, closed)
        inside &= of_closed if lengths is None else np.repeat(of_closed, lengths)
        self._columns = part.columns
        self._rows = np.flatnonzero(inside)
        self.isolated = self.column("isolate_rc") == 0
        self.moved = part.outcome[self._rows] == MOVED
        self.failed = part.outcome[self._rows] == FAILED
        self.pages = self.column("nr_pages")
        # A folio that was split moved as its head page; the tails have their own records.
        self.pages[np.isin(self._rows, part.split)] = 1

    def column(self, name: str) -> Ints:
        """A field of the records, int64."""
        return np.take(self._columns[name], self._rows)


class FolioSums:
    """What the folio records of calls sum up to, slice by slice."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(
            ("lookups", "isolated", "moved", "moved_pages", "allocations", "moves_tried"), 0
        )
        self._sizes: dict[int, int] = {}
        self._pairs: dict[int, int] = {}
        self._dark = dict.fromkeys(("folios", "open", "windows"), 0)
        self._blackout, self._span, self._stayed = Spread(), Spread(), Spread()

    def add(self, folios: FolioTimes) -> None:
        """Add those of a slice."""
        pages = folios.pages[folios.moved]
        sizes, counts = np.unique(pages, return_counts=True)
        add_to(self._sizes, sizes, counts)
        looked_up = folios.column("lookup_seq") != NO_LOOKUP
        for name, count in {
            "lookups": looked_up.sum(),
            "isolated": (folios.isolated & looked_up).sum(),
            "moved": folios.moved.sum(),
            "moved_pages": pages.sum(),
            "allocations": folios.column("n_alloc").sum(),
            "moves_tried": folios.column("n_move").sum(),
        }.items():
            self._counts[name] += int(count)
        add_to(
            self._pairs,
            *sums_of_pairs(
                folios.column("src_nid"), folios.column("dst_nid"), folios.pages, folios.moved
            ),
        )
        dark, total = folios.column("n_dark"), folios.column("blackout_ns")
        # A window that was open when its record ended has no sensible sum.
        whole = (dark > 0) & (total >= 0)
        span = (folios.column("light_last_ns") - folios.column("dark_first_ns"))[whole]
        self._dark["folios"] += int(whole.sum())
        self._dark["open"] += int(((dark > 0) & ~whole).sum())
        self._dark["windows"] += int(dark[whole].sum())
        self._blackout.add(total[whole])
        self._span.add(span[span >= 0])
        self._stayed.add(total[whole & folios.failed])

    @property
    def moved_pages(self) -> int:
        """Base pages that moved."""
        return self._counts["moved_pages"]

    def summary(self, detail: str) -> Numbers:
        """Folios seen, isolated, moved; base pages moved; by size.

        What the level of detail does not trace is None.
        """
        tried = ("allocations", "moves_tried")
        by_size = {str(size): self._sizes[size] for size in sorted(self._sizes)}
        first = ("lookups", "isolated", "moved", "moved_pages")
        return {
            **{name: self._counts[name] for name in first},
            "moved_by_size": by_size,
            **{name: self._counts[name] if detail == LEVEL_ALL else None for name in tried},
        }

    def matrix(self) -> list[Numbers]:
        """Base pages that really moved, from node to node."""
        return matrix_of(self._pairs)

    def blackout(self) -> Numbers:
        """How long pages of folios were inaccessible: the sum of each one's windows."""
        return {
            "unit": "folio",
            **self._dark,
            **summed_over_folios(self._blackout.total),
            **self._blackout.numbers(),
            "span": self._span.numbers(),
            "stayed": self._stayed.numbers(),
        }
