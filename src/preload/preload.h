/*
 * preload.h: the library that `afar run` puts into an unmodified program
 *
 * What lives here
 *
 *   The dynamic loader brings libafar-run.so in (LD_PRELOAD) and runs its constructor before the
 *   program's main(). The constructor starts the pager and then redirects the C library's own
 *   memory calls to ours, by overwriting the first bytes of each. So every caller is caught:
 *   the program, its libraries, and malloc(), which calls mmap inside the C library where no
 *   symbol of another library would reach.
 *
 *       start.c          the constructor: environment, pager, redirection, or a loud refusal
 *       redirect.c       finds the functions in the C library and overwrites their entries
 *       memory_calls.c   mmap, munmap, mremap, mprotect, madvise, mlock: what each means for
 *                        memory that may be far
 *       program_break.c  brk and sbrk: the heap grows in mappings of ours
 *       zero_data.c      large arrays that were there before us
 *       marks.c          what the program asked for its memory that we must remember
 *       process_calls.c  fork, exec, and which function stands for which system call
 *       apart.c          stacks of our own, for what is done under the pager's lock
 *       inherited.c      the environment that a new program must get from us
 *       entries.c        the functions as the C library declares them: results and errno
 *
 * The life of one mmap
 *
 *     program: malloc(1 GiB)
 *       C library: mmap ──jump──► entry_mmap            entries.c: errno only
 *                                   apart_call          to a stack that is never far
 *                                   memory_map          private, anonymous, large?
 *                                     kernel: mmap
 *                                     pager_lock        signals blocked, the pager's lock
 *                                     pager_manage      from now on its pages may be far
 *                                     pager_unlock
 *
 *   And of one fault: nothing here; the kernel tells the pager thread (pager.h).
 *
 * Which memory is managed
 *
 *   Private anonymous mappings of at least PRELOAD_MANAGED_MIN bytes that are not stacks, not
 *   executable, not locked, not of huge pages; the heap above the place where it stood when we
 *   came; and zeroed data that nobody had touched by then. All else stays local. What was managed
 * once stays managed until it is unmapped, whatever is done to its protection.
 *
 * Invariants
 *
 *   R1  The pager hears of a change before the kernel makes it when contents are lost by it, and
 *       after when they come into being; so it never takes one mapping's page for another's.
 *   R2  No call that makes the kernel touch managed memory is made under the pager's lock: the
 *       pager thread needs the lock to serve the fault. (Populating, locking, and every buffer.)
 *   R3  A call we do not understand goes to the kernel as it is; a call we understand and cannot
 *       serve fails with an errno that its manual page has.
 *   R4  No function of ours is called by the pager thread, and none calls into malloc.
 *
 * Whom memory belongs to, which thread
 *
 *   All functions run in the program's threads, any number at once, also in signal handlers and
 *   in children of vfork. `preload` below is the one global of the system: there is no handle to
 *   hang state from when a foreign program calls mmap. What is not constant in it after start is
 *   touched only between pager_lock() and pager_unlock().
 *
 * What is not caught
 *
 *   System calls that a program makes without the C library (Go, static code): their memory
 *   stays local. A raw clone() without CLONE_VM: the kernel leaves managed ranges out of such a
 *   child (the pager keeps them so), which then traps instead of reading zeros. Buffers that
 *   stay registered with the kernel (io_uring, RDMA) while the pager takes their pages.
 */
#ifndef AFAR_PRELOAD_PRELOAD_H
#define AFAR_PRELOAD_PRELOAD_H

#include "pager/pager.h"
#include "preload/inherited.h"
#include "preload/marks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PRELOAD_PAGE_BYTES  4096u
#define PRELOAD_MANAGED_MIN ((size_t)64 << 10)
#define PRELOAD_EXIT_OURS   125 /* the run failed, not the program */

/* The program's heap; program_break.c explains. */
struct program_break {
	uintptr_t kernel_end; /* where it ended when we came: what lies below is the kernel's */
	uintptr_t base;       /* the next page boundary: what lies above is ours */
	uintptr_t end;        /* where the program believes it to end */
	void **shown;         /* the C library's copy of `end`, or NULL */
};

struct preload {
	struct pager *pager; /* NULL: not started, everything is left as it is */
	struct program_break brk;
	struct marks marks;
	_Atomic bool lock_future; /* mlockall(MCL_FUTURE): new mappings are locked, so local */
	struct inherited inherited;
	pid_t (*original_fork)(void); /* the C library's _Fork() */
};

extern struct preload preload;

static inline size_t preload_whole_pages(size_t len)
{
	return (len + PRELOAD_PAGE_BYTES - 1) & ~(size_t)(PRELOAD_PAGE_BYTES - 1);
}

static inline bool preload_on_page(uintptr_t address)
{
	return address % PRELOAD_PAGE_BYTES == 0;
}

/* The six arguments of a mapping, as the kernel takes them. */
struct mapping {
	uintptr_t address;
	size_t len;
	int protection, flags, fd;
	long offset;
};

struct remapping {
	uintptr_t from;
	size_t from_len, to_len;
	int flags;
	uintptr_t to; /* with MREMAP_FIXED */
};

/* memory_calls.c. All return what the kernel would: a negative errno on failure. */
long memory_map(const struct mapping *mapping);
long memory_unmap(uintptr_t address, size_t len);
long memory_remap(const struct remapping *remapping);
/* key: -1, or a protection key (pkey_mprotect). */
long memory_protect(uintptr_t address, size_t len, int protection, int key);
long memory_advise(uintptr_t address, size_t len, int advice);
long memory_lock(uintptr_t address, size_t len, unsigned flags);
long memory_unlock(uintptr_t address, size_t len);
long memory_lock_all(int flags);
long memory_unlock_all(void);
/* In the child of a fork: what the program wanted left out of it, or wiped. */
void memory_after_fork(void);

/* program_break.c: where the break is afterwards, as the kernel answers. */
void program_break_start(struct program_break *brk);
uintptr_t memory_break(uintptr_t wanted);
/* sbrk(), by so many bytes as the first argument says: the old break, or -ENOMEM. */
long memory_break_by(const long argument[6]);

/* zero_data.c: at start, when the pager is there. */
void zero_data_manage(void);

/* process_calls.c: as above */
long process_fork(void);
long process_execute(int directory, const char *path, char *const *arguments,
		     char *const *environment, int flags);
/* syscall(2): the calls above by number; others go to the kernel. */
long process_call(long number, const long argument[6]);

/* redirect.c: 0, or what stands in the way, for people, in *reason. */
int redirect_everything(const char **reason);

#endif
