# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions and tracepoints can stand for each phase: the table for probe plans.

A kernel is rows in it, tried in order by presence, never a branch on a version.
Sources of the rows: BTF and kallsyms of Debian's kernels 5.10 to 7.x, and the
sources of mm/migrate.c; ``docs/kernels.md`` says what was verified where.
"""

from mptrace.tracing.plan.balancing import BALANCING, BALANCING_PHASES
from mptrace.tracing.plan.candidate import FOLLOWING, Candidate
from mptrace.tracing.plan.members import (
    EVIDENCE,
    EVIDENCE_OPTIONAL,
    INITIATORS,
    LOCK_WAITS,
    STACKS,
    WAIT_VARIABLES,
    WALK,
    WALK_OPTIONAL,
    WALK_VARIABLES,
)

_LOCK_NEEDS = tuple(f"offset:{member}" for member in LOCK_WAITS.values())

#: In the order of preference within a phase; phases in the order of the report.
CANDIDATES: tuple[Candidate, ...] = (
    # fentry may not read a pointer to pointers (``pages``) on all kernels; its exit
    # side need not, and unlike a kretprobe follows any number of threads at once
    Candidate(
        "call",
        "kernel_move_pages",
        "call",
        "enter_call",
        "exit_call",
        6,
        nargs="CALL_NARGS",
        methods=("kprobe+fexit", "kprobe", "fentry"),
    ),
    # since 5.13: lru_cache_disable() drains and holds the caches off for the whole call
    Candidate("drain", "lru_cache_disable", "call", "enter_drain", "exit_drain"),
    Candidate("drain", "lru_add_drain_all", "call", "enter_drain", "exit_drain"),
    Candidate(
        "vma",
        "vma_migratable",
        "entry",
        exit="exit_vma",
        min_parameters=1,
        nargs="VMA_NARGS",
        kprobe_enter="enter_vma",
    ),
    # since 6.12: folio_walk_start() (mm: add folio_walk, "mm/migrate: convert
    # add_page_for_migration() from follow_page() to folio_walk")
    Candidate(
        "lookup",
        "folio_walk_start",
        "entry",
        exit="exit_lookup",
        min_parameters=4,
        nargs="LOOKUP_NARGS",
        defines=(("LOOKUP_VMA", 1), ("LOOKUP_ADDRESS", 2)),
        kprobe_enter="enter_lookup",
    ),
    Candidate(
        "lookup",
        "follow_page",
        "entry",
        exit="exit_lookup",
        min_parameters=3,
        nargs="LOOKUP_NARGS",
        defines=(("LOOKUP_VMA", 0), ("LOOKUP_ADDRESS", 1)),
        kprobe_enter="enter_lookup",
    ),
    # isolate_lru_page() returns 0 or -EBUSY, folio_isolate_lru() int then bool
    Candidate(
        "isolate",
        "folio_isolate_lru",
        "folio",
        "enter_isolate",
        "exit_isolate",
        1,
        nargs="ISOLATE_NARGS",
        bool_macro="ISOLATE_BOOL",
    ),
    Candidate(
        "isolate",
        "isolate_lru_page",
        "folio",
        "enter_isolate",
        "exit_isolate",
        1,
        nargs="ISOLATE_NARGS",
        bool_macro="ISOLATE_BOOL",
    ),
    *(
        Candidate(
            "isolate_hugetlb",
            function,
            "folio",
            "enter_isolate_hugetlb",
            "exit_isolate_hugetlb",
            2,
            nargs="ISOLATE_HUGETLB_NARGS",
            bool_macro="ISOLATE_HUGETLB_BOOL",
        )
        for function in ("folio_isolate_hugetlb", "isolate_hugetlb", "isolate_huge_page")
    ),
    Candidate(
        "migration",
        "migrate_pages",
        "migration",
        "enter_migration",
        "exit_migration",
        6,
        nargs="MIGRATION_NARGS",
        # fentry takes six arguments on kernels before 6.6 or so, this has seven since 6.0
        methods=("kprobe+fexit", "kprobe", "fentry"),
    ),
    Candidate(
        "allocate",
        "alloc_migration_target",
        "folio",
        "enter_allocate",
        "exit_allocate",
        2,
        nargs="ALLOCATE_NARGS",
    ),
    Candidate("unmap", "try_to_migrate", "folio", "enter_unmap", "exit_unmap", 1),
    # per PTE; since 6.3 one deferred flush per batch takes its place where
    # another CPU may hold the entries
    # (it returns a struct, which fexit can't)
    Candidate(
        "tlb_flush_pte",
        "ptep_clear_flush",
        "PTE",
        "enter_flush",
        "exit_flush",
        methods=("kprobe",),
    ),
    Candidate(
        "tlb_flush_batch",
        "try_to_unmap_flush",
        "batch",
        "enter_batch_flush",
        "exit_batch_flush",
    ),
    # tracepoints since 5.18, "mm/migration: add trace events for base page and HugeTLB migrations"
    Candidate("dark", "migrate:set_migration_pte", "PTE", enter="dark"),
    Candidate("dark_pmd", "thp:set_migration_pmd", "PMD", enter="dark_pmd"),
    Candidate(
        "move",
        "move_to_new_folio",
        "folio",
        "enter_move",
        "exit_move",
        3,
        nargs="MOVE_NARGS",
        defines=(("MOVE_SRC", 1),),
    ),
    # since 6.11 the copy may fail on poison: folio_mc_copy()
    Candidate("copy", "folio_mc_copy", "folio", "enter_copy", "exit_copy", 2),
    Candidate("copy", "folio_copy", "folio", "enter_copy", "exit_copy", 2),
    # its last argument is the source folio, or (since 6.10) a struct that begins with it
    Candidate(
        "remap",
        "remove_migration_pte",
        "PTE",
        "enter_remap",
        "exit_remap",
        4,
        defines=(("REMAP_INDIRECT", 1),),
        needs=("offset:rmap_walk_arg.folio",),
    ),
    Candidate(
        "remap",
        "remove_migration_pte",
        "PTE",
        "enter_remap",
        "exit_remap",
        4,
        needs=("!offset:rmap_walk_arg.folio",),
    ),
    # evidence: rare paths, seen only when a folio is refused or has to wait
    Candidate("lock_wait", "__folio_lock", "folio", "enter_lock_wait", "exit_lock_wait", 1),
    Candidate(
        "writeback_wait",
        "folio_wait_writeback",
        "folio",
        "enter_writeback_wait",
        "exit_writeback_wait",
        1,
    ),
    *(
        Candidate("split", function, "folio", "enter_split", "exit_split", 2, nargs="SPLIT_NARGS")
        for function in (
            "split_huge_page_to_list_to_order",
            "__split_huge_page_to_list_to_order",
            "split_huge_page_to_list",
        )
    ),
    Candidate(
        "release",
        "filemap_release_folio",
        "folio",
        "enter_release",
        "exit_release",
        2,
        nargs="RELEASE_NARGS",
    ),
    # raw: the kernel's own count of base pages is in its first two arguments on all kernels
    Candidate("outcome", "migrate:mm_migrate_pages", "migration", enter="outcome", for_others=True),
    # the allocators of the other paths; each gets the folio to be replaced first
    *(
        Candidate(
            phase,
            function,
            "folio",
            f"enter_{phase}",
            f"exit_{phase}",
            2,
            nargs=f"{phase.upper()}_NARGS",
            for_others=True,
        )
        for phase, functions in (
            ("alloc_compaction", ("compaction_alloc",)),
            ("alloc_numa", ("alloc_misplaced_dst_folio", "alloc_misplaced_dst_page")),
            (
                "alloc_demotion",
                ("alloc_migrate_folio", "alloc_demote_folio", "alloc_demote_page"),
            ),
            ("alloc_policy", ("alloc_migration_target_by_mpol", "new_folio", "new_page")),
        )
        for function in functions
    ),
    # whose page it is: each mapping that is taken away
    Candidate("owner", "try_to_migrate_one", "mapping", "enter_owner", "", 3, for_others=True),
    # threads that touch a page under migration; the last one knows the page
    Candidate(
        "wait_pte",
        "migration_entry_wait",
        "wait",
        "enter_wait_pte",
        "exit_wait_pte",
        3,
        nargs="WAIT_PTE_NARGS",
        for_others=True,
    ),
    Candidate(
        "wait_pmd",
        "pmd_migration_entry_wait",
        "wait",
        "enter_wait_pmd",
        "exit_wait_pmd",
        2,
        nargs="WAIT_PMD_NARGS",
        for_others=True,
    ),
    Candidate(
        "wait_hugetlb",
        "migration_entry_wait_huge",
        "wait",
        "enter_wait_hugetlb",
        "exit_wait_hugetlb",
        2,
        nargs="WAIT_HUGETLB_NARGS",
        for_others=True,
    ),
    # the lock of a folio under migration: who sleeps, and who lets go of it.  What lies
    # between (folio_wait_bit_common() and its callers) is not traceable, or inlined in part
    Candidate(
        "io_sleep",
        "io_schedule",
        "sleep",
        "enter_io_sleep",
        "exit_io_sleep",
        needs=_LOCK_NEEDS,
        # a kretprobe follows only a few at once, and any number of threads sleep in it
        methods=("fentry",),
        for_others=True,
    ),
    Candidate(
        "wake",
        "wake_page_function",
        "sleep",
        "enter_wake",
        min_parameters=4,
        needs=_LOCK_NEEDS,
        for_others=True,
    ),
    # it gets a struct of one word by value, which fentry can't
    Candidate(
        "wait_locked",
        "migration_entry_wait_on_locked",
        "wait",
        "enter_wait_locked",
        methods=("kprobe",),
        defines=(("WAIT_LOCKED_SEEN", 1),),
        for_others=True,
    ),
    *BALANCING,
    *FOLLOWING,
    Candidate("done", "migrate_folio_done", "folio", enter="enter_done", min_parameters=1),
    Candidate("putback", "folio_putback_lru", "folio", enter="enter_putback", min_parameters=1),
    Candidate("putback", "putback_lru_page", "folio", enter="enter_putback", min_parameters=1),
    *(
        Candidate(
            "putback_hugetlb",
            function,
            "folio",
            enter="enter_putback_hugetlb",
            min_parameters=1,
        )
        for function in (
            "folio_putback_hugetlb",
            "folio_putback_active_hugetlb",
            "putback_active_hugepage",
        )
    ),
)

#: Phases that tracing one's own driver does without.
PHASES_FOR_OTHERS = frozenset(c.phase for c in CANDIDATES if c.for_others)
#: Phases that a calibration with 4 KiB anonymous pages exercises.
UNPROVED_KINDS = {
    "isolate_hugetlb": "hugetlb",
    "dark_pmd": "THP",
    "putback_hugetlb": "hugetlb",
    "putback": "folios that stay behind",
    "lock_wait": "folios that somebody else locks",
    "writeback_wait": "folios under writeback",
    "split": "THP",
    "release": "pages with private data",
    "outcome": "migrations of others",
    "alloc_compaction": "compaction",
    "alloc_numa": "NUMA balancing",
    "alloc_demotion": "demotion",
    "alloc_policy": "mbind(2)",
    "owner": "mappings of others",
    "wait_pte": "pages that others touch",
    "wait_pmd": "THP that others touch",
    "wait_hugetlb": "hugetlb that others touch",
    "io_sleep": "folios whose lock others want",
    "wake": "folios whose lock others want",
    "wait_locked": "pages that others touch",
    **dict.fromkeys(BALANCING_PHASES, "NUMA balancing"),
    "fork": "processes",
    "end_process": "processes",
}

_OFFSETS = ("page.flags", "page.compound_head", "folio._folio_order", "folio._flags_1")
_OFFSETS_IN_NEEDS = tuple(
    need.partition(":")[2]
    for candidate in CANDIDATES
    for need in candidate.needs
    if need.lstrip("!").startswith("offset:")
)
_OFFSETS_OPTIONAL = ("page.compound_order",)


def candidate_functions() -> tuple[str, ...]:
    """Names of the kernel functions that the table knows, each once."""
    return tuple(dict.fromkeys(c.function for c in CANDIDATES if not c.is_tracepoint))


def candidate_tracepoints() -> tuple[str, ...]:
    """Tracepoints that the table knows, as ``category:name``, each once."""
    return tuple(dict.fromkeys(c.function for c in CANDIDATES if c.is_tracepoint))


def candidate_offsets() -> tuple[str, ...]:
    """Struct members whose offsets the plan may need, as ``struct.member``."""
    optional = [name for names in EVIDENCE_OPTIONAL.values() for name in names]
    initiators = [name for group in INITIATORS.values() for name in group.values()]
    evidence = (*EVIDENCE.values(), *optional, *WALK.values(), *initiators, *STACKS.values())
    return tuple(dict.fromkeys((*_OFFSETS, *_OFFSETS_OPTIONAL, *_OFFSETS_IN_NEEDS, *evidence)))


def candidate_variables() -> tuple[str, ...]:
    """Variables of the kernel whose addresses the plan may need."""
    walk = (n for names in (WALK_VARIABLES | WALK_OPTIONAL).values() for n in names)
    return (*walk, *WAIT_VARIABLES.values())


def candidate_sizes() -> tuple[str, ...]:
    """Types whose sizes the plan may need."""
    return ("nodemask_t", "page", "fred_frame")
