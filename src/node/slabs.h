/*
 * slabs.h: what a node holds: slabs, the volumes they belong to, and whoever waits
 *
 *   For the files of this folder alone; node.h tells the story.
 *
 *     slabs.c       memory of slabs: made, exposed to one peer, fenced, zeroed, given back
 *     owners.c      volumes: who owns them by the highest owner_epoch, orphans, quota
 *     requests.c    one message in, one answer out
 *     evict.c       headroom, and eviction by batch
 *     node.c        the node as a whole
 *
 * Where a slab is
 *
 *     unused ──slab_take──► mapped ──slab_release──► dirty ──zeroed──► ready ──slab_take──► mapped
 *       ▲                     │                                          │
 *       └─────────────────────┴── handed out, evicted, too many ─────────┘
 *
 *   An unused slab is a slot without memory. Dirty and ready ones are *idle*: they have memory and
 *   no owner. used = mapped, and mapped + idle never grows beyond the capacity (N5).
 *
 * Memory that others can write for ever
 *
 *   On shm a peer keeps its mapping of a slab after it was fenced, and may have given it on to its
 *   children. So a slab that was exposed there is `handed_out`: its memory never serves another
 *   owner. Freed, it is destroyed instead of zeroed. Claimed by a new owner it is `stale`: the
 *   new owner's ATTACH first gets the contents copied to fresh memory.
 */
#ifndef AFAR_NODE_SLABS_H
#define AFAR_NODE_SLABS_H

#include "base/list.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/table.h"
#include "node/evict.h"
#include "node/node.h"
#include "node/protocol.h"

#define NODE_SLOT_BITS    20u /* of a key: where its slab is; the bits above count assignments */
#define NODE_VOLUMES_MAX  4096u
#define NODE_WAITING_MAX  64u /* requests that wait for memory to be made */
#define NODE_WAITING_PEER 16u /* of one peer */
#define NODE_WAIT_NS      (INT64_C(1000) * 1000 * 1000)
#define NODE_RETRY_NS     (INT64_C(5) * 1000 * 1000)
#define NODE_ORPHAN_NS    (INT64_C(30) * 1000 * 1000 * 1000)
#define NODE_ZERO_STEP    (UINT64_C(2) << 20) /* bytes zeroed between two looks at the fabric */

struct fabric_peer;

enum slab_state { SLAB_UNUSED, SLAB_DIRTY, SLAB_READY, SLAB_MAPPED };

struct slab {
	struct list link; /* of node->unused, dirty or ready, or of its volume's slabs */
	enum slab_state state;
	uint32_t slot;
	void *memory;
	int memfd;
	uint64_t zeroed_bytes; /* DIRTY: from the start */
	bool handed_out;       /* somebody may have it mapped for ever */

	/* MAPPED */
	struct node_volume *volume;
	uint64_t key;
	uint32_t piece, piece_epoch;
	struct fabric_peer *peer; /* can reach it now; NULL: nobody can */
	bool stale;               /* an owner of old may still write: copy before the next ATTACH */
	bool noticed;             /* EVICT_NOTICE was sent, and not answered yet */
	int64_t spare_until_ns;   /* its owner kept it: not asked again before */
};

/* A volume that has slabs here, or whose owner_epoch is remembered. */
struct node_volume {
	struct list link; /* of node->volume_list: not heard of for longest first */
	struct list slabs;
	uint64_t id, owner;
	uint32_t owner_epoch;
	uint32_t slab_count;
	struct fabric_peer *peer; /* the owner's connection; NULL: gone */
	int64_t orphaned_ns;      /* since when, if it is gone */
};

/* A peer's node-side life, behind fabric_peer_context(). */
struct node_peer {
	struct list link; /* of node->peers */
	struct fabric_peer *peer;
	bool condemned; /* it spoke nonsense and is being disconnected: deaf from now on */
	bool counted;   /* by the statistics at hand */
};

struct waiting {
	struct fabric_peer *peer;
	int64_t end_ns;
	struct node_message message;
};

