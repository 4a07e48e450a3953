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
#include "preload/preload.h"

#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <unistd.h>

/* More than this is not built on the stack, which is small in a child of posix_spawn. */
#define STACK_BYTES_MAX 12288u

/* `born` is what makes the child: the C library's _Fork(), or the bare system call. */
static long fork_around(long (*born)(const long argument[6]), const long argument[6])
{
	struct pager_guard guard;
	long child;
	int err = pager_fork_prepare(preload.pager, &guard);

	if (err)
		return err == -ENOMEM ? -ENOMEM : -EAGAIN;
	child = born(argument);
	if (child != 0) {
		pager_fork_parent(preload.pager, &guard, child > 0);
		return child;
	}
	/* The supervisor knows the reason, and ends the run. */
	if (pager_fork_child(preload.pager, &guard))
		kernel_call1(SYS_exit_group, PRELOAD_EXIT_OURS);
	memory_after_fork();
	return 0;
}

static long fork_by_library(const long argument[6])
{
	pid_t child = preload.original_fork();

	return child < 0 ? -errno : child;
}

static long fork_by_number(const long argument[6])
{
	return kernel_call(KERNEL_SYS_FORK, 0, 0, 0, 0, 0, 0);
}

static long clone_by_number(const long argument[6])
{
	return kernel_call(SYS_clone, argument[0], argument[1], argument[2], argument[3],
			   argument[4], argument[5]);
}

static long clone3_by_number(const long argument[6])
{
	return kernel_call2(SYS_clone3, argument[0], argument[1]);
}

pid_t process_fork(void)
{
	long child = fork_around(fork_by_library, NULL);

	if (child < 0) {
		errno = (int)-child;
		return -1;
	}
	return (pid_t)child;
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

long process_call(long number, const long a[6])
{
	if (!preload.pager)
		return kernel_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	switch (number) {
	case SYS_mmap:
		return map_by_number(a);
	case SYS_munmap:
		return memory_unmap((uintptr_t)a[0], (size_t)a[1]);
	case SYS_mremap:
		return remap_by_number(a);
	case SYS_mprotect:
		return memory_protect((uintptr_t)a[0], (size_t)a[1], (int)a[2], -1);
	case SYS_pkey_mprotect:
		return memory_protect((uintptr_t)a[0], (size_t)a[1], (int)a[2], (int)a[3]);
	case SYS_madvise:
		return memory_advise((uintptr_t)a[0], (size_t)a[1], (int)a[2]);
	case SYS_brk:
		return (long)memory_break((uintptr_t)a[0]);
	case SYS_mlock:
		return memory_lock((uintptr_t)a[0], (size_t)a[1], 0);
	case SYS_mlock2:
		return memory_lock((uintptr_t)a[0], (size_t)a[1], (unsigned)a[2]);
	case SYS_munlock:
		return memory_unlock((uintptr_t)a[0], (size_t)a[1]);
	case SYS_mlockall:
		return memory_lock_all((int)a[0]);
	case SYS_munlockall:
		return memory_unlock_all();
	case SYS_execve:
		return process_execute(AT_FDCWD, (const char *)a[0], (char *const *)a[1],
				       (char *const *)a[2], 0);
	case SYS_execveat:
		return process_execute((int)a[0], (const char *)a[1], (char *const *)a[2],
				       (char *const *)a[3], (int)a[4]);
	case KERNEL_SYS_FORK:
		return fork_around(fork_by_number, a);
	case SYS_clone:
		return is_fork(a) ? fork_around(clone_by_number, a) : clone_by_number(a);
	case SYS_clone3:
		return is_fork3(a) ? fork_around(clone3_by_number, a) : clone3_by_number(a);
	default:
		return kernel_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	}
}
