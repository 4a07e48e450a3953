/*
 * volume.c: a volume from its birth to its end (volume.h)
 *
 *               fiber done                          AFAR_ELEASE
 *     OPENING ─────────────► OPEN ─────────────────────────────────► BROKEN
 *        │  failed             │ volume_close(), volume_delete()        │
 *        └─────► BROKEN ───────┴───────────► ENDING ◄───────────────────┘
 *                                              │ transfers and fibers ended, slabs given back or
 *                                              ▼ the record given up, events taken
 *                                            reaped
 *
 *   The lease. What is done is told only while the lease holds by our clock, looked at after the
 *   last transfer ended: so it was stored before anybody could take the volume over and fence us.
 *   A lease that ran out is renewed first: if that succeeds nobody came between.
 */
#include "pool/volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int volume_protection_parse(const char *text, uint32_t *replicas)
{
	static const char prefix[] = "replicas=";

	if (strcmp(text, "none") == 0) {
		*replicas = 1;
		return 0;
	}
	if (strncmp(text, prefix, sizeof(prefix) - 1) != 0)
		return -EINVAL;
	text += sizeof(prefix) - 1;
	if (text[0] < '1' || text[0] > '0' + (int)POOL_REPLICAS_MAX || text[1] != '\0')
		return -EINVAL;
	*replicas = (uint32_t)(text[0] - '0');
	return 0;
}

/* ---- opening ---- */

int volume_make_pieces(struct volume *volume)
{
	struct volume_record *record = &volume->record;
	uint64_t piece_pages = record->slab_bytes / PAGE_BYTES;
	uint64_t pieces = (record->size_bytes + record->slab_bytes - 1) / record->slab_bytes;

	if (record->slab_bytes % PAGE_BYTES != 0 || piece_pages == 0 || piece_pages > UINT32_MAX ||
	    pieces > CLUSTER_PIECES_MAX || pieces != record->pieces)
		return -EINVAL;
	volume->pages = record->size_bytes / PAGE_BYTES;
	volume->piece_pages = (uint32_t)piece_pages;
	volume->piece_shift =
		(piece_pages & (piece_pages - 1)) == 0 ? (uint32_t)__builtin_ctzll(piece_pages) : 0;
	volume->pieces = calloc(pieces, sizeof(*volume->pieces));
	if (!volume->pieces)
		return -ENOMEM;
	for (uint32_t i = 0; i < record->pieces; i++) {
		struct piece *piece = &volume->pieces[i];

		piece->volume = volume;
		piece->number = i;
		piece->piece_epoch = record->map[i].piece_epoch;
		piece->epoch_salt = checksum_epoch_salt(piece->piece_epoch);
		list_init(&piece->link);
		list_init(&piece->publish_link);
		list_init(&piece->told);
	}
	return 0;
}

/* On a fiber: how large the slabs of this cluster are. */
static int learn_slab_bytes(struct volume *volume)
{
	struct pool *pool = volume->pool;
	int64_t end_ns = env_now_ns(pool->env) + pool->options.patience_ns;

	while (pool->slab_bytes == 0) {
		for (uint32_t i = 0; i < pool->node_count && pool->slab_bytes == 0; i++) {
			struct pool_node *node = pool->nodes[i];
			struct node_message message = {.head.kind = NODE_QUERY};

			if (!node->present || !node->member.alive)
				continue;

			int err = node_ask(node, &message,
					   env_now_ns(pool->env) + pool->options.request_ns);

			if (err == -ECANCELED || volume->phase != VOLUME_OPENING)
				return -ECANCELED;
			if (!err)
				pool->slab_bytes = message.status.slab_bytes;
		}
		if (pool->slab_bytes != 0)
			break;
		if (env_now_ns(pool->env) >= end_ns)
			return AFAR_EPEER_DOWN;
		if (fiber_sleep_until(pool->sched, env_now_ns(pool->env) + 50 * NS_PER_MS) ||
		    volume->phase != VOLUME_OPENING)
			return -ECANCELED;
	}
	return 0;
}

