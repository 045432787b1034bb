// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Timestamps and identifiers at the phase boundaries of a page migration.
 *
 * The unit is a migration: one invocation of the kernel's migrate_pages(), with
 * a move_pages(2) call as its optional parent.  One record per folio, emitted
 * when the kernel is done with it; user space replays the rest.
 *
 * phase     | kernel function (rows of tracing/plan/candidates.py)  | unit
 * ----------+-------------------------------------------------------+----------
 * call      | kernel_move_pages                                     | call
 * drain     | lru_cache_disable, lru_add_drain_all                  | call
 * lookup    | follow_page, folio_walk_start                         | entry
 * isolate   | isolate_lru_page, folio_isolate_lru                   | folio
 * isolate_h | isolate_hugetlb, folio_isolate_hugetlb                | folio
 * migration | migrate_pages                                         | migration
 * allocate  | alloc_migration_target                                | folio
 * unmap     | try_to_migrate                                        | folio
 * flush     | ptep_clear_flush (inside unmap)                       | PTE
 * batch     | try_to_unmap_flush                                    | batch
 * dark      | tracepoints set_migration_pte, set_migration_pmd      | PTE
 * move      | move_to_new_folio                                     | folio
 * copy      | folio_mc_copy, folio_copy                             | folio
 * remap     | remove_migration_pte (rmap callback)                  | PTE
 * done      | migrate_folio_done                                    | folio
 * putback   | folio_putback_lru, ..._hugetlb                        | folio
 *
 * and, as evidence of why a folio stayed or waited (move_pages/obstacle.h):
 *
 * vma       | vma_migratable                                        | VMA
 * split     | split_huge_page_to_list, ..._to_order                 | folio
 * release   | filemap_release_folio                                 | folio
 * lock_wait | __folio_lock                                          | folio
 * wb_wait   | folio_wait_writeback                                  | folio
 *
 * and, of programs that know nothing of mptrace:
 *
 * outcome   | tracepoint mm_migrate_pages                           | migration
 * alloc_*   | compaction_alloc, alloc_misplaced_dst_folio, ...      | folio
 * owner     | try_to_migrate_one                                    | mapping
 * wait_*    | migration_entry_wait, pmd_..., ..._huge               | wait
 * io_sleep  | io_schedule                                           | sleep
 * wake      | wake_page_function: a folio's lock is let go          | sleep
 * fork, end_process | tracepoints of the scheduler                  | process
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

#include "move_pages/obstacle.h"
#include "move_pages/records.h"
#include "move_pages/state.h"
#include "move_pages/interest.h"
#include "move_pages/folios.h"
#include "move_pages/arrays.h"
#include "move_pages/entry.h"
#include "move_pages/call.h"
#include "move_pages/migration.h"
#include "move_pages/unmap.h"
#include "move_pages/move.h"
#include "move_pages/waits.h"
#include "move_pages/processes.h"
