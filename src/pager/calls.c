/*
 * calls.c: what the program's threads call when their memory changes
 *
 *   All under the lock, so that the pager thread serves no fault and evicts nothing meanwhile. The
 *   caller's own system call belongs to the same bracket: tables and kernel change together.
 */
#include "pager/state.h"

#include <errno.h>

#define TRIM_BYTES (UINT64_C(4) << 20) /* released ranges from this size give back table memory */

static void count_managed(struct pager *pager, int64_t bytes)
{
	atomic_fetch_add_explicit(&pager->session->managed_bytes, (uint64_t)bytes,
				  memory_order_relaxed);
}

size_t pager_managed(const struct pager *pager, uintptr_t address, size_t len)
{
	uintptr_t end = address + len;
	size_t managed = 0;

	while (address < end) {
		const struct range *range = ranges_first(pager, address);

		if (!range || range->start >= end)
			break;
		managed += (range->end < end ? range->end : end) -
			   (range->start > address ? range->start : address);
		address = range->end;
	}
	return managed;
}

static void forget_pages(struct pager *pager, uintptr_t address, size_t len)
{
	uint64_t end = page_of(address + len);

	for (uint64_t page = page_table_next(pager, page_of(address), end); page < end;
	     page = page_table_next(pager, page + 1, end))
		evict_forget(pager, page);
	if (len >= TRIM_BYTES)
		page_table_trim(pager, page_of(address), end);
	queues_publish(pager);
}

int pager_manage(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
	int err;

	if (len == 0 || page_of(address + len) > TABLE_PAGES)
		return -ENOSPC;
	pager_release(pager, address, len);
	if (pager->active && pager_mail(pager, MAIL_REGISTER, address, len))
		return -ENOSPC;
	err = ranges_add(pager, address, address + len, readable ? 0 : RANGE_UNREADABLE);
	if (err)
		return err;
	if (pager->active)
		kernel_madvise(address, len, MADV_DONTFORK);
	count_managed(pager, (int64_t)len);
	return 0;
}

void pager_discard(struct pager *pager, uintptr_t address, size_t len)
{
	forget_pages(pager, address, len);
}

void pager_release(struct pager *pager, uintptr_t address, size_t len)
{
	size_t managed = pager_managed(pager, address, len);

	if (managed == 0)
		return;
	forget_pages(pager, address, len);
	ranges_remove(pager, address, address + len);
	count_managed(pager, -(int64_t)managed);
}

/* What is under way or here now lies at another address. */
static void move_page(struct pager *pager, uint64_t from, uint64_t to)
{
	entry_t entry = page_table_get(pager, from);

	switch (entry_state(entry)) {
	case PAGE_NONE:
		return;
	case PAGE_CLEAN:
		/* The protection did not move with the page. */
		talk_drop_slot(pager, entry_slot(entry));
		entry = entry_make(PAGE_RESIDENT, 0, entry_index(entry));
		queues_rename(pager, entry_index(entry), to);
		break;
	case PAGE_RESIDENT:
		queues_rename(pager, entry_index(entry), to);
		break;
	case PAGE_EVICTING:
		pager->stores.item[entry_index(entry)].page = to;
		break;
	case PAGE_FAR:
		break;
	}
	page_table_set(pager, from, 0);
	page_table_set(pager, to, entry);
}

static void grow_in_place(struct pager *pager, uintptr_t address, size_t before, size_t after)
{
	const struct range *range = ranges_find(pager, address + before - KERNEL_PAGE_BYTES);

	if (!range || after <= before)
		return;

	uint32_t flags = range->flags;

	if (pager_manage(pager, address + before, after - before, true) == 0)
		ranges_set(pager, address + before, address + after, flags, 0);
}

/*
 * A moved mapping is watched no more (there is no EVENT_REMAP), and the kernel says so of the
 * whole of what it merged it with. Mappings of which one is inherited and one is not are never
 * merged: so the one that moves is, until it is registered again.
 */
void pager_before_move(struct pager *pager, uintptr_t from, size_t from_len)
{
	if (pager->active)
		kernel_madvise(from, from_len, MADV_DOFORK);
}

/* What is managed of it is not inherited again. */
static void keep_from_children(struct pager *pager, uintptr_t start, uintptr_t end)
{
	const struct range *range = ranges_first(pager, start);

	for (; range && range->start < end; range = ranges_first(pager, start)) {
		uintptr_t first = range->start > start ? range->start : start;

		start = range->end < end ? range->end : end;
		kernel_madvise(first, start - first, MADV_DONTFORK);
		if (start == end)
			break;
	}
}

void pager_move(struct pager *pager, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len)
{
	const struct range *range = ranges_find(pager, from);
	uint64_t end = page_of(from + (from_len < to_len ? from_len : to_len));
	uint32_t flags;

	if (from_len > to_len)
		pager_release(pager, from + to_len, from_len - to_len);
	if (from == to) {
		if (pager->active)
			keep_from_children(pager, from, from + from_len);
		grow_in_place(pager, from, from_len, to_len);
		return;
	}
	if (!range)
		return;
	flags = range->flags;
	if (pager_manage(pager, to, to_len, !(flags & RANGE_UNREADABLE))) {
		/* Far pages would have no way back: this cannot be served. */
		pager_broken("a moved mapping cannot be watched");
	}
	ranges_set(pager, to, to + to_len, flags, 0);
	for (uint64_t page = page_table_next(pager, page_of(from), end); page < end;
	     page = page_table_next(pager, page + 1, end))
		move_page(pager, page, page_of(to) + (page - page_of(from)));
	pager_release(pager, from, from_len);
}

/* Resident pages of the range go to the queue that its flags ask for. */
static void requeue(struct pager *pager, uintptr_t address, size_t len)
{
	uint64_t end = page_of(address + len);

	for (uint64_t page = page_table_next(pager, page_of(address), end); page < end;
	     page = page_table_next(pager, page + 1, end)) {
		entry_t entry = page_table_get(pager, page);

		if (entry_state(entry) == PAGE_RESIDENT || entry_state(entry) == PAGE_CLEAN)
			queues_move(pager, entry_index(entry), fault_queue_of(pager, page, entry));
	}
}

void pager_set_readable(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
	if (ranges_set(pager, address, address + len, readable ? 0 : RANGE_UNREADABLE,
		       readable ? RANGE_UNREADABLE : 0))
		pager_broken("too many ranges of memory");
	requeue(pager, address, len);
}

void pager_set_pinned(struct pager *pager, uintptr_t address, size_t len, bool pinned)
{
	if (ranges_set(pager, address, address + len, pinned ? RANGE_PINNED : 0,
		       pinned ? 0 : RANGE_PINNED))
		pager_broken("too many ranges of memory");
	requeue(pager, address, len);
}

void pager_count_unmanaged(struct pager *pager, int64_t bytes)
{
	atomic_fetch_add_explicit(&pager->session->counters.unmanaged_bytes, (uint64_t)bytes,
				  memory_order_relaxed);
}

bool pager_is_far(const struct pager *pager, uintptr_t address)
{
	if (page_of(address) >= TABLE_PAGES || !ranges_find(pager, address))
		return false;

	enum page_state state = entry_state(page_table_get(pager, page_of(address)));

	return state == PAGE_FAR || state == PAGE_EVICTING;
}