/* On a fiber: enters a new volume into the cluster. */
static int make_new(struct volume *volume)
{
	struct pool *pool = volume->pool;
	struct volume_record *record = &volume->record;
	int err = learn_slab_bytes(volume);

	if (err)
		return err;
	record->slab_bytes = pool->slab_bytes;

	uint64_t pieces = record->size_bytes / record->slab_bytes +
			  (record->size_bytes % record->slab_bytes != 0);

	if (pieces > CLUSTER_PIECES_MAX)
		return -EINVAL;
	record->pieces = (uint32_t)pieces;
	record->map = calloc(pieces, sizeof(*record->map));
	if (!record->map)
		return -ENOMEM;
	if (cluster_has_store(pool->cluster)) {
		volume->renewed_ns = env_now_ns(pool->env);
		err = volume_record_create(pool->cluster, record);
		if (err == 0)
			volume_set_leased(volume, true);
	}
	return err ? err : volume_make_pieces(volume);
}

/* READY or FAILED, as the phase says when it is told. */
static void tell(struct volume *volume)
{
	if (!volume->tell)
		volume->pool->tells++;
	volume->tell = true;
}

static void opened(struct volume *volume)
{
	struct pool *pool = volume->pool;

	volume->phase = VOLUME_OPEN;
	tell(volume);
	pool_timer(pool, 0);
	operations_of_volume(volume);
	for (uint32_t i = 0; volume->takeover && i < volume->record.pieces; i++)
		if (piece_is_mapped(&volume->pieces[i]))
			piece_work(&volume->pieces[i]);
}

static void open_fiber(void *arg)
{
	struct volume *volume = arg;
	int err = volume->takeover ? volume_take_over(volume) : make_new(volume);

	if (volume->phase == VOLUME_OPENING) {
		if (err)
			volume_break(volume, err);
		else
			opened(volume);
	}
	volume->workers--;
}

static int check_options(const struct pool *pool, const struct volume_options *options)
{
	if (memchr(options->name, '\0', sizeof(options->name)) == NULL ||
	    strchr(options->name, '/'))
		return -EINVAL;
	if (options->takeover)
		return !cluster_has_store(pool->cluster) ? -ENOTSUP
		       : options->name[0] == '\0'        ? -EINVAL
							 : 0;
	if (options->size_bytes == 0 || options->size_bytes % PAGE_BYTES != 0 ||
	    options->replicas == 0 || options->replicas > POOL_REPLICAS_MAX)
		return -EINVAL;
	return 0;
}

static void free_volume(struct volume *volume)
{
	operations_free(volume);
	free(volume->on);
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++)
		page_table_free(&volume->pieces[i].pages);
	free(volume->pieces);
	volume_record_release(&volume->record);
	free(volume);
}

static struct volume *make_volume(struct pool *pool, const struct volume_options *options)
{
	struct volume *volume = calloc(1, sizeof(*volume));

	if (!volume)
		return NULL;
	volume->pool = pool;
	volume->takeover = options->takeover;
	list_init(&volume->link);
	list_init(&volume->publishing);
	volume->record = (struct volume_record){
		.id = env_random(pool->env) | 1, /* 0 means no volume */
		.size_bytes = options->size_bytes,
		.owner = pool->options.owner,
		.owner_nonce = env_random(pool->env) | 1,
		.owner_epoch = 1,
		.replicas = options->replicas,
		.lease_ns = CLUSTER_LEASE_NS_DEFAULT,
	};
	if (options->name[0] != '\0')
		memcpy(volume->record.name, options->name, sizeof(volume->record.name));
	else
		snprintf(volume->record.name, sizeof(volume->record.name), "volume-%016llx",
			 (unsigned long long)volume->record.id);
	volume->on = calloc(POOL_NODES_MAX, sizeof(*volume->on));
	if (operations_make(volume) != 0 || !volume->on) {
		free_volume(volume);
		return NULL;
	}
	return volume;
}

