# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of every record, in one place: ring buffers (numpy) and tables (Arrow names).

The ring layouts mirror the structs of ``records.h`` and ``obstacle.h`` in ``bpf/move_pages/``
field by field; a test compares them.  All times are nanoseconds of CLOCK_MONOTONIC; all
pointers are kernel addresses used as identities; ``nid`` is a memory node number, -1: unknown.
"""

from typing import Any

import numpy as np

from mptrace.recording.balancing import BALANCING
from mptrace.recording.driver_layouts import DRIVER_CALL, LOCATION
from mptrace.recording.lookup_layouts import LOOKUP
from mptrace.recording.mapping import MAPPING
from mptrace.recording.stack_layouts import STACK_TABLES

#: Number of entries in a chunk of the user arrays, by chunk class.
SMALL_CHUNK, MEDIUM_CHUNK, LARGE_CHUNK = 64, 1024, 16384
#: Entries of one call that BPF reads; those beyond it are unknown.
MAX_ENTRIES = 1 << 20

#: `lookup_seq` of a folio that no lookup of a call led to (compaction, split tails).
NO_LOOKUP = 0xFFFFFFFF

# How a folio record ended (`end`).
END_LOOKUP = 0  # looked up, not isolated by it: already there, shared, absent, busy
END_DONE = 1  # migrate_folio_done(): the kernel finished with the source folio
END_PUTBACK = 2  # putback: the folio went back to the LRU (hugetlb: also on success)
END_REUSED = 3  # the same folio was isolated again before an end was seen
END_OPEN = 4  # still in the kernel's map when the session closed
END_UNTRACED = 5  # in no recording: how it ended is not traced at this level of detail
END_NAMES = ("lookup", "done", "putback", "reused", "open", "untraced")

# `lookup_rc` of an entry: 0 a folio, LOOKUP_NONE nothing, otherwise the -errno of follow_page().
LOOKUP_NONE = 1
# `isolate_rc` of a lookup after which no isolation was tried.
ISOLATE_NOT_TRIED = 1
# `move_rc` of a folio that move_to_new_folio() never saw.
MOVE_NOT_TRIED = 1

# Bits of `flags` of a folio record.
FOLIO_HUGETLB = 1 << 0  # isolated or put back through the hugetlb path
FOLIO_UNTRACKED = 1 << 1  # isolated, but the map of folios was full: outcome unknown
FOLIO_ALLOC_FAILED = 1 << 2  # the last allocation of a target returned NULL
FOLIO_UNEXPECTED = 1 << 3  # first seen inside a migration (a split's tail, or not from a lookup)
FOLIO_PMD = 1 << 4  # a PMD that maps it became a migration entry
FOLIO_OBSTACLE = 1 << 5  # something refused or delayed it: a row of `obstacles` says what
FOLIO_CHOSEN = 1 << 6  # a process that was asked for maps it
FOLIO_KEEP = 1 << 7  # in the kernel's map only: it will be recorded

# Bits of `flags` of a migration.
MIGRATION_KTHREAD = 1 << 0  # a kernel thread migrates
MIGRATION_COMPAT = 1 << 1  # in a 32-bit system call: `syscall` is of that table
# `syscall` of a migration in no system call (a page fault, a kernel thread), and unknown.
SYSCALL_NONE = -1
SYSCALL_UNKNOWN = -2
#: `succeeded` and `failed` of a migration whose tracepoint was not seen.
NOT_COUNTED = 0xFFFFFFFF

# What a thread waited on (`kind` of a wait).
WAIT_PTE = 0
WAIT_PMD = 1
WAIT_HUGETLB = 2
WAIT_LOCK = 3  # the folio's lock, which the migration holds: no migration entry was met
WAIT_NAMES = ("pte", "pmd", "hugetlb", "lock")

# Where a folio was refused last (`stage` of an obstacle); 0: it only had to wait.
STAGE_NONE = 0
STAGE_VMA = 1  # vma_migratable() said no; no folio was looked up
STAGE_LOOKUP = 2  # no folio found
STAGE_SHARED = 3  # found and not isolated: mapped several times, zero page, already there
STAGE_ISOLATE = 4
STAGE_ALLOCATE = 5
STAGE_SPLIT = 6
STAGE_LOCK = 7  # between the target's allocation and the unmap: lock or writeback
STAGE_UNMAP = 8  # still mapped after try_to_migrate()
STAGE_RELEASE = 9  # private data not released
STAGE_MOVE = 10
STAGE_PUTBACK = 11  # left behind by a migration of which nothing else is seen
STAGE_NAMES = (
    "",
    "vma",
    "lookup",
    "shared",
    "isolate",
    "allocate",
    "split",
    "lock",
    "unmap",
    "release",
    "move",
    "putback",
)

# Bits of `seen` of an obstacle: what could be read.
SEEN_STATE = 1 << 0  # page_flags, mapping, private, the counts
SEEN_FILE = 1 << 1  # inode, dev, fs; with SEEN_STATE and a_ops also the mapping's operations
SEEN_VMA = 1 << 2  # vm_start, vm_end, vm_flags
SEEN_PTE = 1 << 3  # pte, pte_level
SEEN_ZERO = 1 << 4  # the entry maps the zero page
SEEN_HUGE_ZERO = 1 << 5  # the entry maps the huge zero page

# Bits of `failed` of a chunk, and of `unread` in the table of entries.
READ_PAGES = 1 << 0
READ_NODES = 1 << 1
READ_STATUS = 1 << 2
READ_NOTHING = READ_PAGES | READ_NODES | READ_STATUS
READ_COMPAT = 1 << 3  # of a chunk only: `pages` holds the 32-bit pointers of a 32-bit caller

FOLIO = np.dtype(
    [
        ("call_id", "<u8"),  # 0: no move_pages(2) call above this migration
        ("migration_id", "<u8"),  # 0: never reached a migration
        ("src", "<u8"),
        ("dst", "<u8"),  # 0: no target folio seen
        ("address", "<u8"),  # user address of the lookup (or of the first unmapped PTE)
        ("start_ns", "<u8"),  # first event
        ("end_ns", "<u8"),  # last event
        ("isolate_ns", "<u8"),
        ("alloc_ns", "<u8"),
        ("unmap_ns", "<u8"),  # includes flush_ns
        ("flush_ns", "<u8"),  # TLB flushes per PTE, inside unmap
        ("move_ns", "<u8"),  # move_to_new_folio, includes copy_ns
        ("copy_ns", "<u8"),
        ("remap_ns", "<u8"),
        # between two steps of one folio, seen by no probe of their own:
        ("lock_ns", "<u8"),  # target allocated .. unmap: folio lock, write-back, anon_vma
        ("lru_ns", "<u8"),  # moved .. remap: target added to the LRU (6.1: LRU drain, too)
        ("release_ns", "<u8"),  # remapped .. end: unlock, put the source
        ("dark_first_ns", "<u8"),  # first migration entry set; 0: never inaccessible
        ("light_last_ns", "<u8"),  # last migration entry removed
        ("blackout_ns", "<u8"),  # sum of the windows
        ("tid", "<u4"),
        ("lookup_seq", "<u4"),  # ordinal of the lookup in its call, NO_LOOKUP if none
        ("lookup_rc", "<i4"),
        ("isolate_rc", "<i4"),
        ("move_rc", "<i4"),  # of the last move
        ("nr_pages", "<u4"),  # base pages of the folio, 0 where no folio was found
        ("n_remap", "<u4"),  # PTEs (or PMDs) put back
        ("n_unmap", "<u2"),
        ("n_alloc", "<u2"),
        ("n_move", "<u2"),
        ("n_copy", "<u2"),
        ("n_flush", "<u2"),
        ("n_dark", "<u2"),  # blackout windows
        ("src_nid", "<i2"),
        ("dst_nid", "<i2"),
        ("end", "u1"),
        ("flags", "u1"),
        ("n_maps", "<u2"),  # mappings met by the unmap, over all attempts
        ("owner_tgid", "<u4"),  # process that maps it (one that was asked for, if any); 0: none
        ("pad", "<u4"),
    ]
)

#: What refused or delayed a folio, with its state at that moment (the last refusal's).
OBSTACLE = np.dtype(
    [
        ("call_id", "<u8"),
        ("migration_id", "<u8"),  # 0: before any migration
        ("src", "<u8"),
        ("address", "<u8"),  # user address of the lookup, 0: none
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("lock_wait_ns", "<u8"),
        ("writeback_wait_ns", "<u8"),
        ("page_flags", "<u8"),
        ("mapping", "<u8"),  # raw word; low bits: 0 file, 1 anonymous, 2 movable, 3 KSM
        ("private", "<u8"),
        ("a_ops", "<u8"),  # of a file's mapping; identities, named in meta `symbols`
        ("migrate_op", "<u8"),  # a_ops->migrate_folio, 0: NULL
        ("inode", "<u8"),
        ("pte", "<u8"),
        ("vm_start", "<u8"),
        ("vm_end", "<u8"),
        ("vm_flags", "<u8"),
        ("holder_id", "<u8"),  # call or migration that had isolated the folio
        ("holder_tid", "<u4"),
        ("tid", "<u4"),
        ("lookup_seq", "<u4"),  # of STAGE_VMA: lookups of the call before it
        ("nr_pages", "<u4"),
        ("dev", "<u4"),
        ("rc", "<i4"),  # of the last refusal
        ("refcount", "<i4"),
        ("mapcount", "<i4"),  # of the folio
        ("page_mapcount", "<i4"),  # of the page looked up
        ("pincount", "<i4"),  # of a large folio, -1: none is kept
        ("n_alloc", "<u2"),  # refusals by stage
        ("n_lock", "<u2"),
        ("n_unmap", "<u2"),
        ("n_move", "<u2"),
        ("n_split", "<u2"),
        ("n_release", "<u2"),
        ("n_lock_wait", "<u2"),
        ("n_writeback_wait", "<u2"),
        ("stage", "u1"),
        ("seen", "u1"),
        ("pte_level", "u1"),  # 1: PTE, 2: PMD, 3: PUD ...
        ("allowed", "i1"),  # the caller's cpuset has the target node: 1, 0, -1 unknown
        ("pad", "<u4"),
        ("fs", "S16"),  # name of the file system
    ]
)

MIGRATION = np.dtype(
    [
        ("migration_id", "<u8"),
        ("call_id", "<u8"),
        ("enter_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("flush_ns", "<u8"),  # TLB flushes per batch
        ("cgroup_id", "<u8"),  # of the initiator (cgroup v2), 0: unknown
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("rc", "<i4"),  # return value: 0, folios left behind, or -errno
        ("mode", "<u4"),
        ("reason", "<u4"),
        ("lookups_before", "<u4"),  # lookups of the call before this migration
        ("n_flush", "<u4"),
        ("dst_nid", "<i4"),
        ("lost", "<u4"),  # records lost inside this migration
        ("flags", "<u4"),
        ("syscall", "<i4"),  # number of the system call the initiator was in, or SYSCALL_*
        # base pages as the kernel's own tracepoint counts them, or NOT_COUNTED
        ("succeeded", "<u4"),
        ("failed", "<u4"),
        ("pad", "<u4"),
        ("comm", "S16"),
    ]
)

CALL = np.dtype(
    [
        ("call_id", "<u8"),
        ("enter_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("drain_ns", "<u8"),
        ("nr_pages", "<u8"),
        ("pages_ptr", "<u8"),
        ("nodes_ptr", "<u8"),
        ("status_ptr", "<u8"),
        ("ret", "<i8"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("pid", "<i4"),  # as passed: 0 is the caller itself
        ("flags", "<i4"),
        ("n_lookups", "<u4"),
        ("n_migrations", "<u4"),
        ("n_drain", "<u4"),
        ("lost", "<u4"),  # records lost inside this call
        ("n_vmas", "<u4"),  # mappings that vma_migratable() was asked about
        ("target_tgid", "<u4"),  # process whose pages they are, 0: no mapping was looked up
        ("comm", "S16"),
    ]
)


def _chunk(entries: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("call_id", "<u8"),
            ("first", "<u4"),  # index of the first entry in the call's arrays
            ("count", "<u4"),  # entries used of the chunk
            ("at_exit", "<u4"),  # 0: read at syscall entry, 1: at its exit
            ("failed", "<u4"),  # READ_* bits of the arrays that could not be read
            ("pages", "<u8", (entries,)),
            ("nodes", "<i4", (entries,)),
            ("status", "<i4", (entries,)),
        ]
    )


CHUNK_SMALL = _chunk(SMALL_CHUNK)
CHUNK_MEDIUM = _chunk(MEDIUM_CHUNK)
CHUNK_LARGE = _chunk(LARGE_CHUNK)

#: One row per entry of a call, raw: what the arrays said at syscall entry and exit.
ENTRY = np.dtype(
    [
        ("call_id", "<u8"),
        ("entry", "<u4"),
        ("address", "<u8"),
        ("target_nid", "<i4"),
        ("status_before", "<i4"),
        ("status_after", "<i4"),
        ("unread", "u1"),  # READ_* bits: PAGES, NODES, STATUS never read (at exit, for STATUS)
        ("unread_before", "u1"),  # READ_STATUS: the status before the call could not be read
    ]
)

#: One row per mapping found of a page that was refused because it is mapped several times.
MAPPER = np.dtype(
    [
        ("call_id", "<u8"),
        ("src", "<u8"),  # with call_id: the page's row of `obstacles`
        ("address", "<u8"),  # where that process maps it (of a large folio: a page of it)
        ("found_ns", "<u8"),  # CLOCK_MONOTONIC, when it was seen there
        ("lookup_seq", "<u4"),  # of the call's first lookup that met the page
        ("pid", "<u4"),  # thread group
        ("comm", "S16"),  # "" where the process was gone before it was asked
    ]
)

#: One row per time that a thread waited for a page under migration.
WAIT = np.dtype(
    [
        ("start_ns", "<u8"),
        ("end_ns", "<u8"),
        ("address", "<u8"),  # user address that was touched; 0: unknown (all but a PTE)
        ("folio", "<u8"),  # the source folio, 0: unknown
        ("holder_id", "<u8"),  # migration that had it (a call before any migration), 0: unknown
        ("tid", "<u4"),  # the thread that waited
        ("tgid", "<u4"),
        ("holder_tid", "<u4"),  # the thread that migrated
        ("kind", "u1"),
        ("pad1", "u1"),
        ("pad", "<u2"),
        ("comm", "S16"),
    ]
)

#: `uid` of a process that was gone before it was asked.
NO_UID = 0xFFFFFFFF

#: One row per process met as initiator, target, owner, waiter or mapper: what /proc said then.
PROCESS = np.dtype(
    [
        ("seen_ns", "<u8"),
        ("cgroup_id", "<u8"),  # 0: unknown; meta `cgroups` has its path
        ("tgid", "<u4"),
        ("uid", "<u4"),  # NO_UID: unknown
        ("comm", "S16"),  # "" where it was gone before it was asked
    ]
)

#: Name of every table of a recording -> its row layout.
TABLES = {
    "calls": CALL,
    "migrations": MIGRATION,
    "folios": FOLIO,
    "lookups": LOOKUP,
    "obstacles": OBSTACLE,
    "mappers": MAPPER,
    "waits": WAIT,
    "balancing": BALANCING,
    "processes": PROCESS,
    "mappings": MAPPING,
    "entries": ENTRY,
    "driver_calls": DRIVER_CALL,
    "locations": LOCATION,
    **STACK_TABLES,
}
#: Fields that only align the ring layout and are not stored.
PADDING = ("pad", "pad1")

# The correlator's verdicts, stored as small integers, printed as words.
OUTCOMES = ("unknown", "moved", "already_there", "failed", "not_attempted")
# `not_asked`: status and events don't contradict each other; nobody asked for the location.
WITNESSES = ("unknown", "agree", "silent", "disagree", "not_asked")

# As the tracepoints print them.  `plan` checks the numbers against BTF where it can.
MODES = ("async", "sync_light", "sync")


def stored_fields(table: str) -> tuple[str, ...]:
    """Names of the columns that a table has on disk: its fields without padding."""
    return tuple(name for name in field_names(TABLES[table]) if name not in PADDING)


def field_names(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """Names of the fields of a structured dtype."""
    return tuple(dtype.names or ())


#: Bytes of the kernel's struct page: how far apart those of two page frames lie.
STRUCT_PAGE_BYTES = 64
