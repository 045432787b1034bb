# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of a recording somebody wants to see, as one value; names of paths.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mptrace.outcomes.paths import PATHS, reason_name
from mptrace.recording.meta import Meta

_OR = "_or_"


@dataclass(frozen=True)
class Selection:
    """What the options of a reading command choose; without any, everything.

    ``from_ns`` and ``to_ns``: CLOCK_MONOTONIC, the second no longer in it; None: no bound.
    ``paths`` are indices into ``paths.PATHS``, ``maybe`` of those that may be one of them,
    which is not told apart; ``reasons`` numbers of the kernel's
    reasons, ``names`` as they were given for both.  ``top``: rows of each list, None: as
    many as usual.
    """

    from_ns: int | None = None
    to_ns: int | None = None
    pids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[int, ...] = ()
    maybe: tuple[int, ...] = ()
    reasons: tuple[int, ...] = ()
    nids: tuple[int, ...] = ()
    failed: bool = False
    top: int | None = None

    @property
    def has_time(self) -> bool:
        """Whether a time bounds it."""
        return self.from_ns is not None or self.to_ns is not None

    @property
    def is_about(self) -> bool:
        """Whether it leaves rows out by when, whose, how or where."""
        return bool(self.has_time or self.pids or self.names or self.nids)

    @property
    def is_filter(self) -> bool:
        """Whether it may leave rows out; ``top`` does not, it shortens lists."""
        return self.is_about or self.failed


EVERYTHING = Selection()


#: Paths that stand for others as well, besides those whose names say it.
_WIDER = {
    "syscall_or_cpuset": ("move_pages", "migrate_pages"),
    "demotion_write": ("demotion_direct",),
}


def paths_named(
    names: Sequence[str], meta: Meta
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Paths that go by these names, paths that may be one of these, and the kernel's reasons.

    A name stands for the paths that begin with it, too (``compaction`` for
    ``compaction_direct``), and for those that may be it (``cpuset`` for
    ``migrate_pages_or_cpuset``).  Where a part of a path is asked for, the whole may be it
    (``compaction`` is ``compaction_direct``, if nobody knows who wanted it).

    :raises ValueError: nothing has such a name: it, and what there is.
    """
    reasons = {reason_name(meta, number): number for number in meta.reasons}
    codes: set[int] = set()
    maybe: set[int] = set()
    numbers: set[int] = set()
    for name in names:
        some = {code for code, path in enumerate(PATHS) if _is_called(path.key, name)}
        if not some and name not in reasons:
            known = sorted({path.key for path in PATHS} | set(reasons))
            raise ValueError(f"there is no path '{name}'", "there are: " + ", ".join(known))
        codes |= some
        maybe |= {code for code, path in enumerate(PATHS) if _may_be(path.key, name)}
        numbers |= {reasons[name]} if name in reasons else set()
    return tuple(sorted(codes)), tuple(sorted(maybe - codes)), tuple(sorted(numbers))


def _may_be(key: str, name: str) -> bool:
    return name.startswith(f"{key}_") or name in _WIDER.get(key, ())


def _is_called(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}_") or name in key.split(_OR)
