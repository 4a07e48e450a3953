/*
 * owners.c: who owns a volume here: arbitration by owner_epoch (N3), quota, orphans (N4)
 *
 *   A volume is known from the first ALLOCATE or CLAIM on. One without slabs is remembered as
 *   long as there is room, so that an owner of old is refused. To forget one is harmless: it only
 *   lets an owner that lost its volume hold memory here until it notices, for it cannot enter it
 *   in the volume's map any more.
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/fabric.h"
#include "node/slabs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

struct node_volume *volume_find(const struct node *node, uint64_t id)
{
	return table_get(&node->volumes, id);
}

static void forget(struct node *node, struct node_volume *volume)
{
	assert(volume->slab_count == 0 && list_is_empty(&volume->slabs));
	table_remove(&node->volumes, volume->id);
	list_remove(&volume->link);
	free(volume);
}

/* Makes room by forgetting the volume without slabs that was not heard of for longest. */
static bool forget_oldest_empty(struct node *node)
{
	list_each(link, &node->volume_list)
	{
		struct node_volume *volume = container_of(link, struct node_volume, link);

		if (volume->slab_count == 0) {
			forget(node, volume);
			return true;
		}
	}
	return false;
}

static int enter(struct node *node, uint64_t id, struct node_volume **result)
{
	if (node->volumes.entries == NODE_VOLUMES_MAX && !forget_oldest_empty(node))
		return AFAR_ENOSPACE_FAR;

	struct node_volume *volume = calloc(1, sizeof(*volume));

	if (!volume)
		return -ENOMEM;
	volume->id = id;
	list_init(&volume->slabs);
	list_init(&volume->link);

	int err = table_insert(&node->volumes, id, volume);

	if (err) {
		free(volume);
		return err;
	}
	list_push_last(&node->volume_list, &volume->link);
	*result = volume;
	return 0;
}

/* A new owner: everything of the old one is fenced before anybody is answered (N3). */
static void hand_over(struct node *node, struct node_volume *volume, uint64_t owner,
		      uint32_t owner_epoch)
{
	list_each(link, &volume->slabs)
	{
		struct slab *slab = container_of(link, struct slab, link);

		slab_fence(node, slab);
		slab->noticed = false;
		slab->stale = slab->handed_out;
	}
	if (volume->owner != 0) {
		counter_add_own(&node->counters.takeovers, 1);
		log_info(node->options.log, "volume_taken_over",
			 "volume=%016" PRIx64 " owner=%016" PRIx64 " owner_epoch=%u slabs=%u",
			 volume->id, owner, owner_epoch, volume->slab_count);
	}
	volume->owner = owner;
	volume->owner_epoch = owner_epoch;
}

int volume_admit(struct node *node, struct fabric_peer *peer, uint64_t id, uint64_t owner,
		 uint32_t owner_epoch, struct node_volume **result)
{
	struct node_volume *volume = volume_find(node, id);

	if (id == 0 || owner == 0)
		return -EINVAL;
	if (owner != fabric_peer_id(peer))
		return -EPERM;
	if (!volume) {
		int err = enter(node, id, &volume);

		if (err)
			return err;
	}
	if (volume->owner == 0 || owner_epoch > volume->owner_epoch) {
		hand_over(node, volume, owner, owner_epoch);
	} else if (!(node->options.mutations & NODE_MUTATE_OWNER_EPOCH)) {
		if (owner_epoch < volume->owner_epoch)
			return AFAR_EFENCED;
		if (owner != volume->owner)
			return AFAR_EOWNED;
	}
	volume->peer = peer;
	list_remove(&volume->link);
	list_push_last(&node->volume_list, &volume->link);
	*result = volume;
	return 0;
}

uint64_t volume_owner_bytes(const struct node *node, uint64_t owner)
{
	uint64_t slabs = 0;

	list_each(link, &node->volume_list)
	{
		const struct node_volume *volume = container_of(link, struct node_volume, link);

		if (volume->owner == owner)
			slabs += volume->slab_count;
	}
	return slabs * node->options.slab_bytes;
}

void volumes_orphan(struct node *node, struct fabric_peer *peer)
{
	/* A slab may be exposed to an older connection of its owner than the volume's. */
	for (uint32_t i = 0; i < node->slot_count; i++) {
		struct slab *slab = node->slots[i];

		if (slab->state == SLAB_MAPPED && slab->peer == peer)
			slab_fence(node, slab);
	}
	list_each(link, &node->volume_list)
	{
		struct node_volume *volume = container_of(link, struct node_volume, link);

		if (volume->peer == peer) {
			volume->peer = NULL;
			volume->orphaned_ns = env_now_ns(node->env);
		}
	}
}

static int64_t expiry_ns(const struct node *node, const struct node_volume *volume)
{
	if (volume->peer || volume->slab_count == 0)
		return INT64_MAX;
	return volume->orphaned_ns + node->options.orphan_ns;
}

unsigned volumes_expire(struct node *node, int64_t now_ns)
{
	unsigned expired = 0;

	list_each(link, &node->volume_list)
	{
		struct node_volume *volume = container_of(link, struct node_volume, link);

		if (now_ns < expiry_ns(node, volume))
			continue;
		log_info(node->options.log, "orphans_freed", "volume=%016" PRIx64 " slabs=%u",
			 volume->id, volume->slab_count);
		counter_add_own(&node->counters.orphans_freed, volume->slab_count);
		list_each(slab_link, &volume->slabs)
			slab_release(node, container_of(slab_link, struct slab, link), true);
		expired++;
	}
	return expired;
}

int64_t volumes_deadline_ns(const struct node *node)
{
	int64_t deadline_ns = INT64_MAX;

	list_each(link, &node->volume_list) deadline_ns =
		min_i64(deadline_ns, expiry_ns(node, container_of(link, struct node_volume, link)));
	return deadline_ns;
}

void volumes_destroy(struct node *node)
{
	list_each(link, &node->volume_list)
		forget(node, container_of(link, struct node_volume, link));
	table_destroy(&node->volumes);
}
