// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Timestamps and identifiers at the phase boundaries of a page migration.
 *
 * The unit is a migration: one invocation of the kernel's migrate_pages(), with
 * a move_pages(2) call as its optional parent.  One record per folio, emitted
 * when the kernel is done with it; user space replays the rest.
 *
 * phase     | kernel function (rows of mptrace/candidates.py)       | unit
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
 * and, as evidence of why a folio stayed or waited (bpf/include/mptrace/obstacle.h):
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
 * wake      | wake_page_function: a folio's lock is let go            | sleep
 * fork, end_process | tracepoints of the scheduler                  | process
 *
 * The plan passes with -D: offsets of struct members (from BTF), argument
 * positions that differ between kernels, map sizes.  No kernel header is used.
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

#include <mptrace/obstacle.h>

/* ---- records: mirrored by mptrace/records.py, field by field ------------- */

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
_Static_assert(sizeof(struct folio_record) == 216, "records.FOLIO");

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
_Static_assert(sizeof(struct migration_record) == 120, "records.MIGRATION");

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
_Static_assert(sizeof(struct call_record) == 128, "records.CALL");

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
_Static_assert(sizeof(struct wait_record) == 72, "records.WAIT");

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
#define LOST_CAUSES		12

#define ERR_PTR_MIN		0xfffffffffffff001ULL

#define EAGAIN			11
#define ENOMEM			12
#define EFAULT			14
#define EBUSY			16

/* ---- maps ------------------------------------------------------------------ */

/* What user space asks for; key 0.  The gate opens after everything is attached. */
struct control {
	u32 gate;
	u32 scope;	/* SCOPE_*: whose calls, and whose pages */
	u32 tgid;	/* of SCOPE_CALLER, 0: any */
	u32 uid;	/* of SCOPE_USER */
	u64 cgroup;	/* of SCOPE_CGROUP: its id; its descendants belong to it */
	u32 all;	/* migrations without a call, too */
	u32 failed;	/* of these only the ones that failed */
	u64 reasons;	/* bit mask of enum migrate_reason, 0: all */
	u64 min_ns;	/* of those without a call: what took at least that long */
	u64 source[NODE_WORDS];	/* nodes from and to, bit masks; without a call */
	u64 target[NODE_WORDS];
	u32 nodes;	/* whether source and target are asked for */
	u32 pad;
};
BPF_ARRAY(control, struct control, 1);

#define SCOPE_CALLER	0	/* calls of one process */
#define SCOPE_ALL	1
#define SCOPE_CHOSEN	2	/* processes of the map `chosen`, and what they fork */
#define SCOPE_USER	3
#define SCOPE_CGROUP	4

/* tgid -> 1: initiators and owners of interest under SCOPE_CHOSEN */
BPF_HASH(chosen, u32, u8, MAX_CHOSEN);

/* LOST_* -> count */
BPF_PERCPU_ARRAY(lost, u64, LOST_CAUSES);

/* A migrate_pages() on a thread's stack, with the enter times of its open phases. */
struct level {
	struct migration_record migration;
	u64 alloc_enter_ns;
	u64 alloc_src;
	u64 unmap_enter_ns;
	u64 unmap_src;		/* 0: not inside try_to_migrate() */
	u64 move_enter_ns;
	u64 move_src;		/* 0: not inside move_to_new_folio() */
	u64 copy_enter_ns;
	u64 remap_enter_ns;
	u64 remap_src;
	u64 flush_enter_ns;
	u64 wait_enter_ns;
	u64 split_src;
	u64 release_src;
	u64 stack;		/* the stack pointer at the entry, 0: unknown */
	u64 step_ns;		/* when the last step below ended, and whose it was */
	u64 step_src;
	u32 step;
	u8 interest;		/* of the initiator: all of it is recorded */
	u8 kept;		/* a folio of somebody of interest was in it */
	u8 matched;		/* a folio went between nodes that were asked for */
	u8 skip;		/* for a reason that was not asked for: nothing is recorded */
};

/* Steps after which the kernel goes on with the same folio: what lies between is timed, too. */
#define STEP_ALLOCATED	1
#define STEP_MOVED	2
#define STEP_REMAPPED	3

/* A folio that a lookup found and that nothing else happened to yet. */
struct pending {
	u64 address;
	u64 src;
	u64 start_ns;
	s32 lookup_rc;
	u32 nr_pages;
	u32 seq;
	s16 src_nid;
	u16 valid;
	u64 vma;
	u64 page_flags;		/* of the folio, as the kernel's lookup found it */
	u64 mapping;
	u64 private;
	s32 refcount;
	s32 mapcount;
	s32 page_mapcount;	/* of the page itself */
	u32 pad;
};

struct thread {
	struct call_record call;	/* call_id 0: no call */
	struct level levels[2];		/* a migration, and one nested in its allocation */
	struct pending pending;
	u64 drain_enter_ns;
	u64 isolate_enter_ns;
	u64 lookup_address;		/* between a lookup's kprobe and its kretprobe */
	u64 lookup_vma;
	u64 checked_vma;		/* the one that vma_migratable() is asked about */
	u64 call_stack;			/* the stack pointer at the call's entry, 0: unknown */
	u32 depth;
	u8 interest;			/* the initiator, or the call's target, was asked for */
	u8 compat;			/* in a 32-bit system call */
	u16 pad;
};

/* tid -> thread inside a call or a migration; deleted at the exit of the outer one */
BPF_HASH(threads, u32, struct thread, MAX_THREADS);

/* source folio -> its record so far; deleted when the record is emitted */
BPF_HASH(folios, u64, struct folio_record, MAX_FOLIOS);

/* source folio -> what stood in its way; made at a refusal, deleted with its record */
BPF_HASH(obstacles, u64, struct obstacle_record, MAX_OBSTACLES);

/* Never written: templates for new elements (too large for the stack). */
BPF_ARRAY(new_thread, struct thread, 1);
BPF_ARRAY(new_folio, struct folio_record, 1);
BPF_ARRAY(new_obstacle, struct obstacle_record, 1);

BPF_RINGBUF_OUTPUT(folio_ring, FOLIO_RING_PAGES);
BPF_RINGBUF_OUTPUT(obstacle_ring, OBSTACLE_RING_PAGES);
BPF_RINGBUF_OUTPUT(migration_ring, CALL_RING_PAGES);
BPF_RINGBUF_OUTPUT(call_ring, CALL_RING_PAGES);
BPF_RINGBUF_OUTPUT(small_ring, SMALL_RING_PAGES);
BPF_RINGBUF_OUTPUT(medium_ring, MEDIUM_RING_PAGES);
BPF_RINGBUF_OUTPUT(large_ring, LARGE_RING_PAGES);
BPF_RINGBUF_OUTPUT(wait_ring, WAIT_RING_PAGES);

/*
 * tid -> its wait for a page under migration, or for what may turn out to be the lock of one;
 * deleted when the wait ends
 */
BPF_HASH(waiting, u32, struct wait_record, MAX_WAITING);

/* Nobody sleeps on the rings: user space looks at them on its own clock. */
#define NO_WAKEUP 1

/* ---- helpers ----------------------------------------------------------------- */

static __always_inline struct thread *this_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();

	return threads.lookup(&tid);
}

static __always_inline struct level *this_level(struct thread *t)
{
	if (t->depth == 1)
		return &t->levels[0];
	if (t->depth == 2)
		return &t->levels[1];
	return NULL;
}

/* The migration under way in this thread, if one is traced. */
static __always_inline struct level *active_level(void)
{
	struct thread *t = this_thread();

	return t ? this_level(t) : NULL;
}

static __always_inline void count_lost(struct thread *t, int cause)
{
	u64 *count = lost.lookup(&cause);
	struct level *level;

	if (count)
		*count += 1;
	if (!t)
		return;
	t->call.lost++;
	level = this_level(t);
	if (level)
		level->migration.lost++;
}

static __always_inline void end_step(struct level *level, u32 step, u64 src, u64 now)
{
	level->step = step;
	level->step_src = src;
	level->step_ns = now;
}

/* Time since a step of this folio, if that was the last thing that happened. */
static __always_inline u64 since_step(struct level *level, u32 step, u64 src, u64 now)
{
	if (level->step != step || level->step_src != src)
		return 0;
	level->step = 0;
	return now - level->step_ns;
}

/* ---- who is of interest ------------------------------------------------------- */

#define CGROUP_LEVELS 16

/* Whether a task's cgroup is the one asked for, or below it. */
static __always_inline bool in_cgroup(u64 task, u64 wanted)
{
#ifdef OFF_TASK_CGROUPS
	u64 group = read_word(read_word(task + OFF_TASK_CGROUPS) + OFF_CSS_SET_CGROUP);
	int i;

	for (i = 0; i < CGROUP_LEVELS && group; i++) {
		if (read_word(read_word(group + OFF_CGROUP_KN) + OFF_KN_ID) == wanted)
			return true;
		group = read_word(group + OFF_CGROUP_PARENT);
	}
#endif
	return false;
}

static __always_inline bool is_chosen(struct control *c, u64 task, u32 tgid)
{
	if (c->scope == SCOPE_ALL)
		return true;
	if (c->scope == SCOPE_CALLER)
		return !c->tgid || c->tgid == tgid;
	if (c->scope == SCOPE_CHOSEN)
		return chosen.lookup(&tgid) != NULL;
#ifdef OFF_TASK_CRED
	if (c->scope == SCOPE_USER)
		return read_half(read_word(task + OFF_TASK_CRED) + OFF_CRED_UID) == c->uid;
#endif
	return c->scope == SCOPE_CGROUP && in_cgroup(task, c->cgroup);
}

