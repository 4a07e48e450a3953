/*
 * memory_calls.c: the memory calls of a program whose pages may be far
 *
 *   Each function is the whole system call, as the kernel answers it: a value, or a negative
 *   errno. The order of kernel and pager follows from R1 of preload.h:
 *
 *     contents are lost      release, discard, unreadable     pager, then kernel
 *     contents come to be    manage, move, readable           kernel, then pager
 *
 *   Whether a range is managed can be asked under the lock only. Where it is not, the lock is left
 *   before the kernel is called: unmapping a large file may take long, and faults would wait.
 */
#include "base/kernel_call.h"
#include "preload/preload.h"

#include <errno.h>
#include <linux/mman.h>
#include <sys/mman.h>

/* Newer than Debian 12's headers. */
#define ADVICE_COLLAPSE        25
#define ADVICE_DONTNEED_LOCKED 24
#define ADVICE_GUARD_INSTALL   102

/* Addresses that a program can have mapped: all but the first page, up to 2^47. */
#define EVERYWHERE_START ((uintptr_t)PRELOAD_PAGE_BYTES)
#define EVERYWHERE_LEN   (((size_t)1 << 47) - 2 * (size_t)PRELOAD_PAGE_BYTES)

/* What may be managed, and what is counted when it is not. */
static bool is_of_interest(const struct mapping *mapping)
{
	return preload.pager && (mapping->flags & MAP_TYPE) == MAP_PRIVATE &&
	       (mapping->flags & MAP_ANONYMOUS) && mapping->len >= PRELOAD_MANAGED_MIN;
}

static bool is_manageable(const struct mapping *mapping)
{
	const int local = MAP_STACK | MAP_LOCKED | MAP_HUGETLB | MAP_GROWSDOWN;

	return is_of_interest(mapping) && !(mapping->flags & local) &&
	       !(mapping->protection & PROT_EXEC) && !preload.lock_future;
}

static long kernel_map(const struct mapping *mapping, int flags)
{
	return kernel_call(SYS_mmap, (long)mapping->address, (long)mapping->len,
			   mapping->protection, flags, mapping->fd, mapping->offset);
}

static long kernel_unmap(uintptr_t address, size_t len)
{
	return kernel_call2(SYS_munmap, (long)address, (long)len);
}

/* Under the lock. Counted only while it is remembered, so that it can be uncounted. */
static void count_local(uintptr_t address, size_t len)
{
	if (marks_set(&preload.marks, MARK_LOCAL, address, address + len) == 0)
		pager_count_unmanaged(preload.pager, (int64_t)len);
}

/* Under the lock: the range is going, managed or not. */
static void forget(uintptr_t address, size_t len)
{
	uintptr_t end = address + len;
	size_t local = marks_bytes(&preload.marks, MARK_LOCAL, address, end);

	if (local > 0)
		pager_count_unmanaged(preload.pager, -(int64_t)local);
	marks_forget(&preload.marks, address, end);
}

/*
 * The mapping is about to replace managed memory. The kernel would leave the old contents alone if
 * it refused, and we could not: so a mapping just like it is tried elsewhere first.
 */
static long give_way(const struct mapping *mapping, size_t len)
{
	int flags = mapping->flags & ~(MAP_FIXED | MAP_POPULATE | MAP_LOCKED);
	long trial = kernel_map(mapping, flags);

	if (kernel_failed(trial))
		return trial;
	kernel_unmap((uintptr_t)trial, len);
	pager_release(preload.pager, mapping->address, len);
	return 0;
}

/* MAP_FIXED: under the lock, so that nothing is between what was there and what comes. */
static long replace(const struct mapping *mapping, int flags)
{
	size_t len = preload_whole_pages(mapping->len);
	struct pager_guard guard;
	long result = 0;
	bool managed;

	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, mapping->address, len) > 0;
	if (managed) {
		result = give_way(mapping, len);
		/* Populating would read files under the lock; the pages come when they are used. */
		if (result == 0)
			result = kernel_map(mapping, flags & ~MAP_POPULATE);
	}
	if (!kernel_failed(result))
		forget(mapping->address, len);
	pager_unlock(preload.pager, &guard);
	return managed ? result : kernel_map(mapping, flags);
}

long memory_map(const struct mapping *mapping)
{
	const int replaces = MAP_FIXED | MAP_FIXED_NOREPLACE;
	bool manageable = is_manageable(mapping);
	int flags = mapping->flags;
	struct pager_guard guard;
	long result;

	/* What is managed must come to us untouched: it is populated by use. */
	if (manageable)
		flags &= ~MAP_POPULATE;
	if (preload.pager && (flags & replaces) == MAP_FIXED && mapping->len > 0 &&
	    preload_on_page(mapping->address))
		result = replace(mapping, flags);
	else
		result = kernel_map(mapping, flags);
	if (!is_of_interest(mapping) || kernel_failed(result))
		return result;

	/* Nobody knows the address yet. If the pager has no room for it, it stays local. */
	size_t len = preload_whole_pages(mapping->len);

	pager_lock(preload.pager, &guard);
	if (!manageable ||
	    pager_manage(preload.pager, (uintptr_t)result, len, mapping->protection & PROT_READ))
		count_local((uintptr_t)result, len);
	pager_unlock(preload.pager, &guard);
	return result;
}

