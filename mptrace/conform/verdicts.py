# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario was expected to do, and what a kernel did: as documented, different, a surprise.

Pure.  The expectation of a scenario is taken as it stands (`scenarios.base`), the
call as its caller saw it (``stage.Made.to_dict()``), the events as rows of
`correlate`.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from mptrace.arrays import Table
from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import ENTRY_REASONS
from mptrace.recording.layouts import OUTCOMES, WITNESSES
from mptrace.units import and_more, many

AS_DOCUMENTED, DIFFERENT, SURPRISE, SKIPPED, ERROR = VERDICTS = (
    "as_documented",
    "different",
    "surprise",
    "skipped",
    "error",
)
#: Verdicts after which `mptrace conform` fails.
BAD = (SURPRISE, ERROR)

#: Differences that are told one by one; the rest are counted.
_MOST = 12


class ExpectedEntry(Protocol):
    """`scenarios.base.Entry`, read-only."""

    @property
    def status(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def entry_reason(self) -> str: ...
    @property
    def delay(self) -> str: ...
    @property
    def times(self) -> int: ...


class Expected(Protocol):
    """`scenarios.base.Expectation`, read-only."""

    @property
    def ret(self) -> str: ...
    @property
    def entries(self) -> Sequence[ExpectedEntry]: ...
    @property
    def why(self) -> str: ...


@dataclass(frozen=True)
class SeenEntry:
    """What the events say of one entry: words of `recording.layouts`, a name of a cause.

    ``delay``: what the migration had to wait for, see ``obstacles.waited_for``.
    """

    outcome: str
    cause: str
    entry_reason: str
    witnesses: str
    delay: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """One of :data:`VERDICTS`, and where it is a surprise the differences in words."""

    kind: str
    differences: tuple[str, ...] = ()


def seen_entries(rows: Table, tables: Mapping[str, Table]) -> list[SeenEntry]:
    """Rows of one call, dtype ``correlate.ROW``, as words; ``tables`` are the records."""
    names = {int(code): cause_name(int(code)) for code in np.unique(rows["cause"])}
    fields = (rows[name].tolist() for name in ("outcome", "cause", "entry_reason", "witnesses"))
    return [
        SeenEntry(
            OUTCOMES[outcome], names[cause], ENTRY_REASONS[reason], WITNESSES[witnesses], delay
        )
        for outcome, cause, reason, witnesses, delay in zip(
            *fields, _delays(rows, tables), strict=True
        )
    ]


def _delays(rows: Table, tables: Mapping[str, Table]) -> list[str]:
    folio = rows["folio"]
    delays = np.full(rows.size, "", object)
    with_folio = np.flatnonzero(folio >= 0)
    obstacle = obstacles.of_folios(tables)[folio[with_folio]]
    has = obstacle >= 0
    delays[with_folio[has]] = obstacles.waited_for(obstacles.of(tables)[obstacle[has]])
    return delays.tolist()


def judge(
    expected: Expected, made: Mapping[str, Any], seen: Sequence[SeenEntry] | None, *, traced: bool
) -> Verdict:
    """Compare a call with what was expected of it.

    :param made: ``stage.Made.to_dict()``.
    :param seen: what the events say of each entry; None where they show no such call.
    :param traced: whether events could be seen at all; where not, the return
        value and the statuses alone are judged.
    """
    differences = []
    if not _returned(expected.ret, made["ret"], made["errno"]):
        differences.append(
            f"returned {return_name(made['ret'], made['errno'])}, not {expected.ret}"
        )
    count = len(made["addresses"])
    wanted = _expanded(expected.entries, count)
    if traced and seen is None:
        differences.append("the kernel's events show no such call")
    if wanted is None:
        named = sum(entry.times for entry in expected.entries)
        differences.append(
            f"the scenario tells {many(named, 'entry', 'entries')}, the call has {count}"
        )
    else:
        differences += _some(_of_statuses(wanted, made))
        if traced and seen is not None:
            differences += _some(_of_events(wanted, seen))
    if differences:
        return Verdict(SURPRISE, tuple(differences))
    return Verdict(DIFFERENT if expected.why else AS_DOCUMENTED)


def return_name(ret: int, number: int) -> str:
    """A return value as people read it: ``0``, ``3``, ``-EPERM``."""
    return f"-{_errno_name(number)}" if number else str(ret)


def status_name(status: int | None) -> str:
    """One status as people read it: ``node 1``, ``-ENOENT``, ``untouched``."""
    if status is None:
        return "untouched"
    return f"node {status}" if status >= 0 else f"-{_errno_name(-status)}"


def _returned(expected: str, ret: int, number: int) -> bool:
    if expected == ">0":
        return ret > 0
    if expected.isdigit():
        return not number and ret == int(expected)
    return bool(number) and _errno_name(number) == expected.lstrip("-")


def _expanded(entries: Sequence[ExpectedEntry], count: int) -> list[ExpectedEntry | None] | None:
    """What is expected of each entry of the call; None where the numbers don't fit.

    None for an entry of a call that is refused as a whole.
    """
    if not entries:
        return [None] * count
    left = count - sum(entry.times for entry in entries)
    open_ended = sum(not entry.times for entry in entries)
    if left < 0 or (left and not open_ended) or open_ended > 1:
        return None
    wanted: list[ExpectedEntry | None] = []
    for entry in entries:
        wanted += [entry] * (entry.times or left)
    return wanted


def _of_statuses(
    wanted: Sequence[ExpectedEntry | None], made: Mapping[str, Any]
) -> Iterable[tuple[int, str]]:
    for number, (entry, status) in enumerate(zip(wanted, made["statuses"], strict=True)):
        name = "untouched" if entry is None else entry.status
        if name == "target":
            right: int | None = made["targets"][number]
        elif name == "untouched":
            right = None
        else:
            right = -int(getattr(errno, name.lstrip("-")))
        if status != right:
            yield number, f"status {status_name(status)}, not {status_name(right)}"


def _of_events(
    wanted: Sequence[ExpectedEntry | None], seen: Sequence[SeenEntry]
) -> Iterable[tuple[int, str]]:
    if len(wanted) != len(seen):
        # a call that lies about its length
        seen = seen[: len(wanted)]
    for number, (entry, event) in enumerate(zip(wanted, seen, strict=False)):
        if entry is None:
            if event.outcome in ("moved", "already_there", "failed"):
                yield number, f"{_told(event)}, in a call that was refused"
            continue
        for name in ("outcome", "cause", "entry_reason"):
            is_, should = getattr(event, name), getattr(entry, name)
            if is_ != should:
                label = name.replace("_", " ")
                yield number, f"{label} '{is_ or 'none'}', not '{should or 'none'}'"
        # any page may have to wait a little; what should have waited must have
        if entry.delay and event.delay != entry.delay:
            yield number, f"waited for '{event.delay or 'nothing'}', not '{entry.delay}'"


def _told(event: SeenEntry) -> str:
    return event.outcome + (f" ({event.cause})" if event.cause else "")


def _some(differences: Iterable[tuple[int, str]]) -> list[str]:
    """Equal differences of entries in a row become one line; too many are counted."""
    runs: list[tuple[int, int, str]] = []
    last: dict[str, int] = {}
    for number, text in differences:
        place = last.get(text, -1)
        if place >= 0 and runs[place][1] == number - 1:
            runs[place] = (runs[place][0], number, text)
        else:
            last[text] = len(runs)
            runs.append((number, number, text))
    lines = [
        f"entry {first}: {text}" if first == end else f"entries {first}-{end}: {text}"
        for first, end, text in runs[:_MOST]
    ]
    more = and_more(len(runs) - _MOST, "", "the rows of --json")
    return [*lines, more] if more else lines


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


# ---- in words, for any number of entries ---------------------------------------------

#: Runs of equal statuses that are told in their order.
_RUNS = 6


def statuses_in_words(statuses: Sequence[int | None]) -> str:
    """Statuses in order, equal neighbours as one: ``3 x node 1, -ENOENT``.

    Where they change often, counts instead: ``2048 x node 1 and 2048 x untouched in turn``.
    """
    runs: list[list[Any]] = []
    counts: dict[str, int] = {}
    for status in statuses:
        name = status_name(status)
        counts[name] = counts.get(name, 0) + 1
        if runs and runs[-1][1] == name:
            runs[-1][0] += 1
        else:
            runs.append([1, name])
    if not runs:
        return "no entries"
    if len(runs) > _RUNS:
        return ", ".join(_times(count, name) for name, count in counts.items()) + ", mixed"
    return ", ".join(_times(count, name) for count, name in runs)


def events_in_words(seen: Sequence[SeenEntry]) -> list[tuple[int, str, str]]:
    """One (count, words, cause) per distinct outcome, cause, entry reason and delay, in order.

    Words such as ``failed: extra_references``, ``moved (duplicate)``.
    """
    counts: dict[tuple[str, str, str, str], int] = {}
    for event in seen:
        key = event.outcome, event.cause, event.entry_reason, event.delay
        counts[key] = counts.get(key, 0) + 1
    return [
        (
            count,
            outcome.replace("_", " ")
            + (f" ({reason.replace('_', ' ')})" if reason else "")
            + (f": {cause}" if cause else "")
            + (f", waited for {delay.replace('_', ' ')}" if delay else ""),
            cause,
        )
        for (outcome, cause, reason, delay), count in counts.items()
    ]


def _times(count: int, name: str) -> str:
    return name if count == 1 else f"{count} x {name}"
