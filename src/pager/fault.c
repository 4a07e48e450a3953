/*
 * fault.c: a page is missed, or a protected one written to
 *
 *   What the kernel reports is a hint: between its message and our answer the page may have come
 *   (for another thread), gone again, or been unmapped. The table, under the lock, says what is
 *   to be done; a thread that is woken too early misses again and asks again.
 *
 *     state       missed                                    written to while protected
 *     NONE        zeros                                     as missed
 *     FAR         its bytes; read: CLEAN, keeps its slot    as missed (it left meanwhile)
 *                 write: RESIDENT, the slot is dropped
 *     EVICTING    its bytes from the staging page           as missed
 *     CLEAN       is there: wake                            unprotect, RESIDENT, drop the slot
 *     RESIDENT    is there: wake                            unprotect
 */
#include "pager/state.h"

#include <errno.h>

#define EAGAIN_MAX 1000u

void fault_wake(struct pager *pager, uintptr_t address, size_t len)
{
	struct uffdio_range range = {.start = address, .len = len};

	kernel_ioctl(pager->fd_uffd, UFFDIO_WAKE, &range);
}

enum queue_kind fault_queue_of(const struct pager *pager, uint64_t page, entry_t entry)
{
	const struct range *range = ranges_find(pager, address_of(page));
	uint32_t age = ((uint32_t)pager->evict_clock - entry_index(entry)) & (FRAMES_MAX - 1);

	if (range && range->flags & (RANGE_UNREADABLE | RANGE_PINNED))
		return QUEUE_PINNED;
	if (entry_state(entry) == PAGE_FAR && age < evict_limit(pager) / 2)
		return QUEUE_SECOND;
	return QUEUE_FIRST;
}

void fault_settle(struct pager *pager, uint64_t page, enum page_state state, uint32_t slot,
		  enum queue_kind kind)
{
	uint32_t frame = queues_add(pager, page, kind);

	/* Without a frame it stays for good, and need not be remembered. */
	page_table_set(pager, page, frame == NO_FRAME ? 0 : entry_make(state, slot, frame));
	queues_publish(pager);
}

/* Puts bytes under a page, or zeros (bytes: NULL). 0, -EEXIST, or -ENOENT: no memory there. */
static long place(struct pager *pager, uint64_t page, const void *bytes, uint64_t mode)
{
	struct uffdio_copy copy = {.dst = address_of(page),
				   .src = (uintptr_t)bytes,
				   .len = KERNEL_PAGE_BYTES,
				   .mode = mode};
	struct uffdio_zeropage zero = {
		.range = {.start = address_of(page), .len = KERNEL_PAGE_BYTES}, .mode = mode};
	long err = -EAGAIN;

	for (unsigned i = 0; err == -EAGAIN && i < EAGAIN_MAX; i++)
		err = bytes ? kernel_ioctl(pager->fd_uffd, UFFDIO_COPY, &copy)
			    : kernel_ioctl(pager->fd_uffd, UFFDIO_ZEROPAGE, &zero);
	if (err && err != -EEXIST && err != -ENOENT && err != -ESRCH)
		talk_fail(pager, SESSION_FAIL_KERNEL, page);
	return err;
}

/* How a fault is answered: at once, or (in a window) after the tables are in order. */
struct answer {
	uint64_t page;
	int tid;
	bool write, window;
};

static uint64_t wake_mode(const struct answer *answer)
{
	return answer->window ? UFFDIO_COPY_MODE_DONTWAKE : 0;
}

/* Places the page that a thread waits for. */
static long place_for(struct pager *pager, const struct answer *answer, const void *bytes,
		      uint64_t mode)
{
	long err;

	if (!answer->window)
		placement_hold(pager, answer->tid);
	err = place(pager, answer->page, bytes, mode | wake_mode(answer));
	if (err)
		fault_wake(pager, address_of(answer->page), KERNEL_PAGE_BYTES);
	if (!answer->window)
		placement_release(pager);
	return err;
}

