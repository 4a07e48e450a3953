/*
 * publish.c: the map of a volume in the cluster's store (volume.h, P3 and P4)
 *
 *   Changes of several pieces at one time are written together: the first fiber lets the others
 *   come, then writes for all. In that moment much may happen to a piece. So its change is held
 *   against it once more before it is written, and turned down if a copy that it lists is not
 *   what it was; from there until the answer of the store nothing else runs.
 *
 *   If the store says neither yes nor no (an errno of files), it may have the old map or the new
 *   one. Until a later attempt succeeds the piece is in doubt: nothing is acknowledged, so every
 *   copy of either map goes on missing nothing, whoever reads it.
 */
#include "pool/volume.h"

#include <inttypes.h>

static struct volume_piece_record *entry_of(struct piece *piece)
{
	return &piece->volume->record.map[piece->number];
}

/* Whether the copy is still as good as when its listing was asked for. */
static bool may_be_listed(const struct piece *piece, unsigned slot)
{
	const struct copy *copy = &piece->copies[slot];

	switch (copy->state) {
	case COPY_LIVE:
		return true;
	case COPY_FILLING:
		return copy->window && !copy->gone;
	case COPY_DETACHED:
		return !copy->gone && piece->publish_detached & 1u << slot;
	case COPY_EMPTY:
	case COPY_LEAVING:
		break;
	}
	return false;
}

/* What the store will know of the piece. -EAGAIN: the change is out of date. */
static int write_entry(struct piece *piece)
{
	struct volume_piece_record entry = {.piece_epoch = piece->piece_epoch};
	unsigned count = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (!(piece->publish_mask & 1u << slot))
			continue;
		if (!may_be_listed(piece, slot) || count == CLUSTER_COPIES_MAX)
			return -EAGAIN;
		entry.copies[count].node = copy->node->member.id;
		entry.copies[count].key = copy->key;
		count++;
	}
	if (!pool_mutates(piece->volume->pool, POOL_MUTATE_EPOCHS) || entry.piece_epoch == 0)
		entry.piece_epoch++;
	if (piece->holes || piece->pages.lost > 0)
		entry.flags |= VOLUME_PIECE_HOLES;
	*entry_of(piece) = entry;
	return 0;
}

/* The epoch of the entry is the piece's, also if nobody knows whether the store has it. */
static void raise_epoch(struct piece *piece)
{
	uint32_t salt = checksum_epoch_salt(entry_of(piece)->piece_epoch);

	/* P3, where it would be broken: the store and we never know two maps under one epoch. */
	assert(entry_of(piece)->piece_epoch > piece->piece_epoch);
	page_table_resalt(&piece->pages, piece->epoch_salt, salt);
	piece->piece_epoch = entry_of(piece)->piece_epoch;
	piece->epoch_salt = salt;
}

/* The store has it: the piece is so. */
static void apply(struct piece *piece)
{
	bool was_mapped = piece_is_mapped(piece);

	raise_epoch(piece);
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		struct copy *copy = &piece->copies[slot];

		copy->listed = piece->publish_mask & 1u << slot;
		if (copy->listed && copy->state == COPY_FILLING)
			copy->state = COPY_LIVE;
	}
	if (was_mapped && piece->publish_mask != 0) {
		piece->volume->stats.pieces_remapped++;
		counter_add_own(&piece->volume->pool->count.pieces_remapped, 1);
	}
	if (piece->publish_mask != 0)
		piece_tell(piece, 0);
	operations_of_piece(piece);
}

/* The store's answer to the change of one piece. */
static void settle(struct piece *piece, int err)
{
	piece->publish_status = err;
	piece->in_doubt = err != 0;
	if (err)
		raise_epoch(piece);
	else
		apply(piece);
}

static void publish_all(struct volume *volume)
{
	struct pool *pool = volume->pool;
	struct list *link;
	int err = 0;

	list_each(waiting, &volume->publishing)
	{
		struct piece *piece = container_of(waiting, struct piece, publish_link);

		piece->publish_status = write_entry(piece);
		if (piece->publish_status != 0)
			list_remove(waiting);
	}
	if (!list_is_empty(&volume->publishing) && cluster_has_store(pool->cluster))
		err = volume_record_update(pool->cluster, &volume->record);
	if (err == AFAR_ELEASE)
		volume_break(volume, AFAR_ELEASE);
	else if (err && log_limit_pass(&volume->store_limit, env_now_ns(pool->env), NS_PER_S))
		log_error(pool->log, "map_not_published",
			  "volume=%s error=\"%s\" held_back=%" PRIu64, volume->record.name,
			  afar_strerror(err), log_limit_held(&volume->store_limit));
	while ((link = list_pop_first(&volume->publishing)))
		settle(container_of(link, struct piece, publish_link), err);
	fiber_line_wake_all(&volume->publish_line);
}

int piece_publish(struct piece *piece, unsigned mask)
{
	struct volume *volume = piece->volume;
	struct pool *pool = volume->pool;
	bool first = list_is_empty(&volume->publishing);

	piece->publish_mask = mask;
	piece->publish_detached = mask & copies_in(piece, COPY_DETACHED);
	piece->publish_status = -EINPROGRESS;
	list_push_last(&volume->publishing, &piece->publish_link);
	if (first) {
		fiber_yield(pool->sched);
		if (volume_is_open(volume)) {
			publish_all(volume);
			return piece->publish_status;
		}
	} else {
		while (list_is_linked(&piece->publish_link) && volume_is_open(volume))
			if (fiber_line_wait(&volume->publish_line, pool->sched, FIBER_FOREVER))
				break;
	}
	if (piece->publish_status != -EINPROGRESS)
		return piece->publish_status;
	list_remove(&piece->publish_link);
	fiber_line_wake_all(&volume->publish_line);
	return -ECANCELED;
}
