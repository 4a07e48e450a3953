/*
 * thread.c: the pager thread
 *
 *   It is begun by a raw clone: it shares the memory and the signal handlers of the process, but
 *   has a descriptor table of its own (a program may close all it sees; a program at its limit of
 *   descriptors cannot starve us), no state of the C library, and all signals blocked. It opens
 *   what it needs itself, so that no descriptor of ours ever shows in the program's table.
 *
 *   Sanitizers must know every thread: under them it is a pthread, and shares the table.
 */
#include "pager/state.h"

#include <errno.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif
#ifndef UNDER_SANITIZER
#define UNDER_SANITIZER 0
#endif

#if UNDER_SANITIZER
#include <pthread.h>
#endif

#define STACK_BYTES (256u * 1024)
#define TLS_BYTES   (2 * RAW_TLS_BYTES)
#define RETRY_NS    INT64_C(1000000)
#define SPIN_NS     INT64_C(50000)
#define MOVE_IOCTL  (UINT64_C(1) << 0x05)
#define STAT_BYTES  1024u

enum started { STARTED_NOT_YET = 0, STARTED_READY, STARTED_FAILED };

bool thread_shares_descriptors(void)
{
	return UNDER_SANITIZER;
}

static int open_uffd(struct pager *pager)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features =
					 UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID};
	int fd = (int)kernel_userfaultfd(O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		/* Not for us, but whoever may open the device may have one. */
		int device = (int)kernel_open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (device < 0)
			return -EPERM;
		fd = (int)kernel_ioctl(device, USERFAULTFD_IOC_NEW,
				       (void *)(uintptr_t)(O_CLOEXEC | O_NONBLOCK));
		kernel_close(device);
		if (fd < 0)
			return -EPERM;
	}
	pager->fd_uffd = fd;
	return (int)kernel_ioctl(fd, UFFDIO_API, &api);
}

/* Registers what is the pager's own: the doorbell and the limbo. */
static int register_own(struct pager *pager)
{
	struct uffdio_register area = {
		.range = {.start = (uintptr_t)pager->limbo, .len = LIMBO_PAGES * KERNEL_PAGE_BYTES},
		.mode = UFFDIO_REGISTER_MODE_MISSING};
	int err;

	kernel_madvise((uintptr_t)pager->limbo, LIMBO_PAGES * KERNEL_PAGE_BYTES, MADV_DONTNEED);
	pager->limbo_used = 0;
	err = (int)kernel_ioctl(pager->fd_uffd, UFFDIO_REGISTER, &area);
	if (err)
		return err;
	pager->can_move = (area.ioctls & MOVE_IOCTL) != 0 && !pager->options.no_move;
	kernel_madvise(pager->doorbell, 2 * KERNEL_PAGE_BYTES, MADV_DONTNEED);
	area.range.start = pager->doorbell;
	area.range.len = 2 * KERNEL_PAGE_BYTES; /* and the bell */
	return (int)kernel_ioctl(pager->fd_uffd, UFFDIO_REGISTER, &area);
}

static int open_files(struct pager *pager)
{
	pager->fd_statm = (int)kernel_open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	pager->fd_pagemap = (int)kernel_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	pager->fd_task = (int)kernel_open("/proc/self/task", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	return pager->fd_statm < 0 || pager->fd_pagemap < 0 || pager->fd_task < 0 ? -ENOENT : 0;
}

static void close_files(struct pager *pager)
{
	int *fds[] = {&pager->fd_uffd, &pager->fd_statm, &pager->fd_pagemap, &pager->fd_task};

	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			kernel_close(*fds[i]);
		*fds[i] = -1;
	}
}

static int prepare(struct pager *pager)
{
	int err;

	pager->fd_socket = pager->fd_uffd = -1;
	pager->fd_statm = pager->fd_pagemap = pager->fd_task = -1;
	placement_init(pager);
	pager->watching = pager->watch_tried = false;
	err = open_uffd(pager);
	if (!err)
		err = open_files(pager);
	if (!err)
		err = register_own(pager);
	if (!err)
		err = talk_begin(pager);
	if (!err && pager->is_child && pager->active)
		err = fork_adopt(pager);
	if (!err && pager->options.eager && !pager->active)
		activate(pager);
	if (!err) {
		atomic_store(&pager->session->pager_tid, (uint32_t)kernel_gettid());
		return 0;
	}
	talk_end(pager);
	close_files(pager);
	return err;
}

/* Adds what the kernel has to report to the messages that wait; waits for some, if it may. */
static void read_messages(struct pager *pager, bool wait)
{
	struct uffd_msg *to;
	size_t room;
	long got;

	if (pager->messages == MESSAGES_MAX) {
		/* In a window only: these are asked again when it is over. */
		pager->messages = 0;
		pager->dropped_messages = true;
	}
	to = &pager->message[pager->messages];
	room = (MESSAGES_MAX - pager->messages) * sizeof(*to);
	got = wait || !pager->watching ? kernel_read(pager->fd_uffd, to, room)
				       : kernel_read_nowait(pager->fd_uffd, to, room);
	if (got > 0)
		pager->messages += (unsigned)((size_t)got / sizeof(*to));
}

