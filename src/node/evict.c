/*
 * evict.c: keeping the headroom; evict.h has the picture
 */
#include "node/evict.h"

#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "fabric/fabric.h"
#include "node/activity.h"
#include "node/slabs.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- how short memory is ---- */

static void sample(struct node *node)
{
	const struct node_memory_ops *memory = &node->options.memory;
	struct eviction *eviction = &node->eviction;
	uint64_t now_bytes = memory->available_bytes(memory->context);

	if (now_bytes == UINT64_MAX || !eviction->sampled ||
	    eviction->available_bytes == UINT64_MAX)
		eviction->available_bytes = now_bytes;
	else
		eviction->available_bytes = activity_smooth(eviction->available_bytes, now_bytes);
	eviction->sampled = true;
	gauge_set(&node->counters.available_bytes,
		  (int64_t)min_u64(eviction->available_bytes, INT64_MAX));
}

/* The smoothed number follows the machine only after some samples; what we did ourselves is
 * known now. Without this a batch would be followed by others for the same shortage. */
void evict_note_taken(struct node *node)
{
	struct eviction *eviction = &node->eviction;

	if (eviction->available_bytes != UINT64_MAX)
		eviction->available_bytes -=
			min_u64(node->options.slab_bytes, eviction->available_bytes);
}

void evict_note_given_back(struct node *node)
{
	struct eviction *eviction = &node->eviction;

	if (eviction->available_bytes < UINT64_MAX - node->options.slab_bytes)
		eviction->available_bytes += node->options.slab_bytes;
}

static bool knows_available(const struct node *node)
{
	return node->options.headroom_bytes != 0 && node->eviction.sampled &&
	       node->eviction.available_bytes != UINT64_MAX;
}

/* How many slabs must go: by the capacity, or by the headroom. */
static uint64_t short_slabs(const struct node *node)
{
	uint64_t slab_bytes = node->options.slab_bytes;
	uint64_t held_bytes = (UINT64_C(0) + node->mapped + node->idle) * slab_bytes;
	uint64_t short_bytes = 0;

	if (held_bytes > node->capacity_bytes)
		short_bytes = held_bytes - node->capacity_bytes;
	if (knows_available(node) && node->eviction.available_bytes < node->options.headroom_bytes)
		short_bytes = max_u64(short_bytes, node->options.headroom_bytes -
							   node->eviction.available_bytes);
	return (short_bytes + slab_bytes - 1) / slab_bytes;
}

bool evict_may_grow(const struct node *node)
{
	return !knows_available(node) ||
	       node->eviction.available_bytes >=
		       node->options.headroom_bytes + node->options.slab_bytes;
}

uint64_t evict_free_bytes(const struct node *node)
{
	uint64_t slab_bytes = node->options.slab_bytes;
	uint64_t used_bytes = node->mapped * slab_bytes;
	uint64_t idle_bytes = node->idle * slab_bytes;
	uint64_t free_bytes =
		node->capacity_bytes > used_bytes ? node->capacity_bytes - used_bytes : 0;

	if (knows_available(node)) {
		uint64_t above =
			node->eviction.available_bytes > node->options.headroom_bytes
				? node->eviction.available_bytes - node->options.headroom_bytes
				: 0;

		free_bytes = min_u64(free_bytes, idle_bytes + above);
	}
	return free_bytes - free_bytes % slab_bytes;
}

/* ---- one batch ---- */

static bool is_eligible(const struct slab *slab, int64_t now_ns)
{
	return slab->state == SLAB_MAPPED && slab->volume->peer && !slab->noticed &&
	       now_ns >= slab->spare_until_ns;
}

/* Picks up to `wanted` eligible slabs, each set of that size with the same probability. */
static void pick(struct node *node, uint32_t wanted, int64_t now_ns)
{
	struct eviction *eviction = &node->eviction;
	uint64_t seen = 0;

	eviction->candidates = 0;
	for (uint32_t i = 0; i < node->slot_count; i++) {
		const struct slab *slab = node->slots[i];
		uint64_t place = eviction->candidates;

		if (!is_eligible(slab, now_ns))
			continue;
		seen++;
		if (eviction->candidates == wanted)
			place = env_random_below(node->env, seen);
		else
			eviction->candidates++;
		if (place < wanted)
			eviction->candidate[place] = (struct evict_candidate){.key = slab->key};
	}
}

/* The connection of the owner of a candidate, NULL if it or the slab is gone. */
static struct fabric_peer *peer_of(const struct node *node, const struct evict_candidate *candidate)
{
	const struct slab *slab = slab_of_key(node, candidate->key);

	return slab ? slab->volume->peer : NULL;
}

