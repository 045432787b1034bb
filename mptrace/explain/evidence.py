# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evidence of one page says, as labelled values and words for people.  Pure.

Evidence is a row of ``layouts.OBSTACLE`` with the folio's own record; where there
is no such row, the answers of the kernel in the folio's record are all there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.causes.obstacles import MAPPING_KINDS, PTE_KINDS
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.outcomes.processes import Processes, text
from mptrace.recording.joins import Ints, Table, Tables
from mptrace.recording.layouts import (
    FOLIO_ALLOC_FAILED,
    FOLIO_HUGETLB,
    FOLIO_OBSTACLE,
    ISOLATE_NOT_TRIED,
    LOOKUP_NONE,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    SEEN_FILE,
    SEEN_PTE,
    SEEN_STATE,
    SEEN_VMA,
    STAGE_ALLOCATE,
    STAGE_ISOLATE,
    STAGE_LOCK,
    STAGE_LOOKUP,
    STAGE_MOVE,
    STAGE_NAMES,
    STAGE_RELEASE,
    STAGE_SHARED,
    STAGE_SPLIT,
    STAGE_UNMAP,
    STAGE_VMA,
)
from mptrace.units import and_more, format_count, format_ns, many, times

#: Processes that a line of "mapped by" names; JSON has all.
MOST_MAPPERS = 6

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
_LEVELS = {1: "PTE", 2: "PMD", 3: "PUD", 4: "P4D", 5: "PGD"}
_PTE_WORDS = {
    "none": "empty: nothing was ever there",
    "present": "present",
    "prot_none": "present, hidden by PROT_NONE",
    "swap": "in swap",
    "special": "a migration entry or a marker",
    "zero": "the zero page",
    "huge_zero": "the huge zero page",
}
# What the function of a phase is called where the coverage does not say.
_FUNCTIONS = {
    "vma": "vma_migratable",
    "lookup": "the kernel's lookup",
    "migration": "migrate_pages",
    "isolate": "folio_isolate_lru",
    "isolate_hugetlb": "isolate_hugetlb",
    "allocate": "alloc_migration_target",
    "alloc_compaction": "compaction_alloc",
    "alloc_numa": "alloc_misplaced_dst_folio",
    "alloc_demotion": "alloc_migrate_folio",
    "alloc_policy": "alloc_migration_target_by_mpol",
    "split": "split_huge_page_to_list",
    "unmap": "try_to_migrate",
    "release": "filemap_release_folio",
    "move": "move_to_new_folio",
}

#: Finding that a cause rests on, for a single line; elsewhere the references.
TELLING = {
    "unsuitable_vma": ("area",),
    "never_touched": ("entry",),
    "swapped_out": ("entry",),
    "prot_none": ("entry",),
    "special_entry": ("entry",),
    "hidden": ("entry", "file"),
    "secret_memory": ("entry", "file"),
    "zero_page": ("entry",),
    "huge_zero_page": ("entry",),
    "shared": ("mapcount", "mappers"),
    "shared_ksm": ("mapcount", "mappers"),
    "not_on_lru": ("flags", "file"),
    "isolated_by_other": ("holder",),
    "hugetlb_tail": ("size",),
    "locked": ("flags",),
    "writeback": ("flags",),
    "locked_or_writeback": ("flags",),
    "no_memory": (),
    "node_outside_callers_cpuset": ("allowed",),
    "buffers_busy": ("file",),
    "private_not_released": ("file",),
    "dirty_no_migration": ("file",),
    "write_failed": ("file",),
    "refused_by_filesystem": ("file",),
}


@dataclass(frozen=True)
class Finding:
    """One piece of evidence: ``value`` is JSON-able, ``words`` are for people."""

    label: str
    value: Any
    words: str


