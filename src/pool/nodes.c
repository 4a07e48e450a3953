/*
 * nodes.c: connections to nodes, and requests that fibers wait for; nodes.h tells the story
 */
#include "pool/nodes.h"

#include "pool/volume.h"

#include <stdlib.h>
#include <string.h>

#define BACKOFF_NS_MIN  (10 * NS_PER_MS)
#define BACKOFF_NS_MAX  NS_PER_S
#define LIST_ROUNDS_MAX 2048u /* of NODE_KEYS_MAX slabs each: more than a volume has */

/* ---- who there is ---- */

struct pool_node *node_of_id(struct pool *pool, uint64_t id)
{
	for (uint32_t i = 0; i < pool->node_count; i++)
		if (pool->nodes[i]->member.id == id)
			return pool->nodes[i];

	struct pool_node *node =
		pool->node_count < POOL_NODES_MAX ? calloc(1, sizeof(*node)) : NULL;

	if (!node)
		return NULL;
	node->pool = pool;
	node->member.id = id;
	node->index = pool->node_count;
	node->backoff_ns = BACKOFF_NS_MIN;
	pool->nodes[pool->node_count++] = node;
	return node;
}

static bool is_same_member(const struct cluster_member *a, const struct cluster_member *b)
{
	if (a->id != b->id || a->alive != b->alive || a->addresses != b->addresses)
		return false;
	for (uint32_t i = 0; i < a->addresses && i < CLUSTER_ADDRESSES_MAX; i++)
		if (strcmp(a->address[i], b->address[i]) != 0)
			return false;
	return strcmp(a->boot_id, b->boot_id) == 0;
}

void nodes_refresh(struct pool *pool)
{
	unsigned count = cluster_members(pool->cluster, pool->members, CLUSTER_MEMBERS_MAX);

	for (uint32_t i = 0; i < pool->node_count; i++)
		pool->nodes[i]->present = false;
	for (unsigned i = 0; i < count && i < CLUSTER_MEMBERS_MAX; i++) {
		struct pool_node *node = node_of_id(pool, pool->members[i].id);

		if (!node)
			break;
		node->present = true;
		if (!is_same_member(&node->member, &pool->members[i])) {
			/* Other addresses, or alive again: no reason to wait any longer. */
			node->member = pool->members[i];
			node->retry_ns = 0;
			pieces_of_node(node);
		}
	}
}

void nodes_free(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->node_count; i++)
		free(pool->nodes[i]);
	pool->node_count = 0;
}

void nodes_disconnect(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->node_count; i++)
		if (pool->nodes[i]->peer)
			fabric_disconnect(pool->nodes[i]->peer);
}

bool nodes_connected(const struct pool *pool)
{
	for (uint32_t i = 0; i < pool->node_count; i++)
		if (pool->nodes[i]->peer)
			return true;
	return false;
}

void node_forget_peer(struct pool *pool, const struct fabric_peer *peer)
{
	for (uint32_t i = 0; i < pool->node_count; i++)
		if (pool->nodes[i]->peer == peer)
			pool->nodes[i]->peer = NULL;
}

bool node_may_answer(const struct pool_node *node)
{
	if (node->link == NODE_READY || node->link == NODE_GREETING)
		return true;
	return node->failures == 0 && node->present && node->member.alive;
}

/* ---- connecting ---- */

static bool is_shm(const char *address)
{
	return strncmp(address, "shm:", 4) == 0;
}

/* A path means nothing on another machine. Where no boot id is known, the list was made for us. */
static bool is_on_another_machine(const struct pool_node *node)
{
	return node->member.boot_id[0] != '\0' && node->pool->boot_id[0] != '\0' &&
	       strcmp(node->member.boot_id, node->pool->boot_id) != 0;
}

