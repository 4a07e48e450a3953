/*
 * requests.c: one message in, one answer out
 *
 *   What a peer says is checked three times: its form (protocol.c), whether the peer speaks for
 *   the owner (owners.c), whether the slab that it names is the one it thinks it is (here). A
 *   message of bad form ends the connection; a well-formed one that asks for what it may not have
 *   is answered with the reason.
 *
 *   A request for memory that is still being made waits in a bounded line, in order, and is
 *   tried again; whoever finds the line full, or waits for too long, is told -EAGAIN.
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/fabric.h"
#include "node/slabs.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int request_send(struct node *node, struct fabric_peer *peer, struct node_message *message,
		 enum node_message_kind kind)
{
	message->head.magic = NODE_PROTOCOL_MAGIC;
	message->head.version = NODE_PROTOCOL_VERSION;
	message->head.kind = (uint16_t)kind;
	return fabric_send(peer, message, node_message_bytes(message->head.kind));
}

/*
 * Answers in the message of the request. The fabric holds hundreds of answers for a peer; one
 * that asks on without taking them is cut off, for its answers must not be lost one by one.
 */
static void answer(struct node *node, struct fabric_peer *peer, struct node_message *message,
		   enum node_message_kind kind, int status)
{
	message->head.status = status;
	/* Of a peer that is gone FABRIC_DOWN will tell. */
	if (request_send(node, peer, message, kind) == -EAGAIN)
		node_condemn(node, peer, "takes no answers");
}

/* ---- slabs ---- */

static void name_of(const struct slab *slab, struct node_slab_name *name)
{
	*name = (struct node_slab_name){
		.volume = slab->volume->id,
		.piece = slab->piece,
		.piece_epoch = slab->piece_epoch,
		.key = slab->key,
	};
}

/* The slab that this volume has for the piece under this epoch: an ALLOCATE that came again. */
static struct slab *slab_of_name(const struct node_volume *volume,
				 const struct node_slab_name *name)
{
	list_each(link, &volume->slabs)
	{
		struct slab *slab = container_of(link, struct slab, link);

		if (slab->piece == name->piece && slab->piece_epoch == name->piece_epoch)
			return slab;
	}
	return NULL;
}

static bool exceeds_quota(const struct node *node, uint64_t owner)
{
	uint64_t quota_bytes = node->options.quota_bytes;

	return quota_bytes != 0 &&
	       volume_owner_bytes(node, owner) + node->options.slab_bytes > quota_bytes;
}

/* Lets the owner's peer reach the slab; it is a fresh copy if owners of old may write the other. */
static int attach(struct node *node, struct slab *slab, struct fabric_peer *peer)
{
	if (slab->stale) {
		int err = slab_freshen(node, slab);

		if (err)
			return err;
	}
	return slab_expose(node, slab, peer);
}

static int allocate(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	struct node_slab_name *name = &message->slab.slab;
	struct node_volume *volume;
	struct slab *slab;

	if (message->slab.slab_bytes != node->options.slab_bytes)
		return -EINVAL;

	int err = volume_admit(node, peer, name->volume, message->slab.owner,
			       message->slab.owner_epoch, &volume);

	if (err)
		return err;
	slab = slab_of_name(volume, name);
	if (slab) {
		name->key = slab->key;
		return attach(node, slab, peer);
	}
	if (exceeds_quota(node, volume->owner))
		return AFAR_EQUOTA;
	err = slab_take(node, &slab);
	if (err)
		return err;
	slab_assign(node, slab, volume, name);
	err = slab_expose(node, slab, peer);
	if (err) {
		slab_release(node, slab, true);
		return err;
	}
	name->key = slab->key;
	counter_add_own(&node->counters.allocations, 1);
	return 0;
}

/* The slab that an ATTACH or FREE means, once its sender has proved to be the owner. */
static int find_own(struct node *node, struct fabric_peer *peer, const struct node_message *message,
		    struct slab **result)
{
	const struct node_slab_name *name = &message->slab.slab;
	struct slab *slab = slab_of_key(node, name->key);
	struct node_volume *volume;

	if (!slab || slab->volume->id != name->volume || slab->piece != name->piece ||
	    slab->piece_epoch != name->piece_epoch)
		return -ENOENT;

	int err = volume_admit(node, peer, name->volume, message->slab.owner,
			       message->slab.owner_epoch, &volume);

	if (!err)
		*result = slab;
	return err;
}

static int attach_again(struct node *node, struct fabric_peer *peer,
			const struct node_message *message)
{
	struct slab *slab;
	int err = find_own(node, peer, message, &slab);

	return err ? err : attach(node, slab, peer);
}

static int free_slab(struct node *node, struct fabric_peer *peer,
		     const struct node_message *message)
{
	struct slab *slab;
	int err = find_own(node, peer, message, &slab);

	if (!err) {
		slab_release(node, slab, true);
		counter_add_own(&node->counters.frees, 1);
	}
	return err;
}

/* ALLOCATE or ATTACH; -EAGAIN: not answered yet, because memory is being made. */
static int ask_for_slab(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	bool attaching = message->head.kind == NODE_ATTACH;
	int err = attaching ? attach_again(node, peer, message) : allocate(node, peer, message);

	if (err == -EAGAIN)
		return err;
	if (err && !attaching)
		counter_add_own(&node->counters.allocations_refused, 1);
	answer(node, peer, message, attaching ? NODE_ATTACHED : NODE_ALLOCATED, err);
	return 0;
}

