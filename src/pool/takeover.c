/*
 * takeover.c: a volume of another owner, dead or done with it, becomes ours
 *
 *     claim the record          by compare-and-swap; owner_epoch + 1; the map is ours
 *     claim it on every node    the old owner's exports are fenced before the node answers
 *     attach its copies         DETACHED at first, as after a lost connection (piece.c)
 *     read a page               all copies that the map lists must agree: UNKNOWN becomes HELD
 *
 *   A node is claimed before anything is read from it (nodes.h: greeting), so whatever the old
 *   owner still has under way cannot change what we have seen. And it can acknowledge nothing
 *   that we miss: its map is no longer its to change, and an acknowledged write is on every copy
 *   that the map lists (volume.h).
 *
 *   What the old owner discarded may be read again, and a write that it had not acknowledged may
 *   be there or make its page AFAR_ELOST, if it reached some copies and not others.
 */
#include "pool/volume.h"

#include <string.h>

#define CLAIM_EVERY_NS (20 * NS_PER_MS)

/* Asks for the volume until its old owner's lease has visibly stood still. */
static int claim(struct volume *volume, struct volume_record *record)
{
	struct pool *pool = volume->pool;
	int64_t end_ns = env_now_ns(pool->env) + 2 * pool->options.patience_ns;

	for (;;) {
		int64_t now_ns = env_now_ns(pool->env);
		int err = volume_record_claim(pool->cluster, volume->record.name,
					      volume->record.owner, volume->record.owner_nonce,
					      record);

		if (err == 0)
			volume->renewed_ns = now_ns;
		if ((err != -EAGAIN && err != AFAR_ECONFLICT) || now_ns >= end_ns)
			return err;
		err = fiber_sleep_until(pool->sched, now_ns + CLAIM_EVERY_NS);
		if (err || volume->phase != VOLUME_OPENING)
			return -ECANCELED;
	}
}

/* Pages of the piece that the volume has. */
static uint64_t pages_of(const struct piece *piece)
{
	const struct volume *volume = piece->volume;
	uint64_t first = (uint64_t)piece->number * volume->piece_pages;

	return min_u64(volume->pages - first, volume->piece_pages);
}

/* What is known of the pages: nothing, but that some were lost (and then none reads as zeros). */
static int prepare_pages(struct piece *piece, const struct volume_piece_record *entry)
{
	piece->holes = entry->flags & VOLUME_PIECE_HOLES;
	if (!piece_is_mapped(piece) && !piece->holes)
		return 0;
	if (page_table_make(&piece->pages, piece->volume->piece_pages) != 0)
		return -ENOMEM;
	if (piece_is_mapped(piece))
		page_table_set_unknown(&piece->pages);
	else
		page_table_set_lost(&piece->pages);
	/* The last piece may reach beyond the end: there is nothing there to be read or copied. */
	for (uint64_t page = pages_of(piece); page < piece->volume->piece_pages; page++)
		page_set_state(&piece->pages, (uint32_t)page, PAGE_EMPTY);
	return 0;
}

/* The copies that the map lists, not connected yet. */
static int place_copies(struct piece *piece)
{
	struct pool *pool = piece->volume->pool;
	const struct volume_piece_record *entry = &piece->volume->record.map[piece->number];
	const struct pool_options *options = &pool->options;
	/* Nobody has tried to reach them yet: each gets the time that otherwise the last one has.
	 */
	int64_t from_ns = env_now_ns(pool->env) + options->reattach_ns - options->grace_ns;

	for (unsigned i = 0; i < CLUSTER_COPIES_MAX; i++) {
		struct pool_node *node;
		struct copy *copy;

		if (entry->copies[i].key == 0)
			continue;
		node = node_of_id(pool, entry->copies[i].node);
		copy = node ? copy_place(piece, node, entry->copies[i].key, entry->piece_epoch)
			    : NULL;
		if (!copy)
			return -ENOMEM;
		copy->listed = true;
		copy->detached_ns = from_ns;
	}
	return prepare_pages(piece, entry);
}

/*
 * Claims the volume on a node that is connected. Those that will be are greeted then, for the
 * volume has its map by now; one that is being greeted may have passed the volume by.
 */
static int greet(struct volume *volume, struct pool_node *node)
{
	struct pool *pool = volume->pool;
	int err = 0;

	if (node->link == NODE_GREETING)
		err = node_wait_ready(node, env_now_ns(pool->env) + pool->options.request_ns);
	if (err != -ECANCELED && node->link == NODE_READY)
		err = node_greet(node, volume);
	return err == -ECANCELED || volume->phase != VOLUME_OPENING ? -ECANCELED : 0;
}

int volume_take_over(struct volume *volume)
{
	struct pool *pool = volume->pool;
	struct volume_record record;
	int err = claim(volume, &record);

	if (err)
		return err;
	volume->record = record;
	volume_set_leased(volume, true);
	if (record.replicas == 0 || record.replicas > POOL_REPLICAS_MAX ||
	    record.size_bytes % PAGE_BYTES != 0 || record.size_bytes == 0 || record.slab_bytes == 0)
		return -EPROTO;
	err = volume_make_pieces(volume);
	for (uint32_t i = 0; !err && i < record.pieces; i++)
		err = place_copies(&volume->pieces[i]);
	for (uint32_t i = 0; !err && i < pool->node_count; i++)
		err = greet(volume, pool->nodes[i]);
	return err;
}
