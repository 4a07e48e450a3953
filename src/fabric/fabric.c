/*
 * fabric.c: what is the same on every transport: peers, windows, bounds, events, waiting
 *
 *   fabric.h is the contract, transport.h what lies below. The rule for waiting: a poll that finds
 *   events already queued hands them out and looks at the transports only now and then
 *   (POLLS_PER_LOOK), so that a thread that reads local shared memory pays for no system calls,
 *   and one that never runs out of such reads still hears of the death of a peer.
 */
#include "fabric/fabric.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "base/secret.h"
#include "fabric/events.h"
#include "fabric/hello.h"
#include "fabric/transport.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define POLLS_PER_LOOK 16u
#define TRANSPORTS_MAX 3u

/* A spinning wait reads the clock this often. */
#define SPINS_PER_CLOCK 16u

#define PEERS_DEFAULT        256u
#define OPERATIONS_DEFAULT   256u
#define SEND_BYTES_DEFAULT   (256u << 10)
#define HEARTBEAT_NS_DEFAULT (50 * NS_PER_MS)
#define SILENCE_NS_DEFAULT   NS_PER_S

#define PEERS_LIMIT      65536u
#define SEND_BYTES_LIMIT (64u << 20)

struct fabric {
	struct env *env;
	struct fabric_options options;
	struct secret secret;
	char boot_id[FABRIC_BOOT_ID_BYTES];
	struct fabric_peer *peers;
	struct fabric_peer *buried; /* their DOWN was polled: the next poll frees them */
	uint32_t peer_count;
	uint32_t polls;
	struct events events;
	struct transport *transports[TRANSPORTS_MAX];
	uint32_t transport_count;
	int epoll_fd;
	struct fabric_stats stats;
};

/* ---- opening and closing ---- */

static int take_options(struct fabric *fabric, const struct fabric_options *options)
{
	struct fabric_options *own = &fabric->options;

	*own = *options;
	own->peers_max = options->peers_max ? options->peers_max : PEERS_DEFAULT;
	own->operations_max =
		options->operations_max ? options->operations_max : OPERATIONS_DEFAULT;
	own->send_bytes_max =
		options->send_bytes_max ? options->send_bytes_max : SEND_BYTES_DEFAULT;
	own->heartbeat_ns = options->heartbeat_ns ? options->heartbeat_ns : HEARTBEAT_NS_DEFAULT;
	own->silence_ns = options->silence_ns ? options->silence_ns : SILENCE_NS_DEFAULT;
	own->key = NULL;
	own->key_len = 0;
	if (own->id == 0 || own->peers_max > PEERS_LIMIT ||
	    own->operations_max > HELLO_OPERATIONS_MAX || own->send_bytes_max > SEND_BYTES_LIMIT ||
	    own->send_bytes_max < 2 * FABRIC_MESSAGE_BYTES_MAX || own->heartbeat_ns < 0 ||
	    own->silence_ns < own->heartbeat_ns)
		return -EINVAL;
	if (!options->key)
		return options->key_len == 0 ? 0 : -EINVAL;
	return secret_set(&fabric->secret, options->key, options->key_len) ? -EINVAL : 0;
}

/* No boot id (a simulated machine has none) means that nobody is known to be on our host. */
static void learn_boot_id(struct fabric *fabric)
{
	char text[64];
	size_t len_bytes = 0;

	if (env_file_read(fabric->env, "/proc/sys/kernel/random/boot_id", text, sizeof(text),
			  &len_bytes) == 0 &&
	    len_bytes >= FABRIC_BOOT_ID_BYTES - 1)
		memcpy(fabric->boot_id, text, FABRIC_BOOT_ID_BYTES - 1);
}

int fabric_open(struct env *env, const struct fabric_options *options, struct fabric **fabric)
{
	struct fabric *self = calloc(1, sizeof(*self));
	int err;

	if (!self)
		return -ENOMEM;
	self->env = env;
	self->epoll_fd = -1;
	err = take_options(self, options);
	if (err)
		goto fail;
	learn_boot_id(self);
	err = events_create(&self->events);
	if (err)
		goto fail;
	if (!options->net) {
		self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (self->epoll_fd < 0) {
			err = -errno;
			goto fail;
		}
	}
	*fabric = self;
	return 0;

fail:
	events_destroy(&self->events);
	secret_wipe(&self->secret);
	free(self);
	return err;
}

