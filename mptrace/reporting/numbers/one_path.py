# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of the folios of one path and initiator, summed up slice by slice.  Pure."""

import numpy as np

from mptrace.arrays import Bools, Ints, Table
from mptrace.explain.entries import cause_of
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.joined import FAILED, MOVED, UNKNOWN
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import NOT_COUNTED
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.lying import There
from mptrace.reporting.numbers.parts import FolioColumns, Part
from mptrace.reporting.numbers.path_phases import PHASE_COLUMNS
from mptrace.reporting.numbers.sizes import SizeSums
from mptrace.reporting.numbers.sums import (
    Numbers,
    Spread,
    add_to,
    matrix_of,
    summed_over_folios,
    sums_of_pairs,
)

#: Processes named as owners of one row's pages, beside those that were asked for; the rest
#: is summed.
MAX_OWNERS = 50
_OUTCOMES = {"moved": MOVED, "failed": FAILED, "unknown": UNKNOWN}


class OnePath:
    """The sums; for the parameters see `paths.PathSums`."""

    def __init__(self, meta: Meta, lying: Lying, there: There) -> None:
        self._lying, self._there = lying, there
        self._folios = {"seen": 0, **dict.fromkeys(_OUTCOMES, 0)}
        self._pages = dict.fromkeys(_OUTCOMES, 0)
        #: Base pages of all folios, also of those that are in no other sum.
        self._all_pages = dict.fromkeys(("moved", "failed"), 0)
        self._own_pages = 0
        self._pairs: dict[int, int] = {}
        self._owners: dict[int, Ints] = {}
        self._dark = {"folios": 0, "open": 0}
        self._blackout = Spread()
        self._failures: dict[int, Numbers] = {}
        self.sizes = SizeSums(meta)
        #: Nanoseconds by column of the folios' records.
        self.phases = dict.fromkeys(PHASE_COLUMNS, 0)

    def add(self, part: Part, every: Fates, whose: Ints) -> None:
        """Add folios of a slice.

        :param every: of the folios of these migrations.
        :param whose: of each folio of the slice the process that it belongs to.
        """
        self._own_pages += int(every.pages[part.own.folios[every.row]].sum())
        for name in self._all_pages:
            self._all_pages[name] += int(every.pages[every.outcome == _OUTCOMES[name]].sum())
        kept = every.select(~part.out.folios[every.row])
        self._folios["seen"] += int(kept.row.size)
        for name, code in _OUTCOMES.items():
            mask = kept.outcome == code
            self._folios[name] += int(mask.sum())
            self._pages[name] += int(kept.pages[mask].sum())
        columns = part.columns
        source, target = columns["src_nid"][kept.row], columns["dst_nid"][kept.row]
        add_to(self._pairs, *sums_of_pairs(source, target, kept.pages, kept.outcome == MOVED))
        self._add_owners(columns, kept)
        dark, blackout = columns["n_dark"][kept.row] > 0, columns["blackout_ns"][kept.row]
        whole = dark & (blackout >= 0)
        self._dark["folios"] += int(whole.sum())
        self._dark["open"] += int((dark & ~whole).sum())
        self._blackout.add(blackout[whole])
        self._add_failures(part, kept, whose)
        self.sizes.add(columns, kept)
        for name in self.phases:
            self.phases[name] += int(columns[name][kept.row].sum())

    def _add_owners(self, columns: FolioColumns, kept: Fates) -> None:
        tgids, place = ranks(columns["owner_tgid"][kept.row])
        counts = [np.bincount(place, minlength=tgids.size)]
        for code in _OUTCOMES.values():
            counts.append(np.bincount(place, kept.pages * (kept.outcome == code), tgids.size))
        sums = np.array(counts).T.astype(np.int64)
        for tgid, row in zip(tgids.tolist(), sums, strict=True):
            self._owners[tgid] = self._owners.get(tgid, 0) + row

    def _add_failures(self, part: Part, kept: Fates, whose: Ints) -> None:
        where = np.flatnonzero(kept.outcome != MOVED)
        unknown: Bools = kept.outcome[where] == UNKNOWN
        codes, place = ranks(kept.cause[where].astype(np.int64) * 2 + unknown)
        for number, code in enumerate(codes.tolist()):
            members = where[place == number]
            one = self._failures.get(code)
            if one is None:
                first = members[0]
                one = self._failures[code] = self._example(part, kept, int(first), whose)
            one["folios"] += int(members.size)
            one["pages"] += int(kept.pages[members].sum())

    def _example(self, part: Part, kept: Fates, first: int, whose: Ints) -> Numbers:
        row, migration = int(kept.row[first]), int(kept.migration[first])
        example = part.tables["folios"][row]
        address, start_ns = int(example["address"]), int(example["start_ns"])
        number = int(part.rows("folios")[row])
        self._there.note(number, part.tables, row)
        return {
            "folios": 0,
            "pages": 0,
            "example": {
                "folio": number,
                "migration": int(part.rows("migrations")[migration]),
                "address": hex(address) if address else None,
                "lies_in": self._lying.at(int(whose[row]), address, start_ns).as_dict(),
                "owner_tgid": int(example["owner_tgid"]),
                "nid": int(example["src_nid"]) if example["src_nid"] >= 0 else None,
                "start_ns": start_ns or None,
            },
        }

    def numbers(self, mine: Table, processes: RecordedProcesses, asked: frozenset[int]) -> Numbers:
        """Folios, pages, owners and blackouts.

        :param mine: the migrations.
        :param asked: processes that the session was about.
        """
        return {
            "folios": dict(self._folios),
            "pages": dict(self._pages),
            "own_pages": self._own_pages,
            "difference": self._difference(mine),
            "matrix": matrix_of(self._pairs),
            "owners": self._named_owners(processes, asked),
            "blackout": {
                "unit": "folio",
                **self._dark,
                **summed_over_folios(self._blackout.total),
                **self._blackout.numbers(),
            },
        }

    def _difference(self, mine: Table) -> Numbers | None:
        """Base pages of all folios' records less the kernel's; None where it did not count all."""
        if ((mine["succeeded"] == NOT_COUNTED) | (mine["failed"] == NOT_COUNTED)).any():
            return None
        return {
            f"{name}_pages": self._all_pages[name] - int(mine[column].astype(np.int64).sum())
            for name, column in (("moved", "succeeded"), ("failed", "failed"))
        }

    def _named_owners(self, processes: RecordedProcesses, asked: frozenset[int]) -> list[Numbers]:
        """Processes whose pages they were; tgid 0: mapped by none, or by one that was not seen."""
        found: list[Numbers] = []
        for tgid in sorted(self._owners):
            folios, moved, failed, unknown = self._owners[tgid].tolist()
            found.append(
                {
                    "tgid": tgid,
                    "comm": processes.comm(tgid) if tgid else "",
                    "gone": processes.is_gone(tgid),
                    "asked": tgid in asked,
                    "folios": folios,
                    "moved_pages": moved,
                    "failed_pages": failed,
                    "unknown_pages": unknown,
                }
            )
        found.sort(key=lambda each: -(each["moved_pages"] + each["failed_pages"]))
        rest = [each for each in found[MAX_OWNERS:] if not each["asked"]]
        if rest:
            summed = {
                name: sum(each[name] for each in rest)
                for name in ("folios", "moved_pages", "failed_pages", "unknown_pages")
            }
            kept = [each for each in found[MAX_OWNERS:] if each["asked"]]
            more = {"tgid": None, "comm": f"{len(rest)} more", "asked": False}
            found[MAX_OWNERS:] = [*kept, {**more, "processes": len(rest), **summed}]
        return found

    def failures(self) -> list[Numbers]:
        """Folios that stayed, and those unknown, by cause; most pages first."""
        groups: list[Numbers] = []
        for code in sorted(self._failures):
            one, cause = self._failures[code], cause_of(cause_name(code >> 1))
            groups.append(
                {
                    "outcome": "unknown" if code & 1 else "failed",
                    "cause": cause.name,
                    "meaning": cause.meaning,
                    "remedy": cause.remedy,
                    "source": cause.source,
                    **one,
                }
            )
        return sorted(groups, key=lambda group: -int(group["pages"]))
