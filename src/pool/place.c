/*
 * place.c: which node gets the next copy of a piece
 *
 *   Power of two choices (Infiniswap, section 4.3): of all nodes that may take it, two are drawn
 *   at random and asked how full they are; the emptier one gets it. Nobody keeps a list of loads,
 *   and yet the fullest node is only a little fuller than the average.
 *
 *   The two are drawn from the best class that has nodes left, and from the next where one class
 *   has only one:
 *
 *     0   on a machine without a copy of this piece, the node without a copy of this volume
 *     1   on a machine without a copy of this piece
 *     2   the others
 *     3   those that did not answer lately: one of them may be back
 *
 *   Never a node that holds a copy of the piece (P5), whose lease has ended, or that refused a
 *   moment ago.
 */
#include "pool/volume.h"

#include <string.h>

#define CLASSES 4u

struct candidates {
	uint32_t count[CLASSES];
	uint16_t node[CLASSES][POOL_NODES_MAX];
};

static bool shares_machine(const struct pool_node *a, const struct pool_node *b)
{
	return a->member.boot_id[0] != '\0' && strcmp(a->member.boot_id, b->member.boot_id) == 0;
}

static bool is_reachable_directly(const struct pool_node *node)
{
	if (node->link == NODE_READY)
		return fabric_peer_capabilities(node->peer) & FABRIC_CAP_DIRECT;
	for (uint32_t i = 0; i < node->member.addresses; i++)
		if (strncmp(node->member.address[i], "shm:", 4) == 0)
			return true;
	return false;
}

/* The class of a node for this piece; CLASSES: it may not have it. */
static unsigned class_of(const struct piece *piece, const struct pool_node *node, int64_t now_ns)
{
	bool machine_has_copy = false;

	if (!node->present || !node->member.alive || now_ns < node->refused_ns)
		return CLASSES;
	if (piece->direct && !is_reachable_directly(node))
		return CLASSES;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (copy->state == COPY_EMPTY)
			continue;
		if (copy->node == node)
			return CLASSES;
		machine_has_copy |= shares_machine(copy->node, node);
	}
	if (!node_may_answer(node))
		return now_ns >= node->retry_ns ? 3 : CLASSES;
	if (machine_has_copy)
		return 2;
	return piece->volume->on[node->index].copies == 0 ? 0 : 1;
}

static void find_candidates(const struct piece *piece, int64_t now_ns,
			    struct candidates *candidates)
{
	const struct pool *pool = piece->volume->pool;

	memset(candidates->count, 0, sizeof(candidates->count));
	for (uint32_t i = 0; i < pool->node_count; i++) {
		unsigned class = class_of(piece, pool->nodes[i], now_ns);

		if (class < CLASSES)
			candidates->node[class][candidates->count[class]++] = (uint16_t)i;
	}
}

/* Draws one node from the best class that is not empty; NULL: all are. */
static struct pool_node *draw(struct pool *pool, struct candidates *candidates)
{
	for (unsigned class = 0; class < CLASSES; class ++) {
		uint32_t *count = &candidates->count[class];
		uint16_t *nodes = candidates->node[class];

		if (*count == 0)
			continue;

		uint32_t place = (uint32_t)env_random_below(pool->env, *count);
		uint16_t index = nodes[place];

		nodes[place] = nodes[--*count];
		return pool->nodes[index];
	}
	return NULL;
}

/* How full a node says it is, in millionths. A negative error: it cannot take the slab. */
static int64_t ask_fullness(struct piece *piece, struct pool_node *node)
{
	struct pool *pool = node->pool;
	uint64_t slab_bytes = piece->volume->record.slab_bytes;
	struct node_message message = {.head.kind = NODE_QUERY,
				       .query.volume = piece->volume->record.id};
	int err = node_ask(node, &message, env_now_ns(pool->env) + pool->options.request_ns);

	if (err)
		return err;
	if (message.status.slab_bytes != slab_bytes || message.status.free_bytes < slab_bytes ||
	    message.status.capacity_bytes == 0)
		return AFAR_ENOSPACE_FAR;

	double fullness = (double)message.status.used_bytes / (double)message.status.capacity_bytes;

	return fullness < 1.0 ? (int64_t)(fullness * 1e6) : 1000000;
}

int place_choose(struct piece *piece, struct pool_node **node)
{
	struct pool *pool = piece->volume->pool;
	struct candidates candidates;
	uint32_t left;
	int verdict = AFAR_EPEER_DOWN; /* what no node at all means */

	find_candidates(piece, env_now_ns(pool->env), &candidates);
	*node = NULL;
	for (;;) {
		int64_t least = INT64_MAX;

		for (int choice = 0; choice < 2; choice++) {
			struct pool_node *drawn = draw(pool, &candidates);
			int64_t fullness = drawn ? ask_fullness(piece, drawn) : INT64_MAX;

			if (!drawn)
				break;
			if (fullness == -ECANCELED || !volume_is_open(piece->volume))
				return -ECANCELED;
			if (fullness == AFAR_ENOSPACE_FAR)
				verdict = AFAR_ENOSPACE_FAR;
			if (fullness >= 0 && fullness < least) {
				least = fullness;
				*node = drawn;
			}
		}
		if (*node)
			return 0;
		left = 0;
		for (unsigned class = 0; class < CLASSES; class ++)
			left += candidates.count[class];
		if (left == 0)
			return verdict;
	}
}
