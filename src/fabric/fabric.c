/*
 * fabric.c: what is the same on every transport: opening, peers, windows
 *
 *   fabric.h is the contract, transport.h what lies below; operations are in access.c, events in
 *   poll.c.
 */
#include "fabric/fabric_state.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/hello.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define PEERS_DEFAULT        256u
#define OPERATIONS_DEFAULT   256u
#define SEND_BYTES_DEFAULT   (256u << 10)
#define HEARTBEAT_NS_DEFAULT (50 * NS_PER_MS)
#define SILENCE_NS_DEFAULT   NS_PER_S

#define PEERS_LIMIT      65536u
#define SEND_BYTES_LIMIT (64u << 20)

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

void fabric_peer_free(struct fabric_peer *peer)
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
		fabric_peer_free(peer);
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
	assert(fabric->transport_count < FABRIC_TRANSPORTS_MAX);
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
	char bound[FABRIC_ADDRESS_BYTES]; /* `actual` may be `address` */
	int err = transport_for(fabric, address, &transport);

	if (!err)
		err = transport->ops->listen(transport, address, bound);
	if (!err && actual)
		memcpy(actual, bound, sizeof(bound));
	return err;
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

	assert(!peer->down && peer->in_flight == 0);
	peer->down = true;
	peer->fabric->stats.peers_down++;
	fabric_event_put(peer->fabric, &event);
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
