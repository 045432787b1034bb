# SPDX-License-Identifier: GPL-2.0-or-later
"""Why each page stayed, and why its entry has the status that it has.  Pure.

The outcome and its cause come from the correlator; here the evidence behind them,
the story of the status and the remedy are put together, entry by entry, for
those entries that somebody asks about.
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.errors import UsageError
from mptrace.explain.evidence import Evidence
from mptrace.explain.findings import Finding, NotAsked
from mptrace.explain.first_evidence import folio_of, obstacles_of
from mptrace.explain.stories import MOST_NAMED, Stories
from mptrace.explain.words import Worded, gap_words, worded
from mptrace.outcomes.causes import table as causes
from mptrace.outcomes.causes.rules import cause_meaning, cause_name
from mptrace.outcomes.causes.statuses import RETURN_CODES, page_status
from mptrace.outcomes.causes.table import Cause
from mptrace.outcomes.chosen import Chosen
from mptrace.outcomes.correlate import (
    ENTRY_REASONS,
    FAILED,
    NOT_ATTEMPTED,
    UNKNOWN,
    UNTOUCHED,
    Correlation,
    correlate,
)
from mptrace.outcomes.history import Histories, History, Step
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.outcomes.own import own_of
from mptrace.outcomes.places import Place
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import OUTCOMES, READ_NODES, READ_PAGES, WITNESSES
from mptrace.recording.meta import Meta
from mptrace.recording.when import Clock

#: Blocks of equal pages that are told apart.
MOST_BLOCKS = 20

# Causes that rest on no state of a folio: what the call did is all the evidence.
_STATELESS = ("no_vma", "ended_before_its_turn")


@dataclass(frozen=True)
class Which:
    """Which entries: one, those of a page, or (by default) of every page that stayed."""

    entry: tuple[int, int] | None = None  # call's ordinal, index in its arrays
    address: int | None = None
    pids: tuple[int, ...] = ()  # with an address: whose


@dataclass(frozen=True)
class Explanation:
    """One entry: what became of its page and why, and why it was told what it was told.

    ``status`` is None where the kernel stored none; ``status_state`` says whether
    it is ``written``, ``untouched`` or ``unknown``.  ``gap`` says why there is no
    evidence, where there is none of a page that stayed.  ``start_ns`` (CLOCK_MONOTONIC)
    and ``start_utc`` (ISO 8601) say when the kernel first took up the page, or, where no
    record tells that, when the call began; None where that is not known either.
    ``later`` is the move by somebody else that took the page on to ``final_nid``.
    All values are JSON-able.
    """

    call: int
    call_id: int
    entry: int
    address: int | None
    mapping: str | None
    start_ns: int | None
    start_utc: str | None
    lies_in: Place
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
    evidence: tuple[Worded, ...]
    gap: str
    delay: Worded | None
    before_nid: int | None
    final_nid: int | None
    witnesses: str
    later: Step | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the address in hexadecimal, as everywhere."""
        plain = asdict(self)
        plain["address"] = None if self.address is None else hex(self.address)
        plain["lies_in"] = self.lies_in.as_dict()
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
    :param chosen: rows that are selected, of these tables; None: all.
    """

    def __init__(
        self,
        tables: Tables,
        meta: Meta,
        correlation: Correlation | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self._tables, self._meta = tables, meta
        self._found = correlation or correlate(tables, meta)
        self._rows = self._found.rows
        out = own_of(tables, meta).of_calls(tables["calls"], self._found.call_ids)
        self._is_own = out[self._rows["call"]]
        self._is_in = np.ones(self._rows.size, np.bool_)
        self._beyond, self._folios_in = self._found.beyond_bound, None
        if chosen is not None:
            self._is_in, self._folios_in = chosen.masks["entries"], chosen.masks["folios"]
            self._beyond = chosen.beyond_bound
        self._evidence = Evidence(tables, meta)
        self._mappings, self._lying = Mappings(meta.mappings), Lying(tables, meta)
        self._page = meta.kernel.page_size
        self._stories = Stories(tables, self._found)
        self._clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))

    # ---- which entries

    def select(self, which: Which) -> Ints:
        """Rows of the entries asked for, in order; raises UsageError for what is not there."""
        if which.entry is not None:
            return self._one(*which.entry)
        if which.address is not None:
            return self._at(which.address, which.pids)
        stayed = np.isin(self._rows["outcome"], (FAILED, NOT_ATTEMPTED))
        return np.flatnonzero(stayed & ~self._is_own & self._is_in)

    def _one(self, call: int, entry: int) -> Ints:
        calls = self._found.call_ids.size
        if call >= calls:
            known = f"its calls are 0 to {calls - 1}" if calls else "it has no calls"
            raise UsageError(
                f"the recording has no call {call}", f"{known}: mptrace dump --table calls"
            )
        own = self._rows["entry"][self._stories.rows_of(call)]
        row = np.searchsorted(own, entry)
        if row < own.size and own[row] == entry:
            return np.array([self._stories.rows_of(call).start + row], np.int64)
        hint = (
            f"its entries are 0 to {int(own[-1])}" if own.size else "no entries of it were recorded"
        )
        if entry >= self._meta.max_entries:
            hint += "; those beyond it are not read"
        raise UsageError(f"call {call} has no entry {entry}", hint)

    def _at(self, address: int, pids: tuple[int, ...]) -> Ints:
        rows, folios = self._rows, self._tables["folios"]
        known = (rows["unread"] & READ_PAGES) == 0
        pages = np.ones(rows.size, np.uint64)
        has = rows["folio"] >= 0
        pages[has] = np.maximum(folios["nr_pages"][rows["folio"][has]], 1)
        # A large folio lies at a multiple of its size, in the process, too.
        size = pages * np.uint64(self._page)
        same = (rows["address"] // size) == (np.uint64(address) // size)
        if pids:
            same &= np.isin(self._targets[rows["call"]], (*pids, 0))
        found = np.flatnonzero(known & same & self._is_in)
        if not found.size and not (known & same).any():
            hint = "the recording has no entries"
            if known.any():
                low, high = rows["address"][known].min(), rows["address"][known].max()
                hint = f"its addresses lie in {low:#x}..{high:#x}: mptrace dump"
            whose = f" of process {', '.join(map(str, pids))}" if pids else ""
            raise UsageError(f"no entry is for a page{whose} that contains '{address:#x}'", hint)
        return found

    @functools.cached_property
    def _targets(self) -> Ints:
        """The process that each call is about, 0: unknown."""
        known = self._found.call_row >= 0
        targets = np.zeros(known.size, np.int64)
        targets[known] = self._tables["calls"]["target_tgid"][self._found.call_row[known]]
        return targets

    def histories(self, address: int, *pids: int) -> list[History]:
        """What was done to the page at an address, by process: see `history`."""
        return self._histories.of(address, *pids)

    @functools.cached_property
    def _histories(self) -> Histories:
        return Histories(self._tables, self._meta, self._found, self._folios_in)

    @property
    def unknown(self) -> int:
        """Entries whose outcome is unknown."""
        unknown = (self._rows["outcome"] == UNKNOWN) & ~self._is_own & self._is_in
        return int(unknown.sum()) + self._beyond

    @property
    def count(self) -> int:
        """Entries of the recording, those that were not read, too, but for mptrace's own calls'."""
        return int((~self._is_own & self._is_in).sum()) + self._beyond

    @property
    def own_stayed(self) -> int:
        """Entries of mptrace's own calls whose pages stayed."""
        stayed = np.isin(self._rows["outcome"], (FAILED, NOT_ATTEMPTED)) & self._is_own
        return int((stayed & self._is_in).sum())

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
            *self._evidence.shape(obstacles),
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
                    self._evidence.ranges(obstacles[members]),
                )
            )
        return sorted(blocks, key=lambda block: -block.count)

    def _obstacles(self, which: Ints) -> Ints:
        return obstacles_of(self._evidence, self._found, self._rows[which])

    def _folio(self, row: Any) -> Any | None:
        return folio_of(self._tables, row)

    def _explain(self, number: int, obstacle: int) -> Explanation:
        row = self._rows[number]
        folio = self._folio(row)
        stayed = row["outcome"] == FAILED
        cause = cause_name(int(row["cause"]))
        has_location = bool(row["has_location"])
        address = None if row["unread"] & READ_PAGES else int(row["address"])
        nid = -1 if folio is None else int(folio["src_nid"])
        # The recorded state is that of the folio's refusals: no evidence of a page that moved.
        evidence = self._evidence.all_of(obstacle, folio) if stayed else ()
        gap = ""
        if stayed and obstacle < 0:
            evidence += self._of_the_call(row, cause)
            if not evidence or cause not in _STATELESS:
                gap = gap_words(self._evidence.gap(obstacle, folio))
        delay = None if stayed else self._evidence.delay(obstacle)
        state = self._status_state(row)
        status = int(row["status_after"]) if state == "written" else None
        meaning = page_status(status) if state != "unknown" else None
        start = self._start(row, folio)
        return Explanation(
            call=int(row["call"]),
            call_id=int(self._found.call_ids[int(row["call"])]),
            entry=int(row["entry"]),
            address=address,
            mapping=None if address is None else self._mappings.name(address),
            start_ns=start or None,
            start_utc=self._clock.utc(start),
            lies_in=self._place(int(row["call"]), address),
            target_nid=None if row["unread"] & READ_NODES else int(row["target_nid"]),
            source_nid=nid if nid >= 0 else None,
            outcome=OUTCOMES[row["outcome"]],
            entry_reason=ENTRY_REASONS[row["entry_reason"]],
            status=status,
            status_state=state,
            status_meaning=meaning.meaning if meaning is not None else "",
            status_remedy=meaning.remedy if meaning is not None else "",
            status_story=tuple(self._stories.of(number, cause, status, state)),
            cause=cause_of(cause),
            evidence=tuple(worded(finding) for finding in evidence),
            gap=gap,
            delay=None if delay is None else worded(delay),
            before_nid=int(row["before_nid"]) if has_location else None,
            final_nid=int(row["final_nid"]) if has_location else None,
            witnesses=WITNESSES[row["witnesses"]],
            later=self._histories.step(int(row["later"])) if row["later"] >= 0 else None,
        )

    def _start(self, row: Any, folio: Any | None) -> int:
        """When the page was taken up, else when its call began; 0: not known."""
        if folio is not None and folio["start_ns"]:
            return int(folio["start_ns"])
        record = int(self._found.call_row[int(row["call"])])
        return int(self._tables["calls"]["enter_ns"][record]) if record >= 0 else 0

    def _place(self, call: int, address: int | None) -> Place:
        record = int(self._found.call_row[call])
        began = int(self._tables["calls"]["enter_ns"][record]) if record >= 0 else 0
        return self._lying.at(int(self._targets[call]), address or 0, began)

    def _of_the_call(self, row: Any, cause: str) -> tuple[Finding, ...]:
        """Evidence that is no state of a folio, of causes that rest on none."""
        if cause == "no_vma":
            return (NotAsked(self._evidence.function("vma")),)
        if cause == "ended_before_its_turn":
            function = self._evidence.function("migration")
            return (self._stories.group_ended(int(row["call"]), function),)
        return ()

    @staticmethod
    def _status_state(row: Any) -> str:
        if row["has_status"]:
            return "written"
        return "untouched" if row["written"] == UNTOUCHED else "unknown"


__all__ = ["MOST_BLOCKS", "Block", "Explainer", "Explanation", "Which"]