long memory_unmap(uintptr_t address, size_t len)
{
	size_t whole = preload_whole_pages(len);
	struct pager_guard guard;
	long result = 0;
	bool managed;

	if (!preload.pager || !preload_on_page(address) || whole == 0)
		return kernel_unmap(address, len);
	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, address, whole) > 0;
	if (managed) {
		pager_release(preload.pager, address, whole);
		result = kernel_unmap(address, whole);
	}
	forget(address, whole);
	pager_unlock(preload.pager, &guard);
	return managed ? result : kernel_unmap(address, len);
}

static long kernel_remap(const struct remapping *re)
{
	return kernel_call5(SYS_mremap, (long)re->from, (long)re->from_len, (long)re->to_len,
			    re->flags, (long)re->to);
}

/* Whether the kernel would refuse the arguments; asked before anything is given up for them. */
static bool is_absurd(const struct remapping *re)
{
	const int known = MREMAP_MAYMOVE | MREMAP_FIXED;
	size_t from_len = preload_whole_pages(re->from_len);
	size_t to_len = preload_whole_pages(re->to_len);

	if ((re->flags & ~known) || !preload_on_page(re->from) || to_len == 0 || from_len == 0)
		return true;
	if (!(re->flags & MREMAP_FIXED))
		return false;
	return !(re->flags & MREMAP_MAYMOVE) || !preload_on_page(re->to) ||
	       (re->from < re->to + to_len && re->to < re->from + from_len);
}

/* Under the lock; *locked: the program had locked it, and wants it locked when it has grown. */
static long remap_managed(const struct remapping *re, bool *locked)
{
	size_t from_len = preload_whole_pages(re->from_len);
	size_t to_len = preload_whole_pages(re->to_len);
	long result;

	/* MREMAP_DONTUNMAP among them: its callers have another way, for older kernels. */
	if (is_absurd(re))
		return -EINVAL;
	*locked = marks_any(&preload.marks, MARK_LOCKED, re->from, re->from + from_len);
	/* Locked memory is populated as it grows, and the pager could not serve that (R2). */
	if (*locked)
		kernel_call2(SYS_munlock, (long)re->from, (long)from_len);
	if (re->flags & MREMAP_FIXED) {
		pager_release(preload.pager, re->to, to_len);
		forget(re->to, to_len);
	}
	if (to_len < from_len) {
		pager_release(preload.pager, re->from + to_len, from_len - to_len);
		forget(re->from + to_len, from_len - to_len);
	}
	pager_before_move(preload.pager, re->from, from_len);
	result = kernel_remap(re);
	if (kernel_failed(result)) {
		pager_move(preload.pager, re->from, from_len, re->from, from_len);
	} else {
		pager_move(preload.pager, re->from, from_len, (uintptr_t)result, to_len);
		marks_move(&preload.marks, re->from, from_len, (uintptr_t)result, to_len);
	}
	return result;
}

/* Nothing of it is managed; what it was counted for moves with it. */
static long remap_local(const struct remapping *re)
{
	size_t from_len = preload_whole_pages(re->from_len);
	size_t to_len = preload_whole_pages(re->to_len);
	long result = kernel_remap(re);
	struct pager_guard guard;

	if (kernel_failed(result) || (re->flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)))
		return result;
	pager_lock(preload.pager, &guard);
	if (marks_any(&preload.marks, MARK_LOCAL, re->from, re->from + from_len)) {
		forget(re->from, from_len);
		count_local((uintptr_t)result, to_len);
	}
	pager_unlock(preload.pager, &guard);
	return result;
}

long memory_remap(const struct remapping *re)
{
	size_t from_len = preload_whole_pages(re->from_len);
	size_t to_len = preload_whole_pages(re->to_len);
	struct pager_guard guard;
	bool managed, locked = false;
	long result = 0;

	if (!preload.pager)
		return kernel_remap(re);
	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, re->from, from_len) > 0 ||
		  ((re->flags & MREMAP_FIXED) && pager_managed(preload.pager, re->to, to_len) > 0);
	if (managed)
		result = remap_managed(re, &locked);
	pager_unlock(preload.pager, &guard);
	if (!managed)
		return remap_local(re);
	if (locked && kernel_failed(result))
		kernel_call2(SYS_mlock, (long)re->from, (long)from_len);
	else if (locked)
		kernel_call2(SYS_mlock, result, (long)to_len);
	return result;
}

