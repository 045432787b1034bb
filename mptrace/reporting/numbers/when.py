# SPDX-License-Identifier: GPL-2.0-or-later
"""Times of a recording (CLOCK_MONOTONIC) as wall-clock times.  Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.reporting.numbers.sums import Numbers

#: Wall-clock times that ISO 8601 can write with four digits of a year, in ns.
_LAST = 253_402_300_800 * 10**9


class Clock:
    """What the wall clock said at a time of the recording.

    CLOCK_MONOTONIC runs at the speed of the wall clock (NTP slews both) until somebody
    sets that: one pair of both, taken when the session began, tells all other times.

    :param started: ``{"wall_ns", "monotonic_ns"}`` as of meta.json, None where not recorded.
    :param ended: the same when it ended.
    """

    def __init__(self, started: Any, ended: Any) -> None:
        self.started, self.ended = _pair(started), _pair(ended)

    def at(self, monotonic_ns: int | None) -> Numbers | None:
        """``{"monotonic_ns", "utc"}`` of a time, None of none; ``utc`` null where not known."""
        if not monotonic_ns:
            return None
        utc = None
        if self.started is not None:
            utc = iso(self.started[0] + int(monotonic_ns) - self.started[1])
        return {"monotonic_ns": int(monotonic_ns), "utc": utc}

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


def first_and_last(
    start: npt.NDArray[np.uint64], end: npt.NDArray[np.uint64]
) -> dict[str, int | None]:
    """``first_ns`` and ``last_ns``: the first start and the last end; 0 is one not seen."""
    seen = np.concatenate([start[start != 0], end[end != 0]])
    if not seen.size:
        return {"first_ns": None, "last_ns": None}
    return {"first_ns": int(seen.min()), "last_ns": int(seen.max())}


def iso(wall_ns: int) -> str | None:
    """``2026-11-29T10:50:58.123456789Z``, None of a time that no calendar has."""
    if not 0 < wall_ns < _LAST:
        return None
    seconds, ns = divmod(wall_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def _pair(both: Any) -> tuple[int, int] | None:
    if not isinstance(both, Mapping) or not both.get("wall_ns"):
        return None
    return int(both["wall_ns"]), int(both.get("monotonic_ns") or 0)
