# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evidence of one page says, as values.  Pure; `words` has the text for people.

Evidence is a row of ``layouts.OBSTACLE`` with the folio's own record; where there
is no such row, the answers of the kernel in the folio's record are all there is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Table, Tables
from mptrace.explain.findings import (
    Allowed,
    Area,
    File,
    Finding,
    Flags,
    Gap,
    Holder,
    Mapcount,
    Mapper,
    Mappers,
    PageTableEntry,
    Passes,
    Pins,
    References,
    Refusal,
    Size,
    Waited,
)
from mptrace.explain.phases import Phases, phase_of, stage_of
from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.causes.obstacles import MAPPING_KINDS, PTE_KINDS
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.layouts import (
    FOLIO_HUGETLB,
    FOLIO_OBSTACLE,
    SEEN_FILE,
    SEEN_PTE,
    SEEN_STATE,
    SEEN_VMA,
    STAGE_ALLOCATE,
    STAGE_LOCK,
    STAGE_MOVE,
    STAGE_RELEASE,
    STAGE_SHARED,
    STAGE_SPLIT,
    STAGE_UNMAP,
)
from mptrace.recording.meta import Meta

# Where the counts say what the kernel compared: its migration holds the folio.
_IN_MIGRATION = (
    STAGE_ALLOCATE,
    STAGE_SPLIT,
    STAGE_LOCK,
    STAGE_UNMAP,
    STAGE_RELEASE,
    STAGE_MOVE,
)
# Counters of refusals and waits: field, and what it counts.
_COUNTERS = (
    ("n_alloc", "allocate"),
    ("n_split", "split"),
    ("n_lock", "lock"),
    ("n_unmap", "unmap"),
    ("n_release", "release"),
    ("n_move", "move"),
)
# Page flags that have one meaning whatever the page is, in the order in which they are said.
_FLAGS = (
    "locked",
    "writeback",
    "dirty",
    "private",
    "uptodate",
    "lru",
    "active",
    "referenced",
    "swapbacked",
    "unevictable",
    "mlocked",
    "reserved",
    "hwpoison",
    "head",
)
# include/linux/mm.h; names as they are there.
_VM_FLAGS = (
    (0x1, "read"),
    (0x2, "write"),
    (0x4, "exec"),
    (0x8, "shared"),
    (0x400, "pfnmap"),
    (0x2000, "locked"),
    (0x4000, "io"),
)


