/*
 * evict.h: headroom, and eviction by batch (Infiniswap, section 4.4)
 *
 *   A picture of one batch. It runs when memory is short by E slabs and nothing idle is left:
 *
 *     idle ──E+E' picked at random──► asking ──all answered, or its time is over──► noticing
 *       ▲                             (ACTIVITY_ASK)                                   │
 *       │                       the E coldest that answered get EVICT_NOTICE; for each │
 *       │                       KEEP the next one does                                 │
 *       └───────────── all answered, or their time is over; nothing freed: breach ◄────┘
 *
 *   Silence never frees a slab. What a batch could not free waits for the next, which comes later
 *   and later while batches free nothing.
 */
#ifndef AFAR_NODE_EVICT_H
#define AFAR_NODE_EVICT_H

#include "base/log.h"
#include "node/protocol.h"

#include <stdbool.h>
#include <stdint.h>

#define EVICT_BATCH_MAX    16u /* E */
#define EVICT_EXTRA_MIN    4u  /* E', or E if that is more */
#define EVICT_SAMPLE_NS    (INT64_C(100) * 1000 * 1000)
#define EVICT_ASK_NS       (INT64_C(500) * 1000 * 1000)
#define EVICT_NOTICE_NS    (INT64_C(10) * 1000 * 1000 * 1000)
#define EVICT_SPARE_NS     (INT64_C(5) * 1000 * 1000 * 1000) /* after a KEEP */
#define EVICT_PAUSE_NS_MIN (INT64_C(100) * 1000 * 1000)
#define EVICT_PAUSE_NS_MAX (INT64_C(6400) * 1000 * 1000)

struct fabric_peer;
struct node;
struct slab;

enum evict_phase { EVICT_IDLE, EVICT_ASKING, EVICT_NOTICING };

struct evict_candidate {
	uint64_t key;
	uint32_t activity;
	bool asked, answered, noticed;
};

struct eviction {
	bool sampled;             /* available_bytes means something */
	uint64_t available_bytes; /* of the machine, smoothed; UINT64_MAX: not to be told */
	int64_t next_sample_ns;

	enum evict_phase phase;
	int64_t phase_end_ns;
	int64_t next_batch_ns;
	int64_t pause_ns; /* before the next batch, if this one frees nothing */
	uint32_t request;
	uint32_t wanted; /* E */
	uint32_t candidates;
	struct evict_candidate candidate[NODE_KEYS_MAX];
	struct log_limit breach_limit;
};

/* Does what is due; returns how much. */
unsigned evict_poll(struct node *node, int64_t now_ns);
int64_t evict_deadline_ns(const struct node *node);
/* An owner's answers. */
void evict_activity(struct node *node, struct fabric_peer *peer,
		    const struct node_message *message);
void evict_answer(struct node *node, struct fabric_peer *peer, const struct node_message *message);
/* Whether one more slab may be made and the headroom still be kept. */
bool evict_may_grow(const struct node *node);
/* Memory was taken from the machine, or given back: the next samples will say the same. */
void evict_note_taken(struct node *node);
void evict_note_given_back(struct node *node);
/* Bytes that could still be allocated. */
uint64_t evict_free_bytes(const struct node *node);

#endif