static long kernel_protect(uintptr_t address, size_t len, int protection, int key)
{
	if (key == -1)
		return kernel_call3(SYS_mprotect, (long)address, (long)len, protection);
	return kernel_call4(SYS_pkey_mprotect, (long)address, (long)len, protection, key);
}

long memory_protect(uintptr_t address, size_t len, int protection, int key)
{
	size_t whole = preload_whole_pages(len);
	/* The pager thread has the rights of no key but the common one. */
	bool readable = (protection & PROT_READ) && key <= 0;
	struct pager_guard guard;
	long result = 0;
	bool managed;

	if (!preload.pager || !preload_on_page(address) || whole == 0)
		return kernel_protect(address, len, protection, key);
	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, address, whole) > 0;
	if (managed) {
		/* If the kernel then fails, pages are held resident that need not be: no harm. */
		if (!readable)
			pager_set_readable(preload.pager, address, whole, false);
		result = kernel_protect(address, len, protection, key);
		if (readable && result == 0)
			pager_set_readable(preload.pager, address, whole, true);
	}
	pager_unlock(preload.pager, &guard);
	return managed ? result : kernel_protect(address, len, protection, key);
}

static long kernel_advise(uintptr_t address, size_t len, int advice)
{
	return kernel_call3(SYS_madvise, (long)address, (long)len, advice);
}

/* Advice about managed memory, under the lock. */
static long advise_managed(uintptr_t address, size_t len, int advice)
{
	uintptr_t end = address + len;
	struct marks *marks = &preload.marks;
	bool locked = marks_any(marks, MARK_LOCKED, address, end);
	int err = 0;

	switch (advice) {
	case MADV_FREE: /* may empty the pages at any time: now is one */
		advice = MADV_DONTNEED;
		__attribute__((fallthrough));
	case MADV_DONTNEED:
	case ADVICE_GUARD_INSTALL:
		if (locked)
			return -EINVAL;
		__attribute__((fallthrough));
	case ADVICE_DONTNEED_LOCKED:
		pager_discard(preload.pager, address, len);
		return kernel_advise(address, len, advice);
	case MADV_DONTFORK:
		err = marks_set(marks, MARK_ABSENT_IN_CHILD, address, end);
		break;
	case MADV_DOFORK:
		err = marks_clear(marks, MARK_ABSENT_IN_CHILD, address, end);
		break;
	case MADV_WIPEONFORK:
		err = marks_set(marks, MARK_EMPTY_IN_CHILD, address, end);
		break;
	case MADV_KEEPONFORK:
		err = marks_clear(marks, MARK_EMPTY_IN_CHILD, address, end);
		break;
	default: /* larger or merged pages, or another kind of swap: advice that we do not take */
		break;
	}
	return err ? -EAGAIN : 0;
}

static bool concerns_us(int advice)
{
	switch (advice) {
	case MADV_FREE:
	case MADV_DONTNEED:
	case ADVICE_DONTNEED_LOCKED:
	case ADVICE_GUARD_INSTALL:
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
	case MADV_HUGEPAGE:
	case ADVICE_COLLAPSE:
	case MADV_MERGEABLE:
	case MADV_COLD:
	case MADV_PAGEOUT:
		return true;
	default: /* among them populating, which must not be done under the lock */
		return false;
	}
}

long memory_advise(uintptr_t address, size_t len, int advice)
{
	size_t whole = preload_whole_pages(len);
	struct pager_guard guard;
	long result = 0;
	bool managed;

	if (!preload.pager || !preload_on_page(address) || whole == 0 || !concerns_us(advice))
		return kernel_advise(address, len, advice);
	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, address, whole) > 0;
	if (managed)
		result = advise_managed(address, whole, advice);
	pager_unlock(preload.pager, &guard);
	return managed ? result : kernel_advise(address, len, advice);
}

/* Pins what is managed, and says whether anything is. */
static bool pin(uintptr_t start, uintptr_t end)
{
	struct pager_guard guard;
	bool managed;

	pager_lock(preload.pager, &guard);
	managed = pager_managed(preload.pager, start, end - start) > 0;
	if (managed)
		pager_set_pinned(preload.pager, start, end - start, true);
	pager_unlock(preload.pager, &guard);
	return managed;
}

/* Under the lock. What is pinned for a lock of its own stays so. */
static void unpin(uintptr_t start, uintptr_t end)
{
	const struct marks *marks = &preload.marks;

	pager_set_pinned(preload.pager, start, end - start, false);
	for (unsigned i = 0; i < marks->count; i++) {
		const struct mark *mark = &marks->mark[i];

		if (mark->kind == MARK_LOCKED)
			pager_set_pinned(preload.pager, mark->start, mark->end - mark->start, true);
	}
}

