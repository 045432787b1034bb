# SPDX-License-Identifier: GPL-2.0-or-later
"""The frozen values that each step from records to outcomes passes to the next.  Pure.

`correlate.correlate` runs the steps and says what each adds.  A column has one element
per entry, in the order of `joined.EntryColumns`, unless its comment says otherwise.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Tables
from mptrace.outcomes.groups import Groups, Splits
from mptrace.outcomes.joined import UNKNOWN, CallColumns, EntryColumns
from mptrace.outcomes.lookups import Lookups
from mptrace.recording.meta import Meta


@dataclass(frozen=True)
class CallRecords:
    """The records of all calls, joined: what was asked, looked up, grouped and split."""

    calls: CallColumns
    entries: EntryColumns
    lookups: Lookups
    groups: Groups
    splits: Splits

    @classmethod
    def of(cls, tables: Tables, meta: Meta) -> "CallRecords":
        """Join the tables of a recording; each join works on those before it."""
        calls = CallColumns.of(tables, meta)
        entries = EntryColumns.of(tables["entries"], calls)
        lookups = Lookups.of(tables, calls, entries)
        groups = Groups.of(tables, calls, entries, lookups)
        splits = Splits.of(tables["folios"], lookups)
        return cls(calls, entries, lookups, groups, splits)


@dataclass(frozen=True)
class EntryOutcomes:
    """What became of the page of each entry, as far as a step knows."""

    outcome: Bytes
    cause: npt.NDArray[np.uint16]  # where unknown
    reason: Bytes  # ENTRY_REASONS
    end_nid: Ints  # node after the page's last move in the call, -1
    folio: Ints  # row of folios that decided, -1

    def changed(self, rows: Ints | Bools, **columns: Any) -> "EntryOutcomes":
        """New columns that have these values in these rows."""
        found = {}
        for name, values in columns.items():
            found[name] = getattr(self, name).copy()
            found[name][rows] = values
        return replace(self, **found)

    def unknown(self, where: Bools, cause: npt.NDArray[Any] | int) -> "EntryOutcomes":
        """New columns in which these entries are unknown, for a cause; the folio stays."""
        causes = np.broadcast_to(cause, where.shape)[where]
        return self.changed(where, outcome=UNKNOWN, reason=0, end_nid=-1, cause=causes)


@dataclass(frozen=True)
class Loop:
    """What the kernel's loop did, entry by entry; ``end`` and ``refused`` are per call."""

    end: Ints  # ordinal of the first entry not processed, -1: unknown
    refused: Bools  # before the loop began
    is_known: Bools  # whether the loop came to the entry is known
    is_left: Bools  # it did not
    written: npt.NDArray[np.int8]  # WRITTEN, UNTOUCHED, CANT_TELL
    expected: Ints  # status that it stored, or would have
    outcomes: EntryOutcomes  # by the entry's own lookup


@dataclass(frozen=True)
class Shared:
    """The outcomes of pages, each for every entry that names its page."""

    outcomes: EntryOutcomes
    by_own_lookup: Bools  # the lookup of the entry itself decided


@dataclass(frozen=True)
class Settled:
    """What is left when all doubts are raised."""

    outcomes: EntryOutcomes
    written: npt.NDArray[np.int8]
