/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The caller's three arrays, read in chunks as a call begins and as it ends. */
#ifndef MPTRACE_ARRAYS_H
#define MPTRACE_ARRAYS_H

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

#endif