/* The task that a mapping's address space belongs to, 0 where the kernel keeps none. */
static __always_inline u64 owner_of(u64 vma)
{
#ifdef OFF_MM_OWNER
	u64 mm = read_word(vma + OFF_VMA_MM);

	return mm ? read_word(mm + OFF_MM_OWNER) : 0;
#else
	return 0;
#endif
}

static __always_inline u32 tgid_of(u64 task)
{
#ifdef OFF_TASK_TGID
	return read_half(task + OFF_TASK_TGID);
#else
	return 0;
#endif
}

/* The first mapping that a call comes to says whose pages it moves. */
static __always_inline void note_target(struct thread *t, u64 vma)
{
	struct control *c;
	int zero = 0;
	u64 owner;

	if (t->call.target_tgid)
		return;
	owner = owner_of(vma);
	t->call.target_tgid = owner ? tgid_of(owner) : 0;
	if (t->interest)
		return;
	c = control.lookup(&zero);
	/* what can't be known is recorded rather than left out */
	if (!owner || (c && is_chosen(c, owner, t->call.target_tgid)))
		t->interest = 1;
}

#define PF_KTHREAD	0x00200000
#define TS_COMPAT	0x0002
#define X32_SYSCALL_BIT	0x40000000
#define PT_REGS_SIZE	168
#define PT_REGS_ORIG_AX	120

#ifdef OFF_TASK_STACK
/* The system call that a task is in, by the registers at the end of its kernel stack. */
static __always_inline s64 syscall_of(u64 task)
{
	return read_word(read_word(task + OFF_TASK_STACK) + THREAD_SIZE - PT_REGS_SIZE +
			 PT_REGS_ORIG_AX);
}
#endif

/* Whether its caller has 32-bit pointers: a 32-bit process, or one of the x32 ABI. */
static __always_inline bool in_compat_call(u64 task)
{
#ifdef OFF_TASK_STACK
	s64 number = syscall_of(task);

	if (number > 0 && number & X32_SYSCALL_BIT)
		return true;
#endif
#ifdef OFF_TASK_STATUS
	return read_half(task + OFF_TASK_STATUS) & TS_COMPAT;
#else
	return false;
#endif
}

/* Who migrates, and in which system call. */
static __always_inline void read_initiator(struct migration_record *m)
{
	m->cgroup_id = bpf_get_current_cgroup_id();
	m->syscall = SYSCALL_UNKNOWN;
#ifdef OFF_TASK_STACK
	u64 task = bpf_get_current_task();
	s64 number;

	if (read_half(task + OFF_TASK_FLAGS) & PF_KTHREAD) {
		m->flags |= MIGRATION_KTHREAD;
		m->syscall = SYSCALL_NONE;
		return;
	}
	number = syscall_of(task);
	if (number < 0)
		m->syscall = SYSCALL_NONE;
	else if (number < 4096)
		m->syscall = number;
	if (m->syscall >= 0 && in_compat_call(task))
		m->flags |= MIGRATION_COMPAT;
#endif
}

static __always_inline bool has_node(u64 *mask, s32 nid)
{
	return mask[(nid / 64) & (NODE_WORDS - 1)] >> (nid & 63) & 1;
}

/* Whether a folio went (or was to go) between nodes that were asked for. */
static __always_inline bool on_route(struct control *c, struct folio_record *f)
{
	if (!c->nodes)
		return true;
	return (f->src_nid < 0 || has_node(c->source, f->src_nid)) &&
	       (f->dst_nid < 0 || has_node(c->target, f->dst_nid));
}

/* Calls are recorded whole, as their entries can only be judged whole. */
static __always_inline bool is_wanted(struct folio_record *f)
{
	struct control *c;
	int zero = 0;

	if (!(f->flags & FOLIO_KEEP))
		return false;
	if (f->call_id)
		return true;
	c = control.lookup(&zero);
	if (!c)
		return true;
	if (c->failed && !f->move_rc)
		return false;
	return f->end_ns - f->start_ns >= c->min_ns && on_route(c, f);
}

static __always_inline bool is_asked_for(struct control *c, u64 reason)
{
	return !c->reasons || c->reasons >> (reason & 63) & 1;
}

/* An identity that no other call or migration of a session has. */
static __always_inline u64 make_id(u64 now)
{
	return (now << 10) | (bpf_get_smp_processor_id() & 1023);
}

struct page_words {
	u64 flags;
	u64 compound_head;
};

/* The folio of a page: itself, or what a tail page points to. */
static __always_inline u64 folio_of(u64 page, u64 *flags)
{
	struct page_words words = {};
	u64 folio = page;

	read_kernel(&words.flags, 8, (void *)(page + OFF_PAGE_FLAGS));
	read_kernel(&words.compound_head, 8,
			      (void *)(page + OFF_PAGE_COMPOUND_HEAD));
	if (words.compound_head & 1) {
		folio = words.compound_head - 1;
		read_kernel(&words.flags, 8, (void *)(folio + OFF_PAGE_FLAGS));
	}
	*flags = words.flags;
	return folio;
}

static __always_inline s16 nid_of(u64 flags)
{
#ifdef NODES_SHIFT
	return flags >> (64 - NODES_SHIFT);
#else
	return -1;
#endif
}

static __always_inline u32 nr_pages_of(u64 folio, u64 flags)
{
	u8 order = 0;

	if (!(flags & (1ULL << PG_HEAD)))
		return 1;
	read_kernel(&order, 1, (void *)(folio + OFF_FOLIO_ORDER));
	return 1U << (order & 31);
}

/* The record of what stands in a folio's way: made where the kernel refuses or waits. */
static __always_inline struct obstacle_record *obstacle_of(struct folio_record *f, u64 now)
{
	struct obstacle_record *o, *template;
	u64 src = f->src;
	int zero = 0;

	o = obstacles.lookup(&src);
	/* one without the flag is left over from a folio whose end was not seen */
	if (o && f->flags & FOLIO_OBSTACLE)
		return o;
	template = new_obstacle.lookup(&zero);
	if (!template)
		return NULL;
	if (obstacles.update(&src, template)) {
		count_lost(NULL, LOST_OBSTACLE_MAP);
		return NULL;
	}
	o = obstacles.lookup(&src);
	if (!o)
		return NULL;
	f->flags |= FOLIO_OBSTACLE;
	o->call_id = f->call_id;
	o->src = src;
	o->address = f->address;
	o->first_ns = now;
	o->tid = (u32)bpf_get_current_pid_tgid();
	o->lookup_seq = f->lookup_seq;
	o->nr_pages = f->nr_pages;
	o->allowed = -1;
	return o;
}

/* The kernel refused a folio under migration: its state now, where and with what. */
static __always_inline struct obstacle_record *
refused(struct folio_record *f, u8 stage, s32 rc)
{
	u64 now = bpf_ktime_get_ns();
	struct obstacle_record *o = obstacle_of(f, now);

	if (!o)
		return NULL;
	o->migration_id = f->migration_id;
	o->stage = stage;
	o->rc = rc;
	o->last_ns = now;
	read_state(o, f->src, f->nr_pages);
	return o;
}

/* The test that the kernel makes, inlined, after try_to_migrate(): one read. */
static __always_inline bool is_mapped(u64 folio, u32 nr_pages)
{
#ifdef EVIDENCE
#ifdef OFF_FOLIO_MAPCOUNT
	if (nr_pages > 1 && (s32)read_half(folio + OFF_FOLIO_MAPCOUNT) >= 0)
		return true;
#endif
	return (s32)read_half(folio + OFF_PAGE_MAPCOUNT) >= 0;
#else
	return false;
#endif
}

/* A folio with a target that never came to its unmap: its lock, or writeback, refused it. */
static __always_inline void close_step(struct level *level)
{
	struct obstacle_record *o;
	struct folio_record *f;

	if (level->step != STEP_ALLOCATED)
		return;
	level->step = 0;
	f = folios.lookup(&level->step_src);
	/* what was not mapped needs no unmap: nothing was refused */
	if (!f || !is_mapped(f->src, f->nr_pages))
		return;
	o = refused(f, STAGE_LOCK, -EAGAIN);
	if (o)
		o->n_lock++;
}

static __always_inline void emit_obstacle(struct folio_record *f)
{
	u64 src = f->src;
	struct obstacle_record *o = obstacles.lookup(&src);

	if (!o)
		return;
	if (obstacle_ring.ringbuf_output(o, sizeof(*o), NO_WAKEUP))
		count_lost(NULL, LOST_OBSTACLE_RING);
	obstacles.delete(&src);
}

static __always_inline void emit_folio(struct folio_record *f, u8 end)
{
	u64 src = f->src;

	f->end = end;
	f->end_ns = bpf_ktime_get_ns();
	if (!is_wanted(f)) {
		if (f->flags & FOLIO_OBSTACLE)
			obstacles.delete(&src);
		return;
	}
	f->flags &= ~FOLIO_KEEP;
	if (f->flags & FOLIO_OBSTACLE)
		emit_obstacle(f);
	if (f->n_dark && !f->light_last_ns)	/* a window still open ends here */
		f->blackout_ns += f->end_ns;
	if (folio_ring.ringbuf_output(f, sizeof(*f), NO_WAKEUP))
		count_lost(this_thread(), LOST_FOLIO_RING);
}

