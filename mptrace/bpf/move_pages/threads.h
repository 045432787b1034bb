/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread's state: taken as a call or a migration begins, given back as the outer one ends. */
#ifndef MPTRACE_THREADS_H
#define MPTRACE_THREADS_H

/* A place nobody else has, NULL where there is none.  It is cleared, but for its levels. */
static __always_inline struct thread *claim_slot(u32 tid)
{
	struct slot *slot = slot_of(tid);
	struct thread *t;

	if (!slot)
		return NULL;
	lock_xadd(&slot->claims, 1);
	/* of two that come at once each sees both, and neither takes it */
	if (*(volatile u32 *)&slot->claims != 1) {
		lock_xadd(&slot->claims, -1);
		return NULL;
	}
	t = &slot->thread;
	__builtin_memset(&t->call, 0, sizeof(t->call));
	t->pending.valid = 0;
	t->drain_enter_ns = 0;
	t->isolate_enter_ns = 0;
	t->lookup_address = 0;
	t->lookup_vma = 0;
	t->checked_vma = 0;
	t->call_stack = 0;
	t->depth = 0;
	t->compat = 0;
#ifdef OUTCOMES
	t->left_behind = 0;
	t->looked.count = 0;
	t->looked.first = 0;
#endif
	return t;
}

static __always_inline struct thread *add_thread(u32 tid)
{
	struct slot *slot = slot_of(tid);
	struct thread *template;
	int zero = 0;

	template = new_thread.lookup(&zero);
	if (!template || !slot)
		return NULL;
	if (threads.update(&tid, template)) {
		count_lost(NULL, LOST_THREAD_MAP);
		return NULL;
	}
	lock_xadd(&slot->elsewhere, 1);
	return threads.lookup(&tid);
}

static __always_inline struct thread *start_thread(struct control *c, u64 id)
{
	struct thread *t = claim_slot(id);

	if (!t)
		t = add_thread(id);
	if (!t)
		return NULL;
	t->call.tgid = id >> 32;
	t->interest = is_chosen(c, bpf_get_current_task(), id >> 32);
	bpf_get_current_comm(t->call.comm, sizeof(t->call.comm));
	t->call.tid = id;
	return t;
}

static __always_inline void end_thread(struct thread *t)
{
	u32 tid = t->call.tid;
	struct slot *slot = slot_of(tid);

	if (!slot)
		return;
	if (slot->thread.call.tid == tid) {
		slot->thread.call.tid = 0;
		lock_xadd(&slot->claims, -1);
	} else if (!threads.delete(&tid)) {
		lock_xadd(&slot->elsewhere, -1);
	}
}

#endif