int volume_open(struct pool *pool, const struct volume_options *options, struct volume **result)
{
	uint32_t slot = 0;
	int err = check_options(pool, options);

	if (err)
		return err;
	while (slot < POOL_VOLUMES_MAX && pool->volumes[slot])
		slot++;
	if (slot == POOL_VOLUMES_MAX)
		return -ENOMEM;

	struct volume *volume = make_volume(pool, options);

	if (!volume)
		return -ENOMEM;
	if (sched_spawn(pool->sched, open_fiber, volume, "open") != 0) {
		free_volume(volume);
		return -ENOMEM;
	}
	volume->workers++;
	volume->slot = slot;
	pool->volumes[slot] = volume;
	list_push_last(&pool->volume_list, &volume->link);
	*result = volume;
	return 0;
}

/* ---- the lease ---- */

void volume_set_leased(struct volume *volume, bool leased)
{
	volume->pool->leased += leased;
	volume->pool->leased -= volume->leased;
	volume->leased = leased;
}

void volume_break(struct volume *volume, int status)
{
	struct pool *pool = volume->pool;

	if (volume->phase != VOLUME_OPENING && volume->phase != VOLUME_OPEN)
		return;
	log_error(pool->log, "volume_failed", "volume=%s error=\"%s\"", volume->record.name,
		  afar_strerror(status));
	volume->phase = VOLUME_BROKEN;
	volume->status = status;
	tell(volume);
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++) {
		list_remove(&volume->pieces[i].link);
		fiber_line_wake_all(&volume->pieces[i].line);
	}
	fiber_line_wake_all(&volume->publish_line);
	operations_of_volume(volume);
	pool_timer(pool, 0);
}

void volume_renew(struct volume *volume, int64_t now_ns)
{
	struct pool *pool = volume->pool;
	int64_t lease_ns = volume->record.lease_ns;

	if (!volume_renews(volume) || now_ns < volume->renew_ns)
		return;

	int err = volume_record_renew(pool->cluster, &volume->record);

	if (err == 0) {
		volume->renewed_ns = now_ns;
		volume->renew_ns = now_ns + lease_ns / 4;
	} else if (err == AFAR_ELEASE) {
		counter_add_own(&pool->count.lease_losses, 1);
		volume_break(volume, AFAR_ELEASE);
	} else {
		log_error(pool->log, "lease_not_renewed", "volume=%s error=\"%s\"",
			  volume->record.name, afar_strerror(err));
		volume->renew_ns = now_ns + lease_ns / 16;
		/* Nobody waits for ever, not even for the store. */
		if (now_ns - volume->renewed_ns > lease_ns + pool->options.patience_ns)
			volume_break(volume, AFAR_ELEASE);
	}
}

void volume_excuse(struct volume *volume, int64_t late_ns)
{
	int64_t now_ns = volume->pool->now_ns;

	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++) {
		for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
			struct copy *copy = &volume->pieces[i].copies[slot];

			if (copy->state == COPY_DETACHED)
				copy->detached_ns = min_i64(now_ns, copy->detached_ns + late_ns);
		}
	}
	list_each(link, &volume->waiting)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (op->deadline_ns != 0)
			op->deadline_ns += late_ns;
	}
}

bool volume_may_tell(struct volume *volume)
{
	struct pool *pool = volume->pool;
	int64_t now_ns = pool->now_ns;

	if (!volume->leased || volume->phase != VOLUME_OPEN)
		return true;
	if (now_ns - volume->renewed_ns < volume->record.lease_ns)
		return true;
	volume_renew(volume, now_ns);
	return volume->phase != VOLUME_OPEN ||
	       now_ns - volume->renewed_ns < volume->record.lease_ns;
}

/* ---- ending ---- */

/* All copies leave the map, whatever becomes of their slabs. */
static void clear_copies(struct volume *volume)
{
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++)
		for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
			if (volume->pieces[i].copies[slot].state != COPY_EMPTY)
				copy_clear(&volume->pieces[i], slot);
}

/*
 * On a fiber: gives every slab back. No copy is in the map any more, so greeting a node frees all
 * that it has of the volume, also what we never heard of. Nodes that are away do it by themselves:
 * the slabs are orphans.
 */