/* Whether only the page table says what is there: nothing found, or a zero page. */
static __always_inline bool needs_pte(struct pending *p)
{
	return p->lookup_rc || p->page_flags & (1ULL << PG_RESERVED) ||
	       (p->nr_pages > 1 && !p->mapping);
}

/* Whether a lookup that led to no isolation is more than "already there". */
static __always_inline bool is_obstacle(struct pending *p, s32 isolate_rc)
{
	if (isolate_rc < 0 || p->mapcount > 1 || p->page_mapcount > 1 || needs_pte(p))
		return true;
#ifdef EVIDENCE
	if (p->nr_pages > 1 && read_word(p->vma + OFF_VMA_FLAGS) & VM_HUGETLB)
		return true;
#ifdef OFF_FOLIO_MAPCOUNT
	if (p->nr_pages > 1)
		return (s32)read_half(p->src + OFF_FOLIO_MAPCOUNT) + 1 +
		       (WHOLE_MAPCOUNT ? p->page_mapcount : 0) > 1;
#endif
#endif
	return false;
}

static __always_inline void emit_lookup_obstacle(struct thread *t, s32 isolate_rc)
{
#ifdef EVIDENCE
	struct pending *p = &t->pending;
	struct folio_record *holder;
	struct obstacle_record *o;

	if (!is_obstacle(p, isolate_rc))
		return;
	o = obstacle_ring.ringbuf_reserve(sizeof(*o));
	if (!o) {
		count_lost(NULL, LOST_OBSTACLE_RING);
		return;
	}
	__builtin_memset(o, 0, sizeof(*o));
	o->call_id = t->call.call_id;
	o->src = p->src;
	o->address = p->address;
	o->first_ns = p->start_ns;
	o->last_ns = p->start_ns;
	o->tid = t->call.tid;
	o->lookup_seq = p->seq;
	o->nr_pages = p->nr_pages;
	o->allowed = -1;
	if (p->lookup_rc) {
		o->stage = STAGE_LOOKUP;
		o->rc = p->lookup_rc;
	} else {
		o->stage = isolate_rc < 0 ? STAGE_ISOLATE : STAGE_SHARED;
		o->rc = isolate_rc < 0 ? isolate_rc : 0;
		o->page_flags = p->page_flags;
		o->mapping = p->mapping;
		o->private = p->private;
		o->refcount = p->refcount;
		o->mapcount = p->mapcount;
		o->page_mapcount = p->page_mapcount;
		o->pincount = -1;
		if (p->nr_pages > 1) {
			read_large(o, p->src);
			/* mappings of the folio as a whole, and of this page alone */
			o->mapcount += WHOLE_MAPCOUNT ? p->page_mapcount : 0;
		}
		read_mapping(o);
		o->seen |= SEEN_STATE;
		holder = folios.lookup(&p->src);
		/* an element that was freed may have another folio by now */
		if (isolate_rc < 0 && holder && holder->src == p->src) {
			o->holder_id = holder->migration_id ? holder->migration_id
							    : holder->call_id;
			o->holder_tid = holder->tid;
		}
	}
	read_vma(o, p->vma);
	if (needs_pte(p))
		read_pte(o, p->vma, p->address);
	obstacle_ring.ringbuf_submit(o, NO_WAKEUP);
#endif
}

/* A lookup after which its folio was not isolated: its record ends here. */
static __always_inline void emit_lookup(struct thread *t, s32 isolate_rc, u8 flags)
{
	struct folio_record *f;

	t->pending.valid = 0;
	if (!t->interest)
		return;
	f = folio_ring.ringbuf_reserve(sizeof(*f));
	emit_lookup_obstacle(t, isolate_rc);
	if (!f) {
		count_lost(t, LOST_FOLIO_RING);
		return;
	}
	__builtin_memset(f, 0, sizeof(*f));
	f->call_id = t->call.call_id;
	f->src = t->pending.src;
	f->address = t->pending.address;
	f->start_ns = t->pending.start_ns;
	f->end_ns = t->pending.start_ns;
	f->tid = t->call.tid;
	f->lookup_seq = t->pending.seq;
	f->lookup_rc = t->pending.lookup_rc;
	f->isolate_rc = isolate_rc;
	f->move_rc = MOVE_NOT_TRIED;
	f->nr_pages = t->pending.nr_pages;
	f->src_nid = t->pending.src_nid;
	f->dst_nid = -1;
	f->end = END_LOOKUP;
	f->flags = flags;
	folio_ring.ringbuf_submit(f, NO_WAKEUP);
}

static __always_inline void close_pending(struct thread *t)
{
	if (t->pending.valid)
		emit_lookup(t, ISOLATE_NOT_TRIED, 0);
}

/* A new element for this source folio, all zero but for its identity. */
static __always_inline struct folio_record *start_folio(u64 src, u64 now)
{
	struct folio_record *f = folios.lookup(&src);
	struct folio_record *template;
	int zero = 0;

	if (f)
		emit_folio(f, END_REUSED);
	template = new_folio.lookup(&zero);
	if (!template)
		return NULL;
	if (folios.update(&src, template)) {
		count_lost(this_thread(), LOST_FOLIO_MAP);
		return NULL;
	}
	f = folios.lookup(&src);
	if (!f)
		return NULL;
	f->src = src;
	f->start_ns = now;
	f->tid = (u32)bpf_get_current_pid_tgid();
	f->lookup_seq = NO_LOOKUP;
	f->move_rc = MOVE_NOT_TRIED;
	f->isolate_rc = ISOLATE_NOT_TRIED;
	f->dst_nid = -1;
	f->src_nid = -1;
	return f;
}

/* The record of a folio in this migration; the first event of a migration names it. */
static __always_inline struct folio_record *
folio_in(struct level *level, u64 src, u64 now)
{
	struct folio_record *f = folios.lookup(&src);
	u64 flags = 0;

	if (f && (!f->migration_id || f->migration_id == level->migration.migration_id)) {
		f->migration_id = level->migration.migration_id;
		return f;
	}
	f = start_folio(src, now);
	if (!f)
		return NULL;
	folio_of(src, &flags);
	f->call_id = level->migration.call_id;
	f->migration_id = level->migration.migration_id;
	f->src_nid = nid_of(flags);
	f->nr_pages = nr_pages_of(src, flags);
	f->flags = FOLIO_UNEXPECTED | (level->interest && !level->skip ? FOLIO_KEEP : 0);
	return f;
}

static __always_inline struct thread *start_thread(struct control *c, u64 id)
{
	u32 tid = id;
	struct thread *template, *t;
	int zero = 0;

	template = new_thread.lookup(&zero);
	if (!template)
		return NULL;
	if (threads.update(&tid, template)) {
		count_lost(NULL, LOST_THREAD_MAP);
		return NULL;
	}
	t = threads.lookup(&tid);
	if (!t)
		return NULL;
	t->call.tid = tid;
	t->call.tgid = id >> 32;
	t->interest = is_chosen(c, bpf_get_current_task(), id >> 32);
	bpf_get_current_comm(t->call.comm, sizeof(t->call.comm));
	return t;
}

static __always_inline void end_thread(struct thread *t)
{
	u32 tid = t->call.tid;

	threads.delete(&tid);
}

/* ---- the user arrays ----------------------------------------------------------- */

/* A bit of `failed` for a helper's answer, 0 or -errno; no branch, which the verifier would walk. */
#define UNLESS_READ(rc, bit) ((u32)((rc) >> 63) & (bit))

#define FILL_CHUNK(name, chunk)						\
static __always_inline void name(struct thread *t, struct chunk *c, u64 first,	\
				 u64 count, u32 at_exit)			\
{										\
	u32 failed;								\
	s64 rc;									\
										\
	c->call_id = t->call.call_id;						\
	c->first = first;							\
	c->count = count;							\
	c->at_exit = at_exit;							\
	if (t->compat) {							\
		rc = read_user(c->pages, count * 4,				\
			       (void *)(t->call.pages_ptr + first * 4));	\
		failed = READ_COMPAT;						\
	} else {								\
		rc = read_user(c->pages, count * 8,				\
			       (void *)(t->call.pages_ptr + first * 8));	\
		failed = 0;							\
	}									\
	failed |= UNLESS_READ(rc, READ_PAGES);					\
	rc = read_user(c->nodes, count * 4,					\
		       (void *)(t->call.nodes_ptr + first * 4));		\
	failed |= UNLESS_READ(rc, READ_NODES);					\
	rc = read_user(c->status, count * 4,					\
		       (void *)(t->call.status_ptr + first * 4));		\
	c->failed = failed | UNLESS_READ(rc, READ_STATUS);			\
}

FILL_CHUNK(fill_small, small_chunk)
FILL_CHUNK(fill_medium, medium_chunk)
FILL_CHUNK(fill_large, large_chunk)

/*
 * Entries to read, loaded anew each time: a number that the verifier knows
 * nothing of lets it see that all ways out of a loop are the same state.
 */
static __always_inline u64 entries_of(struct thread *t)
{
	u64 nr_pages = *(volatile u64 *)&t->call.nr_pages;

	return nr_pages > MAX_ENTRIES ? MAX_ENTRIES : nr_pages;
}

/*
 * As many full large chunks as fit, then full medium ones, then small ones, the
 * last of which may be partly used: few iterations, little room wasted.
 * (BCC allows no map function inside a macro, hence three loops in full.)
 */
