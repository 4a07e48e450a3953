/*
 * supervisor.c: one thread, one poll, no waiting; see supervisor.h
 */
#include "supervisor.h"

#include "afar/error.h"
#include "base/page_hash.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

struct client {
	int socket, uffd; /* -1: none */
	int32_t pid;
	bool promised; /* a fork's child that has not said HELLO */
	bool store_held;
	struct session_message held_store;
};

struct world {
	struct supervisor *supervisor;
	struct client client[SUPERVISOR_SESSIONS_MAX];
	unsigned clients;
	uint32_t *stored; /* staged: hash of what each slot holds, salted as stored; 0: nothing */
	int waiting;      /* a connection that has not said HELLO; -1: none */
};

static void *shared_memory(int *fd, size_t len)
{
	void *memory;

	*fd = memfd_create("supervisor", MFD_CLOEXEC);
	assert(*fd >= 0 && ftruncate(*fd, (off_t)len) == 0);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	assert(memory != MAP_FAILED);
	return memory;
}

static void answer(int socket, const struct session_message *message, const int *fds, unsigned n)
{
	union {
		struct cmsghdr header;
		unsigned char space[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = sizeof(*message)};
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};

	if (n > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
	}
	/* Who is gone needs no answer. */
	(void)!sendmsg(socket, &msg, MSG_NOSIGNAL);
}