static bool is_doorbell(const struct pager *pager, const struct uffd_msg *message)
{
	return page_of((uintptr_t)message->arg.pagefault.address) == page_of(pager->doorbell);
}

static bool is_bell(const struct pager *pager, const struct uffd_msg *message)
{
	return page_of((uintptr_t)message->arg.pagefault.address) == page_of(pager->bell);
}

/* Lets the thread that rang go on. */
static void answer_doorbell(struct pager *pager)
{
	struct uffdio_zeropage zero = {
		.range = {.start = pager->doorbell, .len = KERNEL_PAGE_BYTES}};

	if (kernel_ioctl(pager->fd_uffd, UFFDIO_ZEROPAGE, &zero))
		fault_wake(pager, pager->doorbell, KERNEL_PAGE_BYTES);
}

/* Does what the lock's holder asked for. False: it was the end. */
static bool serve_mail(struct pager *pager)
{
	struct mailbox *mail = &pager->mail;
	enum mail kind = mail->kind;

	mail->result = 0;
	switch (kind) {
	case MAIL_NONE:
		break;
	case MAIL_REGISTER:
		mail->result = activate_register(pager, mail->address, mail->address + mail->len);
		break;
	case MAIL_FORK:
		mail->result = fork_begin(pager);
		pager->forking = mail->result == 0;
		break;
	case MAIL_FORK_FAILED:
		fork_failed(pager);
		pager->forking = false;
		break;
	case MAIL_FORK_DONE:
		pager->forking = false;
		break;
	case MAIL_STOP:
		evict_settle(pager);
		break;
	}
	mail->kind = MAIL_NONE;
	atomic_fetch_add(&mail->done, 1);
	/* The window ends with the errand, but for a fork's: that lasts until it is done. */
	if (!pager->forking)
		pager_window_close(pager);
	answer_doorbell(pager);
	return kind != MAIL_STOP;
}

/* The lock's holder waits for us, and for nothing else: its errand, its faults. False: the end. */
static bool work_in_window(struct pager *pager)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < pager->messages; i++) {
		const struct uffd_msg message = pager->message[i];

		if (is_doorbell(pager, &message)) {
			if (!serve_mail(pager))
				return false;
		} else if ((int)message.arg.pagefault.feat.ptid == pager->window_tid) {
			fault_serve(pager, &message, true);
		} else {
			pager->message[kept++] = message;
		}
	}
	pager->messages = kept;
	return true;
}

/* The number behind the last space of the text: of /proc/self/stat the exit code. */
static unsigned last_number(const char *text, long len)
{
	unsigned number = 0;
	long i = len;

	while (i > 0 && text[i - 1] != ' ')
		i--;
	for (; i < len && text[i] >= '0' && text[i] <= '9'; i++)
		number = number * 10 + (unsigned)(text[i] - '0');
	return number;
}

/*
 * The program's last thread has left, by a raw exit that ends threads and not processes: then we
 * leave too, with the status of its first thread, which is the process's.
 */
static void leave_if_alone(struct pager *pager)
{
	char text[STAT_BYTES] = "";
	struct stat stat = {0};
	long len;
	long i;
	int fd;

	if (kernel_fstat(pager->fd_task, &stat) ||
	    stat.st_nlink > DIRECTORY_LINKS + thread_count(pager) + 1)
		return;
	fd = (int)kernel_open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	len = kernel_read(fd, text, sizeof(text));
	kernel_close(fd);
	for (i = len - 1; i >= 0 && text[i] != ')'; i--)
		;
	if (i >= 0 && i + 2 < len && text[i + 2] == 'Z')
		kernel_exit_group((int)(last_number(text, len) >> 8 & 0xff));
}

static void serve_messages(struct pager *pager)
{
	for (unsigned i = 0; i < pager->messages; i++) {
		const struct uffd_msg *message = &pager->message[i];

		if (is_doorbell(pager, message)) {
			answer_doorbell(pager);
		} else if (is_bell(pager, message)) {
			talk_take_waiting(pager);
			leave_if_alone(pager);
			watch_answer(pager);
		} else {
			fault_serve(pager, message, false);
		}
	}
	pager->messages = 0;
	if (pager->dropped_messages) {
		pager->dropped_messages = false;
		for (unsigned i = 0; i < pager->ranges_count; i++)
			fault_wake(pager, pager->ranges[i].start,
				   pager->ranges[i].end - pager->ranges[i].start);
	}
}

static void work_locked(struct pager *pager, bool from_supervisor)
{
	serve_messages(pager);
	if (from_supervisor)
		talk_take_waiting(pager);
	if (atomic_load_explicit(&pager->session->ended, memory_order_relaxed))
		kernel_exit_group(STATUS_FAILURE);
	if (pager->slabs_stale) {
		pager->no_space = false;
		direct_unmap_stale(pager);
	}
	/* Between two batches there is a look at the faults. */
	while (evict_background(pager)) {
		read_messages(pager, false);
		serve_messages(pager);
	}
}

