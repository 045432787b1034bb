# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge of recorded calls: a plain model of move_pages(2), and the comparison.

`predict` says from where the pages were before, which of them a pipe holds and what
was asked for, what must become of every entry, one after the other, as the man page
and the kernel's source have it.  It knows nothing of the tracer.  `compare` first
holds it against what the kernel did (return value, statuses, where the pages are
afterwards), so that a wrong model is found out, and then against mptrace's rows.
"""

import errno
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import ENTRY_REASONS, UNTOUCHED, WRITTEN, Correlation, correlate
from mptrace.outcomes.implied import with_implied
from mptrace.recording.layouts import DRIVER_CALL, LOCATION, OUTCOMES, WITNESSES
from mptrace.recording.meta import Meta

PLAIN, PINNED, UNMAPPED, NEVER_TOUCHED = range(4)
_HUGE = 16  # added for a page of a huge one
_SHOWN = 12


@dataclass
class Told:
    """One call: what it was asked for and what the mover was told; arrays by entry."""

    about: dict
    address: np.ndarray
    target: np.ndarray
    folio: np.ndarray
    what: np.ndarray
    status: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def ret(self) -> int:
        """What move_pages(2) returned, -errno for an error."""
        return self.about["ret"]


class Recorded:
    """A section that record_calls.py left: tables of the tracer, calls of the movers."""

    def __init__(self, path: Path, *, less: bool = False) -> None:
        """:param less: what the second tracer saw, at the level of detail `outcomes`."""
        names = ["calls", "migrations", "folios", "entries"]
        names += ["lookups", "obstacles", "waits"] * less
        with np.load(path) as data:
            self.about = json.loads(str(data["about"]))
            self.tables = {name: data["less_" * less + name] for name in names}
            told = [
                data[f"told_{name}"]
                for name in ("address", "target", "folio", "what", "status", "before", "after")
            ]
        self.meta = Meta.of({**self.about["meta"], **(self.about["less"] if less else {})})
        self.extra = self.about["extra"]
        ends = np.cumsum([about["entries"] for about in self.about["calls"]])
        self.told = [
            Told(about, *(column[end - about["entries"] : end] for column in told))
            for about, end in zip(self.about["calls"], ends, strict=True)
        ]
        self.nodes = [node.nid for node in self.meta.nodes]
        # Of the kernels' two ways to say it each has one (KERNEL.md 2.2): those
        # with folio_walk_start() tell a page that isn't there from one that can't be.
        lookup = self.meta.phases["lookup"].attach
        self.never_touched = -errno.ENOENT if lookup == "folio_walk_start" else -errno.EFAULT

    def located(self) -> dict:
        """The tables with those of a driver, filled from the mover's queries."""
        driver = np.zeros(len(self.told), DRIVER_CALL)
        locations = []
        for number, told in enumerate(self.told):
            for name in ("tid", "before_ns", "after_ns", "entries"):
                driver[name][number] = told.about[name]
            driver["driver_call"][number] = number
            driver["ret"][number] = max(told.ret, -1)
            driver["errno_"][number] = max(-told.ret, 0)
            if told.about["located"]:
                rows = np.zeros(len(told.address), LOCATION)
                rows["driver_call"] = number
                rows["entry"] = np.arange(len(rows))
                rows["address"] = told.address
                rows["before_nid"], rows["final_nid"] = told.before, told.after
                locations.append(rows)
        return {
            **self.tables,
            "driver_calls": driver,
            "locations": np.concatenate([np.empty(0, LOCATION), *locations]),
        }

    def correlated(self, **changed: object) -> Correlation:
        """mptrace's verdicts; ``changed`` replaces tables or, as ``lost``, the losses."""
        meta = self.meta
        if "lost" in changed:
            meta = Meta.of({**meta.raw, "lost": changed.pop("lost")})
        return correlate(with_implied({**self.located(), **changed}, meta), meta)

    def rows_of(self, found: Correlation) -> list:
        """mptrace's rows of each of the mover's calls, None where it has no such call.

        A call is known by its thread and its time, not by its place in the record.
        """
        calls = self.tables["calls"]
        ordinal = dict(zip(found.call_ids.tolist(), range(len(found.call_ids)), strict=True))
        starts = np.searchsorted(found.rows["call"], np.arange(len(found.call_ids) + 1))
        result = []
        for told in self.told:
            own = calls[
                (calls["tid"] == told.about["tid"])
                & (calls["enter_ns"] >= told.about["before_ns"])
                & (calls["exit_ns"] <= told.about["after_ns"])
            ]
            assert len(own) <= 1, "two calls of a thread at one time"
            if not len(own):
                result.append(None)
                continue
            number = ordinal[int(own["call_id"][0])]
            result.append((own[0], found.rows[starts[number] : starts[number + 1]]))
        return result