static __always_inline void emit_arrays(struct thread *t, u32 at_exit)
{
	struct medium_chunk *medium;
	struct large_chunk *large;
	struct small_chunk *small;
	u64 i, first, count;
	u32 unread;

	for (i = 0; i < MAX_ENTRIES / LARGE_CHUNK; i++) {
		if (i >= entries_of(t) / LARGE_CHUNK)
			break;
		large = large_ring.ringbuf_reserve(sizeof(*large));
		if (!large)
			goto full;
		fill_large(t, large, i * LARGE_CHUNK, LARGE_CHUNK, at_exit);
		unread = large->failed;
		large_ring.ringbuf_submit(large, NO_WAKEUP);
		/* a count that means nothing: a piece for each 16,384 of it would fill the ring */
		if ((unread & READ_NOTHING) == READ_NOTHING)
			return;
	}
	for (i = 0; i < LARGE_CHUNK / MEDIUM_CHUNK; i++) {
		first = entries_of(t) / LARGE_CHUNK * LARGE_CHUNK + i * MEDIUM_CHUNK;
		if (first + MEDIUM_CHUNK > entries_of(t))
			break;
		medium = medium_ring.ringbuf_reserve(sizeof(*medium));
		if (!medium)
			goto full;
		fill_medium(t, medium, first, MEDIUM_CHUNK, at_exit);
		medium_ring.ringbuf_submit(medium, NO_WAKEUP);
	}
	for (i = 0; i < MEDIUM_CHUNK / SMALL_CHUNK; i++) {
		first = entries_of(t) / MEDIUM_CHUNK * MEDIUM_CHUNK + i * SMALL_CHUNK;
		count = entries_of(t) - first;
		if (first >= entries_of(t))
			break;
		small = small_ring.ringbuf_reserve(sizeof(*small));
		if (!small)
			goto full;
		if (count >= SMALL_CHUNK) {
			count = SMALL_CHUNK;
		} else {
			/* 1 to SMALL_CHUNK - 1 already; this way the verifier sees it */
			asm volatile("" : "+r"(count));
			count &= SMALL_CHUNK - 1;
		}
		fill_small(t, small, first, count, at_exit);
		small_ring.ringbuf_submit(small, NO_WAKEUP);
	}
	return;
full:
	/* what is left of the arrays is given up: the call counts as one with losses anyway */
	count_lost(t, LOST_CHUNK_RING);
}

/* ---- entry points -------------------------------------------------------------- */

/*
 * The plan says with -DPHASE_METHOD=FENTRY or KPROBE how a phase is attached, with
 * PHASE_EXIT_METHOD how its exit is where that may be another (call, migration);
 * a handler reads its arguments accordingly and calls the one body.
 */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define METHOD(phase) CAT(phase, _METHOD)
#define CTX_FENTRY u64
#define CTX_KPROBE struct pt_regs
#define CTX(phase) CAT(CTX_, METHOD(phase)) *ctx
#define ARG_FENTRY(n) ctx[n]
#define ARG_KPROBE(n) CAT(KARG, n)
/* Where the stack was: a function called from within has a lower one. */
#define STACK_FENTRY 0
#define STACK_KPROBE PT_REGS_SP(ctx)
#define STACK(phase) CAT(STACK_, METHOD(phase))
/* Whether a return can be missed: a kretprobe follows only so many at once. */
#define MAY_MISS_FENTRY 0
#define MAY_MISS_KPROBE 1
#define MAY_MISS(phase) CAT(MAY_MISS_, METHOD(phase))
#define CTX_RAW_TRACEPOINT u64
#define ARG_RAW_TRACEPOINT(n) ctx[n]
#define CTX_TRACEPOINT u64
#define ARG_TRACEPOINT(n) ctx[(n) + 1]	/* after the common fields, where all are words */
#define ARG(phase, n) CAT(ARG_, METHOD(phase))(n)
#define RET_FENTRY(nargs) ctx[nargs]
#define RET_KPROBE(nargs) PT_REGS_RC(ctx)
#define RET(phase) CAT(RET_, METHOD(phase))(CAT(phase, _NARGS))
#define KARG0 PT_REGS_PARM1(ctx)
#define KARG1 PT_REGS_PARM2(ctx)
#define KARG2 PT_REGS_PARM3(ctx)
#define KARG3 PT_REGS_PARM4(ctx)
#define KARG4 PT_REGS_PARM5(ctx)
#define KARG5 PT_REGS_PARM6(ctx)

/* ---- call ------------------------------------------------------------------------ */

static __always_inline void on_enter_call(u64 pid, u64 nr_pages, u64 pages, u64 nodes,
				       u64 status, u64 flags, u64 stack)
{
	u64 id = bpf_get_current_pid_tgid();
	struct control *c;
	struct thread *t;
	int zero = 0;

	c = control.lookup(&zero);
	if (!c || !c->gate || !is_asked_for(c, MR_SYSCALL))
		return;
	if (!nodes)	/* query mode moves nothing */
		return;
	if (c->scope == SCOPE_CALLER && c->tgid && c->tgid != id >> 32)
		return;
	if (this_thread())
		count_lost(NULL, LOST_RETURN);	/* of what this thread was in before */
	t = start_thread(c, id);
	if (!t)
		return;
	t->call_stack = stack;
	/* somebody else's pages may be of interest: the first mapping will tell */
	if (!t->interest && !pid) {
		end_thread(t);
		return;
	}
	t->compat = in_compat_call(bpf_get_current_task());
	t->call.enter_ns = bpf_ktime_get_ns();
	t->call.call_id = make_id(t->call.enter_ns);
	t->call.pid = pid;
	t->call.nr_pages = nr_pages;
	t->call.pages_ptr = pages;
	t->call.nodes_ptr = nodes;
	t->call.status_ptr = status;
	t->call.flags = flags;
	emit_arrays(t, 0);
	/* what reading the arrays took is not the call's time */
	t->call.enter_ns = bpf_ktime_get_ns();
}

/* A migration whose return was missed is over when its call goes on. */
static __always_inline void go_on(struct thread *t)
{
	struct level *level = this_level(t);

	if (!MAY_MISS(MIGRATION_EXIT) || !level || level->migration.succeeded == NOT_COUNTED)
		return;
	count_lost(t, LOST_RETURN);
	t->depth--;
}

static __always_inline void on_exit_call(u64 ret)
{
	struct thread *t = this_thread();

	if (!t || !t->call.call_id)
		return;
	t->call.exit_ns = bpf_ktime_get_ns();
	t->call.ret = (s32)ret;
	if (t->depth)
		count_lost(t, LOST_RETURN);
	close_pending(t);
	if (!t->call.target_tgid && !t->call.n_vmas)
		t->interest = 1;	/* whose pages they are is not known */
	if (t->interest)
		emit_arrays(t, 1);
	else
		t->call.nodes_ptr = 0;	/* user space drops what it has of this call */
	if (call_ring.ringbuf_output(&t->call, sizeof(t->call), NO_WAKEUP))
		count_lost(NULL, LOST_CALL_RING);
	end_thread(t);
}

int enter_call(CTX(CALL))
{
	on_enter_call(ARG(CALL, 0), ARG(CALL, 1), ARG(CALL, 2), ARG(CALL, 3), ARG(CALL, 4),
		      ARG(CALL, 5), STACK(CALL));
	return 0;
}

int exit_call(CTX(CALL_EXIT))
{
	on_exit_call(RET(CALL_EXIT));
	return 0;
}

/* ---- drain ----------------------------------------------------------------------- */

