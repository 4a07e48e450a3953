/*
 * kernel.h: what the pager asks of the kernel, without the C library in between
 *
 *   Thin, typed, one function a system call; results are the kernel's: values or negative errnos.
 *   Debian's headers are older than the kernels we meet: UFFDIO_MOVE and PAGEMAP_SCAN are written
 *   out here and probed at run time.
 */
#ifndef AFAR_PAGER_KERNEL_H
#define AFAR_PAGER_KERNEL_H

#include "base/kernel_call.h"
#include "base/raw_thread.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#define KERNEL_PAGE_BYTES 4096u

struct kernel_uffdio_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};

struct kernel_page_region {
	uint64_t start, end, categories;
};

struct kernel_pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
		category_mask, category_anyof_mask, return_mask;
};

#define KERNEL_UFFDIO_MOVE     _IOWR(UFFDIO, 0x05, struct kernel_uffdio_move)
#define KERNEL_PAGEMAP_SCAN    _IOWR('f', 16, struct kernel_pm_scan_arg)
#define KERNEL_PAGE_IS_PRESENT (1u << 3)
#define KERNEL_PAGE_IS_SWAPPED (1u << 4)

/* Bits of an entry of /proc/self/pagemap. */
#define KERNEL_PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define KERNEL_PAGEMAP_SWAPPED (UINT64_C(1) << 62)

#define KERNEL_CALL(number, a, b, c, d, e, f) \
	kernel_call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline void *kernel_mmap(size_t len, int prot, int flags, int fd, uint64_t offset)
{
	return (void *)KERNEL_CALL(SYS_mmap, 0, len, prot, flags, fd, offset);
}

/* True if what kernel_mmap() returned is an error. */
static inline int kernel_is_error(const void *address)
{
	return (uintptr_t)address >= (uintptr_t)-4095;
}

static inline long kernel_munmap(void *address, size_t len)
{
	return KERNEL_CALL(SYS_munmap, address, len, 0, 0, 0, 0);
}

static inline long kernel_madvise(uintptr_t address, size_t len, int advice)
{
	return KERNEL_CALL(SYS_madvise, address, len, advice, 0, 0, 0);
}

static inline long kernel_read(int fd, void *buf, size_t len)
{
	return KERNEL_CALL(SYS_read, fd, buf, len, 0, 0, 0);
}

/* -EAGAIN: nothing there. -EOPNOTSUPP: the kernel cannot say so for this kind of descriptor. */
static inline long kernel_read_nowait(int fd, void *buf, size_t len)
{
	struct iovec part = {.iov_base = buf, .iov_len = len};

	return KERNEL_CALL(SYS_preadv2, fd, &part, 1, -1, -1, RWF_NOWAIT);
}

/* From now on a plain read waits. */
static inline void kernel_set_waiting(int fd)
{
	KERNEL_CALL(SYS_fcntl, fd, F_SETFL, O_RDWR, 0, 0, 0);
}

static inline void kernel_shutdown(int fd)
{
	KERNEL_CALL(SYS_shutdown, fd, SHUT_RDWR, 0, 0, 0, 0);
}

static inline long kernel_pread(int fd, void *buf, size_t len, uint64_t offset)
{
	return KERNEL_CALL(SYS_pread64, fd, buf, len, offset, 0, 0);
}

static inline long kernel_write(int fd, const void *buf, size_t len)
{
	return KERNEL_CALL(SYS_write, fd, buf, len, 0, 0, 0);
}

static inline long kernel_open(const char *path, int flags)
{
	return KERNEL_CALL(SYS_openat, -100 /* AT_FDCWD */, path, flags, 0, 0, 0);
}

static inline long kernel_close(int fd)
{
	return KERNEL_CALL(SYS_close, fd, 0, 0, 0, 0, 0);
}

static inline long kernel_close_range(unsigned first, unsigned last)
{
	return KERNEL_CALL(SYS_close_range, first, last, 0, 0, 0, 0);
}

static inline long kernel_fstat(int fd, struct stat *stat)
{
	return KERNEL_CALL(SYS_fstat, fd, stat, 0, 0, 0, 0);
}

static inline long kernel_ioctl(int fd, unsigned long request, void *arg)
{
	return KERNEL_CALL(SYS_ioctl, fd, request, arg, 0, 0, 0);
}

/* -EINTR cannot be: every signal of the pager's thread is blocked. */
static inline long kernel_poll(struct pollfd *fds, unsigned n, int64_t timeout_ns)
{
	struct timespec timeout = {.tv_sec = timeout_ns / 1000000000,
				   .tv_nsec = timeout_ns % 1000000000};

	return KERNEL_CALL(SYS_ppoll, fds, n, timeout_ns < 0 ? NULL : &timeout, NULL, 0, 0);
}

/* timeout_ns < 0: none. */
static inline long kernel_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
	struct timespec timeout = {.tv_sec = timeout_ns / 1000000000,
				   .tv_nsec = timeout_ns % 1000000000};

	return KERNEL_CALL(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected,
			   timeout_ns < 0 ? NULL : &timeout, NULL, 0);
}

static inline long kernel_futex_wake(_Atomic uint32_t *word, int count)
{
	return KERNEL_CALL(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void kernel_signals_set(uint64_t blocked, uint64_t *before)
{
	KERNEL_CALL(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, before, sizeof(blocked), 0, 0);
}

static inline int kernel_gettid(void)
{
	return (int)KERNEL_CALL(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

static inline int kernel_getpid(void)
{
	return (int)KERNEL_CALL(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static inline long kernel_userfaultfd(int flags)
{
	return KERNEL_CALL(SYS_userfaultfd, flags, 0, 0, 0, 0, 0);
}

static inline long kernel_socket(int domain, int type)
{
	return KERNEL_CALL(SYS_socket, domain, type, 0, 0, 0, 0);
}

static inline long kernel_connect(int fd, const void *address, unsigned len)
{
	return KERNEL_CALL(SYS_connect, fd, address, len, 0, 0, 0);
}

static inline long kernel_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return KERNEL_CALL(SYS_sendmsg, fd, msg, flags, 0, 0, 0);
}

static inline long kernel_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return KERNEL_CALL(SYS_recvmsg, fd, msg, flags, 0, 0, 0);
}

static inline long kernel_setaffinity(int tid, const unsigned long *mask, size_t len)
{
	return KERNEL_CALL(SYS_sched_setaffinity, tid, len, mask, 0, 0, 0);
}

/* How many bytes of the mask were written. */
static inline long kernel_getaffinity(int tid, unsigned long *mask, size_t len)
{
	return KERNEL_CALL(SYS_sched_getaffinity, tid, len, mask, 0, 0, 0);
}

__attribute__((noreturn)) static inline void kernel_exit_thread(int status)
{
	for (;;)
		KERNEL_CALL(SYS_exit, status, 0, 0, 0, 0, 0);
}

__attribute__((noreturn)) static inline void kernel_exit_group(int status)
{
	for (;;)
		KERNEL_CALL(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

/* The vDSO's: no system call, no state of ours. */
static inline int64_t kernel_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#endif