/* ---- the line of those who wait for memory ---- */

static void wait_in_line(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	unsigned own = 0;

	for (uint32_t i = 0; i < node->waiting_count; i++)
		own += node->waiting[i].peer == peer;
	if (node->waiting_count == NODE_WAITING_MAX || own == NODE_WAITING_PEER) {
		bool attaching = message->head.kind == NODE_ATTACH;

		answer(node, peer, message, attaching ? NODE_ATTACHED : NODE_ALLOCATED, -EAGAIN);
		return;
	}

	int64_t now_ns = env_now_ns(node->env);

	node->waiting[node->waiting_count++] = (struct waiting){
		.peer = peer,
		.end_ns = now_ns + NODE_WAIT_NS,
		.message = *message,
	};
	node->next_retry_ns = now_ns + NODE_RETRY_NS;
}

unsigned requests_retry(struct node *node, int64_t now_ns)
{
	uint32_t kept = 0;
	uint32_t before = node->waiting_count;

	if (before == 0 || now_ns < node->next_retry_ns)
		return 0;
	node->next_retry_ns = now_ns + NODE_RETRY_NS;
	for (uint32_t i = 0; i < before; i++) {
		struct waiting *waiting = &node->waiting[i];
		struct node_message *message = &waiting->message;
		bool attaching = message->head.kind == NODE_ATTACH;

		if (ask_for_slab(node, waiting->peer, message) == 0)
			continue;
		if (now_ns >= waiting->end_ns)
			answer(node, waiting->peer, message,
			       attaching ? NODE_ATTACHED : NODE_ALLOCATED, -EAGAIN);
		else
			node->waiting[kept++] = *waiting;
	}
	node->waiting_count = kept;
	return before - kept;
}

void requests_forget(struct node *node, struct fabric_peer *peer)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < node->waiting_count; i++) {
		if (node->waiting[i].peer != peer)
			node->waiting[kept++] = node->waiting[i];
	}
	node->waiting_count = kept;
}

/* ---- volumes, and the node ---- */

static void claim(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	struct node_volume *volume = NULL;
	int err = volume_admit(node, peer, message->claim.volume, message->claim.owner,
			       message->claim.owner_epoch, &volume);

	message->claim.count = err ? 0 : volume->slab_count;
	answer(node, peer, message, NODE_CLAIMED, err);
}

/* Slots are the cursor: a slab that stays is told exactly once, whatever comes and goes. */
static void list(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	uint32_t slot = message->list.cursor;
	uint32_t count = 0;

	for (; slot < node->slot_count && count < NODE_KEYS_MAX; slot++) {
		const struct slab *slab = node->slots[slot];

		if (slab->state == SLAB_MAPPED && slab->volume->id == message->list.volume)
			name_of(slab, &message->list.slabs[count++]);
	}
	message->list.count = count;
	message->list.cursor = slot < node->slot_count ? slot : 0;
	answer(node, peer, message, NODE_LISTED, 0);
}

static void query(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	const struct node_volume *volume = volume_find(node, message->query.volume);
	uint64_t slab_bytes = node->options.slab_bytes;

	message->status.capacity_bytes = node->capacity_bytes;
	message->status.used_bytes = node->mapped * slab_bytes;
	message->status.free_bytes = evict_free_bytes(node);
	message->status.volume_bytes = volume ? volume->slab_count * slab_bytes : 0;
	message->status.slab_bytes = slab_bytes;
	answer(node, peer, message, NODE_STATUS, 0);
}

static void dispatch(struct node *node, struct fabric_peer *peer, struct node_message *message)
{
	switch ((enum node_message_kind)message->head.kind) {
	case NODE_QUERY:
		query(node, peer, message);
		return;
	case NODE_ALLOCATE:
	case NODE_ATTACH:
		if (ask_for_slab(node, peer, message) == -EAGAIN)
			wait_in_line(node, peer, message);
		return;
	case NODE_FREE:
		answer(node, peer, message, NODE_FREED, free_slab(node, peer, message));
		return;
	case NODE_CLAIM:
		claim(node, peer, message);
		return;
	case NODE_LIST:
		list(node, peer, message);
		return;
	case NODE_ACTIVITY:
		evict_activity(node, peer, message);
		return;
	case NODE_EVICT_ANSWER:
		evict_answer(node, peer, message);
		return;
	case NODE_STATUS:
	case NODE_ALLOCATED:
	case NODE_ATTACHED:
	case NODE_FREED:
	case NODE_CLAIMED:
	case NODE_LISTED:
	case NODE_ACTIVITY_ASK:
	case NODE_EVICT_NOTICE:
	case NODE_MESSAGE_KINDS:
		break;
	}
	node_condemn(node, peer, "says what only nodes say");
}

void request_receive(struct node *node, struct fabric_peer *peer, const void *bytes,
		     uint32_t len_bytes)
{
	struct node_message message;
	int err = node_message_decode(bytes, len_bytes, &message);

	if (err)
		node_condemn(node, peer, afar_strerror(err));
	else
		dispatch(node, peer, &message);
}
