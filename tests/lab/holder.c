// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * holder PAGES HELD: anonymous pages on node 0, HELD of them (every fifth from the second on)
 * in a pipe by vmsplice(2), so that they can't be moved.  Prints "PID ADDRESS", then obeys lines
 * of standard input, each answered with a line of numbers:
 *   move NODE             calls move_pages(2) for all of them: its return value
 *   where                 on how many pages each of nodes 0 and 1 is, by a query
 *   push PID FROM N NODE  moves N pages of another process: return value, how many are there now
 *   hold PAGE             puts one more into the pipe: 0
 *   release               lets go of all that are in the pipe: 0
 * A small static program: its own pages move quickly under emulation.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096UL
#define MOST 65536
#define MPOL_BIND 2
#define MPOL_DEFAULT 0
#define MPOL_MF_MOVE 2
#define MPOL_MF_MOVE_ALL 4
#define UNTOUCHED (-12345)

static void *addresses[MOST], *strange[MOST];
static int nodes[MOST], status[MOST];

static int ends[2];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void new_pipe(void)
{
	if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) < 0)
		fail("pipe");
}

static void hold(unsigned long page)
{
	struct iovec part = { addresses[page], PAGE };

	if (vmsplice(ends[1], &part, 1, 0) != (ssize_t)PAGE)
		fail("vmsplice");
}

static long move(unsigned long pages, int node)
{
	for (unsigned long i = 0; i < pages; i++) {
		nodes[i] = node;
		status[i] = UNTOUCHED;
	}
	return syscall(SYS_move_pages, 0, pages, addresses, nodes, status, MPOL_MF_MOVE);
}

int main(int argc, char **argv)
{
	unsigned long pages, held, from, count, mask = 1, spliced = 0;
	int node, pid;
	uint8_t *base;
	char line[64];

	if (argc != 3)
		return 2;
	pages = strtoul(argv[1], NULL, 0);
	held = strtoul(argv[2], NULL, 0);
	if (!pages || pages > MOST || 5 * held > pages)
		return 2;
	/* the policy of the thread, so that the mapping itself has none that would hold it back */
	if (syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 8 * sizeof(mask)))
		fail("set_mempolicy");
	base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		fail("mmap");
	if (madvise(base, pages * PAGE, MADV_NOHUGEPAGE))
		fail("madvise");
	for (unsigned long i = 0; i < pages; i++) {
		addresses[i] = base + i * PAGE;
		base[i * PAGE] = 1 + i % 200;
	}
	if (syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL))
		fail("set_mempolicy");
	new_pipe();
	for (unsigned long i = 1; spliced < held; i += 5, spliced++)
		hold(i);
	printf("%d %#lx\n", getpid(), (unsigned long)base);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "move %d", &node) == 1) {
			printf("%ld\n", move(pages, node));
		} else if (!strcmp(line, "where\n")) {
			unsigned long on[2] = { 0, 0 };

			if (syscall(SYS_move_pages, 0, pages, addresses, NULL, status, 0))
				fail("move_pages");
			for (unsigned long i = 0; i < pages; i++)
				if (status[i] == 0 || status[i] == 1)
					on[status[i]]++;
			printf("%lu %lu\n", on[0], on[1]);
		} else if (sscanf(line, "hold %lu", &from) == 1 && from < pages) {
			hold(from);
			puts("0");
		} else if (!strcmp(line, "release\n")) {
			close(ends[0]);
			close(ends[1]);
			new_pipe();
			puts("0");
		} else if (sscanf(line, "push %d %lx %lu %d", &pid, &from, &count, &node) == 4 &&
			   count <= MOST) {
			unsigned long there = 0;
			long ret;

			for (unsigned long i = 0; i < count; i++) {
				strange[i] = (void *)(from + i * PAGE);
				nodes[i] = node;
				status[i] = UNTOUCHED;
			}
			ret = syscall(SYS_move_pages, pid, count, strange, nodes, status,
				      MPOL_MF_MOVE_ALL);
			for (unsigned long i = 0; i < count; i++)
				there += status[i] == node;
			printf("%ld %lu\n", ret, there);
		} else {
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
