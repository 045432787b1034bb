/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stood in a folio's way, and its state at that moment: read only where
 * the kernel refused or waited, never on the way of a page that simply moves.
 */
#ifndef MPTRACE_OBSTACLE_H
#define MPTRACE_OBSTACLE_H

struct obstacle_record {
	u64 call_id;
	u64 migration_id;
	u64 src;
	u64 address;
	u64 first_ns;
	u64 last_ns;
	u64 lock_wait_ns;
	u64 writeback_wait_ns;
	u64 page_flags;
	u64 mapping;
	u64 private;
	u64 a_ops;
	u64 migrate_op;
	u64 inode;
	u64 pte;
	u64 vm_start;
	u64 vm_end;
	u64 vm_flags;
	u64 holder_id;
	u32 holder_tid;
	u32 tid;
	u32 lookup_seq;
	u32 nr_pages;
	u32 dev;
	s32 rc;
	s32 refcount;
	s32 mapcount;
	s32 page_mapcount;
	s32 pincount;
	u16 n_alloc;
	u16 n_lock;
	u16 n_unmap;
	u16 n_move;
	u16 n_split;
	u16 n_release;
	u16 n_lock_wait;
	u16 n_writeback_wait;
	u8 stage;
	u8 seen;
	u8 pte_level;
	s8 allowed;
	u32 pad;
	char fs[16];
};
_Static_assert(sizeof(struct obstacle_record) == 232, "layouts.OBSTACLE");

/* Where the folio was refused last. */
#define STAGE_NONE	0	/* it only waited */
#define STAGE_VMA	1	/* vma_migratable() said no */
#define STAGE_LOOKUP	2	/* no folio found */
#define STAGE_SHARED	3	/* found, and not isolated: shared, zero page, already there */
#define STAGE_ISOLATE	4
#define STAGE_ALLOCATE	5
#define STAGE_SPLIT	6
#define STAGE_LOCK	7	/* between the target's allocation and the unmap */
#define STAGE_UNMAP	8	/* still mapped after try_to_migrate() */
#define STAGE_RELEASE	9	/* private data not released */
#define STAGE_MOVE	10
#define STAGE_PUTBACK	11	/* left behind: the state is that of a moment later */

/* What could be read. */
#define SEEN_STATE	(1 << 0)	/* flags, counts, mapping, private */
#define SEEN_FILE	(1 << 1)	/* inode, dev, fs, operations of the mapping */
#define SEEN_VMA	(1 << 2)
#define SEEN_PTE	(1 << 3)
#define SEEN_ZERO	(1 << 4)	/* the PTE maps the zero page */
#define SEEN_HUGE_ZERO	(1 << 5)

#define VM_HUGETLB	0x400000

/* Whether the map count of a large folio leaves out mappings of single pages (until 6.9). */
#ifndef WHOLE_MAPCOUNT
#define WHOLE_MAPCOUNT	0
#endif

#define PAGE_WORDS	8

/* A struct page (or the head of a folio), as far as it is used here: 64 bytes. */
struct page_image {
	u64 word[PAGE_WORDS];
};

static __always_inline void read_page(struct page_image *image, u64 page)
{
	read_kernel(image, sizeof(*image), (void *)page);
}

static __always_inline u64 image_word(struct page_image *image, int offset)
{
	return image->word[(offset / 8) & (PAGE_WORDS - 1)];
}

static __always_inline s32 image_half(struct page_image *image, int offset)
{
	return image_word(image, offset) >> (offset & 4 ? 32 : 0);
}

/* Counts of a folio beyond its first 64 bytes; -1 based ones become counts. */
static __always_inline void read_large(struct obstacle_record *o, u64 folio)
{
#ifdef OFF_FOLIO_PINCOUNT
	o->pincount = read_half(folio + OFF_FOLIO_PINCOUNT);
#endif
#ifdef OFF_FOLIO_MAPCOUNT
	o->mapcount = (s32)read_half(folio + OFF_FOLIO_MAPCOUNT) + 1;
#endif
}

