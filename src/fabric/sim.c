/*
 * sim.c: the simulated network: links, packets, silence, crashes
 */
#include "fabric/sim.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/secret.h"
#include "fabric/sim_link.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sim_transport *transport_of(const struct fabric_peer *peer)
{
	return (struct sim_transport *)(void *)peer->transport;
}

static struct sim_peer *sim_peer_of(struct fabric_peer *peer)
{
	return (struct sim_peer *)(void *)peer;
}

/* Connecting */

static struct sim_peer *peer_make(struct sim_transport *transport, bool accepted)
{
	struct sim_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->base.transport = &transport->base;
	peer->base.fabric = transport->base.fabric;
	peer->base.accepted = accepted;
	list_init(&peer->link);
	list_init(&peer->ready_link);
	list_init(&peer->outgoing);
	list_init(&peer->inbox);
	list_init(&peer->operations);
	if (fabric_peer_enroll(&peer->base) != 0) {
		free(peer);
		return NULL;
	}
	switch (transport->net->options.kind) {
	case SIM_LIKE_TCP:
		break;
	case SIM_LIKE_VERBS:
		peer->base.capabilities = FABRIC_CAP_ONE_SIDED;
		break;
	case SIM_LIKE_SHM:
		peer->base.capabilities =
			FABRIC_CAP_ONE_SIDED | FABRIC_CAP_NATIVE_ATOMICS | FABRIC_CAP_ABANDON;
		peer->base.is_local = true;
		break;
	}
	list_push_last(&transport->peers, &peer->link);
	return peer;
}

static bool parse_address(const char *address, uint64_t *number)
{
	static const char scheme[] = "sim://";
	char *end;

	if (strncmp(address, scheme, sizeof(scheme) - 1) != 0)
		return false;
	*number = strtoull(address + sizeof(scheme) - 1, &end, 10);
	return end != address + sizeof(scheme) - 1 && *end == '\0';
}

static struct sim_listener *listener_find(const struct sim_net *net, uint64_t number)
{
	list_each(link, &net->listeners)
	{
		struct sim_listener *listener = container_of(link, struct sim_listener, link);

		if (listener->number == number)
			return listener;
	}
	return NULL;
}

static int sim_listen(struct transport *base, const char *address, char *actual)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)base;
	struct sim_listener *listener;
	uint64_t number;

	if (!parse_address(address, &number))
		return -EINVAL;
	listener = listener_find(transport->net, number);
	if (listener && listener->transport)
		return -EADDRINUSE;
	if (!listener) {
		listener = calloc(1, sizeof(*listener));
		if (!listener)
			return -ENOMEM;
		listener->number = number;
		list_push_last(&transport->net->listeners, &listener->link);
	}
	listener->transport = transport;
	listener->machine = transport->machine;
	if (actual)
		snprintf(actual, FABRIC_ADDRESS_BYTES, "sim://%" PRIu64, number);
	return 0;
}

/*
 * The hello goes to a number. Which machine that is is known now, though the hello may find
 * another program there, or none, when it arrives.
 */
static int sim_connect(struct transport *base, const char *address, struct fabric_peer **result)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)base;
	struct sim_listener *listener;
	uint64_t number;

	if (!parse_address(address, &number))
		return -EINVAL;
	listener = listener_find(transport->net, number);
	if (!listener || transport->dead || !world_act(transport->world, transport->machine))
		return -ECONNREFUSED;

	struct sim_peer *peer = peer_make(transport, false);

	if (!peer)
		return -EMFILE;

	struct sim_link *link = sim_link_make(transport->net);
	struct sim_packet *hello = sim_packet_make(SIM_HELLO, NULL, 0);

	hello->id = number;
	sim_attach(&link->end[0], peer);
	link->end[1].machine = listener->machine;
	sim_packet_post(&link->end[1], hello);
	*result = &peer->base;
	return 0;
}

/* Where real transports prove it to each other, the simulated one just looks. */
static bool keys_match(const struct fabric *a, const struct fabric *b)
{
	const struct secret *ours = fabric_secret(a);
	const struct secret *theirs = fabric_secret(b);

	return ours->len_bytes == theirs->len_bytes &&
	       memcmp(ours->bytes, theirs->bytes, ours->len_bytes) == 0;
}

