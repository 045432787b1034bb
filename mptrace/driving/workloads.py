# SPDX-License-Identifier: GPL-2.0-or-later
"""What a workload is: which pages, whose, from where to where, in which calls.  Pure.

A :class:`Workload` travels as JSON to the worker and into a recording's
``meta.json``.  ``patterns`` turns it into arrays of entries, ``memory`` makes
its pages, ``rounds`` issues its calls.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mptrace.errors import HostError, UsageError
from mptrace.units import many

KINDS = ("4k", "thp", "hugetlb", "shmem", "file")
TARGETS = ("self", "child", "pid")
PATTERNS = ("sequential", "random", "strided")

#: A `page` of an explicit entry that stands for an address where nothing is mapped,
UNMAPPED = -1
#: and for a page of the workload's mapping that was never touched.
HOLE = -2


@dataclass(frozen=True)
class Explicit:
    """The exact entries of a workload, for tests that must name each one.

    ``entries`` are ``(page, target_nid)`` in array order: ``page`` counts base
    pages from the start of the workload's memory (so a tail of a THP can be
    named), or is UNMAPPED or HOLE.  ``pinned`` are base pages put into a pipe.
    ``unchecked`` lets nodes through that don't exist.
    """

    entries: tuple[tuple[int, int], ...]
    pinned: tuple[int, ...] = ()
    unchecked: bool = False


@dataclass(frozen=True)
class Workload:
    """One workload; a round of it moves its pages to the targets and, with ``back``, back."""

    pages: int = 509  #: base pages, rounded up to whole huge pages; ignored for "pid"
    kind: str = "4k"  #: one of KINDS; ignored for "pid"
    source_nids: tuple[int, ...] = ()  #: exactly one, for "pid" any number; () by resolve()
    target_nids: tuple[int, ...] = ()  #: () by resolve()
    alternate: bool = True  #: several targets: entry by entry, else one run of entries each
    pages_per_call: int = 0  #: entries per call; 0: all of a thread's share
    repeats: int = 1  #: rounds that a session runs
    move_all: bool = False  #: MPOL_MF_MOVE_ALL, else MPOL_MF_MOVE
    threads: int = 1  #: threads calling at once, each with its share of the entries
    target: str = "self"  #: whose pages: the caller's, a child's, or process `pid`'s
    pid: int = 0
    ranges: tuple[tuple[int, int], ...] = ()  #: "pid": only these addresses, end exclusive
    pattern: str = "sequential"  #: order of the addresses, one of PATTERNS
    stride: int = 16  #: "strided": entries apart, in units
    duplicates: float = 0.0  #: entries added that repeat a page, as a fraction of the pages
    holes: float = 0.0  #: entries added that name a page never touched, likewise
    bad: int = 0  #: entries added that name an address where nothing is mapped
    pin: float = 0.0  #: fraction of the folios held by a pipe, so that they can't move
    every_page: bool = False  #: huge kinds: an entry per base page, not per huge page
    back: bool = True  #: move back after each round ("pid": to where each page was)
    seed: int = 1  #: of everything random
    directory: str = ""  #: "file": where; "" the first that lies on a real file system
    explicit: Explicit | None = None  #: the entries, in place of those that the options make

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a dict that JSON can hold."""
        return dataclasses.asdict(self)


_Shape = TypeVar("_Shape", Workload, Explicit)
# Types that JSON may give for a field's type; every other field is a tuple.
_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    bool: (bool,),
    str: (str,),
}


def from_dict(options: Mapping[str, Any]) -> Workload:
    """Return the workload of such a dict; missing options take their defaults.

    Raises :class:`UsageError` for an option that does not exist or has a value
    of another type.
    """
    options = dict(options)
    explicit = options.pop("explicit", None)
    if explicit is not None and not isinstance(explicit, Explicit):
        explicit = _build(Explicit, explicit)
    return dataclasses.replace(_build(Workload, options), explicit=explicit)