static void peer_free(struct fabric_peer *peer)
{
	while (peer->windows)
		fabric_window_close(peer->windows);
	peer->transport->ops->peer_free(peer);
}

static void free_list(struct fabric_peer **list)
{
	while (*list) {
		struct fabric_peer *peer = *list;

		*list = peer->next;
		peer_free(peer);
	}
}

void fabric_close(struct fabric *fabric)
{
	if (!fabric)
		return;
	fabric_flush(fabric);
	free_list(&fabric->buried);
	free_list(&fabric->peers);
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fabric->transports[i]->ops->close(fabric->transports[i]);
	if (fabric->epoll_fd >= 0)
		close(fabric->epoll_fd);
	events_destroy(&fabric->events);
	secret_wipe(&fabric->secret);
	free(fabric);
}

/* ---- transports ---- */

static int open_transport(struct fabric *fabric, const char *scheme, struct transport **transport)
{
	if (fabric->options.net)
		return strcmp(scheme, "sim") == 0 ? transport_sim_open(fabric, transport) : -EINVAL;
	if (strcmp(scheme, "tcp") == 0)
		return transport_tcp_open(fabric, transport);
	if (strcmp(scheme, "shm") == 0)
		return transport_shm_open(fabric, transport);
	return -EINVAL;
}

/* The transport of an address, opened when it is first asked for. */
static int transport_for(struct fabric *fabric, const char *address, struct transport **transport)
{
	char scheme[8];
	const char *colon = strchr(address, ':');
	struct epoll_event event = {.events = EPOLLIN};
	int err;

	if (!colon || (size_t)(colon - address) >= sizeof(scheme) ||
	    strnlen(address, FABRIC_ADDRESS_BYTES) == FABRIC_ADDRESS_BYTES)
		return -EINVAL;
	memcpy(scheme, address, (size_t)(colon - address));
	scheme[colon - address] = 0;
	for (uint32_t i = 0; i < fabric->transport_count; i++) {
		*transport = fabric->transports[i];
		if (strcmp((*transport)->ops->scheme, scheme) == 0)
			return 0;
	}
	assert(fabric->transport_count < TRANSPORTS_MAX);
	err = open_transport(fabric, scheme, transport);
	if (err)
		return err;
	if ((*transport)->ops->fd(*transport) >= 0 &&
	    epoll_ctl(fabric->epoll_fd, EPOLL_CTL_ADD, (*transport)->ops->fd(*transport), &event)) {
		err = -errno;
		(*transport)->ops->close(*transport);
		return err;
	}
	fabric->transports[fabric->transport_count++] = *transport;
	return 0;
}

int fabric_listen(struct fabric *fabric, const char *address, char *actual)
{
	struct transport *transport;
	char unused[FABRIC_ADDRESS_BYTES];
	int err = transport_for(fabric, address, &transport);

	return err ? err : transport->ops->listen(transport, address, actual ? actual : unused);
}

int fabric_connect(struct fabric *fabric, const char *address, struct fabric_peer **peer)
{
	struct transport *transport;
	int err = transport_for(fabric, address, &transport);

	return err ? err : transport->ops->connect(transport, address, peer);
}

/* ---- peers ---- */

int fabric_peer_enroll(struct fabric_peer *peer)
{
	struct fabric *fabric = peer->transport->fabric;
	const struct fabric_options *options = &fabric->options;
	int err;

	if (fabric->peer_count >= options->peers_max)
		return -EMFILE;
	/* Each operation may be DONE; beside them one UP and one DOWN. */
	err = events_reserve(&fabric->events,
			     (fabric->peer_count + 1) * (options->operations_max + 2));
	if (err)
		return err;
	peer->fabric = fabric;
	peer->operations_max = options->operations_max;
	peer->previous = NULL;
	peer->next = fabric->peers;
	if (peer->next)
		peer->next->previous = peer;
	fabric->peers = peer;
	fabric->peer_count++;
	return 0;
}

