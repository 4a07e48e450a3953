/*
 * pager.h: the pager of one process, which keeps part of its memory far away
 *
 * What lives here
 *
 *   The pager manages *ranges* of private anonymous memory of its own process. Once active they
 *   are registered with userfaultfd (MISSING and WP), and each page is in one state:
 *
 *          first touch: zeros                  evict: zero page, or discard
 *     NONE ───────────────────► RESIDENT ──────────────────────────────────► NONE
 *                                │    ▲ write: the kernel tells (WP)
 *                   evict: store │    │ slot dropped or kept for overwriting
 *                                ▼    │
 *     FAR(slot) ◄─evict: drop── CLEAN(slot)  resident, write-protected, and its slot still valid
 *         └──────── fault ────────►   (a write fault goes to RESIDENT at once)
 *
 *   and PINNED (locked or unreadable: stays resident until it is released).
 *
 * Who runs what
 *
 *   One *pager thread* a process, begun by a raw clone with its own descriptor table and no C
 *   library state (a pthread in sanitizer builds): it reads the userfaultfd, serves faults, evicts
 *   between faults, talks to the supervisor (session.h). The program's threads call the functions
 *   below from the redirected memory calls (src/preload). Both sides take the pager's one lock;
 *   a caller first blocks all signals, because a handler that touched far memory while its thread
 *   held the lock would wait for ever. Under the lock nobody touches managed memory but the pager
 *   thread, and it only pages it knows to be resident and readable.
 *
 *   A program's thread has no descriptor of ours (a program may close all it sees): what needs one
 *   is asked of the pager thread through a mailbox whose doorbell is itself a fault: a page that
 *   is registered and absent.
 *
 *   While a program's thread holds the lock the pager serves nobody, with one exception: between
 *   pager_fork_prepare() and its end it serves the faults of the forking thread itself, and evicts
 *   nothing. So fork may take the C library's locks, which lie in far memory as well as any other.
 *
 * Invariants
 *
 *   G1  A page leaves memory only after its contents are protected: stored and acknowledged, or
 *       all zeros, or equal to a slot that is still held.
 *   G2  Between the copy of a page and its drop it cannot change: it is write-protected, and a
 *       write fault that comes in between waits in the userfaultfd until the page is gone or freed
 *       from protection.
 *   G3  A slot with several references is never overwritten (S1).
 *   G4  What comes back is what was stored: the hash is compared before the page is mapped; else
 *       the process ends, loudly, through FAIL.
 *   G5  resident_pages <= limit_pages + one batch, but for pinned pages.
 *   G6  After fork both processes see their memory as of that moment: the page table is private
 *       memory and copied with the pages, slots are shared by count, and the child registers its
 *       ranges before any of its threads can touch one.
 *
 * Eviction
 *
 *   Between a low and a high watermark below limit_pages the pager evicts in the background, in
 *   batches small enough (PAGER_BATCH) that a fault waits for one batch at most; at the limit a
 *   fault evicts first (a stall, counted). Victims: two queues (2Q): pages come in at the end of
 *   the first, and those that were evicted a short time ago and came back go to the second, which
 *   is larger; there are no access bits to be had.
 *
 * Prefetch
 *
 *   Majority trend over the last faults (Leap, ATC'20), sequential and stride as its simple cases;
 *   the window doubles while prefetched pages are used and halves when not.
 */
#ifndef AFAR_PAGER_H
#define AFAR_PAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGER_BATCH 16u /* pages evicted between two looks at the faults */

struct pager;

/* For tests: mechanisms that can be taken out (pager_options.mutations). */
enum pager_mutation {
	PAGER_MUTATE_SLOT_REFERENCES = 1u << 0,      /* fork raises no counts */
	PAGER_MUTATE_DESCRIPTOR_DUPLICATE = 1u << 1, /* the supervisor gets no duplicate */
	PAGER_MUTATE_PROTECT = 1u << 2,              /* G2: pages are copied without protection */
	PAGER_MUTATE_HASH = 1u << 3,                 /* G4 */
	PAGER_MUTATE_ACK_ORDER = 1u << 4, /* G1: dropped before the store is acknowledged */
};

struct pager_options {
	const char *socket_path; /* the supervisor's */
	uint64_t token;          /* the run's */
	uint64_t mutations;
	bool eager;   /* tests: active at once */
	bool no_move; /* tests: as on kernels before 6.8, without UFFDIO_MOVE */
};

