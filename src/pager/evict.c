/*
 * evict.c: pages go, in batches
 *
 * The life of one page on its way out
 *
 *     clean      its slot is still valid, and whoever writes waits in the userfaultfd:
 *                drop it                                                          ─► FAR
 *     resident   lift it out of reach          all zeros ─► forget it             ─► NONE
 *                backend: take its bytes       direct:  stored                    ─► FAR
 *                                              staged:  under way                 ─► EVICTING
 *                                                       the supervisor's answer   ─► FAR
 *
 *   Lifting (G2) is one of two things. UFFDIO_MOVE takes the page, as it is, out of the program's
 *   range into the pager's limbo: there nobody else can write it, and one madvise frees a batch.
 *   It refuses pages that the kernel has pinned for input or output, which must stay where they
 *   are. Where it cannot serve (kernels before 6.8, memory that is read-only) the page is
 *   write-protected, its bytes are taken in place, and then it is dropped.
 *
 *   MOVE also refuses a page that is shared with another process since a fork; writing to it in
 *   the kernel's own way makes it ours alone.
 */
#include "pager/state.h"

#include "afar/error.h"

#include <errno.h>

#define LOOKED_AT_MAX      64u /* frames that could not go, until a batch gives up */
#define STORE_FAILURES_MAX 8u  /* in a row */
#define EAGAIN_MAX         100u
#define MOVE_DONTWAKE      1u
#define MUTANT_PAUSE_NS    INT64_C(100000)

enum lifted { LIFTED, LIFTED_IN_PLACE, LIFTED_BUSY, LIFTED_GONE };

struct clean_run {
	uint64_t page, count;
};

uint64_t evict_limit(const struct pager *pager)
{
	return atomic_load_explicit(&pager->session->limit_pages, memory_order_relaxed);
}

void evict_forget(struct pager *pager, uint64_t page)
{
	entry_t entry = page_table_get(pager, page);

	switch (entry_state(entry)) {
	case PAGE_NONE:
		return;
	case PAGE_RESIDENT:
		queues_remove(pager, entry_index(entry));
		break;
	case PAGE_CLEAN:
		queues_remove(pager, entry_index(entry));
		talk_drop_slot(pager, entry_slot(entry));
		break;
	case PAGE_FAR:
		talk_drop_slot(pager, entry_slot(entry));
		break;
	case PAGE_EVICTING:
		pager->stores.item[entry_index(entry)].cancelled = true;
		break;
	}
	page_table_set(pager, page, 0);
}

static uint64_t pagemap_of(struct pager *pager, uint64_t page)
{
	uint64_t word = 0;

	if (kernel_pread(pager->fd_pagemap, &word, sizeof(word), page * sizeof(word)) !=
	    sizeof(word))
		return 0;
	return word;
}

static long protect(struct pager *pager, uint64_t page, uint64_t mode)
{
	struct uffdio_writeprotect protection = {
		.range = {.start = address_of(page), .len = KERNEL_PAGE_BYTES}, .mode = mode};
	long err = -EAGAIN;

	for (unsigned i = 0; err == -EAGAIN && i < EAGAIN_MAX; i++)
		err = kernel_ioctl(pager->fd_uffd, UFFDIO_WRITEPROTECT, &protection);
	return err;
}

static long move(struct pager *pager, uint64_t page)
{
	struct kernel_uffdio_move move = {.dst = (uintptr_t)pager->limbo +
						 (uintptr_t)pager->limbo_used * KERNEL_PAGE_BYTES,
					  .src = address_of(page),
					  .len = KERNEL_PAGE_BYTES,
					  .mode = MOVE_DONTWAKE};
	long err = -EAGAIN;

	for (unsigned i = 0; err == -EAGAIN && i < EAGAIN_MAX; i++)
		err = kernel_ioctl(pager->fd_uffd, KERNEL_UFFDIO_MOVE, &move);
	return err;
}

/* Breaks what a fork left shared, without a signal if the memory is not writable after all. */
static void make_exclusive(struct pager *pager, uint64_t page)
{
	/* On a protected or absent page the kernel would wait for us to serve ourselves. */
	if (!(pagemap_of(pager, page) & KERNEL_PAGEMAP_PRESENT) || protect(pager, page, 0))
		return;
	kernel_madvise(address_of(page), KERNEL_PAGE_BYTES, MADV_POPULATE_WRITE);
}

static enum lifted lift_in_place(struct pager *pager, uint64_t page)
{
	if (!(pagemap_of(pager, page) & (KERNEL_PAGEMAP_PRESENT | KERNEL_PAGEMAP_SWAPPED)))
		return LIFTED_GONE;
	if (pager->options.mutations & PAGER_MUTATE_PROTECT)
		return LIFTED_IN_PLACE;
	if (protect(pager, page, UFFDIO_WRITEPROTECT_MODE_WP))
		return LIFTED_GONE;
	return LIFTED_IN_PLACE;
}

static enum lifted lift(struct pager *pager, uint64_t page)
{
	long err;

