/*
 * watch.c: a second thread, which waits for the supervisor so that the pager need not
 *
 *   Waiting for two descriptors and for the clock costs several microseconds more than a read that
 *   waits for faults alone, on every fault. While the backend is direct the supervisor seldom has
 *   anything to say. So the pager thread reads the userfaultfd and sleeps in that, and this one
 *   waits for the socket, and for the clock. When there is something to do it rings: it touches a
 *   page that is registered and absent, and the pager reads of that as of any other fault.
 *
 *   It shares the pager thread's descriptor table, has no state but its stack, and takes no lock.
 *   A pager whose requests are answered on the socket (staged) would be rung for each answer: there
 *   the pager thread waits for both itself.
 */
#include "pager/state.h"

#include <errno.h>

#define STACK_BYTES 16384u
#define TLS_BYTES   (2 * RAW_TLS_BYTES)
#define RETRY_NS    INT64_C(1000000)

static void ring(struct pager *pager)
{
	kernel_madvise(pager->bell, KERNEL_PAGE_BYTES, MADV_DONTNEED);
	*(volatile const char *)pager->bell;
}

static void watch(void *context)
{
	struct pager *pager = context;

	while (!atomic_load(&pager->watch_ends)) {
		struct pollfd socket = {.fd = pager->fd_socket, .events = POLLIN};

		kernel_poll(&socket, 1, PAGER_IDLE_NS);
		ring(pager);
	}
	kernel_exit_thread(0);
}

/* Whether one read may wait and the next not, on one descriptor: kernels from 6.10. */
static bool can_choose_to_wait(struct pager *pager)
{
	long got;

	if (pager->messages == MESSAGES_MAX)
		return false;
	/* What is read in asking is kept. */
	got = kernel_read_nowait(pager->fd_uffd, &pager->message[pager->messages],
				 sizeof(pager->message[0]));
	if (got > 0)
		pager->messages++;
	return got > 0 || got == -EAGAIN;
}

void watch_start(struct pager *pager)
{
	unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			      CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
			      CLONE_CHILD_CLEARTID;

	if (pager->backend != &direct_backend || thread_shares_descriptors() ||
	    !can_choose_to_wait(pager))
		return;
	if (!pager->watch_stack) {
		unsigned char *memory = kernel_mmap(STACK_BYTES + TLS_BYTES, PROT_READ | PROT_WRITE,
						    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (kernel_is_error(memory))
			return;
		pager->watch_stack = memory;
	}
	atomic_store(&pager->watch_ends, 0);
	raw_tls_prepare(pager->watch_stack + STACK_BYTES + RAW_TLS_OFFSET);
	if (raw_thread_start(flags, pager->watch_stack + STACK_BYTES,
			     pager->watch_stack + STACK_BYTES + RAW_TLS_OFFSET, &pager->watch_tid,
			     watch, pager) < 0)
		return; /* the pager thread waits for everything then, as it does now */
	pager->watching = true;
	kernel_set_waiting(pager->fd_uffd);
}

void watch_answer(struct pager *pager)
{
	struct uffdio_zeropage zero = {.range = {.start = pager->bell, .len = KERNEL_PAGE_BYTES}};

	if (kernel_ioctl(pager->fd_uffd, UFFDIO_ZEROPAGE, &zero))
		fault_wake(pager, pager->bell, KERNEL_PAGE_BYTES);
}

void watch_end(struct pager *pager)
{
	uint32_t tid;

	if (!pager->watching)
		return;
	atomic_store(&pager->watch_ends, 1);
	kernel_shutdown(pager->fd_socket);
	/* It sleeps in its poll, which that ended, or in the bell, or is on its way there. */
	while ((tid = atomic_load(&pager->watch_tid)) != 0) {
		watch_answer(pager);
		kernel_futex_wait(&pager->watch_tid, tid, RETRY_NS);
	}
	kernel_munmap(pager->watch_stack, STACK_BYTES + TLS_BYTES);
	pager->watch_stack = NULL;
	pager->watching = false;
}
