/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The records that go to user space, mirrored field by field by mptrace/recording/layouts.py,
 * and the values in them.
 */
#ifndef MPTRACE_RECORDS_H
#define MPTRACE_RECORDS_H

struct folio_record {
	u64 call_id;
	u64 migration_id;
	u64 src;
	u64 dst;
	u64 address;
	u64 start_ns;
	u64 end_ns;
	u64 isolate_ns;
	u64 alloc_ns;
	u64 unmap_ns;
	u64 flush_ns;
	u64 move_ns;
	u64 copy_ns;
	u64 remap_ns;
	u64 lock_ns;		/* from the target's allocation to the unmap */
	u64 lru_ns;		/* from the move to the remap */
	u64 release_ns;		/* from the remap to the end */
	u64 dark_first_ns;
	u64 light_last_ns;
	u64 blackout_ns;
	u32 tid;
	u32 lookup_seq;
	s32 lookup_rc;
	s32 isolate_rc;
	s32 move_rc;
	u32 nr_pages;
	u32 n_remap;
	u16 n_unmap;
	u16 n_alloc;
	u16 n_move;
	u16 n_copy;
	u16 n_flush;
	u16 n_dark;
	s16 src_nid;
	s16 dst_nid;
	u8 end;
	u8 flags;
	u16 n_maps;
	u32 owner_tgid;
	u32 pad;
};
_Static_assert(sizeof(struct folio_record) == 216, "layouts.FOLIO");

/* What a lookup of a call found: all that is recorded of a page at the level `outcomes`. */
struct lookup_record {
	u64 address;
	u64 src;		/* the folio, 0: none */
	s32 rc;
	s16 nid;
	u8 order;
	u8 flags;		/* FOLIO_HUGETLB, FOUND_KSM */
};
_Static_assert(sizeof(struct lookup_record) == 24, "layouts.FOUND");

#define FOUND_KSM	(1 << 1)	/* merged with equal pages: at several addresses */

#define LOOKUPS_STRUCT(name, number)					\
struct name {								\
	u64 call_id;							\
	u32 first;		/* ordinal of the first in its call */	\
	u32 count;							\
	struct lookup_record lookups[number];				\
}

LOOKUPS_STRUCT(few_lookups, FEW_LOOKUPS);
LOOKUPS_STRUCT(many_lookups, MANY_LOOKUPS);

struct migration_record {
	u64 migration_id;
	u64 call_id;
	u64 enter_ns;
	u64 exit_ns;
	u64 flush_ns;
	u64 cgroup_id;
	u32 tid;
	u32 tgid;
	s32 rc;
	u32 mode;
	u32 reason;
	u32 lookups_before;
	u32 n_flush;
	s32 dst_nid;
	u32 lost;
	u32 flags;
	s32 syscall;
	u32 succeeded;
	u32 failed;
	u32 pad;
	char comm[16];
};
_Static_assert(sizeof(struct migration_record) == 120, "layouts.MIGRATION");

struct call_record {
	u64 call_id;
	u64 enter_ns;
	u64 exit_ns;
	u64 drain_ns;
	u64 nr_pages;
	u64 pages_ptr;
	u64 nodes_ptr;
	u64 status_ptr;
	s64 ret;
	u32 tid;
	u32 tgid;
	s32 pid;
	s32 flags;
	u32 n_lookups;
	u32 n_migrations;
	u32 n_drain;
	u32 lost;
	u32 n_vmas;
	u32 target_tgid;
	char comm[16];
};
_Static_assert(sizeof(struct call_record) == 128, "layouts.CALL");

struct wait_record {
	u64 start_ns;
	u64 end_ns;
	u64 address;
	u64 folio;
	u64 holder_id;
	u32 tid;
	u32 tgid;
	u32 holder_tid;
	u8 kind;
	u8 pad1;
	u16 pad;
	char comm[16];
};
_Static_assert(sizeof(struct wait_record) == 72, "layouts.WAIT");

/* Where a call, a migration without one or a wait came from; with STACKS only. */
struct stack_record {
	u64 id;			/* of the call or migration; of a wait its start_ns */
	u64 image;		/* where its program's stack begins: exec() changes it, 0: unknown */
	s32 kernel;		/* key of kernel_stacks, NO_STACK or -errno */
	s32 user;		/* key of user_stacks */
	u32 tid;
	u32 tgid;
	u32 kind;
	u32 pad;
};
_Static_assert(sizeof(struct stack_record) == 40, "stack_layouts.STACK_SAMPLE");

/* What NUMA balancing did in a process on a CPU in a period; with BALANCING only. */
struct balancing_key {
	u64 period;		/* of 2^BALANCING_PERIOD_SHIFT ns, about 1.07 s */
	u32 tgid;
	u32 cpu;
};
_Static_assert(sizeof(struct balancing_key) == 16, "balancing.BALANCING_KEY");

