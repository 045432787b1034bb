/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that are followed: what they fork, and their end. */
#ifndef MPTRACE_PROCESSES_H
#define MPTRACE_PROCESSES_H

static __always_inline bool follows(void)
{
	int zero = 0;
	struct control *c = control.lookup(&zero);

	return c && c->scope == SCOPE_CHOSEN;
}

int fork(u64 *ctx)
{
	u32 parent = tgid_of(ctx[0]), child = tgid_of(ctx[1]);
	u8 one = 1;

	if (!follows() || parent == child || !chosen.lookup(&parent))
		return 0;
	if (chosen.update(&child, &one))
		count_lost(NULL, LOST_CHOSEN_MAP);
	return 0;
}

/*
 * The end of a thread, which is in no call, migration or wait: of what is still there the
 * return was missed.  Its process's number may be given to somebody else: it is forgotten
 * when the last thread ends.
 */
int end_process(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (!threads.delete(&tid))
		count_lost(NULL, LOST_RETURN);
	if (!waiting.delete(&tid))
		count_lost(NULL, LOST_RETURN);
#ifdef OFF_TASK_SIGNAL
	u64 task = ctx[0];
	u32 tgid = tgid_of(task);

	if (follows() && !read_half(read_word(task + OFF_TASK_SIGNAL) + OFF_SIGNAL_LIVE))
		chosen.delete(&tgid);
#endif
	return 0;
}

#endif
