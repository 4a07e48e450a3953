/* entries.c: see entries.h */
#include "preload/entries.h"

#include "base/kernel_call.h"
#include "preload/apart.h"
#include "preload/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

static long answer(long result)
{
	if (!kernel_failed(result))
		return result;
	errno = (int)-result;
	return -1;
}

static long call(long number, long a, long b, long c, long d, long e)
{
	const long argument[6] = {a, b, c, d, e, 0};

	return answer(process_call(number, argument));
}

static void *entry_mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset)
{
	const long argument[6] = {(long)address, (long)len, protection, flags, fd, offset};

	return (void *)answer(process_call(SYS_mmap, argument));
}

static int entry_munmap(void *address, size_t len)
{
	return (int)call(SYS_munmap, (long)address, (long)len, 0, 0, 0);
}

/* The last argument is there only with MREMAP_FIXED; reading it when it is not does no harm. */
static void *entry_mremap(void *from, size_t from_len, size_t to_len, int flags, void *to)
{
	return (void *)call(SYS_mremap, (long)from, (long)from_len, (long)to_len, flags, (long)to);
}

static int entry_mprotect(void *address, size_t len, int protection)
{
	return (int)call(SYS_mprotect, (long)address, (long)len, protection, 0, 0);
}

static int entry_pkey_mprotect(void *address, size_t len, int protection, int key)
{
	return (int)call(SYS_pkey_mprotect, (long)address, (long)len, protection, key, 0);
}

static int entry_madvise(void *address, size_t len, int advice)
{
	return (int)call(SYS_madvise, (long)address, (long)len, advice, 0, 0);
}

static int entry_brk(void *wanted)
{
	uintptr_t end = (uintptr_t)call(SYS_brk, (long)wanted, 0, 0, 0, 0);

	return (int)answer(end < (uintptr_t)wanted ? -ENOMEM : 0);
}

static void *entry_sbrk(intptr_t increment)
{
	const long argument[6] = {increment};

	return (void *)answer(apart_call(memory_break_by, argument));
}

static int entry_mlock(const void *address, size_t len)
{
	return (int)call(SYS_mlock, (long)address, (long)len, 0, 0, 0);
}

static int entry_mlock2(const void *address, size_t len, unsigned flags)
{
	return (int)call(SYS_mlock2, (long)address, (long)len, (long)flags, 0, 0);
}

static int entry_munlock(const void *address, size_t len)
{
	return (int)call(SYS_munlock, (long)address, (long)len, 0, 0, 0);
}

static int entry_mlockall(int flags)
{
	return (int)call(SYS_mlockall, flags, 0, 0, 0, 0);
}

static int entry_munlockall(void)
{
	return (int)call(SYS_munlockall, 0, 0, 0, 0, 0);
}

/* fork() of the C library calls it in the middle. */
static pid_t entry__Fork(void)
{
	return (pid_t)answer(process_fork());
}

static int entry_execve(const char *path, char *const arguments[], char *const environment[])
{
	return (int)answer(process_execute(AT_FDCWD, path, arguments, environment, 0));
}

static int entry_execveat(int directory, const char *path, char *const arguments[],
			  char *const environment[], int flags)
{
	return (int)answer(process_execute(directory, path, arguments, environment, flags));
}

static int entry_fexecve(int fd, char *const arguments[], char *const environment[])
{
	if (fd < 0 || !arguments || !environment)
		return (int)answer(-EINVAL);
	return (int)answer(process_execute(fd, "", arguments, environment, AT_EMPTY_PATH));
}

/* Up to six; reading what was not passed does no harm. */
static long entry_syscall(long number, ...)
{
	long argument[6];
	va_list list;

	va_start(list, number);
	for (unsigned i = 0; i < 6; i++)
		argument[i] = va_arg(list, long);
	va_end(list);
	return answer(process_call(number, argument));
}

/*
 * O_DIRECT lets a device write into a page after the kernel has looked it up once. The pager
 * cannot see such a page is in use, and would take it away in the middle. Through the page cache
 * the same reads are safe, so that is where they go: the flag is advice, and file systems that do
 * not support it exist.
 */