/* One ACTIVITY_ASK to each owner, with all of its candidates. */
static void ask(struct node *node)
{
	struct eviction *eviction = &node->eviction;

	eviction->request++;
	for (uint32_t i = 0; i < eviction->candidates; i++) {
		struct node_message message = {.head.request = eviction->request};
		struct fabric_peer *peer = peer_of(node, &eviction->candidate[i]);

		if (eviction->candidate[i].asked || !peer)
			continue;
		for (uint32_t k = i; k < eviction->candidates; k++) {
			struct evict_candidate *candidate = &eviction->candidate[k];

			if (candidate->asked || peer_of(node, candidate) != peer)
				continue;
			candidate->asked = true;
			message.activity.keys[message.activity.count++] = candidate->key;
		}
		request_send(node, peer, &message, NODE_ACTIVITY_ASK);
	}
}

static void begin(struct node *node, uint64_t slabs, int64_t now_ns)
{
	struct eviction *eviction = &node->eviction;

	eviction->wanted = (uint32_t)min_u64(slabs, EVICT_BATCH_MAX);
	pick(node, eviction->wanted + (uint32_t)max_u64(eviction->wanted, EVICT_EXTRA_MIN), now_ns);
	ask(node);
	eviction->phase = EVICT_ASKING;
	eviction->phase_end_ns = now_ns + EVICT_ASK_NS;
}

void evict_activity(struct node *node, struct fabric_peer *peer, const struct node_message *message)
{
	struct eviction *eviction = &node->eviction;

	if (eviction->phase != EVICT_ASKING || message->head.request != eviction->request)
		return;
	for (uint32_t k = 0; k < message->activity.count; k++) {
		for (uint32_t i = 0; i < eviction->candidates; i++) {
			struct evict_candidate *candidate = &eviction->candidate[i];

			if (candidate->key != message->activity.keys[k] ||
			    peer_of(node, candidate) != peer)
				continue;
			candidate->activity = message->activity.activity[k];
			candidate->answered = true;
		}
	}
}

/* The coldest candidate that was not noticed yet, or NULL. */
static struct evict_candidate *coldest(struct node *node)
{
	struct eviction *eviction = &node->eviction;
	struct evict_candidate *found = NULL;

	for (uint32_t i = 0; i < eviction->candidates; i++) {
		struct evict_candidate *candidate = &eviction->candidate[i];

		if (!candidate->answered || candidate->noticed || !peer_of(node, candidate))
			continue;
		if (!found || candidate->activity < found->activity)
			found = candidate;
	}
	return found;
}

static void notice(struct node *node, struct evict_candidate *candidate)
{
	struct slab *slab = slab_of_key(node, candidate->key);
	struct node_message message = {
		.evict =
			{
				.slab =
					{
						.volume = slab->volume->id,
						.piece = slab->piece,
						.piece_epoch = slab->piece_epoch,
						.key = slab->key,
					},
				.deadline_ms = EVICT_NOTICE_NS / NS_PER_MS,
			},
	};

	candidate->noticed = true;
	slab->noticed = request_send(node, slab->volume->peer, &message, NODE_EVICT_NOTICE) == 0;
}

/* Those who got a notice and have neither answered nor gone. */
static uint32_t unanswered(const struct node *node)
{
	const struct eviction *eviction = &node->eviction;
	uint32_t count = 0;

	for (uint32_t i = 0; i < eviction->candidates; i++) {
		const struct evict_candidate *candidate = &eviction->candidate[i];
		const struct slab *slab = slab_of_key(node, candidate->key);

		count += candidate->noticed && slab && slab->noticed && slab->volume->peer;
	}
	return count;
}

static uint32_t freed(const struct node *node)
{
	const struct eviction *eviction = &node->eviction;
	uint32_t count = 0;

	for (uint32_t i = 0; i < eviction->candidates; i++)
		count += eviction->candidate[i].noticed &&
			 !slab_of_key(node, eviction->candidate[i].key);
	return count;
}

/* Notices as many as are still wanted; false if nothing is left to wait for. */
static bool notice_more(struct node *node)
{
	struct eviction *eviction = &node->eviction;
	uint32_t pending = unanswered(node);
	uint32_t done = freed(node);

	while (pending + done < eviction->wanted) {
		struct evict_candidate *candidate = coldest(node);

		if (!candidate)
			break;
		notice(node, candidate);
		pending = unanswered(node);
	}
	return pending > 0;
}