static __always_inline void on_enter_drain(void)
{
	struct thread *t = this_thread();

	if (t && t->call.call_id && !t->depth)
		t->drain_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_drain(void)
{
	struct thread *t = this_thread();

	if (!t || !t->drain_enter_ns)
		return;
	t->call.drain_ns += bpf_ktime_get_ns() - t->drain_enter_ns;
	t->call.n_drain++;
	t->drain_enter_ns = 0;
}

int enter_drain(CTX(DRAIN))
{
	on_enter_drain();
	return 0;
}

int exit_drain(CTX(DRAIN))
{
	on_exit_drain();
	return 0;
}

/* ---- the mapping of an entry, and whether it can be migrated at all ------------------ */

static __always_inline void on_enter_vma(u64 vma)
{
	struct thread *t = this_thread();

	if (t && t->call.call_id && !t->depth)
		t->checked_vma = vma;
}

/* fexit has the argument; for a kretprobe the kprobe stored it. */
#define CHECKED_FENTRY ctx[0]
#define CHECKED_KPROBE checked_vma()

static __always_inline u64 checked_vma(void)
{
	struct thread *t = this_thread();

	return t ? t->checked_vma : 0;
}

static __always_inline void on_exit_vma(u64 vma, u64 ret)
{
	struct thread *t = this_thread();
	struct obstacle_record *o;

	if (!t || !t->call.call_id)
		return;
	go_on(t);
	if (t->depth)
		return;
	t->call.n_vmas++;
	note_target(t, vma);
	if (ret & 0xff || !t->interest)
		return;
	o = obstacle_ring.ringbuf_reserve(sizeof(*o));
	if (!o) {
		count_lost(NULL, LOST_OBSTACLE_RING);
		return;
	}
	__builtin_memset(o, 0, sizeof(*o));
	o->call_id = t->call.call_id;
	o->first_ns = bpf_ktime_get_ns();
	o->last_ns = o->first_ns;
	o->tid = t->call.tid;
	o->lookup_seq = t->call.n_lookups;	/* lookups before it */
	o->stage = STAGE_VMA;
	o->rc = -EFAULT;
	o->allowed = -1;
	read_vma(o, vma);
	obstacle_ring.ringbuf_submit(o, NO_WAKEUP);
}

int enter_vma(CTX(VMA))
{
	on_enter_vma(ARG(VMA, 0));
	return 0;
}

int exit_vma(CTX(VMA))
{
	on_exit_vma(CAT(CHECKED_, METHOD(VMA)), RET(VMA));
	return 0;
}

/* ---- lookup ---------------------------------------------------------------------- */

static __always_inline void on_exit_lookup(u64 address, u64 vma, u64 page)
{
	struct thread *t = this_thread();
	struct page_image image = {};
	u64 folio = page, head;

	if (!t || !t->call.call_id)
		return;
	go_on(t);
	if (t->depth)
		return;
	close_pending(t);
	note_target(t, vma);
	t->pending.valid = 1;
	t->pending.seq = t->call.n_lookups++;
	t->pending.address = address;
	t->pending.start_ns = bpf_ktime_get_ns();
	t->pending.src = 0;
	t->pending.nr_pages = 0;
	t->pending.src_nid = -1;
	t->pending.vma = vma;
	if (!page) {
		t->pending.lookup_rc = LOOKUP_NONE;
		return;
	}
	if (page >= ERR_PTR_MIN) {
		t->pending.lookup_rc = (s32)page;
		return;
	}
	/* one read of the page takes its counts along: what isolation then does is inlined */
	read_page(&image, page);
	t->pending.page_mapcount = image_half(&image, OFF_PAGE_MAPCOUNT) + 1;
	head = image_word(&image, OFF_PAGE_COMPOUND_HEAD);
	if (head & 1) {
		folio = head - 1;
		read_page(&image, folio);
	}
	t->pending.lookup_rc = 0;
	t->pending.src = folio;
	t->pending.page_flags = image_word(&image, OFF_PAGE_FLAGS);
	t->pending.mapping = image_word(&image, OFF_PAGE_MAPPING);
	t->pending.private = image_word(&image, OFF_PAGE_PRIVATE);
	t->pending.refcount = image_half(&image, OFF_PAGE_REFCOUNT);
	t->pending.mapcount = image_half(&image, OFF_PAGE_MAPCOUNT) + 1;
	t->pending.src_nid = nid_of(t->pending.page_flags);
	t->pending.nr_pages = nr_pages_of(folio, t->pending.page_flags);
}

/* fexit has the arguments; for a kretprobe the kprobe stored them. */
#define ADDRESS_FENTRY ctx[LOOKUP_ADDRESS]
#define ADDRESS_KPROBE stored_address()
#define VMA_FENTRY ctx[LOOKUP_VMA]
#define VMA_KPROBE stored_vma()

static __always_inline u64 stored_address(void)
{
	struct thread *t = this_thread();

	return t ? t->lookup_address : 0;
}

static __always_inline u64 stored_vma(void)
{
	struct thread *t = this_thread();

	return t ? t->lookup_vma : 0;
}

int enter_lookup(CTX(LOOKUP))
{
	struct thread *t = this_thread();

	if (t && !t->depth) {
		t->lookup_address = ARG(LOOKUP, LOOKUP_ADDRESS);
		t->lookup_vma = ARG(LOOKUP, LOOKUP_VMA);
	}
	return 0;
}

int exit_lookup(CTX(LOOKUP))
{
	on_exit_lookup(CAT(ADDRESS_, METHOD(LOOKUP)), CAT(VMA_, METHOD(LOOKUP)), RET(LOOKUP));
	return 0;
}

/* ---- isolate --------------------------------------------------------------------- */

static __always_inline void on_enter_isolate(void)
{
	struct thread *t = this_thread();

	if (t && !t->depth)
		t->isolate_enter_ns = bpf_ktime_get_ns();
}

/* rc: 0 isolated, -errno otherwise */
static __always_inline void isolated(s32 rc, u8 flags)
{
	struct thread *t = this_thread();
	struct folio_record *f;
	u64 now, src;

	if (!t || t->depth || !t->pending.valid)
		return;
	if (rc) {
		emit_lookup(t, rc, flags);
		return;
	}
	now = bpf_ktime_get_ns();
	src = t->pending.src;
	f = start_folio(src, now);
	if (!f) {
		emit_lookup(t, 0, flags | FOLIO_UNTRACKED);
		return;
	}
	t->pending.valid = 0;
	f->call_id = t->call.call_id;
	f->address = t->pending.address;
	f->start_ns = t->pending.start_ns;
	f->lookup_seq = t->pending.seq;
	f->isolate_rc = 0;
	f->isolate_ns = now - t->isolate_enter_ns;
	f->nr_pages = t->pending.nr_pages;
	f->src_nid = t->pending.src_nid;
	f->flags = flags | (t->interest ? FOLIO_KEEP : 0);
	f->owner_tgid = t->call.target_tgid;
}

#ifdef ISOLATE_BOOL
#define ISOLATE_RC(ret) (((ret) & 0xff) ? 0 : -EBUSY)
#else
#define ISOLATE_RC(ret) ((s32)(ret))
#endif
#ifdef ISOLATE_HUGETLB_BOOL
#define ISOLATE_HUGETLB_RC(ret) (((ret) & 0xff) ? 0 : -EBUSY)
#else
#define ISOLATE_HUGETLB_RC(ret) ((s32)(ret))
#endif

static __always_inline void on_exit_isolate(u64 ret)
{
	isolated(ISOLATE_RC(ret), 0);
}

static __always_inline void on_enter_isolate_hugetlb(void)
{
	on_enter_isolate();
}

static __always_inline void on_exit_isolate_hugetlb(u64 ret)
{
	isolated(ISOLATE_HUGETLB_RC(ret), FOLIO_HUGETLB);
}

int enter_isolate(CTX(ISOLATE))
{
	on_enter_isolate();
	return 0;
}

int exit_isolate(CTX(ISOLATE))
{
	on_exit_isolate(RET(ISOLATE));
	return 0;
}

int enter_isolate_hugetlb(CTX(ISOLATE_HUGETLB))
{
	on_enter_isolate_hugetlb();
	return 0;
}

int exit_isolate_hugetlb(CTX(ISOLATE_HUGETLB))
{
	on_exit_isolate_hugetlb(RET(ISOLATE_HUGETLB));
	return 0;
}

/* ---- migration ------------------------------------------------------------------- */

/*
 * A kretprobe can follow only so many at once; a return that it missed leaves the
 * thread in a migration or call that has ended.  The stack tells: what lies above the
 * present entry on it is over.
 */
static __always_inline void close_missed(struct thread *t, u64 stack)
{
	if (!stack)
		return;
	if (t->depth == 2 && t->levels[1].stack && t->levels[1].stack <= stack) {
		t->depth = 1;
		count_lost(t, LOST_RETURN);
	}
	if (t->depth == 1 && t->levels[0].stack && t->levels[0].stack <= stack) {
		t->depth = 0;
		count_lost(t, LOST_RETURN);
	}
	if (t->call.call_id && t->call_stack && t->call_stack <= stack) {
		t->depth = 0;
		t->call.call_id = 0;
		t->pending.valid = 0;
		count_lost(NULL, LOST_RETURN);
	}
}

static __always_inline void on_enter_migration(u64 private, u64 mode, u64 reason, u64 stack)
{
	u64 id = bpf_get_current_pid_tgid();
	struct thread *t = this_thread();
	struct migration_record *m;
	struct level *level;
	struct control *c;
	int zero = 0;

	c = control.lookup(&zero);
	if (!c)
		return;
	if (!t) {
		if (!c->gate || !c->all || !is_asked_for(c, reason))
			return;
		t = start_thread(c, id);
		if (!t)
			return;
	}
	close_missed(t, stack);
	t->depth++;
	level = this_level(t);
	if (!level) {
		count_lost(t, LOST_NESTING);
		return;
	}
	if (t->depth == 1)
		close_pending(t);
	__builtin_memset(level, 0, sizeof(*level));
	level->stack = stack;
	level->interest = t->interest;
	level->skip = !is_asked_for(c, reason);
	m = &level->migration;
	m->dst_nid = -1;
	m->succeeded = NOT_COUNTED;
	m->failed = NOT_COUNTED;
	m->tid = t->call.tid;
	m->tgid = t->call.tgid;
	m->mode = mode;
	m->reason = reason;
	__builtin_memcpy(m->comm, t->call.comm, sizeof(m->comm));
	if (t->depth == 1 && t->call.call_id && reason == MR_SYSCALL) {
		/* struct migration_target_control begins with the node */
		m->call_id = t->call.call_id;
		m->lookups_before = t->call.n_lookups;
		t->call.n_migrations++;
		read_kernel(&m->dst_nid, 4, (void *)private);
	}
	read_initiator(m);
	m->enter_ns = bpf_ktime_get_ns();
	m->migration_id = make_id(m->enter_ns);
}

static __always_inline bool is_wanted_migration(struct level *level)
{
	struct migration_record *m = &level->migration;
	struct control *c;
	int zero = 0;

	if (level->skip || !(level->interest || level->kept))
		return false;
	c = control.lookup(&zero);
	if (!c || m->call_id)
		return true;
	if (c->failed && !m->rc && (!m->failed || m->failed == NOT_COUNTED))
		return false;
	return m->exit_ns - m->enter_ns >= c->min_ns && (!c->nodes || level->matched);
}

static __always_inline void end_migration(struct thread *t, s32 rc)
{
	struct level *level = this_level(t);

	if (level) {
		close_step(level);
		level->migration.exit_ns = bpf_ktime_get_ns();
		level->migration.rc = rc;
		if (is_wanted_migration(level) &&
		    migration_ring.ringbuf_output(&level->migration,
						  sizeof(level->migration), NO_WAKEUP))
			count_lost(t, LOST_CALL_RING);
	}
	t->depth--;
	if (!t->depth && !t->call.call_id)
		end_thread(t);
}

static __always_inline void on_exit_migration(u64 ret, u64 stack)
{
	struct thread *t = this_thread();
	struct level *level;

	if (!t || !t->depth)
		return;
	level = this_level(t);
	/* of one nested in this one, which has ended with the kernel's count */
	if (level && stack && level->stack >= stack)
		return;
	end_migration(t, (s32)ret);
}

int enter_migration(CTX(MIGRATION))
{
	on_enter_migration(ARG(MIGRATION, 3), ARG(MIGRATION, 4), ARG(MIGRATION, 5),
			   STACK(MIGRATION));
	return 0;
}

int exit_migration(CTX(MIGRATION_EXIT))
{
	on_exit_migration(RET(MIGRATION_EXIT), STACK(MIGRATION_EXIT));
	return 0;
}

/*
 * The kernel's own count, in base pages: the last that migrate_pages() does before it
 * returns.  Where nothing failed it returns 0, so that a return that may be missed
 * need not be waited for.
 */
static __always_inline void on_outcome(u64 succeeded, u64 failed)
{
	struct thread *t = this_thread();
	struct level *level;

	if (!t)
		return;
	level = this_level(t);
	if (!level)
		return;
	level->migration.succeeded = succeeded;
	level->migration.failed = failed;
	if (MAY_MISS(MIGRATION_EXIT) && level->stack && !failed)
		end_migration(t, 0);
}

int outcome(CTX(OUTCOME))
{
	on_outcome(ARG(OUTCOME, 0), ARG(OUTCOME, 1));
	return 0;
}

/* ---- allocate -------------------------------------------------------------------- */

/* Whether the caller's cpuset has the node: 1, 0, or -1 where that is not known. */
static __always_inline s8 is_allowed(s32 nid)
{
#ifdef OFF_TASK_MEMS_ALLOWED
	u64 task = bpf_get_current_task();

	if (nid < 0 || nid >= 1024)
		return -1;
	return read_word(task + OFF_TASK_MEMS_ALLOWED + nid / 64 * 8) >> (nid & 63) & 1;
#else
	return -1;
#endif
}

static __always_inline void on_enter_allocate(u64 src)
{
	struct level *level = active_level();
	u64 flags;

	if (!level)
		return;
	close_step(level);
	level->alloc_src = folio_of(src, &flags);
	level->alloc_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_allocate(u64 dst)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;
	u64 flags = 0, now;

	if (!level || !level->alloc_src)
		return;
	now = bpf_ktime_get_ns();
	f = folio_in(level, level->alloc_src, level->alloc_enter_ns);
	if (dst)
		end_step(level, STEP_ALLOCATED, level->alloc_src, now);
	level->alloc_src = 0;
	if (!f)
		return;
	f->alloc_ns += now - level->alloc_enter_ns;
	f->n_alloc++;
	if (!dst) {
		f->flags |= FOLIO_ALLOC_FAILED;
		o = refused(f, STAGE_ALLOCATE, -ENOMEM);
		if (o) {
			o->n_alloc++;
			o->allowed = is_allowed(level->migration.dst_nid);
		}
		return;
	}
	f->flags &= ~FOLIO_ALLOC_FAILED;
	f->dst = folio_of(dst, &flags);
	f->dst_nid = nid_of(flags);
}

/* Each path has an allocator of its own, the folio to be replaced is its first argument. */
#define ALLOCATOR(name, PHASE)				\
int CAT(enter_, name)(CTX(PHASE))			\
{							\
	on_enter_allocate(ARG(PHASE, 0));		\
	return 0;					\
}							\
							\
int CAT(exit_, name)(CTX(PHASE))			\
{							\
	on_exit_allocate(RET(PHASE));			\
	return 0;					\
}

ALLOCATOR(allocate, ALLOCATE)
ALLOCATOR(alloc_compaction, ALLOC_COMPACTION)
ALLOCATOR(alloc_numa, ALLOC_NUMA)
ALLOCATOR(alloc_demotion, ALLOC_DEMOTION)
ALLOCATOR(alloc_policy, ALLOC_POLICY)

/* ---- unmap, the TLB flushes inside it, and the moment a page goes dark ------------- */

static __always_inline void on_enter_unmap(u64 src)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 now;

	if (!level)
		return;
	now = bpf_ktime_get_ns();
	level->unmap_src = src;
	level->unmap_enter_ns = now;
	/* compaction's allocations are not seen: a folio may be met here first */
	f = folio_in(level, src, now);
	if (f)
		f->lock_ns += since_step(level, STEP_ALLOCATED, src, now);
}

