/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a call finds at each entry's address.  With OUTCOMES that is all that is recorded of a page,
 * unless it is refused.
 */
#ifndef MPTRACE_LOOKUPS_H
#define MPTRACE_LOOKUPS_H

/* A migration whose return was missed is over when its call goes on. */
static __always_inline void go_on(struct thread *t)
{
	struct level *level = this_level(t);

	if (!MAY_MISS(MIGRATION_EXIT) || !level || level->migration.succeeded == NOT_COUNTED)
		return;
	count_lost(t, LOST_RETURN);
	t->depth--;
}

/* What the lookup found becomes the pending one of its thread. */
static __always_inline void fill_pending(struct thread *t, u64 address, u64 vma, u64 page, u32 seq)
{
	struct page_image image = {};
	u64 folio = page, head;

	t->pending.valid = 1;
	t->pending.seq = seq;
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

#ifndef OUTCOMES
static __always_inline void on_exit_lookup(u64 address, u64 vma, u64 page)
{
	struct thread *t = this_thread();

	if (!t || !t->call.call_id)
		return;
	go_on(t);
	if (t->depth)
		return;
	close_pending(t);
	note_target(t, vma);
	fill_pending(t, address, vma, page, t->call.n_lookups++);
}
#else
/*
 * A lookup at the level `outcomes`, 24 bytes: which folio, on which node.  Of what then becomes of
 * it nothing is seen but a refusal.  What can be refused for its state alone, or was not found,
 * has its evidence taken here: there is no later moment.
 */
static __always_inline void send_lookups(struct thread *t, bool all)
{
	struct few_lookups *few;
	int i, round;

	if (!all || t->looked.count > 2 * FEW_LOOKUPS) {
		if (many_ring.ringbuf_output(&t->looked, sizeof(t->looked), NO_WAKEUP))
			count_lost(t, LOST_LOOKUP_RING);
		t->looked.first += t->looked.count;
		t->looked.count = 0;
		return;
	}
#pragma unroll
	for (round = 0; round < 2; round++) {
		if (t->looked.count <= round * FEW_LOOKUPS)
			break;
		few = few_ring.ringbuf_reserve(sizeof(*few));
		if (!few) {
			count_lost(t, LOST_LOOKUP_RING);
			break;
		}
		few->call_id = t->call.call_id;
		few->first = t->looked.first + round * FEW_LOOKUPS;
		few->count = t->looked.count - round * FEW_LOOKUPS;
		if (few->count > FEW_LOOKUPS)
			few->count = FEW_LOOKUPS;
#pragma unroll
		for (i = 0; i < FEW_LOOKUPS; i++)
			few->lookups[i] = t->looked.lookups[round * FEW_LOOKUPS + i];
		few_ring.ringbuf_submit(few, NO_WAKEUP);
	}
	t->looked.count = 0;
}

/* An isolation fails of what is on no list of the LRU, or else of nothing. */
static __always_inline void take_evidence(struct thread *t, struct lookup_record *l)
{
	s32 isolate_rc = ISOLATE_NOT_TRIED;

	l->rc = t->pending.lookup_rc;
	l->src = t->pending.src;
	l->nid = t->pending.src_nid;
	l->order = order_of(t->pending.src, t->pending.nr_pages);
#ifdef EVIDENCE
	if (l->order && read_word(t->pending.vma + OFF_VMA_FLAGS) & VM_HUGETLB)
		l->flags = FOLIO_HUGETLB;
#endif
	if (!l->rc && (t->pending.mapping & 3) == 3)
		l->flags |= FOUND_KSM;
	if (!l->rc && !(t->pending.page_flags & 1ULL << PG_LRU))
		isolate_rc = -EBUSY;
	emit_lookup_obstacle(t, isolate_rc);
	t->pending.valid = 0;
}

static __always_inline void note_lookup(struct thread *t, u64 address, u64 vma, u64 page,
					u64 flags, u64 head, s32 mapcount)
{
	struct lookup_record *l = &t->looked.lookups[t->looked.count & (MANY_LOOKUPS - 1)];

	l->address = address;
	l->src = page;
	l->rc = 0;
	l->nid = nid_of(flags);
	l->order = 0;
	l->flags = 0;
	if (!page || page >= ERR_PTR_MIN || head & 1 || mapcount > 0 ||
	    (flags & (1ULL << PG_HEAD | 1ULL << PG_RESERVED | 1ULL << PG_LRU)) != 1ULL << PG_LRU) {
		fill_pending(t, address, vma, page, t->looked.first + t->looked.count);
		take_evidence(t, l);
	}
	t->looked.call_id = t->call.call_id;
	t->looked.count++;
	if (t->looked.count == MANY_LOOKUPS)
		send_lookups(t, false);
}

/* The thread, if this lookup is one of a call of interest's. */
static __always_inline struct thread *looking(u64 vma)
{
	struct thread *t = this_thread();

	if (!t || !t->call.call_id)
		return NULL;
	go_on(t);
	if (t->depth)
		return NULL;
	t->call.n_lookups++;
	note_target(t, vma);
	return t->interest ? t : NULL;
}
#endif

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

#ifdef OUTCOMES
/*
 * Words of the page.  The pointer that a function returned has a type, which lets it be followed
 * like any other where the kernel reads what it points to as safely as a helper does.
 */
#define LOAD_FENTRY(t, page, flags, head, mapcount)				\
	asm volatile("%0 = *(u64 *)(%1 + %2)"					\
		     : "=r"(flags) : "r"(page), "i"(OFF_PAGE_FLAGS));		\
	asm volatile("%0 = *(u64 *)(%1 + %2)"					\
		     : "=r"(head) : "r"(page), "i"(OFF_PAGE_COMPOUND_HEAD));	\
	asm volatile("%0 = *(u32 *)(%1 + %2)"					\
		     : "=r"(mapcount) : "r"(page), "i"(OFF_PAGE_MAPCOUNT));	\
	*(volatile u64 *)&t->word = head;	/* a list's pointer by its type */	\
	head = *(volatile u64 *)&t->word;					\
	*(volatile u64 *)&t->word = page;					\
	page = *(volatile u64 *)&t->word

#define LOAD_KPROBE(t, page, flags, head, mapcount)				\
	flags = read_word(page + OFF_PAGE_FLAGS);				\
	head = read_word(page + OFF_PAGE_COMPOUND_HEAD);			\
	mapcount = read_half(page + OFF_PAGE_MAPCOUNT)
#endif

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
#ifdef OUTCOMES
	struct thread *t = looking(CAT(VMA_, METHOD(LOOKUP)));
	u64 page = RET(LOOKUP), flags, head;
	s32 mapcount;

	if (!t)
		return 0;
	CAT(LOAD_, METHOD(LOOKUP))(t, page, flags, head, mapcount);
	note_lookup(t, CAT(ADDRESS_, METHOD(LOOKUP)), CAT(VMA_, METHOD(LOOKUP)), page, flags, head,
		    mapcount);
#else
	on_exit_lookup(CAT(ADDRESS_, METHOD(LOOKUP)), CAT(VMA_, METHOD(LOOKUP)), RET(LOOKUP));
#endif
	return 0;
}

#endif
