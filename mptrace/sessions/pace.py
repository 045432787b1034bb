# SPDX-License-Identifier: GPL-2.0-or-later
"""When what is in the rings is taken, and when one looks at them next.

To look costs next to nothing, as the kernel maps the rings' positions; to take costs some
hundred thousand instructions however few records there are.  So it looks often, and takes
seldom, until something presses: a ring that fills, or what ends soon.
"""

#: Seconds between two looks while nothing presses, and the least: it never spins.
REST_SECONDS = 0.02
LEAST_SECONDS = 0.002
#: Seconds between two takings while nothing presses.
TAKE_SECONDS = 0.1
#: A ring that is so full, from 0 to 1, presses.
PRESSING = 0.25


class Pace:
    """Times of looks and takings; all times in seconds of one clock."""

    def __init__(self, now: float) -> None:
        self._taken = self._looked = now
        self._fill = self._rate = 0.0
        self._is_late = False

    def is_due(self, now: float, fill: float, *, is_awaited: bool = False) -> bool:
        """Whether to take what is there.

        :param fill: how full the fullest ring is, from 0 to 1.
        :param is_awaited: something in a ring can't wait.
        """
        if now > self._looked:
            self._rate = max(fill - self._fill, 0.0) / (now - self._looked)
        self._looked, self._fill, self._is_late = now, fill, False
        if not fill:
            return False
        return is_awaited or fill >= PRESSING or now - self._taken >= TAKE_SECONDS

    def took(self, now: float, fill: float, *, is_any: bool) -> None:
        """What was there has been taken; ``fill`` is what has come meanwhile.

        :param is_any: whether there was any: a record that is not finished keeps back the rest.
        """
        self._taken = self._looked = now
        self._fill = fill
        self._is_late = is_any and fill >= PRESSING

    def seconds(self) -> float:
        """Until the next look; 0 where it is late already."""
        if self._is_late:
            return 0.0
        if not self._rate:
            return REST_SECONDS
        return min(max((PRESSING - self._fill) / self._rate, LEAST_SECONDS), REST_SECONDS)
