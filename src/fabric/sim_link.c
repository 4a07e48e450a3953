/*
 * sim_link.c: the links of the simulated network: packets, cuts, silence
 */
#include "fabric/sim_link.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"

#include <stdlib.h>
#include <string.h>

#define DELAY_NS_MIN_DEFAULT  INT64_C(2000)
#define DELAY_NS_MAX_DEFAULT  INT64_C(30000)
#define RESEND_NS_MAX_DEFAULT INT64_C(200000000)

static struct sim_transport *transport_of(const struct fabric_peer *peer)
{
	return (struct sim_transport *)(void *)peer->transport;
}

/* The net */

int sim_net_open(struct world *world, const struct sim_net_options *options, struct sim_net **out)
{
	struct sim_net *net;

	if (options->delay_ns_min < 0 || options->delay_ns_max < options->delay_ns_min ||
	    options->resend_ns_max < 0)
		return -EINVAL;
	net = calloc(1, sizeof(*net));
	if (!net)
		return -ENOMEM;
	net->world = world;
	net->options = *options;
	if (options->delay_ns_max == 0) {
		net->options.delay_ns_min = DELAY_NS_MIN_DEFAULT;
		net->options.delay_ns_max = DELAY_NS_MAX_DEFAULT;
	}
	if (options->resend_ns_max == 0)
		net->options.resend_ns_max = RESEND_NS_MAX_DEFAULT;
	list_init(&net->transports);
	list_init(&net->listeners);
	list_init(&net->links);
	list_init(&net->operations);
	*out = net;
	return 0;
}

void sim_net_stats(const struct sim_net *net, struct sim_net_stats *stats)
{
	*stats = net->stats;
}

void sim_net_cut(struct sim_net *net, uint32_t from, uint32_t to, bool cut)
{
	int64_t **row = &net->cut_since_ns[from];

	assert(from < SIM_MACHINES_MAX && to < SIM_MACHINES_MAX);
	if (!*row) {
		*row = malloc(SIM_MACHINES_MAX * sizeof(**row));
		if (!*row)
			abort();
		for (uint32_t i = 0; i < SIM_MACHINES_MAX; i++)
			(*row)[i] = -1;
	}
	if (!cut)
		(*row)[to] = -1;
	else if ((*row)[to] < 0)
		(*row)[to] = world_now_ns(net->world);
}

void sim_net_slow(struct sim_net *net, uint32_t machine, int64_t delay_ns)
{
	net->slow_ns[machine] = delay_ns;
}

bool sim_is_cut(const struct sim_net *net, uint32_t from, uint32_t to)
{
	return net->cut_since_ns[from] && net->cut_since_ns[from][to] >= 0;
}

int64_t sim_resend_ns(struct sim_net *net)
{
	uint64_t span_ns = (uint64_t)net->options.resend_ns_max;

	return (int64_t)(span_ns / 40 + world_random_below(net->world, span_ns));
}

int64_t sim_delay_ns(struct sim_net *net, uint32_t from, uint32_t to)
{
	int64_t span_ns = net->options.delay_ns_max - net->options.delay_ns_min;
	int64_t slow_ns = net->slow_ns[from] + net->slow_ns[to];

	return net->options.delay_ns_min +
	       (int64_t)world_random_below(net->world, (uint64_t)(span_ns + slow_ns + 1));
}

/* Links and packets */

struct sim_end *sim_other_end(const struct sim_end *end)
{
	return &end->link->end[end == &end->link->end[0]];
}

void sim_link_hold(struct sim_link *link)
{
	link->references++;
}

void sim_link_drop(struct sim_link *link)
{
	if (--link->references > 0)
		return;
	for (unsigned side = 0; side < 2; side++) {
		world_cancel(link->net->world, &link->end[side].arrival);
		world_cancel(link->net->world, &link->end[side].silence);
		sim_end_release(&link->end[side]);
		table_destroy(&link->end[side].exports);
	}
	list_remove(&link->of_net);
	free(link);
}

struct sim_packet *sim_packet_make(enum sim_packet_kind kind, const void *bytes, uint32_t len_bytes)
{
	struct sim_packet *packet = calloc(1, sizeof(*packet) + len_bytes);

	if (!packet)
		abort();
	packet->kind = kind;
	packet->len_bytes = len_bytes;
	if (len_bytes)
		memcpy(packet->bytes, bytes, len_bytes);
	return packet;
}