/* 0, or why the hello is turned away. */
static int accept_hello(struct sim_end *end, uint64_t number)
{
	struct sim_listener *listener = listener_find(end->link->net, number);
	struct sim_peer *from = sim_other_end(end)->peer;

	if (listener && !listener->transport)
		return 0;
	if (!listener || listener->transport->machine != end->machine)
		return -ECONNREFUSED;
	if (!from)
		return AFAR_EPEER_DOWN;

	struct fabric *fabric = listener->transport->base.fabric;

	if (!keys_match(fabric, from->base.fabric)) {
		fabric_counters(fabric)->auth_failures++;
		return AFAR_EAUTH;
	}

	struct sim_peer *peer = peer_make(listener->transport, true);

	if (!peer)
		return -ECONNREFUSED;
	peer->base.id = fabric_options_of(from->base.fabric)->id;
	sim_attach(end, peer);
	fabric_peer_up(&peer->base);
	world_wake(listener->transport->world, end->machine);

	struct sim_packet *welcome = sim_packet_make(SIM_WELCOME, NULL, 0);

	welcome->id = fabric_options_of(fabric)->id;
	sim_packet_post(sim_other_end(end), welcome);
	return 0;
}

/* For an end that the program of its machine will hear of. */
static void inbox_put(struct sim_end *end, struct sim_packet *packet)
{
	struct sim_transport *transport = transport_of(&end->peer->base);

	list_push_last(&end->peer->inbox, &packet->link);
	if (!list_is_linked(&end->peer->ready_link))
		list_push_last(&transport->ready, &end->peer->ready_link);
	world_wake(transport->world, transport->machine);
}

void sim_arrive(struct sim_end *end, struct sim_packet *packet)
{
	world_trace(end->link->net->world, (uint64_t)packet->kind << 32 | packet->len_bytes);
	if (packet->kind == SIM_HELLO) {
		int err = accept_hello(end, packet->id);

		if (err)
			sim_close_post(end, err);
		free(packet);
	} else if (end->open) {
		inbox_put(end, packet);
	} else {
		free(packet);
	}
}

/* Sending, polling, ending */

static int sim_send(struct fabric_peer *base, const void *message, uint32_t len_bytes)
{
	struct sim_peer *peer = sim_peer_of(base);
	const struct fabric_options *options = fabric_options_of(base->fabric);
	struct sim_end *other;

	if (!peer->end->open)
		return AFAR_EPEER_DOWN;
	other = sim_other_end(peer->end);
	if (other->unread_bytes + len_bytes > options->send_bytes_max) {
		other->sender_refused = true;
		return -EAGAIN;
	}
	other->unread_bytes += len_bytes;
	list_push_last(&peer->outgoing, &sim_packet_make(SIM_MESSAGE, message, len_bytes)->link);
	return 0;
}

static void launch_messages(struct sim_peer *peer)
{
	struct sim_transport *transport = transport_of(&peer->base);
	struct sim_net *net = transport->net;
	struct list *link;

	while (peer->end->open && (link = list_pop_first(&peer->outgoing)) != NULL) {
		struct sim_packet *packet = container_of(link, struct sim_packet, link);

		if (transport->dead || !world_act(transport->world, transport->machine)) {
			free(packet);
			continue;
		}
		net->stats.messages++;
		sim_packet_post(sim_other_end(peer->end), packet);
		if (world_chance(net->world, net->options.break_per_million))
			sim_link_break(peer->end->link);
	}
}

static void sim_flush(struct transport *base)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)base;

	list_each(link, &transport->peers)
	{
		launch_messages(container_of(link, struct sim_peer, link));
	}
	sim_launch_operations(transport);
}

/* Takes one packet out of a peer's inbox. False: there is no room for its event. */
static bool take(struct sim_peer *peer, struct sim_packet *packet)
{
	struct sim_transport *transport = transport_of(&peer->base);
	struct sim_end *end = peer->end;
	int status = packet->status;

	if (packet->kind == SIM_MESSAGE) {
		struct fabric_event event = {.kind = FABRIC_MESSAGE,
					     .peer = &peer->base,
					     .message = packet->bytes,
					     .len_bytes = packet->len_bytes};

		if (!fabric_event_room(peer->base.fabric))
			return false;
		fabric_event_put(peer->base.fabric, &event);
		end->unread_bytes -= packet->len_bytes;
		if (end->sender_refused)
			world_wake(transport->world, sim_other_end(end)->machine);
		end->sender_refused = false;
	}
	list_remove(&packet->link);
	if (packet->kind == SIM_WELCOME) {
		peer->base.id = packet->id;
		end->heard_ns = world_now_ns(transport->world);
		fabric_peer_up(&peer->base);
		sim_silence_watch(end, end->heard_ns);
	}
	if (packet->kind == SIM_CLOSE)
		sim_end_close(end, status);
	free(packet);
	return true;
}

