/*
 * session.c: one process of the tree, as the supervisor sees it
 *
 *     connected ──HELLO──► serving ──its socket ends──► closed ──last operation done──► freed
 *                             ▲                            ▲
 *     FORK of a parent ──► expected ──HELLO with token─────┘ (to serving), FORK_FAILED (to closed)
 *
 *   A pager has at most one request of each kind under way, so a session has room for one store,
 * one load and one wait for pieces; what can be answered at once is. Everything in a message or in
 * the shared memory is the process's word: indices are checked before use, and a process that
 * breaks the protocol ends the run with a message rather than go on with memory that cannot be
 * trusted.
 *
 *   When the socket ends the process is gone, or has become another program by exec. What it held
 *   is in its `held` bits (S4); they are dropped when the last of its operations is done (R2),
 *   because until then the pool may still write to its slots.
 */
#include "run/supervisor.h"

#include "afar/error.h"
#include "base/bits.h"
#include "base/env.h"
#include "base/log.h"
#include "pool/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_BACKLOG 128

/* A STORE or LOAD: its pages go to the pool as it takes them, and are answered together. */
struct session_io {
	struct session *session;
	struct session_message request;
	bool busy;
	uint32_t submitted, done; /* of request.count operations */
	int status;               /* the first error among them */
};

struct session {
	struct supervisor *run;
	struct session *next;
	int fd;   /* -1: expected, or closed */
	int uffd; /* the process's userfaultfd: held so that it never closes last */
	pid_t pid;
	uint64_t child_token;          /* expected: what its HELLO must say */
	pid_t parent;                  /* expected: who forks */
	bool parent_went_on;           /* expected: and has forked again since */
	unsigned missed;               /* expected: times that nobody was there who could come */
	struct session_memory *memory; /* NULL: only connected */
	size_t memory_bytes;
	int memfd;
	bool closed;

	struct session_io store, load;
	struct session_message more; /* the PIECE_MORE that waits */
	bool waiting_for_pieces;

	uint64_t faults_seen, weight; /* budget.c's */
};

static _Atomic uint64_t *held_of(const struct session *session)
{
	return (_Atomic uint64_t *)(void *)((char *)session->memory + SESSION_HELD_OFFSET);
}

static void *staging_page(const struct session *session, uint32_t index)
{
	return (char *)session->memory + session_staging_offset(session->run->slots.slots_count) +
	       (size_t)index * POOL_PAGE_BYTES;
}

struct session *session_next(struct supervisor *run, struct session *after)
{
	struct session *at = after ? after->next : run->sessions;

	while (at && (at->closed || at->fd < 0 || !at->memory))
		at = at->next;
	return at;
}

struct session_view session_view(struct session *session)
{
	return (struct session_view){
		.pid = session->pid,
		.memory = session->memory,
		.faults_seen = &session->faults_seen,
		.weight = &session->weight,
	};
}

bool session_of_process(struct supervisor *run, pid_t pid)
{
	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at))
		if (at->pid == pid)
			return true;
	return false;
}

static struct session *session_new(struct supervisor *run)
{
	if (run->sessions_count >= RUN_SESSIONS_MAX)
		return NULL;
	struct session *session = calloc(1, sizeof(*session));
	if (!session)
		return NULL;
	session->run = run;
	session->fd = session->uffd = session->memfd = -1;
	session->store.session = session->load.session = session;
	session->next = run->sessions;
	run->sessions = session;
	run->sessions_count++;
	return session;
}

