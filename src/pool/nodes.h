/*
 * nodes.h: the nodes of a pool: connections, and requests that fibers wait for
 *
 *   A node is known from the cluster's members and connected when somebody needs it: a fiber with
 *   a request, or a copy that lies there.
 *
 *               needed                  UP                 greeted
 *       AWAY ──────────► CONNECTING ──────────► GREETING ──────────► READY
 *        ▲ ▲ no address answers │     DOWN         │                   │
 *        │ └────────────────────┘◄─────────────────┘◄──────────────────┘
 *        └── backoff, doubled up to a second
 *
 *   Addresses are tried in turn, those of shm first where the node may be on this host. Greeting
 *   comes after a connection was lost, and for volumes that were taken over: each volume claims
 *   what it owns (older owners are fenced), then frees what the node holds of it that is not in
 *   its map: slabs whose ALLOCATED never arrived, copies that were given up while we were away.
 *
 *   A request has a number; the answer finds by it the fiber that waits. Answers that nobody waits
 *   for are dropped, except that a slab which comes too late is freed.
 */
#ifndef AFAR_POOL_NODES_H
#define AFAR_POOL_NODES_H

#include "base/fiber.h"
#include "cluster/cluster.h"
#include "node/protocol.h"

#include <stdbool.h>
#include <stdint.h>

#define NODE_REQUESTS_MAX 32u /* of one node, waiting for their answers */

struct fabric_event;
struct fabric_peer;
struct pool;
struct volume;

enum node_link { NODE_AWAY, NODE_CONNECTING, NODE_GREETING, NODE_READY };

struct node_request {
	uint32_t number; /* 0: the place is free */
	uint16_t answer_kind;
	bool done;
	struct fiber *fiber;
	struct node_message *message; /* the answer goes here */
};

struct pool_node {
	struct pool *pool;
	struct cluster_member member;
	uint32_t index; /* in pool->nodes */
	bool present;   /* among the members at the last look */

	enum node_link link;
	struct fabric_peer *peer; /* not AWAY */
	uint32_t connection;      /* rises whenever one is made: answers belong to one of them */
	uint32_t attempt;         /* CONNECTING: how many addresses were tried */
	bool was_ready;           /* once: slabs of ours may be left there */
	bool wanted;              /* somebody waits for the connection */
	int64_t retry_ns;         /* AWAY: not before this */
	int64_t backoff_ns;
	uint32_t failures;  /* rounds of addresses without success since it was READY */
	int64_t refused_ns; /* it had no room: not asked again before this */

	uint32_t copies; /* copies of pieces that lie here */
	uint32_t allocating;
	struct fiber_line line; /* who waits for READY, or for a failure */
	struct node_request requests[NODE_REQUESTS_MAX];
	uint32_t next_number;
};

/* Takes over the cluster's members: new nodes, new addresses, nodes gone. */
void nodes_refresh(struct pool *pool);

/* UP, DOWN and MESSAGE events of peers. */
void nodes_event(struct pool *pool, const struct fabric_event *event);

/* Connects what is due; lowers *timer_ns to when to call again. */
void nodes_tick(struct pool *pool, int64_t now_ns, int64_t *timer_ns);

/* The node with this member id, new if need be; NULL: POOL_NODES_MAX are known, or no memory. */
struct pool_node *node_of_id(struct pool *pool, uint64_t id);
void nodes_free(struct pool *pool);
/* Lets go of every connection; their FABRIC_DOWN follows. */
void nodes_disconnect(struct pool *pool);
bool nodes_connected(const struct pool *pool);
void node_forget_peer(struct pool *pool, const struct fabric_peer *peer);

/* Whether there is hope: connected, or not yet known to be dead. */
bool node_may_answer(const struct pool_node *node);

/* On a fiber: connects if need be and waits until the node is READY.
 * AFAR_EPEER_DOWN; -ETIMEDOUT; -ECANCELED. */
int node_wait_ready(struct pool_node *node, int64_t deadline_ns);

/*
 * On a fiber: sends *message, whose kind, volume and so on are set, and waits; the answer replaces
 * it. Returns the answer's status.
 *
 * AFAR_EPEER_DOWN, -ETIMEDOUT, -ECANCELED: there was no answer.
 */
int node_ask(struct pool_node *node, struct node_message *message, int64_t deadline_ns);

/* Sends a message to a connected node without waiting for an answer. */
int node_tell(struct pool_node *node, struct node_message *message, uint16_t kind);

/* On a fiber: claims (if it was taken over) and tidies one volume on a node whose connection is up;
 * see above. */
int node_greet(struct pool_node *node, struct volume *volume);

#endif