static void sim_poll(struct transport *base)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)base;
	bool room = true;

	sim_flush(base);
	while (room && !list_is_empty(&transport->ready)) {
		struct sim_peer *peer =
			container_of(transport->ready.next, struct sim_peer, ready_link);

		while (room && !list_is_empty(&peer->inbox))
			room = take(peer, container_of(peer->inbox.next, struct sim_packet, link));
		if (list_is_empty(&peer->inbox))
			list_remove(&peer->ready_link);
	}
}

static void sim_disconnect(struct fabric_peer *base)
{
	struct sim_peer *peer = sim_peer_of(base);

	if (!peer->end->open)
		return;
	launch_messages(peer);
	sim_launch_operations(transport_of(base));
	if (!transport_of(base)->dead)
		sim_close_post(peer->end, AFAR_EPEER_DOWN);
	sim_end_close(peer->end, 0);
}

static void sim_peer_free(struct fabric_peer *base)
{
	struct sim_peer *peer = sim_peer_of(base);
	struct sim_link *link = peer->end->link;

	sim_disconnect(base);
	sim_end_release(peer->end);
	list_remove(&peer->link);
	peer->end->peer = NULL;
	free(peer);
	sim_link_drop(link);
}

static int sim_fd(struct transport *base)
{
	return -1;
}

static bool sim_arm(struct transport *base)
{
	return !list_is_empty(&((struct sim_transport *)(void *)base)->ready);
}

/* The world wakes the machine when something comes; only what found no room waits for a poll. */
static int64_t sim_deadline_ns(struct transport *base)
{
	return sim_arm(base) ? env_now_ns(fabric_env(base->fabric)) : INT64_MAX;
}

/* A number stays known when the power was cut: whoever calls it hears nothing, not a refusal. */
static void listeners_close(struct sim_transport *transport, bool power_cut)
{
	list_each(link, &transport->net->listeners)
	{
		struct sim_listener *listener = container_of(link, struct sim_listener, link);

		if (listener->transport != transport)
			continue;
		listener->transport = NULL;
		if (!power_cut) {
			list_remove(link);
			free(listener);
		}
	}
}

static void sim_close(struct transport *base)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)base;

	assert(list_is_empty(&transport->peers) && "peers are freed before their transport");
	listeners_close(transport, false);
	list_remove(&transport->link);
	free(transport);
}

void sim_net_crash(struct sim_net *net, uint32_t machine)
{
	/* The kernel of a killed program closes its connections; a power cut closes nothing. */
	bool power_cut = world_random_below(net->world, 3) == 0;

	sim_operations_crash(net, machine);
	list_each(link, &net->transports)
	{
		struct sim_transport *transport = container_of(link, struct sim_transport, link);

		if (transport->machine != machine)
			continue;
		transport->dead = true;
		listeners_close(transport, power_cut);
		list_each(peer_link, &transport->peers)
		{
			struct sim_peer *peer = container_of(peer_link, struct sim_peer, link);

			if (!peer->end->open)
				continue;
			sim_lose_tail(sim_other_end(peer->end));
			if (!power_cut)
				sim_close_post(peer->end, -ECONNRESET);
			sim_end_close(peer->end, AFAR_EPEER_DOWN);
		}
	}
}

static const struct transport_ops sim_transport_ops = {
	.scheme = "sim",
	.listen = sim_listen,
	.connect = sim_connect,
	.disconnect = sim_disconnect,
	.peer_free = sim_peer_free,
	.export = sim_export,
	.withdraw = sim_withdraw,
	.import = sim_import,
	.window_close = sim_window_close,
	.submit = sim_submit,
	.send = sim_send,
	.flush = sim_flush,
	.poll = sim_poll,
	.fd = sim_fd,
	.arm = sim_arm,
	.deadline_ns = sim_deadline_ns,
	.close = sim_close,
};

int transport_sim_open(struct fabric *fabric, struct transport **result)
{
	const struct fabric_options *options = fabric_options_of(fabric);
	struct sim_transport *transport;

	if (!options->net || options->machine >= world_machines(options->net->world))
		return -EINVAL;
	transport = calloc(1, sizeof(*transport));
	if (!transport)
		return -ENOMEM;
	transport->base.ops = &sim_transport_ops;
	transport->base.fabric = fabric;
	transport->net = options->net;
	transport->world = options->net->world;
	transport->machine = options->machine;
	list_init(&transport->peers);
	list_init(&transport->ready);
	list_init(&transport->unflushed);
	list_push_last(&options->net->transports, &transport->link);
	*result = &transport->base;
	return 0;
}
