/*
 * evict.c: what the owner says when a node wants a slab back
 *
 *   A node below its headroom asks how active our slabs are, then wants the least active back.
 *   The answer is for the piece's fiber to find (piece.c):
 *
 *     the others suffice for what was promised   RETIRE: out of the map, then DROPPABLE
 *     they do not                                 ALLOCATE and FILL another, RETIRE: then MOVED
 *     there is no room, or the piece is held      KEEP
 *
 *   One copy of two is moved, not dropped: until its successor was full, one more failure would
 *   lose what was acknowledged as safe against it (P1). A node whose notice ran out counts us as
 *   KEEP; a move that comes later ends with FREE and does it the same favour.
 */
#include "pool/volume.h"

#include "node/activity.h"

/* The copy of ours with this key on this node. */
static struct copy *find_copy(struct pool_node *node, uint64_t volume_id, uint64_t key,
			      struct piece **piece)
{
	list_each(link, &node->pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		if (volume_id != 0 && volume->record.id != volume_id)
			continue;
		for (uint64_t i = 0; volume->pieces && i < volume->record.pieces; i++) {
			*piece = &volume->pieces[i];
			for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
				struct copy *copy = &(*piece)->copies[slot];

				if (copy->node == node && copy->key == key)
					return copy;
			}
		}
	}
	return NULL;
}

/* Brings the piece's activity up to now. */
static uint32_t activity_of(struct piece *piece, int64_t now_ns)
{
	int64_t interval_ns = now_ns - piece->activity_ns;

	if (piece->activity_ns == 0 || interval_ns >= NS_PER_S / 10) {
		if (interval_ns > 0)
			piece->activity =
				activity_update(piece->activity, piece->accesses, interval_ns);
		piece->activity_ns = now_ns;
		piece->accesses = 0;
	}
	return piece->activity;
}

void copy_tell_activity(struct pool_node *node, const struct node_message *message)
{
	struct node_message answer = *message;
	int64_t now_ns = env_now_ns(node->pool->env);

	for (uint32_t i = 0; i < message->activity.count && i < NODE_KEYS_MAX; i++) {
		struct piece *piece;
		struct copy *copy = find_copy(node, 0, message->activity.keys[i], &piece);

		answer.activity.activity[i] = copy ? activity_of(piece, now_ns) : 0;
	}
	node_tell(node, &answer, NODE_ACTIVITY);
}

static void answer_notice(struct pool_node *node, const struct node_slab_name *slab,
			  uint32_t request, uint32_t answer)
{
	struct node_message message = {
		.head.request = request,
		.evict = {.slab = *slab, .answer = answer},
	};

	node_tell(node, &message, NODE_EVICT_ANSWER);
}

void copy_answer_notice(struct copy *copy, struct piece *piece, uint32_t answer)
{
	struct volume *volume = piece->volume;
	struct node_slab_name slab = {.volume = volume->record.id,
				      .piece = piece->number,
				      .piece_epoch = copy->epoch,
				      .key = copy->key};

	copy->noticed = false;
	volume->stats.evictions_answered++;
	counter_add_own(&volume->pool->count.evictions_answered, 1);
	if (copy->node->link == NODE_READY)
		answer_notice(copy->node, &slab, copy->notice_request, answer);
}

void copy_take_notice(struct pool_node *node, const struct node_message *message)
{
	const struct node_slab_name *slab = &message->evict.slab;
	struct piece *piece;
	struct copy *copy = find_copy(node, slab->volume, slab->key, &piece);

	if (!copy) {
		/* Nobody uses it, unless its ALLOCATED is still on its way to a fiber. */
		answer_notice(node, slab, message->head.request,
			      node->allocating > 0 ? NODE_EVICT_KEEP : NODE_EVICT_DROPPABLE);
		return;
	}
	copy->noticed = true;
	copy->notice_request = message->head.request;
	piece_work(piece);
}
