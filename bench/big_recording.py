# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a recording of as many entries as are wanted, as `mptrace record -a` leaves one.

Usage, on any machine:

    .venv/bin/python bench/big_recording.py big.data --entries 10000000 --pages-per-call 512

Several processes move their own pages from node 0 to node 1 and back by move_pages(2), two calls
at a time, while compaction moves pages of theirs without a call and threads wait for pages under
migration.  What becomes of every entry follows from its call and its place in it (:func:`fate`),
so that tests can say what must come out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mptrace.recording.layouts import (
    CALL,
    END_DONE,
    END_LOOKUP,
    END_PUTBACK,
    ENTRY,
    FOLIO,
    FOLIO_OBSTACLE,
    FOLIO_UNEXPECTED,
    ISOLATE_NOT_TRIED,
    LOOKUP_NONE,
    MAX_ENTRIES,
    MIGRATION,
    MIGRATION_KTHREAD,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    OBSTACLE,
    PROCESS,
    SEEN_STATE,
    STAGE_MOVE,
    STRUCT_PAGE_BYTES,
    SYSCALL_NONE,
    WAIT,
)
from mptrace.recording.mapping import MAPPING
from mptrace.recording.writer import RecordingWriter

PAGE = 4096
PROCESSES = 4
FIRST_TGID, KCOMPACTD, UID = 4001, 61, 1000
#: Time of a page until it is isolated, and in its migration; between two calls.
LOOKUP_NS, MOVE_NS, BETWEEN_NS = 400, 1600, 20_000
#: Every so many calls have refused pages, pages that are not there, pages that are there already.
REFUSED, ABSENT, THERE = 8, 16, 5
#: Which of them: not one that has refused pages, after which the kernel looks at no other page.
_LACKS = 3
#: Every so many pages of a call with such ones are refused.
REFUSED_PAGES = 101
#: Every so many calls there is a migration by compaction of so many pages.
COMPACTED, COMPACTED_PAGES = 4, 23
#: Every so many calls a thread waits for a page.
WAITED = 3
#: Folios of a call that lie one after the other in the table, before those of another call.
BLOCK = 64
STARTED = {"wall_ns": 1_700_000_000 * 10**9, "monotonic_ns": 10**9}
HEAP, _STRUCT_PAGES, _NEW_PAGES = 0x7F0000000000, 0xFFFFEA0000000000, 0xFFFFEA8000000000
_EBUSY, _ENOENT, _EAGAIN = -16, -2, -11


