/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The record of a folio and of what stood in its way, from its first lookup until it is
 * emitted.
 */
#ifndef MPTRACE_FOLIOS_H
#define MPTRACE_FOLIOS_H

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

static __always_inline u8 order_of(u64 folio, u32 nr_pages)
{
	u8 order = 0;

	if (nr_pages > 1)
		read_kernel(&order, 1, (void *)(folio + OFF_FOLIO_ORDER));
	return order & 31;
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

#endif
