# SPDX-License-Identifier: GPL-2.0-or-later
"""A small model of do_pages_move(), written from mm/migrate.c, one page at a time.

It shares no code with the correlator, which never loops per page: it really moves
modelled folios, so it knows what became of each page, and writes down what BPF
would have seen.  `generation` is "5.10" (whose positive count is one too small),
"6.1" (follow_page()) or "6.12" (folio_walk).
"""

import errno
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mptrace.recording.layouts import (
    CALL,
    DRIVER_CALL,
    END_DONE,
    END_LOOKUP,
    END_PUTBACK,
    ENTRY,
    FOLIO,
    FOLIO_ALLOC_FAILED,
    FOLIO_HUGETLB,
    FOLIO_PMD,
    ISOLATE_NOT_TRIED,
    LOCATION,
    LOOKUP_NONE,
    MIGRATION,
    MOVE_NOT_TRIED,
    NOT_COUNTED,
    OBSTACLE,
    READ_STATUS,
    SEEN_PTE,
    SEEN_STATE,
    SEEN_ZERO,
    STAGE_ISOLATE,
    STAGE_LOOKUP,
    STAGE_MOVE,
    STAGE_SHARED,
)

PAGE = 4096
PRESENT_PTE = 0x8000000012345067
#: State of an anonymous folio.
ANONYMOUS = {"seen": SEEN_STATE, "mapping": 0xFFFF888000000001}
SENTINEL = 0x7777
MOVE, MOVE_ALL = 2, 4


@dataclass(eq=False)
class Folio:
    """A folio of the model; `trait` is what will happen when it is to be moved."""

    pointer: int
    nid: int
    nr_pages: int = 1
    trait: str = ""  # pinned, unmappable, refused, no memory, locked, freed
    shared: bool = False
    busy: bool = False
    hugetlb: bool = False
    pmd: bool = False  # mapped once, by a PMD
    zero: bool = False
    moves: list[tuple[int, int]] = field(default_factory=list)  # (step, to nid)


@dataclass
class Truth:
    """What really became of each entry of a call, as the model saw it happen."""

    outcome: list[str]
    written: list[bool]
    status: list[int]
    final: list[int]
    before: list[int]
    ret: int
    processed: int
    aliased: list[bool]  # a large folio or one mapped twice is at the address, or near it


