/*
 * node.c: the node as a whole; node.h tells its story
 */
#include "node/node.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/fabric.h"
#include "node/slabs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_A_POLL 64u
#define ROUNDS_A_POLL 4u /* then other work gets its turn, however much peers send */

/* ---- opening and closing ---- */

static void show_metrics(struct node *node)
{
	struct metrics *metrics = node->options.metrics;
	struct node_counters *counters = &node->counters;
	const struct {
		const char *name, *help;
		const struct counter *counter;
	} counted[] = {
		{"afar_node_allocations_total", "Slabs assigned.", &counters->allocations},
		{"afar_node_allocations_refused_total", "Requests for a slab that were refused.",
		 &counters->allocations_refused},
		{"afar_node_frees_total", "Slabs freed by their owners.", &counters->frees},
		{"afar_node_fences_total", "Exports withdrawn.", &counters->fences},
		{"afar_node_evictions_total", "Slabs evicted with their owner's consent.",
		 &counters->evictions},
		{"afar_node_evictions_refused_total", "Slabs that owners kept, or said nothing of.",
		 &counters->evictions_refused},
		{"afar_node_orphans_freed_total", "Slabs freed because their owner was gone.",
		 &counters->orphans_freed},
		{"afar_node_bad_messages_total", "Peers cut off for breaking the protocol.",
		 &counters->bad_messages},
		{"afar_node_takeovers_total", "Volumes claimed by a new owner.",
		 &counters->takeovers},
		{"afar_node_headroom_breaches_total", "Eviction batches that freed nothing.",
		 &counters->headroom_breaches},
	};
	const struct {
		const char *name, *help;
		const struct gauge *gauge;
	} gauged[] = {
		{"afar_node_capacity_bytes", "Memory donated.", &counters->capacity_bytes},
		{"afar_node_used_bytes", "Memory assigned to owners.", &counters->used_bytes},
		{"afar_node_idle_bytes", "Memory held for the next owner.", &counters->idle_bytes},
		{"afar_node_volumes", "Volumes known.", &counters->volumes},
		{"afar_node_peers", "Connections.", &counters->peers},
		{"afar_node_available_bytes", "Memory of the machine that is available, smoothed.",
		 &counters->available_bytes},
	};

	for (size_t i = 0; i < ARRAY_COUNT(counted); i++)
		metrics_counter(metrics, node, counted[i].name, "", counted[i].help,
				counted[i].counter);
	for (size_t i = 0; i < ARRAY_COUNT(gauged); i++)
		metrics_gauge(metrics, node, gauged[i].name, "", gauged[i].help, gauged[i].gauge);
}

int node_open(struct env *env, struct fabric *fabric, const struct node_options *options,
	      struct node **result)
{
	uint64_t slab_bytes = options->slab_bytes ? options->slab_bytes : NODE_SLAB_BYTES_DEFAULT;
	struct node *node;

	if (slab_bytes % 4096 != 0 || options->capacity_bytes < slab_bytes ||
	    options->capacity_bytes / slab_bytes > UINT64_C(1) << NODE_SLOT_BITS ||
	    options->orphan_ns < 0)
		return -EINVAL;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->env = env;
	node->fabric = fabric;
	node->options = *options;
	node->options.slab_bytes = slab_bytes;
	if (options->orphan_ns == 0)
		node->options.orphan_ns = NODE_ORPHAN_NS;
	node->capacity_bytes = options->capacity_bytes;
	list_init(&node->unused);
	list_init(&node->dirty);
	list_init(&node->ready);
	list_init(&node->volume_list);
	list_init(&node->peers);
	/* 43 random bits: no key of an earlier life comes again (N2), nor does the count overflow.
	 */
	node->next_assignment = (env_random(env) >> 21) + 1;
	node->eviction.pause_ns = EVICT_PAUSE_NS_MIN;
	node->eviction.next_sample_ns = env_now_ns(env);

	int err = table_create(&node->volumes, NODE_VOLUMES_MAX, env_random(env));

	if (err) {
		free(node);
		return err;
	}
	show_metrics(node);
	*result = node;
	return 0;
}

static void peer_free(struct node_peer *peer)
{
	fabric_peer_set_context(peer->peer, NULL);
	list_remove(&peer->link);
	free(peer);
}

void node_close(struct node *node)
{
	metrics_remove(node->options.metrics, node);
	slabs_destroy(node);
	volumes_destroy(node);
	list_each(link, &node->peers) peer_free(container_of(link, struct node_peer, link));
	free(node);
}

/* ---- peers ---- */

static void peer_up(struct node *node, struct fabric_peer *fabric_peer)
{
	struct node_peer *peer = calloc(1, sizeof(*peer));

	if (!peer) {
		fabric_disconnect(fabric_peer);
		return;
	}
	peer->peer = fabric_peer;
	fabric_peer_set_context(fabric_peer, peer);
	list_push_last(&node->peers, &peer->link);
	gauge_add(&node->counters.peers, 1);
}

