// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counts and sums of page migrations, by reason and process, added up in the
 * kernel: no record leaves it for a page, a folio or a migration.
 *
 * phase      | kernel (rows of mptrace/tracing/counting/plan.py)     | unit
 * -----------+--------------------------------------------------------+-----------
 * begin      | tracepoint mm_migrate_pages_start, or migrate_pages()  | migration
 * end        | tracepoint mm_migrate_pages                            | migration
 * wait       | migration_entry_wait()                                 | wait
 * wait_pmd   | pmd_migration_entry_wait()                             | wait
 * wait_huge  | migration_entry_wait_huge()                            | wait
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

#define REASONS		16	/* enum migrate_reason has 10 today; the last stands for the rest */
#define LEVELS		4	/* a migration, one in its allocation's reclaim, and room */
#define SLOTS		40	/* powers of two of nanoseconds: the last is 9 minutes and more */

#define KIND_MIGRATION	0
#define KIND_WAIT	1

/* Instead of a reason: what ran when a wait began. */
#define DURING_SEVERAL	(-1)
#define DURING_NONE	(-2)

#define ROW_KTHREAD	(1 << 0)
#define PF_KTHREAD	0x00200000	/* include/linux/sched.h */

/* ---- layouts: mirrored by mptrace/tracing/counting/counts.py, field by field ----- */

struct row_key {
	u32 tgid;
	s16 reason;
	u8 kind;
	u8 epoch;
};
_Static_assert(sizeof(struct row_key) == 8, "counts.KEY");

struct row {
	u64 count;		/* migrations, or waits */
	u64 time_ns;		/* of a migration without those nested in it */
	u64 untimed;		/* of count: without time, as the begin was not seen */
	u64 nested;		/* of count: inside another migration */
	u64 succeeded;		/* base pages */
	u64 failed;		/* base pages */
	u64 histogram[SLOTS];	/* whole durations: slot n from 2^n ns on */
	u64 flags;
	char comm[16];
};
_Static_assert(sizeof(struct row) == 392, "counts.ROW");

/* Why something was not counted as it should; names in mptrace/tracing/counting/counts.py. */
#define LOST_ROW_MAP	0	/* no room for the process: counted among the others */
#define LOST_THREAD_MAP	1	/* migrations without time: too many threads at once */
#define LOST_NESTING	2	/* migrations without time: nested too deep */
#define LOST_WAIT_MAP	3	/* waits not counted: too many threads at once */
#define LOST_WAIT_EXIT	4	/* waits not counted: their end was not seen */
#define LOST_CAUSES	5

/* ---- maps ------------------------------------------------------------------ */

/* What user space asks for; key 0.  The gate opens after everything is attached. */
struct control {
	u32 gate;
	u32 filtered;		/* only processes in wanted */
	u32 epoch;		/* part of every key: older rows are user space's to take away */
	u32 pad;
};
BPF_ARRAY(control, struct control, 1);

/* tgid -> anything */
BPF_HASH(wanted, u32, u32, MAX_PIDS);

/* LOST_* -> count */
BPF_PERCPU_ARRAY(lost, u64, LOST_CAUSES);

/* Shared by all CPUs: a row is touched once per migration, not per page. */
BPF_HASH(rows, struct row_key, struct row, MAX_ROWS);

/* kind * REASONS + reason -> what found no room in rows */
BPF_ARRAY(others, struct row, 2 * REASONS);

/* Never written: a template for new rows (too large for the stack). */
BPF_ARRAY(new_row, struct row, 1);

struct level {
	u64 begin_ns;
	u64 inner_ns;		/* in migrations nested in this one */
};

struct thread {
	u32 depth;
	u32 pad;
	struct level levels[LEVELS];
};

/* tid -> its migrations under way; deleted at the end of the outer one */
BPF_HASH(threads, u32, struct thread, MAX_THREADS);

struct wait {
	u64 begin_ns;
	s64 during;
};

/* tid -> its wait; deleted at its end */
BPF_HASH(waits, u32, struct wait, MAX_THREADS);

/* Migrations under way by reason, of all processes; key 0. */
struct under_way {
	u64 of[REASONS];
};
BPF_ARRAY(under_way, struct under_way, 1);

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
	return !c->filtered || wanted.lookup(&tgid);
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