static int (*original_open)(const char *path, int flags, ...);
static int (*original_openat)(int directory, const char *path, int flags, ...);
static int (*original_fcntl)(int fd, int command, ...);

static int entry_open(const char *path, int flags, ...)
{
	va_list list;
	mode_t mode;

	va_start(list, flags);
	mode = va_arg(list, mode_t);
	va_end(list);
	return original_open(path, flags & ~O_DIRECT, mode);
}

static int entry_openat(int directory, const char *path, int flags, ...)
{
	va_list list;
	mode_t mode;

	va_start(list, flags);
	mode = va_arg(list, mode_t);
	va_end(list);
	return original_openat(directory, path, flags & ~O_DIRECT, mode);
}

static int entry_fcntl(int fd, int command, ...)
{
	va_list list;
	long argument;

	va_start(list, command);
	argument = va_arg(list, long);
	va_end(list);
	return original_fcntl(fd, command,
			      command == F_SETFL ? argument & ~(long)O_DIRECT : argument);
}

static long get_affinity(pid_t thread, size_t size, cpu_set_t *mask)
{
	const long argument[6] = {thread, (long)size, (long)mask};
	long written = process_call(SYS_sched_getaffinity, argument);

	if (kernel_failed(written))
		return written;
	/* The kernel writes as much as it has processors. */
	if ((size_t)written < size)
		memset((char *)mask + written, 0, size - (size_t)written);
	return 0;
}

static long set_affinity(pid_t thread, size_t size, const cpu_set_t *mask)
{
	const long argument[6] = {thread, (long)size, (long)mask};

	return process_call(SYS_sched_setaffinity, argument);
}

static int entry_sched_getaffinity(pid_t thread, size_t size, cpu_set_t *mask)
{
	return (int)answer(get_affinity(thread, size, mask));
}

static int entry_sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *mask)
{
	return (int)answer(set_affinity(thread, size, mask));
}

/* Threads are not known to us by number, but the calling one is, and a lone thread is that one. */
static int (*original_pthread_setaffinity_np)(pthread_t thread, size_t size, const cpu_set_t *mask);
static int (*original_pthread_getaffinity_np)(pthread_t thread, size_t size, cpu_set_t *mask);

static int entry_pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *mask)
{
	if (!pthread_equal(thread, pthread_self()))
		return original_pthread_setaffinity_np(thread, size, mask);
	return (int)-set_affinity(0, size, mask);
}

static int entry_pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *mask)
{
	if (!pthread_equal(thread, pthread_self()))
		return original_pthread_getaffinity_np(thread, size, mask);
	return (int)-get_affinity(0, size, mask);
}

/* clang-format off */
#define REPLACE(name)  {#name, (void (*)(void))entry_##name, NULL, true}
#define OPTIONAL(name) {#name, (void (*)(void))entry_##name, NULL, false}
#define EXTEND(name) \
	{#name, (void (*)(void))entry_##name, (void (**)(void))&original_##name, false}
/* clang-format on */

const struct redirection entries[] = {
	REPLACE(mmap),
	REPLACE(munmap),
	REPLACE(mremap),
	REPLACE(mprotect),
	OPTIONAL(pkey_mprotect),
	REPLACE(madvise),
	REPLACE(brk),
	REPLACE(sbrk),
	REPLACE(mlock),
	OPTIONAL(mlock2),
	REPLACE(munlock),
	REPLACE(mlockall),
	REPLACE(munlockall),
	REPLACE(execve),
	OPTIONAL(execveat),
	REPLACE(fexecve),
	REPLACE(syscall),
	REPLACE(sched_getaffinity),
	REPLACE(sched_setaffinity),
	EXTEND(pthread_getaffinity_np),
	EXTEND(pthread_setaffinity_np),
	{"_Fork", (void (*)(void))entry__Fork, (void (**)(void)) & preload.original_fork, true},
	EXTEND(open),
	EXTEND(openat),
	EXTEND(fcntl),
	{NULL, NULL, NULL, false},
};
