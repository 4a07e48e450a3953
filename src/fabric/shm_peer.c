/*
 * shm_peer.c: one connection between two processes of a host; shm.h draws it
 */
#include "fabric/shm.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- beginning and ending ---- */

static void set_state(struct shm_peer *peer, enum shm_state state)
{
	bool was = peer->state == SHM_CONNECTING || peer->state == SHM_HELLO;
	bool is = state == SHM_CONNECTING || state == SHM_HELLO;

	peer->shm->unsettled_count += (uint32_t)is - (uint32_t)was;
	peer->state = state;
}

int shm_peer_create(struct shm *shm, int fd, bool accepted, struct shm_peer **result)
{
	struct shm_peer *peer = calloc(1, sizeof(*peer));
	struct epoll_event event = {.events = EPOLLIN};
	int err;

	if (!peer)
		return -ENOMEM;
	peer->peer.transport = &shm->transport;
	peer->peer.fabric = shm->transport.fabric;
	peer->peer.accepted = accepted;
	peer->source = (struct shm_source){.kind = SHM_SOURCE_PEER, .fd = fd};
	peer->shm = shm;
	peer->session_fd = -1;
	peer->pidfd = -1;
	peer->state = SHM_CLOSED;
	event.data.ptr = &peer->source;
	if (epoll_ctl(shm->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		err = -errno;
		goto fail;
	}
	if (!accepted) {
		err = fabric_peer_enroll(&peer->peer);
		if (err)
			goto fail_epoll;
		peer->enrolled = true;
	}
	list_init(&peer->dirty);
	list_push_last(&shm->peers, &peer->link);
	shm->pending_count += accepted;
	peer->began_ns = env_now_ns(shm->self.env);
	shm->timer_ns = 0;
	set_state(peer, SHM_CONNECTING);
	hello_begin(&peer->hello, &shm->self, accepted ? HELLO_ACCEPTOR : HELLO_CONNECTOR);
	*result = peer;
	return 0;

fail_epoll:
	epoll_ctl(shm->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
fail:
	free(peer);
	return err;
}

void shm_peer_free(struct shm_peer *peer)
{
	shm_windows_destroy(peer);
	shm_session_unmap(peer);
	if (peer->pidfd >= 0)
		close(peer->pidfd);
	free(peer);
}

static void close_socket(struct shm_peer *peer)
{
	if (peer->source.fd >= 0)
		close(peer->source.fd);
	peer->source.fd = -1;
	if (peer->session_fd >= 0)
		close(peer->session_fd);
	peer->session_fd = -1;
	list_remove(&peer->dirty);
}

static void finish(struct shm_peer *peer)
{
	close_socket(peer);
	list_remove(&peer->link);
	set_state(peer, SHM_CLOSED);
}

void shm_peer_lost(struct shm_peer *peer, int status)
{
	struct fabric *fabric = peer->peer.fabric;

	if (peer->state == SHM_CLOSED)
		return;
	if (status == AFAR_EAUTH)
		fabric_counters(fabric)->auth_failures++;
	finish(peer);
	if (peer->enrolled) {
		fabric_peer_down(&peer->peer, status);
		return;
	}
	peer->shm->pending_count--;
	log_info(fabric_options_of(fabric)->log, "connection_refused", "transport=shm error=%d",
		 status);
	list_push_last(&peer->shm->dead, &peer->link);
}

void shm_peer_drop(struct shm_peer *peer)
{
	if (peer->state == SHM_CLOSED)
		return;
	if (peer->state == SHM_OPEN) {
		ring_close(&peer->tx);
		ring_close(&peer->rx);
	}
	finish(peer);
	list_push_last(&peer->shm->dead, &peer->link);
}

void shm_peer_broke_protocol(struct shm_peer *peer)
{
	if (peer->state == SHM_CLOSED)
		return;
	fabric_counters(peer->peer.fabric)->protocol_errors++;
	shm_peer_lost(peer, -EPROTO);
}

/* What was published stays in the shared memory, and the other end reads it after our end. */
void shm_peer_disconnect(struct fabric_peer *fabric_peer)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);

	if (peer->state == SHM_OPEN) {
		ring_close(&peer->tx);
		ring_close(&peer->rx);
	}
	shm_peer_lost(peer, 0);
}

/* The socket has ended; what was published before is taken first. */
static void begin_to_drain(struct shm_peer *peer)
{
	if (peer->state != SHM_OPEN) {
		shm_peer_lost(peer, AFAR_EPEER_DOWN);
		return;
	}
	close_socket(peer);
	ring_declare_dead(&peer->tx);
	ring_declare_dead(&peer->rx);
	set_state(peer, SHM_DRAINING);
	shm_peer_take_messages(peer);
}

/* ---- packets ---- */

