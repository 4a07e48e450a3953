/*
 * talk.c: the process's side of the talk with its supervisor
 *
 *   Only the pager thread talks. A request is sent and its answer awaited; what comes in between
 *   (the answer of a store that is under way, a nudge) is handled as it comes. There is no time
 *   limit: a supervisor that is stopped delays us, one that dies closes the connection, and the
 *   process ends with it, for its far memory is out of reach.
 *
 *   Slots: each reference that this process holds is a bit of the session's `held`, set after it
 *   was taken and cleared before it is given back (S4).
 */
#include "pager/state.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>

#define FDS_MAX 4u

union control {
	struct cmsghdr header;
	unsigned char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
};

struct session_message talk_message_of(enum session_message_kind kind)
{
	return (struct session_message){
		.magic = SESSION_MAGIC, .version = SESSION_VERSION, .kind = (uint16_t)kind};
}

/* The run is over, or its supervisor is: there is nobody left to tell. */
__attribute__((noreturn)) static void end_with_supervisor(void)
{
	kernel_exit_group(STATUS_FAILURE);
}

static long send_with_fd(struct pager *pager, const struct session_message *message, int fd)
{
	struct iovec part = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
	union control control;
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	return kernel_sendmsg(pager->fd_socket, &msg, MSG_NOSIGNAL);
}

void talk_send(struct pager *pager, const struct session_message *message)
{
	if (send_with_fd(pager, message, -1) != sizeof(*message))
		end_with_supervisor();
}

/* Takes the descriptors of a message: up to n to fds, -1 for those that are missing. */
static void take_fds(struct msghdr *msg, int *fds, unsigned n)
{
	const struct cmsghdr *header = CMSG_FIRSTHDR(msg);
	unsigned count = 0;
	int fd;

	for (unsigned i = 0; i < n; i++)
		fds[i] = -1;
	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return;
	count = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	for (unsigned i = 0; i < count; i++) {
		memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
		if (i < n)
			fds[i] = fd;
		else
			kernel_close(fd);
	}
}

/* -ECONNRESET: the end; -EPROTO: not a message of ours; -EAGAIN: none, and flags say not to wait.
 */
static int receive(struct pager *pager, struct session_message *message, int *fds, unsigned n,
		   int flags)
{
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	union control control = {0};
	struct msghdr msg = {.msg_iov = &part,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	long got = kernel_recvmsg(pager->fd_socket, &msg, flags | MSG_CMSG_CLOEXEC);

	if (got == -EAGAIN)
		return -EAGAIN;
	if (got <= 0)
		return -ECONNRESET;
	take_fds(&msg, fds, n);
	/* NOLINTNEXTLINE(clang-analyzer-core.*): the kernel has filled it */
	if (got != sizeof(*message) || message->magic != SESSION_MAGIC ||
	    message->version != SESSION_VERSION)
		return -EPROTO;
	return 0;
}

/* What comes unasked, or in answer to what was asked some time ago. */
static void take_message(struct pager *pager, const struct session_message *message)
{
	if (message->kind == SESSION_STORE && pager->store_under_way)
		staged_answer(pager, message);
	if (message->kind == SESSION_NUDGE)
		pager->slabs_stale = true;
}

bool talk_receive(struct pager *pager, enum session_message_kind awaited,
		  struct session_message *answer, int *fd)
{
	struct session_message message;
	int came;

	if (receive(pager, &message, &came, 1, 0))
		end_with_supervisor();
	if (message.kind == awaited) {
		*answer = message;
		if (fd)
			*fd = came;
		else if (came >= 0)
			kernel_close(came);
		return true;
	}
	if (came >= 0)
		kernel_close(came);
	take_message(pager, &message);
	return false;
}

void talk_take_waiting(struct pager *pager)
{
	struct session_message message;
	int err;

	do {
		int fd = -1;

		err = receive(pager, &message, &fd, 1, MSG_DONTWAIT);
		if (fd >= 0)
			kernel_close(fd);
		if (!err)
			take_message(pager, &message);
	} while (!err);
	if (err != -EAGAIN)
		end_with_supervisor();
}

int talk_call(struct pager *pager, struct session_message *message, int *fd)
{
	enum session_message_kind kind = (enum session_message_kind)message->kind;

	talk_send(pager, message);
	while (!talk_receive(pager, kind, message, fd))
		;
	return message->status;
}

void talk_fail(struct pager *pager, enum session_failure reason, uint64_t page)
{
	struct session_message message = talk_message_of(SESSION_FAIL);
	struct pollfd socket = {.fd = pager->fd_socket, .events = POLLRDHUP};

	message.count = reason;
	message.value = address_of(page);
	if (send_with_fd(pager, &message, -1) == sizeof(message)) {
		/* It ends the whole tree, us included; the limit is for one that does not. */
		kernel_poll(&socket, 1, FAIL_WAIT_NS);
	}
	kernel_exit_group(STATUS_FAILURE);
}

static int connect_to(struct pager *pager)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	long err;

	pager->fd_socket = (int)kernel_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC);
	if (pager->fd_socket < 0)
		return pager->fd_socket;
	memcpy(address.sun_path, pager->socket_path, sizeof(address.sun_path));
	/* A name that begins with @ is an abstract one. */
	if (address.sun_path[0] == '@')
		address.sun_path[0] = 0;
	err = kernel_connect(
		pager->fd_socket, &address,
		(unsigned)(offsetof(struct sockaddr_un, sun_path) + strlen(pager->socket_path)));
	return (int)err;
}

