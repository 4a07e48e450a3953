/*
 * protocol.c: the lengths of messages, and their hostile decoding
 */
#include "node/protocol.h"

#include "afar/error.h"
#include "base/bits.h" /* asserts that memory is little-endian, as the wire is */

#include <errno.h>
#include <string.h>

#define END_OF(member)                                      \
	((uint32_t)(offsetof(struct node_message, member) + \
		    sizeof(((struct node_message *)0)->member)))

uint32_t node_message_bytes(uint16_t kind)
{
	switch ((enum node_message_kind)kind) {
	case NODE_QUERY:
		return END_OF(query);
	case NODE_STATUS:
		return END_OF(status);
	case NODE_ALLOCATE:
	case NODE_ALLOCATED:
	case NODE_ATTACH:
	case NODE_ATTACHED:
	case NODE_FREE:
	case NODE_FREED:
		return END_OF(slab);
	case NODE_CLAIM:
	case NODE_CLAIMED:
		return END_OF(claim);
	case NODE_LIST:
	case NODE_LISTED:
		return END_OF(list);
	case NODE_ACTIVITY_ASK:
	case NODE_ACTIVITY:
		return END_OF(activity);
	case NODE_EVICT_NOTICE:
	case NODE_EVICT_ANSWER:
		return END_OF(evict);
	case NODE_MESSAGE_KINDS:
		break;
	}
	return 0;
}

static bool counts_are_bounded(const struct node_message *message)
{
	switch ((enum node_message_kind)message->head.kind) {
	case NODE_LIST:
	case NODE_LISTED:
		return message->list.count <= NODE_KEYS_MAX;
	case NODE_ACTIVITY_ASK:
	case NODE_ACTIVITY:
		return message->activity.count <= NODE_KEYS_MAX;
	case NODE_EVICT_ANSWER:
		return message->evict.answer <= NODE_EVICT_MOVED;
	default:
		return true;
	}
}

int node_message_decode(const void *bytes, uint32_t len_bytes, struct node_message *message)
{
	struct node_message_head head;

	if (len_bytes < sizeof(head))
		return -EPROTO;
	memcpy(&head, bytes, sizeof(head));
	if (head.magic != NODE_PROTOCOL_MAGIC)
		return -EPROTO;
	if (head.version != NODE_PROTOCOL_VERSION)
		return AFAR_EVERSION;
	/* An unknown kind has 0 bytes, which no message has that came this far. */
	if (len_bytes != node_message_bytes(head.kind))
		return -EPROTO;
	memset(message, 0, sizeof(*message));
	memcpy(message, bytes, len_bytes);
	return counts_are_bounded(message) ? 0 : -EPROTO;
}