def fate(number: int, pages: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What becomes of each entry of a call: 1 moved, 2 already there, 3 failed.

    ``number`` is that of the call in the recording.  Outcomes have these numbers in
    ``layouts.OUTCOMES``.
    """
    found = np.ones(pages, np.uint8)
    if number % REFUSED == 0:
        found[REFUSED_PAGES - 1 :: REFUSED_PAGES] = 3
    if number % THERE == 0:
        found[: pages // 4] = 2
    if number % ABSENT == _LACKS:
        found[pages // 2] = 3
    return found


def write(
    path: Path, entries: int, pages_per_call: int, *, force: bool = False, seed: int = 1
) -> int:
    """Write a recording of so many entries at the least, and return the number of its calls."""
    if not 1 <= pages_per_call <= MAX_ENTRIES:
        raise ValueError(f"calls have 1 to {MAX_ENTRIES} pages, not {pages_per_call}")
    calls = -(-entries // pages_per_call)
    calls += calls % 2
    session = _Session(pages_per_call, np.random.default_rng(seed))
    with RecordingWriter(
        path, force=force, meta=_meta(), owner=(-1, -1), clock=lambda: session.now / 1e9
    ) as writer:
        writer.append("processes", _processes())
        writer.append("mappings", _mappings(pages_per_call))
        for first in range(0, calls, 2):
            for table, rows in session.two_calls(first):
                writer.append(table, rows)
        ended = {
            name: value + session.now - STARTED["monotonic_ns"] for name, value in STARTED.items()
        }
        writer.finish({"ended": ended})
    return calls


class _Session:
    """Makes the records of one call after the other."""

    def __init__(self, pages: int, random: np.random.Generator) -> None:
        self.now = STARTED["monotonic_ns"]
        self._pages, self._random = pages, random

    def two_calls(self, first: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Tables and rows of two calls that overlap, in the order of a session's records."""
        made = [self._call(first + number) for number in range(2)]
        blocks = range(0, self._pages, BLOCK)
        both = [each["folios"][at : at + BLOCK] for at in blocks for each in made]
        yield "folios", np.concatenate(both)
        for each in made:
            yield from ((table, rows) for table, rows in each.items() if table != "folios")
        if first % COMPACTED == 0:
            yield from self._compaction(first)
        self.now += self._pages * (LOOKUP_NS + MOVE_NS) + BETWEEN_NS

    def _call(self, number: int) -> dict[str, np.ndarray[Any, Any]]:
        pages = self._pages
        begin = self.now + (number % 2) * 137
        call_id, migration_id = (begin << 10) + 1, (begin << 10) + 2
        tgid = FIRST_TGID + number % PROCESSES
        source = number // PROCESSES % 2
        outcome = fate(number, pages)
        refused, absent = outcome == 3, np.zeros(pages, np.bool_)
        if number % ABSENT == _LACKS:
            absent[pages // 2] = True
            refused &= ~absent
        moved, queued = outcome == 1, (outcome == 1) | refused
        # an entry that is not there, and one that is there already, flush what is queued
        stops = np.flatnonzero(np.diff(queued.astype(np.int8), append=0) == -1) + 1
        group = np.searchsorted(stops, np.arange(pages), side="right")
        address = HEAP + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE)
        folios = np.zeros(pages, FOLIO)
        folios["call_id"], folios["tid"], folios["address"] = call_id, tgid, address
        frame = (tgid - FIRST_TGID) * pages + np.arange(pages)
        before = (_STRUCT_PAGES, _NEW_PAGES)[source]
        after = (_STRUCT_PAGES, _NEW_PAGES)[1 - source]
        folios["src"] = np.where(
            absent, 0, np.uint64(before) + (frame * STRUCT_PAGE_BYTES).astype(np.uint64)
        )
        folios["lookup_seq"] = np.arange(pages)
        folios["lookup_rc"] = np.where(absent, LOOKUP_NONE, 0)
        folios["isolate_rc"] = np.where(queued, 0, ISOLATE_NOT_TRIED)
        folios["move_rc"] = np.where(moved, 0, np.where(refused, _EAGAIN, MOVE_NOT_TRIED))
        folios["nr_pages"] = ~absent
        folios["src_nid"] = np.where(absent, -1, np.where(outcome == 2, 1 - source, source))
        folios["dst_nid"] = np.where(queued, 1 - source, -1)
        folios["end"] = np.where(queued, np.where(moved, END_DONE, END_PUTBACK), END_LOOKUP)
        folios["flags"] = np.where(refused, FOLIO_OBSTACLE, 0)
        folios["owner_tgid"] = np.where(queued, tgid, 0)
        folios["migration_id"] = np.where(queued, migration_id + group, 0)
        folios["dst"] = np.where(
            queued, np.uint64(after) + (frame * STRUCT_PAGE_BYTES).astype(np.uint64), 0
        )
        # of each lookup the pages that were migrated before it, of each group those up to its end
        size = np.bincount(group[queued], minlength=stops.size)
        done = np.cumsum(size)
        before_it = np.append(0, done)[group]
        self._times(
            folios, begin + np.arange(pages) * LOOKUP_NS + before_it * MOVE_NS, queued, moved
        )
        ret = int(refused.sum())
        migrations = np.zeros(stops.size, MIGRATION)
        migrations["migration_id"] = migration_id + np.arange(stops.size)
        migrations["call_id"], migrations["tid"], migrations["tgid"] = call_id, tgid, tgid
        at = begin + np.minimum(stops + 1, pages) * LOOKUP_NS + done * MOVE_NS
        migrations["enter_ns"], migrations["exit_ns"] = at - size * MOVE_NS, at
        migrations["mode"], migrations["reason"], migrations["syscall"] = 2, 3, 279
        migrations["cgroup_id"], migrations["dst_nid"] = 7, 1 - source
        migrations["comm"] = f"worker-{tgid}".encode()
        migrations["lookups_before"] = np.minimum(stops + 1, pages)
        for name, which in (("succeeded", moved), ("failed", refused), ("rc", refused)):
            migrations[name] = np.bincount(group[which], minlength=stops.size)[: stops.size]
        entries = np.zeros(pages, ENTRY)
        entries["call_id"], entries["entry"], entries["address"] = (
            call_id,
            np.arange(pages),
            address,
        )
        entries["target_nid"], entries["status_before"] = 1 - source, -77
        failed = np.flatnonzero(migrations["rc"])
        # a group that failed ends the loop: no status of it, and none behind it
        end = pages if not failed.size else int(stops[int(failed[0])])
        told = (np.arange(pages) < end) & ~(queued & np.isin(group, failed))
        status = np.where(absent, _ENOENT, 1 - source)
        entries["status_after"] = np.where(told, status, -77)
        calls = np.zeros(1, CALL)
        exit_ns = begin + pages * LOOKUP_NS + int(size.sum()) * MOVE_NS + 500
        for name, value in {
            "call_id": call_id,
            "enter_ns": begin,
            "exit_ns": exit_ns,
            "drain_ns": 300,
            "nr_pages": pages,
            "pages_ptr": 0x1000,
            "nodes_ptr": 0x2000,
            "status_ptr": 0x3000,
            "ret": ret,
            "tid": tgid,
            "tgid": tgid,
            "pid": 0,
            "flags": 2,
            "n_lookups": pages,
            "n_migrations": stops.size,
            "n_drain": 1,
            "n_vmas": 1,
            "target_tgid": tgid,
            "comm": f"worker-{tgid}".encode(),
        }.items():
            calls[name] = value
        found = {"folios": folios, "migrations": migrations, "calls": calls, "entries": entries}
        if refused.any():
            found["obstacles"] = _obstacles(folios[refused])
        if number % WAITED == 0 and moved.any():
            found["waits"] = _wait(folios[np.flatnonzero(moved)[:1]], tgid)
        return found

    def _times(
        self,
        folios: np.ndarray[Any, Any],
        start_ns: np.ndarray[Any, Any],
        queued: np.ndarray[Any, Any],
        moved: np.ndarray[Any, Any],
    ) -> None:
        """Times of each step, each with a tail of long ones, as real ones have it."""
        count = folios.size

        def some(mean: int) -> np.ndarray[Any, Any]:
            return (self._random.gamma(2.0, mean / 2, count) + 20).astype(np.uint64)

        folios["start_ns"] = start_ns
        folios["end_ns"] = start_ns + np.where(queued, some(900), 0).astype(np.int64)
        for name, mean in (("isolate_ns", 110), ("alloc_ns", 240), ("unmap_ns", 310)):
            folios[name] = np.where(queued, some(mean), 0)
        for name in ("n_alloc", "n_unmap", "n_maps", "n_dark"):
            folios[name] = queued
        folios["lock_ns"] = np.where(queued, some(60), 0)
        folios["copy_ns"] = np.where(moved, some(400), 0)
        folios["move_ns"] = np.where(queued, folios["copy_ns"] + some(120), 0)
        for name, mean in (("remap_ns", 130), ("lru_ns", 70), ("release_ns", 90)):
            folios[name] = np.where(moved, some(mean), 0)
        folios["n_copy"] = moved
        folios["n_move"], folios["n_remap"] = queued, queued
        dark = folios["start_ns"] + 200
        folios["blackout_ns"] = np.where(queued, some(1500), 0)
        folios["dark_first_ns"] = np.where(queued, dark, 0)
        folios["light_last_ns"] = np.where(queued, dark + folios["blackout_ns"], 0)

    def _compaction(self, number: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """A migration that no call asked for, of pages of the last process."""
        begin = self.now + 61
        made = np.zeros(1, MIGRATION)
        made["migration_id"], made["enter_ns"], made["exit_ns"] = (
            (begin << 10) + 3,
            begin,
            begin + 50_000,
        )
        made["tid"], made["tgid"], made["comm"] = KCOMPACTD, KCOMPACTD, b"kcompactd0"
        made["flags"], made["syscall"], made["mode"] = MIGRATION_KTHREAD, SYSCALL_NONE, 1
        made["dst_nid"], made["succeeded"] = -1, COMPACTED_PAGES
        folios = np.zeros(COMPACTED_PAGES, FOLIO)
        place = np.arange(COMPACTED_PAGES) + number % 4 * COMPACTED_PAGES
        folios["migration_id"], folios["lookup_seq"] = made["migration_id"], NO_LOOKUP
        folios["src"] = np.uint64(_STRUCT_PAGES - (1 << 30)) + (place * 64).astype(np.uint64)
        folios["dst"] = np.uint64(_STRUCT_PAGES - (1 << 31)) + (place * 64).astype(np.uint64)
        folios["address"] = HEAP - (1 << 30) + place * PAGE
        folios["owner_tgid"] = FIRST_TGID + PROCESSES - 1
        folios["isolate_rc"], folios["nr_pages"] = ISOLATE_NOT_TRIED, 1
        folios["end"], folios["flags"], folios["tid"] = END_DONE, FOLIO_UNEXPECTED, KCOMPACTD
        yes = np.ones(COMPACTED_PAGES, np.bool_)
        self._times(folios, begin + np.arange(COMPACTED_PAGES) * MOVE_NS, yes, yes)
        folios["isolate_ns"] = 0
        yield "folios", folios
        yield "migrations", made


def _obstacles(folios: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Somebody else holds references on these pages."""
    found = np.zeros(folios.size, OBSTACLE)
    for name in ("call_id", "migration_id", "src", "address", "tid", "lookup_seq", "nr_pages"):
        found[name] = folios[name]
    found["first_ns"], found["last_ns"] = folios["start_ns"], folios["end_ns"]
    found["mapping"], found["page_flags"] = 0xFFFF888100000001, 1 << 17
    found["rc"], found["refcount"], found["pincount"] = _EAGAIN, 2, -1
    found["n_move"], found["stage"], found["seen"], found["allowed"] = (
        10,
        STAGE_MOVE,
        SEEN_STATE,
        -1,
    )
    return found


def _wait(folio: np.ndarray[Any, Any], tgid: int) -> np.ndarray[Any, Any]:
    """A thread of the process touches a page that is under migration."""
    found = np.zeros(1, WAIT)
    found["start_ns"], found["end_ns"] = folio["dark_first_ns"] + 10, folio["light_last_ns"]
    found["address"], found["folio"] = folio["address"], folio["src"]
    found["holder_id"], found["holder_tid"] = folio["migration_id"], tgid
    found["tid"], found["tgid"], found["comm"] = tgid + 100, tgid, b"toucher"
    return found


def _processes() -> np.ndarray[Any, Any]:
    found = np.zeros(PROCESSES, PROCESS)
    found["tgid"] = FIRST_TGID + np.arange(PROCESSES)
    found["seen_ns"], found["cgroup_id"], found["uid"] = STARTED["monotonic_ns"], 7, UID
    found["comm"] = [f"worker-{tgid}".encode() for tgid in found["tgid"]]
    return found


def _mappings(pages: int) -> np.ndarray[Any, Any]:
    """Each process has its heap and a file behind it."""
    found = np.zeros(2 * PROCESSES, MAPPING)
    found["tgid"] = FIRST_TGID + np.arange(2 * PROCESSES) // 2
    found["seen_ns"], found["born_ns"] = STARTED["monotonic_ns"] + 1, 1
    is_file = np.arange(2 * PROCESSES) % 2 == 1
    middle = HEAP + max(pages * 3 // 4, 1) * PAGE
    found["start"] = np.where(is_file, middle, HEAP - (1 << 31))
    found["end"] = np.where(is_file, HEAP + (pages + 1) * PAGE, middle)
    found["inode"], found["dev"] = np.where(is_file, 17, 0), np.where(is_file, 1 << 20, 0)
    found["perms"], found["name"] = b"rw-p", np.where(is_file, b"/srv/data/store", b"[heap]")
    return found


def _meta() -> dict[str, Any]:
    phases = ("call", "drain", "vma", "lookup", "isolate", "migration", "allocate", "unmap")
    phases += ("tlb_flush_pte", "dark", "move", "copy", "remap", "outcome", "owner", "wait_pte")
    seen = {"unit": "page", "attach": "", "method": "fentry", "state": "proved", "reason": ""}
    return {
        "tool_version": "bench",
        "command": ["record", "-a"],
        "interrupted": False,
        "kernel": {"release": "6.12.0", "machine": "x86_64", "page_size": PAGE},
        "nodes": [
            {"nid": nid, "cpus": [nid], "memory_bytes": 1 << 36, "free_bytes": 1 << 35}
            | {"distances": [10 + 10 * nid, 20 - 10 * nid]}
            for nid in (0, 1)
        ],
        "hypervisor": "",
        "emulated": False,
        "counted": None,
        "started": STARTED,
        "settings": {"numa_balancing": "0"},
        "workload": None,
        "mappings": [],
        "mappings_gap": "",
        "own": [FIRST_TGID - 1],
        "reasons": {"0": "compaction", "3": "syscall"},
        "modes": {"0": "async", "1": "sync_light", "2": "sync"},
        "page_flags": {"PG_swapcache": 10, "PG_private": 13, "PG_swapbacked": 17},
        "coverage": [{"phase": phase, **seen, "expected": 46, "seen": 46} for phase in phases],
        "unproved_kinds": [],
        "lost": dict.fromkeys(("folio_ring_full", "call_ring_full", "obstacle_ring_full"), 0),
        "cost": None,
        "cost_reason": "mptrace does not run traced programs again without tracing",
        "memory_bound_bytes": 1 << 27,
        "max_entries": MAX_ENTRIES,
        "cgroups": {"7": "/store.slice"},
        "scope": {"kind": "all", "pids": [], "uid": None, "cgroup": "", "command": [], "as": ""},
        "filters": {"reasons": [], "from": [], "to": [], "min_ns": 0, "failed": False},
        "tier": "bpf",
        "unseen": [],
        "rotation": None,
    }


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--pages-per-call", type=int, default=512)
    options = parser.parse_args()
    calls = write(options.recording, options.entries, options.pages_per_call, force=True)
    print(f"{options.recording}: {calls} calls")


if __name__ == "__main__":
    main()
