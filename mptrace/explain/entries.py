# SPDX-License-Identifier: GPL-2.0-or-later
"""Why each page stayed, and why the kernel told of it what it told.  Pure.

The outcome and its cause come from the correlator; here the evidence behind them,
the story of the status and the remedy are put together, entry by entry, for
those entries that somebody asks about.
"""

import errno
import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mptrace.errors import UsageError
from mptrace.explain.evidence import Finding, Findings, line
from mptrace.outcomes.causes import table as causes
from mptrace.outcomes.causes.rules import cause_code, cause_meaning, cause_name
from mptrace.outcomes.causes.statuses import (
    MISLEADING,
    RETURN_CODES,
    STORIES,
    errno_name,
    page_status,
    status_text,
)
from mptrace.outcomes.causes.table import Cause
from mptrace.outcomes.correlate import (
    ENTRY_REASONS,
    FAILED,
    MOVED,
    NOT_ATTEMPTED,
    UNKNOWN,
    UNTOUCHED,
    Correlation,
    correlate,
)
from mptrace.outcomes.history import Histories, History, Step
from mptrace.outcomes.mappings import Mappings
from mptrace.outcomes.own import own_of
from mptrace.recording.joins import Ints, Tables, ranks
from mptrace.recording.layouts import (
    MAX_ENTRIES,
    NO_LOOKUP,
    OUTCOMES,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
    WITNESSES,
)
from mptrace.units import and_more

#: Blocks of equal pages that are told apart; entries named in one; causes named of a group.
MOST_BLOCKS = 20
MOST_NAMED = 4

_BAD_NODES = {
    "bad_node": "{entry} names node {node}, which does not exist or has no memory (-ENODEV)",
    "node_not_allowed": "{entry} names node {node}, outside the cpuset (-EACCES)",
    "bad_array": "the arrays could not be accessed at {entry} (-EFAULT)",
}

# Causes that rest on no state of a folio: what the call did is all the evidence.
_STATELESS = ("no_vma", "ended_before_its_turn")


@dataclass(frozen=True)
class Which:
    """Which entries: one, those of a page, or (by default) of every page that stayed."""

    entry: tuple[int, int] | None = None  # call's ordinal, index in its arrays
    address: int | None = None
    pid: int | None = None  # with an address: whose


@dataclass(frozen=True)
class Explanation:
    """One entry: what became of its page and why, and why it was told what it was told.

    ``status`` is None where the kernel stored none; ``status_state`` says whether
    it is ``written``, ``untouched`` or ``unknown``.  ``gap`` says why there is no
    evidence, where there is none of a page that stayed.  ``later`` is the move by
    somebody else that took the page on to ``final_nid``.  All values are JSON-able.
    """

    call: int
    call_id: int
    entry: int
    address: int | None
    mapping: str | None
    target_nid: int | None
    source_nid: int | None
    outcome: str
    entry_reason: str
    status: int | None
    status_state: str
    status_meaning: str
    status_remedy: str
    status_story: tuple[str, ...]
    cause: Cause
    evidence: tuple[Finding, ...]
    gap: str
    delay: Finding | None
    before_nid: int | None
    final_nid: int | None
    witnesses: str
    later: Step | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the address in hexadecimal, as everywhere."""
        plain = asdict(self)
        plain["address"] = None if self.address is None else hex(self.address)
        return plain


@dataclass(frozen=True)
class Block:
    """Entries with one cause and evidence of one kind: the first, and how many there are.

    ``others`` names a few more: (call, entry, address).  ``ranges`` are counts
    that differ among them: name -> [least, most].
    """

    count: int
    first: Explanation
    others: tuple[tuple[int, int, int], ...]
    ranges: dict[str, list[int]]


def cause_of(name: str) -> Cause:
    """A cause by name, also one that carries an errno; of a refused call in its code's words."""
    known = causes.BY_NAME.get(name)
    if known is not None:
        return known
    refusal = name.removeprefix("call_refused_")
    code = next((row for row in RETURN_CODES if row.name == refusal != name), None)
    if code is None:
        return Cause(name, cause_meaning(name))
    return Cause(name, f"{cause_meaning(name)}: {code.meaning}", code.remedy, code.source)