/* The memory that is shared with the process. */
static int make_memory(struct session *session)
{
	struct supervisor *run = session->run;
	size_t bytes = session_bytes(run->slots.slots_count);
	int memfd = memfd_create("afar-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (memfd < 0)
		return -errno;
	if (ftruncate(memfd, (off_t)bytes) ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		int err = -errno;
		close(memfd);
		return err;
	}
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (memory == MAP_FAILED) {
		int err = -errno;
		close(memfd);
		return err;
	}
	session->memory = memory;
	session->memory_bytes = bytes;
	session->memfd = memfd;
	session->memory->magic = SESSION_MAGIC;
	session->memory->version = SESSION_VERSION;
	session->memory->id = ++run->sessions_made;
	atomic_store(&session->memory->limit_pages, run->local_bytes / POOL_PAGE_BYTES);
	atomic_store(&session->memory->must_activate, run->budget.activated);
	run->stats->processes++;
	return 0;
}

/* What a process counted goes into the run's sum. */
static void add_counters(struct run_statistics *stats, const struct session_memory *memory)
{
	const struct session_counters *from = &memory->counters;
	uint64_t max = atomic_load(&from->fault_ns_max);

	stats->faults += atomic_load(&from->faults);
	stats->faults_zero += atomic_load(&from->faults_zero);
	stats->faults_far += atomic_load(&from->faults_far);
	stats->faults_write += atomic_load(&from->faults_write);
	stats->pages_stored += atomic_load(&from->pages_stored);
	stats->pages_loaded += atomic_load(&from->pages_loaded);
	stats->pages_dropped_clean += atomic_load(&from->pages_dropped_clean);
	stats->pages_zero_dropped += atomic_load(&from->pages_zero_dropped);
	stats->prefetched += atomic_load(&from->prefetched);
	stats->prefetched_used += atomic_load(&from->prefetched_used);
	stats->evict_batches += atomic_load(&from->evict_batches);
	stats->stalls += atomic_load(&from->stalls);
	stats->unmanaged_bytes += atomic_load(&from->unmanaged_bytes);
	stats->fault_ns_mean += atomic_load(&from->fault_ns_sum); /* divided at the end */
	if (max > stats->fault_ns_max)
		stats->fault_ns_max = max;
	for (unsigned i = 0; i < 64; i++)
		stats->latency[i] += atomic_load(&from->latency[i]);
}

/* Drops every reference that the process held. */
static void drop_held(struct session *session)
{
	struct slots *slots = &session->run->slots;
	_Atomic uint64_t *held = held_of(session);

	for (uint32_t word = 0; word < slots->slots_count / 64; word++) {
		uint64_t bits = atomic_load_explicit(&held[word], memory_order_relaxed);

		while (bits) {
			uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);

			bits &= bits - 1;
			slots_drop(slots, slot);
		}
	}
}

static void session_free(struct session *session)
{
	struct supervisor *run = session->run;
	struct session **at = &run->sessions;

	while (*at != session)
		at = &(*at)->next;
	*at = session->next;
	run->sessions_count--;
	if (session->memory) {
		drop_held(session);
		add_counters(run->stats, session->memory);
		munmap(session->memory, session->memory_bytes);
	}
	if (session->memfd >= 0)
		close(session->memfd);
	if (session->uffd >= 0)
		close(session->uffd);
	if (session->fd >= 0)
		close(session->fd);
	free(session);
}

static bool in_flight(const struct session_io *io)
{
	return io->busy && io->done < io->submitted;
}

/* The process is gone; frees the session at once, or when its last operation is done. */
static void session_end(struct session *session)
{
	if (session->fd >= 0) {
		epoll_ctl(session->run->epoll_fd, EPOLL_CTL_DEL, session->fd, NULL);
		close(session->fd);
		session->fd = -1;
	}
	session->closed = true;
	session->waiting_for_pieces = false;
	if (!in_flight(&session->store) && !in_flight(&session->load))
		session_free(session);
}

/* Sends a message with up to two descriptors. False: the process does not take it. */
static bool send_message(struct session *session, struct session_message *message, const int *fds,
			 unsigned fds_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1};

	message->magic = SESSION_MAGIC;
	message->version = SESSION_VERSION;
	if (fds_count) {
		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		struct cmsghdr *rights = CMSG_FIRSTHDR(&head);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, fds_count * sizeof(int));
	}
	return sendmsg(session->fd, &head, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(*message);
}

/* Sends a request back as its answer. */
static void answer(struct session *session, struct session_message *request, int status,
		   const int *fds, unsigned fds_count)
{
	request->status = status;
	/* A process that cannot take one message is dying: its socket will say so. */
	if (session->fd >= 0)
		send_message(session, request, fds, fds_count);
}