class Kernel:
    """An address space, a node for each folio, and the records of its calls."""

    def __init__(self, generation: str = "6.1", nodes: int = 4, cpuset: tuple[int, ...] = ()):
        self.generation = generation
        self.memory_nodes = tuple(range(nodes))
        self.allowed = cpuset or self.memory_nodes
        self.pages: dict[int, Folio | None] = {}  # page number -> folio, None: nothing there
        self.free: list[int] = []
        self.pointers = itertools.count(0xFFFFEA0000100000, 64 * 512)
        self.ids = itertools.count(1)
        self.clock = itertools.count(1_000_000, 100)
        self.rows: dict[str, list[np.void]] = {name: [] for name in _LAYOUTS}
        self.reuse = True
        #: Whether lookups that found or took nothing leave their evidence, too.
        self.evidence = False

    # -- building --

    def folio(self, page: int, nid: int, nr_pages: int = 1, **traits: Any) -> Folio:
        """Map a new folio at page number `page`."""
        folio = Folio(self.pointer(), nid, nr_pages, **traits)
        for offset in range(nr_pages):
            self.pages[page + offset] = folio
        return folio

    def pointer(self) -> int:
        """Address of a struct page: new, or one that a moved page has left."""
        if self.free and self.reuse:
            return self.free.pop(0)
        return next(self.pointers)

    def where(self, address: int) -> int:
        """The query: node of an address, or -errno."""
        folio = self.pages.get(address // PAGE)
        if folio is None:
            return -errno.ENOENT if address // PAGE in self.pages else -errno.EFAULT
        return -errno.EFAULT if folio.zero else folio.nid

    # -- the system call --

    def move_pages(
        self,
        addresses: list[int],
        nodes: list[int],
        flags: int = MOVE,
        initial: int = SENTINEL,
        status_fault: int | None = None,
        tid: int = 100,
    ) -> Truth:
        """do_pages_move(): returns the truth, and appends the records of the call.

        `status_fault`: entries from this one on can't be stored.
        """
        return _Call(self, addresses, nodes, flags, initial, status_fault, tid).run()

    def tables(self) -> dict[str, np.ndarray[Any, Any]]:
        """The records so far, by table."""
        return {
            name: np.array(rows, layout) if rows else np.zeros(0, layout)
            for (name, layout), rows in zip(_LAYOUTS.items(), self.rows.values(), strict=True)
        }

    def meta(self) -> dict[str, Any]:
        """A meta.json that fits."""
        return {
            "format_version": 2,
            "kernel": {"release": self.generation, "machine": "x86_64", "page_size": PAGE},
            "nodes": [{"nid": n, "memory_bytes": 1 << 30} for n in self.memory_nodes],
            "coverage": [
                {"phase": phase, "state": "proved"}
                for phase in ("call", "lookup", "isolate", "migration", "move")
            ],
            "lost": {"ring": 0},
            "page_flags": {"PG_swapcache": 10, "PG_private": 13, "PG_swapbacked": 17},
            "complete": True,
        }

    def add(self, table: str, **values: Any) -> np.void:
        """Append a row."""
        row = np.zeros(1, _LAYOUTS[table])
        for name, value in values.items():
            row[name] = value
        self.rows[table].append(row[0])
        return row[0]


_LAYOUTS = {
    "calls": CALL,
    "migrations": MIGRATION,
    "folios": FOLIO,
    "obstacles": OBSTACLE,
    "entries": ENTRY,
    "driver_calls": DRIVER_CALL,
    "locations": LOCATION,
}


class _Call:
    def __init__(
        self,
        kernel: Kernel,
        addresses: list[int],
        nodes: list[int],
        flags: int,
        initial: int,
        status_fault: int | None,
        tid: int,
    ) -> None:
        self.kernel, self.addresses, self.nodes, self.flags = kernel, addresses, nodes, flags
        self.id = next(kernel.ids)
        self.status = [initial] * len(addresses)
        self.written = [False] * len(addresses)
        self.initial, self.fault, self.tid = initial, status_fault, tid
        self.lookups = self.migrations = 0
        self.list: list[tuple[Folio, dict[str, Any]]] = []
        self.isolated: set[int] = set()
        self.step = 0
        # What became of each entry by itself: (kind, folio)
        self.fate: list[tuple[str, Folio | None]] = [("not_attempted", None)] * len(addresses)
        self.groups: dict[tuple[Folio, int], str] = {}

    def run(self) -> Truth:
        kernel = self.kernel
        before = [kernel.where(address) for address in self.addresses]
        for folio in set(kernel.pages.values()):
            if folio is not None:
                folio.moves.clear()
        enter = next(kernel.clock)
        ret, processed = self.loop()
        leave = next(kernel.clock)
        final = [kernel.where(address) for address in self.addresses]
        self.record(enter, leave, ret, before, final)
        outcome = [self.outcome(i, final[i]) for i in range(len(self.addresses))]
        return Truth(
            outcome,
            self.written,
            self.status,
            final,
            before,
            ret,
            processed,
            [self.is_aliased(address) for address in self.addresses],
        )

    def is_aliased(self, address: int) -> bool:
        """Whether a large folio, or one mapped twice, lies at the address or near it."""
        page, pages = address // PAGE, self.kernel.pages
        folio = pages.get(page)
        twice = sum(other is folio for other in pages.values()) > 1
        near = any(
            folio is not None and folio.nr_pages > 1 and abs(page - other) < folio.nr_pages
            for other, folio in pages.items()
        )
        return near or (folio is not None and twice)

    def outcome(self, i: int, final: int) -> str:
        kind, queued = self.fate[i]
        folio = self.kernel.pages.get(self.addresses[i] // PAGE)
        target = self.nodes[i]
        if queued is not None:
            # A queued folio's group is flushed later; one that was in flight
            # made this entry's status trigger the flush.
            flushes = [at for owner, at in self.groups if owner is queued]
            late = min(at for at in flushes if at > i or (kind == "in flight" and at == i))
            return self.groups[queued, late]
        if kind == "there":
            arrived = folio is not None and any(step <= i for step, _ in folio.moves)
            return "moved" if arrived else "already_there"
        if folio is not None and folio.moves and final == target:
            return "moved"
        return "not_attempted" if kind == "not_attempted" else "failed"

    def loop(self) -> tuple[int, int]:
        kernel = self.kernel
        current: int | None = None
        start = i = 0
        err = 0
        processed = 0
        total = len(self.addresses)
        aborted = False
        while i < total:
            node = self.nodes[i]
            if node not in kernel.memory_nodes:
                err, aborted = -errno.ENODEV, True
                break
            if node not in kernel.allowed:
                err, aborted = -errno.EACCES, True
                break
            if current is None:
                current, start = node, i
            elif node != current:
                err = self.flush(current, start, i, total)
                if err:
                    return err, processed
                start, current = i, node
            err = self.add(i, current)
            processed = i + 1
            if err > 0:
                i += 1
                continue
            err = self.store(i, err or current)
            if err:
                aborted = True
                break
            err = self.flush(current, start, i, total)
            if err:
                accounted = err > 0 and kernel.generation != "5.10"
                return (err - 1 if accounted else err), processed
            current = None
            i += 1
        if not aborted:
            err = 0
        flushed = self.flush(current, start, i, total)
        if err >= 0:
            err = flushed
        return err, processed

    def store(self, i: int, value: int) -> int:
        if self.fault is not None and i >= self.fault:
            return -errno.EFAULT
        self.status[i] = value
        self.written[i] = True
        return 0

    def add(self, i: int, node: int) -> int:
        kernel = self.kernel
        address = self.addresses[i]
        page = address // PAGE
        self.fate[i] = ("failed", None)
        if page not in kernel.pages:
            return -errno.EFAULT
        record: dict[str, Any] = {
            "call_id": self.id,
            "address": address,
            "start_ns": next(kernel.clock),
            "tid": self.tid,
            "lookup_seq": self.lookups,
            "isolate_rc": ISOLATE_NOT_TRIED,
            "move_rc": MOVE_NOT_TRIED,
            "src_nid": -1,
            "dst_nid": -1,
            "end": END_LOOKUP,
        }
        self.lookups += 1
        folio = kernel.pages[page]
        old = kernel.generation != "6.12"
        if folio is None or (folio.zero and old):
            zero = {"seen": SEEN_PTE | SEEN_ZERO, "pte": PRESENT_PTE}
            entry = {"pte_level": 1} | ({"seen": SEEN_PTE} if folio is None else zero)
            if old:
                kernel.add("folios", **record, lookup_rc=-errno.EFAULT)
                self.obstacle(record, STAGE_LOOKUP, rc=-errno.EFAULT, **entry)
                return -errno.EFAULT
            kernel.add("folios", **record, lookup_rc=LOOKUP_NONE)
            self.obstacle(record, STAGE_LOOKUP, rc=LOOKUP_NONE, **entry)
            return -errno.ENOENT
        record.update(src=folio.pointer, src_nid=folio.nid, nr_pages=folio.nr_pages)
        if folio.zero:
            kernel.add("folios", **record)
            return -errno.EFAULT
        if folio.nid == node:
            self.fate[i] = ("there", None)
            kernel.add("folios", **record)
            return 0
        if folio.pointer in self.isolated:
            self.fate[i] = ("in flight", folio)
        if folio.shared and not self.flags & MOVE_ALL:
            kernel.add("folios", **record)
            self.obstacle(record, STAGE_SHARED, refcount=3, mapcount=2, **ANONYMOUS)
            return -errno.EACCES
        if folio.hugetlb and old and page % folio.nr_pages:
            kernel.add("folios", **record)
            return -errno.EACCES
        if folio.busy or folio.pointer in self.isolated:
            kernel.add("folios", **{**record, "isolate_rc": -errno.EBUSY})
            rc = -errno.EBUSY
            self.obstacle(record, STAGE_ISOLATE, rc=rc, refcount=2, mapcount=1, **ANONYMOUS)
            return -errno.EBUSY
        record.update(isolate_rc=0, isolate_ns=7, flags=FOLIO_HUGETLB if folio.hugetlb else 0)
        self.fate[i] = ("queued", folio)
        self.isolated.add(folio.pointer)
        self.list.append((folio, record))
        return 1

    def obstacle(self, record: dict[str, Any], stage: int, **state: Any) -> None:
        """Write down what stood in the way of a lookup, where that is asked for."""
        if not self.kernel.evidence:
            return
        known = ("call_id", "lookup_seq", "address", "src", "nr_pages")
        self.kernel.add(
            "obstacles",
            **{name: record[name] for name in known if name in record},
            first_ns=record["start_ns"],
            last_ns=record["start_ns"],
            tid=self.tid,
            stage=stage,
            allowed=-1,
            **state,
        )

    def flush(self, node: int | None, start: int, i: int, total: int) -> int:
        if not self.list:
            return 0
        assert node is not None
        err = self.migrate(node, i)
        if err:
            # one less up to 6.0, as if entry i had always been accounted for
            accounted = self.kernel.generation == "5.10"
            return err + total - i - accounted if err > 0 else err
        for entry in range(start, i):
            failed = self.store(entry, node)
            if failed:
                return failed
        return 0

    def migrate(self, node: int, i: int) -> int:
        kernel = self.kernel
        migration = next(kernel.ids)
        self.migrations += 1
        enter = next(kernel.clock)
        left, no_memory = 0, False
        for folio, record in self.list:
            record["migration_id"] = migration
            source = folio.pointer
            end, result = END_PUTBACK, "failed"
            if no_memory:
                record["migration_id"] = 0
            elif folio.trait == "no memory":
                no_memory = True
                record.update(n_alloc=1, flags=record["flags"] | FOLIO_ALLOC_FAILED)
            elif folio.trait == "freed":
                end, result = END_DONE, "unknown"
                if folio.nr_pages == 1:
                    record["migration_id"] = 0
            else:
                record.update(n_alloc=1, alloc_ns=11, dst=kernel.pointer(), dst_nid=node)
                if folio.trait != "locked":
                    record.update(n_unmap=1, unmap_ns=13)
                if folio.pmd:
                    record.update(n_remap=1, flags=record["flags"] | FOLIO_PMD)
                if folio.trait in ("pinned", "refused"):
                    rc = -errno.EAGAIN if folio.trait == "pinned" else -errno.EIO
                    record.update(n_move=10, move_ns=170, move_rc=rc)
                    # an anonymous folio has one reference, its isolation's, and a pin more
                    kernel.add(
                        "obstacles",
                        **{name: record[name] for name in ("call_id", "lookup_seq", "address")},
                        migration_id=migration,
                        src=source,
                        nr_pages=folio.nr_pages,
                        stage=STAGE_MOVE,
                        rc=rc,
                        seen=SEEN_STATE,
                        mapping=0xFFFF888000000001,
                        refcount=2 if folio.trait == "pinned" else 1,
                        n_move=10,
                        allowed=-1,
                        first_ns=enter,
                        last_ns=enter + 170,
                    )
                if folio.trait:
                    left += 1
                    kernel.free.append(record["dst"])
                else:
                    record.update(n_move=1, move_ns=17, move_rc=0, n_copy=1, copy_ns=9)
                    kernel.free.append(folio.pointer)
                    folio.pointer, folio.nid = record["dst"], node
                    folio.moves.append((i, node))
                    # hugetlb ends with a putback also when it moved
                    end = END_PUTBACK if folio.hugetlb else END_DONE
                    result = "moved"
            self.isolated.discard(source)
            self.groups[folio, i] = result
            kernel.add("folios", **{**record, "end": end, "end_ns": next(kernel.clock)})
        self.list.clear()
        rc = -errno.ENOMEM if no_memory else left
        kernel.add(
            "migrations",
            migration_id=migration,
            call_id=self.id,
            enter_ns=enter,
            exit_ns=next(kernel.clock),
            tid=self.tid,
            rc=rc,
            lookups_before=self.lookups,
            dst_nid=node,
            reason=3,
            tgid=self.tid,
            comm=b"mover",
            syscall=279,
            succeeded=NOT_COUNTED,
            failed=NOT_COUNTED,
        )
        return rc

    def record(self, enter: int, leave: int, ret: int, before: list[int], final: list[int]) -> None:
        kernel = self.kernel
        kernel.add(
            "calls",
            call_id=self.id,
            enter_ns=enter,
            exit_ns=leave,
            nr_pages=len(self.addresses),
            nodes_ptr=1,
            ret=ret,
            tid=self.tid,
            tgid=self.tid,
            comm=b"mover",
            flags=self.flags,
            n_lookups=self.lookups,
            n_migrations=self.migrations,
        )
        driver = len(kernel.rows["driver_calls"])
        kernel.add(
            "driver_calls",
            driver_call=driver,
            tid=self.tid,
            before_ns=enter - 1,
            after_ns=leave + 1,
            ret=ret,
            entries=len(self.addresses),
        )
        for i, address in enumerate(self.addresses):
            kernel.add(
                "entries",
                call_id=self.id,
                entry=i,
                address=address,
                target_nid=self.nodes[i],
                status_before=self.initial,
                status_after=self.status[i],
                unread=READ_STATUS if self.fault == 0 else 0,
                unread_before=READ_STATUS if self.fault == 0 else 0,
            )
            kernel.add(
                "locations",
                driver_call=driver,
                entry=i,
                address=address,
                before_nid=before[i],
                final_nid=final[i],
            )