	if (!pager->can_move || pager->options.mutations & PAGER_MUTATE_PROTECT)
		return lift_in_place(pager, page);
	err = move(pager, page);
	if (err == -EBUSY) {
		make_exclusive(pager, page);
		err = move(pager, page);
	}
	switch (err) {
	case 0:
		pager->limbo_used++;
		return LIFTED;
	case -ENOENT:
		return LIFTED_GONE;
	case -EINVAL: /* the protection differs from limbo's */
		return lift_in_place(pager, page);
	default:
		return LIFTED_BUSY;
	}
}

void evict_empty_limbo(struct pager *pager)
{
	if (pager->limbo_used == 0)
		return;
	kernel_madvise((uintptr_t)pager->limbo, (size_t)pager->limbo_used * KERNEL_PAGE_BYTES,
		       MADV_DONTNEED);
	pager->limbo_used = 0;
}

static void drop_run(struct clean_run *run)
{
	if (run->count > 0)
		kernel_madvise(address_of(run->page), run->count * KERNEL_PAGE_BYTES,
			       MADV_DONTNEED);
	run->count = 0;
}

/* Whether the frame behind this one in its queue is of the next page. */
static bool is_followed(const struct pager *pager, uint32_t frame, uint64_t page)
{
	uint32_t next = pager->frames[frame].next;

	return next != NO_FRAME && queues_page(pager, next) == page + 1;
}

/*
 * Drops a page whose slot is valid. Pages that follow each other go by one madvise; a single one is
 * cheaper to lift into limbo, where a batch is freed at once.
 */
static void drop_clean(struct pager *pager, uint32_t frame, uint64_t page, entry_t entry,
		       struct clean_run *run)
{
	bool in_run = run->count > 0 && run->page + run->count == page;

	if (in_run) {
		run->count++;
	} else if (is_followed(pager, frame, page) || !pager->can_move || move(pager, page)) {
		drop_run(run);
		*run = (struct clean_run){page, 1};
	} else {
		pager->limbo_used++;
	}
	queues_remove(pager, frame);
	page_table_set(pager, page,
		       entry_make(PAGE_FAR, entry_slot(entry), (uint32_t)pager->evict_clock++));
	COUNT(pager, pages_dropped_clean, 1);
}

/* Puts a lifted page into the batch, or forgets it if it is nothing but zeros. */
static void take_bytes(struct pager *pager, uint64_t page, entry_t entry, bool in_place)
{
	const void *bytes =
		in_place ? (const void *)address_of(page)
			 : pager->limbo + (size_t)(pager->limbo_used - 1) * KERNEL_PAGE_BYTES;
	struct store *store = &pager->stores.item[pager->stores.count];

	queues_remove(pager, entry_index(entry));
	/* In the program's own memory nothing is looked at but by the kernel's and our copies. */
	if (in_place)
		raw_copy(pager->bounce, bytes, KERNEL_PAGE_BYTES);
	if (page_is_zero(in_place ? pager->bounce : bytes)) {
		if (in_place)
			kernel_madvise(address_of(page), KERNEL_PAGE_BYTES, MADV_DONTNEED);
		page_table_set(pager, page, 0);
		COUNT(pager, pages_zero_dropped, 1);
		return;
	}
	*store = (struct store){.page = page, .bytes = bytes, .slot = talk_take_slot(pager)};
	/* Until the backend has it. */
	page_table_set(pager, page, entry_make(PAGE_EVICTING, store->slot, pager->stores.count));
	pager->stores.count++;
}

/* One resident page leaves, or goes to the end of its queue. True: it left. */
static bool evict_resident(struct pager *pager, uint32_t frame, uint64_t page, entry_t entry)
{
	enum lifted lifted;

	if (talk_magazine(pager, 1) == 0) {
		queues_move(pager, frame, QUEUE_SECOND);
		return false;
	}
	lifted = lift(pager, page);
	switch (lifted) {
	case LIFTED:
	case LIFTED_IN_PLACE:
		take_bytes(pager, page, entry, lifted == LIFTED_IN_PLACE);
		return true;
	case LIFTED_GONE:
		evict_forget(pager, page);
		return true;
	case LIFTED_BUSY:
		break;
	}
	queues_move(pager, frame, QUEUE_SECOND);
	return false;
}

/* What was lifted in place is dropped: its bytes are elsewhere. */
static void drop_in_place(struct pager *pager, const uint64_t *pages, unsigned n)
{
	/* Without protection, time for a write that the test then misses. */
	if (n > 0 && pager->options.mutations & PAGER_MUTATE_PROTECT)
		kernel_poll(NULL, 0, MUTANT_PAUSE_NS);
	for (unsigned i = 0; i < n; i++)
		kernel_madvise(address_of(pages[i]), KERNEL_PAGE_BYTES, MADV_DONTNEED);
}

static void store_batch(struct pager *pager)
{
	uint64_t in_place[STORES_MAX];
	unsigned n = 0;
	int err;

	for (unsigned i = 0; i < pager->stores.count; i++) {
		const struct store *store = &pager->stores.item[i];

		if ((uintptr_t)store->bytes == address_of(store->page))
			in_place[n++] = store->page;
	}
	COUNT(pager, pages_stored, pager->stores.count);
	err = pager->backend->store(pager);
	drop_in_place(pager, in_place, n);
	pager->store_under_way = err == 1;
	if (err != 1)
		evict_stored(pager, err);
}

