/*
 * node.h: the memory node, which donates slabs
 *
 * What lives here
 *
 *   A node owns memory and gives it away in slabs, each to one owner for one piece of one volume.
 *   Owners read and write their slabs one-sidedly; the node sees only control messages
 *   (node/protocol.h). It is one object driven by one thread: node_poll() does what is to be done
 *   and never waits, so the daemon, a test and the simulator run the same code.
 *
 * The life of a slab
 *
 *     free ──ALLOCATE──► mapped ──FREE, or its owner's death + lease──► fenced ──► free
 *                          │ ▲                                            │ (shm: thrown away,
 *                EVICT_NOTICE │ KEEP or silence                           │  a fresh one is made)
 *                          ▼ │                                            │
 *                        noticed ──DROPPABLE, MOVED──────────────────────┘
 *
 * Invariants
 *
 *   N1  A slab's bytes are zero before another owner sees them.
 *   N2  A key names one assignment for ever: it is never used again, also after a restart (keys
 *       begin at a random number).
 *   N3  A slab is reachable by at most one owner: the claimant with the highest owner_epoch. An
 *       older one is fenced before the new one is answered.
 *   N4  A mapped slab leaves only by its owner's FREE or answer, or when the owner's connection is
 *       gone for longer than orphan_ns: a client that dies or speaks nonsense frees nothing of
 *       others and takes nothing with it.
 *   N5  used + free <= capacity; no owner holds more than quota_bytes.
 *
 * Headroom
 *
 *   The node keeps headroom_bytes of the machine free (MemAvailable, smoothed). Below it, it gives
 *   back unassigned memory first, then evicts by batch: picks E + E' mapped slabs at random, asks
 *   their owners for their activity, notices the E least active. What nobody can spare is kept,
 *   and the breach is counted and reported (DESIGN 13.8).
 */
#ifndef AFAR_NODE_H
#define AFAR_NODE_H

#include <stdbool.h>
#include <stdint.h>

struct env;
struct fabric;
struct log;
struct metrics;
struct node;

#define NODE_SLAB_BYTES_DEFAULT (UINT64_C(64) << 20)

/* Where slab memory comes from: memfds in the real world, plain memory in the simulator. */
struct node_memory_ops {
	/*
	 * Makes one zeroed, pre-faulted slab. *memfd is its sealed memfd, or -1. -ENOMEM; -EAGAIN:
	 * being made in the background: ask again soon.
	 */
	int (*slab_make)(void *context, uint64_t size_bytes, void **memory, int *memfd);
	/* Gives the memory back to the machine at once, whoever else may have it mapped. */
	void (*slab_destroy)(void *context, void *memory, uint64_t size_bytes, int memfd);
	/* Gives ready slabs back until the next slab_make; NULL: there are never any. */
	void (*stock_drop)(void *context);
	/* Bytes of the machine that are available; UINT64_MAX: not to be told. */
	uint64_t (*available_bytes)(void *context);
	void *context;
};

/*
 * The real memory: sealed memfds, locked where allowed (else a warning), huge pages by
 * MADV_COLLAPSE. A bounded stock of ready slabs is kept by a background thread.
 */
int node_memory_open(struct log *log, uint64_t slab_bytes, uint64_t capacity_bytes,
		     struct node_memory_ops *ops);
void node_memory_close(struct node_memory_ops *ops);

struct node_options {
	uint64_t capacity_bytes;
	uint64_t slab_bytes;     /* 0: NODE_SLAB_BYTES_DEFAULT; a multiple of 2 MiB but in tests */
	uint64_t headroom_bytes; /* 0: no eviction */
	uint64_t quota_bytes;    /* an owner; 0: none */
	int64_t orphan_ns;       /* 0: 30 s; how long slabs outlive their owner's connection */
	struct log *log;
	struct metrics *metrics; /* NULL: none */
	struct node_memory_ops memory;
	uint64_t mutations; /* tests only: see node_mutation */
};

/* Safety mechanisms that a test may take out, to see that it notices (node_options.mutations). */
enum node_mutation {
	NODE_MUTATE_FENCING = 1u << 0,     /* slabs are given to another owner without a fence */
	NODE_MUTATE_ZEROING = 1u << 1,     /* N1 */
	NODE_MUTATE_OWNER_EPOCH = 1u << 2, /* N3: an older owner is served */
};

/*
 * A node on a fabric that already listens. The node polls the fabric; nobody else may.
 * -EINVAL: sizes; -ENOMEM.
 */
int node_open(struct env *env, struct fabric *fabric, const struct node_options *options,
	      struct node **node);
/* Fences and frees every slab. The fabric stays the caller's. */
void node_close(struct node *node);

/* Does all that can be done now; returns how much was done (0: nothing). Never waits. */
unsigned node_poll(struct node *node);
/* When node_poll() must run again even if the fabric has nothing; INT64_MAX: never. */
int64_t node_deadline_ns(const struct node *node);

/* Lowers or raises what is donated; above what is used now, the node evicts down to it. */
void node_set_capacity(struct node *node, uint64_t capacity_bytes);

struct node_stats {
	uint64_t capacity_bytes, used_bytes;
	uint64_t slabs_mapped, allocations, allocations_refused, frees, fences;
	uint64_t evictions, evictions_refused, orphans_freed, bad_messages, takeovers;
	uint64_t headroom_breaches;
	uint32_t owners;
};
void node_stats(const struct node *node, struct node_stats *stats);

#endif
