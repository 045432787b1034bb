/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What NUMA balancing costs the threads that it is done in, beside its migrations: scans
 * (task_numa_work) and hint faults, summed by process and period.  Nothing is emitted;
 * user space takes the sums of periods that are over.
 */
#ifndef MPTRACE_BALANCING_H
#define MPTRACE_BALANCING_H

#ifdef BALANCING
#define BALANCING_SCAN		1
#define BALANCING_FAULT		2

struct balancing_start {
	u64 ns;
	u32 kind;
	u32 pad;
};

/*
 * tid -> the scan or hint fault that it is in; deleted when that ends.  The end of a hint fault
 * does not come where its PTE changed meanwhile: the next one takes its place.
 */
BPF_HASH(balancing_at, u32, struct balancing_start, MAX_BALANCING_THREADS);

/* (period, process, CPU) -> sums; deleted by user space when the period is over */
BPF_HASH(balancing, struct balancing_key, struct balancing_sums, MAX_BALANCING);

/*
 * No two CPUs share sums.  Two threads of a process may, on a kernel that preempts one of them
 * in here: hence the atomic additions.
 */
static __always_inline struct balancing_sums *balancing_sums_of(u64 start, u64 now)
{
	struct balancing_key key = {};
	struct balancing_sums *s;

	key.period = now >> BALANCING_PERIOD_SHIFT;
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	key.cpu = bpf_get_smp_processor_id();
	s = balancing.lookup(&key);
	if (!s) {
		struct balancing_sums first = {};

		first.from_ns = start;
		bpf_get_current_comm(first.comm, sizeof(first.comm));
		balancing.insert(&key, &first);
		s = balancing.lookup(&key);
		if (!s) {
			count_lost(NULL, LOST_BALANCING_MAP);
			return NULL;
		}
	}
	if (start < s->from_ns)
		s->from_ns = start;
	if (now > s->to_ns)
		s->to_ns = now;
	return s;
}

/* Of what the thread was in before the return was missed, unless it was a hint fault. */
static __always_inline void forget_balancing(u32 tid)
{
	struct balancing_start *before = balancing_at.lookup(&tid);

	if (!before)
		return;
	if (before->kind == BALANCING_SCAN)
		count_lost(NULL, LOST_RETURN);
	balancing_at.delete(&tid);
}

/* Whether a scan or hint fault that begins now is asked for. */
static __always_inline bool is_balancing_wanted(u64 id)
{
	struct control *c;
	int zero = 0;

	c = control.lookup(&zero);
	return c && c->gate && c->all && is_asked_for(c, MR_NUMA_MISPLACED) &&
	       is_chosen(c, bpf_get_current_task(), id >> 32);
}

static __always_inline void begin_balancing(u32 tid, u32 kind, u64 now)
{
	struct balancing_start start = {};

	start.ns = now;
	start.kind = kind;
	if (balancing_at.update(&tid, &start))
		count_lost(NULL, LOST_BALANCING_MAP);
}

static __always_inline void on_enter_numa_scan(void)
{
	u64 id = bpf_get_current_pid_tgid();

	forget_balancing(id);
	if (is_balancing_wanted(id))
		begin_balancing(id, BALANCING_SCAN, bpf_ktime_get_ns());
}

/* What the thread is in is over: the sums that it belongs to, with its begin and time in ns. */
static __always_inline struct balancing_sums *end_balancing(u32 kind, u64 *began, u64 *ns)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct balancing_start *start = balancing_at.lookup(&tid);
	u64 now;

	if (!start || start->kind != kind)
		return NULL;
	*began = start->ns;
	balancing_at.delete(&tid);
	now = bpf_ktime_get_ns();
	*ns = now - *began;
	return balancing_sums_of(*began, now);
}

static __always_inline void on_exit_numa_scan(void)
{
	u64 began, ns;
	struct balancing_sums *s = end_balancing(BALANCING_SCAN, &began, &ns);

	if (!s)
		return;
	lock_xadd(&s->scans, 1);
	lock_xadd(&s->scan_ns, ns);
	if (ns > s->scan_max_ns) {
		s->scan_max_ns = ns;
		s->scan_max_at_ns = began;
	}
}

/* The kernel counts it as numa_hint_faults in the same function, once for each call. */
static __always_inline void on_enter_hint_fault(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct balancing_sums *s;
	u64 now;

	/* one that is not asked for must not be timed from the begin of an earlier one */
	forget_balancing(id);
	if (!is_balancing_wanted(id))
		return;
	now = bpf_ktime_get_ns();
	s = balancing_sums_of(now, now);
	if (s)
		lock_xadd(&s->faults, 1);
	if (HINT_FAULT_TIMED)
		begin_balancing(id, BALANCING_FAULT, now);
}

static __always_inline void on_exit_hint_fault(void)
{
	u64 began, ns;
	struct balancing_sums *s = end_balancing(BALANCING_FAULT, &began, &ns);

	if (!s)
		return;
	lock_xadd(&s->faults_timed, 1);
	lock_xadd(&s->fault_ns, ns);
	if (ns > s->fault_max_ns) {
		s->fault_max_ns = ns;
		s->fault_max_at_ns = began;
	}
}

int enter_numa_scan(CTX(NUMA_SCAN))
{
	on_enter_numa_scan();
	return 0;
}

int exit_numa_scan(CTX(NUMA_SCAN))
{
	on_exit_numa_scan();
	return 0;
}

int enter_hint_fault(CTX(HINT_FAULT))
{
	on_enter_hint_fault();
	return 0;
}

int exit_hint_fault(CTX(HINT_FAULT_END))
{
	on_exit_hint_fault();
	return 0;
}
#else
static __always_inline void forget_balancing(u32 tid)
{
}
#endif

#endif
