/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A folio on its way to its target: moved, copied, mapped again, done. */
#ifndef MPTRACE_MOVE_H
#define MPTRACE_MOVE_H

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

#ifdef OUTCOMES
/* A folio that its migration left behind: its record, and its state a moment after the refusal. */
static __always_inline void on_enter_putback(u64 src)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread();
	u64 id = left_by(t, tid), flags = 0, now;
	struct obstacle_record *o;
	struct folio_record *f;

	if (!id)
		return;
	now = bpf_ktime_get_ns();
	f = folio_ring.ringbuf_reserve(sizeof(*f));
	if (!f) {
		count_lost(t, LOST_FOLIO_RING);
		return;
	}
	folio_of(src, &flags);
	__builtin_memset(f, 0, sizeof(*f));
	f->call_id = t ? t->call.call_id : 0;
	f->migration_id = id;
	f->src = src;
	f->start_ns = now;
	f->end_ns = now;
	f->tid = tid;
	f->lookup_seq = NO_LOOKUP;
	f->isolate_rc = ISOLATE_NOT_TRIED;
	f->move_rc = MOVE_NOT_TRIED;
	f->nr_pages = nr_pages_of(src, flags);
	f->src_nid = nid_of(flags);
	f->dst_nid = -1;
	f->end = END_PUTBACK;
	f->flags = FOLIO_UNEXPECTED;
	o = obstacle_ring.ringbuf_reserve(sizeof(*o));
	if (o) {
		__builtin_memset(o, 0, sizeof(*o));
		o->call_id = f->call_id;
		o->migration_id = id;
		o->src = src;
		o->first_ns = now;
		o->last_ns = now;
		o->tid = tid;
		o->lookup_seq = NO_LOOKUP;
		o->nr_pages = f->nr_pages;
		o->allowed = -1;
		o->stage = STAGE_PUTBACK;
		read_state(o, src, f->nr_pages);
		f->flags |= FOLIO_OBSTACLE;
		obstacle_ring.ringbuf_submit(o, NO_WAKEUP);
	} else {
		count_lost(NULL, LOST_OBSTACLE_RING);
	}
	folio_ring.ringbuf_submit(f, NO_WAKEUP);
}
#else
static __always_inline void on_enter_putback(u64 src)
{
	end_folio(src, END_PUTBACK);
}
#endif

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

/* However the migration ended; without a call nothing else tells that it is one of hugetlb's. */
int enter_putback_hugetlb(CTX(PUTBACK_HUGETLB))
{
	u64 src = ARG(PUTBACK_HUGETLB, 0);
	struct folio_record *f = folios.lookup(&src);

	if (f)
		f->flags |= FOLIO_HUGETLB;
	on_enter_putback(src);
	return 0;
}

#endif