static void serve_none(struct pager *pager, const struct answer *answer)
{
	uint64_t pages[PREFETCH_MAX];
	unsigned n = 0;
	const void *bytes = answer->write ? pager->zeros : NULL;

	if (!answer->window) {
		n = prefetch_plan(pager, answer->page, answer->tid, pages);
		evict_for(pager, 1);
	}
	COUNT(pager, faults_zero, 1);
	if (place_for(pager, answer, bytes, 0) == 0)
		fault_settle(pager, answer->page, PAGE_RESIDENT, 0,
			     fault_queue_of(pager, answer->page, 0));
	if (n > 0)
		evict_for(pager, n);
	for (unsigned i = 0; i < n; i++) {
		if (entry_state(page_table_get(pager, pages[i])) == PAGE_NONE &&
		    place(pager, pages[i], bytes, UFFDIO_COPY_MODE_DONTWAKE) == 0) {
			fault_settle(pager, pages[i], PAGE_RESIDENT, 0,
				     fault_queue_of(pager, pages[i], 0));
			fault_wake(pager, address_of(pages[i]), KERNEL_PAGE_BYTES);
		}
	}
}

/* One far page, whose bytes are here, comes in. */
static void bring(struct pager *pager, const struct answer *answer, uint64_t page,
		  const void *bytes)
{
	entry_t entry = page_table_get(pager, page);
	enum queue_kind kind = fault_queue_of(pager, page, entry);
	bool asked = page == answer->page;
	bool clean = !(asked && answer->write);
	uint64_t mode = clean ? UFFDIO_COPY_MODE_WP : 0;
	long err = asked ? place_for(pager, answer, bytes, mode) : place(pager, page, bytes, mode);

	COUNT(pager, pages_loaded, 1);
	if (!asked)
		COUNT(pager, prefetched, 1);
	if (err == -ENOENT || err == -ESRCH) {
		/* Unmapped without a word to us, or the process is ending. */
		return;
	}
	if (err == -EEXIST)
		clean = false;
	if (!clean)
		talk_drop_slot(pager, entry_slot(entry));
	fault_settle(pager, page, clean ? PAGE_CLEAN : PAGE_RESIDENT, clean ? entry_slot(entry) : 0,
		     kind);
}

static void bring_all(struct pager *pager, const struct answer *answer, const uint64_t *pages,
		      unsigned n)
{
	unsigned chunk_max = pager->backend->load_max;
	const void *bytes[LOADS_MAX];
	uint32_t slot[LOADS_MAX];

	for (unsigned done = 0; done < n;) {
		unsigned chunk = 0;

		for (; chunk < chunk_max && done + chunk < n; chunk++)
			slot[chunk] = entry_slot(page_table_get(pager, pages[done + chunk]));
		pager->backend->load(pager, slot, chunk, bytes, answer->page);
		for (unsigned i = 0; i < chunk; i++)
			bring(pager, answer, pages[done + i], bytes[i]);
		done += chunk;
	}
}

static void serve_far(struct pager *pager, const struct answer *answer)
{
	uint64_t pages[1 + PREFETCH_MAX] = {answer->page};
	unsigned planned = 0;
	unsigned n = 1;
	bool together = pager->backend->load_max > 1;

	COUNT(pager, faults_far, 1);
	if (!answer->window) {
		planned = prefetch_plan(pager, answer->page, answer->tid, pages + 1);
		for (unsigned i = 1; i <= planned; i++) {
			if (entry_state(page_table_get(pager, pages[i])) == PAGE_FAR)
				pages[n++] = pages[i];
		}
		evict_for(pager, together ? n : 1);
	}
	bring_all(pager, answer, pages, together ? n : 1);
	if (!together && n > 1) {
		evict_for(pager, n - 1);
		bring_all(pager, answer, pages + 1, n - 1);
	}
}

static void serve_evicting(struct pager *pager, const struct answer *answer, entry_t entry)
{
	struct store *store = &pager->stores.item[entry_index(entry)];

	if (place_for(pager, answer, store->bytes, 0) != 0)
		return;
	store->cancelled = true;
	fault_settle(pager, answer->page, PAGE_RESIDENT, 0, fault_queue_of(pager, answer->page, 0));
}