void fabric_peer_up(struct fabric_peer *peer)
{
	struct fabric_event event = {
		.kind = FABRIC_UP,
		.peer = peer,
		.accepted = peer->accepted,
	};

	assert(!peer->up && !peer->down);
	peer->up = true;
	peer->fabric->stats.peers_up++;
	fabric_event_put(peer->fabric, &event);
}

void fabric_peer_down(struct fabric_peer *peer, int status)
{
	struct fabric_event event = {
		.kind = FABRIC_DOWN,
		.peer = peer,
		.status = status,
		.accepted = peer->accepted,
	};

	assert(!peer->down && peer->outstanding == 0);
	peer->down = true;
	peer->fabric->stats.peers_down++;
	fabric_event_put(peer->fabric, &event);
}

/* Its DOWN was polled: out of the list, kept until the next poll. */
static void bury(struct fabric *fabric, struct fabric_peer *peer)
{
	if (peer->previous)
		peer->previous->next = peer->next;
	else
		fabric->peers = peer->next;
	if (peer->next)
		peer->next->previous = peer->previous;
	peer->next = fabric->buried;
	fabric->buried = peer;
	fabric->peer_count--;
}

void fabric_disconnect(struct fabric_peer *peer)
{
	if (!peer->down)
		peer->transport->ops->disconnect(peer);
}

uint64_t fabric_peer_id(const struct fabric_peer *peer)
{
	return peer->id;
}

uint32_t fabric_peer_capabilities(const struct fabric_peer *peer)
{
	return peer->capabilities;
}

bool fabric_peer_is_local(const struct fabric_peer *peer)
{
	return peer->is_local;
}

int32_t fabric_peer_pid(const struct fabric_peer *peer)
{
	return peer->pid;
}

void fabric_peer_set_context(struct fabric_peer *peer, void *context)
{
	peer->context = context;
}

void *fabric_peer_context(const struct fabric_peer *peer)
{
	return peer->context;
}

/* ---- memory ---- */

int fabric_export(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
		  uint64_t size_bytes, int memfd)
{
	if (peer->down || !peer->up)
		return AFAR_EPEER_DOWN;
	if (!memory || size_bytes == 0)
		return -EINVAL;
	return peer->transport->ops->export(peer, key, epoch, memory, size_bytes, memfd);
}

int fabric_withdraw(struct fabric_peer *peer, uint64_t key)
{
	return peer->transport->ops->withdraw(peer, key);
}

int fabric_import(struct fabric_peer *peer, uint64_t key, uint32_t epoch, uint64_t size_bytes,
		  struct fabric_window **window)
{
	struct fabric_window *self;
	int err;

	if (peer->down || !peer->up)
		return AFAR_EPEER_DOWN;
	if (size_bytes == 0)
		return -EINVAL;
	self = calloc(1, sizeof(*self));
	if (!self)
		return -ENOMEM;
	self->peer = peer;
	self->key = key;
	self->epoch = epoch;
	self->size_bytes = size_bytes;
	self->memfd = -1;
	err = peer->transport->ops->import(peer, self);
	if (err) {
		free(self);
		return err;
	}
	self->next = peer->windows;
	if (self->next)
		self->next->previous = self;
	peer->windows = self;
	*window = self;
	return 0;
}

void fabric_window_close(struct fabric_window *window)
{
	if (!window)
		return;
	if (window->previous)
		window->previous->next = window->next;
	else
		window->peer->windows = window->next;
	if (window->next)
		window->next->previous = window->previous;
	window->peer->transport->ops->window_close(window);
	free(window);
}

void *fabric_window_memory(const struct fabric_window *window)
{
	return window->memory;
}

int fabric_window_memfd(const struct fabric_window *window)
{
	return window->memfd;
}

/* ---- operations ---- */