/* Evicts up to n pages; returns how many left. */
static unsigned evict_batch(struct pager *pager, unsigned n)
{
	struct clean_run run = {0, 0};
	unsigned left = 0;
	unsigned stuck = 0;

	evict_settle(pager);
	pager->stores.count = 0;
	while (left < n && stuck < LOOKED_AT_MAX && pager->limbo_used < LIMBO_PAGES) {
		uint32_t frame = queues_victim(pager);
		uint64_t page = queues_page(pager, frame);
		entry_t entry = page_table_get(pager, page);

		if (frame == NO_FRAME)
			break;
		if (entry_state(entry) == PAGE_CLEAN) {
			drop_clean(pager, frame, page, entry, &run);
			left++;
		} else if (evict_resident(pager, frame, page, entry)) {
			left++;
		} else {
			stuck++;
		}
	}
	drop_run(&run);
	if (pager->stores.count > 0)
		store_batch(pager);
	if (pager->limbo_used >= LIMBO_PAGES / 2)
		evict_empty_limbo(pager);
	COUNT(pager, evict_batches, 1);
	queues_publish(pager);
	return left;
}

/* The store was refused: the page comes back, from the bytes that the backend still has. */
static void restore(struct pager *pager, const struct store *store)
{
	struct uffdio_copy copy = {.dst = address_of(store->page),
				   .src = (uintptr_t)store->bytes,
				   .len = KERNEL_PAGE_BYTES};
	long err = -EAGAIN;

	for (unsigned i = 0; err == -EAGAIN && i < EAGAIN_MAX; i++)
		err = kernel_ioctl(pager->fd_uffd, UFFDIO_COPY, &copy);
	if (err && err != -ENOENT)
		talk_fail(pager, SESSION_FAIL_KERNEL, store->page);
	page_table_set(pager, store->page, 0);
	if (!err)
		fault_settle(pager, store->page, PAGE_RESIDENT, 0,
			     fault_queue_of(pager, store->page, 0));
	talk_drop_slot(pager, store->slot);
}

void evict_stored(struct pager *pager, int status)
{
	struct stores *stores = &pager->stores;

	pager->store_under_way = false;
	pager->store_failures = status ? pager->store_failures + 1 : 0;
	if (pager->store_failures > STORE_FAILURES_MAX)
		talk_fail(pager,
			  status == AFAR_ENOSPACE_FAR ? SESSION_FAIL_NO_SPACE : SESSION_FAIL_LOST,
			  stores->item[0].page);
	for (unsigned i = 0; i < stores->count; i++) {
		const struct store *store = &stores->item[i];

		if (store->cancelled)
			talk_drop_slot(pager, store->slot);
		else if (status)
			restore(pager, store);
		else
			page_table_set(
				pager, store->page,
				entry_make(PAGE_FAR, store->slot, (uint32_t)pager->evict_clock++));
	}
	stores->count = 0;
}

void evict_settle(struct pager *pager)
{
	while (pager->store_under_way)
		talk_receive(pager, SESSION_HELLO, &(struct session_message){0}, NULL);
}

static unsigned batch_size(const struct pager *pager)
{
	return pager->backend->load_max > PAGER_BATCH ? PAGER_BATCH * 2 : PAGER_BATCH;
}

void evict_for(struct pager *pager, uint64_t n)
{
	uint64_t limit = evict_limit(pager);
	bool stalled = false;

	while (queues_resident(pager) + n > limit) {
		uint64_t excess = queues_resident(pager) + n - limit;
		unsigned size = batch_size(pager);

		stalled = true;
		if (evict_batch(pager, excess < size ? (unsigned)excess : size) > 0)
			continue;
		if (pager->magazine_count == 0 && queues_victim(pager) != NO_FRAME)
			talk_fail(pager, SESSION_FAIL_NO_SPACE, 0);
		break; /* all that is left is pinned */
	}
	if (stalled && pager->placement.lone_tid == 0)
		COUNT(pager, stalls, 1);
}

/* How many pages below the limit eviction goes, so that faults find room. */
static uint64_t headroom(const struct pager *pager, uint64_t limit)
{
	uint64_t batches = limit / 16 / PAGER_BATCH;

	/* A lone thread makes its own room: it sleeps while its page is fetched anyway. */
	if (pager->placement.lone_tid != 0)
		return 0;
	return (batches > 8 ? 8 : batches) * PAGER_BATCH;
}

bool evict_background(struct pager *pager)
{
	uint64_t limit = evict_limit(pager);
	uint64_t resident = queues_resident(pager);
	uint64_t target;

	if (!pager->active || limit == UINT64_MAX || pager->store_under_way)
		return false;
	target = limit - headroom(pager, limit);
	if (resident <= target || (pager->no_space && resident <= limit))
		return false;

	uint64_t excess = resident - target;
	unsigned size = batch_size(pager);

	if (evict_batch(pager, excess < size ? (unsigned)excess : size) == 0)
		return false;
	return queues_resident(pager) > target;
}
