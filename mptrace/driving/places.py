# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the pages of a process are, as values: counts per mapping, node and state.  Pure."""

from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

_Key = TypeVar("_Key", int, str)


@dataclass
class Place:
    """Pages of one mapping (or part of one), each counted once under ``nodes`` or ``states``.

    ``nodes`` is node -> pages; ``states`` is the name of the errno that the
    kernel gives for a page -> pages.  ``absent`` of the pages have nothing in
    the page tables: the kernel is asked about one of them, since its answer for
    such a page depends on the mapping alone (and on the kernel: -EFAULT or
    -ENOENT).  ``unread`` pages were not looked at, because the mapping is too
    large for this kernel; they are in no other count.
    """

    start: int
    end: int
    perms: str
    name: str
    pages: int
    nodes: dict[int, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    absent: int = 0
    unread: int = 0


@dataclass(frozen=True)
class Where:
    """The answer for one process; ``nids`` are the machine's nodes with memory."""

    pid: int
    comm: str
    nids: tuple[int, ...]
    page_bytes: int
    mappings: tuple[Place, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        total = asdict(self.total())
        counts = ("pages", "nodes", "states", "absent", "unread")
        return {**asdict(self), "total": {name: total[name] for name in counts}}

    def total(self) -> Place:
        """Return the sums over all mappings, as a place from 0 to 0 without a name."""
        total = Place(0, 0, "", "", sum(place.pages for place in self.mappings))
        for place in self.mappings:
            add(total.nodes, place.nodes)
            add(total.states, place.states)
            total.absent += place.absent
            total.unread += place.unread
        return total


def add(sums: dict[_Key, int], counts: dict[_Key, int]) -> None:
    """Add ``counts`` to ``sums``, key by key."""
    for key, count in counts.items():
        sums[key] = sums.get(key, 0) + count