static __always_inline void on_exit_unmap(void)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;
	u64 now;

	if (!level || !level->unmap_src)
		return;
	now = bpf_ktime_get_ns();
	f = folios.lookup(&level->unmap_src);
	level->unmap_src = 0;
	if (!f)
		return;
	f->unmap_ns += now - level->unmap_enter_ns;
	f->n_unmap++;
	if (!is_mapped(f->src, f->nr_pages))
		return;
	o = refused(f, STAGE_UNMAP, -EAGAIN);
	if (o)
		o->n_unmap++;
}

int enter_unmap(CTX(UNMAP))
{
	on_enter_unmap(ARG(UNMAP, 0));
	return 0;
}

int exit_unmap(CTX(UNMAP))
{
	on_exit_unmap();
	return 0;
}

/* A mapping of the folio under try_to_migrate(): whose it is, and where. */
static __always_inline void on_enter_owner(u64 vma, u64 address)
{
	struct level *level = active_level();
	struct folio_record *f;
	struct control *c;
	int zero = 0;
	bool chosen_one;
	u64 owner;
	u32 tgid;

	if (!level || !level->unmap_src)
		return;
	f = folios.lookup(&level->unmap_src);
	if (!f)
		return;
	f->n_maps++;
	if (!f->address)
		f->address = address;
	if (f->flags & FOLIO_CHOSEN)
		return;
	c = control.lookup(&zero);
	owner = owner_of(vma);
	if (!c || !owner)
		return;
	tgid = tgid_of(owner);
	chosen_one = is_chosen(c, owner, tgid);
	if (f->owner_tgid && !chosen_one)
		return;
	f->owner_tgid = tgid;
	/* of a call it is the address that was asked for, in the call's target */
	if (!f->call_id)
		f->address = address;
	if (!chosen_one)
		return;
	f->flags |= FOLIO_CHOSEN;
	if (level->skip || level->migration.call_id)
		return;		/* a call is recorded whole, or not at all */
	f->flags |= FOLIO_KEEP;
	level->kept = 1;
}

int enter_owner(CTX(OWNER))
{
	on_enter_owner(ARG(OWNER, 1), ARG(OWNER, 2));
	return 0;
}

static __always_inline void on_enter_flush(void)
{
	struct level *level = active_level();

	if (level && level->unmap_src)
		level->flush_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_flush(void)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 now;

	if (!level || !level->unmap_src || !level->flush_enter_ns)
		return;
	now = bpf_ktime_get_ns();
	f = folios.lookup(&level->unmap_src);
	if (f) {
		f->flush_ns += now - level->flush_enter_ns;
		f->n_flush++;
	}
	level->flush_enter_ns = 0;
}

int enter_flush(CTX(TLB_FLUSH_PTE))
{
	on_enter_flush();
	return 0;
}

int exit_flush(CTX(TLB_FLUSH_PTE))
{
	on_exit_flush();
	return 0;
}

static __always_inline void on_enter_batch_flush(void)
{
	struct level *level = active_level();

	if (level)
		level->flush_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_batch_flush(void)
{
	struct level *level = active_level();

	if (!level || !level->flush_enter_ns)
		return;
	level->migration.flush_ns += bpf_ktime_get_ns() - level->flush_enter_ns;
	level->migration.n_flush++;
	level->flush_enter_ns = 0;
}

int enter_batch_flush(CTX(TLB_FLUSH_BATCH))
{
	on_enter_batch_flush();
	return 0;
}

int exit_batch_flush(CTX(TLB_FLUSH_BATCH))
{
	on_exit_batch_flush();
	return 0;
}

/* A migration entry replaced a PTE (or PMD) of the folio under try_to_migrate(). */
static __always_inline void went_dark(u8 flags)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 now;

	if (!level || !level->unmap_src)
		return;
	now = bpf_ktime_get_ns();
	f = folios.lookup(&level->unmap_src);
	if (!f)
		return;
	f->flags |= flags;
	if (f->dark_first_ns > f->light_last_ns)
		return;		/* the window is open already */
	if (!f->dark_first_ns)
		f->dark_first_ns = now;
	/* an open window counts from zero: went_light() adds the time it ended */
	f->blackout_ns -= now;
	f->n_dark++;
	f->light_last_ns = 0;
}

int dark(void *ctx)
{
	went_dark(0);
	return 0;
}

