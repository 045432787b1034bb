/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lives in the kernel while it is traced: what user space asks for, threads inside a call
 * or a migration, folios under way, losses; and how a handler finds its own.
 */
#ifndef MPTRACE_STATE_H
#define MPTRACE_STATE_H

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
#ifdef OUTCOMES
	u64 left_behind;		/* migration of the call that left folios behind, 0: none */
	u64 word;			/* what a typed pointer is turned into a number by */
	struct many_lookups looked;	/* those that have not been sent yet */
#endif
};

/*
 * Threads inside a call or a migration, until the exit of the outer one.  A place of an array
 * costs a tenth of a hash's lookup, and a page takes 19: a thread is in the place that its tid
 * names, or in the hash if another one had that place.
 */
struct slot {
	u32 claims;	/* threads that want the place: who saw itself alone has it */
	u32 elsewhere;	/* threads of this place that are in `threads` */
	struct thread thread;	/* tid 0: nobody */
};
BPF_ARRAY(slots, struct slot, SLOTS);
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

#ifdef OUTCOMES
BPF_RINGBUF_OUTPUT(few_ring, FEW_RING_PAGES);
BPF_RINGBUF_OUTPUT(many_ring, MANY_RING_PAGES);

/* tid -> its last migration without a call that left folios behind: it puts them back next */
BPF_HASH(leavers, u32, u64, MAX_LEAVERS);
#endif

/*
 * tid -> its wait for a page under migration, or for what may turn out to be the lock of one;
 * deleted when the wait ends
 */
BPF_HASH(waiting, u32, struct wait_record, MAX_WAITING);

#ifdef STACKS
/* BCC's BPF_STACK_TRACE() rounds the size up, for which there is no header here. */
#define BPF_STACKS(name, size) BPF_TABLE("stacktrace", int, struct bpf_stacktrace, name, size)

/* a hash of the addresses -> return addresses, the innermost first; nothing is ever replaced */
BPF_STACKS(kernel_stacks, MAX_STACKS);
BPF_STACKS(user_stacks, MAX_STACKS);
BPF_RINGBUF_OUTPUT(stack_ring, STACK_RING_PAGES);
#endif

/* Nobody sleeps on the rings: user space looks at them on its own clock. */
#define NO_WAKEUP 1

/* ---- helpers ----------------------------------------------------------------- */

static __always_inline struct slot *slot_of(u32 tid)
{
	u32 place = tid & (SLOTS - 1);

	return slots.lookup(&place);
}

static __always_inline struct thread *this_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct slot *slot = slot_of(tid);

	if (!slot || !tid)	/* 0: an interrupt of an idle CPU */
		return NULL;
	if (slot->thread.call.tid == tid)
		return &slot->thread;
	return slot->elsewhere ? threads.lookup(&tid) : NULL;
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

#endif
