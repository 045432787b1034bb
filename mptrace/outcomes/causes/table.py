# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a page stayed, was not attempted, or is unknown: one table behind all messages.

What it means, what to do about it, and where the kernel decides it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One cause: a line for people, the remedy ("" where there is none), the kernel's place."""

    name: str
    meaning: str
    remedy: str = ""
    source: str = ""


_LOOKUP = "folio_walk_start(), follow_page()"
_AGAIN = "try again"
_TRACED = "trace a shorter time, with a larger --buffer, or fewer processes"

#: Order is the number in recordings' rows: new ones are added at the end of their group.
CAUSES: tuple[Cause, ...] = (
    Cause("", ""),
    # ---- why an entry is unknown: the tracer's limits, not the kernel's doing
    Cause("lost", "the tracer lost the records that would tell", _TRACED),
    Cause("unread", "the entry's address or node could not be read"),
    Cause("beyond_bound", "the entry lies beyond those that the tracer reads of one call"),
    Cause("no_events", "no event of the kernel was recorded"),
    Cause("no_coverage", "a phase that this needs can't be traced here", "see: mptrace doctor"),
    Cause(
        "not_traced",
        "not traced at this level of detail",
        "record with --detail all",
    ),
    Cause("call_open", "the call had not returned when the session ended"),
    Cause("freed", "the page was freed while it was being moved"),
    Cause("ambiguous", "the events fit the arrays in more than one way"),
    Cause("split", "the large folio was split and this page's part was not seen"),
    Cause("maybe_same_folio", "may be a page of a large folio that an earlier entry moved"),
    # ---- the lookup found nothing that can be moved
    Cause(
        "no_vma_or_unsuitable",
        "no mapping there, or one that can't be migrated",
        "check the address",
        "vma_lookup(), vma_migratable()",
    ),
    Cause("no_vma", "no mapping at that address", "check the address", "vma_lookup()"),
    Cause(
        "unsuitable_vma",
        "a mapping that can't be migrated: a device's, or memory without pages",
        "leave it out; it is not ordinary memory",
        "vma_migratable(): VM_IO, VM_PFNMAP",
    ),
    Cause("not_present", "no page there: never touched, or swapped out", "touch it", _LOOKUP),
    Cause("never_touched", "no page there: nobody touched it yet", "touch it first", _LOOKUP),
    Cause("swapped_out", "the page is in swap", "touch it, so that it comes back", _LOOKUP),
    Cause(
        "prot_none",
        "the page is there, but PROT_NONE hides it from the kernel's lookup (6.1 to 6.4)",
        "mprotect(2) it first; NUMA balancing's hints pass by themselves",
        "follow_page(), gup_can_follow_protnone()",
    ),
    Cause(
        "special_entry",
        "its page table entry is a migration entry of somebody else, or a marker",
        _AGAIN,
        _LOOKUP,
    ),
    Cause(
        "secret_memory",
        "memory of memfd_secret(2): the lookup does not return it",
        "it stays where it was allocated: set the memory policy before touching it",
        "vma_is_secretmem() in follow_page()",
    ),
    Cause("hidden", "a page is mapped there, but the kernel's lookup does not return it"),
    Cause(
        "unmapped_or_zero_page",
        "never written: nothing there, or the zero page",
        "write to it first",
        "follow_page()",
    ),
    Cause(
        "zero_page",
        "the shared zero page: read, never written",
        "write to it first",
        "is_zero_folio(), follow_page()",
    ),
    Cause(
        "huge_zero_page",
        "the shared huge zero page: read, never written",
        "write to it first",
        "is_huge_zero_folio(), follow_page()",
    ),
    # ---- found, and not taken
    Cause(
        "shared",
        "mapped more than once, and not MPOL_MF_MOVE_ALL",
        "MPOL_MF_MOVE_ALL (needs CAP_SYS_NICE)",
        "page_mapcount(), folio_likely_mapped_shared()",
    ),
    Cause(
        "shared_ksm",
        "merged with equal pages by KSM, and not MPOL_MF_MOVE_ALL",
        "MPOL_MF_MOVE_ALL (needs CAP_SYS_NICE), or madvise(MADV_UNMERGEABLE)",
        "page_mapcount(), folio_likely_mapped_shared()",
    ),
    Cause("shared_or_hugetlb_tail", "mapped more than once, or not a hugetlb folio's head"),
    Cause(
        "hugetlb_tail",
        "not the head of its hugetlb folio (before 6.7)",
        "name the huge page's first address",
        "add_page_for_migration()",
    ),
    Cause(
        "not_on_lru_or_isolated",
        "not on an LRU list, or isolated by somebody else",
        _AGAIN,
        "folio_isolate_lru()",
    ),
    Cause(
        "not_on_lru",
        "a page of the kernel or a driver, on no LRU list: it never moves",
        "leave it out",
        "folio_isolate_lru()",
    ),
    Cause(
        "isolated_by_other",
        "somebody else had isolated it: another migration, compaction or reclaim",
        _AGAIN,
        "folio_isolate_lru()",
    ),
    Cause("hugetlb_isolated", "the hugetlb folio is isolated or not migratable", _AGAIN),
    # ---- taken, and refused on the way
    Cause(
        "no_memory",
        "the target node had no memory for it",
        "free memory on the target node, or choose another",
        "alloc_migration_target()",
    ),
    Cause(
        "no_memory_in_group",
        "no page could be had on the target node, for it or for a page of its group",
        "free memory on the target node, choose another, or widen the caller's cpuset",
        "alloc_migration_target()",
    ),
    Cause(
        "no_free_page_in_group",
        "compaction found no free page to move it, or a page of its group, to",
        "normal where memory is nearly full or its free pages are scattered",
        "compaction_alloc()",
    ),
    Cause(
        "refusal_not_traced",
        "the kernel left it behind; why is not traced at this level of detail",
        "record with --detail all",
    ),
    Cause(
        "no_free_page",
        "compaction found no free page to move it to",
        "normal where memory is nearly full or its free pages are scattered",
        "compaction_alloc()",
    ),
    Cause(
        "node_outside_callers_cpuset",
        "the caller's cpuset does not allow the target node",
        "move the caller, or widen its cpuset.mems",
        "alloc_migration_target(), cpuset_current_mems_allowed",
    ),
    Cause(
        "split_failed",
        "no huge page on the target node, and the huge page could not be split",
        "free memory on the target node; see who holds the huge page",
        "split_huge_page_to_list()",
    ),
    Cause("ended_before_its_turn", "the migration ended before its turn"),
    Cause("locked_or_writeback", "locked by somebody else, or under writeback", _AGAIN),
    Cause(
        "locked",
        "somebody else held its lock",
        _AGAIN,
        "folio_trylock(), folio_lock() in migrate_folio_unmap()",
    ),
    Cause(
        "writeback",
        "under writeback",
        "try again when it is written (fsync)",
        "folio_test_writeback() in migrate_folio_unmap()",
    ),
    Cause("not_unmappable", "a mapping of it could not be replaced", _AGAIN, "try_to_migrate()"),
    Cause(
        "pinned",
        "pinned for a device (io_uring, RDMA, O_DIRECT): it can't move until that is over",
        "release the buffer (or do it before registering); short pins: try again",
        "folio_try_share_anon_rmap(), folio_maybe_dma_pinned()",
    ),
    Cause(
        "extra_references",
        "somebody holds a reference: a pipe, I/O in flight, a short pin",
        "let the holder go; then try again",
        "folio_migrate_mapping(), __migrate_folio()",
    ),
    Cause(
        "references_or_buffers",
        "somebody holds a reference to it, or its file system is using its buffers",
        _AGAIN,
        "folio_migrate_mapping(), __migrate_folio(), __buffer_migrate_folio()",
    ),
    Cause(
        "buffers_busy",
        "its file system is using its buffers",
        "try again; metadata of a mounted file system stays",
        "__buffer_migrate_folio(), buffer_migrate_lock_buffers()",
    ),
    Cause(
        "private_not_released",
        "its file system did not give up its private data",
        "write back the file (fsync), then try again",
        "filemap_release_folio() in fallback_migrate_folio()",
    ),
    Cause(
        "dirty_no_migration",
        "dirty, and its file system can neither migrate nor write it here",
        "fsync(2) the file; ramfs can't write: use tmpfs",
        "fallback_migrate_folio(), writeout()",
    ),
    Cause(
        "write_failed",
        "dirty, its file system can't migrate it, and writing it back failed",
        "look at the device and its free space (dmesg); fsync(2) the file",
        "writeout()",
    ),
    Cause(
        "refused_by_filesystem",
        "its file system or owner refuses to migrate it",
        "it stays: set the memory policy before it is allocated",
        "mapping->a_ops->migrate_folio",
    ),
    Cause(
        "private_in_use",
        "its file system is using its private data: I/O in flight",
        "fsync(2) the file, then try again",
        "mapping->a_ops->migrate_folio",
    ),
    Cause("poisoned", "a memory error was met while copying", "look at dmesg", "folio_mc_copy()"),
    Cause("cant_tell", "the records do not tell"),
    # ---- never attempted
    Cause(
        "aborted_by_earlier_group",
        "an earlier group of the call failed and ended it",
        "move the rest again; the earlier failure has its own cause",
        "move_pages_and_store_status()",
    ),
    Cause(
        "bad_node",
        "its node does not exist or has no memory",
        "choose a node with memory",
        "do_pages_move(): node_state(node, N_MEMORY)",
    ),
    Cause(
        "node_not_allowed",
        "its node is outside the target process's cpuset",
        "widen cpuset.mems of that process",
        "do_pages_move(): task_nodes",
    ),
    Cause("bad_array", "the user's arrays could not be accessed here", "give longer arrays"),
    Cause("aborted_by_bad_node", "an earlier entry's node is bad and ended the call"),
    Cause("aborted_by_refused_node", "an earlier entry's node is not allowed and ended the call"),
    Cause("aborted_by_bad_array", "the user's arrays could not be accessed and that ended it"),
)

BY_NAME = {cause.name: cause for cause in CAUSES}
