/*
 * table.c: the state of each managed page
 *
 *   An array over all pages of the address space: 512 GiB of reserved addresses, of which the
 *   kernel fills in the pages that are written to (0.2 % of the memory whose pages have a state).
 *   All zeros is PAGE_NONE, so a range that is managed but not yet touched costs nothing.
 *
 *   A second array has one bit for each page of the first that may hold anything: walks over
 *   large empty reservations look at the bits alone.
 */
#include "pager/state.h"

#include <errno.h>

#define ENTRIES_PER_PAGE (KERNEL_PAGE_BYTES / sizeof(entry_t))
#define POPULATED_BYTES  (TABLE_PAGES / ENTRIES_PER_PAGE / 8)

static void *reserve(size_t len)
{
	void *memory = kernel_mmap(len, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (kernel_is_error(memory))
		return NULL;
	kernel_madvise((uintptr_t)memory, len, MADV_NOHUGEPAGE);
	kernel_madvise((uintptr_t)memory, len, MADV_DONTDUMP);
	return memory;
}

int page_table_map(struct pager *pager)
{
	pager->table = reserve(TABLE_PAGES * sizeof(entry_t));
	pager->populated = reserve(POPULATED_BYTES);
	pager->frames = reserve((size_t)FRAMES_MAX * sizeof(struct frame));
	pager->ranges = reserve((size_t)RANGES_ROOM * sizeof(struct range));
	pager->frames_used = 1; /* NO_FRAME is nobody's */
	if (pager->table && pager->populated && pager->frames && pager->ranges)
		return 0;
	page_table_unmap(pager);
	return -ENOMEM;
}

void page_table_unmap(struct pager *pager)
{
	if (pager->table)
		kernel_munmap(pager->table, TABLE_PAGES * sizeof(entry_t));
	if (pager->populated)
		kernel_munmap((void *)pager->populated, POPULATED_BYTES);
	if (pager->frames)
		kernel_munmap(pager->frames, (size_t)FRAMES_MAX * sizeof(struct frame));
	if (pager->ranges)
		kernel_munmap(pager->ranges, (size_t)RANGES_ROOM * sizeof(struct range));
	pager->table = NULL;
	pager->populated = NULL;
	pager->frames = NULL;
	pager->ranges = NULL;
}

static void mark_populated(struct pager *pager, uint64_t table_page, bool populated)
{
	_Atomic uint64_t *word = &pager->populated[table_page / 64];
	uint64_t bit = UINT64_C(1) << table_page % 64;
	uint64_t value = atomic_load_explicit(word, memory_order_relaxed);

	value = populated ? value | bit : value & ~bit;
	atomic_store_explicit(word, value, memory_order_relaxed);
}

void page_table_set(struct pager *pager, uint64_t page, entry_t entry)
{
	if (pager->table[page] == 0 && entry != 0)
		mark_populated(pager, page / ENTRIES_PER_PAGE, true);
	pager->table[page] = entry;
}

/* The first page of the table from `table_page` on, below end, that may hold anything. */
static uint64_t next_populated(const struct pager *pager, uint64_t table_page, uint64_t end)
{
	while (table_page < end) {
		uint64_t word = atomic_load_explicit(&pager->populated[table_page / 64],
						     memory_order_relaxed);

		word >>= table_page % 64;
		if (word)
			return table_page + (uint64_t)__builtin_ctzll(word);
		table_page = (table_page / 64 + 1) * 64;
	}
	return end;
}

uint64_t page_table_next(const struct pager *pager, uint64_t page, uint64_t end)
{
	while (page < end) {
		uint64_t here = page / ENTRIES_PER_PAGE;
		uint64_t populated = next_populated(pager, here, (end - 1) / ENTRIES_PER_PAGE + 1);
		uint64_t stop = (populated + 1) * ENTRIES_PER_PAGE;

		if (populated > here)
			page = populated * ENTRIES_PER_PAGE;
		for (; page < end && page < stop; page++) {
			if (pager->table[page] != 0)
				return page;
		}
	}
	return end;
}

void page_table_trim(struct pager *pager, uint64_t page, uint64_t end)
{
	uint64_t first = (page + ENTRIES_PER_PAGE - 1) / ENTRIES_PER_PAGE;
	uint64_t last = end / ENTRIES_PER_PAGE;

	for (uint64_t i = next_populated(pager, first, last); i < last;
	     i = next_populated(pager, i + 1, last)) {
		kernel_madvise((uintptr_t)&pager->table[i * ENTRIES_PER_PAGE], KERNEL_PAGE_BYTES,
			       MADV_DONTNEED);
		mark_populated(pager, i, false);
	}
}
