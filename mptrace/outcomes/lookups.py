# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's lookups of all calls, each with its entry and the fate of its folio.  Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Tables
from mptrace.outcomes.align import align
from mptrace.outcomes.fates import fates_of
from mptrace.outcomes.joined import MOVED, CallColumns, EntryColumns
from mptrace.recording.layouts import FOLIO_HUGETLB, FOLIO_PMD, NO_LOOKUP


@dataclass(frozen=True)
class Lookups:
    """Lookups sorted by (call, seq); ``of_entry`` has one element per entry, as said."""

    row: Ints  # in the table of folios
    call: Ints
    seq: Ints
    rc: Ints
    isolate_rc: Ints
    address: npt.NDArray[np.uint64]
    src: npt.NDArray[np.uint64]
    dst: npt.NDArray[np.uint64]
    nid: Ints
    dst_nid: Ints
    nr_pages: Ints
    entry: Ints  # row of entries, -1
    of_entry: Ints  # lookup of each entry, -1
    misfit: Bools  # per call
    complete: Bools  # per call
    queued: Bools
    whole: Bools  # one mapping has it all, from a multiple of its size on
    fate: Bytes  # of a queued folio: an outcome
    fate_cause: npt.NDArray[np.uint16]  # where its fate is unknown

    @classmethod
    def of(cls, tables: Tables, calls: CallColumns, entries: EntryColumns) -> "Lookups":
        """Those of all calls; ``folios`` has a row for each."""
        folios = tables["folios"]
        call = calls.index_of(folios["call_id"])
        row = np.flatnonzero((call >= 0) & (folios["lookup_seq"] != NO_LOOKUP))
        key = (call[row] << 32) + folios["lookup_seq"][row].astype(np.int64)
        order = np.argsort(key, kind="stable")
        row, key = row[order], key[order]
        if key.size:
            single = np.concatenate([np.diff(key) != 0, [True]])
            row, key = row[single], key[single]
        call, seq = key >> 32, key & 0xFFFFFFFF

        def column(name: str) -> Ints:
            # first all of them: one by one out of whole rows takes longer
            return np.take(folios[name].astype(np.int64), row)

        complete = np.bincount(call, minlength=calls.count) == calls.n_lookups
        complete &= ~calls.returns_missed
        alignment = align(
            call_start=entries.start,
            entry_address=entries.address,
            entry_readable=entries.readable,
            lookup_call=call,
            lookup_seq=seq,
            lookup_address=folios["address"][row],
            complete=complete,
            every=calls.n_lookups == np.diff(entries.start),
        )
        isolate_rc, flags = column("isolate_rc"), folios["flags"][row]
        fate, fate_cause = fates_of(column("move_rc"), folios["end"][row], flags)
        return cls(
            row=row,
            call=call,
            seq=seq,
            rc=column("lookup_rc"),
            isolate_rc=isolate_rc,
            address=folios["address"][row],
            src=folios["src"][row],
            dst=folios["dst"][row],
            nid=column("src_nid"),
            dst_nid=column("dst_nid"),
            nr_pages=column("nr_pages"),
            entry=alignment.entry_of,
            of_entry=alignment.lookup_of,
            misfit=alignment.misfit,
            complete=complete,
            queued=isolate_rc == 0,
            whole=((flags & FOLIO_HUGETLB) != 0)
            | (((flags & FOLIO_PMD) != 0) & (column("n_remap") == 1)),
            fate=fate,
            fate_cause=fate_cause,
        )

    @property
    def sound(self) -> Bools:
        """Calls all of whose lookups are there and have their entries."""
        sound: Bools = self.complete & ~self.misfit
        return sound

    @property
    def moved(self) -> Bools:
        """Lookups whose own folio was queued and moved."""
        moved: Bools = self.queued & (self.fate == MOVED)
        return moved

    def target(self, entries: EntryColumns) -> Ints:
        """Node that each lookup was made for; of lost entries where the folio went, or -1."""
        if not entries.count:
            return self.dst_nid
        at = np.maximum(self.entry, 0)
        known = (self.entry >= 0) & entries.readable[at]
        return np.where(known, entries.target[at], self.dst_nid)
