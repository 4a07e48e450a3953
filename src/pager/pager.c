/*
 * pager.c: start and stop, the lock, the mailbox, and what the program's threads may call
 *
 * The lock is one word
 *
 *     HELD      somebody has it
 *     WAITERS   somebody sleeps on the word: who lets go wakes one
 *     WINDOW    its holder, a thread of the program, waits for the pager thread, which may use
 *               everything on its behalf: an errand in the mailbox, or the holder's own faults
 *
 *   The pager thread finds the window when it wants the lock. It may be asleep on the word then:
 *   opening the window changes the word and wakes all sleepers, so none sleeps through it.
 *
 *   Under load the pager takes the lock again as soon as it has let go. So that the program's
 *   threads have their turn it first lets one of those that wait pass.
 *
 * The doorbell
 *
 *   is a page that is registered and absent. Who touches it sleeps in the kernel until the pager
 *   thread has read of it, has done the errand, and answers with a page of zeros.
 */
#include "pager/pager.h"

#include "pager/state.h"

#include <errno.h>
#include <string.h>

#define LOCK_HELD    1u
#define LOCK_WAITERS 2u
#define LOCK_WINDOW  4u

#define SPINS       100u
#define TURN_NS     INT64_C(200000)
#define STACK_BELOW (16u * 1024) /* of the stack pointer: what a memory call may use */
#define STACK_ABOVE (8u * 1024)
#define STATE_BYTES ((sizeof(struct pager) + KERNEL_PAGE_BYTES - 1) & ~(KERNEL_PAGE_BYTES - 1))
#define OWN_PAGES   (2 + LIMBO_PAGES + 2) /* the bells, limbo, zeros, bounce */

void pager_broken(const char *promise)
{
	kernel_write(2, "afar: ", 6);
	kernel_write(2, promise, strlen(promise));
	kernel_write(2, "\n", 1);
	kernel_exit_group(STATUS_FAILURE);
}

/* Takes the lock. False: only for the pager thread, a window is open. */
static bool take(struct pager *pager, bool is_pager_thread)
{
	uint32_t value = 0;

	if (atomic_compare_exchange_strong_explicit(&pager->lock, &value, LOCK_HELD,
						    memory_order_acquire, memory_order_relaxed))
		return true;
	for (;;) {
		value = atomic_load_explicit(&pager->lock, memory_order_acquire);
		if (value == 0) {
			/* Others may sleep on it still: whoever came by sleep says so. */
			if (atomic_compare_exchange_strong_explicit(
				    &pager->lock, &value, LOCK_HELD | LOCK_WAITERS,
				    memory_order_acquire, memory_order_relaxed))
				return true;
			continue;
		}
		if (is_pager_thread && value & LOCK_WINDOW)
			return false;
		if (!(value & LOCK_WAITERS) &&
		    !atomic_compare_exchange_strong(&pager->lock, &value, value | LOCK_WAITERS))
			continue;
		kernel_futex_wait(&pager->lock, value | LOCK_WAITERS, -1);
	}
}

static void give(struct pager *pager)
{
	if (atomic_exchange_explicit(&pager->lock, 0, memory_order_release) & LOCK_WAITERS)
		kernel_futex_wake(&pager->lock, 1);
}

bool pager_thread_lock(struct pager *pager)
{
	/* One turn for the program's threads, if they wait; no longer than they need to wake. */
	if (atomic_load(&pager->callers) > 0) {
		uint32_t turns = atomic_load(&pager->turns);

		atomic_store(&pager->yields, 1);
		if (atomic_load(&pager->callers) > 0 && atomic_load(&pager->lock) == 0)
			kernel_futex_wait(&pager->turns, turns, TURN_NS);
		atomic_store(&pager->yields, 0);
	}
	return take(pager, true);
}

void pager_thread_unlock(struct pager *pager)
{
	give(pager);
}

void pager_window_close(struct pager *pager)
{
	atomic_fetch_and(&pager->lock, ~LOCK_WINDOW);
}

int pager_mail(struct pager *pager, enum mail kind, uintptr_t address, size_t len)
{
	uint32_t done = atomic_load(&pager->mail.done);

	pager->mail.kind = kind;
	pager->mail.address = address;
	pager->mail.len = len;
	pager->window_tid = kernel_gettid();
	kernel_madvise(pager->doorbell, KERNEL_PAGE_BYTES, MADV_DONTNEED);
	atomic_fetch_or(&pager->lock, LOCK_WINDOW);
	kernel_futex_wake(&pager->lock, INT32_MAX);
	*(volatile const char *)pager->doorbell;
	/* Who answers the doorbell has counted first. */
	PAGER_CHECK(atomic_load(&pager->mail.done) != done);
	return pager->mail.result;
}