class Explainer:
    """Explains entries of a recording.

    :param tables: tables of a recording by name.
    :param meta: its meta.json.
    :param correlation: of these tables, when it is there already.
    """

    def __init__(
        self, tables: Tables, meta: Mapping[str, Any], correlation: Correlation | None = None
    ) -> None:
        self._tables, self._meta = tables, meta
        self._found = correlation or correlate(tables, meta)
        self._rows = self._found.rows
        out = own_of(tables, meta).of_calls(tables["calls"], self._found.call_ids)
        self._is_own = out[self._rows["call"]]
        self._findings = Findings(tables, meta)
        self._mappings = Mappings(meta.get("mappings") or ())
        self._page = int((meta.get("kernel") or {}).get("page_size") or 4096)
        calls = np.arange(self._found.call_ids.size + 1)
        self._starts = np.searchsorted(self._rows["call"], calls)
        self._bad_entries: dict[int, str] = {}
        self._ends: dict[int, Finding] = {}
        self._failed_groups: dict[int, tuple[int | None, Ints]] = {}
        self._by_folio: tuple[Ints, Any] | None = None

    # ---- which entries

    def select(self, which: Which) -> Ints:
        """Rows of the entries asked for, in order; raises UsageError for what is not there."""
        if which.entry is not None:
            return self._one(*which.entry)
        if which.address is not None:
            return self._at(which.address, which.pid)
        stayed = np.isin(self._rows["outcome"], (FAILED, NOT_ATTEMPTED))
        return np.flatnonzero(stayed & ~self._is_own)

    def _one(self, call: int, entry: int) -> Ints:
        calls = self._found.call_ids.size
        if call >= calls:
            known = f"its calls are 0 to {calls - 1}" if calls else "it has no calls"
            raise UsageError(
                f"the recording has no call {call}", f"{known}: mptrace dump --table calls"
            )
        own = self._rows["entry"][self._of_call(call)]
        row = np.searchsorted(own, entry)
        if row < own.size and own[row] == entry:
            return np.array([self._of_call(call).start + row], np.int64)
        hint = f"its entries are 0 to {int(own[-1])}" if own.size else "no entry of it was recorded"
        if entry >= int(self._meta.get("max_entries") or MAX_ENTRIES):
            hint += "; those beyond it are not read"
        raise UsageError(f"call {call} has no entry {entry}", hint)

    def _at(self, address: int, pid: int | None) -> Ints:
        rows, folios = self._rows, self._tables["folios"]
        known = (rows["unread"] & READ_PAGES) == 0
        pages = np.ones(rows.size, np.uint64)
        has = rows["folio"] >= 0
        pages[has] = np.maximum(folios["nr_pages"][rows["folio"][has]], 1)
        # A large folio lies at a multiple of its size, in the process, too.
        size = pages * np.uint64(self._page)
        same = (rows["address"] // size) == (np.uint64(address) // size)
        if pid is not None:
            same &= np.isin(self._targets[rows["call"]], (pid, 0))
        found = np.flatnonzero(known & same)
        if not found.size:
            hint = "the recording has no entries"
            if known.any():
                low, high = rows["address"][known].min(), rows["address"][known].max()
                hint = f"its addresses lie in {low:#x}..{high:#x}: mptrace dump"
            whose = "" if pid is None else f" of process {pid}"
            raise UsageError(f"no entry names a page{whose} that contains '{address:#x}'", hint)
        return found

    @property
    def _targets(self) -> Ints:
        """The process that each call is about, 0: unknown."""
        known = self._found.call_row >= 0
        targets = np.zeros(known.size, np.int64)
        targets[known] = self._tables["calls"]["target_tgid"][self._found.call_row[known]]
        return targets

    def histories(self, address: int, pid: int | None = None) -> list[History]:
        """What was done to the page at an address, by process: see `history`."""
        return self._histories.of(address, pid)

    @functools.cached_property
    def _histories(self) -> Histories:
        return Histories(self._tables, self._meta, self._found)

    def _of_call(self, call: int) -> slice:
        return slice(int(self._starts[call]), int(self._starts[call + 1]))

    @property
    def unknown(self) -> int:
        """Entries whose outcome is unknown."""
        unknown = (self._rows["outcome"] == UNKNOWN) & ~self._is_own
        return int(unknown.sum()) + self._found.beyond_bound

    @property
    def count(self) -> int:
        """Entries of the recording, those that were not read, too, but for mptrace's own calls'."""
        return int((~self._is_own).sum()) + self._found.beyond_bound

    @property
    def own_stayed(self) -> int:
        """Entries of mptrace's own calls whose pages stayed."""
        return int((np.isin(self._rows["outcome"], (FAILED, NOT_ATTEMPTED)) & self._is_own).sum())

    # ---- what is said of them

    def each(self, which: Ints) -> Iterator[Explanation]:
        """An explanation for each of these rows."""
        obstacles = self._obstacles(which)
        for row, obstacle in zip(which.tolist(), obstacles.tolist(), strict=True):
            yield self._explain(row, obstacle)

    def blocks(self, which: Ints) -> list[Block]:
        """The same, equal ones together, most frequent first."""
        if not which.size:
            return []
        some = self._rows[which]
        obstacles = self._obstacles(which)
        told = some["has_status"].astype(np.int64)
        shape = np.zeros(which.size, np.int64)
        for column in (
            some["cause"].astype(np.int64),
            some["outcome"].astype(np.int64),
            some["entry_reason"].astype(np.int64),
            np.where(told != 0, some["status_after"], 0).astype(np.int64),
            told,
            *self._findings.shape(obstacles),
        ):
            values, place = ranks(column)
            shape = ranks(shape * values.size + place)[1]
        order = np.argsort(shape, kind="stable")
        starts = np.searchsorted(shape[order], np.arange(int(shape.max()) + 2))
        blocks = []
        for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            members = order[first:last]
            others = some[members[1 : 1 + MOST_NAMED]]
            blocks.append(
                Block(
                    int(members.size),
                    self._explain(int(which[members[0]]), int(obstacles[members[0]])),
                    tuple(
                        (int(other["call"]), int(other["entry"]), int(other["address"]))
                        for other in others
                    ),
                    self._findings.ranges(obstacles[members]),
                )
            )
        return sorted(blocks, key=lambda block: -block.count)

    def evidence_line(self, which: Ints) -> str:
        """The evidence of the first of these entries that has any, in one line; "" for none."""
        obstacles = self._obstacles(which)
        has = np.flatnonzero(obstacles >= 0)
        at = int(has[0]) if has.size else 0
        row = self._rows[which[at]]
        if row["outcome"] != FAILED:
            return ""
        findings = self._findings.all_of(int(obstacles[at]), self._folio(row))
        return line(cause_name(int(row["cause"])), findings)

    def _obstacles(self, which: Ints) -> Ints:
        some = self._rows[which]
        calls = self._found.call_ids[some["call"]]
        rows = self._findings.rows_of(some["folio"], calls, some["address"])
        # Of entries that nobody looked at there is nothing to be said.
        return np.where(some["outcome"] == NOT_ATTEMPTED, -1, rows)

    def _folio(self, row: Any) -> Any | None:
        if row["folio"] < 0 or row["outcome"] == NOT_ATTEMPTED:
            return None
        return self._tables["folios"][int(row["folio"])]

    def _explain(self, number: int, obstacle: int) -> Explanation:
        row = self._rows[number]
        folio = self._folio(row)
        stayed = row["outcome"] == FAILED
        cause = cause_name(int(row["cause"]))
        has_location = bool(row["has_location"])
        address = None if row["unread"] & READ_PAGES else int(row["address"])
        nid = -1 if folio is None else int(folio["src_nid"])
        # The recorded state is that of the folio's refusals: no evidence of a page that moved.
        evidence = self._findings.all_of(obstacle, folio) if stayed else ()
        gap = ""
        if stayed and obstacle < 0:
            evidence += self._of_the_call(row, cause)
            gap = "" if evidence and cause in _STATELESS else self._findings.gap(obstacle, folio)
        state = self._status_state(row)
        status = int(row["status_after"]) if state == "written" else None
        meaning = page_status(status) if state != "unknown" else None
        return Explanation(
            call=int(row["call"]),
            call_id=int(self._found.call_ids[int(row["call"])]),
            entry=int(row["entry"]),
            address=address,
            mapping=None if address is None else self._mappings.name(address),
            target_nid=None if row["unread"] & READ_NODES else int(row["target_nid"]),
            source_nid=nid if nid >= 0 else None,
            outcome=OUTCOMES[row["outcome"]],
            entry_reason=ENTRY_REASONS[row["entry_reason"]],
            status=status,
            status_state=state,
            status_meaning=meaning.meaning if meaning is not None else "",
            status_remedy=meaning.remedy if meaning is not None else "",
            status_story=tuple(self._story(number, row, cause, status, state)),
            cause=cause_of(cause),
            evidence=evidence,
            gap=gap,
            delay=self._findings.delay(obstacle) if not stayed else None,
            before_nid=int(row["before_nid"]) if has_location else None,
            final_nid=int(row["final_nid"]) if has_location else None,
            witnesses=WITNESSES[row["witnesses"]],
            later=self._histories.step(int(row["later"])) if row["later"] >= 0 else None,
        )

    def _of_the_call(self, row: Any, cause: str) -> tuple[Finding, ...]:
        """Evidence that is no state of a folio, of causes that rest on none."""
        if cause == "no_vma":
            function = self._findings.function("vma")
            return (Finding("refusal", None, f"{function} was not asked: no mapping was found"),)
        if cause != "ended_before_its_turn":
            return ()
        return (self._end_of_group(int(row["call"])),)

    def _end_of_group(self, call: int) -> Finding:
        """What ended a call's failed group before the turn of some of its folios."""
        if call not in self._ends:
            rc, stayed = self._failed_group(call)
            name = "an error" if rc is None else f"{rc} {errno_name(-rc)}"
            others = stayed[self._rows["cause"][stayed] != cause_code("ended_before_its_turn")]
            after = f", after {self._named(others)}" if others.size else ""
            words = f"{self._findings.function('migration')} returned {name} first{after}"
            self._ends[call] = Finding("refusal", {"stage": "", "rc": rc}, words)
        return self._ends[call]

    @staticmethod
    def _status_state(row: Any) -> str:
        if row["has_status"]:
            return "written"
        return "untouched" if row["written"] == UNTOUCHED else "unknown"

    # ---- why the status is what it is

    def _story(
        self, number: int, row: Any, cause: str, status: int | None, state: str
    ) -> Iterator[str]:
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
                never = int((self._rows["outcome"][self._of_call(call)] == NOT_ATTEMPTED).sum())
                rest = ret - rc
                story = "positive" if rest >= never else "count_too_small"
                yield STORIES[story].format(ret=ret, rc=rc, rest=max(rest, never))
        elif state == "untouched" and ret is not None and ret < 0 and row["outcome"] == MOVED:
            name = f"{ret} {errno_name(-ret)}"
            yield STORIES["error_hides"].format(ret=name)

    def _untouched(self, row: Any, cause: str) -> str:
        call = int(row["call"])
        if row["outcome"] == NOT_ATTEMPTED:
            if cause.startswith("call_refused"):
                return STORIES["call_refused"]
            return STORIES["ended_before"].format(because=self._because(call, cause))
        rc, stayed = self._failed_group(call)
        if rc is None:
            return STORIES[
                "unstored" if self._ret(call) == -errno.EFAULT else "group_failed_nowhere"
            ]
        name = f"{rc} {errno_name(-rc)}" if rc < 0 else str(rc)
        story = "group_failed_moved" if row["outcome"] == MOVED else "group_failed"
        return STORIES[story].format(rc=name, stayed=self._named(stayed))

    def _because(self, call: int, cause: str) -> str:
        bad = self._bad_entry(call) if cause != "aborted_by_earlier_group" else ""
        if bad:
            return bad
        rc, stayed = self._failed_group(call)
        if rc is None:
            return "an earlier group failed, whose records are missing"
        return f"an earlier group failed: {self._named(stayed)}"

    def _bad_entry(self, call: int) -> str:
        """The entry whose node or arrays ended a call, and why; "" for none."""
        if call not in self._bad_entries:
            codes = {cause_code(name): words for name, words in _BAD_NODES.items()}
            own = self._rows[self._of_call(call)]
            first = np.flatnonzero(np.isin(own["cause"], list(codes)))
            text = ""
            if first.size:
                bad = own[first[0]]
                entry, node = f"entry {bad['entry']}", int(bad["target_nid"])
                text = codes[int(bad["cause"])].format(entry=entry, node=node)
            self._bad_entries[call] = text
        return self._bad_entries[call]

    def _named(self, stayed: Ints) -> str:
        """A few of a group's entries whose pages stayed, with their causes."""
        if not stayed.size:
            return "which of its pages stayed was not recorded"
        some = self._rows[stayed[:MOST_NAMED]]
        named = ", ".join(f"entry {row['entry']} ({cause_name(int(row['cause']))})" for row in some)
        more = and_more(stayed.size - some.size, "", "mptrace dump --failed", inline=True)
        return f"{named}{' ' if more else ''}{more} stayed"

    def _failed_group(self, call: int) -> tuple[int | None, Ints]:
        """What migrate_pages() of a call's failed group returned, and its entries that stayed."""
        if call not in self._failed_groups:
            migrations, folios = self._tables["migrations"], self._tables["folios"]
            own = migrations[migrations["call_id"] == self._found.call_ids[call]]
            failed = own[own["rc"] != 0]
            rc = int(failed["rc"][-1]) if failed.size else None
            stayed = np.zeros(0, np.int64)
            if failed.size:
                where = self._of_call(call)
                rows = self._rows[where]
                at = np.flatnonzero((rows["outcome"] == FAILED) & (rows["folio"] >= 0))
                records = folios[rows["folio"][at]]
                # A folio whose turn never came has no migration of its own.
                last = failed["migration_id"][-1]
                named = (records["migration_id"] == 0) | (records["migration_id"] == last)
                queued = (records["isolate_rc"] == 0) | (records["lookup_seq"] == NO_LOOKUP)
                stayed = where.start + at[named & queued]
            self._failed_groups[call] = rc, stayed
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


__all__ = ["MOST_BLOCKS", "Block", "Explainer", "Explanation", "Which"]