/* The nth address to try: those of shm first, or not at all. NULL: there are no more. */
static const char *nth_address(const struct pool_node *node, uint32_t n)
{
	for (int shm = is_on_another_machine(node) ? 0 : 1; shm >= 0; shm--)
		for (uint32_t i = 0; i < node->member.addresses && i < CLUSTER_ADDRESSES_MAX; i++)
			if (is_shm(node->member.address[i]) == (shm == 1) && n-- == 0)
				return node->member.address[i];
	return NULL;
}

/* No address answered: whoever waits hears of it, and the next attempt has to wait. */
static void connect_failed(struct pool_node *node)
{
	node->link = NODE_AWAY;
	node->peer = NULL;
	node->wanted = false;
	node->failures++;
	node->retry_ns = env_now_ns(node->pool->env) + node->backoff_ns;
	node->backoff_ns = min_i64(2 * node->backoff_ns, BACKOFF_NS_MAX);
	pool_timer(node->pool, node->retry_ns);
	fiber_line_wake_all(&node->line);
	pieces_of_node(node);
}

/* Begins with the next address that fabric_connect() does not refuse at once. */
static void connect_next(struct pool_node *node)
{
	const char *address;

	node->link = NODE_CONNECTING;
	while ((address = nth_address(node, node->attempt))) {
		node->attempt++;
		if (fabric_connect(node->pool->fabric, address, &node->peer) == 0) {
			fabric_peer_set_context(node->peer, node);
			node->pool->flush = true;
			return;
		}
	}
	connect_failed(node);
}

static void connect_node(struct pool_node *node)
{
	node->attempt = 0;
	connect_next(node);
}

static void ready(struct pool_node *node)
{
	node->link = NODE_READY;
	node->was_ready = true;
	node->wanted = false;
	node->failures = 0;
	node->backoff_ns = BACKOFF_NS_MIN;
	fiber_line_wake_all(&node->line);
	pieces_of_node(node);
}

/* Whether a volume has a map, so that what a node holds of it can be told from what it should. */
static bool has_map(const struct volume *volume)
{
	return volume->pieces && (volume->phase == VOLUME_OPENING || volume_is_open(volume));
}

/* Volumes whose slabs may lie there unknown to us, or known to an older owner. */
static bool needs_greeting(const struct pool_node *node)
{
	list_each(link, &node->pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		if (has_map(volume) && (node->was_ready || volume->record.owner_epoch > 1))
			return true;
	}
	return false;
}

static void greet_fiber(void *arg)
{
	struct pool_node *node = arg;
	struct pool *pool = node->pool;
	uint32_t connection = node->connection;

	for (unsigned i = 0; i < POOL_VOLUMES_MAX; i++) {
		struct volume *volume = pool->volumes[i];

		if (!volume || !has_map(volume))
			continue;

		int err = node_greet(node, volume);

		if (err == -ECANCELED || node->connection != connection ||
		    node->link != NODE_GREETING)
			return; /* it went down; the next connection is greeted anew */
		if (err == -ETIMEDOUT) {
			fabric_disconnect(node->peer);
			return;
		}
	}
	ready(node);
}

static void up(struct pool_node *node)
{
	struct pool *pool = node->pool;

	node->connection++;
	if (cluster_has_store(pool->cluster) && fabric_peer_id(node->peer) != node->member.id) {
		/* Somebody else has the address by now. Its DOWN leads to the next one. */
		fabric_disconnect(node->peer);
		return;
	}
	if (!needs_greeting(node)) {
		ready(node);
		return;
	}
	node->link = NODE_GREETING;
	if (sched_spawn(pool->sched, greet_fiber, node, "greet") != 0)
		fabric_disconnect(node->peer);
}

