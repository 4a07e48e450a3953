/*
 * activate.c: a program that fits pays nothing
 *
 *   Until the pager is active no memory is registered, and faults are the kernel's alone. It
 *   becomes active when the supervisor says so (the tree nears its budget) or when the process
 *   itself has grown to three quarters of its limit. How often it looks depends on how far that
 *   is: memory cannot be touched faster than the kernel fills pages.
 *
 *   Then every range is registered, and after that the pages that are there are found: from the
 *   registration on only the pager adds pages, so none is overlooked.
 */
#include "pager/state.h"

#include <errno.h>

#define WATCH_NS_MIN  INT64_C(1000000)
#define WATCH_NS_MAX  INT64_C(100000000)
#define NS_PER_PAGE   250 /* a processor cannot fill pages faster */
#define REGIONS_MAX   64u
#define PAGEMAP_WORDS 512u
#define STATM_BYTES   256u

int activate_register(struct pager *pager, uintptr_t start, uintptr_t end)
{
	struct uffdio_register area = {.range = {.start = start, .len = end - start},
				       .mode = UFFDIO_REGISTER_MODE_MISSING |
					       UFFDIO_REGISTER_MODE_WP};

	return (int)kernel_ioctl(pager->fd_uffd, UFFDIO_REGISTER, &area);
}

void activate_inherit(struct pager *pager, bool inherited)
{
	for (unsigned i = 0; i < pager->ranges_count; i++)
		kernel_madvise(pager->ranges[i].start,
			       pager->ranges[i].end - pager->ranges[i].start,
			       inherited ? MADV_DOFORK : MADV_DONTFORK);
}

static void settle_present(struct pager *pager, uint64_t page)
{
	if (entry_state(page_table_get(pager, page)) == PAGE_NONE)
		fault_settle(pager, page, PAGE_RESIDENT, 0, fault_queue_of(pager, page, 0));
}

/* Kernels from 6.7 tell present pages by regions. */
static int scan_regions(struct pager *pager, uintptr_t start, uintptr_t end)
{
	struct kernel_page_region regions[REGIONS_MAX] = {0};
	struct kernel_pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS_MAX,
		.category_anyof_mask = KERNEL_PAGE_IS_PRESENT | KERNEL_PAGE_IS_SWAPPED,
		.return_mask = KERNEL_PAGE_IS_PRESENT | KERNEL_PAGE_IS_SWAPPED,
	};

	while (scan.start < end) {
		long n = kernel_ioctl(pager->fd_pagemap, KERNEL_PAGEMAP_SCAN, &scan);

		if (n < 0)
			return (int)n;
		for (long i = 0; i < n; i++) {
			for (uint64_t page = page_of(regions[i].start);
			     page < page_of(regions[i].end); page++)
				settle_present(pager, page);
		}
		if (scan.walk_end <= scan.start)
			break;
		scan.start = scan.walk_end;
	}
	return 0;
}

static void scan_words(struct pager *pager, uintptr_t start, uintptr_t end)
{
	uint64_t words[PAGEMAP_WORDS] = {0};
	uint64_t page = page_of(start);

	while (page < page_of(end)) {
		uint64_t left = page_of(end) - page;
		size_t wanted = left < PAGEMAP_WORDS ? (size_t)left : PAGEMAP_WORDS;
		long got = kernel_pread(pager->fd_pagemap, words, wanted * sizeof(words[0]),
					page * sizeof(words[0]));

		if (got < (long)sizeof(words[0]))
			return;
		for (size_t i = 0; i < (size_t)got / sizeof(words[0]); i++, page++) {
			if (words[i] & (KERNEL_PAGEMAP_PRESENT | KERNEL_PAGEMAP_SWAPPED))
				settle_present(pager, page);
		}
	}
}

void activate(struct pager *pager)
{
	for (unsigned i = 0; i < pager->ranges_count;) {
		const struct range range = pager->ranges[i];

		/* What cannot be registered (somebody else watches it) stays local. */
		if (activate_register(pager, range.start, range.end)) {
			ranges_remove(pager, range.start, range.end);
			continue;
		}
		kernel_madvise(range.start, range.end - range.start, MADV_DONTFORK);
		i++;
	}
	pager->active = true;
	for (unsigned i = 0; i < pager->ranges_count; i++) {
		const struct range range = pager->ranges[i];

		if (scan_regions(pager, range.start, range.end))
			scan_words(pager, range.start, range.end);
	}
	atomic_store(&pager->session->active, 1);
}

/* The process's anonymous pages, or 0. */
static uint64_t anonymous_pages(const struct pager *pager)
{
	char text[STATM_BYTES] = "";
	uint64_t number[3] = {0}; /* size, resident, shared */
	long len = kernel_pread(pager->fd_statm, text, sizeof(text), 0);
	unsigned field = 0;

	for (long i = 0; i < len && field < 3; i++) {
		if (text[i] >= '0' && text[i] <= '9')
			number[field] = number[field] * 10 + (uint64_t)(text[i] - '0');
		else
			field++;
	}
	return number[1] > number[2] ? number[1] - number[2] : 0;
}

int64_t activate_watch(struct pager *pager)
{
	uint64_t limit = evict_limit(pager);
	uint64_t near = limit - limit / 4;
	uint64_t pages;
	int64_t period_ns;

	if (atomic_load_explicit(&pager->session->must_activate, memory_order_relaxed)) {
		activate(pager);
		return 0;
	}
	if (limit == UINT64_MAX)
		return WATCH_NS_MAX;
	pages = anonymous_pages(pager);
	if (pages >= near) {
		activate(pager);
		return 0;
	}
	period_ns =
		(int64_t)(near - pages < WATCH_NS_MAX / NS_PER_PAGE ? near - pages
								    : WATCH_NS_MAX / NS_PER_PAGE) *
		NS_PER_PAGE;
	return period_ns < WATCH_NS_MIN ? WATCH_NS_MIN : period_ns;
}