int dark_pmd(void *ctx)
{
	went_dark(FOLIO_PMD);
	return 0;
}

/* ---- waiting for a lock or for writeback, between the allocation and the unmap ------- */

static __always_inline void on_enter_wait(u64 folio)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;

	if (!level || level->step != STEP_ALLOCATED || level->step_src != folio)
		return;
	f = folios.lookup(&folio);
	if (!f)
		return;
	level->wait_enter_ns = bpf_ktime_get_ns();
	o = obstacle_of(f, level->wait_enter_ns);
	if (o)
		read_state(o, folio, f->nr_pages);
}

/* The time waited is the folio's; 0 where no wait of ours has ended. */
static __always_inline struct obstacle_record *waited(u64 *wait_ns)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	u64 src;

	if (!level || !level->wait_enter_ns)
		return NULL;
	src = level->step_src;
	*wait_ns = bpf_ktime_get_ns() - level->wait_enter_ns;
	level->wait_enter_ns = 0;
	o = obstacles.lookup(&src);
	if (o)
		o->last_ns = bpf_ktime_get_ns();
	return o;
}

static __always_inline void on_exit_lock_wait(void)
{
	u64 wait_ns = 0;
	struct obstacle_record *o = waited(&wait_ns);

	if (!o)
		return;
	o->lock_wait_ns += wait_ns;
	o->n_lock_wait++;
}

static __always_inline void on_exit_writeback_wait(void)
{
	u64 wait_ns = 0;
	struct obstacle_record *o = waited(&wait_ns);

	if (!o)
		return;
	o->writeback_wait_ns += wait_ns;
	o->n_writeback_wait++;
}

int enter_lock_wait(CTX(LOCK_WAIT))
{
	on_enter_wait(ARG(LOCK_WAIT, 0));
	return 0;
}

int exit_lock_wait(CTX(LOCK_WAIT))
{
	on_exit_lock_wait();
	return 0;
}

int enter_writeback_wait(CTX(WRITEBACK_WAIT))
{
	on_enter_wait(ARG(WRITEBACK_WAIT, 0));
	return 0;
}

int exit_writeback_wait(CTX(WRITEBACK_WAIT))
{
	on_exit_writeback_wait();
	return 0;
}

/* ---- a large folio that must be split, private data that must be released -------------- */

static __always_inline void on_enter_split(u64 page)
{
	struct level *level = active_level();
	u64 flags;

	if (level)
		level->split_src = folio_of(page, &flags);
}

static __always_inline void on_exit_split(u64 ret)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;
	u64 flags = 0, src;

	if (!level || !level->split_src)
		return;
	src = level->split_src;
	f = folios.lookup(&src);
	level->split_src = 0;
	if (!f)
		return;
	if (!(s32)ret) {
		/* its head goes on as a page; a call's entries name the folio that was */
		if (!level->migration.call_id) {
			folio_of(src, &flags);
			f->nr_pages = nr_pages_of(src, flags);
		}
		return;
	}
	o = refused(f, STAGE_SPLIT, (s32)ret);
	if (o)
		o->n_split++;
}

static __always_inline void on_enter_release(u64 folio)
{
	struct level *level = active_level();

	if (level && level->move_src == folio)
		level->release_src = folio;
}

static __always_inline void on_exit_release(u64 ret)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;

	if (!level || !level->release_src)
		return;
	f = folios.lookup(&level->release_src);
	level->release_src = 0;
	if (!f || ret & 0xff)
		return;
	o = refused(f, STAGE_RELEASE, 0);
	if (o)
		o->n_release++;
}

int enter_split(CTX(SPLIT))
{
	on_enter_split(ARG(SPLIT, 0));
	return 0;
}

int exit_split(CTX(SPLIT))
{
	on_exit_split(RET(SPLIT));
	return 0;
}

int enter_release(CTX(RELEASE))
{
	on_enter_release(ARG(RELEASE, 0));
	return 0;
}

int exit_release(CTX(RELEASE))
{
	on_exit_release(RET(RELEASE));
	return 0;
}

/* ---- move and copy --------------------------------------------------------------- */

static __always_inline void on_enter_move(u64 src, u64 dst)
{
	struct level *level = active_level();
	struct folio_record *f;
	struct control *c;
	u64 flags = 0;
	int zero = 0;

	if (!level)
		return;
	level->move_src = src;
	if (!level->migration.call_id) {
		/* not every path's allocations are seen, nor is each folio mapped */
		f = folio_in(level, src, bpf_ktime_get_ns());
		if (f && f->dst != dst) {
			f->dst = folio_of(dst, &flags);
			f->dst_nid = nid_of(flags);
		}
		c = control.lookup(&zero);
		if (f && c && on_route(c, f))
			level->matched = 1;
	}
	level->move_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_move(u64 ret)
{
	struct level *level = active_level();
	struct obstacle_record *o;
	struct folio_record *f;
	u64 now;

	if (!level || !level->move_src)
		return;
	now = bpf_ktime_get_ns();
	f = folios.lookup(&level->move_src);
	end_step(level, STEP_MOVED, level->move_src, now);
	level->move_src = 0;
	if (!f)
		return;
	f->move_ns += now - level->move_enter_ns;
	f->move_rc = (s32)ret;
	f->n_move++;
	if (!(s32)ret)
		return;
	o = refused(f, STAGE_MOVE, (s32)ret);
	if (o)
		o->n_move++;
}

int enter_move(CTX(MOVE))
{
	on_enter_move(ARG(MOVE, MOVE_SRC), ARG(MOVE, MOVE_DST));
	return 0;
}

int exit_move(CTX(MOVE))
{
	on_exit_move(RET(MOVE));
	return 0;
}

static __always_inline void on_enter_copy(void)
{
	struct level *level = active_level();

	if (level && level->move_src)
		level->copy_enter_ns = bpf_ktime_get_ns();
}

static __always_inline void on_exit_copy(void)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 now;

	if (!level || !level->move_src || !level->copy_enter_ns)
		return;
	now = bpf_ktime_get_ns();
	f = folios.lookup(&level->move_src);
	if (f) {
		f->copy_ns += now - level->copy_enter_ns;
		f->n_copy++;
	}
	level->copy_enter_ns = 0;
}

int enter_copy(CTX(COPY))
{
	on_enter_copy();
	return 0;
}

int exit_copy(CTX(COPY))
{
	on_exit_copy();
	return 0;
}

/* ---- remap ----------------------------------------------------------------------- */

static __always_inline void on_enter_remap(u64 arg)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 src = arg, now;

	if (!level)
		return;
#ifdef REMAP_INDIRECT
	/* struct rmap_walk_arg begins with the source folio */
	read_kernel(&src, 8, (void *)arg);
#endif
	now = bpf_ktime_get_ns();
	level->remap_src = src;
	level->remap_enter_ns = now;
	if (level->step != STEP_MOVED)
		return;
	f = folios.lookup(&src);
	if (f)
		f->lru_ns += since_step(level, STEP_MOVED, src, now);
}

static __always_inline void on_exit_remap(void)
{
	struct level *level = active_level();
	struct folio_record *f;
	u64 now, src;

	if (!level || !level->remap_src)
		return;
	now = bpf_ktime_get_ns();
	src = level->remap_src;
	level->remap_src = 0;
	end_step(level, STEP_REMAPPED, src, now);
	f = folios.lookup(&src);
	if (!f)
		return;
	f->remap_ns += now - level->remap_enter_ns;
	f->n_remap++;
	if (!f->n_dark)
		return;
	/* the first PTE back ends the window, each further one prolongs it */
	f->blackout_ns += f->light_last_ns ? now - f->light_last_ns : now;
	f->light_last_ns = now;
}

int enter_remap(CTX(REMAP))
{
	on_enter_remap(ARG(REMAP, 3));
	return 0;
}

int exit_remap(CTX(REMAP))
{
	on_exit_remap();
	return 0;
}

/* ---- the end of a folio ------------------------------------------------------------ */

static __always_inline void end_folio(u64 src, u8 end)
{
	struct folio_record *f = folios.lookup(&src);
	struct level *level;

	if (!f)
		return;
	level = active_level();
	if (level)
		f->release_ns += since_step(level, STEP_REMAPPED, src, bpf_ktime_get_ns());
	emit_folio(f, end);
	folios.delete(&src);
}

static __always_inline void on_enter_done(u64 src)
{
	struct level *level = active_level();

	/* met for the first time: freed before it was unmapped, as tails of a split are */
	if (level && !level->migration.call_id)
		folio_in(level, src, bpf_ktime_get_ns());
	end_folio(src, END_DONE);
}

static __always_inline void on_enter_putback(u64 src)
{
	end_folio(src, END_PUTBACK);
}

int enter_done(CTX(DONE))
{
	on_enter_done(ARG(DONE, 0));
	return 0;
}

int enter_putback(CTX(PUTBACK))
{
	on_enter_putback(ARG(PUTBACK, 0));
	return 0;
}

int enter_putback_hugetlb(CTX(PUTBACK_HUGETLB))
{
	on_enter_putback(ARG(PUTBACK_HUGETLB, 0));
	return 0;
}

/* ---- threads that wait for a page under migration --------------------------------------- */

