// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * touch PAGES THREADS 4k|thp|hugetlb|PATH MIN_NS FILE: threads that write to pages of one
 * mapping again and again, each to a byte of its own.  A touch that took MIN_NS goes to FILE
 * when standard input ends, with how often the thread gave up its CPU of its own accord
 * meanwhile (getrusage(2)): its own account of how it stood still, independent of any tracer.
 *
 * With PATH (it has a slash) the pages are those of a new file of that name, and are read; each
 * is taken out of the page table before it is touched, so that the touch is a fault that looks
 * for it in the page cache.
 *
 * The first line of standard output is "PID ADDRESS TID...", the last one "TOUCHES" in all.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define MAX_THREADS 16
#define MAX_SLOW (1 << 18)

/* mirrored by tests/lab/test_stalls.py */
struct touch {
	uint64_t address;
	uint64_t before_ns;
	uint64_t after_ns;
	uint32_t tid;
	uint32_t slept; /* voluntary switches in it */
};

static volatile uint8_t *base;
static int of_file;
static unsigned long pages;
static uint64_t min_ns;
static atomic_int stop, ready;

struct toucher {
	pthread_t thread;
	uint32_t tid;
	uint32_t number;
	uint64_t touches;
	size_t slow;
	struct touch *list;
};

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000ULL + at.tv_nsec;
}

static long switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

static void *run(void *argument)
{
	struct toucher *t = argument;
	uint64_t random = 88172645463325252ULL + t->number;

	t->tid = syscall(SYS_gettid);
	atomic_fetch_add(&ready, 1);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		struct touch touch;
		volatile uint8_t *at;
		long before, after;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		at = base + random % pages * PAGE + t->number;
		if (of_file)
			madvise((void *)((uintptr_t)at & -PAGE), PAGE, MADV_DONTNEED);
		/* what it counts lies between the two looks at the clock */
		touch.before_ns = now();
		before = switches();
		if (of_file)
			(void)*at;
		else
			*at += 1;
		after = switches();
		touch.after_ns = now();
		t->touches++;
		if (touch.after_ns - touch.before_ns >= min_ns) {
			if (t->slow == MAX_SLOW)
				abort();
			touch.address = (uint64_t)at;
			touch.tid = t->tid;
			touch.slept = after - before;
			t->list[t->slow++] = touch;
		}
	}
	return NULL;
}

static void *memory_of(const char *path, unsigned long bytes)
{
	static char page[PAGE] = "x";
	unsigned long i;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

	if (fd < 0 || unlink(path))
		return MAP_FAILED;
	for (i = 0; i < bytes; i += PAGE)
		if (write(fd, page, PAGE) != PAGE)
			return MAP_FAILED;
	if (fsync(fd))
		return MAP_FAILED;
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

int main(int argc, char **argv)
{
	static struct toucher touchers[MAX_THREADS];
	unsigned long i, size, threads;
	uint64_t touches = 0;
	char byte;
	FILE *out;
	int thp, flags = MAP_PRIVATE | MAP_ANONYMOUS;

	if (argc != 6)
		return 2;
	pages = strtoul(argv[1], NULL, 0);
	threads = strtoul(argv[2], NULL, 0);
	thp = !strcmp(argv[3], "thp");
	min_ns = strtoull(argv[4], NULL, 0);
	if (!pages || !threads || threads > MAX_THREADS)
		return 2;
	size = pages * PAGE + (2UL << 20);
	of_file = !!strchr(argv[3], '/');
	if (!strcmp(argv[3], "hugetlb"))
		flags |= MAP_HUGETLB;
	base = of_file ? memory_of(argv[3], pages * PAGE) :
		mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (base == MAP_FAILED)
		return 1;
	if (!of_file)
		base = (void *)(((uintptr_t)base + (2UL << 20) - 1) & -(2UL << 20));
	if (!(flags & MAP_HUGETLB) &&
	    madvise((void *)base, pages * PAGE, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		return 1;
	for (i = 0; i < pages; i++) {
		if (of_file)
			(void)base[i * PAGE];
		else
			base[i * PAGE] = 1;
	}
	for (i = 0; i < threads; i++) {
		touchers[i].number = i;
		touchers[i].list = calloc(MAX_SLOW, sizeof(struct touch));
		if (!touchers[i].list ||
		    pthread_create(&touchers[i].thread, NULL, run, &touchers[i]))
			return 1;
	}
	while (atomic_load(&ready) < (int)threads)
		usleep(1000);
	printf("%d %lu", getpid(), (unsigned long)base);
	for (i = 0; i < threads; i++)
		printf(" %u", touchers[i].tid);
	printf("\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	atomic_store(&stop, 1);
	out = fopen(argv[5], "wb");
	if (!out)
		return 1;
	for (i = 0; i < threads; i++) {
		pthread_join(touchers[i].thread, NULL);
		touches += touchers[i].touches;
		fwrite(touchers[i].list, sizeof(struct touch), touchers[i].slow, out);
	}
	if (fclose(out))
		return 1;
	printf("%lu\n", (unsigned long)touches);
	return 0;
}