/*
 * Starts the pager of this process: connects, shakes hands, starts the thread. Not active yet.
 * One a process. On failure nothing is left behind.
 *
 * -ECONNREFUSED, -ENOENT: no supervisor; -EPERM: no userfaultfd; -EPROTO; -ENOMEM; -ENOSYS.
 */
int pager_start(const struct pager_options *options, struct pager **pager);

/* Tests only: ends the thread; ranges must have been released. */
void pager_stop(struct pager *pager);

/*
 * The caller's bracket around one memory call. pager_lock() blocks every signal of the thread,
 * takes the lock and stores what to restore. Costs two system calls and an uncontended atomic.
 * The pager thread itself never calls it.
 */
struct pager_guard {
	uint64_t signals;
};
void pager_lock(struct pager *pager, struct pager_guard *guard);
void pager_unlock(struct pager *pager, const struct pager_guard *guard);

/*
 * The functions below are called between pager_lock() and pager_unlock(), with page-aligned
 * addresses and lengths in bytes. They never fail for want of memory after pager_start(): the page
 * table is reserved address space, populated as ranges are managed.
 */

/*
 * A private anonymous mapping was just made here and not yet touched: manage it. `readable` says
 * whether its protection includes PROT_READ. -ENOSPC: too many ranges: it stays local.
 */
int pager_manage(struct pager *pager, uintptr_t address, size_t len, bool readable);
/*
 * The contents are gone, the range stays: call it BEFORE madvise(MADV_DONTNEED). MADV_FREE is to be
 * done as MADV_DONTNEED: a page that is there although the pager counts it as gone stays for ever.
 */
void pager_discard(struct pager *pager, uintptr_t address, size_t len);
/* The range is unmapped or replaced; call it BEFORE the system call. */
void pager_release(struct pager *pager, uintptr_t address, size_t len);
/*
 * Around an mremap that may move, under one lock:
 *
 *   pager_before_move() BEFORE it. The kernel lets the moved mapping become one with a neighbour
 *   that is watched as well, and then forgets that both were; this keeps them apart.
 *   pager_move() AFTER it: what was [from, from + from_len) is [to, to + to_len) now. In place
 *   growth or shrinking: from == to. It failed: from == to and from_len == to_len.
 *
 * What lay at `to` was released before, and what a shrinking mremap cuts off too. There is no
 * MREMAP_DONTUNMAP.
 */
void pager_before_move(struct pager *pager, uintptr_t from, size_t from_len);
void pager_move(struct pager *pager, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len);
/* Protection changed: unreadable pages are pinned once resident; call BEFORE taking PROT_READ away
 * and AFTER giving it. */
void pager_set_readable(struct pager *pager, uintptr_t address, size_t len, bool readable);
/* mlock, munlock. Pinned pages are brought in first, by the kernel's own touching. */
void pager_set_pinned(struct pager *pager, uintptr_t address, size_t len, bool pinned);
/* The program has so many bytes more, or less, that are not managed. Needs no lock. */
void pager_count_unmanaged(struct pager *pager, int64_t bytes);
/* How many bytes of the range are managed. */
size_t pager_managed(const struct pager *pager, uintptr_t address, size_t len);
/*
 * mincore(2), /proc: is the page here? (Far pages are not.) For those who must tell, not for speed.
 */
bool pager_is_far(const struct pager *pager, uintptr_t address);

/*
 * Fork, in this order, all in the forking thread: prepare takes the lock (signals blocked), asks
 * for a child session and raises the counts of all slots; then the fork; then `parent` in the
 * parent (child_born: false if fork failed) or `child` in the child, which opens a userfaultfd of
 * its own, registers every range, starts its own thread. They release the lock.
 *
 * Nobody may touch managed memory in the child before `child` is done: far pages would read as
 * zeros there. What the C library itself touches in the child before it calls atfork handlers
 * must be touched in the parent between prepare and the fork: it then is there, and stays.
 *
 * A lone thread of the program may be tied to one processor for the moment of its waking; it is
 * free again before the lock is released. So sched_getaffinity and sched_setaffinity are to be
 * called between pager_lock() and pager_unlock().
 *
 * prepare: 0, or an error with which the fork must fail (lock released).
 * child: 0, or an error: the child must end at once (_exit(125)); it was told to the supervisor.
 */
int pager_fork_prepare(struct pager *pager, struct pager_guard *guard);
void pager_fork_parent(struct pager *pager, struct pager_guard *guard, bool child_born);
int pager_fork_child(struct pager *pager, struct pager_guard *guard);

#endif
