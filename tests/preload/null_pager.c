/*
 * null_pager.c: a pager that moves nothing, and is strict about how it is called
 *
 *   It stands behind pager.h in the place of the real one when the redirected calls are tested by
 *   themselves. It knows which ranges are managed, and ends the process when a call breaks the
 *   contract: an address off its page, a range managed twice or touched before it is managed, the
 *   lock not held, a signal not blocked. When the process ends it appends one line of counts to
 *   the file that AFAR_NULL_PAGER_REPORT names.
 */
#include "base/kernel_call.h"
#include "pager/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANGES_MAX 4096u
#define PAGE       UINT64_C(4096)

struct range {
	uintptr_t start, end;
	bool readable, pinned;
};

struct pager {
	_Atomic int holder; /* thread that holds the lock */
	struct range range[RANGES_MAX];
	unsigned count;
	uint64_t managed, discarded, released, moved, protected, pinned, forks, managed_bytes_max;
	int64_t unmanaged;
};

static struct pager the_pager;

static int self(void)
{
	return (int)kernel_call0(SYS_gettid);
}

static void broken(const char *what, uintptr_t address, size_t len)
{
	dprintf(2, "null pager: %s (%#" PRIxPTR ", %#zx)\n", what, address, len);
	abort();
}

static void require(const struct pager *pager, uintptr_t address, size_t len)
{
	if (pager->holder != self())
		broken("called without the lock", address, len);
	if (pager_managed(pager, (uintptr_t)&address & ~(PAGE - 1), PAGE))
		broken("called on a stack that may be far", (uintptr_t)&address, 0);
	if (address % PAGE || len % PAGE || address + len < address)
		broken("not whole pages", address, len);
}

int pager_start(const struct pager_options *options, struct pager **pager)
{
	if (options->token == 0xdead)
		return -EPERM;
	*pager = &the_pager;
	return 0;
}

void pager_lock(struct pager *pager, struct pager_guard *guard)
{
	const uint64_t all = ~UINT64_C(0);
	int nobody = 0;

	kernel_call4(SYS_rt_sigprocmask, 0, (long)&all, (long)&guard->signals, sizeof(all));
	if (pager->holder == self())
		broken("locked twice by one thread", 0, 0);
	while (!atomic_compare_exchange_weak(&pager->holder, &nobody, self())) {
		nobody = 0;
		kernel_call0(SYS_sched_yield);
	}
}

void pager_unlock(struct pager *pager, const struct pager_guard *guard)
{
	if (pager->holder != self())
		broken("unlocked by another", 0, 0);
	atomic_store(&pager->holder, 0);
	kernel_call4(SYS_rt_sigprocmask, 2, (long)&guard->signals, 0, sizeof(guard->signals));
}

static void add(struct pager *pager, struct range range)
{
	for (unsigned i = 0; i < pager->count; i++) {
		struct range *other = &pager->range[i];

		if (other->end == range.start && other->readable == range.readable &&
		    other->pinned == range.pinned) {
			other->end = range.end;
			return;
		}
	}
	if (pager->count == RANGES_MAX)
		broken("too many ranges for a test", range.start, range.end - range.start);
	pager->range[pager->count++] = range;
}

/* Cuts ranges so that none crosses `at`. */
static void split(struct pager *pager, uintptr_t at)
{
	for (unsigned i = 0; i < pager->count; i++) {
		struct range *range = &pager->range[i];

		if (range->start < at && at < range->end) {
			struct range upper = *range;

			range->end = at;
			upper.start = at;
			if (pager->count == RANGES_MAX)
				broken("too many ranges for a test", at, 0);
			pager->range[pager->count++] = upper;
			return;
		}
	}
}

static void drop(struct pager *pager, uintptr_t start, uintptr_t end)
{
	split(pager, start);
	split(pager, end);
	for (unsigned i = 0; i < pager->count;) {
		if (start <= pager->range[i].start && pager->range[i].end <= end)
			pager->range[i] = pager->range[--pager->count];
		else
			i++;
	}
}

size_t pager_managed(const struct pager *pager, uintptr_t address, size_t len)
{
	uintptr_t end = address + len;
	size_t bytes = 0;

	if (pager->holder != self())
		broken("asked without the lock", address, len);
	for (unsigned i = 0; i < pager->count; i++) {
		const struct range *range = &pager->range[i];
		uintptr_t low = range->start > address ? range->start : address;
		uintptr_t high = range->end < end ? range->end : end;

		bytes += low < high ? high - low : 0;
	}
	return bytes;
}

