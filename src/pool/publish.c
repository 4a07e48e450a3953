/*
 * publish.c: the map of a volume in the cluster's store (volume.h, P3 and P4)
 *
 *   Changes of several pieces at one time are written together: the first fiber lets the others
 *   come, then writes for all. What is written is looked up at that moment, and the call that
 *   writes does not let anything else run; so a copy that went away meanwhile is not in the map,
 *   and the pieces follow the store without a gap.
 *
 *   If the store says neither yes nor no (an errno of files), it may have the old map or the new
 *   one. Then the copies of both count as listed, which writes must respect, until a later attempt
 *   tells.
 */
#include "pool/volume.h"

static struct volume_piece_record *entry_of(struct piece *piece)
{
	return &piece->volume->record.map[piece->number];
}

static bool may_be_listed(const struct copy *copy)
{
	return copy->state == COPY_LIVE || (copy->state == COPY_FILLING && copy->window);
}

/* What the store will know of the piece. */
static void write_entry(struct piece *piece)
{
	struct volume_piece_record *entry = entry_of(piece);
	unsigned count = 0;

	*entry = (struct volume_piece_record){.piece_epoch = piece->piece_epoch};
	if (!pool_mutates(piece->volume->pool, POOL_MUTATE_EPOCHS) || entry->piece_epoch == 0)
		entry->piece_epoch++;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (!(piece->publish_mask & 1u << slot))
			continue;
		if (!may_be_listed(copy) || count == CLUSTER_COPIES_MAX) {
			piece->publish_mask &= ~(1u << slot);
			continue;
		}
		entry->copies[count].node = copy->node->member.id;
		entry->copies[count].key = copy->key;
		count++;
	}
}

/* The epoch of the entry is the piece's, also if nobody knows whether the store has it. */
static void raise_epoch(struct piece *piece)
{
	uint32_t salt = checksum_epoch_salt(entry_of(piece)->piece_epoch);

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
	if (was_mapped) {
		piece->volume->stats.pieces_remapped++;
		counter_add_own(&piece->volume->pool->count.pieces_remapped, 1);
	}
	if (piece->publish_mask != 0)
		piece_tell(piece, 0);
	operations_of_piece(piece);
}

/* Nobody knows what the store has: respect both. */
static void doubt(struct piece *piece)
{
	raise_epoch(piece);
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		piece->copies[slot].listed |= (piece->publish_mask & 1u << slot) != 0;
}

static void publish_all(struct volume *volume)
{
	struct pool *pool = volume->pool;
	struct list *link;
	int err = 0;

	list_each(waiting, &volume->publishing)
		write_entry(container_of(waiting, struct piece, publish_link));
	if (cluster_has_store(pool->cluster))
		err = volume_record_update(pool->cluster, &volume->record);
	if (err == AFAR_ELEASE)
		volume_break(volume, AFAR_ELEASE);
	else if (err)
		log_error(pool->log, "map_not_published", "volume=%s error=\"%s\"",
			  volume->record.name, afar_strerror(err));
	while ((link = list_pop_first(&volume->publishing))) {
		struct piece *piece = container_of(link, struct piece, publish_link);

		piece->publish_status = err;
		if (err)
			doubt(piece);
		else
			apply(piece);
	}
	fiber_line_wake_all(&volume->publish_line);
}

int piece_publish(struct piece *piece, unsigned mask)
{
	struct volume *volume = piece->volume;
	struct pool *pool = volume->pool;
	bool first = list_is_empty(&volume->publishing);

	piece->publish_mask = mask;
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