class Evidence:
    """The evidence of a recording, page by page."""

    def __init__(self, tables: Tables, meta: Meta) -> None:
        self._tables, self._meta = tables, meta
        self._table = obstacles.of(tables)
        self._of_folio = obstacles.of_folios(tables)
        self._expected = obstacles.expected_references(self._table, meta)
        self._swap_cache = obstacles.in_swap_cache(self._table, meta)
        self._pinned = obstacles.is_pinned(self._table, meta)
        self._pte = obstacles.pte_kind(self._table, meta.kernel.machine)
        self._mapping = obstacles.mapping_kind(self._table)
        self._phases = Phases(meta)
        self._symbols = meta.symbols
        self._bits = meta.page_flags
        self._lying = Lying(tables, meta)
        self._mappers: dict[tuple[int, int], list[Mapper]] | None = None

    @property
    def table(self) -> Table:
        """The rows that the numbers of obstacles mean."""
        return self._table

    def rows_of(self, folios: Ints, call_ids: Any, addresses: Any) -> Ints:
        """The obstacle of each entry: of its row of `folios` (-1: none), or of its mapping."""
        found = np.full(folios.size, -1, np.int64)
        has = folios >= 0
        found[has] = self._of_folio[folios[has]]
        bare = np.flatnonzero(~has)
        found[bare] = obstacles.of_addresses(self._tables, call_ids[bare], addresses[bare])
        return found

    def shape(self, rows: Ints) -> tuple[Ints, ...]:
        """Columns in which the evidence of equal causes may differ in kind."""
        has = rows >= 0
        states = np.zeros(rows.size, self._table.dtype)
        states[has] = self._table[rows[has]]

        def of(column: Any, lacking: int) -> Ints:
            values = np.full(rows.size, lacking, np.int64)
            values[has] = column[rows[has]]
            return values

        flags = np.zeros(rows.size, np.int64)
        for number, name in enumerate(("PG_locked", "PG_writeback", "PG_dirty", "PG_private")):
            flags |= obstacles.flag(states, self._meta, name).astype(np.int64) << number
        return (
            has.astype(np.int64),
            states["stage"].astype(np.int64),
            states["rc"].astype(np.int64),
            flags,
            of(self._pte, 0),
            of(self._mapping, -1),
            of(self._pinned, 0),
            states["dev"].astype(np.int64),
            (states["n_release"] > 0).astype(np.int64),
        )

    # ---- of one page

    def all_of(
        self, row: int, folio: Any | None, *, allocate: str = "allocate"
    ) -> tuple[Finding, ...]:
        """Everything that one page's evidence says, the refusal first.

        :param row: its obstacle, -1: none.
        :param folio: its record in `folios`, None: no folio was looked up.
        :param allocate: the phase in which its target was allocated.
        """
        found: list[Finding | None] = [self._refusal(row, folio, allocate)]
        if row >= 0:
            o = self._plain(row)
            found += [
                self._entry(row, o),
                self._references(row, o),
                self._pins(row, o),
                self._mapcount(o),
                self._mapped_by(o),
                self._flags(row, o),
                self._size(o),
                self._file(row, o),
                self._area(o),
                self._holder(o),
                self._allowed(o),
                self._passes(o),
                self._wait(o),
            ]
        return tuple(finding for finding in found if finding is not None)

    def delay(self, row: int) -> Finding | None:
        """What a page had to wait for, also where it moved in the end."""
        return None if row < 0 else self._wait(self._plain(row))

    def ranges(self, rows: Ints) -> dict[str, list[int]]:
        """Counts that differ among pages: name -> [least, most]."""
        states = self._table[rows[rows >= 0]]
        states = states[(states["seen"] & SEEN_STATE) != 0]
        if not states.size:
            return {}
        named = {"references": "refcount", "mapcount": "mapcount"}
        bounds = {
            label: [int(states[name].min()), int(states[name].max())]
            for label, name in named.items()
        }
        return {label: bound for label, bound in bounds.items() if bound[0] != bound[1]}

    def gap(self, row: int, folio: Any | None) -> Gap | None:
        """Why there is no evidence of a page that stayed; None where there is."""
        if row >= 0:
            return None
        lost = self._meta.lost
        if "obstacles" not in self._tables or self._meta.format_version == 1:
            return Gap("old_recording")
        causes = tuple(name for name in lost if name.startswith("obstacle") and lost[name])
        if folio is not None and int(folio["flags"]) & FOLIO_OBSTACLE:
            return Gap("own_record_lost", causes)
        if causes:
            return Gap("records_lost", causes)
        phase = "vma" if folio is None else phase_of(folio)
        if phase and self._phases.is_missing(phase):
            return Gap("phase_missing", phase=phase)
        return Gap("not_recorded")

    # ---- pieces

    def _plain(self, row: int) -> dict[str, Any]:
        names = self._table.dtype.names or ()
        return dict(zip(names, self._table[row].item(), strict=True))

    def function(self, phase: str) -> str:
        """The kernel function that a phase was seen at, for people."""
        return self._phases.function(phase)

    def _refusal(self, row: int, folio: Any | None, allocate: str) -> Refusal | None:
        if row >= 0 and self._table["stage"][row]:
            stage, rc = int(self._table["stage"][row]), int(self._table["rc"][row])
        else:
            known = None if folio is None else stage_of(folio)
            if known is None:
                return None
            stage, rc = known
        hugetlb = folio is not None and bool(int(folio["flags"]) & FOLIO_HUGETLB)
        return self._phases.refusal(stage, rc, allocate, is_hugetlb=hugetlb)

    def _entry(self, row: int, o: Mapping[str, Any]) -> PageTableEntry | None:
        kind = PTE_KINDS[int(self._pte[row])]
        if not o["seen"] & SEEN_PTE or not kind:
            return None
        return PageTableEntry(kind, o["pte_level"], o["pte"])

    def _references(self, row: int, o: Mapping[str, Any]) -> References | None:
        if not o["seen"] & SEEN_STATE:
            return None
        seen, base = o["refcount"], int(self._expected[row])
        if o["stage"] not in _IN_MIGRATION:
            return References(seen, compared=False)
        if base < 0:
            return References(seen, compared=True)
        parts = [("the migration's own", 1)]
        if self._mapping[row] == 0 or self._swap_cache[row]:
            cache = "page cache" if self._mapping[row] == 0 else "swap cache"
            parts.append((cache, o["nr_pages"]))
        private = base - sum(count for _, count in parts)
        if private > 0:
            parts.append(("private data", private))
        if o["mapcount"] > 0:
            parts.append(("still mapped", o["mapcount"]))
        return References(seen, compared=True, parts=tuple(parts))

    def _pins(self, row: int, o: Mapping[str, Any]) -> Pins | None:
        if o["nr_pages"] > 1 and o["seen"] & SEEN_STATE and o["pincount"] > 0:
            return Pins(o["pincount"], by_references=False)
        if not self._pinned[row] or o["nr_pages"] > 1:
            return None
        extra = o["refcount"] - max(int(self._expected[row]), 0) - max(o["mapcount"], 0)
        return Pins(extra // obstacles.PIN_BIAS, by_references=True)

    @staticmethod
    def _mapcount(o: Mapping[str, Any]) -> Mapcount | None:
        if not o["seen"] & SEEN_STATE:
            return None
        return Mapcount(max(o["mapcount"], 0), max(o["page_mapcount"], 0), o["nr_pages"] > 1)

    def _mapped_by(self, o: Mapping[str, Any]) -> Mappers | None:
        most = max(o["mapcount"], o["page_mapcount"])
        if o["stage"] not in (STAGE_SHARED, STAGE_UNMAP) or most < 2:
            return None
        found = self._mappers_of(o)
        if not found:
            return None
        later = max(each.found_ns for each in found) - o["last_ns"]
        return Mappers(most, later, tuple(found))

    def _mappers_of(self, o: Mapping[str, Any]) -> list[Mapper]:
        if self._mappers is None:
            self._mappers = {}
            people = RecordedProcesses(self._tables, self._meta)
            table = self._tables.get("mappers")
            for each in () if table is None else table:
                key = (int(each["call_id"]), int(each["src"]))
                self._mappers.setdefault(key, []).append(
                    Mapper(
                        int(each["pid"]),
                        text(each["comm"]) or people.comm(int(each["pid"])),
                        hex(int(each["address"])),
                        int(each["found_ns"]),
                    )
                )
        # without a call nothing says at what time it was that page
        return self._mappers.get((o["call_id"], o["src"]), []) if o["call_id"] else []

    def _flags(self, row: int, o: Mapping[str, Any]) -> Flags | None:
        if not o["seen"] & SEEN_STATE or not self._bits:
            return None
        names = [
            name
            for name in _FLAGS
            if (bit := self._bits.get(f"PG_{name}")) is not None and o["page_flags"] >> bit & 1
        ]
        if self._swap_cache[row]:
            names.append("swapcache")
        kind = MAPPING_KINDS[self._mapping[row]] if self._mapping[row] >= 0 else "no mapping"
        return Flags(kind, tuple(names), o["page_flags"])

    @staticmethod
    def _size(o: Mapping[str, Any]) -> Size | None:
        return Size(o["nr_pages"]) if o["nr_pages"] > 1 else None

    def _file(self, row: int, o: Mapping[str, Any]) -> File | None:
        if not o["seen"] & SEEN_FILE:
            return None
        operation = operations = None
        if o["a_ops"] and self._mapping[row] == 0:
            operations = self._symbol(o["a_ops"])
            operation = self._symbol(o["migrate_op"]) if o["migrate_op"] else None
        fs = o["fs"].decode("utf-8", "replace")
        path = self._lying.path(o["dev"], o["inode"])
        device = o["dev"] >> 20, o["dev"] & 0xFFFFF
        return File(fs, *device, o["inode"], operations, operation, path)

    def _symbol(self, address: int) -> str:
        return self._symbols.get(address) or f"{address:#x}"

    @staticmethod
    def _area(o: Mapping[str, Any]) -> Area | None:
        if not o["seen"] & SEEN_VMA:
            return None
        names = tuple(name for bit, name in _VM_FLAGS if o["vm_flags"] & bit)
        return Area(o["vm_start"], o["vm_end"], names, o["vm_flags"])

    def _holder(self, o: Mapping[str, Any]) -> Holder | None:
        if not o["holder_id"]:
            return None
        comm = reason = None
        migrations = self._tables["migrations"]
        own = np.flatnonzero(migrations["migration_id"] == o["holder_id"])
        if own.size:
            row = migrations[own[0]]
            comm = bytes(row["comm"]).decode("utf-8", "replace")
            reason = self._meta.reasons.get(int(row["reason"]), str(row["reason"]))
        return Holder(o["holder_tid"], comm, reason, o["holder_tid"] == o["tid"])

    @staticmethod
    def _allowed(o: Mapping[str, Any]) -> Allowed | None:
        if o["stage"] != STAGE_ALLOCATE or o["allowed"] < 0:
            return None
        return Allowed(bool(o["allowed"]))

    @staticmethod
    def _passes(o: Mapping[str, Any]) -> Passes | None:
        counts = tuple((name, o[column]) for column, name in _COUNTERS if o[column])
        return Passes(counts, o["last_ns"] - o["first_ns"]) if counts else None

    @staticmethod
    def _wait(o: Mapping[str, Any]) -> Waited | None:
        waits = (
            ("folio_lock", o["lock_wait_ns"], o["n_lock_wait"]),
            ("writeback", o["writeback_wait_ns"], o["n_writeback_wait"]),
        )
        waited = tuple(wait for wait in waits if wait[1] or wait[2])
        return Waited(waited) if waited else None
