# SPDX-License-Identifier: GPL-2.0-or-later
"""Why entries of calls stayed: by cause, with its remedy and one line of evidence.  Pure."""

from typing import Any

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.explain.entries import cause_of
from mptrace.explain.evidence import Evidence
from mptrace.explain.first_evidence import evidence_of
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import OUTCOMES, READ_PAGES
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.calls import name_entry, stayed_in
from mptrace.reporting.numbers.lying import There
from mptrace.reporting.numbers.parts import Part
from mptrace.reporting.numbers.sums import Numbers, add_to, named_counts, nonzero

#: Stands for the status of an entry that was told none.
_UNTOUCHED = 1 << 32


class FailureCauses:
    """The causes, slice by slice.

    :param there: gets what lies at the folios of the examples.
    """

    def __init__(self, meta: Meta, mappings: Mappings, lying: Lying, there: There) -> None:
        self._meta, self._mappings, self._lying, self._there = meta, mappings, lying, there
        self._found: dict[int, Numbers] = {}

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        rows = part.found.rows
        where = stayed_in(rows)
        if not where.size:
            return
        evidence = Evidence(part.beside, self._meta)
        some = np.take(rows, where)
        codes, place = ranks(some["cause"])
        for code, of_code in zip(codes.tolist(), members(place, codes.size), strict=True):
            mine = np.take(some, of_code)
            has, words = evidence_of(evidence, part.tables, part.found, mine)
            one = self._found.get(code)
            if one is None:
                one = self._found[code] = self._first(part, mine[0])
                one["evidence"], one["has_evidence"] = words, has
            elif has and not one["has_evidence"]:
                one["evidence"], one["has_evidence"] = words, True
            one["outcomes"] += np.bincount(mine["outcome"], minlength=len(OUTCOMES))
            status = mine["status_after"].astype(np.int64)
            status[mine["has_status"] == 0] = _UNTOUCHED
            add_to(one["statuses"], *np.unique(status, return_counts=True))

    def _first(self, part: Part, row: Any) -> Numbers:
        example = name_entry(row, self._mappings, part.calls_before)
        return {
            "outcomes": np.zeros(len(OUTCOMES), np.int64),
            "statuses": {},
            "example": example | self._whose(part, row),
        }

    def numbers(self) -> list[Numbers]:
        """A dict for each cause, most frequent first."""
        groups = []
        for code in sorted(self._found):
            one, name = self._found[code], cause_name(code)
            cause = cause_of(name)
            groups.append(
                {
                    "cause": name,
                    "meaning": cause.meaning,
                    "remedy": cause.remedy,
                    "source": cause.source,
                    "count": int(one["outcomes"].sum()),
                    "outcomes": nonzero(named_counts(one["outcomes"], OUTCOMES)),
                    "statuses": _statuses(one["statuses"]),
                    "evidence": one["evidence"],
                    "example": one["example"],
                }
            )
        return sorted(groups, key=lambda group: -int(group["count"]))

    def _whose(self, part: Part, row: Any) -> Numbers:
        """Whose page an entry names, where it was and what lies there: null where not known."""
        calls, folios = part.tables["calls"], part.tables["folios"]
        record, folio = int(part.found.call_row[row["call"]]), int(row["folio"])
        nid = int(folios["src_nid"][folio]) if folio >= 0 else -1
        target, began = 0, 0
        if record >= 0:
            target, began = int(calls["target_tgid"][record]), int(calls["enter_ns"][record])
        address = 0 if row["unread"] & READ_PAGES else int(row["address"])
        number = int(part.rows("folios")[folio]) if folio >= 0 else None
        if number is not None:
            self._there.note(number, part.tables, folio)
        return {
            "target_tgid": target,
            "lies_in": self._lying.at(target, address, began).as_dict(),
            "nid": nid if nid >= 0 else None,
            "folio": number,
            "start_ns": _start(part.tables, calls, record, folio),
        }


def _start(tables: Tables, calls: Table, record: int, folio: int) -> int | None:
    """When the page was taken up, else when its call began; None: not known."""
    if folio >= 0 and tables["folios"]["start_ns"][folio]:
        return int(tables["folios"]["start_ns"][folio])
    return (int(calls["enter_ns"][record]) or None) if record >= 0 else None


def _statuses(counts: dict[int, int]) -> list[Numbers]:
    """Statuses told, None for untouched ones, with their counts, most frequent first."""
    found: list[Numbers] = [
        {"status": None if status == _UNTOUCHED else status, "count": counts[status]}
        for status in sorted(counts)
    ]
    return sorted(found, key=lambda each: -int(each["count"]))
