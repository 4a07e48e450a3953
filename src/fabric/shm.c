/*
 * shm.c: the transport between processes of one host: socket files, new connections, polling
 */
#include "fabric/shm.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPTS_MAX    64
#define EPOLL_EVENTS   64
#define LISTEN_BACKLOG 1024
#define MUTE_NS        (100 * NS_PER_MS)
#define RETRY_NS       (5 * NS_PER_MS) /* of a connect() that met a full backlog */

static struct shm *shm_of(struct transport *transport)
{
	return (struct shm *)transport; /* its first member */
}

/* ---- addresses ---- */

static int parse(const char *address, struct sockaddr_un *un)
{
	const char *path = address + strlen("shm:");

	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	if (path[0] != '/' || strlen(path) >= sizeof(un->sun_path))
		return -EINVAL;
	memcpy(un->sun_path, path, strlen(path) + 1);
	return 0;
}

static int connect_to(int fd, const struct sockaddr_un *un)
{
	return connect(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 ? 0 : -errno;
}

static int new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* ---- listening ---- */

/* Whether somebody listens at the path. */
static bool is_alive(const struct sockaddr_un *un)
{
	int fd = new_socket();
	bool alive;

	if (fd < 0)
		return true;
	alive = connect_to(fd, un) != -ECONNREFUSED;
	close(fd);
	return alive;
}

static int bind_to(int fd, const struct sockaddr_un *un)
{
	return bind(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 ? 0 : -errno;
}

/*
 * Binds and listens. The file that a dead process left is replaced, under a lock on its directory:
 * of two who find it at once, the second finds the first alive.
 */
static int bind_and_listen(int fd, const struct sockaddr_un *un)
{
	char directory[sizeof(un->sun_path)];
	int lock_fd;
	int err;

	memcpy(directory, un->sun_path, sizeof(directory));
	*(strrchr(directory, '/') + 1) = 0;
	lock_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock_fd < 0 || flock(lock_fd, LOCK_EX)) {
		err = -errno;
		goto out;
	}
	fchmod(fd, 0600); /* a socket's mode is its file's */
	err = bind_to(fd, un);
	if (err == -EADDRINUSE && !is_alive(un) && unlink(un->sun_path) == 0)
		err = bind_to(fd, un);
	if (!err && listen(fd, LISTEN_BACKLOG))
		err = -errno;
out:
	if (lock_fd >= 0)
		close(lock_fd);
	return err;
}

static int shm_listen(struct transport *transport, const char *address, char *actual)
{
	struct shm *shm = shm_of(transport);
	struct shm_listener *listener = &shm->listeners[shm->listener_count];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};
	struct sockaddr_un un;
	struct stat stat;
	int err = parse(address, &un);
	int fd;

	if (err)
		return err;
	if (shm->listener_count == SHM_LISTENERS_MAX)
		return -EMFILE;
	fd = new_socket();
	if (fd < 0)
		return fd;
	err = bind_and_listen(fd, &un);
	if (!err && lstat(un.sun_path, &stat))
		err = -errno;
	*listener = (struct shm_listener){.source = {.kind = SHM_SOURCE_LISTENER, .fd = fd}};
	if (!err && epoll_ctl(shm->epoll_fd, EPOLL_CTL_ADD, fd, &event))
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	memcpy(listener->path, un.sun_path, sizeof(un.sun_path));
	listener->device = stat.st_dev;
	listener->inode = stat.st_ino;
	shm->listener_count++;
	snprintf(actual, FABRIC_ADDRESS_BYTES, "%s", address);
	return 0;
}

static void close_listener(struct shm_listener *listener)
{
	struct stat stat;

	/* Not the file of somebody who took the path over. */
	if (lstat(listener->path, &stat) == 0 && stat.st_dev == listener->device &&
	    stat.st_ino == listener->inode)
		unlink(listener->path);
	close(listener->source.fd);
}

/* A crowd of strangers at the door does not keep others out: who came first goes first. */
static void make_room_for_pending(struct shm *shm)
{
	if (shm->pending_count < SHM_PENDING_MAX)
		return;
	list_each(link, &shm->peers)
	{
		struct shm_peer *peer = container_of(link, struct shm_peer, link);

		if (!peer->enrolled) {
			shm_peer_lost(peer, -EMFILE);
			return;
		}
	}
}

