/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who and what is of interest: scopes and filters, decided where a record begins or ends. */
#ifndef MPTRACE_INTEREST_H
#define MPTRACE_INTEREST_H

static __always_inline bool is_chosen(struct control *c, u64 task, u32 tgid)
{
	if (c->scope == SCOPE_CALLER)
		return !c->tgid || c->tgid == tgid;
	return in_scope(c->scope, c->uid, c->cgroup, task, tgid);
}

/* The task that a mapping's address space belongs to, 0 where the kernel keeps none. */
static __always_inline u64 owner_of(u64 vma)
{
#ifdef OFF_MM_OWNER
	u64 mm = read_word(vma + OFF_VMA_MM);

	return mm ? read_word(mm + OFF_MM_OWNER) : 0;
#else
	return 0;
#endif
}

/* The first mapping that a call comes to says whose pages it moves. */
static __always_inline void note_target(struct thread *t, u64 vma)
{
	struct control *c;
	int zero = 0;
	u64 owner;

	if (t->call.target_tgid)
		return;
	owner = owner_of(vma);
	t->call.target_tgid = owner ? tgid_of(owner) : 0;
	if (t->interest)
		return;
	c = control.lookup(&zero);
	/* what can't be known is recorded rather than left out */
	if (!owner || (c && is_chosen(c, owner, t->call.target_tgid)))
		t->interest = 1;
}

#define PF_KTHREAD	0x00200000
#define TS_COMPAT	0x0002
#define X32_SYSCALL_BIT	0x40000000
#define PT_REGS_SIZE	168
#define PT_REGS_ORIG_AX	120
#define PT_REGS_IP	128
#define PT_REGS_CS	136
#define USER_RPL	3	/* the privilege level in a selector of user space's */
#define NOT_THERE	(1LL << 62)	/* no number of a call, of none of the ABIs */

#ifdef OFF_TASK_STACK
/*
 * The system call that a task is in, by the registers at the end of its kernel stack:
 * task_pt_regs().  STACK_PADDING bytes lie behind them.
 */
static __always_inline s64 syscall_of(u64 task)
{
	u64 regs = read_word(task + OFF_TASK_STACK) + THREAD_SIZE - STACK_PADDING - PT_REGS_SIZE;
	u16 cs = read_word(regs + PT_REGS_CS);

	/* not where they were looked for: every thread of a process came from user space */
	if ((cs & USER_RPL) != USER_RPL || cs == 0xffff)
		return NOT_THERE;
	/* io_uring's workers never return there; they have their parent's number */
	if (!read_word(regs + PT_REGS_IP))
		return SYSCALL_NONE;
	return read_word(regs + PT_REGS_ORIG_AX);
}
#endif

/* Whether its caller has 32-bit pointers: a 32-bit process, or one of the x32 ABI. */
static __always_inline bool in_compat_call(u64 task)
{
#ifdef OFF_TASK_STACK
	s64 number = syscall_of(task);

	if (number > 0 && number & X32_SYSCALL_BIT)
		return true;
#endif
#ifdef OFF_TASK_STATUS
	return read_half(task + OFF_TASK_STATUS) & TS_COMPAT;
#else
	return false;
#endif
}

/* A number as records have it: x32's have a bit above it; what no ABI can have is unknown. */
static __always_inline s32 recorded_syscall(s64 number)
{
	if (number < 0)
		return SYSCALL_NONE;
	return (number & ~(s64)X32_SYSCALL_BIT) < 4096 ? number : SYSCALL_UNKNOWN;
}

/* Who migrates, and in which system call. */
static __always_inline void read_initiator(struct migration_record *m)
{
	m->cgroup_id = bpf_get_current_cgroup_id();
	m->syscall = SYSCALL_UNKNOWN;
#ifdef OFF_TASK_STACK
	u64 task = bpf_get_current_task();

	if (read_half(task + OFF_TASK_FLAGS) & PF_KTHREAD) {
		m->flags |= MIGRATION_KTHREAD;
		m->syscall = SYSCALL_NONE;
		return;
	}
	m->syscall = recorded_syscall(syscall_of(task));
	/* x32's numbers are not those of the 32-bit table */
	if (m->syscall >= 0 && !(m->syscall & X32_SYSCALL_BIT) && in_compat_call(task))
		m->flags |= MIGRATION_COMPAT;
#endif
}

static __always_inline bool has_node(u64 *mask, s32 nid)
{
	return mask[(nid / 64) & (NODE_WORDS - 1)] >> (nid & 63) & 1;
}

/* Whether a folio went (or was to go) between nodes that were asked for. */
static __always_inline bool on_route(struct control *c, struct folio_record *f)
{
	if (!c->nodes)
		return true;
	return (f->src_nid < 0 || has_node(c->source, f->src_nid)) &&
	       (f->dst_nid < 0 || has_node(c->target, f->dst_nid));
}

/* Calls are recorded whole, as their entries can only be judged whole. */
static __always_inline bool is_wanted(struct folio_record *f)
{
	struct control *c;
	int zero = 0;

	if (!(f->flags & FOLIO_KEEP))
		return false;
	if (f->call_id)
		return true;
	c = control.lookup(&zero);
	if (!c)
		return true;
	/* one that was freed has not failed: its migration may well not be recorded */
	if (c->failed && (!f->move_rc || f->end == END_DONE))
		return false;
	return f->end_ns - f->start_ns >= c->min_ns && on_route(c, f);
}

static __always_inline bool is_asked_for(struct control *c, u64 reason)
{
	return !c->reasons || c->reasons >> (reason & 63) & 1;
}

#endif