struct balancing_sums {
	u64 from_ns;		/* when the first of it began, the last ended */
	u64 to_ns;
	u64 scan_ns;
	u64 scan_max_ns;
	u64 scan_max_at_ns;	/* when the longest began */
	u64 fault_ns;
	u64 fault_max_ns;
	u64 fault_max_at_ns;
	u32 scans;		/* that ended */
	u32 faults;		/* that began */
	u32 faults_timed;	/* that ended, in fault_ns */
	u32 pad;
	char comm[16];		/* of the thread that was the first */
};
_Static_assert(sizeof(struct balancing_sums) == 96, "balancing.BALANCING_SUMS");

#define BALANCING_PERIOD_SHIFT	30

#define NO_STACK		(-1)	/* a kernel thread has none in user space */
#define STACK_OF_CALL		0
#define STACK_OF_MIGRATION	1
#define STACK_OF_WAIT		2

#define CHUNK_STRUCT(name, entries)					\
struct name {								\
	u64 call_id;							\
	u32 first;							\
	u32 count;							\
	u32 at_exit;							\
	u32 failed;							\
	u64 pages[entries];						\
	s32 nodes[entries];						\
	s32 status[entries];						\
}

CHUNK_STRUCT(small_chunk, SMALL_CHUNK);
CHUNK_STRUCT(medium_chunk, MEDIUM_CHUNK);
CHUNK_STRUCT(large_chunk, LARGE_CHUNK);

#define NO_LOOKUP		0xffffffffU
#define LOOKUP_NONE		1
#define ISOLATE_NOT_TRIED	1
#define MOVE_NOT_TRIED		1

#define END_LOOKUP		0
#define END_DONE		1
#define END_PUTBACK		2
#define END_REUSED		3

#define FOLIO_HUGETLB		(1 << 0)
#define FOLIO_UNTRACKED		(1 << 1)
#define FOLIO_ALLOC_FAILED	(1 << 2)
#define FOLIO_UNEXPECTED	(1 << 3)
#define FOLIO_PMD		(1 << 4)
#define FOLIO_OBSTACLE		(1 << 5)
#define FOLIO_CHOSEN		(1 << 6)
#define FOLIO_KEEP		(1 << 7)	/* not emitted without it; cleared when emitted */

#define MIGRATION_KTHREAD	(1 << 0)
#define MIGRATION_COMPAT	(1 << 1)
#define SYSCALL_NONE		(-1)
#define SYSCALL_UNKNOWN		(-2)
#define NOT_COUNTED		0xffffffffU

#define KIND_PTE		0
#define KIND_PMD		1
#define KIND_HUGETLB		2
#define KIND_LOCK		3

#define WAIT_KEEP		(1 << 0)	/* bits of pad1 while it lasts */
#define WAIT_ON_PAGE		(1 << 1)

#define READ_PAGES		(1 << 0)
#define READ_NODES		(1 << 1)
#define READ_STATUS		(1 << 2)
#define READ_NOTHING		7	/* none of the three */
#define READ_COMPAT		(1 << 3)	/* the array of pages has 32-bit pointers */

/* Why something was not recorded; names in mptrace/tracer.py. */
#define LOST_FOLIO_RING		0	/* the ring of folio records was full */
#define LOST_CALL_RING		1	/* the ring of call or migration records was full */
#define LOST_CHUNK_RING		2	/* a ring of array chunks was full */
#define LOST_FOLIO_MAP		3	/* the map of folios under migration was full */
#define LOST_THREAD_MAP		4	/* the map of threads inside a call was full */
#define LOST_NESTING		5	/* migrations nested deeper than two */
#define LOST_OBSTACLE_RING	6	/* the ring of obstacle records was full */
#define LOST_OBSTACLE_MAP	7	/* the map of obstacles was full */
#define LOST_WAIT_RING		8	/* the ring of waits was full */
#define LOST_WAIT_MAP		9	/* the map of waiting threads was full */
#define LOST_CHOSEN_MAP		10	/* the map of processes that are followed was full */
#define LOST_RETURN		11	/* a return was not seen: too many at once for a kretprobe */
#define LOST_STACK_RING		12	/* the ring of stacks was full */
#define LOST_STACK_MAP		13	/* another stack had its place, or the map was full */
#define LOST_BALANCING_MAP	14	/* the map of NUMA balancing's sums or threads was full */
#define LOST_LOOKUP_RING	15	/* a ring of lookups was full */
#define LOST_REFUSAL_MAP	16	/* too many migrations left folios behind at once */
#define LOST_CAUSES		17

#define ERR_PTR_MIN		0xfffffffffffff001ULL

#define EAGAIN			11
#define ENOMEM			12
#define EFAULT			14
#define EBUSY			16
#define EEXIST			17

#endif
