# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of calls and of their entries: outcomes, agreement, failures.  Pure."""

from typing import Any

import numpy as np

from mptrace.arrays import Bools, Ints, Table
from mptrace.outcomes.causes.rules import cause_meaning, cause_name
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.outcomes.correlate import (
    AGREE,
    DISAGREE,
    ENTRY_REASONS,
    FAILED,
    NO_WITNESS,
    NOT_ASKED,
    NOT_ATTEMPTED,
    SILENT,
    UNKNOWN,
)
from mptrace.outcomes.mappings import Mappings
from mptrace.recording.layouts import OUTCOMES, WITNESSES
from mptrace.reporting.numbers.parts import Part
from mptrace.reporting.numbers.sums import Numbers, add_to, distribution, named_counts, without

#: Disagreements that are named one by one.
MAX_DISAGREEMENTS = 10


def calls_of(calls: Table, closed: Table, seen: int, call_ns: int, left_out: Bools) -> Numbers:
    """Counts and times of calls.

    :param seen: calls up to the last one with entries here.
    :param left_out: the calls, by ordinal, that are in no table here.
    """
    asking = calls[calls["nodes_ptr"] != 0]
    ret = closed["ret"]
    values, counts = np.unique(ret[ret < 0], return_counts=True)
    seen -= int(left_out[:seen].sum())
    return {
        "count": int(asking.size),
        "without_end": max(seen - int(closed.size), 0),
        "returned_zero": int((ret == 0).sum()),
        "returned_positive": int((ret > 0).sum()),
        "errors": {
            errno_name(-int(value)): int(count) for value, count in zip(values, counts, strict=True)
        },
        "threads": int(np.unique(asking["tid"]).size),
        "time_ns": call_ns,
        "lost": int(asking["lost"].astype(np.int64).sum()),
        **distribution((closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)),
    }


