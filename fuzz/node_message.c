/*
 * node_message.c: whatever arrives, decoding a node's message stays inside it, and what is
 * accepted keeps its bounds
 */
#include "node/protocol.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	struct node_message message;

	if (len_bytes > UINT32_MAX ||
	    node_message_decode(bytes, (uint32_t)len_bytes, &message) != 0)
		return 0;
	if (len_bytes != node_message_bytes(message.head.kind))
		abort();
	if (message.head.kind == NODE_LISTED && message.list.count > NODE_KEYS_MAX)
		abort();
	if (message.head.kind == NODE_ACTIVITY && message.activity.count > NODE_KEYS_MAX)
		abort();
	return 0;
}