static void down(struct pool_node *node)
{
	bool was_up = node->link == NODE_READY || node->link == NODE_GREETING;

	for (unsigned i = 0; i < NODE_REQUESTS_MAX; i++) {
		struct node_request *request = &node->requests[i];

		if (request->number != 0 && !request->done) {
			request->message->head.status = AFAR_EPEER_DOWN;
			request->done = true;
			fiber_wake(request->fiber);
		}
	}
	node->peer = NULL;
	if (!was_up) {
		connect_next(node);
		return;
	}
	node->link = NODE_AWAY;
	node->connection++;
	/* At once, then ever later: a connection that ends as soon as it is made must not spin. */
	node->retry_ns = env_now_ns(node->pool->env) + node->backoff_ns;
	pool_timer(node->pool, node->retry_ns);
	copies_detach(node);
	fiber_line_wake_all(&node->line);
}

void nodes_tick(struct pool *pool, int64_t now_ns, int64_t *timer_ns)
{
	for (uint32_t i = 0; i < pool->node_count; i++) {
		struct pool_node *node = pool->nodes[i];

		if (node->link != NODE_AWAY || (node->copies == 0 && !node->wanted))
			continue;
		if (now_ns >= node->retry_ns)
			connect_node(node);
		if (node->link == NODE_AWAY)
			*timer_ns = min_i64(*timer_ns, node->retry_ns);
	}
}

int node_wait_ready(struct pool_node *node, int64_t deadline_ns)
{
	struct pool *pool = node->pool;
	uint32_t failures = node->failures;

	if (node->link == NODE_AWAY && env_now_ns(pool->env) >= node->retry_ns)
		connect_node(node);
	for (;;) {
		if (node->link == NODE_READY)
			return 0;
		if (node->failures != failures)
			return AFAR_EPEER_DOWN;
		node->wanted = true;
		pool_timer(pool, node->retry_ns);

		int err = fiber_line_wait(&node->line, pool->sched, deadline_ns);

		if (err)
			return err;
	}
}

/* ---- asking ---- */

static void fill_head(struct node_message *message, uint16_t kind, uint32_t request)
{
	message->head = (struct node_message_head){
		.magic = NODE_PROTOCOL_MAGIC,
		.version = NODE_PROTOCOL_VERSION,
		.kind = kind,
		.request = request,
	};
}

int node_tell(struct pool_node *node, struct node_message *message, uint16_t kind)
{
	if (!node->peer || node->link == NODE_CONNECTING)
		return AFAR_EPEER_DOWN;
	fill_head(message, kind, message->head.request);
	node->pool->flush = true;
	return fabric_send(node->peer, message, node_message_bytes(kind));
}

/* Waits for the answer to what was sent, or for the end of the connection. */
static int wait_for_answer(struct pool_node *node, struct node_request *request,
			   int64_t deadline_ns)
{
	int err = 0;

	while (!request->done && (err = fiber_wait_until(node->pool->sched, deadline_ns)) == 0)
		continue;
	if (request->done)
		err = request->message->head.status;
	*request = (struct node_request){0};
	return err;
}

/* Waits for a place among the node's requests; NULL and *err if there is none in time. */
static struct node_request *find_place(struct pool_node *node, uint32_t connection,
				       int64_t deadline_ns, int *err)
{
	struct pool *pool = node->pool;

	for (*err = 0; !*err;
	     *err = fiber_sleep_until(pool->sched, env_now_ns(pool->env) + NS_PER_MS)) {
		for (unsigned i = 0; i < NODE_REQUESTS_MAX; i++)
			if (node->requests[i].number == 0)
				return &node->requests[i];
		if (node->connection != connection) {
			*err = AFAR_EPEER_DOWN;
			return NULL;
		}
		if (env_now_ns(pool->env) >= deadline_ns) {
			*err = -ETIMEDOUT;
			return NULL;
		}
	}
	return NULL;
}

