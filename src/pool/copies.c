/*
 * copies.c: slabs as they come, are attached again, and go (volume.h)
 *
 *   Between a question to a node and the fiber's going on, the connection may have ended and come
 *   back. Every connection has a number; an answer counts only on the connection it came by. A
 *   slab whose answer does not count is found and freed when the node is greeted.
 */
#include "pool/volume.h"

/* How many nodes are asked for one slab before the piece's fiber looks again. */
#define ALLOCATE_TRIES 8
#define SLAB_MAKING_NS (60 * NS_PER_S)

struct copy *copy_place(struct piece *piece, struct pool_node *node, uint64_t key, uint32_t epoch)
{
	struct volume *volume = piece->volume;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		struct copy *copy = &piece->copies[slot];

		if (copy->state != COPY_EMPTY)
			continue;
		*copy = (struct copy){
			.state = COPY_DETACHED,
			.node = node,
			.key = key,
			.epoch = epoch,
			.serial = ++volume->serial,
		};
		node->copies++;
		volume->on[node->index].copies++;
		volume->on[node->index].touched = true;
		return copy;
	}
	return NULL;
}

void copy_clear(struct piece *piece, unsigned slot)
{
	struct copy *copy = &piece->copies[slot];

	assert(copy->transfers == 0);
	if (copy->window)
		fabric_window_close(copy->window);
	copy->node->copies--;
	piece->volume->on[copy->node->index].copies--;
	*copy = (struct copy){0};
}

/* The message that names a copy's slab. */
static struct node_message message_of(const struct piece *piece, uint16_t kind, uint64_t key,
				      uint32_t epoch)
{
	const struct volume_record *record = &piece->volume->record;

	return (struct node_message){
		.head.kind = kind,
		.slab.slab = {.volume = record->id,
			      .piece = piece->number,
			      .piece_epoch = epoch,
			      .key = key},
		.slab.owner = piece->volume->pool->options.owner,
		.slab.owner_epoch = record->owner_epoch,
		.slab.slab_bytes = record->slab_bytes,
	};
}

static bool has_place(const struct piece *piece)
{
	return copies_in(piece, COPY_EMPTY) != 0;
}

/* Puts the slab that a node just gave into a place. */
static int take_in(struct piece *piece, struct pool_node *node, const struct node_message *answer)
{
	const struct node_slab_name *name = &answer->slab.slab;
	struct fabric_window *window;
	int err = fabric_import(node->peer, name->key, name->piece_epoch,
				piece->volume->record.slab_bytes, &window);

	if (err) {
		struct node_message give_back =
			message_of(piece, NODE_FREE, name->key, name->piece_epoch);

		node_tell(node, &give_back, NODE_FREE);
		return err;
	}

	struct copy *copy = copy_place(piece, node, name->key, name->piece_epoch);

	assert(copy); /* has_place() was asked, and only this fiber fills places */
	copy->state = COPY_FILLING;
	copy->window = window;
	copy->near = fabric_peer_capabilities(node->peer) & FABRIC_CAP_DIRECT;
	piece->fill_page = 0;
	operations_of_piece(piece);
	return 0;
}

/*
 * One node, one slab. -EAGAIN of a node means that it is making the slab: it is asked again. That
 * takes tens of milliseconds, and seconds on a machine that is busy; the node is well meanwhile,
 * so this wait is longer than that for an answer.
 */
static int allocate_on(struct piece *piece, struct pool_node *node)
{
	struct pool *pool = node->pool;
	int64_t give_up_ns = env_now_ns(pool->env) + SLAB_MAKING_NS;
	int err;

	node->allocating++;
	piece->volume->on[node->index].touched = true;
	for (;;) {
		struct node_message message =
			message_of(piece, NODE_ALLOCATE, 0, piece->piece_epoch + 1);

		err = node_ask(node, &message, env_now_ns(pool->env) + pool->options.request_ns);
		if (err == 0 && (message.slab.slab.volume != piece->volume->record.id ||
				 message.slab.slab.piece != piece->number))
			err = -EPROTO;
		if (err == 0 && !volume_is_open(piece->volume)) {
			node_tell(node, &message, NODE_FREE);
			err = -ECANCELED;
		} else if (err == 0) {
			err = take_in(piece, node, &message);
		}
		if (err != -EAGAIN || env_now_ns(pool->env) >= give_up_ns)
			break;
		err = fiber_sleep_until(pool->sched, env_now_ns(pool->env) + 10 * NS_PER_MS);
		if (err)
			break;
	}
	node->allocating--;
	if (err)
		node->refused_ns = env_now_ns(pool->env) + RETRY_NS;
	return err;
}

