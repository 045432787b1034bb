/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whom a session is about; the same for all programs (mptrace/tracing/plan/scope.py). */
#ifndef MPTRACE_SCOPE_H
#define MPTRACE_SCOPE_H

#define SCOPE_CALLER	0	/* calls of one process */
#define SCOPE_ALL	1
#define SCOPE_CHOSEN	2	/* processes of the map `chosen`, and what they fork */
#define SCOPE_USER	3
#define SCOPE_CGROUP	4

#define CGROUP_LEVELS	16

/* tgid -> 1: initiators and owners of interest under SCOPE_CHOSEN */
BPF_HASH(chosen, u32, u8, MAX_CHOSEN);

static __always_inline u64 read_word(u64 address)
{
	u64 word = 0;

	read_kernel(&word, 8, (void *)address);
	return word;
}

static __always_inline u32 read_half(u64 address)
{
	u32 half = 0;

	read_kernel(&half, 4, (void *)address);
	return half;
}

static __always_inline u32 tgid_of(u64 task)
{
#ifdef OFF_TASK_TGID
	return read_half(task + OFF_TASK_TGID);
#else
	return 0;
#endif
}

/* Whether a task's cgroup is the one asked for, or below it. */
static __always_inline bool in_cgroup(u64 task, u64 wanted)
{
#ifdef OFF_TASK_CGROUPS
	u64 group = read_word(read_word(task + OFF_TASK_CGROUPS) + OFF_CSS_SET_CGROUP);
	int i;

	for (i = 0; i < CGROUP_LEVELS && group; i++) {
		if (read_word(read_word(group + OFF_CGROUP_KN) + OFF_KN_ID) == wanted)
			return true;
		group = read_word(group + OFF_CGROUP_PARENT);
	}
#endif
	return false;
}

/* Whether a task of that process belongs to a scope, which is not SCOPE_CALLER. */
static __always_inline bool in_scope(u32 scope, u32 uid, u64 cgroup, u64 task, u32 tgid)
{
	if (scope == SCOPE_ALL)
		return true;
	if (scope == SCOPE_CHOSEN)
		return chosen.lookup(&tgid) != NULL;
#ifdef OFF_TASK_CRED
	if (scope == SCOPE_USER)
		return read_half(read_word(task + OFF_TASK_CRED) + OFF_CRED_UID) == uid;
#endif
	return scope == SCOPE_CGROUP && in_cgroup(task, cgroup);
}

/* At a fork: the child of a chosen process is chosen, too.  False where there is no room. */
static __always_inline bool choose_child(u64 parent_task, u64 child_task)
{
	u32 parent = tgid_of(parent_task), child = tgid_of(child_task);
	u8 one = 1;

	if (parent == child || !chosen.lookup(&parent))
		return true;
	return !chosen.update(&child, &one);
}

/* At a thread's end: with the last one its process's number may become somebody else's. */
static __always_inline void forget_ended(u64 task)
{
#ifdef OFF_TASK_SIGNAL
	u32 tgid = tgid_of(task);

	if (!read_half(read_word(task + OFF_TASK_SIGNAL) + OFF_SIGNAL_LIVE))
		chosen.delete(&tgid);
#endif
}

#endif
