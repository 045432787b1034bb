# SPDX-License-Identifier: GPL-2.0-or-later
"""Why an entry has its status, or none: the story behind it.  Pure."""

import errno
from collections.abc import Iterator
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.explain.findings import GroupEnded, Stayed
from mptrace.explain.words import answer, stayed
from mptrace.outcomes.causes.rules import cause_code, cause_name
from mptrace.outcomes.causes.statuses import MISLEADING, STORIES, status_text
from mptrace.outcomes.correlate import ENTRY_REASONS, FAILED, MOVED, NOT_ATTEMPTED, Correlation
from mptrace.recording.layouts import NO_LOOKUP, READ_STATUS

#: Entries that are named of a group.
MOST_NAMED = 4

_BAD_NODES = {
    "bad_node": "{entry} names node {node}, which does not exist or has no memory (-ENODEV)",
    "node_not_allowed": "{entry} names node {node}, outside the cpuset (-EACCES)",
    "bad_array": "the arrays could not be accessed at {entry} (-EFAULT)",
}


class Stories:
    """Tells why statuses are what they are, entry by entry.

    :param tables: tables of a recording by name.
    :param found: their correlation.
    """

    def __init__(self, tables: Tables, found: Correlation) -> None:
        self._tables, self._found, self._rows = tables, found, found.rows
        calls = np.arange(found.call_ids.size + 1)
        self._starts = np.searchsorted(self._rows["call"], calls)
        self._bad_entries: dict[int, str] = {}
        self._ends: dict[int, GroupEnded] = {}
        self._failed_groups: dict[int, tuple[int | None, Ints]] = {}
        self._by_folio: tuple[Ints, Any] | None = None

    def rows_of(self, call: int) -> slice:
        """Rows of the correlation that are entries of a call."""
        return slice(int(self._starts[call]), int(self._starts[call + 1]))

    def group_ended(self, call: int, function: str) -> GroupEnded:
        """What ended a call's failed group before the turn of some of its folios."""
        if call not in self._ends:
            rc, rows = self._failed_group(call)
            others = rows[self._rows["cause"][rows] != cause_code("ended_before_its_turn")]
            self._ends[call] = GroupEnded(function, rc, self._of_these(others))
        return self._ends[call]

    def of(self, number: int, cause: str, status: int | None, state: str) -> Iterator[str]:
        """Why an entry's status is what it is, in sentences.

        :param number: its row of the correlation.
        :param cause: why its page stayed, "" where it did not.
        :param status: what the kernel stored, None where it did not or that is not known.
        :param state: ``written``, ``untouched`` or ``unknown``.
        """
        row = self._rows[number]
        call = int(row["call"])
        ret = self._ret(call)
        reason = ENTRY_REASONS[row["entry_reason"]]
        if state == "untouched":
            yield self._untouched(row, cause)
            if not row["unread"] & READ_STATUS and _looks_told(int(row["status_after"])):
                yield STORIES["stale"].format(value=status_text(int(row["status_after"])))
        elif reason in ("duplicate", "same_folio") and status is not None and status < 0:
            other = self._other_entry(number, row)
            yield STORIES[reason].format(other=other, status=status_text(status))
        elif reason in ("moved_again", "split"):
            yield STORIES[reason].format(status=status_text(status))
        elif status is not None and (status, cause) in MISLEADING:
            yield MISLEADING[status, cause]
        if state == "untouched" and ret is not None and ret >= 0:
            rc, _ = self._failed_group(call)
            if rc is not None and rc > 0:
                never = int((self._rows["outcome"][self.rows_of(call)] == NOT_ATTEMPTED).sum())
                rest = ret - rc
                story = "positive" if rest >= never else "count_too_small"
                yield STORIES[story].format(ret=ret, rc=rc, rest=max(rest, never))
        elif state == "untouched" and ret is not None and ret < 0 and row["outcome"] == MOVED:
            yield STORIES["error_hides"].format(ret=answer(ret))

    def _untouched(self, row: Any, cause: str) -> str:
        call = int(row["call"])
        if row["outcome"] == NOT_ATTEMPTED:
            if cause.startswith("call_refused"):
                return STORIES["call_refused"]
            return STORIES["ended_before"].format(because=self._because(call, cause))
        rc, rows = self._failed_group(call)
        if rc is None:
            return STORIES[
                "unstored" if self._ret(call) == -errno.EFAULT else "group_failed_nowhere"
            ]
        story = "group_failed_moved" if row["outcome"] == MOVED else "group_failed"
        return STORIES[story].format(rc=answer(rc), stayed=stayed(self._of_these(rows)))

    def _because(self, call: int, cause: str) -> str:
        bad = self._bad_entry(call) if cause != "aborted_by_earlier_group" else ""
        if bad:
            return bad
        rc, rows = self._failed_group(call)
        if rc is None:
            return "an earlier group failed, whose records are missing"
        return f"an earlier group failed: {stayed(self._of_these(rows))}"

    def _bad_entry(self, call: int) -> str:
        """The entry whose node or arrays ended a call, and why; "" for none."""
        if call not in self._bad_entries:
            codes = {cause_code(name): words for name, words in _BAD_NODES.items()}
            own = self._rows[self.rows_of(call)]
            first = np.flatnonzero(np.isin(own["cause"], list(codes)))
            text = ""
            if first.size:
                bad = own[first[0]]
                entry, node = f"entry {bad['entry']}", int(bad["target_nid"])
                text = codes[int(bad["cause"])].format(entry=entry, node=node)
            self._bad_entries[call] = text
        return self._bad_entries[call]

    def _of_these(self, rows: Ints) -> Stayed:
        some = self._rows[rows[:MOST_NAMED]]
        first = [(int(row["entry"]), cause_name(int(row["cause"]))) for row in some]
        return Stayed(int(rows.size), tuple(first))

    def _failed_group(self, call: int) -> tuple[int | None, Ints]:
        """What migrate_pages() of a call's failed group returned, and its entries that stayed."""
        if call not in self._failed_groups:
            migrations, folios = self._tables["migrations"], self._tables["folios"]
            own = migrations[migrations["call_id"] == self._found.call_ids[call]]
            failed = own[own["rc"] != 0]
            rc = int(failed["rc"][-1]) if failed.size else None
            found = np.zeros(0, np.int64)
            if failed.size:
                where = self.rows_of(call)
                entries = self._rows[where]
                at = np.flatnonzero((entries["outcome"] == FAILED) & (entries["folio"] >= 0))
                records = folios[entries["folio"][at]]
                # A folio whose turn never came has no migration of its own.
                last = failed["migration_id"][-1]
                named = (records["migration_id"] == 0) | (records["migration_id"] == last)
                queued = (records["isolate_rc"] == 0) | (records["lookup_seq"] == NO_LOOKUP)
                found = where.start + at[named & queued]
            self._failed_groups[call] = rc, found
        return self._failed_groups[call]

    def _other_entry(self, number: int, row: Any) -> str:
        """The entry of the same call whose lookup isolated this one's folio."""
        if self._by_folio is None:
            order = np.argsort(self._rows["folio"], kind="stable")
            self._by_folio = order, self._rows["folio"][order]
        order, folios = self._by_folio
        first, last = np.searchsorted(folios, [row["folio"], row["folio"] + 1])
        same = [other for other in order[first:last].tolist() if other != number]
        plain = [other for other in same if not self._rows["entry_reason"][other]]
        if row["folio"] < 0 or not same:
            return "another entry of the same call"
        return f"entry {int(self._rows['entry'][(plain or same)[0]])} of the same call"

    def _ret(self, call: int) -> int | None:
        at = int(self._found.call_row[call])
        return int(self._tables["calls"]["ret"][at]) if at >= 0 else None


def _looks_told(value: int) -> bool:
    """Whether a value that the array held before reads like a status: a node, or an errno."""
    return -133 <= value < 1024