/* False: the connection ended. */
static bool receive(int socket, struct session_message *message, int *fd)
{
	union {
		struct cmsghdr header;
		unsigned char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	struct msghdr msg = {.msg_iov = &part,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (got != (ssize_t)sizeof(*message))
		return false;
	if (CMSG_FIRSTHDR(&msg))
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return true;
}

static _Atomic uint64_t *held_of(const struct supervisor *supervisor, unsigned session)
{
	return (_Atomic uint64_t *)(void *)((unsigned char *)supervisor->session[session] +
					    SESSION_HELD_OFFSET);
}

static void drop_all(struct supervisor *supervisor, unsigned session)
{
	_Atomic uint64_t *held = held_of(supervisor, session);

	for (uint32_t slot = 0; slot < supervisor->slots.slots_count; slot++) {
		if (held[slot / 64] >> slot % 64 & 1)
			slots_drop(&supervisor->slots, slot);
	}
	memset((void *)held, 0, supervisor->slots.slots_count / 8);
}

static unsigned new_client(struct world *world)
{
	unsigned i = world->clients++;

	assert(i < SUPERVISOR_SESSIONS_MAX);
	world->client[i] = (struct client){.socket = -1, .uffd = -1};
	world->supervisor->session[i]->limit_pages = world->supervisor->options.limit_pages;
	return i;
}

/* The tokens of children are their sessions, plus one. */
static void hello(struct world *world, const struct session_message *message, int uffd)
{
	struct supervisor *supervisor = world->supervisor;
	struct session_message welcome = *message;
	unsigned i = message->child ? (unsigned)message->child - 1 : new_client(world);

	welcome.kind = SESSION_WELCOME;
	welcome.status = 0;
	welcome.session_bytes = supervisor->session_len;
	welcome.slots_bytes = supervisor->slots_len;
	welcome.flags = (supervisor->options.staged ? 0 : SESSION_DIRECT) |
			(supervisor->options.no_prefetch ? SESSION_NO_PREFETCH : 0);
	if (message->token != SUPERVISOR_TOKEN || (message->child && !world->client[i].promised)) {
		welcome.status = -EPERM;
		answer(world->waiting, &welcome, NULL, 0);
		close(world->waiting);
		world->waiting = -1;
		return;
	}
	world->client[i].socket = world->waiting;
	world->client[i].uffd = uffd;
	world->client[i].pid = message->pid;
	world->client[i].promised = false;
	world->waiting = -1;
	supervisor->control->sessions++;
	supervisor->control->duplicates += uffd >= 0;
	answer(world->client[i].socket, &welcome,
	       (int[]){supervisor->session_fd[i], supervisor->slots_fd}, 2);
}

static void piece_more(struct world *world, struct session_message *message)
{
	struct slots *slots = &world->supervisor->slots;

	message->status = AFAR_ENOSPACE_FAR;
	for (uint32_t piece = 0; piece < slots->pieces_count; piece++) {
		if (slots->pieces[piece].state != PIECE_CLOSED)
			continue;
		slots_piece_open(slots, piece, piece + 1);
		message->status = 0;
		break;
	}
}

unsigned char *supervisor_far(const struct supervisor *supervisor, uint32_t slot)
{
	uint32_t piece_slots = supervisor->slots.piece_slots;

	return supervisor->slab[slot / piece_slots] + (size_t)(slot % piece_slots) * PAGE_BYTES;
}

static unsigned char *staging_page(const struct world *world, unsigned session, unsigned i)
{
	struct supervisor *supervisor = world->supervisor;

	assert(i < SESSION_STAGING_PAGES);
	return (unsigned char *)supervisor->session[session] +
	       session_staging_offset(supervisor->slots.slots_count) + (size_t)i * PAGE_BYTES;
}

static void store(struct world *world, unsigned session, struct session_message *message)
{
	struct supervisor_control *control = world->supervisor->control;
	uint32_t every = control->fail_store_every;
	uint32_t nth = ++control->stores;

	message->status = every && nth % every == 0 ? -EIO : 0;
	for (uint32_t i = 0; i < message->count; i++) {
		uint32_t slot = message->slot[i];
		unsigned char *far = supervisor_far(world->supervisor, slot);

		assert(slot < world->supervisor->slots.slots_count);
		assert(slots_refs(&world->supervisor->slots, slot) == 1);
		/* What was refused leaves the slot in pieces. */
		memcpy(far, staging_page(world, session, message->staging[i]), PAGE_BYTES);
		world->stored[slot] = message->status ? 0 : page_hash(far, slot) | 1;
	}
}

static void load(struct world *world, unsigned session, struct session_message *message)
{
	world->supervisor->control->loads++;
	message->status = 0;
	for (uint32_t i = 0; i < message->count; i++) {
		uint32_t slot = message->slot[i];
		const unsigned char *far = supervisor_far(world->supervisor, slot);

		assert(slot < world->supervisor->slots.slots_count);
		world->supervisor->control->pages_loaded++;
		if (!world->stored[slot])
			message->status = AFAR_ELOST;
		else if ((page_hash(far, slot) | 1) != world->stored[slot])
			message->status = AFAR_ECHECKSUM;
		memcpy(staging_page(world, session, message->staging[i]), far, PAGE_BYTES);
	}
}

static void fork_session(struct world *world, unsigned session, struct session_message *message)
{
	struct supervisor *supervisor = world->supervisor;
	unsigned child = new_client(world);

	memcpy((void *)held_of(supervisor, child), (void *)held_of(supervisor, session),
	       supervisor->slots.slots_count / 8);
	world->client[child].promised = true;
	supervisor->control->forks++;
	message->token = child + 1;
	message->status = 0;
}

static void end_client(struct world *world, unsigned session)
{
	struct client *client = &world->client[session];

	close(client->socket);
	client->socket = -1;
	/* A process may outlive its connection: until it is gone, far pages must not read as zeros.
	 */
	if (client->uffd >= 0 && !world->supervisor->control->end_who_waits) {
		close(client->uffd);
		client->uffd = -1;
	}
	drop_all(world->supervisor, session);
	world->supervisor->control->sessions_ended++;
}

static void serve(struct world *world, unsigned session)
{
	struct client *client = &world->client[session];
	struct supervisor_control *control = world->supervisor->control;
	struct session_message message;
	unsigned fds = 0;
	int slab = -1;
	int fd;

	if (!receive(client->socket, &message, &fd)) {
		end_client(world, session);
		return;
	}
	if (fd >= 0)
		close(fd);
	switch (message.kind) {
	case SESSION_PIECE_MORE:
		piece_more(world, &message);
		break;
	case SESSION_PIECE_MAP:
		message.status = 0;
		slab = world->supervisor->slab_fd[message.value];
		message.value = world->supervisor->slots.pieces[message.value].piece_epoch;
		fds = 1;
		break;
	case SESSION_STORE:
		if (control->hold_stores) {
			client->held_store = message;
			client->store_held = true;
			control->stores_held++;
			return;
		}
		store(world, session, &message);
		break;
	case SESSION_LOAD:
		load(world, session, &message);
		break;
	case SESSION_FORK:
		fork_session(world, session, &message);
		break;
	case SESSION_FORK_FAILED:
		drop_all(world->supervisor, (unsigned)message.token - 1);
		control->forks_failed++;
		message.status = 0;
		break;
	case SESSION_FAIL:
		control->fail_reason = message.count;
		control->fail_page = message.value;
		control->fails++;
		end_client(world, session);
		return;
	default:
		abort();
	}
	answer(client->socket, &message, &slab, fds);
}

static void watch_duplicates(struct world *world)
{
	for (unsigned i = 0; i < world->clients; i++) {
		struct pollfd fd = {.fd = world->client[i].uffd, .events = POLLIN};

		if (fd.fd < 0)
			continue;
		/* The kernel tells nothing of one that may wait in a read. */
		fcntl(fd.fd, F_SETFL, O_RDWR | O_NONBLOCK);
		if (poll(&fd, 1, 0) == 1 && fd.revents & POLLIN)
			kill(world->client[i].pid, SIGKILL);
	}
}

static void answer_held(struct world *world)
{
	for (unsigned i = 0; i < world->clients; i++) {
		struct client *client = &world->client[i];

		if (!client->store_held || client->socket < 0)
			continue;
		client->store_held = false;
		store(world, i, &client->held_store);
		answer(client->socket, &client->held_store, NULL, 0);
	}
}

static void nudge(struct world *world)
{
	struct session_message message = {
		.magic = SESSION_MAGIC, .version = SESSION_VERSION, .kind = SESSION_NUDGE};
	char bytes[64];

	(void)!read(world->supervisor->bell[0], bytes, sizeof(bytes));
	for (unsigned i = 0; i < world->clients; i++) {
		if (world->client[i].socket >= 0)
			answer(world->client[i].socket, &message, NULL, 0);
	}
}

static void accept_client(struct world *world)
{
	struct session_message message;
	int fd;

	world->waiting = accept4(world->supervisor->listener, NULL, NULL, SOCK_CLOEXEC);
	assert(world->waiting >= 0);
	if (receive(world->waiting, &message, &fd) && message.kind == SESSION_HELLO) {
		hello(world, &message, fd);
		return;
	}
	close(world->waiting);
	world->waiting = -1;
}

/* One turn; the time-out is for words that change without a bell. */
static void turn(struct world *world)
{
	struct supervisor_control *control = world->supervisor->control;
	struct pollfd fds[SUPERVISOR_SESSIONS_MAX + 2];
	unsigned clients = world->clients;

	for (unsigned i = 0; i < clients; i++)
		fds[i] = (struct pollfd){.fd = world->client[i].socket, .events = POLLIN};
	fds[clients] = (struct pollfd){.fd = world->supervisor->listener, .events = POLLIN};
	fds[clients + 1] = (struct pollfd){.fd = world->supervisor->bell[0], .events = POLLIN};
	poll(fds, clients + 2, control->hold_stores || control->end_who_waits ? 1 : 50);
	for (unsigned i = 0; i < clients; i++) {
		if (fds[i].revents)
			serve(world, i);
	}
	if (fds[clients].revents)
		accept_client(world);
	if (fds[clients + 1].revents)
		nudge(world);
	if (control->end_who_waits)
		watch_duplicates(world);
	if (!control->hold_stores)
		answer_held(world);
}

__attribute__((noreturn)) static void live(struct supervisor *supervisor, pid_t parent)
{
	struct world world = {.supervisor = supervisor, .waiting = -1};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	world.stored = calloc(supervisor->slots.slots_count, sizeof(uint32_t));
	for (;;)
		turn(&world);
}

static void listen_somewhere(struct supervisor *supervisor)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(address);

	supervisor->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	/* Bound to no name, the kernel finds an abstract one that nobody has. */
	assert(supervisor->listener >= 0);
	assert(bind(supervisor->listener, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
	assert(listen(supervisor->listener, 64) == 0);
	assert(getsockname(supervisor->listener, (struct sockaddr *)&address, &len) == 0);
	supervisor->path[0] = '@';
	memcpy(supervisor->path + 1, address.sun_path + 1,
	       len - offsetof(struct sockaddr_un, sun_path) - 1);
}

struct supervisor *supervisor_start(const struct supervisor_options *options)
{
	struct supervisor *supervisor = calloc(1, sizeof(*supervisor));
	uint32_t count = options->pieces * options->piece_slots;
	pid_t parent = getpid();
	void *memory;

	supervisor->options = *options;
	supervisor->control = mmap(NULL, sizeof(struct supervisor_control), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert(supervisor->control != MAP_FAILED);
	supervisor->slots_len = slots_bytes(options->pieces, options->piece_slots);
	supervisor->session_len = session_bytes(count);
	supervisor->slab_len = (size_t)options->piece_slots * PAGE_BYTES;
	assert(options->pieces <= SUPERVISOR_PIECES_MAX);
	memory = shared_memory(&supervisor->slots_fd, supervisor->slots_len);
	slots_format(&supervisor->slots, memory, supervisor->slots_len, options->pieces,
		     options->piece_slots, 42);
	for (uint32_t i = 0; i < options->pieces; i++)
		supervisor->slab[i] = shared_memory(&supervisor->slab_fd[i], supervisor->slab_len);
	for (unsigned i = 0; i < SUPERVISOR_SESSIONS_MAX; i++) {
		struct session_memory *session =
			shared_memory(&supervisor->session_fd[i], supervisor->session_len);

		*(uint32_t *)session = SESSION_MAGIC;
		session->version = SESSION_VERSION;
		session->id = i;
		supervisor->session[i] = session;
	}
	listen_somewhere(supervisor);
	assert(pipe(supervisor->bell) == 0);
	supervisor->pid = fork();
	assert(supervisor->pid >= 0);
	if (supervisor->pid == 0)
		live(supervisor, parent);
	close(supervisor->listener);
	return supervisor;
}

void supervisor_stop(struct supervisor *supervisor)
{
	kill(supervisor->pid, SIGKILL);
	waitpid(supervisor->pid, NULL, 0);
	for (unsigned i = 0; i < SUPERVISOR_SESSIONS_MAX; i++) {
		munmap(supervisor->session[i], supervisor->session_len);
		close(supervisor->session_fd[i]);
	}
	munmap(supervisor->slots.header, supervisor->slots_len);
	for (uint32_t i = 0; i < supervisor->options.pieces; i++) {
		munmap(supervisor->slab[i], supervisor->slab_len);
		close(supervisor->slab_fd[i]);
	}
	munmap(supervisor->control, sizeof(struct supervisor_control));
	close(supervisor->slots_fd);
	close(supervisor->bell[0]);
	close(supervisor->bell[1]);
	free(supervisor);
}

void supervisor_limit(struct supervisor *supervisor, unsigned session, uint64_t limit_pages)
{
	supervisor->session[session]->limit_pages = limit_pages;
	assert(write(supervisor->bell[1], "n", 1) == 1);
}