/* Out of descriptors: the listener would stay ready and turn every wait into a loop. */
static void mute(struct shm *shm, struct shm_listener *listener)
{
	epoll_ctl(shm->epoll_fd, EPOLL_CTL_DEL, listener->source.fd, NULL);
	listener->muted_until_ns = shm->now_ns + MUTE_NS;
	shm->timer_ns = min_i64(shm->timer_ns, listener->muted_until_ns);
}

static void unmute(struct shm *shm, struct shm_listener *listener)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};

	if (listener->muted_until_ns == 0)
		return;
	if (listener->muted_until_ns <= shm->now_ns &&
	    epoll_ctl(shm->epoll_fd, EPOLL_CTL_ADD, listener->source.fd, &event) == 0)
		listener->muted_until_ns = 0;
	else
		shm->timer_ns = min_i64(shm->timer_ns, shm->now_ns + MUTE_NS);
}

static void accept_all(struct shm *shm, struct shm_listener *listener)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(listener->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct shm_peer *peer;

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			    errno == ENOBUFS)
				mute(shm, listener);
			return;
		}
		make_room_for_pending(shm);
		if (shm_peer_create(shm, fd, true, &peer))
			close(fd);
		else
			shm_peer_connected(peer);
	}
}

/* ---- connecting ---- */

static int shm_connect(struct transport *transport, const char *address, struct fabric_peer **peer)
{
	struct shm *shm = shm_of(transport);
	struct shm_peer *self;
	struct sockaddr_un un;
	int err = parse(address, &un);
	int connected;
	int fd;

	if (err)
		return err;
	fd = new_socket();
	if (fd < 0)
		return fd;
	connected = connect_to(fd, &un);
	err = connected == -EAGAIN ? 0 : connected;
	if (!err)
		err = shm_peer_create(shm, fd, false, &self);
	if (err) {
		close(fd);
		return err;
	}
	snprintf(self->address, sizeof(self->address), "%s", address);
	if (connected == 0)
		shm_peer_connected(self);
	*peer = &self->peer;
	return 0;
}

static void try_again(struct shm_peer *peer)
{
	struct sockaddr_un un;
	int err = parse(peer->address, &un);

	if (!err)
		err = connect_to(peer->source.fd, &un);
	if (!err)
		shm_peer_connected(peer);
	else if (err != -EAGAIN)
		shm_peer_lost(peer, err);
}

/* ---- polling ---- */

static void shm_flush(struct transport *transport)
{
	struct shm *shm = shm_of(transport);

	while (!list_is_empty(&shm->dirty))
		shm_peer_publish(container_of(shm->dirty.next, struct shm_peer, dirty));
}

static void look_at_rings(struct shm *shm)
{
	list_each(link, &shm->peers)
	{
		struct shm_peer *peer = container_of(link, struct shm_peer, link);

		if (peer->state != SHM_OPEN && peer->state != SHM_DRAINING)
			continue;
		if (shm->armed)
			ring_disarm(&peer->rx);
		shm_peer_take_messages(peer);
	}
}

static void look_at_sockets(struct shm *shm)
{
	struct epoll_event events[EPOLL_EVENTS];
	int count = epoll_wait(shm->epoll_fd, events, EPOLL_EVENTS, 0);

	for (int i = 0; i < count; i++) {
		struct shm_source *source = events[i].data.ptr;

		if (source->kind == SHM_SOURCE_LISTENER)
			accept_all(shm, container_of(source, struct shm_listener, source));
		else
			shm_peer_take_packets(container_of(source, struct shm_peer, source));
	}
	shm->sockets_ns = shm->now_ns;
}

