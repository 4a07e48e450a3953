/*
 * tcp.c: the transport between hosts: addresses, new connections, epoll, time
 */
#include "fabric/tcp.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "base/uri.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS_MAX    64 /* of one look at a listener */
#define EPOLL_EVENTS   64
#define LISTEN_BACKLOG 1024
#define MUTE_NS        (100 * NS_PER_MS)

static struct tcp *tcp_of(struct transport *transport)
{
	return (struct tcp *)transport; /* its first member */
}

/* ---- addresses ---- */

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;

		return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;

	return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static int resolve(const char *text, bool passive, struct uri_host *host, struct addrinfo **found)
{
	struct addrinfo hints = {
		.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct uri *uri = malloc(sizeof(*uri));
	char port[8];
	int err;

	if (!uri)
		return -ENOMEM;
	err = uri_parse(uri, text, NULL);
	if (!err && (uri->kind != URI_TCP || uri->host_count != 1))
		err = -EINVAL;
	if (!err)
		*host = uri->hosts[0];
	free(uri);
	if (err)
		return err;
	snprintf(port, sizeof(port), "%u", host->port);
	/* May ask a name server, once for each connection; numbers are never asked about. */
	switch (getaddrinfo(host->name[0] ? host->name : NULL, port, &hints, found)) {
	case 0:
		return 0;
	case EAI_MEMORY:
		return -ENOMEM;
	default:
		return -EHOSTUNREACH;
	}
}

/* Without a key nobody beyond this host may talk to us, nor we to them. */
static int check_reach(const struct tcp *tcp, const struct sockaddr *address)
{
	return tcp->self.secret->len_bytes == 0 && !is_loopback(address) ? -EACCES : 0;
}

static void set_options(const struct tcp *tcp, int fd)
{
	int64_t silence_ms = fabric_options_of(tcp->transport.fabric)->silence_ns / NS_PER_MS;
	unsigned timeout_ms = (unsigned)max_i64(silence_ms, 1);
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

/* The address that others use for this listener. */
static void tell_actual(int fd, const struct uri_host *asked, char *actual)
{
	struct sockaddr_storage bound = {0};
	socklen_t len_bytes = sizeof(bound);
	struct uri_host host = *asked;
	char text[URI_HOST_BYTES + 16] = "";

	if (getsockname(fd, (struct sockaddr *)&bound, &len_bytes) == 0) {
		struct sockaddr_in inet;

		/* The port lies at the same place in the addresses of both families. */
		static_assert(offsetof(struct sockaddr_in, sin_port) ==
				      offsetof(struct sockaddr_in6, sin6_port),
			      "IPv4 and IPv6");
		memcpy(&inet, &bound, sizeof(inet));
		host.port = ntohs(inet.sin_port);
	}
	if (!host.name[0] || strcmp(host.name, "0.0.0.0") == 0 || strcmp(host.name, "::") == 0)
		gethostname(host.name, sizeof(host.name) - 1);
	uri_print_host(&host, text, sizeof(text));
	if (snprintf(actual, FABRIC_ADDRESS_BYTES, "tcp://%s", text) >= (int)FABRIC_ADDRESS_BYTES)
		actual[0] = 0;
}

/* ---- listening ---- */

static int bind_one(struct tcp *tcp, const struct addrinfo *info)
{
	int err = check_reach(tcp, info->ai_addr);
	int on = 1;
	int fd;

	if (err)
		return err;
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, LISTEN_BACKLOG)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static int tcp_listen(struct transport *transport, const char *address, char *actual)
{
	struct tcp *tcp = tcp_of(transport);
	struct tcp_listener *listener = &tcp->listeners[tcp->listener_count];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};
	struct addrinfo *found;
	struct uri_host host;
	int fd = -EINVAL;
	int err;

	if (tcp->listener_count == TCP_LISTENERS_MAX)
		return -EMFILE;
	err = resolve(address, true, &host, &found);
	if (err)
		return err;
	for (struct addrinfo *info = found; info && fd < 0; info = info->ai_next)
		fd = bind_one(tcp, info);
	freeaddrinfo(found);
	if (fd < 0)
		return fd;
	listener->source = (struct tcp_source){.kind = TCP_SOURCE_LISTENER, .fd = fd};
	listener->muted_until_ns = 0;
	if (epoll_ctl(tcp->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		err = -errno;
		close(fd);
		return err;
	}
	tcp->listener_count++;
	tell_actual(fd, &host, actual);
	return 0;
}

/* A crowd of strangers at the door does not keep others out: who came first goes first. */
static void make_room_for_pending(struct tcp *tcp)
{
	if (tcp->pending_count < TCP_PENDING_MAX)
		return;
	list_each(link, &tcp->peers)
	{
		struct tcp_peer *peer = container_of(link, struct tcp_peer, link);

		if (!peer->enrolled) {
			tcp_peer_lost(peer, -EMFILE);
			return;
		}
	}
}

/* Out of descriptors: the listener would stay ready and turn every wait into a loop. */
static void mute(struct tcp *tcp, struct tcp_listener *listener)
{
	epoll_ctl(tcp->epoll_fd, EPOLL_CTL_DEL, listener->source.fd, NULL);
	listener->muted_until_ns = tcp->now_ns + MUTE_NS;
	tcp->timer_ns = min_i64(tcp->timer_ns, listener->muted_until_ns);
}

static void unmute(struct tcp *tcp, struct tcp_listener *listener)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};

	if (listener->muted_until_ns == 0)
		return;
	if (listener->muted_until_ns <= tcp->now_ns &&
	    epoll_ctl(tcp->epoll_fd, EPOLL_CTL_ADD, listener->source.fd, &event) == 0)
		listener->muted_until_ns = 0;
	else
		tcp->timer_ns = min_i64(tcp->timer_ns, tcp->now_ns + MUTE_NS);
}