static void free_slabs(struct volume *volume)
{
	struct pool *pool = volume->pool;

	for (uint32_t i = 0; i < pool->node_count; i++)
		if (volume->on[i].touched && pool->nodes[i]->link == NODE_READY)
			(void)node_greet(pool->nodes[i], volume);
}

/* The same while the pool closes: nobody waits for answers, and no operation is left to come. */
static void free_slabs_now(struct volume *volume)
{
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++)
		for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
			if (volume->pieces[i].copies[slot].state != COPY_EMPTY)
				copy_give_back(&volume->pieces[i], slot);
}

/* Slabs that the map does not name: whoever takes the volume over would not know of them. */
static void free_unlisted(struct volume *volume)
{
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++) {
		struct piece *piece = &volume->pieces[i];

		for (unsigned slot = 0; slot < PIECE_COPIES_MAX && !piece->in_doubt; slot++)
			if (piece->copies[slot].state != COPY_EMPTY && !piece->copies[slot].listed)
				copy_give_back(piece, slot);
	}
}

/* Everything that the cluster and the nodes should know of a volume's end. */
static void let_go(struct volume *volume, bool now)
{
	struct cluster *cluster = volume->pool->cluster;
	bool ours = volume->status == -ECANCELED; /* not BROKEN before */

	if (volume->keep) {
		if (ours)
			free_unlisted(volume);
		if (volume->leased && ours &&
		    volume_record_give_up(cluster, &volume->record) == AFAR_ELEASE)
			volume->status = AFAR_ELEASE;
		if (!now)
			clear_copies(volume);
		return;
	}
	/*
	 * The record first: a map that names slabs which are free would mislead. It has no owner
	 * afterwards, but the nodes know us.
	 */
	if (volume->leased && ours)
		(void)volume_record_remove(cluster, &volume->record);
	if (now && ours) {
		free_slabs_now(volume);
	} else if (!now) {
		clear_copies(volume);
		if (ours)
			free_slabs(volume);
	}
}

static void end_fiber(void *arg)
{
	struct volume *volume = arg;
	struct pool *pool = volume->pool;

	while (volume->in_flight > 0 || volume->workers > 1)
		if (fiber_sleep_until(pool->sched, env_now_ns(pool->env) + NS_PER_MS) != 0)
			break;
	if (!sched_is_cancelled(pool->sched)) {
		let_go(volume, false);
		volume->ended = true;
	}
	volume->workers--;
	pool_timer(pool, 0);
}

static void end(struct volume *volume, bool keep)
{
	struct pool *pool = volume->pool;

	assert(volume->phase != VOLUME_ENDING);
	if (volume->phase != VOLUME_BROKEN)
		volume->status = -ECANCELED;
	volume->phase = VOLUME_ENDING;
	volume->keep = keep;
	pool->tells -= volume->tell;
	volume->tell = false;
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++) {
		list_remove(&volume->pieces[i].link);
		list_remove(&volume->pieces[i].told);
		fiber_line_wake_all(&volume->pieces[i].line);
	}
	fiber_line_wake_all(&volume->publish_line);
	operations_of_volume(volume);
	operations_run(pool);
	pool_timer(pool, 0);
}

void volume_delete(struct volume *volume)
{
	end(volume, false);
}

void volume_close(struct volume *volume)
{
	end(volume, cluster_has_store(volume->pool->cluster));
}

void volume_reap(struct volume *volume)
{
	struct pool *pool = volume->pool;

	if (volume->phase != VOLUME_ENDING)
		return;
	if (!volume->ending) {
		/* No room for a fiber: the next tick tries again. */
		if (sched_spawn(pool->sched, end_fiber, volume, "end") != 0)
			return;
		volume->workers++;
		volume->ending = true;
	}
	if (volume->ended && volume->workers == 0 && volume->outstanding == 0)
		volume_free(volume);
}

void volume_free(struct volume *volume)
{
	volume->pool->volumes[volume->slot] = NULL;
	list_remove(&volume->link);
	free_volume(volume);
}

void volume_end_now(struct volume *volume)
{
	if (!volume->ended)
		let_go(volume, true);
	volume->ended = true;
}