static __always_inline void on_enter_wait_entry(u64 address, u8 kind)
{
	struct wait_record wait = {};
	struct control *c;
	u32 tid = bpf_get_current_pid_tgid();
	int zero = 0;

	c = control.lookup(&zero);
	if (!c || !c->gate || !c->all)
		return;
	wait.start_ns = bpf_ktime_get_ns();
	wait.address = address;
	wait.tid = tid;
	wait.tgid = bpf_get_current_pid_tgid() >> 32;
	wait.kind = kind;
	if (is_chosen(c, bpf_get_current_task(), wait.tgid))
		wait.pad1 = WAIT_KEEP;
	bpf_get_current_comm(wait.comm, sizeof(wait.comm));
	if (waiting.update(&tid, &wait))
		count_lost(NULL, LOST_WAIT_MAP);
}

static __always_inline void name_holder(struct wait_record *wait, struct folio_record *f)
{
	wait->holder_id = f->migration_id ? f->migration_id : f->call_id;
	wait->holder_tid = f->tid;
	if (f->flags & FOLIO_KEEP)
		wait->pad1 |= WAIT_KEEP;
}

/* A migration entry holds the page frame of the folio that is being migrated. */
#define SWP_OFFSET_BITS 58

static __always_inline u64 folio_of_entry(u64 entry)
{
#ifdef VMEMMAP_BASE
	u64 flags, bits = read_half(PGDIR_SHIFT) > 39 ? 40 : 34;
	u64 pfn = entry & ((1ULL << SWP_OFFSET_BITS) - 1) & ((1ULL << bits) - 1);

	return folio_of(read_word(VMEMMAP_BASE) + pfn * PAGE_STRUCT_BYTES, &flags);
#else
	return 0;
#endif
}

/* The entry is still there: from here on the thread really waits. */
static __always_inline void on_enter_wait_locked(u64 entry)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct wait_record *wait = waiting.lookup(&tid);
	struct folio_record *f;
	u64 folio;

	if (!wait)
		return;
	wait->pad1 |= WAIT_ON_PAGE;
	folio = folio_of_entry(entry);
	if (!folio)
		return;
	wait->folio = folio;
	f = folios.lookup(&folio);
	if (f)
		name_holder(wait, f);
}

static __always_inline void on_exit_wait_entry(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct wait_record *wait = waiting.lookup(&tid);
	struct control *c;
	int zero = 0;
	bool keep;

	if (!wait)
		return;
	wait->end_ns = bpf_ktime_get_ns();
	c = control.lookup(&zero);
	keep = c && wait->pad1 & WAIT_KEEP && wait->end_ns - wait->start_ns >= c->min_ns;
	/* gone before it was looked at, or something else than a migration ended it: no wait */
	if (WAIT_LOCKED_SEEN || wait->kind == KIND_LOCK)
		keep = keep && wait->pad1 & WAIT_ON_PAGE;
	/* what was migrated for another reason than those asked for is not tracked */
	if (c && c->reasons && !wait->holder_id)
		keep = false;
	wait->pad1 = 0;
	if (keep && wait_ring.ringbuf_output(wait, sizeof(*wait), NO_WAKEUP))
		count_lost(NULL, LOST_WAIT_RING);
	waiting.delete(&tid);
}

int enter_wait_pte(CTX(WAIT_PTE))
{
	on_enter_wait_entry(ARG(WAIT_PTE, 2), KIND_PTE);
	return 0;
}

int exit_wait_pte(CTX(WAIT_PTE))
{
	on_exit_wait_entry();
	return 0;
}

int enter_wait_pmd(CTX(WAIT_PMD))
{
	on_enter_wait_entry(0, KIND_PMD);
	return 0;
}

int exit_wait_pmd(CTX(WAIT_PMD))
{
	on_exit_wait_entry();
	return 0;
}

int enter_wait_hugetlb(CTX(WAIT_HUGETLB))
{
	on_enter_wait_entry(0, KIND_HUGETLB);
	return 0;
}

int exit_wait_hugetlb(CTX(WAIT_HUGETLB))
{
	on_exit_wait_entry();
	return 0;
}

int enter_wait_locked(CTX(WAIT_LOCKED))
{
	on_enter_wait_locked(ARG(WAIT_LOCKED, 0));
	return 0;
}

/*
 * Whoever sleeps for a folio's lock does so in io_schedule(), wherever from; the functions in
 * between are inlined or can't be traced.  Whose lock it was is known when it is let go:
 * wake_page_function() runs in the thread that unlocks, for threads that sleep.  Most sleeps
 * are for something else: what is asked of a wait is asked at its end, of those for a lock
 * under migration only.
 */
static __always_inline void on_enter_io_sleep(void)
{
	struct wait_record wait = {}, *before;
	u32 tid = bpf_get_current_pid_tgid();
	struct control *c;
	int zero = 0;

	c = control.lookup(&zero);
	if (!c || !c->gate || !c->all)
		return;
	before = waiting.lookup(&tid);
	if (before && before->kind != KIND_LOCK)
		return;		/* it waits for a migration entry, in here, too */
	if (before)
		count_lost(NULL, LOST_RETURN);
	wait.start_ns = bpf_ktime_get_ns();
	wait.kind = KIND_LOCK;
	if (waiting.update(&tid, &wait))
		count_lost(NULL, LOST_WAIT_MAP);
}

static __always_inline void on_exit_io_sleep(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct wait_record *wait;
	struct control *c;
	u32 tid = id;
	int zero = 0;

	wait = waiting.lookup(&tid);
	if (!wait || wait->kind != KIND_LOCK)
		return;
	c = control.lookup(&zero);
	if (!c || !(wait->pad1 & WAIT_ON_PAGE)) {
		waiting.delete(&tid);
		return;
	}
	wait->tid = tid;
	wait->tgid = id >> 32;
	if (is_chosen(c, bpf_get_current_task(), wait->tgid))
		wait->pad1 |= WAIT_KEEP;
	bpf_get_current_comm(wait->comm, sizeof(wait->comm));
	on_exit_wait_entry();
}

/*
 * The folio that this migration unlocks: the source, or the target of the last step.  Before
 * its unmap or move it need not have had the lock: an interrupt may end a read in its thread.
 */
static __always_inline struct folio_record *unlocked_by(struct level *level, u64 folio)
{
	struct folio_record *f = folios.lookup(&folio);

	if (!f) {
		f = folios.lookup(&level->step_src);
		if (!f || f->dst != folio)
			return NULL;
	}
	if (f->migration_id != level->migration.migration_id || !(f->n_unmap || f->n_move))
		return NULL;
	return f;
}

#define WQ_FLAG_EXCLUSIVE 1

static __always_inline void on_wake(u64 entry, u64 key)
{
#ifdef OFF_WAIT_TASK
	struct level *level = active_level();
	u64 folio, queued = entry - OFF_QUEUE_WAIT;
	struct wait_record *wait;
	struct folio_record *f;
	u32 tid;

	if (!level || level->skip)
		return;
	folio = read_word(key + OFF_KEY_FOLIO);
	/* the queue is that of other folios and bits, too */
	if (read_word(queued + OFF_QUEUE_FOLIO) != folio ||
	    read_half(queued + OFF_QUEUE_BIT) != PG_LOCKED ||
	    read_half(key + OFF_KEY_BIT) != PG_LOCKED)
		return;
	f = unlocked_by(level, folio);
	if (!f)
		return;
	/* somebody took the lock again: who wants to have it sleeps on */
	if (read_half(entry + OFF_WAIT_FLAGS) & WQ_FLAG_EXCLUSIVE &&
	    read_word(folio + OFF_PAGE_FLAGS) & 1ULL << PG_LOCKED)
		return;
	tid = read_half(read_word(entry + OFF_WAIT_TASK) + OFF_TASK_PID);
	wait = waiting.lookup(&tid);
	if (!wait || wait->kind != KIND_LOCK)
		return;
	wait->pad1 |= WAIT_ON_PAGE;
	wait->folio = f->src;
	name_holder(wait, f);
#endif
}

int enter_io_sleep(CTX(IO_SLEEP))
{
	on_enter_io_sleep();
	return 0;
}

int exit_io_sleep(CTX(IO_SLEEP))
{
	on_exit_io_sleep();
	return 0;
}

int enter_wake(CTX(WAKE))
{
	on_wake(ARG(WAKE, 0), ARG(WAKE, 3));
	return 0;
}

/* ---- what a process that is followed forks, and its end ---------------------------------- */

static __always_inline bool follows(void)
{
	int zero = 0;
	struct control *c = control.lookup(&zero);

	return c && c->scope == SCOPE_CHOSEN;
}

int fork(u64 *ctx)
{
	u32 parent = tgid_of(ctx[0]), child = tgid_of(ctx[1]);
	u8 one = 1;

	if (!follows() || parent == child || !chosen.lookup(&parent))
		return 0;
	if (chosen.update(&child, &one))
		count_lost(NULL, LOST_CHOSEN_MAP);
	return 0;
}

/*
 * The end of a thread, which is in no call, migration or wait: of what is still there the
 * return was missed.  Its process's number may be given to somebody else: it is forgotten
 * when the last thread ends.
 */
int end_process(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (!threads.delete(&tid))
		count_lost(NULL, LOST_RETURN);
	if (!waiting.delete(&tid))
		count_lost(NULL, LOST_RETURN);
#ifdef OFF_TASK_SIGNAL
	u64 task = ctx[0];
	u32 tgid = tgid_of(task);

	if (follows() && !read_half(read_word(task + OFF_TASK_SIGNAL) + OFF_SIGNAL_LIVE))
		chosen.delete(&tgid);
#endif
	return 0;
}