int copy_allocate(struct piece *piece)
{
	int err = piece->direct ? 0 : page_table_make(&piece->pages, piece->volume->piece_pages);

	if (!err && !has_place(piece))
		err = AFAR_ENOSPACE_FAR;
	for (int i = 0; i < ALLOCATE_TRIES && !err; i++) {
		struct pool_node *node;

		err = place_choose(piece, &node);
		if (err)
			break;
		err = allocate_on(piece, node);
		if (err == 0 || err == -ECANCELED || !volume_is_open(piece->volume))
			return err;
		err = 0; /* this node is not asked again for a while: the next one */
		if (i == ALLOCATE_TRIES - 1)
			err = AFAR_ENOSPACE_FAR;
	}
	return err;
}

int copy_attach(struct piece *piece, unsigned slot)
{
	struct copy *copy = &piece->copies[slot];
	struct pool_node *node = copy->node;
	struct pool *pool = node->pool;
	uint32_t serial = copy->serial;
	struct node_message message = message_of(piece, NODE_ATTACH, copy->key, copy->epoch);
	int err = node_ask(node, &message, env_now_ns(pool->env) + pool->options.request_ns);
	struct fabric_window *window;

	if (copy->serial != serial || copy->state != COPY_DETACHED || copy->gone)
		return 0; /* another world by now */
	if (err == 0)
		err = fabric_import(node->peer, copy->key, message.slab.slab.piece_epoch,
				    piece->volume->record.slab_bytes, &window);
	if (err == 0) {
		copy->state = COPY_LIVE;
		copy->epoch = message.slab.slab.piece_epoch;
		copy->window = window;
		copy->near = fabric_peer_capabilities(node->peer) & FABRIC_CAP_DIRECT;
		operations_of_piece(piece);
		return 0;
	}
	if (err == AFAR_EPEER_DOWN || err == -EAGAIN || err == -ECANCELED)
		return err;
	/* It had its time, or it was clear: the slab is not there any more. */
	int64_t lost_ns = copy->detached_ns + pool->options.reattach_ns;

	if (err != -ETIMEDOUT || env_now_ns(pool->env) >= lost_ns)
		copy->gone = true;
	return err == -ETIMEDOUT ? err : 0;
}

void copy_leave(struct piece *piece, unsigned slot)
{
	struct copy *copy = &piece->copies[slot];
	struct pool_node *node = copy->node;
	struct pool *pool = node->pool;
	struct node_message message = message_of(piece, NODE_FREE, copy->key, copy->epoch);

	/* F1 ends every transfer, if only when the peer goes down. */
	while (copy->transfers > 0)
		if (piece_wait(piece, FIBER_FOREVER) == -ECANCELED)
			return;
	if (copy->noticed)
		copy_answer_notice(copy, piece,
				   piece->pages.held != 0 && piece->volume->record.replicas < 3
					   ? NODE_EVICT_MOVED
					   : NODE_EVICT_DROPPABLE);
	copy_clear(piece, slot);
	operations_of_piece(piece);
	/* A node that is away is told when it is greeted. */
	if (node->link == NODE_GREETING)
		node_tell(node, &message, NODE_FREE);
	else if (node->link == NODE_READY)
		(void)node_ask(node, &message, env_now_ns(pool->env) + pool->options.request_ns);
}

void copy_give_back(struct piece *piece, unsigned slot)
{
	const struct copy *copy = &piece->copies[slot];
	struct node_message message = message_of(piece, NODE_FREE, copy->key, copy->epoch);

	node_tell(copy->node, &message, NODE_FREE);
}

static void detach(struct piece *piece, unsigned slot)
{
	struct copy *copy = &piece->copies[slot];
	enum copy_state state = copy->state;

	assert(copy->transfers == 0); /* F1 */
	copy->window = NULL;          /* the fabric closed it */
	copy->noticed = false;
	if (state == COPY_LIVE) {
		copy->state = COPY_DETACHED;
		copy->detached_ns = env_now_ns(piece->volume->pool->env);
	} else if (state == COPY_FILLING) {
		copy_clear(piece, slot);
	}
	piece_work(piece);
	operations_of_piece(piece);
}

void copies_detach(struct pool_node *node)
{
	if (node->copies == 0)
		return;
	list_each(link, &node->pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		for (uint64_t i = 0; volume->pieces && i < volume->record.pieces; i++)
			for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
				if (volume->pieces[i].copies[slot].node == node)
					detach(&volume->pieces[i], slot);
	}
}

void copy_refused(struct piece *piece, unsigned slot)
{
	struct copy *copy = &piece->copies[slot];
	struct volume *volume = piece->volume;

	if (copy->state == COPY_FILLING) {
		copy->state = COPY_LEAVING;
	} else if (copy->state == COPY_LIVE) {
		copy->state = COPY_DETACHED;
		copy->gone = true;
		copy->detached_ns = env_now_ns(volume->pool->env);
	} else {
		return;
	}
	/* Perhaps somebody took the volume over: the lease will tell. */
	volume->renew_ns = 0;
	pool_timer(volume->pool, 0);
	piece_work(piece);
}
