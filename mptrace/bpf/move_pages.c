// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Timestamps and identifiers at the phase boundaries of a page migration.
 *
 * The unit is a migration: one invocation of the kernel's migrate_pages(), with
 * a move_pages(2) call as its optional parent.  One record per folio, emitted
 * when the kernel is done with it; user space replays the rest.
 *
 * What is traced, by the rows of mptrace/tracing/plan/candidates.py, the preferred one first.
 * "since" is the first of Debian's 6.1 and 6.12 that has it ("until" the last, "-" neither);
 * "others" are programs that know nothing of mptrace: its own driver is traced without.
 * Other flags are macros that the plan defines by this row.
 *
 * phase            | kernel function or tracepoint      | since     | flag
 * -----------------+------------------------------------+-----------+---------------------------
 * call             | kernel_move_pages                  | 6.1       |
 * drain            | lru_cache_disable                  | 6.1       |
 *                  | lru_add_drain_all                  | 6.1       |
 * vma              | vma_migratable                     | 6.1       |
 * lookup           | folio_walk_start                   | 6.12      | LOOKUP_VMA, LOOKUP_ADDRESS
 *                  | follow_page                        | until 6.1 | LOOKUP_VMA, LOOKUP_ADDRESS
 * isolate          | folio_isolate_lru                  | 6.1       | ISOLATE_BOOL
 *                  | isolate_lru_page                   | until 6.1 | ISOLATE_BOOL
 * isolate_hugetlb  | folio_isolate_hugetlb              | until 6.1 | ISOLATE_HUGETLB_BOOL
 *                  | isolate_hugetlb                    | 6.12      | ISOLATE_HUGETLB_BOOL
 *                  | isolate_huge_page                  | -         | ISOLATE_HUGETLB_BOOL
 * migration        | migrate_pages                      | 6.1       |
 * allocate         | alloc_migration_target             | 6.1       |
 * unmap            | try_to_migrate                     | 6.1       |
 * tlb_flush_pte    | ptep_clear_flush                   | 6.1       |
 * tlb_flush_batch  | try_to_unmap_flush                 | 6.1       |
 * dark             | migrate:set_migration_pte          | 6.1       |
 * dark_pmd         | thp:set_migration_pmd              | 6.1       |
 * move             | move_to_new_folio                  | 6.1       | MOVE_SRC
 * copy             | folio_mc_copy                      | 6.12      |
 *                  | folio_copy                         | 6.1       |
 * remap            | remove_migration_pte               | 6.1       | REMAP_INDIRECT
 * lock_wait        | __folio_lock                       | 6.1       |
 * writeback_wait   | folio_wait_writeback               | 6.1       |
 * split            | split_huge_page_to_list_to_order   | 6.12      |
 *                  | __split_huge_page_to_list_to_order | -         |
 *                  | split_huge_page_to_list            | until 6.1 |
 * release          | filemap_release_folio              | 6.1       |
 * outcome          | migrate:mm_migrate_pages           | 6.1       | others
 * alloc_compaction | compaction_alloc                   | 6.1       | others
 * alloc_numa       | alloc_misplaced_dst_folio          | 6.12      | others
 *                  | alloc_misplaced_dst_page           | until 6.1 | others
 * alloc_demotion   | alloc_migrate_folio                | 6.12      | others
 *                  | alloc_demote_folio                 | -         | others
 *                  | alloc_demote_page                  | until 6.1 | others
 * alloc_policy     | alloc_migration_target_by_mpol     | 6.12      | others
 *                  | new_folio                          | -         | others
 *                  | new_page                           | until 6.1 | others
 * owner            | try_to_migrate_one                 | 6.1       | others
 * wait_pte         | migration_entry_wait               | 6.1       | others
 * wait_pmd         | pmd_migration_entry_wait           | 6.1       | others
 * wait_hugetlb     | migration_entry_wait_huge          | 6.1       | others
 * io_sleep         | io_schedule                        | 6.1       | others
 * wake             | wake_page_function                 | 6.1       | others
 * wait_locked      | migration_entry_wait_on_locked     | 6.1       | others, WAIT_LOCKED_SEEN
 * numa_scan        | task_numa_work                     | 6.1       | others
 * hint_fault       | numa_migrate_check                 | 6.12      | others
 *                  | numa_migrate_prep                  | until 6.1 | others
 * hint_fault_end   | task_numa_fault                    | 6.1       | others, HINT_FAULT_TIMED
 * fork             | sched:sched_process_fork           | 6.1       | others
 * end_process      | sched:sched_process_exit           | 6.1       | others
 * done             | migrate_folio_done                 | 6.1       |
 * putback          | folio_putback_lru                  | 6.1       |
 *                  | putback_lru_page                   | until 6.1 |
 * putback_hugetlb  | folio_putback_hugetlb              | until 6.1 |
 *                  | folio_putback_active_hugetlb       | 6.12      |
 *                  | putback_active_hugepage            | -         |
 *
 * vma, lock_wait, writeback_wait, split and release are evidence of why a folio stayed or
 * waited (move_pages/obstacle.h).
 *
 * The plan passes with -D: offsets of struct members (from BTF), argument
 * positions that differ between kernels, map sizes.  No kernel header is used.
 * The parts below are put in place by mptrace/tracing/program/source.py, in this order.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

/*
 * BCC reads all of kallsyms for each call of its own bpf_probe_read_user() and
 * bpf_probe_read_kernel() (1 s per compile); the helpers themselves are these.
 */
static long (*const read_user)(void *to, u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_user;
static long (*const read_kernel)(void *to, u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;
static long (*const read_kernel_string)(void *to, u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel_str;

#include "scope.h"
#include "move_pages/obstacle.h"
#include "move_pages/records.h"
#include "move_pages/state.h"
#include "move_pages/interest.h"
#include "move_pages/stacks.h"
#include "move_pages/folios.h"
#include "move_pages/threads.h"
#include "move_pages/arrays.h"
#include "move_pages/entry.h"
#include "move_pages/lookups.h"
#include "move_pages/call.h"
#include "move_pages/migration.h"
#include "move_pages/unmap.h"
#include "move_pages/move.h"
#include "move_pages/waits.h"
#include "move_pages/balancing.h"
#include "move_pages/processes.h"