class Findings:
    """The evidence of a recording, page by page."""

    def __init__(self, tables: Tables, meta: Mapping[str, Any]) -> None:
        self._tables, self._meta = tables, meta
        self._table = obstacles.of(tables)
        self._of_folio = obstacles.of_folios(tables)
        self._expected = obstacles.expected_references(self._table, meta)
        self._swap_cache = obstacles.in_swap_cache(self._table, meta)
        self._pinned = obstacles.is_pinned(self._table, meta)
        machine = str((meta.get("kernel") or {}).get("machine"))
        self._pte = obstacles.pte_kind(self._table, machine)
        self._mapping = obstacles.mapping_kind(self._table)
        self._attach = {
            str(phase.get("phase")): str(phase.get("attach") or "")
            for phase in meta.get("coverage") or ()
        }
        self._states = {
            str(phase.get("phase")): str(phase.get("state")) for phase in meta.get("coverage") or ()
        }
        self._symbols = meta.get("symbols") or {}
        self._bits = meta.get("page_flags") or {}
        self._mappers: dict[tuple[int, int], list[dict[str, Any]]] | None = None

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
        found = [self._refusal(row, folio, allocate)]
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

    def gap(self, row: int, folio: Any | None) -> str:
        """Why there is no evidence of a page that stayed; "" where there is."""
        if row >= 0:
            return ""
        lost = self._meta.get("lost") or {}
        if "obstacles" not in self._tables or int(self._meta.get("format_version") or 0) == 1:
            return "recorded by an mptrace that did not keep the state of refused pages"
        causes = [name for name in lost if name.startswith("obstacle") and lost[name]]
        if folio is not None and int(folio["flags"]) & FOLIO_OBSTACLE:
            named = f" ({', '.join(causes)})" if causes else ""
            return f"its state was read at the refusal, and the record was lost{named}"
        if causes:
            return f"records of refused pages were lost ({', '.join(causes)})"
        phase = "vma" if folio is None else _phase_of(folio)
        if phase and self._states.get(phase) == "missing":
            return f"this kernel's '{phase}' phase can't be traced"
        return "no state of the page was recorded at its refusal"

    # ---- pieces

    def _plain(self, row: int) -> dict[str, Any]:
        names = self._table.dtype.names or ()
        return dict(zip(names, self._table[row].item(), strict=True))

    def function(self, phase: str) -> str:
        """The kernel function that a phase was seen at, for people."""
        name = self._attach.get(phase) or _FUNCTIONS[phase]
        return name if " " in name else f"{name}()"

    def _refusal(self, row: int, folio: Any | None, allocate: str) -> Finding | None:
        hugetlb = folio is not None and bool(int(folio["flags"]) & FOLIO_HUGETLB)
        if row >= 0 and self._table["stage"][row]:
            stage, rc = int(self._table["stage"][row]), int(self._table["rc"][row])
        else:
            known = None if folio is None else _stage_of(folio)
            if known is None:
                return None
            stage, rc = known
        if stage >= len(STAGE_NAMES):
            value = {"stage": f"stage {stage}", "function": "", "rc": rc}
            words = f"refused at stage {stage}, which this mptrace does not know: {_rc(rc)}"
            return Finding("refusal", value, words)
        phase = STAGE_NAMES[stage]
        if stage == STAGE_ISOLATE and hugetlb:
            phase = "isolate_hugetlb"
        elif stage == STAGE_ALLOCATE:
            phase = allocate
        if stage == STAGE_SHARED:
            function = self.function("lookup")
            words = f"{function} found it; the kernel did not isolate it"
        elif stage == STAGE_LOCK:
            function = "migrate_folio_unmap()"
            words = f"it had its target, and {function} gave up before the unmap: {_rc(rc)}"
        elif stage == STAGE_UNMAP:
            function = self.function("unmap")
            words = f"still mapped after {function}: {_rc(rc)}"
        else:
            function = self.function(phase)
            words = f"{function} {_answer(stage, rc)}"
        value = {"stage": STAGE_NAMES[stage], "function": function.removesuffix("()"), "rc": rc}
        return Finding("refusal", value, words)

    def _entry(self, row: int, o: Mapping[str, Any]) -> Finding | None:
        if not o["seen"] & SEEN_PTE:
            return None
        kind = PTE_KINDS[int(self._pte[row])]
        if not kind:
            return None
        level = _LEVELS.get(o["pte_level"], str(o["pte_level"]))
        value = {"kind": kind, "level": o["pte_level"], "raw": hex(o["pte"])}
        return Finding("entry", value, f"page table entry ({level}): {_PTE_WORDS[kind]}")

    def _references(self, row: int, o: Mapping[str, Any]) -> Finding | None:
        if not o["seen"] & SEEN_STATE:
            return None
        seen, base = o["refcount"], int(self._expected[row])
        if o["stage"] not in _IN_MIGRATION:
            return Finding("references", {"seen": seen}, many(seen, "reference"))
        if base < 0:
            words = f"{many(seen, 'reference')} (how many it may have is not known)"
            return Finding("references", {"seen": seen, "expected": None}, words)
        parts = [(1, "the migration's own")]
        if self._mapping[row] == 0 or self._swap_cache[row]:
            cache = "page cache" if self._mapping[row] == 0 else "swap cache"
            parts.append((o["nr_pages"], cache))
        if base > sum(count for count, _ in parts):
            parts.append((base - sum(count for count, _ in parts), "private data"))
        mapped = max(o["mapcount"], 0)
        if mapped:
            parts.append((mapped, "still mapped"))
        expected = base + mapped
        made = " + ".join(f"{count} {what}" for count, what in parts)
        extra = seen - expected
        end = f": {format_count(extra)} too many" if extra > 0 else ""
        value = {
            "seen": seen,
            "expected": expected,
            "extra": extra,
            "parts": {what: count for count, what in parts},
        }
        words = f"{many(seen, 'reference')}, {format_count(expected)} expected ({made}){end}"
        return Finding("references", value, words)

    def _pins(self, row: int, o: Mapping[str, Any]) -> Finding | None:
        if o["nr_pages"] > 1 and o["seen"] & SEEN_STATE and o["pincount"] > 0:
            return Finding("pins", o["pincount"], f"pinned {times(o['pincount'])} (FOLL_PIN)")
        if not self._pinned[row] or o["nr_pages"] > 1:
            return None
        extra = o["refcount"] - max(int(self._expected[row]), 0) - max(o["mapcount"], 0)
        pins = extra // obstacles.PIN_BIAS
        words = f"pinned {times(pins)}: a pin (FOLL_PIN) counts {obstacles.PIN_BIAS:,} references"
        return Finding("pins", pins, words)

    def _mapcount(self, o: Mapping[str, Any]) -> Finding | None:
        if not o["seen"] & SEEN_STATE:
            return None
        count, page = max(o["mapcount"], 0), max(o["page_mapcount"], 0)
        words = f"mapped {times(count)}" if count else "no mapping left"
        if page and o["nr_pages"] > 1:
            words += f", the page itself {times(page)}"
        return Finding("mapcount", {"folio": count, "page": page}, words)

    def _mapped_by(self, o: Mapping[str, Any]) -> Finding | None:
        most = max(o["mapcount"], o["page_mapcount"])
        if o["stage"] not in (STAGE_SHARED, STAGE_UNMAP) or most < 2:
            return None
        found = self._mappers_of(o)
        if not found:
            return None
        when = max(each["found_ns"] for each in found)
        later = when - o["last_ns"]
        value = {"found": len(found), "mapcount": most, "later_ns": later, "mappers": found}
        named = ", ".join(
            f"{each['pid']} ({each['comm'] or 'gone'}) at {each['address']}"
            for each in found[:MOST_MAPPERS]
        )
        more = len(found) - MOST_MAPPERS
        if more > 0:
            named += f" {and_more(more, '', 'mptrace dump --table mappers', inline=True)}"
        words = (
            f"mapped by: found {len(found)} of {many(most, 'mapping')}, "
            f"{format_ns(later)} later: {named}"
        )
        return Finding("mappers", value, words)

    def _mappers_of(self, o: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._mappers is None:
            self._mappers = {}
            people = Processes(self._tables, self._meta)
            table = self._tables.get("mappers")
            for each in () if table is None else table:
                key = (int(each["call_id"]), int(each["src"]))
                self._mappers.setdefault(key, []).append(
                    {
                        "pid": int(each["pid"]),
                        "comm": text(each["comm"]) or people.comm(int(each["pid"])),
                        "address": hex(int(each["address"])),
                        "found_ns": int(each["found_ns"]),
                    }
                )
        # without a call nothing says at what time it was that page
        return self._mappers.get((o["call_id"], o["src"]), []) if o["call_id"] else []

    def _flags(self, row: int, o: Mapping[str, Any]) -> Finding | None:
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
        value = {"kind": kind, "names": names, "raw": hex(o["page_flags"])}
        return Finding("flags", value, f"flags ({kind}): {', '.join(names) or 'none of note'}")

    @staticmethod
    def _size(o: Mapping[str, Any]) -> Finding | None:
        if o["nr_pages"] <= 1:
            return None
        return Finding("size", o["nr_pages"], f"a folio of {many(o['nr_pages'], 'page')}")

    def _file(self, row: int, o: Mapping[str, Any]) -> Finding | None:
        if not o["seen"] & SEEN_FILE:
            return None
        fs = o["fs"].decode("utf-8", "replace")
        major, minor = o["dev"] >> 20, o["dev"] & 0xFFFFF
        words = f"file: inode {o['inode']} on device {major}:{minor} ({fs or 'no name'})"
        operation = operations = None
        if o["a_ops"] and self._mapping[row] == 0:
            operations = self._symbol(o["a_ops"])
            operation = self._symbol(o["migrate_op"]) if o["migrate_op"] else None
            words += f"; {operations}: "
            words += f"migrate_folio is {operation}" if operation else "no migrate_folio"
        value = {
            "fs": fs,
            "major": major,
            "minor": minor,
            "inode": o["inode"],
            "a_ops": operations,
            "migrate_folio": operation,
        }
        return Finding("file", value, words)

    def _symbol(self, address: int) -> str:
        return str(self._symbols.get(f"{address:#x}") or f"{address:#x}")

    @staticmethod
    def _area(o: Mapping[str, Any]) -> Finding | None:
        if not o["seen"] & SEEN_VMA:
            return None
        names = [name for bit, name in _VM_FLAGS if o["vm_flags"] & bit]
        value = {
            "start": hex(o["vm_start"]),
            "end": hex(o["vm_end"]),
            "flags": names,
            "raw": hex(o["vm_flags"]),
        }
        words = f"area {o['vm_start']:#x}-{o['vm_end']:#x}: {' '.join(names) or 'no access'}"
        return Finding("area", value, words)

    def _holder(self, o: Mapping[str, Any]) -> Finding | None:
        if not o["holder_id"]:
            return None
        value: dict[str, Any] = {"tid": o["holder_tid"], "comm": None, "reason": None}
        words = f"thread {o['holder_tid']}"
        migrations = self._tables["migrations"]
        own = np.flatnonzero(migrations["migration_id"] == o["holder_id"])
        if own.size:
            row = migrations[own[0]]
            reasons = self._meta.get("reasons") or {}
            value["comm"] = bytes(row["comm"]).decode("utf-8", "replace")
            value["reason"] = str(reasons.get(str(int(row["reason"])), int(row["reason"])))
            words += f" ({value['comm']}), in a migration for {value['reason']}"
        else:
            words += ", in a call of its own"
        if o["holder_tid"] == o["tid"]:
            words += ": the caller itself"
        return Finding("holder", value, f"isolated by {words}")

    @staticmethod
    def _allowed(o: Mapping[str, Any]) -> Finding | None:
        if o["stage"] != STAGE_ALLOCATE or o["allowed"] < 0:
            return None
        words = "is" if o["allowed"] else "is not"
        return Finding("allowed", bool(o["allowed"]), f"the target {words} in the caller's cpuset")

    @staticmethod
    def _passes(o: Mapping[str, Any]) -> Finding | None:
        counts = {name: o[column] for column, name in _COUNTERS if o[column]}
        if not counts:
            return None
        span = o["last_ns"] - o["first_ns"]
        named = ", ".join(f"{name} {times(count)}" for name, count in counts.items())
        within = f" within {format_ns(span)}" if span > 0 else ""
        return Finding("passes", {**counts, "span_ns": span}, f"refused: {named}{within}")

    @staticmethod
    def _wait(o: Mapping[str, Any]) -> Finding | None:
        waits = {
            "folio_lock": (o["lock_wait_ns"], o["n_lock_wait"], "its lock"),
            "writeback": (o["writeback_wait_ns"], o["n_writeback_wait"], "its writeback"),
        }
        waits = {name: wait for name, wait in waits.items() if wait[0] or wait[1]}
        if not waits:
            return None
        named = " and ".join(
            f"{format_ns(ns)} for {what} ({times(count)})" for ns, count, what in waits.values()
        )
        value = {name: {"ns": ns, "count": count} for name, (ns, count, _) in waits.items()}
        return Finding("wait", value, f"the migration waited {named}")


def line(cause: str, findings: tuple[Finding, ...]) -> str:
    """The evidence of a cause in one line: the refusal, and what the cause rests on."""
    wanted = ("refusal", *TELLING.get(cause, ("references", "pins")))
    by_label = {finding.label: finding.words for finding in findings}
    return "; ".join(by_label[label] for label in wanted if label in by_label)


def _stage_of(folio: Any) -> tuple[int, int] | None:
    """Stage and answer of a refusal, from the folio's own record."""
    lookup, isolate, move = (int(folio[name]) for name in ("lookup_rc", "isolate_rc", "move_rc"))
    looked_up = int(folio["lookup_seq"]) != NO_LOOKUP
    if looked_up and lookup != 0:
        return STAGE_LOOKUP, lookup
    if looked_up and isolate == ISOLATE_NOT_TRIED:
        return STAGE_SHARED, 0
    if looked_up and isolate != 0:
        return STAGE_ISOLATE, isolate
    if int(folio["flags"]) & FOLIO_ALLOC_FAILED:
        return STAGE_ALLOCATE, -12
    if move not in (0, MOVE_NOT_TRIED):
        return STAGE_MOVE, move
    return None


def _phase_of(folio: Any) -> str:
    known = _stage_of(folio)
    if known is None:
        return "unmap"
    return "lookup" if known[0] == STAGE_SHARED else STAGE_NAMES[known[0]]


def _answer(stage: int, rc: int) -> str:
    if stage in (STAGE_VMA, STAGE_RELEASE):
        return "returned false"
    if stage == STAGE_ALLOCATE:
        return "returned no folio"
    if stage == STAGE_LOOKUP and rc == LOOKUP_NONE:
        return "found no folio"
    if stage == STAGE_ISOLATE:
        return f"refused it: {_rc(rc)}"
    return f"returned {_rc(rc)}"


def _rc(rc: int) -> str:
    return f"{rc} {errno_name(-rc)}" if rc < 0 else str(rc)
