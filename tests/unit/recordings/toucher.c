// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * toucher PAGES: anonymous pages on node 0 that a second thread writes to, over and over.  Prints
 * its process number when both run, and ends with its standard input.  A small static program:
 * its pages move quickly under emulation, and whoever touches one meanwhile has to wait.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define MPOL_BIND 2
#define MPOL_DEFAULT 0

static volatile uint8_t *base;
static unsigned long pages;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void *touch(void *unused)
{
	pthread_setname_np(pthread_self(), "worker");
	for (;;)
		for (unsigned long i = 0; i < pages; i++)
			base[i * PAGE]++;
	return unused;
}

int main(int argc, char **argv)
{
	unsigned long mask = 1;
	pthread_t thread;
	char line[64];

	if (argc != 2)
		return 2;
	pages = strtoul(argv[1], NULL, 0);
	if (syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 8 * sizeof(mask)))
		fail("set_mempolicy");
	base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		fail("mmap");
	if (madvise((void *)base, pages * PAGE, MADV_NOHUGEPAGE))
		fail("madvise");
	for (unsigned long i = 0; i < pages; i++)
		base[i * PAGE] = 1;
	if (syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL))
		fail("set_mempolicy");
	if (pthread_create(&thread, NULL, touch, NULL))
		fail("pthread_create");
	printf("%d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		;
	return 0;
}