static int submit(const struct fabric_op *op)
{
	struct fabric_peer *peer = op->window->peer;
	uint64_t size_bytes = op->window->size_bytes;
	int err;

	if (op->len_bytes == 0 || op->len_bytes > FABRIC_IO_BYTES_MAX)
		return -EINVAL;
	if (op->offset > size_bytes || op->len_bytes > size_bytes - op->offset)
		return -ERANGE;
	if (peer->down)
		return AFAR_EPEER_DOWN;
	if (peer->outstanding >= peer->operations_max)
		return -EAGAIN;
	peer->outstanding++;
	err = peer->transport->ops->submit(op);
	if (err)
		peer->outstanding--;
	return err;
}

int fabric_read(struct fabric_window *window, uint64_t offset, void *buf, uint32_t len_bytes,
		uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_READ,
		.len_bytes = len_bytes,
		.window = window,
		.offset = offset,
		.buf = buf,
		.token = token,
	};
	int err = submit(&op);

	if (!err) {
		window->peer->fabric->stats.reads++;
		window->peer->fabric->stats.bytes_read += len_bytes;
	}
	return err;
}

int fabric_write(struct fabric_window *window, uint64_t offset, const void *bytes,
		 uint32_t len_bytes, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_WRITE,
		.len_bytes = len_bytes,
		.window = window,
		.offset = offset,
		.buf = (void *)(uintptr_t)bytes,
		.token = token,
	};
	int err = submit(&op);

	if (!err) {
		window->peer->fabric->stats.writes++;
		window->peer->fabric->stats.bytes_written += len_bytes;
	}
	return err;
}

static int submit_atomic(const struct fabric_op *op)
{
	int err;

	if (op->offset % sizeof(uint64_t) != 0)
		return -EINVAL;
	err = submit(op);
	if (!err)
		op->window->peer->fabric->stats.atomics++;
	return err;
}

int fabric_compare_and_swap(struct fabric_window *window, uint64_t offset,
			    const uint64_t *expected_desired, uint64_t *previous, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_CAS,
		.len_bytes = sizeof(uint64_t),
		.window = window,
		.offset = offset,
		.operand = {expected_desired[0], expected_desired[1]},
		.previous = previous,
		.token = token,
	};

	return submit_atomic(&op);
}

int fabric_fetch_and_add(struct fabric_window *window, uint64_t offset, uint64_t delta,
			 uint64_t *previous, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_FAA,
		.len_bytes = sizeof(uint64_t),
		.window = window,
		.offset = offset,
		.operand = {delta},
		.previous = previous,
		.token = token,
	};

	return submit_atomic(&op);
}

