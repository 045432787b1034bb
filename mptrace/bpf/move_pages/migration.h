/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A migration, which is one invocation of migrate_pages(), and the targets that it allocates. */
#ifndef MPTRACE_MIGRATION_H
#define MPTRACE_MIGRATION_H

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

#ifdef OUTCOMES
/* What a migration leaves behind its thread puts back next, one by one. */
static __always_inline void leave_folios(struct thread *t, struct level *level)
{
	u64 id = level->migration.migration_id;
	u32 tid = t->call.tid;

	if (level->migration.call_id)
		t->left_behind = id;
	else if (is_wanted_migration(level) && leavers.update(&tid, &id))
		count_lost(NULL, LOST_REFUSAL_MAP);
}

static __always_inline void leave_nothing(struct thread *t)
{
	u32 tid = t->call.tid;

	if (t->call.call_id)
		t->left_behind = 0;
	else
		leavers.delete(&tid);
}

static __always_inline u64 left_by(struct thread *t, u32 tid)
{
	u64 *id;

	if (t && t->call.call_id)
		return t->depth || !t->interest ? 0 : t->left_behind;
	id = leavers.lookup(&tid);
	return id ? *id : 0;
}
#endif

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
#ifdef OUTCOMES
	level->kept = 1;	/* whose pages it moves is not known */
	leave_nothing(t);
#endif
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

static __always_inline void end_migration(void *ctx, struct thread *t, s32 rc)
{
	struct level *level = this_level(t);

	if (level) {
		close_step(level);
		level->migration.exit_ns = bpf_ktime_get_ns();
		level->migration.rc = rc;
		if (is_wanted_migration(level)) {
			if (migration_ring.ringbuf_output(&level->migration,
							  sizeof(level->migration), NO_WAKEUP))
				count_lost(t, LOST_CALL_RING);
			else if (!level->migration.call_id)
				emit_stacks(ctx, level->migration.migration_id, STACK_OF_MIGRATION);
		}
	}
#ifdef OUTCOMES
	if (level && (rc || (level->migration.failed && level->migration.failed != NOT_COUNTED)))
		leave_folios(t, level);
#endif
	t->depth--;
	if (!t->depth && !t->call.call_id)
		end_thread(t);
}

static __always_inline void on_exit_migration(void *ctx, u64 ret, u64 stack)
{
	struct thread *t = this_thread();
	struct level *level;

	if (!t || !t->depth)
		return;
	level = this_level(t);
	/* of one nested in this one, which has ended with the kernel's count */
	if (level && stack && level->stack >= stack)
		return;
	end_migration(ctx, t, (s32)ret);
}

int enter_migration(CTX(MIGRATION))
{
	on_enter_migration(ARG(MIGRATION, 3), ARG(MIGRATION, 4), ARG(MIGRATION, 5),
			   STACK(MIGRATION));
	return 0;
}

int exit_migration(CTX(MIGRATION_EXIT))
{
	on_exit_migration(ctx, RET(MIGRATION_EXIT), STACK(MIGRATION_EXIT));
	return 0;
}

/*
 * The kernel's own count, in base pages: the last that migrate_pages() does before it
 * returns.  Where nothing failed it returns 0, so that a return that may be missed
 * need not be waited for.
 */
static __always_inline void on_outcome(void *ctx, u64 succeeded, u64 failed)
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
		end_migration(ctx, t, 0);
}

int outcome(CTX(OUTCOME))
{
	on_outcome(ctx, ARG(OUTCOME, 0), ARG(OUTCOME, 1));
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

#endif
