/*
 * protocol.h: what nodes and the owners of volumes say to each other
 *
 *   Every message is one fixed struct in little-endian order behind a common head. The owner
 *   asks, the node answers with the same request number; EVICT_NOTICE and ACTIVITY_ASK go the
 *   other way. Data never travels here: it is read and written one-sidedly (fabric/fabric.h).
 *
 *     owner                              node
 *     QUERY                          ──► STATUS            how full are you, what of mine have you
 *     ALLOCATE volume, piece, epoch  ──► ALLOCATED key     exported to this peer before the answer
 *     ATTACH key, epoch              ──► ATTACHED          the same slab on a new connection
 *     FREE key                       ──► FREED             fenced, then zeroed or thrown away
 *     CLAIM volume, owner epoch      ──► CLAIMED count     takeover: older owners are fenced
 *     LIST volume, cursor            ──► LISTED slabs      what the node holds of a volume
 *     ACTIVITY                       ◄── ACTIVITY_ASK keys
 *     EVICT_ANSWER                   ◄── EVICT_NOTICE key, deadline
 *
 *   An owner that answers DROPPABLE or MOVED has let go of the slab, whether it was asked or not
 *   and however late: the node fences and frees it. Only silence and KEEP leave it as it is.
 *
 *   An ALLOCATE that comes again for the same volume, piece and piece_epoch gets the same slab. A
 *   node that is still making memory may answer ALLOCATE or ATTACH with -EAGAIN: ask again.
 *
 *   A node serves a slab to one owner at a time: the one with the highest owner_epoch that has
 *   claimed the volume. Everything else is answered with AFAR_EFENCED or AFAR_EOWNED.
 */
#ifndef AFAR_NODE_PROTOCOL_H
#define AFAR_NODE_PROTOCOL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_PROTOCOL_MAGIC   0x6e616661u /* "afan" */
#define NODE_PROTOCOL_VERSION 1u
#define NODE_KEYS_MAX         64u /* keys in one ACTIVITY_ASK, slabs in one LISTED */

enum node_message_kind {
	NODE_QUERY = 1,
	NODE_STATUS,
	NODE_ALLOCATE,
	NODE_ALLOCATED,
	NODE_ATTACH,
	NODE_ATTACHED,
	NODE_FREE,
	NODE_FREED,
	NODE_CLAIM,
	NODE_CLAIMED,
	NODE_LIST,
	NODE_LISTED,
	NODE_ACTIVITY_ASK,
	NODE_ACTIVITY,
	NODE_EVICT_NOTICE,
	NODE_EVICT_ANSWER,
	NODE_MESSAGE_KINDS,
};

enum node_evict_answer {
	NODE_EVICT_KEEP = 0,      /* cannot be spared: the last copy, and nowhere to move it */
	NODE_EVICT_DROPPABLE = 1, /* other copies hold; the owner no longer uses this one */
	NODE_EVICT_MOVED = 2,     /* copied elsewhere; the owner no longer uses this one */
};

struct node_message_head {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;    /* enum node_message_kind */
	uint32_t request; /* chosen by who asks, repeated in the answer */
	int32_t status;   /* answers: 0 or a negative error; else 0 */
};

/* One slab of a volume as both sides name it. */
struct node_slab_name {
	uint64_t volume;
	uint32_t piece;
	uint32_t piece_epoch;
	uint64_t key; /* the node's number for this assignment: never used again */
};

struct node_message {
	struct node_message_head head;
	union {
		struct {
			uint64_t capacity_bytes, used_bytes,
				free_bytes;    /* free: may be allocated now */
			uint64_t volume_bytes; /* of the volume that was asked about */
			uint64_t slab_bytes;
		} status;
		struct {
			uint64_t volume; /* 0: no volume in particular */
		} query;
		struct {
			struct node_slab_name slab; /* ALLOCATE: key 0; the answer has it */
			uint64_t owner;             /* the owner's id */
			uint32_t owner_epoch;
			uint32_t reserved;
			uint64_t slab_bytes;
		} slab; /* ALLOCATE, ALLOCATED, ATTACH, ATTACHED, FREE, FREED */
		struct {
			uint64_t volume, owner;
			uint32_t owner_epoch;
			uint32_t count; /* CLAIMED: slabs held of it */
		} claim;
		struct {
			uint64_t volume;
			uint32_t cursor; /* from which on; the answer's: go on there, 0: that was
					    all */
			uint32_t count;
			struct node_slab_name slabs[NODE_KEYS_MAX];
		} list;
		struct {
			uint32_t count;
			uint32_t reserved;
			uint64_t keys[NODE_KEYS_MAX];
			uint32_t activity[NODE_KEYS_MAX]; /* pages a second, smoothed */
		} activity;
		struct {
			struct node_slab_name slab;
			int64_t deadline_ms; /* NOTICE: from now; the answer after it counts as KEEP
					      */
			uint32_t answer;     /* enum node_evict_answer */
			uint32_t reserved;
		} evict;
	};
};

static_assert(sizeof(struct node_message_head) == 16, "version 1");
static_assert(sizeof(struct node_slab_name) == 24, "version 1");
static_assert(offsetof(struct node_message, slab) == 16, "version 1");
static_assert(sizeof(struct node_message) <= 2048, "fits a fabric message");

/* The bytes of a message of this kind (a prefix of the struct), 0: no such kind. */
uint32_t node_message_bytes(uint16_t kind);

/*
 * Checks what arrived and copies it into *message, the rest of it zero. Counts inside are within
 * their bounds afterwards; everything else is the peer's word.
 *
 * -EPROTO: magic, kind, length or a count; AFAR_EVERSION.
 */
int node_message_decode(const void *bytes, uint32_t len_bytes, struct node_message *message);

#endif
