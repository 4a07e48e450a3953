/*
 * process_calls.c: new processes, new programs, and calls by number
 *
 *   fork() of the C library runs the handlers of pthread_atfork, takes malloc's locks, and then
 *   calls its _Fork(). Ours stands in _Fork()'s place and not among the handlers: the pager's
 *   lock must be taken after malloc's, because any other thread may hold one of those while it
 *   waits in mmap for the pager's. Signals stay blocked from prepare until parent or child.
 *
 *   vfork(), posix_spawn() and clone(CLONE_VM) share the memory and its pager with the parent and
 *   need nothing. A child of vfork may call everything here.
 */
#include "base/kernel_call.h"
#include "preload/apart.h"
#include "preload/preload.h"

#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* More than this is not built on the stack, which is small in a child of posix_spawn. */
#define STACK_BYTES_MAX 12288u

/* As large as the largest kernel's set of processors. */
#define AFFINITY_BYTES_MAX 1024u

/* How far from the thread pointer its descriptor and the C library's own variables may lie. */
#define DESCRIPTOR_REACH 8192u

/*
 * The child is not to touch managed memory before pager_fork_child(), which far pages would be
 * zeros in. It runs apart, so its stack is ours. But the C library and the kernel write into the
 * thread's descriptor, and that lies with the thread's stack, wherever the program put it: so it
 * is brought in, and stays as the pager evicts nothing between prepare and the fork.
 */
static void bring_in_descriptor(void)
{
	uintptr_t self = (uintptr_t)__builtin_thread_pointer();
	uintptr_t start = (self - DESCRIPTOR_REACH) & ~(uintptr_t)(PRELOAD_PAGE_BYTES - 1);

	/*
	 * The neighbours may be closed to reading: so the kernel is asked to read them, as a set of
	 * signals to block. All are blocked already.
	 */
	for (uintptr_t page = start; page < self + DESCRIPTOR_REACH; page += PRELOAD_PAGE_BYTES) {
		if (pager_managed(preload.pager, page, PRELOAD_PAGE_BYTES) > 0)
			kernel_call4(SYS_rt_sigprocmask, SIG_BLOCK, (long)page, 0,
				     sizeof(uint64_t));
	}
}

/* `born` is what makes the child: the C library's _Fork(), or the bare system call. */
static long fork_around(long (*born)(const long argument[6]), const long argument[6])
{
	struct pager_guard guard;
	long child;
	int err = pager_fork_prepare(preload.pager, &guard);

	if (err)
		return err == -ENOMEM ? -ENOMEM : -EAGAIN;
	bring_in_descriptor();
	child = born(argument);
	if (child != 0) {
		pager_fork_parent(preload.pager, &guard, child > 0);
		return child;
	}
	apart_after_fork();
	/* The supervisor knows the reason, and ends the run. */
	if (pager_fork_child(preload.pager, &guard))
		kernel_call1(SYS_exit_group, PRELOAD_EXIT_OURS);
	memory_after_fork();
	return 0;
}

static long library_fork(const long argument[6])
{
	pid_t child = preload.original_fork();

	return child < 0 ? -errno : child;
}

static long number_fork(const long argument[6])
{
	return kernel_call0(KERNEL_SYS_FORK);
}

static long number_clone(const long argument[6])
{
	return kernel_call5(SYS_clone, argument[0], argument[1], argument[2], argument[3],
			    argument[4]);
}

static long number_clone3(const long argument[6])
{
	return kernel_call2(SYS_clone3, argument[0], argument[1]);
}

static long fork_by_library(const long argument[6])
{
	return fork_around(library_fork, argument);
}

static long fork_by_number(const long argument[6])
{
	return fork_around(number_fork, argument);
}

static long clone_by_number(const long argument[6])
{
	return fork_around(number_clone, argument);
}

static long clone3_by_number(const long argument[6])
{
	return fork_around(number_clone3, argument);
}

long process_fork(void)
{
	const long nothing[6] = {0};

	return apart_call(fork_by_library, nothing);
}