static void peer_down(struct node *node, struct fabric_peer *fabric_peer)
{
	struct node_peer *peer = fabric_peer_context(fabric_peer);

	if (!peer)
		return;
	requests_forget(node, fabric_peer);
	volumes_orphan(node, fabric_peer);
	peer_free(peer);
	gauge_add(&node->counters.peers, -1);
}

void node_condemn(struct node *node, struct fabric_peer *fabric_peer, const char *reason)
{
	struct node_peer *peer = fabric_peer_context(fabric_peer);

	if (peer->condemned)
		return;
	peer->condemned = true;
	counter_add_own(&node->counters.bad_messages, 1);
	if (log_limit_pass(&node->bad_limit, env_now_ns(node->env), NS_PER_S))
		log_warn(node->options.log, "peer_condemned",
			 "peer=%016" PRIx64 " reason=%s held_back=%" PRIu64,
			 fabric_peer_id(fabric_peer), reason, log_limit_held(&node->bad_limit));
	fabric_disconnect(fabric_peer);
}

static void handle(struct node *node, const struct fabric_event *event)
{
	struct node_peer *peer;

	switch (event->kind) {
	case FABRIC_UP:
		peer_up(node, event->peer);
		return;
	case FABRIC_MESSAGE:
		peer = fabric_peer_context(event->peer);
		if (peer && !peer->condemned)
			request_receive(node, event->peer, event->message, event->len_bytes);
		return;
	case FABRIC_DOWN:
		peer_down(node, event->peer);
		return;
	case FABRIC_DONE:
		/* A node starts no operations. Even if one failed, it would concern one peer only.
		 */
		return;
	}
}

/* ---- running ---- */

static unsigned take_events(struct node *node)
{
	struct fabric_event events[EVENTS_A_POLL];
	unsigned done = 0;

	for (unsigned round = 0; round < ROUNDS_A_POLL; round++) {
		unsigned count = fabric_poll(node->fabric, events, EVENTS_A_POLL);

		for (unsigned i = 0; i < count; i++)
			handle(node, &events[i]);
		done += count;
		if (count < EVENTS_A_POLL)
			break;
	}
	return done;
}

static void set_gauges(struct node *node)
{
	struct node_counters *counters = &node->counters;
	uint64_t slab_bytes = node->options.slab_bytes;

	gauge_set(&counters->capacity_bytes, (int64_t)node->capacity_bytes);
	gauge_set(&counters->used_bytes, (int64_t)(node->mapped * slab_bytes));
	gauge_set(&counters->idle_bytes, (int64_t)(node->idle * slab_bytes));
	gauge_set(&counters->volumes, node->volumes.entries);
}

unsigned node_poll(struct node *node)
{
	unsigned done = take_events(node);
	int64_t now_ns = env_now_ns(node->env);

	done += requests_retry(node, now_ns);
	done += volumes_expire(node, now_ns);
	done += evict_poll(node, now_ns);
	done += slab_zero_step(node);
	fabric_flush(node->fabric);
	set_gauges(node);
	return done;
}

int64_t node_deadline_ns(const struct node *node)
{
	int64_t deadline_ns = min_i64(volumes_deadline_ns(node), evict_deadline_ns(node));

	if (node->waiting_count > 0)
		deadline_ns = min_i64(deadline_ns, node->next_retry_ns);
	if (!list_is_empty(&node->dirty))
		deadline_ns = env_now_ns(node->env);
	return deadline_ns;
}

void node_set_capacity(struct node *node, uint64_t capacity_bytes)
{
	uint64_t most_bytes = node->options.slab_bytes << NODE_SLOT_BITS;

	node->capacity_bytes = min_u64(capacity_bytes, most_bytes);
	node->eviction.pause_ns = EVICT_PAUSE_NS_MIN;
	node->eviction.next_batch_ns = env_now_ns(node->env);
}

static uint32_t count_owners(const struct node *node)
{
	uint32_t owners = 0;

	list_each(link, &node->peers) container_of(link, struct node_peer, link)->counted = false;
	list_each(link, &node->volume_list)
	{
		const struct node_volume *volume = container_of(link, struct node_volume, link);
		struct node_peer *peer = volume->peer ? fabric_peer_context(volume->peer) : NULL;

		if (volume->slab_count == 0 || !peer || peer->counted)
			continue;
		peer->counted = true;
		owners++;
	}
	return owners;
}

void node_stats(const struct node *node, struct node_stats *stats)
{
	const struct node_counters *counters = &node->counters;

	*stats = (struct node_stats){
		.capacity_bytes = node->capacity_bytes,
		.used_bytes = node->mapped * node->options.slab_bytes,
		.slabs_mapped = node->mapped,
		.allocations = counter_read(&counters->allocations),
		.allocations_refused = counter_read(&counters->allocations_refused),
		.frees = counter_read(&counters->frees),
		.fences = counter_read(&counters->fences),
		.evictions = counter_read(&counters->evictions),
		.evictions_refused = counter_read(&counters->evictions_refused),
		.orphans_freed = counter_read(&counters->orphans_freed),
		.bad_messages = counter_read(&counters->bad_messages),
		.takeovers = counter_read(&counters->takeovers),
		.headroom_breaches = counter_read(&counters->headroom_breaches),
		.owners = count_owners(node),
	};
}
