# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracepoints of migration: from raw samples, by the kernel's own format, to events.

Where a field stands differs between kernels (6.1 has no ``large_folio_split``), so every
field is found by its name in ``events/*/format``.  How the words of page tables decode
is known for x86-64 only (arch/x86/include/asm/pgtable_64.h, include/linux/swapops.h).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Bytes, Table, Words
from mptrace.tracing.tracepoints.perf_records import head, raw

# What an event is (`kind`), so that within one nanosecond of a thread the order is right.
ENTER, START, SET, REMOVE, END, EXIT = range(6)

#: A tracepoint's event, decoded.  `first` and `second` are: of START nothing; of END base
#: pages succeeded, failed; of SET and REMOVE the address and the word of the page table;
#: of ENTER nothing (a row of ARGUMENTS has the arguments); of EXIT the return value.
EVENT = np.dtype(
    [
        ("time_ns", "<u8"),
        ("first", "<u8"),
        ("second", "<u8"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("reason", "<i4"),  # of START and END; the number of the call of ENTER and EXIT
        ("kind", "u1"),
        ("mode", "u1"),
        ("order", "u1"),  # of SET and REMOVE
        ("mark", "u1"),  # of SET and REMOVE: of a PMD; of ENTER: a move_pages(2)
    ]
)
#: `mark` of a START or END that was not seen, but must have been.
MADE_UP = 1
#: Arguments of a move_pages(2), of the ENTER of this thread and time.
ARGUMENTS = np.dtype(
    [
        ("time_ns", "<u8"),
        ("tid", "<u4"),
        ("pid", "<i4"),
        ("nr_pages", "<u8"),
        ("pages", "<u8"),
        ("nodes", "<u8"),
        ("status", "<u8"),
        ("flags", "<i4"),
    ]
)


@dataclass(frozen=True)
class Point:
    """A tracepoint that tells something of migrations, and the fields that it must have."""

    name: str
    kind: int
    fields: tuple[str, ...]
    #: What can't be seen without it.
    without: str
    pmd: bool = False
    #: Comes once per page.
    frequent: bool = False


_PTE = ("addr", "pte", "order")
_PMD = ("addr", "pmd")
_NO_PAGES = "which pages a migration moved, and how long they were inaccessible"
_CALL_NUMBER = "__syscall_nr"
_ENTER, _EXIT = (_CALL_NUMBER,), (_CALL_NUMBER, "ret")
_MOVE_PAGES = (_CALL_NUMBER, "pid", "nr_pages", "pages", "nodes", "status", "flags")

#: All of them; those that a kernel lacks are gone without.
POINTS: tuple[Point, ...] = (
    Point(
        "migrate:mm_migrate_pages_start",
        START,
        ("mode", "reason"),
        "when a migration began, and which pages it moved",
    ),
    Point(
        "migrate:mm_migrate_pages",
        END,
        ("succeeded", "failed", "mode", "reason"),
        "migrations",
    ),
    Point("migrate:set_migration_pte", SET, _PTE, _NO_PAGES, frequent=True),
    Point("migrate:remove_migration_pte", REMOVE, _PTE, _NO_PAGES, frequent=True),
    Point("thp:set_migration_pmd", SET, _PMD, f"of pages mapped by a PMD, {_NO_PAGES}", pmd=True),
    Point(
        "thp:remove_migration_pmd", REMOVE, _PMD, f"of pages mapped by a PMD, {_NO_PAGES}", pmd=True
    ),
    Point("syscalls:sys_enter_move_pages", ENTER, _MOVE_PAGES, "calls of move_pages(2)"),
    Point("syscalls:sys_exit_move_pages", EXIT, _EXIT, "what move_pages(2) returned"),
    Point("syscalls:sys_enter_migrate_pages", ENTER, _ENTER, "calls of migrate_pages(2)"),
    Point("syscalls:sys_exit_migrate_pages", EXIT, _EXIT, "calls of migrate_pages(2)"),
    Point("syscalls:sys_enter_mbind", ENTER, _ENTER, "calls of mbind(2)"),
    Point("syscalls:sys_exit_mbind", EXIT, _EXIT, "calls of mbind(2)"),
)
#: Without it there is nothing to record.
ESSENTIAL = "migrate:mm_migrate_pages"
MOVE_PAGES = "syscalls:sys_enter_move_pages"


@dataclass(frozen=True)
class Format:
    """A tracepoint's ``format`` file: its id, and where its fields are."""

    event_id: int
    #: name -> (offset, size in bytes, signed), of those of 1, 2, 4 or 8 bytes
    fields: Mapping[str, tuple[int, int, bool]]
    print_format: str = ""

    @classmethod
    def parse(cls, text: str) -> "Format":
        """From the text of the file; ValueError where it is none."""
        number = re.search(r"^ID:\s*(\d+)$", text, re.MULTILINE)
        if number is None:
            raise ValueError("no ID")
        fields = {
            name: (int(offset), int(size), signed == "1")
            for name, offset, size, signed in _FIELD.findall(text)
            if int(size) in (1, 2, 4, 8)
        }
        printed = re.search(r"^print fmt:(.*)$", text, re.MULTILINE)
        return cls(int(number[1]), fields, printed[1] if printed else "")

    @property
    def raw_bytes(self) -> int:
        """Size of the struct: up to its last field, a multiple of eight."""
        end = max((offset + size for offset, size, _ in self.fields.values()), default=8)
        return -(-end // 8) * 8

    def lacks(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the fields that this kernel's tracepoint does not have."""
        return tuple(name for name in names if name not in self.fields)

    def read(self, rows: Bytes, name: str) -> NDArray[Any]:
        """One field of raw samples, shape (n, size): shape (n,), 64 bits wide."""
        offset, size, signed = self.fields[name]
        kind = f"<{'i' if signed else 'u'}{size}"
        column = np.ascontiguousarray(rows[:, offset : offset + size]).view(kind)[:, 0]
        return column.astype(np.int64 if signed else np.uint64)

    def symbols(self, field: str) -> dict[int, str]:
        """Value -> name of a field that is printed by __print_symbolic(); empty where it isn't."""
        found = re.search(rf"__print_symbolic\(REC->{field},(.*?\}})\)", self.print_format)
        if found is None:
            return {}
        return {int(n, 0): s for n, s in re.findall(r'\{\s*(\w+),\s*"([^"]*)"', found[1])}


_FIELD = re.compile(
    r"^\s*field:[^;]*?(\w+)(?:\[\w*\])?;\s*offset:(\d+);\s*size:(\d+);\s*signed:([01]);$",
    re.MULTILINE,
)


class Decoder:
    """Samples of the points in ``formats`` (name -> Format) as EVENT and ARGUMENTS rows."""

    def __init__(self, formats: Mapping[str, Format]) -> None:
        self._points = {
            formats[point.name].event_id: (point, formats[point.name])
            for point in POINTS
            if point.name in formats
        }

    def decode(self, runs: Sequence[Bytes]) -> tuple[Table, Table]:
        """EVENT and ARGUMENTS rows of runs of samples (`perf_records.split`), not sorted."""
        events: list[Table] = [np.empty(0, EVENT)]
        arguments: list[Table] = [np.empty(0, ARGUMENTS)]
        for run in runs:
            common_type = raw(run)[:, :2].copy().view("<u2")[:, 0]
            for event_id in np.unique(common_type).tolist():
                if event_id not in self._points:
                    continue
                point, layout = self._points[event_id]
                block = run[common_type == event_id]
                rows = _events(point, layout, block)
                events.append(rows)
                if point.name == MOVE_PAGES:
                    arguments.append(_arguments(layout, block))
        return np.concatenate(events), np.concatenate(arguments)


def _events(point: Point, layout: Format, block: Bytes) -> Table:
    heads, data = head(block), raw(block)
    rows = np.zeros(len(block), EVENT)
    rows["kind"] = point.kind
    rows["mark"] = point.pmd or point.name == MOVE_PAGES
    for name in ("time_ns", "tid", "tgid"):
        rows[name] = heads[name]
    if point.kind in (START, END):
        rows["mode"] = layout.read(data, "mode")
        rows["reason"] = layout.read(data, "reason")
    if point.kind == END:
        rows["first"] = layout.read(data, "succeeded")
        rows["second"] = layout.read(data, "failed")
    elif point.kind in (SET, REMOVE):
        rows["first"] = layout.read(data, "addr")
        rows["second"] = layout.read(data, "pmd" if point.pmd else "pte")
        rows["order"] = PMD_ORDER if point.pmd else layout.read(data, "order")
    elif point.kind in (ENTER, EXIT):
        rows["reason"] = layout.read(data, _CALL_NUMBER)
        if point.kind == EXIT:
            rows["first"] = layout.read(data, "ret").astype(np.int64).view(np.uint64)
    return rows


def _arguments(layout: Format, block: Bytes) -> Table:
    heads, data = head(block), raw(block)
    rows = np.zeros(len(block), ARGUMENTS)
    for name in ("time_ns", "tid"):
        rows[name] = heads[name]
    for name in ("nr_pages", "pages", "nodes", "status"):
        rows[name] = layout.read(data, name)
    for name in ("pid", "flags"):
        # passed as a word, of which the kernel takes an int
        rows[name] = layout.read(data, name).astype(np.uint32).view(np.int32)
    return rows


# ---- words of x86-64's page tables -------------------------------------------------

PAGE_SHIFT = 12
PMD_ORDER = 9
_PRESENT = np.uint64(1)
_PFN_MASK = np.uint64(0x000F_FFFF_FFFF_F000)
#: Bits of a page frame number in a migration entry: MAX_PHYSMEM_BITS - PAGE_SHIFT with
#: four levels of page tables, and with five.
PFN_BITS, PFN_BITS_LA57 = 34, 40


def present_pfn(words: Words) -> Words:
    """Page frame numbers of present entries, and of PROT_NONE's, whose bits are inverted."""
    # pte_pfn(): an entry that isn't present has its address inverted (L1TF)
    inverted = (words & _PRESENT) == 0
    pfn: Words = (np.where(inverted, ~words, words) & _PFN_MASK) >> np.uint64(PAGE_SHIFT)
    return pfn


def migration_pfn(words: Words, pfn_bits: int = PFN_BITS) -> Words:
    """Page frame numbers of migration entries.

    A swap entry keeps its offset inverted and shifted (__swp_entry()); of the offset the
    bits above the page frame number say whether the page was young and dirty (since 6.1).
    """
    offset = (~words << np.uint64(5)) >> np.uint64(14)
    pfn: Words = offset & np.uint64((1 << pfn_bits) - 1)
    return pfn