long process_execute(int directory, const char *path, char *const *arguments,
		     char *const *environment, int flags)
{
	size_t bytes = preload.pager ? inherited_bytes(&preload.inherited, environment) : 0;
	void *memory = NULL;
	long result;

	if (bytes > 0 && bytes <= STACK_BYTES_MAX) {
		memory = alloca(bytes);
	} else if (bytes > 0) {
		/* Lost to the parent if we are its child of vfork: a few pages, for a huge list. */
		result = kernel_call(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (kernel_failed(result))
			return result;
		memory = (void *)result;
	}
	if (bytes > 0)
		environment = inherited_merge(&preload.inherited, environment, memory);
	if (directory == AT_FDCWD && flags == 0)
		result = kernel_call3(SYS_execve, (long)path, (long)arguments, (long)environment);
	else
		result = kernel_call5(SYS_execveat, directory, (long)path, (long)arguments,
				      (long)environment, flags);
	if (bytes > STACK_BYTES_MAX)
		kernel_call2(SYS_munmap, (long)memory, (long)bytes);
	return result;
}

/* A clone that is a fork: memory of its own, on the caller's stack. */
static bool is_fork(const long argument[6])
{
	return !(argument[0] & CLONE_VM) && argument[1] == 0;
}

static bool is_fork3(const long argument[6])
{
	const struct clone_args *args = (const struct clone_args *)argument[0];

	return args && (size_t)argument[1] >= CLONE_ARGS_SIZE_VER0 && !(args->flags & CLONE_VM) &&
	       args->stack == 0;
}

static long map_by_number(const long argument[6])
{
	const struct mapping mapping = {
		.address = (uintptr_t)argument[0],
		.len = (size_t)argument[1],
		.protection = (int)argument[2],
		.flags = (int)argument[3],
		.fd = (int)argument[4],
		.offset = argument[5],
	};

	return memory_map(&mapping);
}

static long remap_by_number(const long argument[6])
{
	const struct remapping remapping = {
		.from = (uintptr_t)argument[0],
		.from_len = (size_t)argument[1],
		.to_len = (size_t)argument[2],
		.flags = (int)argument[3],
		.to = (uintptr_t)argument[4],
	};

	return memory_remap(&remapping);
}

static long unmap_by_number(const long a[6])
{
	return memory_unmap((uintptr_t)a[0], (size_t)a[1]);
}

static long protect_by_number(const long a[6])
{
	return memory_protect((uintptr_t)a[0], (size_t)a[1], (int)a[2], -1);
}

static long key_protect_by_number(const long a[6])
{
	return memory_protect((uintptr_t)a[0], (size_t)a[1], (int)a[2], (int)a[3]);
}

static long advise_by_number(const long a[6])
{
	return memory_advise((uintptr_t)a[0], (size_t)a[1], (int)a[2]);
}

static long break_by_number(const long a[6])
{
	return (long)memory_break((uintptr_t)a[0]);
}

static long lock_by_number(const long a[6])
{
	return memory_lock((uintptr_t)a[0], (size_t)a[1], 0);
}

static long lock2_by_number(const long a[6])
{
	return memory_lock((uintptr_t)a[0], (size_t)a[1], (unsigned)a[2]);
}

static long unlock_by_number(const long a[6])
{
	return memory_unlock((uintptr_t)a[0], (size_t)a[1]);
}

static long lock_all_by_number(const long a[6])
{
	return memory_lock_all((int)a[0]);
}

static long unlock_all_by_number(const long a[6])
{
	return memory_unlock_all();
}

/*
 * The pager may tie a lone thread to a processor while it wakes it: who asks or sets in between
 * would see that, or have the old set put back over the new one. So it is done under the lock,
 * and the mask, which may be far, is copied.
 */
static long affinity(long number, const long a[6])
{
	unsigned char copy[AFFINITY_BYTES_MAX] = {0};
	size_t size = (size_t)a[1] < sizeof(copy) ? (size_t)a[1] : sizeof(copy);
	unsigned char *mask = (unsigned char *)a[2];
	struct pager_guard guard;
	long result;

	if (number == SYS_sched_setaffinity)
		memcpy(copy, mask, size);
	pager_lock(preload.pager, &guard);
	result = kernel_call3(number, a[0], (long)size, (long)copy);
	pager_unlock(preload.pager, &guard);
	if (number == SYS_sched_getaffinity && result > 0)
		memcpy(mask, copy, (size_t)result);
	return result;
}

static long get_affinity_by_number(const long a[6])
{
	return affinity(SYS_sched_getaffinity, a);
}

static long set_affinity_by_number(const long a[6])
{
	return affinity(SYS_sched_setaffinity, a);
}

/* Which of our functions stands for the call; NULL: none. */
static long (*function_of(long number, const long a[6]))(const long argument[6])
{
	switch (number) {
	case SYS_mmap:
		return map_by_number;
	case SYS_munmap:
		return unmap_by_number;
	case SYS_mremap:
		return remap_by_number;
	case SYS_mprotect:
		return protect_by_number;
	case SYS_pkey_mprotect:
		return key_protect_by_number;
	case SYS_madvise:
		return advise_by_number;
	case SYS_brk:
		return break_by_number;
	case SYS_mlock:
		return lock_by_number;
	case SYS_mlock2:
		return lock2_by_number;
	case SYS_munlock:
		return unlock_by_number;
	case SYS_mlockall:
		return lock_all_by_number;
	case SYS_munlockall:
		return unlock_all_by_number;
	case SYS_sched_getaffinity:
		return get_affinity_by_number;
	case SYS_sched_setaffinity:
		return set_affinity_by_number;
	case KERNEL_SYS_FORK:
		return fork_by_number;
	case SYS_clone:
		return is_fork(a) ? clone_by_number : NULL;
	case SYS_clone3:
		return is_fork3(a) ? clone3_by_number : NULL;
	default:
		return NULL;
	}
}

long process_call(long number, const long a[6])
{
	long (*function)(const long argument[6]) = preload.pager ? function_of(number, a) : NULL;

	if (function)
		return apart_call(function, a);
	/* Not apart, nor under the lock: they need room, and read the program's memory. */
	if (number == SYS_execve)
		return process_execute(AT_FDCWD, (const char *)a[0], (char *const *)a[1],
				       (char *const *)a[2], 0);
	if (number == SYS_execveat)
		return process_execute((int)a[0], (const char *)a[1], (char *const *)a[2],
				       (char *const *)a[3], (int)a[4]);
	return kernel_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