static void run_timers(struct shm *shm)
{
	int64_t silence_ns = fabric_options_of(shm->transport.fabric)->silence_ns;

	shm->timer_ns = INT64_MAX;
	list_each(link, &shm->peers)
	{
		struct shm_peer *peer = container_of(link, struct shm_peer, link);
		int64_t end_ns = peer->began_ns + silence_ns;

		if (peer->state == SHM_CONNECTING)
			try_again(peer);
		if (peer->state != SHM_CONNECTING && peer->state != SHM_HELLO)
			continue;
		if (shm->now_ns >= end_ns) {
			shm_peer_lost(peer, -ETIMEDOUT);
			continue;
		}
		if (peer->state == SHM_CONNECTING)
			end_ns = min_i64(end_ns, shm->now_ns + RETRY_NS);
		shm->timer_ns = min_i64(shm->timer_ns, end_ns);
	}
	for (uint32_t i = 0; i < shm->listener_count; i++)
		unmute(shm, &shm->listeners[i]);
}

static void free_dead(struct shm *shm)
{
	struct list *link;

	while ((link = list_pop_first(&shm->dead)))
		shm_peer_free(container_of(link, struct shm_peer, link));
}

static void shm_poll(struct transport *transport)
{
	struct shm *shm = shm_of(transport);

	shm->now_ns = env_now_ns(shm->self.env);
	look_at_rings(shm);
	if (shm->armed || shm->unsettled_count > 0 ||
	    shm->now_ns - shm->sockets_ns >= SHM_SOCKETS_NS)
		look_at_sockets(shm);
	shm->armed = false;
	if (shm->now_ns >= shm->timer_ns)
		run_timers(shm);
	free_dead(shm);
}

static int shm_fd(struct transport *transport)
{
	return shm_of(transport)->epoll_fd;
}

static bool shm_arm(struct transport *transport)
{
	struct shm *shm = shm_of(transport);
	bool ready = false;

	shm->armed = true;
	list_each(link, &shm->peers)
	{
		struct shm_peer *peer = container_of(link, struct shm_peer, link);

		if (peer->state == SHM_DRAINING)
			ready = true;
		else if (peer->state == SHM_OPEN)
			ready |= !ring_arm(&peer->rx);
	}
	return ready;
}

static int64_t shm_deadline_ns(struct transport *transport)
{
	return shm_of(transport)->timer_ns;
}

/* ---- opening and closing ---- */

static void shm_release(struct fabric_peer *fabric_peer)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);

	if (peer->state == SHM_CLOSED)
		shm_peer_free(peer);
	else
		shm_peer_drop(peer);
}

static void shm_close(struct transport *transport)
{
	struct shm *shm = shm_of(transport);

	while (!list_is_empty(&shm->peers))
		shm_peer_drop(container_of(shm->peers.next, struct shm_peer, link));
	free_dead(shm);
	for (uint32_t i = 0; i < shm->listener_count; i++)
		close_listener(&shm->listeners[i]);
	close(shm->epoll_fd);
	free(shm);
}

static const struct transport_ops shm_ops = {
	.scheme = "shm",
	.listen = shm_listen,
	.connect = shm_connect,
	.disconnect = shm_peer_disconnect,
	.peer_free = shm_release,
	.export = shm_window_export,
	.withdraw = shm_window_withdraw,
	.import = shm_window_import,
	.window_close = shm_window_close,
	.submit = shm_window_submit,
	.send = shm_peer_send,
	.flush = shm_flush,
	.poll = shm_poll,
	.fd = shm_fd,
	.arm = shm_arm,
	.deadline_ns = shm_deadline_ns,
	.close = shm_close,
};

int transport_shm_open(struct fabric *fabric, struct transport **transport)
{
	struct shm *shm = calloc(1, sizeof(*shm));

	if (!shm)
		return -ENOMEM;
	shm->transport.ops = &shm_ops;
	shm->transport.fabric = fabric;
	shm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (shm->epoll_fd < 0) {
		int err = -errno;

		free(shm);
		return err;
	}
	list_init(&shm->peers);
	list_init(&shm->dirty);
	list_init(&shm->dead);
	shm->timer_ns = INT64_MAX;
	shm->self = (struct hello_self){
		.env = fabric_env(fabric),
		.secret = fabric_secret(fabric),
		.id = fabric_options_of(fabric)->id,
		.operations_max = fabric_options_of(fabric)->operations_max,
		.transport = HELLO_TRANSPORT_SHM,
	};
	memcpy(shm->self.boot_id, fabric_boot_id(fabric), FABRIC_BOOT_ID_BYTES);
	*transport = &shm->transport;
	return 0;
}