void sim_packets_free(struct list *packets)
{
	struct list *link;

	while ((link = list_pop_first(packets)) != NULL)
		free(container_of(link, struct sim_packet, link));
}

/* Packets on their way refer to the link, so dropping the last one may free it: hold it around. */
static void incoming_drop(struct sim_end *end)
{
	struct list *link;

	world_cancel(end->link->net->world, &end->arrival);
	while ((link = list_pop_first(&end->incoming)) != NULL) {
		free(container_of(link, struct sim_packet, link));
		sim_link_drop(end->link);
	}
}

/* Links that are left have no peers; packets on their way keep them. */
void sim_net_close(struct sim_net *net)
{
	struct list *link;

	assert(list_is_empty(&net->transports) && "the net must outlive every fabric on it");
	sim_operations_forget(net);
	while (!list_is_empty(&net->links)) {
		struct sim_link *last = container_of(net->links.next, struct sim_link, of_net);

		sim_link_hold(last);
		incoming_drop(&last->end[0]);
		incoming_drop(&last->end[1]);
		sim_link_drop(last);
	}
	while ((link = list_pop_first(&net->listeners)) != NULL)
		free(container_of(link, struct sim_listener, link));
	for (uint32_t i = 0; i < SIM_MACHINES_MAX; i++)
		free(net->cut_since_ns[i]);
	free(net);
}

static void expect_first(struct sim_end *end)
{
	struct sim_packet *first;

	if (list_is_empty(&end->incoming))
		return;
	first = container_of(end->incoming.next, struct sim_packet, link);
	world_schedule(end->link->net->world, &end->arrival, first->due_ns);
}

/* Puts a packet on its way to `end`, behind those that are on theirs. */
void sim_packet_post(struct sim_end *end, struct sim_packet *packet)
{
	struct sim_net *net = end->link->net;
	int64_t due_ns = world_now_ns(net->world) +
			 sim_delay_ns(net, sim_other_end(end)->machine, end->machine);

	if (world_chance(net->world, net->options.loss_per_million)) {
		due_ns += sim_resend_ns(net);
		net->stats.resent++;
	}
	if (!list_is_empty(&end->incoming)) {
		struct sim_packet *last = container_of(end->incoming.prev, struct sim_packet, link);

		due_ns = max_i64(due_ns, last->due_ns);
	}
	packet->due_ns = due_ns;
	list_push_last(&end->incoming, &packet->link);
	sim_link_hold(end->link);
	if (end->arrival.place == 0)
		expect_first(end);
}

/*
 * Closes an end at once: nothing comes in any more, nothing of it can be reached. Its peer, if
 * there is one, hears DOWN with `status`.
 */
void sim_end_close(struct sim_end *end, int status)
{
	struct sim_peer *peer = end->peer;

	if (!end->open)
		return;
	end->open = false;
	end->closed_ns = world_now_ns(end->link->net->world);
	world_cancel(end->link->net->world, &end->silence);
	sim_link_hold(end->link);
	incoming_drop(end);
	if (peer) {
		sim_packets_free(&peer->inbox);
		sim_packets_free(&peer->outgoing);
		list_remove(&peer->ready_link);
		sim_operations_end(peer, AFAR_EPEER_DOWN);
		if (!peer->base.down)
			fabric_peer_down(&peer->base, status);
		world_wake(end->link->net->world, end->machine);
	}
	sim_link_drop(end->link);
}

/* Tells the other end that this one is gone, behind all that was sent before. */
void sim_close_post(struct sim_end *end, int status)
{
	struct sim_packet *packet = sim_packet_make(SIM_CLOSE, NULL, 0);

	packet->status = status;
	sim_packet_post(sim_other_end(end), packet);
}

void sim_link_break(struct sim_link *link)
{
	link->net->stats.broken++;
	sim_link_hold(link);
	for (unsigned side = 0; side < 2; side++) {
		incoming_drop(&link->end[side]);
		sim_close_post(&link->end[!side], -ECONNRESET);
	}
	sim_link_drop(link);
}

/*
 * Silence. An end can hear the other while the way back is whole, the other end is open and its
 * machine runs; when that stopped is known exactly, so no heartbeats need to travel: one look
 * after each silence_ns is as good.
 */