void session_nudge(struct session *session)
{
	struct session_message message = {.kind = SESSION_NUDGE};

	if (session->fd >= 0 && session->memory)
		send_message(session, &message, NULL, 0);
}

void sessions_nudge(struct supervisor *run)
{
	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at))
		session_nudge(at);
}

/* The child session that was prepared at the parent's FORK. */
static struct session *expected_session(struct supervisor *run, uint64_t child_token)
{
	for (struct session *at = run->sessions; at; at = at->next)
		if (at->fd < 0 && !at->closed && at->child_token == child_token && child_token)
			return at;
	return NULL;
}

/* The connection becomes that of the expected session. Returns it. */
static struct session *adopt(struct session *connected, struct session *expected)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = expected};

	expected->fd = connected->fd;
	expected->uffd = connected->uffd;
	expected->pid = connected->pid;
	expected->child_token = 0;
	expected->parent = 0;
	connected->fd = connected->uffd = -1;
	epoll_ctl(expected->run->epoll_fd, EPOLL_CTL_MOD, expected->fd, &event);
	session_free(connected);
	return expected;
}

static void on_hello(struct session *session, const struct session_message *hello, int uffd)
{
	struct supervisor *run = session->run;
	struct session_message welcome = {
		.kind = SESSION_WELCOME,
		.slots_bytes = run->slots_bytes,
		.flags = (run->direct ? SESSION_DIRECT : 0u) |
			 (run->options->prefetch ? 0u : SESSION_NO_PREFETCH),
	};
	struct ucred peer;
	socklen_t peer_len = sizeof(peer);
	int err = 0;

	if (session->memory || hello->token != run->token ||
	    getsockopt(session->fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len)) {
		if (uffd >= 0)
			close(uffd);
		session_end(session);
		return;
	}
	session->pid = peer.pid;
	session->uffd = uffd;
	if (hello->child) {
		struct session *expected = expected_session(run, hello->child);

		if (expected)
			session = adopt(session, expected);
		else
			err = -ENOENT;
	} else {
		err = make_memory(session);
	}
	welcome.status = err;
	welcome.session_bytes = session->memory_bytes;
	int fds[2] = {session->memfd, run->slots_memfd};
	bool sent = send_message(session, &welcome, fds, err ? 0 : 2);
	if (err || !sent) {
		session_end(session);
		return;
	}
	log_debug(run->log, "session", "pid=%d child=%d", (int)session->pid, hello->child != 0);
	budget_share(run);
}

static void on_fork(struct session *session, struct session_message *request)
{
	struct supervisor *run = session->run;
	struct session *child = session_new(run);
	int err = child ? make_memory(child) : -ENOMEM;

	if (err) {
		if (child)
			session_free(child);
		answer(session, request, err, NULL, 0);
		return;
	}
	/* The parent waits for us with its lock held: its bits stand still, the counts are up. */
	memcpy(held_of(child), held_of(session), run->slots.slots_count / 8);
	for (struct session *at = run->sessions; at; at = at->next)
		at->parent_went_on |= at->parent == session->pid;
	child->child_token = env_random(run->env) | 1;
	child->parent = session->pid;
	request->token = child->child_token;
	answer(session, request, 0, NULL, 0);
}

/*
 * A child may be killed before its HELLO. That it will not come is sure when its parent is past the
 * fork, or gone, and no process of the tree is without a session; seen twice, as one look at /proc
 * may miss who is born meanwhile.
 */
void sessions_forget_unborn(struct supervisor *run)
{
	for (struct session *at = run->sessions, *next; at; at = next) {
		next = at->next;
		if (at->fd >= 0 || at->closed || !at->child_token)
			continue;
		if (!at->parent_went_on && session_of_process(run, at->parent))
			continue;
		if (++at->missed >= 2)
			session_end(at);
	}
}

static void on_fork_failed(struct session *session, struct session_message *request)
{
	struct session *child = expected_session(session->run, request->token);

	if (child)
		session_end(child);
	answer(session, request, child ? 0 : -ENOENT, NULL, 0);
}