/* Sends it when the fabric takes it. */
static int send_request(struct pool_node *node, struct node_message *message, uint16_t kind,
			uint32_t connection, int64_t deadline_ns)
{
	struct pool *pool = node->pool;
	int err;

	while ((err = node_tell(node, message, kind)) == -EAGAIN) {
		err = fiber_sleep_until(pool->sched, env_now_ns(pool->env) + NS_PER_MS);
		if (!err && env_now_ns(pool->env) >= deadline_ns)
			err = -ETIMEDOUT;
		if (!err && node->connection != connection)
			err = AFAR_EPEER_DOWN;
		if (err)
			break;
	}
	return err;
}

/* As node_ask(), on a connection that is up. */
static int ask_connected(struct pool_node *node, struct node_message *message, int64_t deadline_ns)
{
	uint16_t kind = message->head.kind;
	uint32_t connection = node->connection;
	int err;
	struct node_request *request = find_place(node, connection, deadline_ns, &err);

	if (!request)
		return err;
	if (++node->next_number == 0)
		node->next_number = 1;
	*request = (struct node_request){
		.number = node->next_number,
		.answer_kind = (uint16_t)(kind + 1),
		.fiber = fiber_self(node->pool->sched),
		.message = message,
	};
	message->head.request = request->number;
	err = send_request(node, message, kind, connection, deadline_ns);
	if (err) {
		*request = (struct node_request){0};
		return err;
	}
	return wait_for_answer(node, request, deadline_ns);
}

int node_ask(struct pool_node *node, struct node_message *message, int64_t deadline_ns)
{
	int err = node_wait_ready(node, deadline_ns);
	uint32_t connection = node->connection;

	if (!err)
		err = ask_connected(node, message, deadline_ns);
	/* An answer of a connection that is gone by now answers nothing. */
	if (!err && node->connection != connection)
		err = AFAR_EPEER_DOWN;
	return err;
}

/* ---- greeting ---- */

/* The copy that our map has there under this key. */
static struct copy *copy_named(struct volume *volume, const struct pool_node *node,
			       const struct node_slab_name *name)
{
	if (!volume->pieces || name->volume != volume->record.id ||
	    name->piece >= volume->record.pieces)
		return NULL;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		struct copy *copy = &volume->pieces[name->piece].copies[slot];

		if (copy->node == node && copy->key == name->key)
			return copy;
	}
	return NULL;
}

/* What the node holds of the volume is ours to know, or to give back. */
static void look_at(struct pool_node *node, struct volume *volume,
		    const struct node_slab_name *name)
{
	struct copy *copy = copy_named(volume, node, name);
	struct node_message message = {
		.slab = {.slab = *name,
			 .owner = node->pool->options.owner,
			 .owner_epoch = volume->record.owner_epoch,
			 .slab_bytes = volume->record.slab_bytes},
	};

	if (copy && copy->state == COPY_DETACHED)
		copy->epoch = name->piece_epoch; /* the map tells the piece's latest only */
	if (name->volume == volume->record.id && (!copy || copy->state == COPY_LEAVING))
		node_tell(node, &message, NODE_FREE);
}

static int tidy(struct pool_node *node, struct volume *volume)
{
	struct pool *pool = node->pool;
	uint32_t cursor = 0;

	for (unsigned round = 0; round < LIST_ROUNDS_MAX; round++) {
		struct node_message message = {
			.head.kind = NODE_LIST,
			.list = {.volume = volume->record.id, .cursor = cursor},
		};
		int err = ask_connected(node, &message,
					env_now_ns(pool->env) + pool->options.request_ns);

		if (err || volume->phase == VOLUME_BROKEN)
			return err;
		for (uint32_t i = 0; i < message.list.count && i < NODE_KEYS_MAX; i++)
			look_at(node, volume, &message.list.slabs[i]);
		cursor = message.list.cursor;
		if (cursor == 0)
			return 0;
	}
	return -EPROTO;
}

