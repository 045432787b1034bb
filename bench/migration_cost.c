// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * migration_cost PAGES PAGES_PER_CALL ROUNDS: moves pages from node 0 to node 1 and back.
 *
 * Waits for a line first.  Prints the CPU time in ns that move_pages(2) took of this thread for a
 * page: of each round there and back, but for the first one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MPOL_PREFERRED 1
#define MPOL_MF_MOVE 2

static long spent(void)
{
	struct timespec at;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
	return at.tv_sec * 1000000000L + at.tv_nsec;
}

int main(int argc, char **argv)
{
	long count = argc == 4 ? atol(argv[1]) : 0, batch = argc == 4 ? atol(argv[2]) : 0;
	long rounds = argc == 4 ? atol(argv[3]) : 0;
	unsigned long node0 = 1;
	void **pages = malloc(count * sizeof(*pages));
	int *nodes = malloc(count * sizeof(*nodes)), *status = malloc(count * sizeof(*status));
	char *base, line[8];

	if (count < 1 || batch < 1 || !pages || !nodes || !status)
		return 2;
	base = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED || madvise(base, count * PAGE, MADV_NOHUGEPAGE) ||
	    syscall(SYS_mbind, base, count * PAGE, MPOL_PREFERRED, &node0, 64, 0))
		return 3;
	for (long i = 0; i < count; i++) {
		pages[i] = base + i * PAGE;
		base[i * PAGE] = 1;
	}
	memset(status, 0, count * sizeof(*status));
	if (!fgets(line, sizeof(line), stdin))
		return 4;
	for (long round = 0; round < rounds; round++) {
		long took = 0;

		for (int node = 1; node >= 0; node--) {
			for (long i = 0; i < count; i++)
				nodes[i] = node;
			for (long first = 0; first < count; first += batch) {
				long n = count - first < batch ? count - first : batch, before = spent();
				long ret = syscall(SYS_move_pages, 0, n, pages + first, nodes + first,
						   status + first, MPOL_MF_MOVE);

				took += spent() - before;
				if (ret)
					return 5;
			}
			for (long i = 0; i < count; i++)
				if (status[i] != node)
					return 6;
		}
		if (round)
			printf("%.1f\n", (double)took / (2 * count));
	}
	return 0;
}