/* Maps what came with WELCOME; it is shared with the supervisor and no business of a child. */
static void *map_shared(int fd, uint64_t len)
{
	struct stat stat = {0};
	void *memory;

	/* A file shorter than promised would be a SIGBUS later. */
	if (kernel_fstat(fd, &stat) || (uint64_t)stat.st_size < len)
		return NULL;
	memory = kernel_mmap(len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (kernel_is_error(memory))
		return NULL;
	kernel_madvise((uintptr_t)memory, len, MADV_DONTFORK);
	kernel_madvise((uintptr_t)memory, len, MADV_DONTDUMP);
	return memory;
}

static int take_welcome(struct pager *pager, const struct session_message *welcome, const int *fds)
{
	if (fds[0] < 0 || fds[1] < 0)
		return -EPROTO;
	pager->session = map_shared(fds[0], welcome->session_bytes);
	pager->session_len = welcome->session_bytes;
	pager->slots_memory = map_shared(fds[1], welcome->slots_bytes);
	pager->slots_len = welcome->slots_bytes;
	if (!pager->session || !pager->slots_memory)
		return -ENOMEM;
	if (slots_attach(&pager->slots, pager->slots_memory, pager->slots_len) ||
	    pager->session_len < session_bytes(pager->slots.slots_count))
		return -EPROTO;
	pager->held =
		(_Atomic uint64_t *)(void *)((unsigned char *)pager->session + SESSION_HELD_OFFSET);
	pager->staging =
		(unsigned char *)pager->session + session_staging_offset(pager->slots.slots_count);
	pager->session_flags = welcome->flags;
	pager->backend = welcome->flags & SESSION_DIRECT ? &direct_backend : &staged_backend;

	pager->pieces = kernel_mmap(pager->slots.pieces_count * sizeof(struct mapped_piece),
				    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (kernel_is_error(pager->pieces)) {
		pager->pieces = NULL;
		return -ENOMEM;
	}
	kernel_madvise((uintptr_t)pager->pieces,
		       pager->slots.pieces_count * sizeof(struct mapped_piece), MADV_DONTFORK);
	return 0;
}

int talk_begin(struct pager *pager)
{
	struct session_message message = talk_message_of(SESSION_HELLO);
	bool duplicate = !(pager->options.mutations & PAGER_MUTATE_DESCRIPTOR_DUPLICATE);
	int fds[2];
	int err = connect_to(pager);

	if (err)
		return err;
	message.token = pager->options.token;
	message.child = pager->child_token;
	message.pid = kernel_getpid();
	if (send_with_fd(pager, &message, duplicate ? pager->fd_uffd : -1) != sizeof(message))
		return -ECONNREFUSED;
	err = receive(pager, &message, fds, 2, 0);
	if (err)
		return err == -ECONNRESET ? -ECONNREFUSED : err;
	err = message.kind != SESSION_WELCOME ? -EPROTO : message.status;
	if (!err)
		err = take_welcome(pager, &message, fds);
	for (unsigned i = 0; i < 2; i++) {
		if (fds[i] >= 0)
			kernel_close(fds[i]);
	}
	return err;
}

void talk_end(struct pager *pager)
{
	if (pager->pieces) {
		direct_unmap_all(pager);
		kernel_munmap(pager->pieces,
			      pager->slots.pieces_count * sizeof(struct mapped_piece));
	}
	if (pager->session)
		kernel_munmap(pager->session, pager->session_len);
	if (pager->slots_memory)
		kernel_munmap(pager->slots_memory, pager->slots_len);
	if (pager->fd_socket >= 0)
		kernel_close(pager->fd_socket);
	pager->pieces = NULL;
	pager->session = NULL;
	pager->slots_memory = NULL;
	pager->fd_socket = -1;
}

/* The word of `held` for the slot, of which the lock's holder alone changes bits. */
static void mark_held(struct pager *pager, uint32_t slot, bool held)
{
	_Atomic uint64_t *word = &pager->held[slot / 64];
	uint64_t bit = UINT64_C(1) << slot % 64;

	if (held)
		atomic_fetch_or_explicit(word, bit, memory_order_release);
	else
		atomic_fetch_and_explicit(word, ~bit, memory_order_acq_rel);
}

static void claim(struct pager *pager)
{
	uint32_t *slot = &pager->magazine[pager->magazine_count];
	unsigned got = slots_claim(&pager->slots, slot, MAGAZINE_MAX - pager->magazine_count);

	for (unsigned i = 0; i < got; i++)
		mark_held(pager, slot[i], true);
	pager->magazine_count += got;
}

unsigned talk_magazine(struct pager *pager, unsigned n)
{
	struct session_message message = talk_message_of(SESSION_PIECE_MORE);

	if (pager->magazine_count >= n)
		return n;
	claim(pager);
	if (pager->magazine_count >= n)
		return n;
	message.count = MAGAZINE_MAX;
	pager->no_space = talk_call(pager, &message, NULL) != 0;
	claim(pager);
	return pager->magazine_count < n ? pager->magazine_count : n;
}

uint32_t talk_take_slot(struct pager *pager)
{
	PAGER_CHECK(pager->magazine_count > 0);
	return pager->magazine[--pager->magazine_count];
}

void talk_magazine_empty(struct pager *pager)
{
	while (pager->magazine_count > 0)
		talk_drop_slot(pager, talk_take_slot(pager));
}

void talk_drop_slot(struct pager *pager, uint32_t slot)
{
	mark_held(pager, slot, false);
	slots_drop(&pager->slots, slot);
}