int shm_peer_send_packet(struct shm_peer *peer, const void *packet, size_t len_bytes, int fd)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)packet, .iov_len = len_bytes};
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control.bytes);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	}
	if (sendmsg(peer->source.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case EINTR:
	case ENOBUFS:
	case ETOOMANYREFS: /* descriptors in flight: some until they are received */
		return -EAGAIN;
	case EPIPE:
	case ECONNRESET:
		return AFAR_EPEER_DOWN;
	default:
		return -errno;
	}
}

/* The first descriptor of a packet, or -1; others are closed. */
static int take_descriptor(struct msghdr *message)
{
	int taken = -1;

	for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head;
	     head = CMSG_NXTHDR(message, head)) {
		size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(head) + i * sizeof(fd), sizeof(fd));
			if (taken < 0)
				taken = fd;
			else
				close(fd);
		}
	}
	return taken;
}

/* Returns the length, 0 at the end of the connection, -EAGAIN, -EPROTO; *fd is the caller's. */
static int receive_packet(struct shm_peer *peer, void *packet, size_t size_bytes, int *fd)
{
	struct iovec iov = {.iov_base = packet, .iov_len = size_bytes};
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t received = recvmsg(peer->source.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (received < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : 0;
	*fd = take_descriptor(&message);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EPROTO;
	return (int)received;
}

static int take_packet(struct shm_peer *peer, const struct shm_packet *packet, int fd)
{
	if (packet->magic == SHM_PACKET_MAGIC && packet->kind == SHM_PACKET_EXPORT)
		return shm_window_exported(peer, packet, fd);
	if (fd >= 0)
		close(fd);
	if (packet->magic != SHM_PACKET_MAGIC)
		return -EPROTO;
	switch (packet->kind) {
	case SHM_PACKET_BELL:
		return 0;
	case SHM_PACKET_WITHDRAWN:
		shm_window_sweep(peer);
		return 0;
	default:
		return -EPROTO;
	}
}

/* One packet of an open connection. false: there is no more. */
static bool take_next(struct shm_peer *peer)
{
	struct shm_packet packet;
	int fd;
	int received = receive_packet(peer, &packet, sizeof(packet), &fd);
	int err = 0;

	if (received == -EAGAIN)
		return false;
	if (received == 0) {
		begin_to_drain(peer);
		return false;
	}
	if (received == (int)sizeof(packet)) {
		err = take_packet(peer, &packet, fd);
	} else {
		err = -EPROTO;
		if (fd >= 0)
			close(fd);
	}
	if (err == -EPROTO)
		shm_peer_broke_protocol(peer);
	else if (err)
		shm_peer_lost(peer, err);
	return !err;
}

/* ---- the hello ---- */

void shm_peer_connected(struct shm_peer *peer)
{
	struct ucred credentials;
	socklen_t len_bytes = sizeof(credentials);

	set_state(peer, SHM_HELLO);
	if (getsockopt(peer->source.fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len_bytes)) {
		shm_peer_lost(peer, AFAR_EPEER_DOWN);
		return;
	}
	/* Without a key it is the kernel that vouches for the other end. */
	if (peer->shm->self.secret->len_bytes == 0 && credentials.uid != geteuid() &&
	    credentials.uid != 0) {
		shm_peer_lost(peer, AFAR_EAUTH);
		return;
	}
	peer->peer.pid = credentials.pid;
	if (credentials.pid > 0 && credentials.pid != getpid())
		peer->pidfd = (int)syscall(SYS_pidfd_open, credentials.pid, 0);
	if (!peer->peer.accepted &&
	    shm_peer_send_packet(peer, &peer->hello.ours, sizeof(peer->hello.ours), -1) != 0)
		shm_peer_lost(peer, AFAR_EPEER_DOWN);
}

/* Both ends are proven: memory, and a place in the fabric. */
static int open_peer(struct shm_peer *peer)
{
	struct fabric_peer *fabric_peer = &peer->peer;
	int err = shm_windows_create(peer);

	if (!err && fabric_peer->accepted)
		err = shm_session_map(peer, peer->session_fd);
	if (err)
		return err;
	if (!peer->enrolled) {
		err = fabric_peer_enroll(fabric_peer);
		if (err)
			return err;
		peer->enrolled = true;
		peer->shm->pending_count--;
	}
	if (peer->session_fd >= 0)
		close(peer->session_fd);
	peer->session_fd = -1;
	fabric_peer->id = peer->hello.theirs.hello.id;
	fabric_peer->is_local = true;
	fabric_peer->capabilities = FABRIC_CAP_ONE_SIDED | FABRIC_CAP_ORDERED |
				    FABRIC_CAP_NATIVE_ATOMICS | FABRIC_CAP_DIRECT |
				    FABRIC_CAP_ABANDON;
	set_state(peer, SHM_OPEN);
	return 0;
}

/* The connector makes the session when it is about to prove itself. */
static int make_session(struct shm_peer *peer, int *fd)
{
	uint32_t wanted = fabric_options_of(peer->peer.fabric)->send_bytes_max;
	uint64_t capacity = round_up_power_of_two(wanted);

	return shm_session_create(peer, (uint32_t)min_u64(capacity, SHM_RING_MAX / 2), fd);
}

static void answer_hello(struct shm_peer *peer, const struct hello_frame *answer, int fd)
{
	if (shm_peer_send_packet(peer, answer, sizeof(*answer), fd) != 0)
		shm_peer_lost(peer, AFAR_EPEER_DOWN);
}

static void take_hello(struct shm_peer *peer, const struct hello_frame *frame)
{
	struct hello_frame answer;
	bool answers;
	int session_fd = -1;
	int err = hello_take(&peer->hello, &peer->shm->self, frame, &answer, &answers);

	if (!err && !peer->peer.accepted && peer->hello.state == HELLO_WAIT_PROOF)
		err = make_session(peer, &session_fd);
	if (!err && peer->hello.state == HELLO_PROVEN)
		err = open_peer(peer);
	if (err && peer->hello.state != HELLO_REFUSED) {
		hello_refuse(&answer, err);
		answers = true;
	}
	if (answers)
		answer_hello(peer, &answer, session_fd);
	if (session_fd >= 0)
		close(session_fd);
	if (peer->state == SHM_CLOSED)
		return;
	if (err == -EPROTO)
		shm_peer_broke_protocol(peer);
	else if (err)
		shm_peer_lost(peer, err);
	else if (peer->state == SHM_OPEN)
		fabric_peer_up(&peer->peer);
}

static bool take_next_hello(struct shm_peer *peer)
{
	struct hello_frame frame;
	int fd;
	int received = receive_packet(peer, &frame, sizeof(frame), &fd);

	if (received == -EAGAIN)
		return false;
	/* Only the connector hands one over, and only with its proof. */
	if (fd >= 0 && peer->peer.accepted && peer->session_fd < 0)
		peer->session_fd = fd;
	else if (fd >= 0)
		close(fd);
	if (received == (int)sizeof(frame))
		take_hello(peer, &frame);
	else if (received == 0)
		shm_peer_lost(peer, AFAR_EPEER_DOWN);
	else
		shm_peer_broke_protocol(peer);
	return true;
}

void shm_peer_take_packets(struct shm_peer *peer)
{
	for (uint32_t i = 0; i < SHM_PACKETS_MAX; i++) {
		bool more = false;

		if (peer->state == SHM_HELLO)
			more = take_next_hello(peer);
		else if (peer->state == SHM_OPEN)
			more = take_next(peer);
		if (!more)
			return;
	}
}

/* ---- messages ---- */

int shm_peer_send(struct fabric_peer *fabric_peer, const void *message, uint32_t len_bytes)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);
	int err = ring_put(&peer->tx, message ? message : "", len_bytes);

	switch (err) {
	case 0:
		if (!list_is_linked(&peer->dirty))
			list_push_last(&peer->shm->dirty, &peer->dirty);
		return 0;
	case -EAGAIN:
		return err;
	case -EPROTO:
		shm_peer_broke_protocol(peer);
		return AFAR_EPEER_DOWN;
	default:
		return AFAR_EPEER_DOWN;
	}
}

