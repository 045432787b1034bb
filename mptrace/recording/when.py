# SPDX-License-Identifier: GPL-2.0-or-later
"""Times of a recording (CLOCK_MONOTONIC) as wall-clock times.  Pure."""

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

#: Keys and columns that are times (CLOCK_MONOTONIC); beside each stands what the wall clock
#: said, by the same name with another end: `enter_utc` beside `enter_ns`.
TIMES = frozenset(
    {
        "enter_ns",
        "exit_ns",
        "start_ns",
        "end_ns",
        "first_ns",
        "last_ns",
        "found_ns",
        "seen_ns",
        "dark_first_ns",
        "light_last_ns",
        "from_ns",
        "to_ns",
        "scan_max_at_ns",
        "fault_max_at_ns",
    }
)
UTC = "_utc"
#: A time as JSON has it: ``{"monotonic_ns", "utc"}``.
Moment = dict[str, Any]
#: Wall-clock times that ISO 8601 can write with four digits of a year, in ns.
_LAST = 253_402_300_800 * 10**9


Walls = npt.NDArray[np.int64]


class Clock:
    """What the wall clock said at a time of the recording.

    CLOCK_MONOTONIC runs at the speed of the wall clock (NTP slews both) until somebody
    sets that: one pair of both, taken when the session began, tells all other times.

    :param started: ``{"wall_ns", "monotonic_ns"}`` as of meta.json, None where not recorded.
    :param ended: the same when it ended.
    """

    def __init__(self, started: Any, ended: Any) -> None:
        self.started, self.ended = _pair(started), _pair(ended)

    def at(self, monotonic_ns: int | None) -> Moment | None:
        """``{"monotonic_ns", "utc"}`` of a time, None of none; ``utc`` null where not known."""
        if not monotonic_ns:
            return None
        return {"monotonic_ns": int(monotonic_ns), "utc": self.utc(monotonic_ns)}

    def utc(self, monotonic_ns: int | None) -> str | None:
        """ISO 8601 in UTC with nanoseconds, None where it is not known; 0 is no time."""
        if not monotonic_ns or self.started is None:
            return None
        return iso(self.started[0] + int(monotonic_ns) - self.started[1])

    def wall(self, monotonic_ns: npt.NDArray[np.uint64]) -> tuple[Walls, npt.NDArray[np.bool_]]:
        """Wall-clock times in ns, shape and order as given, and which of them are known."""
        if self.started is None:
            return np.zeros(monotonic_ns.shape, np.int64), np.zeros(monotonic_ns.shape, np.bool_)
        wall = monotonic_ns.astype(np.int64) + (self.started[0] - self.started[1])
        return wall, (monotonic_ns != 0) & (wall > 0)

    def duration_ns(self) -> int | None:
        """How long the session was, None where its end was not recorded."""
        if self.started is None or self.ended is None:
            return None
        return self.ended[1] - self.started[1]

    def step_ns(self) -> int:
        """By how much the wall clock was set meanwhile, as far as it is known."""
        if self.started is None or self.ended is None:
            return 0
        return self.ended[0] - self.started[0] - (self.ended[1] - self.started[1])


def with_utc(value: Any, clock: Clock) -> Any:
    """A JSON-able value in which each :data:`TIMES` has beside it what the wall clock said.

    ``start_utc`` beside ``start_ns``: ISO 8601 in UTC, null where it is not known.
    """
    if isinstance(value, (list, tuple)):
        return [with_utc(each, clock) for each in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, each in value.items():
        found[name] = with_utc(each, clock)
        if name in TIMES:
            found[name.removesuffix("_ns") + UTC] = clock.utc(each)
    return found


def first_and_last(
    start: npt.NDArray[np.uint64], end: npt.NDArray[np.uint64]
) -> dict[str, int | None]:
    """``first_ns`` and ``last_ns``: the first start and the last end; 0 is one not seen."""
    seen = np.concatenate([start[start != 0], end[end != 0]])
    if not seen.size:
        return {"first_ns": None, "last_ns": None}
    return {"first_ns": int(seen.min()), "last_ns": int(seen.max())}


def isos(wall_ns: Walls) -> list[str]:
    """The same as :func:`iso` of each; int64 ns reach to the year 2262."""
    texts = np.datetime_as_string(wall_ns.astype("datetime64[ns]"), unit="ns")
    return [f"{text}Z" for text in texts.tolist()]


def iso(wall_ns: int) -> str | None:
    """``2026-11-29T10:50:58.123456789Z``, None of a time that no calendar has."""
    if not 0 < wall_ns < _LAST:
        return None
    seconds, ns = divmod(wall_ns, 10**9)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def _pair(both: Any) -> tuple[int, int] | None:
    if not isinstance(both, Mapping) or not both.get("wall_ns"):
        return None
    return int(both["wall_ns"]), int(both.get("monotonic_ns") or 0)
