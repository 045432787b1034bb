# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found out about one page, as typed values.  Pure; `words` puts them into words.

A class for each kind of finding.  ``label`` names the kind in JSON; ``value`` is what
JSON has of it.  No class has a text for people.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Refusal:
    """Which function of the kernel refused, and its answer.

    ``stage``: of ``layouts.STAGE_NAMES``, or a number that this mptrace does not know;
    ``stage_name``: its name; ``function``: as `words` shows it, "" where it is not known.
    """

    label: ClassVar[str] = "refusal"
    stage: int
    stage_name: str
    function: str
    rc: int

    @property
    def value(self) -> dict[str, Any]:
        function = self.function.removesuffix("()")
        return {"stage": self.stage_name, "function": function, "rc": self.rc}


@dataclass(frozen=True)
class NotAsked:
    """The function that would have been asked about the mapping, had there been one."""

    label: ClassVar[str] = "refusal"
    value: ClassVar[None] = None
    function: str


@dataclass(frozen=True)
class Stayed:
    """Entries of a group whose pages stayed: how many, and (entry, cause) of a few."""

    count: int
    first: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class GroupEnded:
    """What ended a group before the page's turn: ``rc`` None where that is not known."""

    label: ClassVar[str] = "refusal"
    function: str
    rc: int | None
    others: Stayed

    @property
    def value(self) -> dict[str, Any]:
        return {"stage": "", "rc": self.rc}


@dataclass(frozen=True)
class PageTableEntry:
    """``kind``: of ``obstacles.PTE_KINDS``; ``level``: 1 for a PTE, 2 for a PMD, ..."""

    label: ClassVar[str] = "entry"
    kind: str
    level: int
    raw: int

    @property
    def value(self) -> dict[str, Any]:
        return {"kind": self.kind, "level": self.level, "raw": hex(self.raw)}


@dataclass(frozen=True)
class References:
    """References of a folio, and how many it may have for the migration.

    ``compared``: whether the kernel compared them, which a migration does;
    ``parts``: what the expected ones belong to; empty where they are not known.
    """

    label: ClassVar[str] = "references"
    seen: int
    compared: bool
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def expected(self) -> int | None:
        """References that it may have, None where that is not known."""
        return sum(count for _, count in self.parts) if self.parts else None

    @property
    def extra(self) -> int:
        """References beyond those expected."""
        return self.seen - (self.expected or 0)

    @property
    def value(self) -> dict[str, Any]:
        if not self.compared:
            return {"seen": self.seen}
        if self.expected is None:
            return {"seen": self.seen, "expected": None}
        return {
            "seen": self.seen,
            "expected": self.expected,
            "extra": self.extra,
            "parts": dict(self.parts),
        }


@dataclass(frozen=True)
class Pins:
    """Pins (FOLL_PIN); ``by_references``: told by the count of references (small folios)."""

    label: ClassVar[str] = "pins"
    value: int
    by_references: bool


@dataclass(frozen=True)
class Mapcount:
    """Mappings of the folio, and of the page itself where it is one of a large folio."""

    label: ClassVar[str] = "mapcount"
    folio: int
    page: int
    is_large: bool

    @property
    def value(self) -> dict[str, Any]:
        return {"folio": self.folio, "page": self.page}


@dataclass(frozen=True)
class Mapper:
    """A process that maps the page: where, and when that was found in /proc."""

    pid: int
    comm: str
    address: str
    found_ns: int


@dataclass(frozen=True)
class Mappers:
    """Who maps the page, as found ``later_ns`` after its last refusal."""

    label: ClassVar[str] = "mappers"
    mapcount: int
    later_ns: int
    mappers: tuple[Mapper, ...]

    @property
    def value(self) -> dict[str, Any]:
        return {
            "found": len(self.mappers),
            "mapcount": self.mapcount,
            "later_ns": self.later_ns,
            "mappers": [asdict(each) for each in self.mappers],
        }


@dataclass(frozen=True)
class Flags:
    """``kind``: what the page is; ``names``: its flags that have one meaning whatever it is."""

    label: ClassVar[str] = "flags"
    kind: str
    names: tuple[str, ...]
    raw: int

    @property
    def value(self) -> dict[str, Any]:
        return {"kind": self.kind, "names": list(self.names), "raw": hex(self.raw)}


@dataclass(frozen=True)
class Size:
    """Base pages of a large folio."""

    label: ClassVar[str] = "size"
    value: int


@dataclass(frozen=True)
class File:
    """The page's file, and the operations of its mapping where they were seen."""

    label: ClassVar[str] = "file"
    fs: str
    major: int
    minor: int
    inode: int
    a_ops: str | None
    migrate_folio: str | None
    path: str | None  # as a process maps it, None where none that was read does

    @property
    def value(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Area:
    """The mapping (VMA) that the address lies in; ``flags``: those of its flags that are told."""

    label: ClassVar[str] = "area"
    start: int
    end: int
    flags: tuple[str, ...]
    raw: int

    @property
    def value(self) -> dict[str, Any]:
        return {
            "start": hex(self.start),
            "end": hex(self.end),
            "flags": list(self.flags),
            "raw": hex(self.raw),
        }


@dataclass(frozen=True)
class Holder:
    """Who had isolated the folio; ``comm`` and ``reason`` None in a call of its own."""

    label: ClassVar[str] = "holder"
    tid: int
    comm: str | None
    reason: str | None
    is_caller: bool

    @property
    def value(self) -> dict[str, Any]:
        return {"tid": self.tid, "comm": self.comm, "reason": self.reason}


@dataclass(frozen=True)
class Allowed:
    """Whether the caller's cpuset allows the target."""

    label: ClassVar[str] = "allowed"
    value: bool


@dataclass(frozen=True)
class Passes:
    """How often each stage refused, within what time."""

    label: ClassVar[str] = "passes"
    counts: tuple[tuple[str, int], ...]
    span_ns: int

    @property
    def value(self) -> dict[str, Any]:
        return {**dict(self.counts), "span_ns": self.span_ns}


@dataclass(frozen=True)
class Waited:
    """What the migration waited for: (``folio_lock`` or ``writeback``, time, how often)."""

    label: ClassVar[str] = "wait"
    waits: tuple[tuple[str, int, int], ...]

    @property
    def value(self) -> dict[str, Any]:
        return {name: {"ns": ns, "count": count} for name, ns, count in self.waits}


@dataclass(frozen=True)
class Gap:
    """Why there is no evidence: ``kind`` is one of the keys of ``words.GAPS``.

    ``causes``: of lost records, as in meta.json; ``phase``: that can't be traced.
    """

    kind: str
    causes: tuple[str, ...] = ()
    phase: str = ""


Finding = (
    Refusal
    | NotAsked
    | GroupEnded
    | PageTableEntry
    | References
    | Pins
    | Mapcount
    | Mappers
    | Flags
    | Size
    | File
    | Area
    | Holder
    | Allowed
    | Passes
    | Waited
)