void shm_peer_publish(struct shm_peer *peer)
{
	struct shm_packet bell = {.magic = SHM_PACKET_MAGIC, .kind = SHM_PACKET_BELL};

	list_remove(&peer->dirty);
	/* A socket that is full needs no bell: its other end has something to read. */
	if (peer->state == SHM_OPEN && ring_publish(&peer->tx))
		(void)shm_peer_send_packet(peer, &bell, sizeof(bell), -1);
}

void shm_peer_take_messages(struct shm_peer *peer)
{
	struct fabric *fabric = peer->peer.fabric;
	int err = 0;

	while (!err && fabric_event_room(fabric)) {
		struct fabric_event event = {
			.kind = FABRIC_MESSAGE,
			.peer = &peer->peer,
			.message = fabric_message_buffer(fabric),
		};
		size_t len_bytes;

		err = ring_take(&peer->rx, fabric_message_buffer(fabric), FABRIC_MESSAGE_BYTES_MAX,
				&len_bytes);
		if (err)
			break;
		event.len_bytes = (uint32_t)len_bytes;
		fabric_event_put(fabric, &event);
	}
	ring_release(&peer->rx);
	switch (err) {
	case -EPROTO:
	case -EMSGSIZE:
		shm_peer_broke_protocol(peer);
		break;
	case -EPIPE:
	case -ECONNRESET:
		/* All is taken. While the socket is open its end is yet to come, and tells us. */
		if (peer->state == SHM_DRAINING)
			shm_peer_lost(peer, AFAR_EPEER_DOWN);
		break;
	default:
		break;
	}
}
