// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counts and sums of page migrations, by reason, process and cgroup, added up in
 * the kernel: no record leaves it for a page, a folio or a migration.
 *
 * phase       | kernel (rows of mptrace/tracing/counting/plan.py)     | unit
 * ------------+--------------------------------------------------------+-----------
 * begin       | tracepoint mm_migrate_pages_start, or migrate_pages()  | migration
 * end         | tracepoint mm_migrate_pages                            | migration
 * wait        | migration_entry_wait()                                 | wait
 * wait_pmd    | pmd_migration_entry_wait()                             | wait
 * wait_huge   | migration_entry_wait_huge()                            | wait
 * fork        | tracepoint sched_process_fork                          | process
 * end_process | tracepoint sched_process_exit                          | thread
 *
 * No kretprobe times a migration: those run out (maxactive) where more threads
 * sleep in migrate_pages() than the kernel set instances aside, and in silence.
 *
 * The plan passes with -D: how a phase is attached, argument positions or
 * field offsets (from BTF), map sizes.  No kernel header is used.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

/* BCC reads all of kallsyms for each call of its own; the helper itself is this. */
static long (*const read_kernel)(void *to, u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;

#include "scope.h"
#include "stat/state.h"

/* ---- helpers ----------------------------------------------------------------- */

static __always_inline void count_lost(u32 cause)
{
	u64 *n = lost.lookup(&cause);

	if (n)
		(*n)++;
}

static __always_inline struct control *open_control(void)
{
	int zero = 0;
	struct control *c = control.lookup(&zero);

	return c && c->gate ? c : NULL;
}

static __always_inline bool is_wanted(struct control *c, u32 tgid)
{
	return in_scope(c->scope, c->uid, c->cgroup, bpf_get_current_task(), tgid);
}

static __always_inline u32 slot_of(u64 ns)
{
	u32 slot = 0;

	if (ns >> 32) {
		slot += 32;
		ns >>= 32;
	}
	if (ns >> 16) {
		slot += 16;
		ns >>= 16;
	}
	if (ns >> 8) {
		slot += 8;
		ns >>= 8;
	}
	if (ns >> 4) {
		slot += 4;
		ns >>= 4;
	}
	if (ns >> 2) {
		slot += 2;
		ns >>= 2;
	}
	if (ns >> 1)
		slot++;
	return slot < SLOTS ? slot : SLOTS - 1;
}

/* The process's name as it is now (it may have called exec since), and what it is. */
static __always_inline void name_row(struct row *r)
{
#ifdef OFF_TASK_COMM
	u64 task = bpf_get_current_task(), leader = 0;
	u32 flags = 0;

	read_kernel(&leader, 8, (void *)(task + OFF_TASK_GROUP_LEADER));
	read_kernel(r->comm, sizeof(r->comm), (void *)(leader + OFF_TASK_COMM));
	read_kernel(&flags, 4, (void *)(task + OFF_TASK_FLAGS));
	r->flags = flags & PF_KTHREAD ? ROW_KTHREAD : 0;
#else
	bpf_get_current_comm(r->comm, sizeof(r->comm));
#endif
}

static __always_inline struct row *row_of(struct control *c, u8 kind, s32 reason, u32 tgid)
{
	struct row_key key = {};
	struct row *r, *template;
	int zero = 0;
	u32 index;

	key.tgid = tgid;
	key.reason = reason;
	key.kind = kind;
	key.epoch = c->epoch;
#ifdef OFF_TASK_CGROUPS
	key.cgroup = bpf_get_current_cgroup_id();
#endif
	r = rows.lookup(&key);
	if (!r) {
		template = new_row.lookup(&zero);
		if (!template)
			return NULL;
		/* another CPU may have made it meanwhile: never replace */
		rows.insert(&key, template);
		r = rows.lookup(&key);
	}
	if (r) {
		name_row(r);
		return r;
	}
	count_lost(LOST_ROW_MAP);
	index = (u32)reason < REASONS ? reason : REASONS - 1;
	index += kind * REASONS;
	return others.lookup(&index);
}

static __always_inline void add_time(struct row *r, u64 own_ns, u64 whole_ns)
{
	u32 slot = slot_of(whole_ns);

	__sync_fetch_and_add(&r->time_ns, own_ns);
	if (slot < SLOTS)
		__sync_fetch_and_add(&r->histogram[slot], 1);
}

static __always_inline void add_under_way(u32 reason, s64 n)
{
	int zero = 0;
	struct under_way *u = under_way.lookup(&zero);

	if (u)
		__sync_fetch_and_add(&u->of[reason < REASONS ? reason : REASONS - 1], n);
}

/* The one reason of all migrations under way, DURING_SEVERAL or DURING_NONE. */
static __always_inline s32 reason_under_way(void)
{
	s32 found = DURING_NONE;
	struct under_way *u;
	int zero = 0, i;

	u = under_way.lookup(&zero);
	if (!u)
		return DURING_NONE;
#pragma unroll
	for (i = 0; i < REASONS; i++)
		if ((s64)u->of[i] > 0)
			found = found == DURING_NONE ? i : DURING_SEVERAL;
	return found;
}

/* ---- a migration --------------------------------------------------------------- */

static __always_inline void on_begin(u32 reason)
{
	u32 tid = bpf_get_current_pid_tgid(), depth;
	struct thread new_thread = {}, *t;

	if (!open_control())
		return;
	t = threads.lookup(&tid);
	if (!t) {
		if (threads.update(&tid, &new_thread)) {
			count_lost(LOST_THREAD_MAP);
			return;
		}
		t = threads.lookup(&tid);
		if (!t)
			return;
	}
	depth = t->depth++;
	if (depth >= LEVELS) {
		count_lost(LOST_NESTING);
		return;
	}
	t->levels[depth].inner_ns = 0;
	t->levels[depth].begin_ns = bpf_ktime_get_ns();
	add_under_way(reason, 1);
}

static __always_inline void on_end(u32 reason, u64 succeeded, u64 failed)
{
	u64 id = bpf_get_current_pid_tgid(), whole_ns = 0, own_ns = 0;
	u32 tid = id, depth = 0, is_timed = 0;
	struct control *c = open_control();
	struct thread *t;
	struct row *r;

	if (!c)
		return;
	t = threads.lookup(&tid);
	if (t && t->depth) {
		depth = --t->depth;
		if (depth < LEVELS) {
			is_timed = 1;
			whole_ns = bpf_ktime_get_ns() - t->levels[depth].begin_ns;
			own_ns = whole_ns - t->levels[depth].inner_ns;
			add_under_way(reason, -1);
		}
		if (depth && depth <= LEVELS)
			t->levels[depth - 1].inner_ns += whole_ns;
	}
	if (t && !depth)
		threads.delete(&tid);
	if (!is_wanted(c, id >> 32))
		return;
	r = row_of(c, KIND_MIGRATION, reason, id >> 32);
	if (!r)
		return;
	__sync_fetch_and_add(&r->count, 1);
	__sync_fetch_and_add(&r->succeeded, succeeded);
	__sync_fetch_and_add(&r->failed, failed);
	if (depth)
		__sync_fetch_and_add(&r->nested, 1);
	if (is_timed)
		add_time(r, own_ns, whole_ns);
	else
		__sync_fetch_and_add(&r->untimed, 1);
}

/*
 * BEGIN_METHOD and END_METHOD say how they are attached: arguments are values by
 * number (RAW_TRACEPOINT, FENTRY), registers (KPROBE) or fields at an offset (TRACEPOINT).
 */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define ARG_RAW_TRACEPOINT(type, place) ((type)((u64 *)ctx)[place])
#define ARG_FENTRY(type, place) ((type)((u64 *)ctx)[place])
#define ARG_KPROBE(type, place) ((type)PT_REGS_PARM6((struct pt_regs *)ctx))
#define ARG_TRACEPOINT(type, place) (*(type *)((char *)ctx + (place)))
#define ARG(phase, type, place) CAT(ARG_, CAT(phase, _METHOD))(type, place)

int begin(void *ctx)
{
	on_begin(ARG(BEGIN, u32, BEGIN_REASON));
	return 0;
}

int end(void *ctx)
{
	on_end(ARG(END, u32, END_REASON), ARG(END, u64, END_SUCCEEDED),
	       ARG(END, u64, END_FAILED));
	return 0;
}

/* ---- a thread that waits for a page under migration ------------------------------- */

int enter_wait(void *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct control *c = open_control();
	struct wait w = {};
	u32 tid = id;

	if (!c || !is_wanted(c, id >> 32))
		return 0;
	if (waits.lookup(&tid))
		count_lost(LOST_WAIT_EXIT);
	w.during = reason_under_way();
	w.begin_ns = bpf_ktime_get_ns();
	if (waits.update(&tid, &w))
		count_lost(LOST_WAIT_MAP);
	return 0;
}

int exit_wait(void *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), ns;
	struct control *c = open_control();
	u32 tid = id;
	struct wait *w;
	struct row *r;
	s32 during;

	w = waits.lookup(&tid);
	if (!w || !c)
		return 0;
	ns = bpf_ktime_get_ns() - w->begin_ns;
	during = w->during;
	waits.delete(&tid);
	r = row_of(c, KIND_WAIT, during, id >> 32);
	if (!r)
		return 0;
	__sync_fetch_and_add(&r->count, 1);
	add_time(r, ns, ns);
	return 0;
}

/* ---- processes that are followed -------------------------------------------------- */

static __always_inline bool follows(void)
{
	struct control *c = open_control();

	return c && c->scope == SCOPE_CHOSEN;
}

int fork(u64 *ctx)
{
	if (follows() && !choose_child(ctx[0], ctx[1]))
		count_lost(LOST_CHOSEN_MAP);
	return 0;
}

int end_process(u64 *ctx)
{
	if (follows())
		forget_ended(ctx[0]);
	return 0;
}
