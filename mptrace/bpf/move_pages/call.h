/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A move_pages(2) call: its begin and end, and what it does for each entry before and after the
 * lookup: the mapping, the isolation.
 */
#ifndef MPTRACE_CALL_H
#define MPTRACE_CALL_H

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
	t = this_thread();
	if (t) {	/* the return of what this thread was in before was missed */
		count_lost(NULL, LOST_RETURN);
		end_thread(t);
	}
	if (!nodes)	/* query mode moves nothing */
		return;
	if (c->scope == SCOPE_CALLER && c->tgid && c->tgid != id >> 32)
		return;
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

static __always_inline void on_exit_call(void *ctx, u64 ret)
{
	struct thread *t = this_thread();

	if (!t || !t->call.call_id)
		return;
	t->call.exit_ns = bpf_ktime_get_ns();
	t->call.ret = (s32)ret;
	if (t->depth)
		count_lost(t, LOST_RETURN);
#ifdef OUTCOMES
	if (t->looked.count)
		send_lookups(t, true);
#else
	close_pending(t);
#endif
	if (!t->call.target_tgid && !t->call.n_vmas)
		t->interest = 1;	/* whose pages they are is not known */
	if (t->interest)
		emit_arrays(t, 1);
	else
		t->call.nodes_ptr = 0;	/* user space drops what it has of this call */
	if (call_ring.ringbuf_output(&t->call, sizeof(t->call), NO_WAKEUP))
		count_lost(NULL, LOST_CALL_RING);
	else if (t->call.nodes_ptr)
		emit_stacks(ctx, t->call.call_id, STACK_OF_CALL);
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
	on_exit_call(ctx, RET(CALL_EXIT));
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

#endif