int node_greet(struct pool_node *node, struct volume *volume)
{
	struct pool *pool = node->pool;
	int err = 0;

	volume->workers++;
	if (volume->record.owner_epoch > 1) {
		struct node_message message = {
			.head.kind = NODE_CLAIM,
			.claim = {.volume = volume->record.id,
				  .owner = pool->options.owner,
				  .owner_epoch = volume->record.owner_epoch},
		};

		err = ask_connected(node, &message,
				    env_now_ns(pool->env) + pool->options.request_ns);
	}
	if (!err)
		err = tidy(node, volume);
	volume->workers--;
	if (err && err != AFAR_EPEER_DOWN && err != -ECANCELED)
		log_warn(pool->log, "greeting_failed", "volume=%s node=%llx error=\"%s\"",
			 volume->record.name, (unsigned long long)node->member.id,
			 afar_strerror(err));
	return err;
}

/* ---- what arrives ---- */

/*
 * An answer that nobody waits for any more. A slab goes back, unless the question was asked again
 * in the meantime: the node answers both with the same slab.
 */
static void give_back(struct pool_node *node, const struct node_message *message)
{
	const struct node_slab_name *name = &message->slab.slab;
	struct node_message free_message = *message;

	if (message->head.kind != NODE_ALLOCATED || message->head.status != 0)
		return;
	for (unsigned i = 0; i < NODE_REQUESTS_MAX; i++) {
		const struct node_request *request = &node->requests[i];

		if (request->number != 0 && request->answer_kind == NODE_ALLOCATED &&
		    request->message->slab.slab.volume == name->volume &&
		    request->message->slab.slab.piece == name->piece)
			return;
	}
	list_each(link,
		  &node->pool->volume_list) if (copy_named(container_of(link, struct volume, link),
							   node, name)) return;
	node_tell(node, &free_message, NODE_FREE);
}

static void answered(struct pool_node *node, const struct node_message *message)
{
	for (unsigned i = 0; i < NODE_REQUESTS_MAX; i++) {
		struct node_request *request = &node->requests[i];

		if (request->number == 0 || request->number != message->head.request ||
		    request->answer_kind != message->head.kind || request->done)
			continue;
		*request->message = *message;
		/* An error is negative; what is not one is the peer's joke. */
		if (message->head.status > 0)
			request->message->head.status = -EPROTO;
		request->done = true;
		fiber_wake(request->fiber);
		return;
	}
	give_back(node, message);
}

static void received(struct pool_node *node, const struct fabric_event *event)
{
	struct pool *pool = node->pool;
	struct node_message message;
	int err = node_message_decode(event->message, event->len_bytes, &message);

	if (!err) {
		switch (message.head.kind) {
		case NODE_STATUS:
		case NODE_ALLOCATED:
		case NODE_ATTACHED:
		case NODE_FREED:
		case NODE_CLAIMED:
		case NODE_LISTED:
			answered(node, &message);
			return;
		case NODE_ACTIVITY_ASK:
			copy_tell_activity(node, &message);
			return;
		case NODE_EVICT_NOTICE:
			copy_take_notice(node, &message);
			return;
		default:
			err = -EPROTO;
		}
	}
	counter_add_own(&pool->count.bad_messages, 1);
	if (log_limit_pass(&pool->bad_messages_limit, env_now_ns(pool->env), NS_PER_S))
		log_warn(pool->log, "bad_message", "node=%llx error=\"%s\"",
			 (unsigned long long)node->member.id, afar_strerror(err));
	fabric_disconnect(event->peer);
}

void nodes_event(struct pool *pool, const struct fabric_event *event)
{
	struct pool_node *node = fabric_peer_context(event->peer);

	if (!node || node->peer != event->peer) {
		/* Nobody has a reason to connect to a pool. */
		if (event->kind == FABRIC_UP)
			fabric_disconnect(event->peer);
		return;
	}
	switch (event->kind) {
	case FABRIC_UP:
		up(node);
		break;
	case FABRIC_MESSAGE:
		received(node, event);
		break;
	case FABRIC_DOWN:
		down(node);
		break;
	case FABRIC_DONE:
		break;
	}
}