/*
 * The range was pinned and the kernel has answered. Only now it is marked, so that a failure leaves
 * the marks of earlier locks as they were.
 */
static long settle_lock(uintptr_t start, uintptr_t end, long result)
{
	struct pager_guard guard;

	pager_lock(preload.pager, &guard);
	if (result == 0 && marks_set(&preload.marks, MARK_LOCKED, start, end))
		result = -ENOMEM;
	if (result)
		unpin(start, end);
	pager_unlock(preload.pager, &guard);
	return result;
}

long memory_lock(uintptr_t address, size_t len, unsigned flags)
{
	uintptr_t start = address & ~(uintptr_t)(PRELOAD_PAGE_BYTES - 1);
	uintptr_t end = preload_whole_pages(address + len);
	bool pinned = preload.pager && start < end && pin(start, end);
	/* Not under the lock: the kernel touches every page (R2). */
	long result = flags ? kernel_call3(SYS_mlock2, (long)address, (long)len, (long)flags)
			    : kernel_call2(SYS_mlock, (long)address, (long)len);

	return pinned ? settle_lock(start, end, result) : result;
}

long memory_unlock(uintptr_t address, size_t len)
{
	uintptr_t start = address & ~(uintptr_t)(PRELOAD_PAGE_BYTES - 1);
	uintptr_t end = preload_whole_pages(address + len);
	long result = kernel_call2(SYS_munlock, (long)address, (long)len);
	struct pager_guard guard;

	if (!preload.pager || start >= end || result)
		return result;
	pager_lock(preload.pager, &guard);
	if (marks_any(&preload.marks, MARK_LOCKED, start, end)) {
		/* A mark too many holds pages that need not be held: no harm. */
		if (marks_clear(&preload.marks, MARK_LOCKED, start, end) == 0)
			unpin(start, end);
	}
	pager_unlock(preload.pager, &guard);
	return 0;
}

/*
 * Everything there is includes the pager's table, far larger than the machine and hardly touched:
 * so pages are locked as they are touched, instead of being touched at once.
 */
long memory_lock_all(int flags)
{
	uintptr_t end = EVERYWHERE_START + EVERYWHERE_LEN;
	bool pinned = preload.pager && (flags & MCL_CURRENT) && pin(EVERYWHERE_START, end);
	bool lazy = preload.pager && (flags & (MCL_CURRENT | MCL_FUTURE));
	long result = kernel_call1(SYS_mlockall, lazy ? flags | MCL_ONFAULT : flags);

	if (pinned)
		result = settle_lock(EVERYWHERE_START, end, result);
	if (result == 0)
		preload.lock_future = flags & MCL_FUTURE;
	return result;
}

long memory_unlock_all(void)
{
	uintptr_t end = EVERYWHERE_START + EVERYWHERE_LEN;
	long result = kernel_call0(SYS_munlockall);
	struct pager_guard guard;

	if (!preload.pager || result)
		return result;
	pager_lock(preload.pager, &guard);
	preload.lock_future = false;
	if (marks_any(&preload.marks, MARK_LOCKED, EVERYWHERE_START, end)) {
		marks_clear(&preload.marks, MARK_LOCKED, EVERYWHERE_START, end);
		unpin(EVERYWHERE_START, end);
	}
	pager_unlock(preload.pager, &guard);
	return 0;
}

/* The first mark of a kind; the child changes the table as it goes. */
static bool first_mark(enum mark_kind kind, struct mark *found)
{
	for (unsigned i = 0; i < preload.marks.count; i++) {
		if (preload.marks.mark[i].kind == kind) {
			*found = preload.marks.mark[i];
			return true;
		}
	}
	return false;
}

void memory_after_fork(void)
{
	struct pager_guard guard;
	struct mark mark;

	/* A child inherits no locks. */
	preload.lock_future = false;
	pager_lock(preload.pager, &guard);
	if (first_mark(MARK_LOCKED, &mark)) {
		marks_clear(&preload.marks, MARK_LOCKED, 0, UINTPTR_MAX);
		unpin(EVERYWHERE_START, EVERYWHERE_START + EVERYWHERE_LEN);
	}
	for (unsigned i = 0; i < preload.marks.count; i++) {
		mark = preload.marks.mark[i];
		if (mark.kind == MARK_EMPTY_IN_CHILD)
			advise_managed(mark.start, mark.end - mark.start, MADV_DONTNEED);
	}
	pager_unlock(preload.pager, &guard);
	while (first_mark(MARK_ABSENT_IN_CHILD, &mark)) {
		memory_unmap(mark.start, mark.end - mark.start);
		/* Also where nothing of it was managed any more. */
		marks_clear(&preload.marks, MARK_ABSENT_IN_CHILD, mark.start, mark.end);
	}
}
