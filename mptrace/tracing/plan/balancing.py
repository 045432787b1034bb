# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions stand for what NUMA balancing does beside its migrations: scans, hint faults."""

from mptrace.tracing.plan.candidate import Candidate

#: Rows of the table of candidates, in its order.
BALANCING = (
    # it makes pages of a part of the process's memory inaccessible, in a thread of the process
    Candidate(
        "numa_scan",
        "task_numa_work",
        "scan",
        "enter_numa_scan",
        "exit_numa_scan",
        for_others=True,
    ),
    # do_numa_page() is inlined; this is where the kernel counts NUMA_HINT_FAULTS, once in each.
    # numa_migrate_check() since 6.12, "mm/migrate: move common code to numa_migrate_check
    # (was numa_migrate_prep)"
    *(
        Candidate("hint_fault", function, "fault", enter="enter_hint_fault", for_others=True)
        for function in ("numa_migrate_check", "numa_migrate_prep")
    ),
    # the last that do_numa_page() and do_huge_pmd_numa_page() do; since 6.11 not where the
    # entry changed meanwhile, "mm/numa: no task_numa_fault() call if PTE is changed" (PMD)
    Candidate(
        "hint_fault_end",
        "task_numa_fault",
        "fault",
        exit="exit_hint_fault",
        defines=(("HINT_FAULT_TIMED", 1),),
        for_others=True,
    ),
)
BALANCING_PHASES = tuple(dict.fromkeys(candidate.phase for candidate in BALANCING))