static void on_piece_map(struct session *session, struct session_message *request)
{
	struct supervisor *run = session->run;
	struct volume_piece_direct direct;
	int err = -EINVAL;

	if (request->value < run->slots.pieces_count && run->direct)
		err = volume_piece_direct(run->volume, request->value, false, &direct);
	if (err) {
		answer(session, request, err, NULL, 0);
		return;
	}
	request->value = direct.piece_epoch;
	request->session_bytes = direct.size_bytes;
	answer(session, request, 0, &direct.memfd, 1);
}

/* Whether a waiting PIECE_MORE can be answered now. */
static void try_more(struct session *session)
{
	struct supervisor *run = session->run;
	uint64_t free_slots = run_pieces_free_slots(run);

	if (free_slots < session->more.count) {
		run_pieces_want(run, session->more.count);
		if (run->pieces.opening > 0)
			return;
	}
	session->waiting_for_pieces = false;
	session->more.value = free_slots;
	answer(session, &session->more, free_slots ? 0 : AFAR_ENOSPACE_FAR, NULL, 0);
}

void sessions_pieces_changed(struct supervisor *run)
{
	for (struct session *at = run->sessions; at; at = at->next)
		if (at->waiting_for_pieces)
			try_more(at);
}

/* Whether the process may ask for this: its own slots, the right half of the staging pages. */
static bool io_is_sane(const struct session *session, const struct session_message *request)
{
	uint32_t half = SESSION_STAGING_PAGES / 2;
	uint32_t first = request->kind == SESSION_STORE ? 0 : half;

	if (request->count == 0 || request->count > SESSION_BATCH_MAX)
		return false;
	for (uint32_t i = 0; i < request->count; i++) {
		uint32_t slot = request->slot[i];

		if (slot >= session->run->slots.slots_count || request->staging[i] < first ||
		    request->staging[i] >= first + half)
			return false;
		if (!(atomic_load(&held_of(session)[slot / 64]) >> slot % 64 & 1))
			return false;
	}
	return true;
}

/* Hands to the pool what it did not yet take of the request. */
static void pump(struct session_io *io)
{
	const struct session_message *request = &io->request;
	struct volume_io ios[SESSION_BATCH_MAX];
	uint32_t n = 0;

	for (uint32_t i = io->submitted; i < request->count; i++)
		ios[n++] = (struct volume_io){
			.op = request->kind == SESSION_STORE ? VOLUME_WRITE : VOLUME_READ,
			.page = request->slot[i],
			.buf = staging_page(io->session, request->staging[i]),
			.token = (uint64_t)(uintptr_t)io,
		};
	io->submitted += volume_submit(io->session->run->volume, ios, n);
}

void sessions_pump(struct supervisor *run)
{
	for (struct session *at = run->sessions; at; at = at->next) {
		if (at->closed)
			continue;
		if (at->store.busy && at->store.submitted < at->store.request.count)
			pump(&at->store);
		if (at->load.busy && at->load.submitted < at->load.request.count)
			pump(&at->load);
	}
}

static void on_io(struct session_io *io, const struct session_message *request)
{
	io->request = *request;
	io->busy = true;
	io->submitted = io->done = 0;
	io->status = 0;
	pump(io);
}

void session_io_done(uint64_t token, int status)
{
	struct session_io *io = (struct session_io *)(uintptr_t)token;
	struct session *session = io->session;

	io->done++;
	if (status && !io->status)
		io->status = status;
	if (session->closed) {
		if (!in_flight(&session->store) && !in_flight(&session->load))
			session_free(session);
		return;
	}
	if (io->submitted < io->request.count) {
		pump(io);
	} else if (io->done == io->request.count) {
		io->busy = false;
		answer(session, &io->request, io->status, NULL, 0);
	}
}

