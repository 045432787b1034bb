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
	if (follows() && !choose_child(ctx[0], ctx[1]))
		count_lost(NULL, LOST_CHOSEN_MAP);
	return 0;
}

/*
 * The end of a thread, which is in no call, migration, wait or scan: of what is still there
 * the return was missed.
 */
int end_process(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread();

	if (t) {
		end_thread(t);
		count_lost(NULL, LOST_RETURN);
	}
	if (!waiting.delete(&tid))
		count_lost(NULL, LOST_RETURN);
#ifdef OUTCOMES
	leavers.delete(&tid);
#endif
	forget_balancing(tid);
	if (follows())
		forget_ended(ctx[0]);
	return 0;
}

#endif