static int64_t heard_last_ns(const struct sim_end *end)
{
	const struct sim_net *net = end->link->net;
	const struct sim_end *other = sim_other_end(end);
	int64_t last_ns = world_ran_last_ns(net->world, other->machine);

	if (sim_is_cut(net, other->machine, end->machine))
		last_ns = min_i64(last_ns, net->cut_since_ns[other->machine][end->machine]);
	if (!other->open)
		last_ns = min_i64(last_ns, other->closed_ns);
	return max_i64(end->heard_ns, last_ns);
}

void sim_silence_watch(struct sim_end *end, int64_t from_ns)
{
	const struct fabric_options *options = fabric_options_of(end->peer->base.fabric);
	int64_t silence_ns = options->silence_ns;
	int64_t late_ns = 0;

	/* The time to connect is bounded exactly; heartbeats leave a doubt. */
	if (end->peer->base.up)
		late_ns = (int64_t)world_random_below(end->link->net->world,
						      (uint64_t)silence_ns / 4 + 1);
	world_schedule(end->link->net->world, &end->silence, from_ns + silence_ns + late_ns);
}

static void run_silence(struct world_event *event)
{
	struct sim_end *end = event->context;
	struct sim_net *net = end->link->net;
	int64_t now_ns = world_now_ns(net->world);

	if (!world_is_running(net->world, end->machine)) {
		/* It looks at its sockets before it judges: a little after its pause. */
		int64_t resume_ns = world_running_at_ns(net->world, end->machine);

		if (resume_ns != INT64_MAX)
			world_schedule(net->world, &end->silence, resume_ns + NS_PER_MS);
		return;
	}

	int64_t heard_ns = end->peer->base.up ? heard_last_ns(end) : end->heard_ns;

	if (end->peer->base.up && (heard_ns > end->heard_ns || heard_ns == now_ns)) {
		end->heard_ns = heard_ns;
		sim_silence_watch(end, heard_ns);
		return;
	}
	net->stats.silence_downs++;
	sim_close_post(end, -ETIMEDOUT);
	sim_end_close(end, -ETIMEDOUT);
}

/* Making links, and what arrives over them */

static void run_arrival(struct world_event *event)
{
	struct sim_end *end = event->context;
	struct sim_net *net = end->link->net;
	struct sim_packet *packet = container_of(end->incoming.next, struct sim_packet, link);
	uint32_t from = sim_other_end(end)->machine;
	int64_t running_ns = world_running_at_ns(net->world, end->machine);
	int64_t now_ns = world_now_ns(net->world);

	if (sim_is_cut(net, from, end->machine)) {
		packet->due_ns = now_ns + sim_resend_ns(net);
		net->stats.resent++;
	} else if (packet->kind == SIM_HELLO && running_ns != INT64_MAX && running_ns > now_ns) {
		packet->due_ns = running_ns;
	} else {
		sim_link_hold(end->link);
		list_remove(&packet->link);
		sim_link_drop(end->link);
		sim_arrive(end, packet);
		if (end->arrival.place == 0)
			expect_first(end);
		sim_link_drop(end->link);
		return;
	}
	expect_first(end);
}

struct sim_link *sim_link_make(struct sim_net *net)
{
	struct sim_link *link = calloc(1, sizeof(*link));

	if (!link)
		abort();
	link->net = net;
	list_push_last(&net->links, &link->of_net);
	for (unsigned side = 0; side < 2; side++) {
		struct sim_end *end = &link->end[side];

		end->link = link;
		list_init(&end->incoming);
		end->arrival.run = run_arrival;
		end->arrival.context = end;
		end->silence.run = run_silence;
		end->silence.context = end;
		if (table_create(&end->exports, SIM_EXPORTS_MAX, world_random(net->world)) != 0)
			abort();
	}
	return link;
}

void sim_attach(struct sim_end *end, struct sim_peer *peer)
{
	end->peer = peer;
	end->machine = transport_of(&peer->base)->machine;
	end->open = true;
	end->heard_ns = world_now_ns(end->link->net->world);
	peer->end = end;
	sim_link_hold(end->link);
	sim_silence_watch(end, end->heard_ns);
}

/* A random part of what was on its way does not arrive: the buffers died with the machine. */
void sim_lose_tail(struct sim_end *end)
{
	struct world *world = end->link->net->world;

	while (!list_is_empty(&end->incoming) && world_random(world) % 2) {
		struct sim_packet *last = container_of(end->incoming.prev, struct sim_packet, link);

		list_remove(&last->link);
		free(last);
		sim_link_drop(end->link);
	}
	if (list_is_empty(&end->incoming))
		world_cancel(world, &end->arrival);
}