/* What did not answer in time is kept; silence never frees (N4). */
static void end(struct node *node, int64_t now_ns)
{
	struct eviction *eviction = &node->eviction;
	uint32_t done = freed(node);

	for (uint32_t i = 0; i < eviction->candidates; i++) {
		struct slab *slab = slab_of_key(node, eviction->candidate[i].key);

		if (!slab || !slab->noticed)
			continue;
		slab->noticed = false;
		slab->spare_until_ns = now_ns + EVICT_SPARE_NS;
		counter_add_own(&node->counters.evictions_refused, 1);
	}
	eviction->candidates = 0;
	eviction->phase = EVICT_IDLE;
	if (done > 0) {
		eviction->pause_ns = EVICT_PAUSE_NS_MIN;
	} else {
		eviction->pause_ns = min_i64(eviction->pause_ns * 2, EVICT_PAUSE_NS_MAX);
		counter_add_own(&node->counters.headroom_breaches, 1);
		if (log_limit_pass(&eviction->breach_limit, now_ns, 10 * NS_PER_S))
			log_warn(node->options.log, "headroom_breached",
				 "available_bytes=%" PRIu64 " headroom_bytes=%" PRIu64
				 " used_slabs=%u held_back=%" PRIu64,
				 eviction->available_bytes, node->options.headroom_bytes,
				 node->mapped, log_limit_held(&eviction->breach_limit));
	}
	eviction->next_batch_ns = now_ns + eviction->pause_ns;
}

void evict_answer(struct node *node, struct fabric_peer *peer, const struct node_message *message)
{
	const struct node_slab_name *name = &message->evict.slab;
	struct slab *slab = slab_of_key(node, name->key);

	/* Only its owner's word counts. Whether we asked does not: it says that it is done with it.
	 */
	if (!slab || slab->volume->peer != peer || slab->volume->id != name->volume ||
	    slab->piece != name->piece || slab->piece_epoch != name->piece_epoch)
		return;
	if (message->evict.answer == NODE_EVICT_KEEP) {
		if (slab->noticed)
			counter_add_own(&node->counters.evictions_refused, 1);
		slab->noticed = false;
		slab->spare_until_ns = env_now_ns(node->env) + EVICT_SPARE_NS;
		return;
	}
	counter_add_own(&node->counters.evictions, 1);
	slab_release(node, slab, false);
}

static bool all_answered(const struct node *node)
{
	const struct eviction *eviction = &node->eviction;

	for (uint32_t i = 0; i < eviction->candidates; i++) {
		if (!eviction->candidate[i].answered && peer_of(node, &eviction->candidate[i]))
			return false;
	}
	return true;
}

static unsigned step(struct node *node, uint64_t slabs, int64_t now_ns)
{
	struct eviction *eviction = &node->eviction;

	switch (eviction->phase) {
	case EVICT_IDLE:
		if (slabs == 0 || node->mapped == 0 || now_ns < eviction->next_batch_ns)
			return 0;
		begin(node, slabs, now_ns);
		return 1;
	case EVICT_ASKING:
		if (!all_answered(node) && now_ns < eviction->phase_end_ns)
			return 0;
		eviction->phase = EVICT_NOTICING;
		eviction->phase_end_ns = now_ns + EVICT_NOTICE_NS;
		if (!notice_more(node))
			end(node, now_ns);
		return 1;
	case EVICT_NOTICING:
		if (now_ns < eviction->phase_end_ns && notice_more(node))
			return 0;
		end(node, now_ns);
		return 1;
	}
	return 0;
}

unsigned evict_poll(struct node *node, int64_t now_ns)
{
	const struct node_memory_ops *memory = &node->options.memory;
	struct eviction *eviction = &node->eviction;
	unsigned done = 0;

	if (now_ns >= eviction->next_sample_ns) {
		eviction->next_sample_ns = now_ns + EVICT_SAMPLE_NS;
		sample(node);
		if (short_slabs(node) > 0 && memory->stock_drop)
			memory->stock_drop(memory->context);
	}
	/* Idle memory first. Each one given back is noted, so this ends. */
	while (short_slabs(node) > 0 && slab_give_back(node))
		done++;
	return done + step(node, short_slabs(node), now_ns);
}

int64_t evict_deadline_ns(const struct node *node)
{
	const struct eviction *eviction = &node->eviction;
	int64_t deadline_ns = INT64_MAX;

	if (node->options.headroom_bytes != 0)
		deadline_ns = eviction->next_sample_ns;
	if (eviction->phase != EVICT_IDLE)
		deadline_ns = min_i64(deadline_ns, eviction->phase_end_ns);
	else if (short_slabs(node) > 0 && node->mapped > 0)
		deadline_ns = min_i64(deadline_ns, eviction->next_batch_ns);
	return deadline_ns;
}
