/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where calls, migrations without one and waits came from.  They are asked for at the end of
 * what is recorded, and of nothing else: its callers are still there, on both stacks, and
 * pages of the user's that a migration hid can be read again.
 */
#ifndef MPTRACE_STACKS_H
#define MPTRACE_STACKS_H

#ifdef STACKS
static __always_inline void emit_stacks(void *ctx, u64 id, u32 kind)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct stack_record s = {};
	bool has_user = true;

	s.id = id;
	s.kind = kind;
	s.tid = thread;
	s.tgid = thread >> 32;
#ifdef OFF_MM_STACK
	u64 mm = read_word(bpf_get_current_task() + OFF_TASK_MM);

	has_user = mm;
	if (mm)
		s.image = read_word(mm + OFF_MM_STACK);
#endif
	s.kernel = kernel_stacks.get_stackid(ctx, 0);
	s.user = NO_STACK;
	if (has_user)
		s.user = user_stacks.get_stackid(ctx, BPF_F_USER_STACK);
	if (s.kernel == -EEXIST || s.kernel == -ENOMEM)
		count_lost(NULL, LOST_STACK_MAP);
	if (s.user == -EEXIST || s.user == -ENOMEM)
		count_lost(NULL, LOST_STACK_MAP);
	if (stack_ring.ringbuf_output(&s, sizeof(s), NO_WAKEUP))
		count_lost(NULL, LOST_STACK_RING);
}
#else
static __always_inline void emit_stacks(void *ctx, u64 id, u32 kind)
{
}
#endif

#endif
