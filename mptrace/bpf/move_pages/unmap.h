/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A folio on its way out of page tables: unmap, TLB flushes, the moment it goes dark, and the
 * waits and refusals before it.
 */
#ifndef MPTRACE_UNMAP_H
#define MPTRACE_UNMAP_H

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

#endif
