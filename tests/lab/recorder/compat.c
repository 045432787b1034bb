/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A 32-bit process that calls move_pages(2), and keeps its own record of each call
 * on standard output: struct told, then the arrays, then where the pages were
 * before and after.  No library: gcc -m32 -nostdlib -static -ffreestanding.
 */
typedef unsigned int u32;
typedef unsigned long long u64;

#define PAGE 4096
#define PAGES 1009
#define ENTRIES 17011	/* a large chunk, and what is left of it in small ones */
#define FILL 0x7777
#define MADV_NOHUGEPAGE 15

#define NR_EXIT 1
#define NR_WRITE 4
#define NR_MMAP2 192
#define NR_MADVISE 219
#define NR_GETTID 224
#define NR_CLOCK_GETTIME 265
#define NR_SET_MEMPOLICY 276
#define NR_MOVE_PAGES 317

struct told {
	u64 count, before_ns, after_ns;
	int ret;
	u32 tid;
};

static int call6(int number, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f)
{
	struct { int number; u32 f; } last = { number, f };
	int ret;

	/* ebp has the sixth argument, and gcc may want it: by way of the stack */
	asm volatile("pushl %%ebp\n\tmovl 4(%%eax), %%ebp\n\tmovl (%%eax), %%eax\n\t"
		     "int $0x80\n\tpopl %%ebp"
		     : "=a"(ret)
		     : "0"(&last), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
		     : "memory");
	return ret;
}

static void put(const void *from, u32 bytes)
{
	int wrote;

	while (bytes) {
		wrote = call6(NR_WRITE, 1, (u32)from, bytes, 0, 0, 0);
		if (wrote <= 0)
			call6(NR_EXIT, 1, 0, 0, 0, 0, 0);
		from = (const char *)from + wrote;
		bytes -= wrote;
	}
}

static u64 now(void)
{
	struct { u32 seconds, ns; } time;

	call6(NR_CLOCK_GETTIME, 1, (u32)&time, 0, 0, 0, 0);
	return time.seconds * 1000000000ULL + time.ns;
}

static void *map(u32 bytes)
{
	return (void *)call6(NR_MMAP2, 0, bytes, 3, 0x22, -1, 0);
}

/*
 * Where the pages are, sixteen at a time: of a 32-bit caller's longer arrays the query
 * takes wrong addresses (do_pages_stat() advances by 64-bit pointers).
 */
static void locate(u32 *pages, int *places, u32 count)
{
	u32 i;

	for (i = 0; i < count; i += 16)
		call6(NR_MOVE_PAGES, 0, count - i < 16 ? count - i : 16, (u32)(pages + i), 0,
		      (u32)(places + i), 0);
}

static void one_call(char *memory, u32 count, int target)
{
	u32 *pages = map(ENTRIES * 4);
	int *nodes = map(ENTRIES * 4), *status = map(ENTRIES * 4);
	int *before = map(ENTRIES * 4), *after = map(ENTRIES * 4);
	struct told told;
	u32 i;

	for (i = 0; i < count; i++) {
		/* beyond the pages: addresses of nothing */
		pages[i] = i < PAGES ? (u32)memory + i * PAGE : 0xff000000 + i;
		nodes[i] = target;
		status[i] = FILL;
	}
	locate(pages, before, count);
	told.count = count;
	told.tid = call6(NR_GETTID, 0, 0, 0, 0, 0, 0);
	told.before_ns = now();
	told.ret = call6(NR_MOVE_PAGES, 0, count, (u32)pages, (u32)nodes, (u32)status, 2);
	told.after_ns = now();
	locate(pages, after, count);
	put(&told, sizeof(told));
	put(pages, count * 4);
	put(nodes, count * 4);
	put(status, count * 4);
	put(before, count * 4);
	put(after, count * 4);
}

void _start(void)
{
	u32 mask = 1, i;
	char *memory = map(PAGES * PAGE);

	/* a huge page would move whole, with pages that are not asked for yet */
	call6(NR_MADVISE, (u32)memory, PAGES * PAGE, MADV_NOHUGEPAGE, 0, 0, 0);
	call6(NR_SET_MEMPOLICY, 2, (u32)&mask, 32, 0, 0, 0);
	for (i = 0; i < PAGES; i++)
		((volatile char *)memory)[i * PAGE] = 1;
	call6(NR_SET_MEMPOLICY, 0, 0, 0, 0, 0, 0);
	one_call(memory, 61, 1);
	one_call(memory, PAGES, 1);
	one_call(memory, ENTRIES, 0);
	call6(NR_EXIT, 0, 0, 0, 0, 0, 0);
}
