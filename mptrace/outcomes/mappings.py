# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of a process's mappings by address.  Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any


class Mappings:
    """Names of a process's mappings by address.

    :param mappings: ``[start, end, name]`` of each, as ``Meta.mappings`` has them.
    """

    def __init__(self, mappings: Sequence[Sequence[Any]]) -> None:
        ordered = sorted((int(start), int(end), str(name)) for start, end, name in mappings)
        self._starts = [start for start, _, _ in ordered]
        self._rest = [(end, name) for _, end, name in ordered]

    def name(self, address: int) -> str | None:
        """The mapping at an address, None where none is known."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._rest[place][0]:
            return None
        return self._rest[place][1] or "anonymous"