static void on_fail(struct session *session, const struct session_message *request)
{
	struct supervisor *run = session->run;
	const char *volume = run->volume ? volume_name(run->volume) : "";
	int pid = (int)session->pid;

	switch ((enum session_failure)request->count) {
	case SESSION_FAIL_LOST:
		supervisor_fail(run, RUN_EXIT_LOST,
				"volume %s: the last copy of a page of process %d is gone", volume,
				pid);
		return;
	case SESSION_FAIL_CHECKSUM:
		supervisor_fail(run, RUN_EXIT_LOST,
				"volume %s: a page of process %d came back damaged", volume, pid);
		return;
	case SESSION_FAIL_NO_SPACE:
		supervisor_fail(run, RUN_EXIT_FAILED,
				"volume %s: no node has room for more, and process %d is at its "
				"local budget: raise --local or --far, or add nodes",
				volume, pid);
		return;
	case SESSION_FAIL_UNSUPPORTED:
		supervisor_fail(run, RUN_EXIT_FAILED,
				"process %d did something to memory at 0x%" PRIx64
				" that cannot be served from afar",
				pid, request->value);
		return;
	case SESSION_FAIL_KERNEL:
		break;
	}
	supervisor_fail(run, RUN_EXIT_FAILED, "the kernel failed process %d at 0x%" PRIx64 ": %s",
			pid, request->value, afar_strerror(request->status));
}

static void protocol_broken(struct session *session, const struct session_message *request)
{
	supervisor_fail(session->run, RUN_EXIT_FAILED,
			"process %d broke the protocol with request %u", (int)session->pid,
			request->kind);
}

static void on_request(struct session *session, struct session_message *request)
{
	struct session_io *io = request->kind == SESSION_STORE ? &session->store : &session->load;

	switch ((enum session_message_kind)request->kind) {
	case SESSION_FORK:
		on_fork(session, request);
		return;
	case SESSION_FORK_FAILED:
		on_fork_failed(session, request);
		return;
	case SESSION_PIECE_MORE:
		if (session->waiting_for_pieces)
			break;
		session->waiting_for_pieces = true;
		session->more = *request;
		try_more(session);
		return;
	case SESSION_PIECE_MAP:
		on_piece_map(session, request);
		return;
	case SESSION_STORE:
	case SESSION_LOAD:
		if (io->busy || !io_is_sane(session, request))
			break;
		on_io(io, request);
		return;
	case SESSION_FAIL:
		on_fail(session, request);
		return;
	default:
		break;
	}
	protocol_broken(session, request);
}

/* Takes one message and at most one descriptor; -EAGAIN, or -EPIPE when there will be none. */
static int receive(struct session *session, struct session_message *message, int *fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	struct msghdr head = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n = recvmsg(session->fd, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
	struct cmsghdr *rights = CMSG_FIRSTHDR(&head);
	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
	    rights->cmsg_len >= CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(rights), sizeof(int));
	if (n != sizeof(*message) || message->magic != SESSION_MAGIC ||
	    message->version != SESSION_VERSION)
		return -EPIPE;
	return 0;
}

void session_receive(struct session *session)
{
	struct session_message message;
	int fd;
	int err = receive(session, &message, &fd);

	if (err == -EAGAIN)
		return;
	if (!err && message.kind == SESSION_HELLO) {
		on_hello(session, &message, fd);
		return;
	}
	if (fd >= 0)
		close(fd);
	if (err || !session->memory)
		session_end(session);
	else
		on_request(session, &message);
}

int sessions_listen(struct supervisor *run)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", run->socket_path);
	run->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (run->listen_fd < 0)
		return -errno;
	if (bind(run->listen_fd, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(run->listen_fd, SOCKET_BACKLOG))
		return -errno;
	return 0;
}

void session_accept(struct supervisor *run)
{
	int fd = accept4(run->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct session *session = fd >= 0 ? session_new(run) : NULL;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};

	if (!session) {
		if (fd >= 0)
			close(fd);
		return;
	}
	session->fd = fd;
	if (epoll_ctl(run->epoll_fd, EPOLL_CTL_ADD, fd, &event))
		session_end(session);
}

void sessions_close(struct supervisor *run)
{
	while (run->sessions) {
		struct session *session = run->sessions;

		/* The pool is closed: nothing comes any more. */
		session->store.busy = session->load.busy = false;
		session_end(session);
	}
}