/* The table says that the page is here: then it is, or was taken away behind our back. */
static void serve_present(struct pager *pager, const struct answer *answer, entry_t entry)
{
	if (place_for(pager, answer, NULL, 0) != 0 || entry_state(entry) != PAGE_CLEAN)
		return;
	talk_drop_slot(pager, entry_slot(entry));
	page_table_set(pager, answer->page, entry_make(PAGE_RESIDENT, 0, entry_index(entry)));
}

/* A write to a protected page. False: the page is not here any more. */
static bool serve_protected(struct pager *pager, const struct answer *answer, entry_t entry)
{
	struct uffdio_writeprotect protection = {
		.range = {.start = address_of(answer->page), .len = KERNEL_PAGE_BYTES},
		.mode = answer->window ? UFFDIO_WRITEPROTECT_MODE_DONTWAKE : 0};
	enum page_state state = entry_state(entry);
	long err = -EAGAIN;

	if (state != PAGE_CLEAN && state != PAGE_RESIDENT)
		return false;
	if (!answer->window)
		placement_hold(pager, answer->tid);
	for (unsigned i = 0; err == -EAGAIN && i < EAGAIN_MAX; i++)
		err = kernel_ioctl(pager->fd_uffd, UFFDIO_WRITEPROTECT, &protection);
	if (err)
		fault_wake(pager, address_of(answer->page), KERNEL_PAGE_BYTES);
	if (!answer->window)
		placement_release(pager);
	if (state == PAGE_CLEAN) {
		talk_drop_slot(pager, entry_slot(entry));
		page_table_set(pager, answer->page,
			       entry_make(PAGE_RESIDENT, 0, entry_index(entry)));
		COUNT(pager, faults_write, 1);
	}
	return true;
}

static void serve(struct pager *pager, const struct answer *answer, bool protected)
{
	entry_t entry = page_table_get(pager, answer->page);

	if (!ranges_find(pager, address_of(answer->page))) {
		/* Not ours any more: whatever is there now begins as zeros. */
		place_for(pager, answer, NULL, 0);
		return;
	}
	if (protected && serve_protected(pager, answer, entry))
		return;
	switch (entry_state(entry)) {
	case PAGE_NONE:
		serve_none(pager, answer);
		break;
	case PAGE_FAR:
		serve_far(pager, answer);
		break;
	case PAGE_EVICTING:
		serve_evicting(pager, answer, entry);
		break;
	case PAGE_CLEAN:
	case PAGE_RESIDENT:
		serve_present(pager, answer, entry);
		break;
	}
}

static void note_latency(struct pager *pager, int64_t ns)
{
	struct session_counters *counters = &pager->session->counters;
	uint64_t latency_ns = ns > 0 ? (uint64_t)ns : 1;
	unsigned bucket = 63u - (unsigned)__builtin_clzll(latency_ns);

	COUNT(pager, fault_ns_sum, latency_ns);
	COUNT(pager, latency[bucket], 1);
	if (latency_ns > atomic_load_explicit(&counters->fault_ns_max, memory_order_relaxed))
		atomic_store_explicit(&counters->fault_ns_max, latency_ns, memory_order_relaxed);
}

void fault_serve(struct pager *pager, const struct uffd_msg *message, bool window)
{
	uint64_t flags = message->arg.pagefault.flags;
	struct answer answer = {.page = page_of((uintptr_t)message->arg.pagefault.address),
				.tid = (int)message->arg.pagefault.feat.ptid,
				.write = (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
				.window = window};
	int64_t began_ns = kernel_now_ns();

	if (message->event != UFFD_EVENT_PAGEFAULT || answer.page >= TABLE_PAGES)
		return;
	COUNT(pager, faults, 1);
	if (!window)
		placement_note(pager, answer.tid);
	serve(pager, &answer, (flags & UFFD_PAGEFAULT_FLAG_WP) != 0);
	note_latency(pager, kernel_now_ns() - began_ns);
	if (window)
		fault_wake(pager, address_of(answer.page), KERNEL_PAGE_BYTES);
}
