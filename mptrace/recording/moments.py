# SPDX-License-Identifier: GPL-2.0-or-later
"""Times that people give: of the clock, with a date, or in seconds since the start.  Pure."""

import datetime
import re
from dataclasses import dataclass

from mptrace.errors import UsageError
from mptrace.recording.when import Clock

_S = 10**9
_DAY_NS = 86_400 * _S
_OF_DAY = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d{1,9}))?)?"
_CLOCK = re.compile(rf"{_OF_DAY}( ?UTC|Z)?")
_DATE = re.compile(
    rf"(?P<date>\d{{4}}-\d\d-\d\d)[T ]{_OF_DAY}(?P<zone> ?UTC|Z|[+-]\d\d:?\d\d)?",
)
_SECONDS = re.compile(r"(?P<whole>\d{1,10})(\.(?P<fraction>\d{1,9}))?s?")


@dataclass(frozen=True)
class Moment:
    """A time as it was given, ``text``.

    ``kind``: ``seconds`` since the session began, ``clock`` (time of the day, UTC) or
    ``date`` (since 1970, UTC); ``ns`` says how many nanoseconds of that.
    """

    text: str
    kind: str
    ns: int


def parse_moment(text: str) -> Moment:
    """``06:17``, ``06:17:05.5``, ``2026-11-29T06:17:05Z`` or ``3.5``; else ValueError.

    All are UTC; a date may have another offset.
    """
    if match := _SECONDS.fullmatch(text):
        return Moment(text, "seconds", int(match["whole"]) * _S + _fraction(match["fraction"]))
    match = _CLOCK.fullmatch(text)
    if match:
        return Moment(text, "clock", _of_day(match))
    match = _DATE.fullmatch(text)
    if not match:
        raise ValueError(text)
    day = datetime.date.fromisoformat(match["date"]).toordinal()
    day -= datetime.date(1970, 1, 1).toordinal()
    return Moment(text, "date", day * _DAY_NS + _of_day(match) - _offset(match["zone"]))


def resolve(
    given: Moment,
    clock: Clock,
    option: str,
    after: int | None = None,
    origin_ns: int | None = None,
) -> int:
    """A time as ns of the recording's CLOCK_MONOTONIC; it may lie outside of the session.

    A time of the day is one of the session's days: the first in the session, and later
    than ``after``; where none is in it, the one that is nearest to it.

    :param option: by which it was given, for the error.
    :param origin_ns: when the session began (CLOCK_MONOTONIC), None: with the recording.
    :raises UsageError: the recording does not say when it began.
    """
    if clock.started is None:
        raise UsageError(
            f"the recording does not say when it began: '{option} {given.text}' is no time of it",
            "read it without --from and --to",
        )
    wall, monotonic = clock.started
    if given.kind == "seconds":
        return (monotonic if origin_ns is None else origin_ns) + given.ns
    if given.kind == "date":
        return monotonic + given.ns - wall
    end = wall + max(clock.duration_ns() or 0, 0)
    days = range(wall // _DAY_NS, end // _DAY_NS + 1)
    times = [day * _DAY_NS + given.ns for day in (days if len(days) < 1000 else days[:1000])]
    later = [time for time in times if after is None or monotonic + time - wall > after]
    best = min(later or times, key=lambda time: (max(wall - time, time - end, 0), time))
    return monotonic + best - wall


def _of_day(match: "re.Match[str]") -> int:
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(match[0])
    return ((hour * 60 + minute) * 60 + second) * _S + _fraction(match["fraction"])


def _fraction(digits: str | None) -> int:
    return int((digits or "0").ljust(9, "0"))


def _offset(zone: str | None) -> int:
    """Nanoseconds that a zone is ahead of UTC."""
    if not zone or zone[-1] in "ZC":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    if hours > 23 or minutes > 59:
        raise ValueError(zone)
    return (hours * 60 + minutes) * 60 * _S * (-1 if zone[0] == "-" else 1)