/* ---- the caller's view ---- */

const char *volume_name(const struct volume *volume)
{
	return volume->record.name;
}

uint64_t volume_id(const struct volume *volume)
{
	return volume->record.id;
}

uint64_t volume_pages(const struct volume *volume)
{
	return volume->record.size_bytes / PAGE_BYTES;
}

uint64_t volume_piece_pages(const struct volume *volume)
{
	return volume->piece_pages;
}

void volume_set_context(struct volume *volume, void *context)
{
	volume->context = context;
}

void *volume_context(const struct volume *volume)
{
	return volume->context;
}

void volume_stats(const struct volume *volume, struct volume_stats *stats)
{
	*stats = volume->stats;
	stats->pages_held = 0;
	for (uint32_t i = 0; volume->pieces && i < volume->record.pieces; i++)
		stats->pages_held += volume->pieces[i].pages.held;
}

/* While the volume opens there are no pieces; what is discarded is only what waits. */
static void discard_range(struct volume *volume, struct piece *piece, uint64_t page, uint64_t end)
{
	for (; page < end; page++)
		operation_discard(volume, piece, page);
	if (piece && piece->active == 0 && piece->pages.held == 0 && !piece->direct)
		piece_work(piece);
}

void volume_discard(struct volume *volume, uint64_t page, uint64_t n)
{
	uint64_t pages = volume_pages(volume);
	uint64_t end = n < pages && page < pages - n ? page + n : pages;

	if (volume->phase == VOLUME_OPENING) {
		operations_discard_waiting(volume, page, end);
		return;
	}
	while (volume_is_open(volume) && page < end) {
		uint64_t number = page / volume->piece_pages;
		struct piece *piece = &volume->pieces[number];
		uint64_t piece_end = min_u64(end, (number + 1) * volume->piece_pages);

		if (piece->pages.states || piece->active > 0)
			discard_range(volume, piece, page, piece_end);
		page = piece_end;
	}
}

/* ---- direct access ---- */

int volume_piece_open(struct volume *volume, uint64_t number)
{
	if (volume->record.replicas > 1)
		return -ENOTSUP;
	if (!volume_is_open(volume))
		return volume->phase == VOLUME_OPENING ? -EAGAIN : volume->status;
	if (number >= volume->record.pieces)
		return -ERANGE;

	struct piece *piece = &volume->pieces[number];

	/* Its pages are known one by one, or written past us: never both. */
	if (!piece->direct && (piece->pages.states || piece->active > 0))
		return -EBUSY;
	piece->direct = true;
	if (piece_is_mapped(piece))
		piece_tell(piece, 0);
	else
		piece_work(piece);
	return 0;
}

int volume_piece_direct(struct volume *volume, uint64_t number, bool hold,
			struct volume_piece_direct *direct)
{
	if (!volume_is_open(volume))
		return volume->phase == VOLUME_OPENING ? -EAGAIN : volume->status;
	if (number >= volume->record.pieces)
		return -ERANGE;

	struct piece *piece = &volume->pieces[number];
	unsigned live = copies_in(piece, COPY_LIVE);

	if (piece->direct_lost)
		return AFAR_ELOST;
	if (volume->record.replicas > 1)
		return -ENOTSUP;
	if (!piece->direct || live == 0)
		return -EAGAIN;

	const struct copy *copy = &piece->copies[__builtin_ctz(live)];
	int memfd = copy->window ? fabric_window_memfd(copy->window) : -1;

	if (!copy->window)
		return -EAGAIN;
	if (memfd < 0)
		return -ENOTSUP;
	piece->held |= hold;
	*direct = (struct volume_piece_direct){
		.memfd = memfd,
		.size_bytes = volume->record.slab_bytes,
		.piece_epoch = piece->piece_epoch,
	};
	return 0;
}

void volume_piece_free(struct volume *volume, uint64_t number)
{
	if (!volume->pieces || number >= volume->record.pieces)
		return;

	struct piece *piece = &volume->pieces[number];

	piece->direct = false;
	piece->direct_lost = false;
	piece->held = false;
	piece_work(piece);
}