static void accept_all(struct tcp *tcp, struct tcp_listener *listener)
{
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(listener->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct tcp_peer *peer;

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			    errno == ENOBUFS)
				mute(tcp, listener);
			return;
		}
		set_options(tcp, fd);
		make_room_for_pending(tcp);
		if (tcp_peer_create(tcp, fd, true, &peer))
			close(fd);
		else
			tcp_peer_connected(peer);
	}
}

/* ---- connecting ---- */

static int connect_one(struct tcp *tcp, const struct addrinfo *info)
{
	int err = check_reach(tcp, info->ai_addr);
	int fd;

	if (err)
		return err;
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	set_options(tcp, fd);
	if (connect(fd, info->ai_addr, info->ai_addrlen) == 0 || errno == EINPROGRESS)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int tcp_connect(struct transport *transport, const char *address, struct fabric_peer **peer)
{
	struct tcp *tcp = tcp_of(transport);
	struct tcp_peer *self;
	struct addrinfo *found;
	struct uri_host host;
	int fd = -EINVAL;
	int err = resolve(address, false, &host, &found);

	if (err)
		return err;
	for (struct addrinfo *info = found; info && fd < 0; info = info->ai_next)
		fd = connect_one(tcp, info);
	freeaddrinfo(found);
	if (fd < 0)
		return fd;
	err = tcp_peer_create(tcp, fd, false, &self);
	if (err) {
		close(fd);
		return err;
	}
	*peer = &self->peer;
	return 0;
}

/* connect() has come to an end, good or bad. */
static void finish_connect(struct tcp_peer *peer)
{
	int err = 0;
	socklen_t len_bytes = sizeof(err);

	getsockopt(peer->source.fd, SOL_SOCKET, SO_ERROR, &err, &len_bytes);
	if (err)
		tcp_peer_lost(peer, -err);
	else
		tcp_peer_connected(peer);
}

/* ---- polling ---- */

static void tcp_flush(struct transport *transport)
{
	struct tcp *tcp = tcp_of(transport);

	while (!list_is_empty(&tcp->dirty))
		tcp_peer_flush(container_of(tcp->dirty.next, struct tcp_peer, dirty));
}

static void handle(struct tcp *tcp, const struct epoll_event *event)
{
	struct tcp_source *source = event->data.ptr;
	struct tcp_peer *peer = container_of(source, struct tcp_peer, source);

	if (source->kind == TCP_SOURCE_LISTENER) {
		accept_all(tcp, container_of(source, struct tcp_listener, source));
		return;
	}
	if (peer->state == TCP_CONNECTING) {
		finish_connect(peer);
		return;
	}
	if (event->events & EPOLLOUT)
		tcp_peer_flush(peer);
	if (event->events & ~(uint32_t)EPOLLOUT)
		tcp_peer_receive(peer);
}

static void ask_epoll(struct tcp *tcp)
{
	struct epoll_event events[EPOLL_EVENTS];
	int count = epoll_wait(tcp->epoll_fd, events, EPOLL_EVENTS, 0);

	for (int i = 0; i < count; i++)
		handle(tcp, &events[i]);
	tcp->polls = 0;
	tcp->armed = false;
}

/* When this connection next needs the clock; what is due by now is done. */
static int64_t look_at_clock(struct tcp_peer *peer)
{
	const struct fabric_options *options = fabric_options_of(peer->peer.fabric);
	int64_t now_ns = peer->tcp->now_ns;

	if (peer->state != TCP_OPEN) {
		int64_t end_ns = peer->began_ns + options->silence_ns;

		if (now_ns < end_ns)
			return end_ns;
		tcp_peer_lost(peer, -ETIMEDOUT);
		return INT64_MAX;
	}
	/* While we take nothing ourselves, their silence means nothing. */
	if (peer->stalled)
		peer->heard_ns = now_ns;
	/* They say nothing, or they take nothing. */
	if (now_ns - peer->heard_ns >= options->silence_ns ||
	    (peer->wants_out && now_ns - peer->said_ns >= options->silence_ns)) {
		tcp_peer_lost(peer, AFAR_EPEER_DOWN);
		return INT64_MAX;
	}
	if (now_ns - peer->said_ns >= options->heartbeat_ns && !peer->wants_out)
		tcp_peer_ping(peer);
	if (peer->state != TCP_OPEN)
		return INT64_MAX;
	return min_i64(peer->heard_ns + options->silence_ns,
		       peer->said_ns +
			       (peer->wants_out ? options->silence_ns : options->heartbeat_ns));
}

/* After receiving: a process that was itself stopped first hears what its peers said meanwhile. */
static void run_timers(struct tcp *tcp)
{
	tcp->timer_ns = INT64_MAX;
	list_each(link, &tcp->peers)
	{
		struct tcp_peer *peer = container_of(link, struct tcp_peer, link);

		tcp->timer_ns = min_i64(tcp->timer_ns, look_at_clock(peer));
	}
	for (uint32_t i = 0; i < tcp->listener_count; i++)
		unmute(tcp, &tcp->listeners[i]);
}

static void free_dead(struct tcp *tcp)
{
	struct list *link;

	while ((link = list_pop_first(&tcp->dead)))
		tcp_peer_free(container_of(link, struct tcp_peer, link));
}

static bool receive_directly(struct tcp *tcp)
{
	bool any = false;

	list_each(link, &tcp->peers)
	{
		struct tcp_peer *peer = container_of(link, struct tcp_peer, link);

		if (peer->state == TCP_OPEN)
			any |= tcp_peer_receive(peer);
	}
	return any;
}

/* Those that wait for room among the events are ready whatever epoll says. */
static void resume_stalled(struct tcp *tcp)
{
	list_each(link, &tcp->peers)
	{
		struct tcp_peer *peer = container_of(link, struct tcp_peer, link);

		if (peer->stalled)
			tcp_peer_receive(peer);
	}
}

static void tcp_poll(struct transport *transport)
{
	struct tcp *tcp = tcp_of(transport);
	bool few = tcp->open_count <= TCP_DIRECT_PEERS_MAX;
	bool any = false;
	bool due;

	tcp->now_ns = env_now_ns(tcp->self.env);
	due = tcp->now_ns >= tcp->timer_ns;
	if (few)
		any = receive_directly(tcp);
	else
		resume_stalled(tcp);
	if (!few || due || tcp->unsettled_count > 0 || tcp->blocked_count > 0 ||
	    ++tcp->polls >= TCP_POLLS_PER_EPOLL || (tcp->armed && !any))
		ask_epoll(tcp);
	if (due)
		run_timers(tcp);
	free_dead(tcp);
}

static int tcp_fd(struct transport *transport)
{
	return tcp_of(transport)->epoll_fd;
}

/* Only where every socket merely waits for something to read, as epoll would say too. */
static unsigned tcp_descriptors(struct transport *transport, struct pollfd *fds, unsigned max)
{
	struct tcp *tcp = tcp_of(transport);
	unsigned count = 0;

	if (tcp->unsettled_count > 0 || tcp->blocked_count > 0 ||
	    tcp->open_count + tcp->listener_count > max)
		return 0;
	list_each(link, &tcp->peers)
	{
		struct tcp_peer *peer = container_of(link, struct tcp_peer, link);

		fds[count++] = (struct pollfd){.fd = peer->source.fd, .events = POLLIN};
	}
	for (uint32_t i = 0; i < tcp->listener_count; i++) {
		if (tcp->listeners[i].muted_until_ns != 0)
			return 0;
		fds[count++] = (struct pollfd){.fd = tcp->listeners[i].source.fd, .events = POLLIN};
	}
	return count;
}

/* Sockets stay ready until they are read: nothing to arm, but whom epoll cannot speak for. */
static bool tcp_arm(struct transport *transport)
{
	struct tcp *tcp = tcp_of(transport);

	tcp->armed = true;
	return false;
}

static int64_t tcp_deadline_ns(struct transport *transport)
{
	return tcp_of(transport)->timer_ns;
}

/* ---- opening and closing ---- */

static void tcp_release(struct fabric_peer *fabric_peer)
{
	struct tcp_peer *peer = tcp_peer_of(fabric_peer);

	peer->released = true;
	if (peer->state == TCP_LINGERING)
		return;
	if (peer->state == TCP_CLOSED) {
		tcp_peer_free(peer);
		return;
	}
	/* fabric_close() with the connection open: what the socket takes at once is delivered. */
	tcp_peer_flush(peer);
	if (peer->state != TCP_CLOSED)
		shutdown(peer->source.fd, SHUT_WR);
	tcp_peer_drop(peer);
}

static void tcp_close(struct transport *transport)
{
	struct tcp *tcp = tcp_of(transport);

	while (!list_is_empty(&tcp->peers))
		tcp_peer_drop(container_of(tcp->peers.next, struct tcp_peer, link));
	free_dead(tcp);
	for (uint32_t i = 0; i < tcp->listener_count; i++)
		close(tcp->listeners[i].source.fd);
	close(tcp->epoll_fd);
	free(tcp);
}

static void tcp_import_close(struct fabric_window *window)
{
}

/* A window is only a name here: the owner checks every use of it. */
static int tcp_import(struct fabric_peer *peer, struct fabric_window *window)
{
	return 0;
}

static const struct transport_ops tcp_ops = {
	.scheme = "tcp",
	.listen = tcp_listen,
	.connect = tcp_connect,
	.disconnect = tcp_peer_disconnect,
	.peer_free = tcp_release,
	.export = tcp_server_export,
	.withdraw = tcp_server_withdraw,
	.import = tcp_import,
	.window_close = tcp_import_close,
	.submit = tcp_client_submit,
	.send = tcp_peer_send,
	.flush = tcp_flush,
	.poll = tcp_poll,
	.fd = tcp_fd,
	.descriptors = tcp_descriptors,
	.arm = tcp_arm,
	.deadline_ns = tcp_deadline_ns,
	.close = tcp_close,
};

int transport_tcp_open(struct fabric *fabric, struct transport **transport)
{
	struct tcp *tcp = calloc(1, sizeof(*tcp));

	if (!tcp)
		return -ENOMEM;
	tcp->transport.ops = &tcp_ops;
	tcp->transport.fabric = fabric;
	tcp->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (tcp->epoll_fd < 0) {
		int err = -errno;

		free(tcp);
		return err;
	}
	list_init(&tcp->peers);
	list_init(&tcp->dirty);
	list_init(&tcp->dead);
	tcp->timer_ns = INT64_MAX;
	tcp->self = (struct hello_self){
		.env = fabric_env(fabric),
		.secret = fabric_secret(fabric),
		.id = fabric_options_of(fabric)->id,
		.operations_max = fabric_options_of(fabric)->operations_max,
		.transport = HELLO_TRANSPORT_TCP,
	};
	memcpy(tcp->self.boot_id, fabric_boot_id(fabric), FABRIC_BOOT_ID_BYTES);
	*transport = &tcp->transport;
	return 0;
}