@dataclass
class Predicted:
    """What must come out of a call; lists by entry."""

    ret: int
    status: list  # None: untouched
    outcome: list
    reason: list
    after: list


def predict(told: Told, nodes: list, never_touched: int) -> Predicted:
    """The model: walk the entries as do_pages_move() does, page after page.

    Folios are where ``told.before`` says; one that a pipe holds never moves.
    """
    count = len(told.address)
    where = {}
    for folio, nid in zip(told.folio.tolist(), told.before.tolist(), strict=True):
        where[folio] = nid
    page = (told.address // 4096).tolist()
    target, folio, what = told.target.tolist(), told.folio.tolist(), (told.what % _HUGE).tolist()
    status = [None] * count
    outcome = ["not_attempted"] * count
    reason = [""] * count
    moves = {}  # folio -> [(entry, target)] of moves done in this call
    group, group_target, started = [], None, 0
    ret = 0

    def kin(index: int, other: int) -> str:
        return "duplicate" if page[index] == page[other] else "same_folio"

    def flush(end: int) -> int:
        """Move the group, then tell its entries; the number that stayed behind."""
        failed = 0
        for index in group:
            if what[index] == PINNED:
                outcome[index], failed = "failed", failed + 1
            else:
                outcome[index] = "moved"
                where[folio[index]] = target[index]
                moves.setdefault(folio[index], []).append((index, target[index]))
        for index in busy:
            outcome[index] = outcome[queued[folio[index]]]
            reason[index] = kin(index, queued[folio[index]])
        if not failed:
            for index in range(started, end):
                status[index] = target[index]
        group.clear()
        queued.clear()
        busy.clear()
        return failed

    queued, busy = {}, []
    ended = count
    for index in range(count):
        if target[index] not in nodes:
            ret, ended = -errno.ENODEV, index
            break
        if group and target[index] != group_target:
            failed = flush(index)
            if failed:
                ret, ended = failed + count - index, index
                break
            started = index
        elif not group:
            started = index
        group_target = target[index]
        if what[index] == UNMAPPED:
            own, outcome[index] = -errno.EFAULT, "failed"
        elif what[index] == NEVER_TOUCHED:
            own, outcome[index] = never_touched, "failed"
        elif folio[index] in queued:
            own = -errno.EBUSY
            busy.append(index)
        elif where[folio[index]] == target[index]:
            own = target[index]
            if folio[index] in moves:
                outcome[index] = "moved"
                reason[index] = kin(index, moves[folio[index]][-1][0])
            else:
                outcome[index] = "already_there"
        else:
            group.append(index)
            queued[folio[index]] = index
            continue
        status[index] = own
        failed = flush(index)
        if failed:
            ret, ended = failed + count - index - 1, index + 1
            break
    if group:
        failed = flush(ended)
        ret = ret if ret < 0 or not failed else failed

    after = [where[own] for own in folio]
    for index in range(count):
        own = moves.get(folio[index])
        if index >= ended and own:
            # never attempted, but an earlier entry of the call moved its page
            earlier = page[:ended]
            reason[index] = "duplicate" if page[index] in earlier else "same_folio"
            if after[index] == target[index]:
                outcome[index] = "moved"
        elif outcome[index] in ("moved", "already_there") and after[index] != target[index]:
            reason[index] = "moved_again"
    return Predicted(ret, status, outcome, reason, after)


@dataclass
class Judged:
    """The result of comparing a section: what was checked, and everything that differs."""

    calls: int = 0
    entries: int = 0
    outcomes: Counter = field(default_factory=Counter)
    witnesses: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    silent_moved: int = 0
    wrong: list = field(default_factory=list)

    def differ(self, call: int, entry: int, what: str, mptrace: object, oracle: object) -> None:
        """Keep a difference for the report."""
        self.wrong.append(f"call {call} entry {entry} {what}: {mptrace}, must be {oracle}")

    def __str__(self) -> str:
        shown = "".join(f"\n  {line}" for line in self.wrong[:_SHOWN])
        return (
            f"{self.calls} calls, {self.entries} entries: {dict(self.outcomes)}, "
            f"witnesses {dict(self.witnesses)}, reasons {dict(self.reasons)}, "
            f"{len(self.wrong)} differences{shown}"
        )


def compare(recorded: Recorded, found: Correlation) -> Judged:
    """Every entry of a section that lost nothing against the model and the kernel."""
    judged = Judged()
    folios = recorded.tables["folios"]
    for number, (told, own) in enumerate(zip(recorded.told, recorded.rows_of(found), strict=True)):
        judged.calls += 1
        if own is None:
            judged.differ(number, -1, "call", "not recorded", "recorded")
            continue
        call, rows = own
        must = predict(told, recorded.nodes, recorded.never_touched)
        _compare_call(judged, number, told, must, call, rows)
        moved = folios[(folios["call_id"] == call["call_id"]) & (folios["move_rc"] == 0)]
        grown = told.about["vmstat"]
        if grown and told.about["together"] == 1 and "what" not in told.about:
            pages = int(moved["nr_pages"].sum())
            if grown["pgmigrate_success"] != pages:
                judged.differ(number, -1, "pages moved", pages, grown["pgmigrate_success"])
    return judged


def _compare_call(judged, number, told, must, call, rows) -> None:
    count = len(told.address)
    sentinel = told.about["sentinel"]
    if told.ret != must.ret:
        judged.differ(number, -1, "the model's return value", must.ret, told.ret)
    if int(call["ret"]) != told.ret:
        judged.differ(number, -1, "return value", int(call["ret"]), told.ret)
    if len(rows) != count:
        judged.differ(number, -1, "rows", len(rows), count)
        return
    judged.entries += count
    for index in range(count):
        row, status = rows[index], int(told.status[index])
        outcome = OUTCOMES[row["outcome"]]
        witnesses = WITNESSES[row["witnesses"]]
        reason = ENTRY_REASONS[row["entry_reason"]]
        judged.outcomes[outcome] += 1
        judged.witnesses[witnesses] += 1
        judged.reasons[reason] += 1

        def differ(what: str, mptrace: object, oracle: object, index: int = index) -> None:
            judged.differ(number, index, what, mptrace, oracle)

        # the model against the kernel
        wanted = must.status[index]
        if status != (sentinel if wanted is None else wanted):
            differ("the model's status", wanted, status)
        if told.about["located"] and int(told.after[index]) != must.after[index]:
            differ("the model's place", must.after[index], int(told.after[index]))
        # mptrace against both
        if int(row["address"]) != int(told.address[index]):
            differ("address", int(row["address"]), int(told.address[index]))
        if int(row["target_nid"]) != int(told.target[index]):
            differ("target", int(row["target_nid"]), int(told.target[index]))
        if int(row["status_after"]) != status:
            differ("status read", int(row["status_after"]), status)
        if row["written"] != (UNTOUCHED if wanted is None else WRITTEN):
            differ("written", int(row["written"]), wanted is not None)
        if wanted is not None and int(row["status_expected"]) != wanted:
            differ("status expected", int(row["status_expected"]), wanted)
        if witnesses == "disagree":
            differ("witnesses", witnesses, "agree or silent")
        if outcome != must.outcome[index]:
            cause = cause_name(row["cause"])
            differ("outcome", f"{outcome} ({cause})", must.outcome[index])
        elif reason != must.reason[index]:
            differ("reason", reason, must.reason[index])
        elif outcome == "moved" and wanted is None:
            judged.silent_moved += 1


def compare_whole(recorded: Recorded, found: Correlation) -> Judged:
    """As `compare`, for calls of one group: no duplicate, all pages to move to one node."""
    judged = Judged()
    folios = recorded.tables["folios"]
    for number, (told, own) in enumerate(zip(recorded.told, recorded.rows_of(found), strict=True)):
        judged.calls += 1
        if own is None:
            judged.differ(number, -1, "call", "not recorded", "recorded")
            continue
        call, rows = own
        held = told.what == PINNED
        silent = held.any()
        judged.entries += len(rows)
        checks = {
            "the model's place": told.after == np.where(held, told.before, told.target),
            "the model's status": told.status
            == (told.about["sentinel"] if silent else told.target),
            "address": rows["address"] == told.address,
            "target": rows["target_nid"] == told.target,
            "status read": rows["status_after"] == told.status,
            "written": rows["written"] == (UNTOUCHED if silent else WRITTEN),
            "outcome": rows["outcome"]
            == np.where(held, OUTCOMES.index("failed"), OUTCOMES.index("moved")),
            "reason": rows["entry_reason"] == 0,
            "witnesses": rows["witnesses"] == WITNESSES.index("silent" if silent else "agree"),
        }
        for what, good in checks.items():
            for index in np.flatnonzero(~good)[:_SHOWN]:
                judged.differ(number, int(index), what, "another", "see the arrays")
        if int(call["ret"]) != told.ret or told.ret != int(held.sum()):
            judged.differ(number, -1, "return value", int(call["ret"]), told.ret)
        for name, words in (("outcome", OUTCOMES), ("witnesses", WITNESSES)):
            values, counts = np.unique(rows[name], return_counts=True)
            counter = judged.outcomes if name == "outcome" else judged.witnesses
            for value, some in zip(values, counts, strict=True):
                counter[words[value]] += int(some)
        moved = folios[(folios["call_id"] == call["call_id"]) & (folios["move_rc"] == 0)]
        if told.about["vmstat"]["pgmigrate_success"] != int(moved["nr_pages"].sum()):
            judged.differ(number, -1, "pages moved", len(moved), told.about["vmstat"])
        if silent:
            judged.silent_moved += int((rows["outcome"] == OUTCOMES.index("moved")).sum())
    return judged


def compare_lossy(recorded: Recorded, found: Correlation) -> Judged:
    """Every entry is unknown or named right: where records are missing none may be wrong."""
    judged = Judged()
    for number, (told, own) in enumerate(zip(recorded.told, recorded.rows_of(found), strict=True)):
        judged.calls += 1
        if own is None:
            continue
        _, rows = own
        must = predict(told, recorded.nodes, recorded.never_touched)
        for index in range(len(rows)):
            row = rows[index]
            outcome, witnesses = OUTCOMES[row["outcome"]], WITNESSES[row["witnesses"]]
            judged.entries += 1
            judged.outcomes[outcome] += 1
            judged.witnesses[witnesses] += 1
            if witnesses == "disagree":
                judged.differ(number, index, "witnesses", witnesses, "anything else")
            if outcome not in ("unknown", must.outcome[index]):
                judged.differ(number, index, "outcome", outcome, must.outcome[index])
    return judged