/* A page that is here was touched before we were told of it. */
static void require_untouched(uintptr_t address, size_t len)
{
	unsigned char here[256];

	for (uintptr_t at = address; at < address + len && at < address + 64 * PAGE * 256;) {
		size_t step = address + len - at;

		step = step < sizeof(here) * PAGE ? step : sizeof(here) * PAGE;
		if (kernel_call3(SYS_mincore, (long)at, (long)step, (long)here))
			broken("managed, but not mapped", at, step);
		for (size_t i = 0; i < step / PAGE; i++) {
			if (here[i] & 1)
				broken("managed after it was touched", at + i * PAGE, PAGE);
		}
		at += step;
	}
}

int pager_manage(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
	size_t bytes = 0;

	require(pager, address, len);
	if (len == 0 || pager_managed(pager, address, len))
		broken("managed twice, or empty", address, len);
	require_untouched(address, len);
	add(pager, (struct range){address, address + len, readable, false});
	pager->managed++;
	for (unsigned i = 0; i < pager->count; i++)
		bytes += pager->range[i].end - pager->range[i].start;
	if (bytes > pager->managed_bytes_max)
		pager->managed_bytes_max = bytes;
	return 0;
}

void pager_discard(struct pager *pager, uintptr_t address, size_t len)
{
	require(pager, address, len);
	pager->discarded++;
}

void pager_release(struct pager *pager, uintptr_t address, size_t len)
{
	require(pager, address, len);
	drop(pager, address, address + len);
	pager->released++;
}

void pager_before_move(struct pager *pager, uintptr_t from, size_t from_len)
{
	require(pager, from, from_len);
}

void pager_move(struct pager *pager, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len)
{
	bool tail = from_len > 0 && pager_managed(pager, from + from_len - PAGE, PAGE) > 0;
	struct range moved[64];
	unsigned count = 0;

	require(pager, from, from_len);
	require(pager, to, to_len);
	split(pager, from);
	split(pager, from + from_len);
	for (unsigned i = 0; i < pager->count; i++) {
		struct range range = pager->range[i];

		if (range.start < from || range.end > from + from_len)
			continue;
		range.start = to + (range.start - from);
		range.end = to + (range.end - from);
		if (range.end > to + to_len)
			range.end = to + to_len;
		if (range.start < range.end && count < 64)
			moved[count++] = range;
	}
	drop(pager, from, from + from_len);
	for (unsigned i = 0; i < count; i++)
		add(pager, moved[i]);
	if (tail && to_len > from_len)
		add(pager, (struct range){to + from_len, to + to_len, true, false});
	pager->moved++;
}

static void set(struct pager *pager, uintptr_t address, size_t len, const bool *readable,
		const bool *pinned)
{
	require(pager, address, len);
	split(pager, address);
	split(pager, address + len);
	for (unsigned i = 0; i < pager->count; i++) {
		struct range *range = &pager->range[i];

		if (range->start < address || range->end > address + len)
			continue;
		range->readable = readable ? *readable : range->readable;
		range->pinned = pinned ? *pinned : range->pinned;
	}
}

void pager_set_readable(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
	set(pager, address, len, &readable, NULL);
	pager->protected ++;
}

void pager_set_pinned(struct pager *pager, uintptr_t address, size_t len, bool pinned)
{
	set(pager, address, len, NULL, &pinned);
	pager->pinned++;
}

void pager_count_unmanaged(struct pager *pager, int64_t bytes)
{
	pager->unmanaged += bytes;
	if (pager->unmanaged < 0)
		broken("less than nothing is unmanaged", 0, (size_t)-pager->unmanaged);
}

bool pager_is_far(const struct pager *pager, uintptr_t address)
{
	return false;
}

int pager_fork_prepare(struct pager *pager, struct pager_guard *guard)
{
	pager_lock(pager, guard);
	pager->forks++;
	return 0;
}

void pager_fork_parent(struct pager *pager, struct pager_guard *guard, bool child_born)
{
	pager_unlock(pager, guard);
}

int pager_fork_child(struct pager *pager, struct pager_guard *guard)
{
	/* The one thread of the child has another number than the one that took the lock. */
	atomic_store(&pager->holder, self());
	pager_unlock(pager, guard);
	return 0;
}

__attribute__((destructor)) static void report(void)
{
	const char *path = getenv("AFAR_NULL_PAGER_REPORT");
	const struct pager *pager = &the_pager;
	int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	dprintf(fd,
		"manage %" PRIu64 " discard %" PRIu64 " release %" PRIu64 " move %" PRIu64
		" protect %" PRIu64 " pin %" PRIu64 " fork %" PRIu64 " bytes %" PRIu64 "\n",
		pager->managed, pager->discarded, pager->released, pager->moved, pager->protected,
		pager->pinned, pager->forks, pager->managed_bytes_max);
	close(fd);
}