class EntrySums:
    """What became of entries, and what was told of it, slice by slice."""

    def __init__(self, mappings: Mappings) -> None:
        self._mappings = mappings
        self._rows, self._untouched, self._unread, self._nodes = 0, 0, 0, 0
        self._outcomes = np.zeros(len(OUTCOMES), np.int64)
        self._reasons = np.zeros(len(ENTRY_REASONS), np.int64)
        self._witnesses = np.zeros(len(WITNESSES), np.int64)
        self._errors: dict[int, int] = {}
        self._unknown: dict[int, int] = {}
        self._disagreements: list[Numbers] = []
        self._failures: dict[int, Numbers] = {}

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        rows, before = part.found.rows, part.calls_before
        self._rows += int(rows.size)
        self._outcomes += np.bincount(rows["outcome"], minlength=len(OUTCOMES))
        self._reasons += np.bincount(rows["entry_reason"], minlength=len(ENTRY_REASONS))
        self._witnesses += np.bincount(rows["witnesses"], minlength=len(WITNESSES))
        status = rows["status_after"][rows["has_status"] != 0]
        self._nodes += int((status >= 0).sum())
        add_to(self._errors, *np.unique(status[status < 0], return_counts=True))
        self._untouched += int((rows["written"] == 0).sum())
        self._unread += int((rows["unread"] != 0).sum())
        unknown = rows["cause"][rows["outcome"] == UNKNOWN]
        add_to(self._unknown, *np.unique(unknown, return_counts=True))
        first = np.flatnonzero(rows["witnesses"] == DISAGREE)
        first = first[: MAX_DISAGREEMENTS - len(self._disagreements)]
        self._disagreements += [self._disagreement(row, before) for row in rows[first]]
        self._add_failures(np.take(rows, stayed_in(rows)), before)

    def _disagreement(self, row: Any, before: int) -> Numbers:
        return {
            **name_entry(row, self._mappings, before),
            "target_nid": int(row["target_nid"]),
            "status": int(row["status_after"]) if row["has_status"] else None,
            "status_expected": int(row["status_expected"]) if row["written"] == 1 else None,
            "outcome": OUTCOMES[row["outcome"]],
            "final_nid": int(row["final_nid"]) if row["has_location"] else None,
        }

    def _add_failures(self, some: Table, before: int) -> None:
        told = some["has_status"].astype(np.int64)
        status = np.where(told != 0, some["status_after"].astype(np.int64) & 0xFFFFFFFF, 0)
        key = (((some["outcome"].astype(np.int64) << 1) + told) << 32) + status
        key = (key << 16) + some["cause"]
        keys, first, counts = np.unique(key, return_index=True, return_counts=True)
        for each, index, count in zip(keys.tolist(), first, counts, strict=True):
            if each in self._failures:
                self._failures[each]["count"] += int(count)
                continue
            row = some[index]
            cause = cause_name(int(row["cause"]))
            self._failures[each] = {
                "outcome": OUTCOMES[row["outcome"]],
                "status": int(row["status_after"]) if row["has_status"] else None,
                "cause": cause,
                "meaning": cause_meaning(cause),
                "count": int(count),
                "example": name_entry(row, self._mappings, before),
            }

    def entries(self, closed: Table, beyond: int) -> Numbers:
        """How many there are, and what was told; ``closed``: the calls that ended."""
        return {
            "asked": self._rows + beyond,
            "rows": self._rows,
            "beyond_bound": beyond,
            "untouched": self._untouched,
            "told_a_node": self._nodes,
            "told_an_error": {
                errno_name(-value): self._errors[value] for value in sorted(self._errors)
            },
            "unread": self._unread,
            "per_call_max": int(closed["nr_pages"].max()) if closed.size else 0,
        }

    def outcomes(self, beyond: int) -> dict[str, int]:
        """Entries by outcome."""
        found = named_counts(self._outcomes, OUTCOMES)
        found["unknown"] += beyond
        return found

    def entry_reasons(self) -> dict[str, int]:
        """Entries by the reason why they were told something else than their page's outcome."""
        return without(named_counts(self._reasons, ENTRY_REASONS), "")

    def agreement(self, beyond: int, *, has_driver: bool) -> Numbers:
        """How often the witnesses agree; ``beyond`` entries were asked about by a driver only."""
        # Python's ints: a damaged count of entries may be beyond 64 bits
        counts = [int(n) for n in self._witnesses]
        counts[NO_WITNESS if has_driver else NOT_ASKED] += beyond
        return {
            "checked": counts[AGREE] + counts[SILENT] + counts[DISAGREE],
            "agree": counts[AGREE],
            "silent": counts[SILENT],
            "disagree": counts[DISAGREE],
            "not_asked": counts[NOT_ASKED],
            "unknown": counts[NO_WITNESS],
        }

    def unknown_reasons(self, beyond: int) -> dict[str, int]:
        """Entries of which it is unknown what became of them, by the reason."""
        reasons = {cause_name(code): self._unknown[code] for code in sorted(self._unknown)}
        if beyond:
            reasons["beyond_bound"] = beyond
        return reasons

    def disagreements(self) -> list[Numbers]:
        """The first entries whose witnesses disagree."""
        return self._disagreements

    def failures(self) -> list[Numbers]:
        """Entries that stayed by outcome, status and cause, most frequent first."""
        groups = [self._failures[key] for key in sorted(self._failures)]
        return sorted(groups, key=lambda group: -int(group["count"]))


def stayed_in(rows: Table) -> Ints:
    """Which rows of the correlation are entries that failed or were never attempted."""
    return np.flatnonzero((rows["outcome"] == FAILED) | (rows["outcome"] == NOT_ATTEMPTED))


def name_entry(row: Any, mappings: Mappings, before: int) -> Numbers:
    """An entry by its numbers and address; ``before``: calls in earlier slices."""
    address = int(row["address"])
    return {
        "call": int(row["call"]) + before,
        "entry": int(row["entry"]),
        "address": hex(address),
        "mapping": mappings.name(address),
    }