struct node_counters {
	struct counter allocations, allocations_refused, frees, fences;
	struct counter evictions, evictions_refused, orphans_freed, bad_messages, takeovers;
	struct counter headroom_breaches;
	struct gauge capacity_bytes, used_bytes, idle_bytes, volumes, peers, available_bytes;
};

struct node {
	struct env *env;
	struct fabric *fabric;
	struct node_options options;
	uint64_t capacity_bytes;

	struct slab **slots;
	uint32_t slot_count, slots_max;
	struct list unused, dirty, ready;
	uint32_t mapped, idle;
	uint64_t next_assignment;

	struct table volumes; /* by id */
	struct list volume_list;
	struct list peers;

	struct waiting waiting[NODE_WAITING_MAX];
	uint32_t waiting_count;
	int64_t next_retry_ns;

	struct eviction eviction;
	struct log_limit bad_limit, memory_limit;
	struct node_counters counters;
};

/* ---- slabs.c ---- */

/*
 * Takes zeroed memory for a new assignment, of no volume yet. -EAGAIN: it is being made.
 * AFAR_ENOSPACE_FAR: the node is full, or the machine is.
 */
int slab_take(struct node *node, struct slab **slab);
/* Makes it the volume's, under a key that was never used before. */
void slab_assign(struct node *node, struct slab *slab, struct node_volume *volume,
		 const struct node_slab_name *name);
/* Ends the assignment; what can reach it is fenced first. keep: the memory may stay with us. */
void slab_release(struct node *node, struct slab *slab, bool keep);
/* Lets the peer reach the slab, and nobody else any more. */
int slab_expose(struct node *node, struct slab *slab, struct fabric_peer *peer);
/* Nobody can reach the slab afterwards, but by a mapping of memory that was handed out. */
void slab_fence(struct node *node, struct slab *slab);
/* Moves the contents to memory that nobody else has mapped. Errors as for slab_take(). */
int slab_freshen(struct node *node, struct slab *slab);
/* The mapped slab of this key, or NULL. */
struct slab *slab_of_key(const struct node *node, uint64_t key);
/* Zeroes a little; returns whether there was something to zero. */
bool slab_zero_step(struct node *node);
/* Gives one idle slab's memory back to the machine; false: there is none. */
bool slab_give_back(struct node *node);
void slabs_destroy(struct node *node);

/* ---- owners.c ---- */

struct node_volume *volume_find(const struct node *node, uint64_t id);
/*
 * Decides whether the peer speaks for the volume's owner, and enters it if it is new or has a
 * higher owner_epoch, after the older owner was fenced. AFAR_EFENCED: its epoch is the past;
 * AFAR_EOWNED: another has this epoch; -EPERM: it is not who it says it is; -EINVAL.
 */
int volume_admit(struct node *node, struct fabric_peer *peer, uint64_t id, uint64_t owner,
		 uint32_t owner_epoch, struct node_volume **volume);
/* Bytes that the owner holds in all its volumes. */
uint64_t volume_owner_bytes(const struct node *node, uint64_t owner);
/* The peer is gone: its volumes are orphans from now on. */
void volumes_orphan(struct node *node, struct fabric_peer *peer);
/* Frees orphans whose time has come; returns how many volumes. */
unsigned volumes_expire(struct node *node, int64_t now_ns);
int64_t volumes_deadline_ns(const struct node *node);
void volumes_destroy(struct node *node);

/* ---- requests.c ---- */

/* A message came; the peer's struct node_peer is its context. */
void request_receive(struct node *node, struct fabric_peer *peer, const void *bytes,
		     uint32_t len_bytes);
/* Tries the waiting ones again; returns how many ended. */
unsigned requests_retry(struct node *node, int64_t now_ns);
void requests_forget(struct node *node, struct fabric_peer *peer);
/* Completes the head and sends; errors are fabric_send()'s. */
int request_send(struct node *node, struct fabric_peer *peer, struct node_message *message,
		 enum node_message_kind kind);

/* ---- node.c ---- */

/* Ends the connection of a peer that broke the protocol. */
void node_condemn(struct node *node, struct fabric_peer *peer, const char *reason);

#endif