def resolve(workload: Workload, nids: Sequence[int]) -> Workload:
    """Fill in the nodes that were left open and check everything else.

    ``nids`` are the nodes with memory.  The source becomes the first of them
    that is no target (the first where all of several are), the target the first
    after the source; for ``"pid"`` an open source stays open: any node.  Raises
    :class:`UsageError` for what contradicts itself and for unknown nodes,
    :class:`HostError` where one node is all there is.
    """
    _check_options(workload)
    sources, targets = workload.source_nids, workload.target_nids
    for nid in {*sources, *targets} - set(nids):
        raise unknown_node(nid, nids)
    if not sources and workload.target != "pid":
        others = tuple(nid for nid in nids if nid not in targets)
        sources = (others or (tuple(nids) if len(targets) > 1 else ()))[:1]
    if len(sources) > 1 and workload.target != "pid":
        raise UsageError(f"give one source node, not {len(sources)}")
    if not targets and not workload.explicit:
        later = [nid for nid in nids if sources and nid > sources[0]]
        targets = tuple([nid for nid in [*later, *nids] if nid not in sources][:1])
    workload = dataclasses.replace(workload, source_nids=sources, target_nids=targets)
    if not (sources or workload.target == "pid") or not (targets or workload.explicit):
        raise HostError(
            f"no other node to move to: only {', '.join(f'node {nid}' for nid in nids)} has memory",
            "give source and target nodes, or use a NUMA guest: mptrace lab",
        )
    if workload.explicit and not workload.explicit.unchecked:
        for nid in {nid for _, nid in workload.explicit.entries} - set(nids):
            raise unknown_node(nid, nids)
    return workload


def unknown_node(nid: int, nids: Sequence[int]) -> UsageError:
    """Return the error for a node that has no memory or does not exist."""
    return UsageError(
        f"node {nid} does not exist or has no memory",
        "nodes with memory: " + ", ".join(map(str, nids)),
    )


def _check_options(workload: Workload) -> None:
    for name, allowed in (("kind", KINDS), ("target", TARGETS), ("pattern", PATTERNS)):
        if getattr(workload, name) not in allowed:
            raise UsageError(
                f"'{getattr(workload, name)}' is not a {name}", "give one of " + ", ".join(allowed)
            )
    for name, least in (("pages", 1), ("threads", 1), ("repeats", 1), ("stride", 1)):
        if getattr(workload, name) < least:
            raise UsageError(f"{name} must be at least {least}, not {getattr(workload, name)}")
    for name in ("pages_per_call", "bad", "duplicates", "holes", "pin"):
        if getattr(workload, name) < 0:
            raise UsageError(f"{name} can't be negative: {getattr(workload, name)}")
    if workload.pin > 1:
        raise UsageError(f"pin is a fraction of the pages, so at most 1, not {workload.pin}")
    if (workload.target == "pid") != (workload.pid > 0):
        raise UsageError("target 'pid' needs a process id, and a process id needs target 'pid'")
    if workload.ranges and workload.target != "pid":
        raise UsageError("ranges of addresses need another process as the target")
    if workload.target == "pid" and (workload.holes or workload.pin or workload.explicit):
        raise UsageError("holes, pins and explicit entries need memory of mptrace's own")
    if workload.explicit:
        _check_explicit(workload.explicit, workload.pages)


def _check_explicit(explicit: Explicit, pages: int) -> None:
    if not explicit.entries:
        raise UsageError("there are no explicit entries")
    named = [page for page, _ in explicit.entries if page not in (UNMAPPED, HOLE)]
    for page in (*named, *explicit.pinned):
        if not 0 <= page < pages:
            raise UsageError(f"there is no page {page}: the workload has {many(pages, 'page')}")


def _build(shape: type[_Shape], options: Mapping[str, Any]) -> _Shape:
    """Make a dataclass of JSON values: lists become tuples, types are those of the fields."""
    fields = {field.name: field for field in dataclasses.fields(shape)}
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            raise UsageError(f"a {shape.__name__.lower()} has no option '{name}'")
        value = _tuples(value)
        wanted = _JSON_TYPES.get(fields[name].type, (tuple,))
        if type(value) not in wanted:
            raise UsageError(f"{name} can't be {value!r}")
        values[name] = value
    try:
        return shape(**values)
    except TypeError as error:
        raise UsageError(f"a {shape.__name__.lower()} lacks options: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value