/* Under the lock: a page around our stack pointer that is managed and not writable; 0: none. */
static uintptr_t missing_stack(const struct pager *pager, uintptr_t stack)
{
	if (!pager->active)
		return 0;
	for (uintptr_t at = stack - STACK_BELOW; at < stack + STACK_ABOVE;
	     at += KERNEL_PAGE_BYTES) {
		const struct range *range = ranges_find(pager, at);

		if (range && !(range->flags & RANGE_UNREADABLE) &&
		    entry_state(page_table_get(pager, page_of(at))) != PAGE_RESIDENT)
			return at;
	}
	return 0;
}

/*
 * A write that changes nothing: the pager brings the page, writable. An exchange, because compilers
 * make a plain load of an addition of nothing.
 */
static void touch(uintptr_t address)
{
	_Atomic unsigned char *byte = (_Atomic unsigned char *)address;
	unsigned char value = atomic_load_explicit(byte, memory_order_relaxed);

	atomic_compare_exchange_strong(byte, &value, value);
}

void pager_lock(struct pager *pager, struct pager_guard *guard)
{
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
	uintptr_t missing;

	guard->signals = 0;
	kernel_signals_set(UINT64_MAX, &guard->signals);
	atomic_fetch_add(&pager->callers, 1);
	take(pager, false);
	while ((missing = missing_stack(pager, stack)) != 0) {
		give(pager);
		touch(missing);
		take(pager, false);
	}
	atomic_fetch_sub(&pager->callers, 1);
	/* Total orders on both words: either we see that it yields, or it sees our turn. */
	atomic_fetch_add(&pager->turns, 1);
	if (atomic_load(&pager->yields))
		kernel_futex_wake(&pager->turns, 1);
}

void pager_unlock(struct pager *pager, const struct pager_guard *guard)
{
	uint64_t blocked = 0;

	give(pager);
	kernel_signals_set(guard->signals, &blocked);
}

/* Maps the pager's own memory: its state, the bells, the limbo, two pages more. */
static struct pager *map_state(void)
{
	unsigned char *memory =
		kernel_mmap(STATE_BYTES + (size_t)OWN_PAGES * KERNEL_PAGE_BYTES,
			    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pager *pager = (struct pager *)(void *)memory;

	if (kernel_is_error(memory))
		return NULL;
	memory += STATE_BYTES;
	kernel_madvise((uintptr_t)memory, (size_t)OWN_PAGES * KERNEL_PAGE_BYTES, MADV_NOHUGEPAGE);
	pager->doorbell = (uintptr_t)memory;
	pager->bell = pager->doorbell + KERNEL_PAGE_BYTES;
	pager->limbo = memory + 2 * KERNEL_PAGE_BYTES;
	pager->zeros = memory + (2 + LIMBO_PAGES) * KERNEL_PAGE_BYTES;
	pager->bounce = pager->zeros + KERNEL_PAGE_BYTES;
	/* Present, so that the kernel copies from it and not from nothing. */
	*(volatile unsigned char *)pager->zeros = 0;
	return pager;
}

static void unmap_state(struct pager *pager)
{
	kernel_munmap(pager, STATE_BYTES + (size_t)OWN_PAGES * KERNEL_PAGE_BYTES);
}

int pager_start(const struct pager_options *options, struct pager **started)
{
	struct pager *pager;
	int err;

	if (strlen(options->socket_path) >= sizeof(pager->socket_path))
		return -ENAMETOOLONG;
	pager = map_state();
	if (!pager)
		return -ENOMEM;
	pager->options = *options;
	memcpy(pager->socket_path, options->socket_path, strlen(options->socket_path));
	pager->options.socket_path = pager->socket_path;
	pager->hash = page_hash_choose();
	err = page_table_map(pager);
	if (err)
		goto out_state;
	err = thread_start(pager);
	if (err)
		goto out_table;
	*started = pager;
	return 0;
out_table:
	page_table_unmap(pager);
out_state:
	unmap_state(pager);
	return err;
}

void pager_stop(struct pager *pager)
{
	struct pager_guard guard;

	pager_lock(pager, &guard);
	pager_mail(pager, MAIL_STOP, 0, 0);
	thread_join(pager);
	pager_unlock(pager, &guard);
	page_table_unmap(pager);
	unmap_state(pager);
}
