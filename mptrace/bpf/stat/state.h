/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What counts are kept in: layouts that user space reads, and the maps. */
#ifndef MPTRACE_STAT_STATE_H
#define MPTRACE_STAT_STATE_H

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
	u64 cgroup;		/* its id, 0: unknown */
};
_Static_assert(sizeof(struct row_key) == 16, "counts.KEY");

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
#define LOST_CHOSEN_MAP	5	/* processes not followed: too many of them */
#define LOST_CAUSES	6

/* ---- maps ------------------------------------------------------------------ */

/* What user space asks for; key 0.  The gate opens after everything is attached. */
struct control {
	u32 gate;
	u32 scope;		/* SCOPE_*: who must migrate or wait to be counted */
	u32 epoch;		/* part of every key: older rows are user space's to take away */
	u32 uid;		/* of SCOPE_USER */
	u64 cgroup;		/* of SCOPE_CGROUP: its id; its descendants belong to it */
};
_Static_assert(sizeof(struct control) == 24, "tracer.CONTROL");
BPF_ARRAY(control, struct control, 1);

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

#endif