static __always_inline void read_inode(struct obstacle_record *o, u64 inode)
{
#ifdef EVIDENCE
	u64 super, type;

	if (!inode)
		return;
	super = read_word(inode + OFF_INODE_SB);
	o->inode = read_word(inode + OFF_INODE_INO);
	o->dev = read_half(super + OFF_SB_DEV);
	type = read_word(super + OFF_SB_TYPE);
	type = read_word(type + OFF_FSTYPE_NAME);
	read_kernel_string(o->fs, sizeof(o->fs), (void *)type);
	o->seen |= SEEN_FILE;
#endif
}

/* The two low bits of page->mapping say what it is: 0 a file's address_space. */
static __always_inline void read_mapping(struct obstacle_record *o)
{
#ifdef EVIDENCE
	if (!o->mapping || o->mapping & 3)
		return;
	o->a_ops = read_word(o->mapping + OFF_MAPPING_OPS);
	o->migrate_op = read_word(o->a_ops + OFF_OPS_MIGRATE);
	read_inode(o, read_word(o->mapping + OFF_MAPPING_HOST));
#endif
}

static __always_inline void read_state(struct obstacle_record *o, u64 folio, u32 nr_pages)
{
#ifdef EVIDENCE
	struct page_image image = {};

	read_page(&image, folio);
	o->page_flags = image_word(&image, OFF_PAGE_FLAGS);
	o->mapping = image_word(&image, OFF_PAGE_MAPPING);
	o->private = image_word(&image, OFF_PAGE_PRIVATE);
	o->refcount = image_half(&image, OFF_PAGE_REFCOUNT);
	o->mapcount = image_half(&image, OFF_PAGE_MAPCOUNT) + 1;
	o->pincount = -1;
	if (nr_pages > 1)
		read_large(o, folio);
	read_mapping(o);
	o->seen |= SEEN_STATE;
#endif
}

static __always_inline void read_vma(struct obstacle_record *o, u64 vma)
{
#ifdef EVIDENCE
	u64 file;

	if (!vma)
		return;
	o->vm_start = read_word(vma + OFF_VMA_START);
	o->vm_end = read_word(vma + OFF_VMA_END);
	o->vm_flags = read_word(vma + OFF_VMA_FLAGS);
	o->seen |= SEEN_VMA;
	file = read_word(vma + OFF_VMA_FILE);
	if (file && !(o->seen & SEEN_FILE))
		read_inode(o, read_word(file + OFF_FILE_INODE));
#endif
}

/*
 * The page table entry of an address (x86-64, 4 or 5 levels): what tells never
 * touched from swapped out where the kernel's lookup only says "nothing".
 */
static __always_inline void read_pte(struct obstacle_record *o, u64 vma, u64 address)
{
#ifdef PTE_WALK
	u64 entry, table, base;
	int level, shift;

	if (!vma)
		return;
	base = read_word(PAGE_OFFSET_BASE);
	table = read_word(read_word(vma + OFF_VMA_MM) + OFF_MM_PGD);
	if (!table || !base)
		return;
	o->seen |= SEEN_PTE;
#pragma unroll
	for (level = 5; level >= 1; level--) {
		shift = 12 + 9 * (level - 1);
		if (level == 5 && read_half(PGDIR_SHIFT) < 48)
			continue;
		entry = read_word(table + ((address >> shift) & 511) * 8);
		o->pte = entry;
		o->pte_level = level;
		/* not present, a huge page, or the last level */
		if (level == 1 || !(entry & 1) || (level < 4 && entry & (1 << 7)))
			break;
		table = base + (entry & 0x000ffffffffff000ULL);
	}
	if (!(o->pte & 1))
		return;
	entry = (o->pte & 0x000ffffffffff000ULL) >> 12;
#ifdef ZERO_PFN
	if (o->pte_level == 1 && entry == read_word(ZERO_PFN))
		o->seen |= SEEN_ZERO;
#endif
#ifdef HUGE_ZERO_PFN
	if (o->pte_level == 2 && entry == read_word(HUGE_ZERO_PFN))
		o->seen |= SEEN_HUGE_ZERO;
#endif
#endif
}

#endif