int fabric_send(struct fabric_peer *peer, const void *message, uint32_t len_bytes)
{
	int err;

	if (len_bytes > FABRIC_MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	if (peer->down || !peer->up)
		return AFAR_EPEER_DOWN;
	err = peer->transport->ops->send(peer, message, len_bytes);
	if (!err)
		peer->fabric->stats.messages_sent++;
	return err;
}

void fabric_flush(struct fabric *fabric)
{
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fabric->transports[i]->ops->flush(fabric->transports[i]);
}

/* ---- events ---- */

bool fabric_event_room(const struct fabric *fabric)
{
	return events_message_room(&fabric->events);
}

void *fabric_message_buffer(struct fabric *fabric)
{
	return events_message_buffer(&fabric->events);
}

void fabric_event_put(struct fabric *fabric, const struct fabric_event *event)
{
	if (event->kind == FABRIC_MESSAGE)
		fabric->stats.messages_received++;
	events_put(&fabric->events, event);
}

void fabric_op_done(struct fabric_peer *peer, uint64_t token, int status)
{
	struct fabric_event event = {
		.kind = FABRIC_DONE,
		.peer = peer,
		.token = token,
		.status = status,
	};

	assert(peer->outstanding > 0);
	peer->outstanding--;
	events_put(&peer->fabric->events, &event);
}

static void look(struct fabric *fabric)
{
	fabric->polls = 0;
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fabric->transports[i]->ops->poll(fabric->transports[i]);
}

unsigned fabric_poll(struct fabric *fabric, struct fabric_event *events, unsigned max)
{
	unsigned count = 0;

	events_release_messages(&fabric->events);
	if (fabric->buried)
		free_list(&fabric->buried);
	fabric_flush(fabric);
	if (events_is_empty(&fabric->events) || ++fabric->polls >= POLLS_PER_LOOK)
		look(fabric);
	while (count < max && !events_is_empty(&fabric->events)) {
		events_take(&fabric->events, &events[count]);
		if (events[count].kind == FABRIC_DOWN)
			bury(fabric, events[count].peer);
		count++;
	}
	return count;
}

/* ---- waiting ---- */

int fabric_fd(struct fabric *fabric)
{
	return fabric->epoll_fd;
}

bool fabric_arm(struct fabric *fabric)
{
	bool ready = !events_is_empty(&fabric->events);

	fabric_flush(fabric);
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		ready |= fabric->transports[i]->ops->arm(fabric->transports[i]);
	return ready;
}

int64_t fabric_deadline_ns(struct fabric *fabric)
{
	int64_t deadline_ns = INT64_MAX;

	for (uint32_t i = 0; i < fabric->transport_count; i++)
		deadline_ns =
			min_i64(deadline_ns,
				fabric->transports[i]->ops->deadline_ns(fabric->transports[i]));
	return deadline_ns;
}

/* Sleeps on the transports themselves: one level of epoll less than on fabric_fd(). */
static int sleep_until(struct fabric *fabric, int64_t deadline_ns)
{
	struct pollfd fds[TRANSPORTS_MAX];
	struct timespec timeout = {0};
	struct timespec *wait = NULL;
	nfds_t count = 0;

	deadline_ns = min_i64(deadline_ns, fabric_deadline_ns(fabric));
	if (deadline_ns != INT64_MAX) {
		int64_t left_ns = max_i64(0, deadline_ns - env_now_ns(fabric->env));

		timeout.tv_sec = left_ns / NS_PER_S;
		timeout.tv_nsec = left_ns % NS_PER_S;
		wait = &timeout;
	}
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fds[count++] = (struct pollfd){
			.fd = fabric->transports[i]->ops->fd(fabric->transports[i]),
			.events = POLLIN,
		};
	fabric->stats.sleeps++;
	return ppoll(fds, count, wait, NULL) < 0 ? -errno : 0;
}

static bool spin(struct fabric *fabric, int64_t deadline_ns)
{
	for (uint32_t i = 0; i < fabric->options.spins; i++) {
		look(fabric);
		if (!events_is_empty(&fabric->events))
			return true;
		if (i % SPINS_PER_CLOCK == SPINS_PER_CLOCK - 1 &&
		    env_now_ns(fabric->env) >= deadline_ns)
			return false;
		cpu_relax();
	}
	return false;
}

int fabric_wait(struct fabric *fabric, int64_t deadline_ns)
{
	fabric_flush(fabric);
	if (!events_is_empty(&fabric->events) || spin(fabric, deadline_ns))
		return 0;
	/* Simulated time does not pass in here: whoever moves it waits. */
	if (fabric->options.net) {
		look(fabric);
		return events_is_empty(&fabric->events) ? -ETIMEDOUT : 0;
	}
	for (;;) {
		int err = 0;

		if (!fabric_arm(fabric))
			err = sleep_until(fabric, deadline_ns);
		if (err)
			return err;
		look(fabric);
		if (!events_is_empty(&fabric->events))
			return 0;
		if (env_now_ns(fabric->env) >= deadline_ns)
			return -ETIMEDOUT;
	}
}

/* ---- for transports ---- */

const struct fabric_options *fabric_options_of(const struct fabric *fabric)
{
	return &fabric->options;
}

struct env *fabric_env(const struct fabric *fabric)
{
	return fabric->env;
}

const struct secret *fabric_secret(const struct fabric *fabric)
{
	return &fabric->secret;
}

const char *fabric_boot_id(const struct fabric *fabric)
{
	return fabric->boot_id;
}

struct fabric_stats *fabric_counters(struct fabric *fabric)
{
	return &fabric->stats;
}

void fabric_stats(const struct fabric *fabric, struct fabric_stats *stats)
{
	*stats = fabric->stats;
}