/* Looks for faults for a moment before going to sleep. True: there is one. */
static bool spin(struct pager *pager)
{
	int64_t end_ns;

	if (!(pager->session_flags & SESSION_SPIN) || pager->placement.lone_tid != 0 ||
	    !pager->active)
		return false;
	end_ns = kernel_now_ns() + SPIN_NS;
	do {
		read_messages(pager, false);
	} while (pager->messages == 0 && kernel_now_ns() < end_ns);
	return pager->messages > 0;
}

/* Waits until there is something to do. True: the supervisor has something to say. */
static bool wait(struct pager *pager, int64_t timeout_ns)
{
	struct pollfd fds[2] = {{.fd = pager->fd_uffd, .events = POLLIN},
				{.fd = pager->fd_socket, .events = POLLIN}};

	if (pager->messages > 0 || pager->dropped_messages) {
		/* A window is open, and what waits is not for now. */
		kernel_poll(NULL, 0, RETRY_NS);
		read_messages(pager, false);
		return false;
	}
	if (spin(pager))
		return false;
	if (pager->watching) {
		read_messages(pager, true);
		return false;
	}
	if (kernel_poll(fds, 2, timeout_ns) == 0 && timeout_ns == PAGER_IDLE_NS)
		leave_if_alone(pager);
	if (fds[0].revents)
		read_messages(pager, false);
	return fds[1].revents != 0;
}

/* One turn: waits until there is something to do, and does it. False: the end. */
static bool turn(struct pager *pager, int64_t timeout_ns)
{
	bool from_supervisor = wait(pager, timeout_ns);

	if (!pager_thread_lock(pager))
		return work_in_window(pager);
	work_locked(pager, from_supervisor);
	pager_thread_unlock(pager);
	return true;
}

static void live(struct pager *pager)
{
	bool more = true;

	while (more) {
		int64_t timeout_ns = PAGER_IDLE_NS;

		if (!pager->active && pager_thread_lock(pager)) {
			timeout_ns = activate_watch(pager);
			pager_thread_unlock(pager);
		}
		if (pager->active && !pager->watching && !pager->watch_tried) {
			pager->watch_tried = true;
			watch_start(pager);
		}
		more = turn(pager, timeout_ns);
	}
}

static void thread_main(struct pager *pager)
{
	int err = prepare(pager);

	pager->start_error = err;
	atomic_store(&pager->started, err ? STARTED_FAILED : STARTED_READY);
	kernel_futex_wake(&pager->started, 1);
	if (err)
		return;
	live(pager);
	watch_end(pager);
	talk_end(pager);
	close_files(pager);
}

static int wait_until_started(struct pager *pager)
{
	while (atomic_load(&pager->started) == STARTED_NOT_YET)
		kernel_futex_wait(&pager->started, STARTED_NOT_YET, -1);
	if (atomic_load(&pager->started) == STARTED_READY)
		return 0;
	thread_join(pager);
	return pager->start_error;
}

#if UNDER_SANITIZER

static void *run_pthread(void *context)
{
	uint64_t before = 0;

	kernel_signals_set(UINT64_MAX, &before);
	thread_main(context);
	return NULL;
}

int thread_start(struct pager *pager)
{
	pthread_t thread;
	int err = pthread_create(&thread, NULL, run_pthread, pager);

	if (err)
		return -err;
	pager->thread_handle = (uintptr_t)thread;
	return wait_until_started(pager);
}

void thread_join(struct pager *pager)
{
	pthread_join((pthread_t)pager->thread_handle, NULL);
}

#else

static void run_raw(void *context)
{
	kernel_close_range(0, UINT32_MAX);
	thread_main(context);
	kernel_exit_thread(0);
}

int thread_start(struct pager *pager)
{
	unsigned long flags = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			      CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
	uint64_t before = 0;
	long tid;

	if (!pager->stack) {
		unsigned char *memory = kernel_mmap(STACK_BYTES + TLS_BYTES, PROT_READ | PROT_WRITE,
						    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (kernel_is_error(memory))
			return -ENOMEM;
		pager->stack = memory;
		pager->tls = memory + STACK_BYTES;
	}
	raw_tls_prepare(pager->tls + RAW_TLS_OFFSET);
	/* A thread is born with the signals blocked that its maker had blocked. */
	kernel_signals_set(UINT64_MAX, &before);
	tid = raw_thread_start(flags, pager->stack + STACK_BYTES, pager->tls + RAW_TLS_OFFSET,
			       &pager->thread_tid, run_raw, pager);
	kernel_signals_set(before, &before);
	return tid < 0 ? (int)tid : wait_until_started(pager);
}

void thread_join(struct pager *pager)
{
	/* The kernel clears the word when the thread no longer uses its stack. */
	while (atomic_load(&pager->thread_tid) != 0)
		kernel_futex_wait(&pager->thread_tid, atomic_load(&pager->thread_tid), RETRY_NS);
	kernel_munmap(pager->stack, STACK_BYTES + TLS_BYTES);
	pager->stack = NULL;
}

#endif
