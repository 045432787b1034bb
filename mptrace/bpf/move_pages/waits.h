/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that wait for a page under migration. */
#ifndef MPTRACE_WAITS_H
#define MPTRACE_WAITS_H

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

static __always_inline void on_exit_wait_entry(void *ctx)
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
	if (keep) {
		if (wait_ring.ringbuf_output(wait, sizeof(*wait), NO_WAKEUP))
			count_lost(NULL, LOST_WAIT_RING);
		else
			emit_stacks(ctx, wait->start_ns, STACK_OF_WAIT);
	}
	waiting.delete(&tid);
}

int enter_wait_pte(CTX(WAIT_PTE))
{
	on_enter_wait_entry(ARG(WAIT_PTE, 2), KIND_PTE);
	return 0;
}

int exit_wait_pte(CTX(WAIT_PTE))
{
	on_exit_wait_entry(ctx);
	return 0;
}

int enter_wait_pmd(CTX(WAIT_PMD))
{
	on_enter_wait_entry(0, KIND_PMD);
	return 0;
}

int exit_wait_pmd(CTX(WAIT_PMD))
{
	on_exit_wait_entry(ctx);
	return 0;
}

int enter_wait_hugetlb(CTX(WAIT_HUGETLB))
{
	on_enter_wait_entry(0, KIND_HUGETLB);
	return 0;
}

int exit_wait_hugetlb(CTX(WAIT_HUGETLB))
{
	on_exit_wait_entry(ctx);
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

static __always_inline void on_exit_io_sleep(void *ctx)
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
	on_exit_wait_entry(ctx);
}

/*
 * The folio that this migration unlocks: the source, or the target of the last step.  Before
 * its unmap or move it need not have had the lock: an interrupt may end a read in its thread.
 */
static __always_inline struct folio_record *unlocked_by(struct level *level, u64 folio)
{
	struct folio_record *f = folios.lookup(&folio);
	u64 id = level->migration.migration_id;

	if (!f || f->migration_id != id) {
		f = folios.lookup(&level->step_src);
		if (!f || f->dst != folio || f->migration_id != id)
			return NULL;
	}
	return f->n_unmap || f->n_move ? f : NULL;
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
	on_exit_io_sleep(ctx);
	return 0;
}

int enter_wake(CTX(WAKE))
{
	on_wake(ARG(WAKE, 0), ARG(WAKE, 3));
	return 0;
}

#endif
