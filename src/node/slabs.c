/*
 * slabs.c: the memory of slabs (see slabs.h)
 */
#include "node/slabs.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/fabric.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool is_mutated(const struct node *node, enum node_mutation mutation)
{
	return (node->options.mutations & mutation) != 0;
}

static void enter_list(struct node *node, struct slab *slab, enum slab_state state)
{
	bool was_idle = slab->state == SLAB_DIRTY || slab->state == SLAB_READY;
	bool is_idle = state == SLAB_DIRTY || state == SLAB_READY;

	node->idle = node->idle - was_idle + is_idle;
	slab->state = state;
	list_remove(&slab->link);
	switch (state) {
	case SLAB_UNUSED:
		list_push_first(&node->unused, &slab->link);
		break;
	case SLAB_DIRTY:
		list_push_last(&node->dirty, &slab->link);
		break;
	case SLAB_READY:
		/* Last in, first out: the memory used last may still be in a cache. */
		list_push_first(&node->ready, &slab->link);
		break;
	case SLAB_MAPPED:
		break; /* slab_assign() puts it into its volume's list */
	}
}

/* A slot without memory, made when there is none. NULL: no memory, or too many. */
static struct slab *unused_slot(struct node *node)
{
	if (!list_is_empty(&node->unused))
		return container_of(node->unused.next, struct slab, link);
	if (node->slot_count == UINT32_C(1) << NODE_SLOT_BITS)
		return NULL;
	if (node->slot_count == node->slots_max) {
		uint32_t room = node->slots_max ? node->slots_max * 2 : 64;
		struct slab **slots = realloc(node->slots, room * sizeof(*slots));

		if (!slots)
			return NULL;
		node->slots = slots;
		node->slots_max = room;
	}

	struct slab *slab = calloc(1, sizeof(*slab));

	if (!slab)
		return NULL;
	slab->slot = node->slot_count;
	slab->memfd = -1;
	list_init(&slab->link);
	list_push_first(&node->unused, &slab->link);
	node->slots[node->slot_count++] = slab;
	return slab;
}

static void zero_until(struct node *node, struct slab *slab, uint64_t end)
{
	if (!is_mutated(node, NODE_MUTATE_ZEROING))
		memset((char *)slab->memory + slab->zeroed_bytes, 0, end - slab->zeroed_bytes);
	slab->zeroed_bytes = end;
	if (end == node->options.slab_bytes)
		enter_list(node, slab, SLAB_READY);
}

bool slab_zero_step(struct node *node)
{
	if (list_is_empty(&node->dirty))
		return false;

	struct slab *slab = container_of(node->dirty.next, struct slab, link);

	zero_until(node, slab,
		   min_u64(slab->zeroed_bytes + NODE_ZERO_STEP, node->options.slab_bytes));
	return true;
}

/* Whether there may be one slab more (N5). */
static bool fits(const struct node *node)
{
	uint64_t slabs = UINT64_C(1) + node->mapped + node->idle;

	return slabs * node->options.slab_bytes <= node->capacity_bytes;
}

/* The memory of an unused slot: fresh from the machine, hence zero. */
static int make_memory(struct node *node, struct slab *slab)
{
	const struct node_memory_ops *memory = &node->options.memory;
	int err = memory->slab_make(memory->context, node->options.slab_bytes, &slab->memory,
				    &slab->memfd);

	if (err == -EAGAIN)
		return err;
	if (err) {
		if (log_limit_pass(&node->memory_limit, env_now_ns(node->env), NS_PER_S))
			log_warn(node->options.log, "slab_not_made", "reason=%s",
				 afar_strerror(err));
		return AFAR_ENOSPACE_FAR;
	}
	slab->handed_out = false;
	evict_note_taken(node);
	return 0;
}

static void destroy_memory(struct node *node, struct slab *slab)
{
	const struct node_memory_ops *memory = &node->options.memory;

	memory->slab_destroy(memory->context, slab->memory, node->options.slab_bytes, slab->memfd);
	slab->memory = NULL;
	slab->memfd = -1;
	enter_list(node, slab, SLAB_UNUSED);
	evict_note_given_back(node);
}

