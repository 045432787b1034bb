// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * race PROCESSES THREADS ROUNDS DIRECTORY: all threads of all processes call move_pages(2) at
 * once, round by round: on pages of their own process, then on those of one process that all
 * share as their target.  Each thread keeps its own account in DIRECTORY/TID: the arrays as it
 * passed them and as it got them back, what the call returned, and when.
 *
 * No two entries of all calls have the same status before the call: what was read of another
 * call, or not written by the kernel, shows.  The only line of standard output is "TARGET",
 * the process number of the shared one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define OWN_PAGES 509
#define SHARED_PAGES 1021
#define HOLES 64		/* of those never touched */
#define MAX_ENTRIES 127
#define FIRST_STATUS 0x40000000
#define MPOL_MF_MOVE 2

/* mirrored by tests/lab/test_concurrent.py, followed by the arrays */
struct told {
	uint64_t before_ns;
	uint64_t after_ns;
	int64_t ret;		/* -errno for an error */
	uint32_t tid;
	uint32_t tgid;
	int32_t pid;
	uint32_t count;
};

struct common {
	pthread_barrier_t barrier;
	uint64_t shared;	/* address of the target's pages */
	int32_t target;
};

static struct common *common;
static unsigned long processes, threads, rounds;
static const char *directory;
static uint64_t own;
static unsigned long process;

static void fail(const char *what)
{
	perror(what);
	_exit(1);
}

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000ULL + at.tv_nsec;
}

static uint64_t map_pages(unsigned long pages)
{
	volatile uint8_t *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long i;

	if (base == MAP_FAILED || madvise((void *)base, pages * PAGE, MADV_NOHUGEPAGE))
		fail("mmap");
	for (i = 0; i < pages - HOLES; i++)
		base[i * PAGE] = 1;
	return (uint64_t)base;
}

static uint32_t next(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random >> 32;
}

static void *run(void *argument)
{
	unsigned long number = process * threads + (unsigned long)argument;
	uint64_t addresses[MAX_ENTRIES], random = 88172645463325252ULL + 977 * number;
	int32_t nodes[MAX_ENTRIES], before[MAX_ENTRIES], after[MAX_ENTRIES];
	uint32_t order[SHARED_PAGES], round, i, j, swap, pages;
	struct told told = {.tid = syscall(SYS_gettid), .tgid = getpid()};
	char path[4096];
	FILE *out;
	long ret;

	snprintf(path, sizeof(path), "%s/%u", directory, told.tid);
	out = fopen(path, "wb");
	if (!out)
		fail(path);
	for (round = 0; round < rounds; round++) {
		int other = round & 1;

		told.pid = other ? common->target : 0;
		told.count = 1 + next(&random) % MAX_ENTRIES;
		pages = other ? SHARED_PAGES : OWN_PAGES;
		for (i = 0; i < pages; i++)
			order[i] = i;
		for (i = 0; i < told.count; i++) {
			j = i + next(&random) % (pages - i);
			swap = order[i], order[i] = order[j], order[j] = swap;
			addresses[i] = (other ? common->shared : own) + order[i] * PAGE;
			/* runs of one node: groups of several pages */
			nodes[i] = i && next(&random) % 8 ? nodes[i - 1] : (int)(next(&random) & 1);
			before[i] = FIRST_STATUS + (number * rounds + round) * MAX_ENTRIES + i;
			after[i] = before[i];
		}
		pthread_barrier_wait(&common->barrier);
		told.before_ns = now();
		ret = syscall(SYS_move_pages, told.pid, (unsigned long)told.count, addresses,
			      nodes, after, MPOL_MF_MOVE);
		told.ret = ret < 0 ? -errno : ret;
		told.after_ns = now();
		if (fwrite(&told, sizeof(told), 1, out) != 1 ||
		    fwrite(addresses, 8, told.count, out) != told.count ||
		    fwrite(nodes, 4, told.count, out) != told.count ||
		    fwrite(before, 4, told.count, out) != told.count ||
		    fwrite(after, 4, told.count, out) != told.count)
			fail(path);
	}
	if (fclose(out))
		fail(path);
	return NULL;
}

static void be_target(int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	common->shared = map_pages(SHARED_PAGES);
	if (write(ready, "", 1) != 1)
		fail("pipe");
	for (;;)
		pause();
}

static void be_caller(void)
{
	pthread_t list[64];
	unsigned long i;

	own = map_pages(OWN_PAGES);
	for (i = 0; i < threads; i++)
		if (pthread_create(&list[i], NULL, run, (void *)i))
			fail("pthread_create");
	for (i = 0; i < threads; i++)
		pthread_join(list[i], NULL);
	_exit(0);
}

int main(int argc, char **argv)
{
	pthread_barrierattr_t attributes;
	int status, target, failed = 0, ready[2];
	char byte;

	if (argc != 5)
		return 2;
	processes = strtoul(argv[1], NULL, 0);
	threads = strtoul(argv[2], NULL, 0);
	rounds = strtoul(argv[3], NULL, 0);
	directory = argv[4];
	if (!processes || !threads || threads > 64)
		return 2;
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (common == MAP_FAILED || pipe(ready))
		fail("mmap");
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&common->barrier, &attributes, processes * threads);
	target = fork();
	if (!target)
		be_target(ready[1]);
	if (target < 0)
		fail("fork");
	common->target = target;
	if (read(ready[0], &byte, 1) != 1)
		fail("pipe");
	printf("%d\n", target);
	fflush(stdout);
	for (process = 0; process < processes; process++)
		if (!fork())
			be_caller();
	for (process = 0; process < processes; process++)
		if (wait(&status) < 0 || status)
			failed = 1;
	kill(target, SIGKILL);
	return failed;
}