/* A ready slab, made if there is none and `grow` allows it. */
static int take(struct node *node, bool grow, struct slab **result)
{
	struct slab *slab;

	if (list_is_empty(&node->ready) && !list_is_empty(&node->dirty)) {
		slab = container_of(node->dirty.next, struct slab, link);
		zero_until(node, slab, node->options.slab_bytes);
	}
	if (!list_is_empty(&node->ready)) {
		*result = container_of(node->ready.next, struct slab, link);
		return 0;
	}
	slab = grow ? unused_slot(node) : NULL;
	if (!slab)
		return AFAR_ENOSPACE_FAR;

	int err = make_memory(node, slab);

	if (err)
		return err;
	enter_list(node, slab, SLAB_READY);
	*result = slab;
	return 0;
}

int slab_take(struct node *node, struct slab **slab)
{
	return take(node, fits(node) && evict_may_grow(node), slab);
}

void slab_assign(struct node *node, struct slab *slab, struct node_volume *volume,
		 const struct node_slab_name *name)
{
	assert(slab->state == SLAB_READY && !slab->handed_out);
	enter_list(node, slab, SLAB_MAPPED);
	list_push_last(&volume->slabs, &slab->link);
	volume->slab_count++;
	node->mapped++;
	slab->volume = volume;
	slab->key = node->next_assignment++ << NODE_SLOT_BITS | slab->slot;
	slab->piece = name->piece;
	slab->piece_epoch = name->piece_epoch;
	slab->peer = NULL;
	slab->stale = false;
	slab->noticed = false;
	slab->spare_until_ns = INT64_MIN;
}

struct slab *slab_of_key(const struct node *node, uint64_t key)
{
	uint64_t slot = key & ((UINT64_C(1) << NODE_SLOT_BITS) - 1);
	struct slab *slab = slot < node->slot_count ? node->slots[slot] : NULL;

	return slab && slab->state == SLAB_MAPPED && slab->key == key ? slab : NULL;
}

void slab_fence(struct node *node, struct slab *slab)
{
	if (!slab->peer)
		return;
	if (is_mutated(node, NODE_MUTATE_FENCING)) {
		slab->handed_out = false;
	} else {
		/* Other errors: the peer went down, and its export with it. */
		if (fabric_withdraw(slab->peer, slab->key) == -EBUSY)
			slab->handed_out = true;
		counter_add_own(&node->counters.fences, 1);
	}
	slab->peer = NULL;
}

int slab_expose(struct node *node, struct slab *slab, struct fabric_peer *peer)
{
	if (slab->peer == peer)
		return 0;
	slab_fence(node, slab);

	int err = fabric_export(peer, slab->key, slab->piece_epoch, slab->memory,
				node->options.slab_bytes, slab->memfd);

	if (err)
		return err;
	slab->peer = peer;
	if ((fabric_peer_capabilities(peer) & FABRIC_CAP_ABANDON) &&
	    !is_mutated(node, NODE_MUTATE_FENCING))
		slab->handed_out = true;
	return 0;
}

int slab_freshen(struct node *node, struct slab *slab)
{
	struct slab *fresh;
	/* Also on a full node: the old memory goes as soon as the new one is filled. */
	int err = take(node, true, &fresh);

	if (err)
		return err;
	memcpy(fresh->memory, slab->memory, node->options.slab_bytes);

	void *old_memory = slab->memory;
	int old_memfd = slab->memfd;

	slab->memory = fresh->memory;
	slab->memfd = fresh->memfd;
	slab->handed_out = false;
	slab->stale = false;
	fresh->memory = old_memory;
	fresh->memfd = old_memfd;
	destroy_memory(node, fresh);
	return 0;
}

void slab_release(struct node *node, struct slab *slab, bool keep)
{
	slab_fence(node, slab);
	slab->volume->slab_count--;
	slab->volume = NULL;
	node->mapped--;
	if (!keep || slab->handed_out || !fits(node)) {
		destroy_memory(node, slab);
		return;
	}
	slab->zeroed_bytes = 0;
	enter_list(node, slab, SLAB_DIRTY);
}

bool slab_give_back(struct node *node)
{
	struct list *idle = list_is_empty(&node->dirty) ? &node->ready : &node->dirty;

	if (list_is_empty(idle))
		return false;
	destroy_memory(node, container_of(idle->next, struct slab, link));
	return true;
}

void slabs_destroy(struct node *node)
{
	for (uint32_t i = 0; i < node->slot_count; i++) {
		struct slab *slab = node->slots[i];

		if (slab->state == SLAB_MAPPED)
			slab_release(node, slab, false);
		else if (slab->state != SLAB_UNUSED)
			destroy_memory(node, slab);
	}
	/* Only now: until here each slab is a neighbour in the list of unused ones. */
	for (uint32_t i = 0; i < node->slot_count; i++)
		free(node->slots[i]);
	free(node->slots);
}
