/*
 * volume.h: what a pool is made of, seen from inside
 *
 *     pool ──┬── nodes               nodes.c       connections and requests
 *            └── volumes             volume.c      a volume from its birth to its end
 *                 ├── operations     operation.c   order on each page; what becomes of an operation
 *                 │                  io.c          reads from one copy, writes to all
 *                 └── pieces         piece.c       what a piece needs next, and its doing
 *                      ├── copies    copies.c      slabs as they come, are attached, and go
 *                      └── pages     checksums.c   states and checksums
 *                     publish.c  the map in the cluster's store       place.c  which node
 *                     fill.c     copying to a new slab, paced         evict.c  a node wants one
 * back takeover.c another owner's volume becomes ours
 *
 *   A copy of a piece:
 *
 *              ALLOCATED        copied, published
 *       EMPTY ──────────► FILLING ──────────► LIVE ◄──────────── attached again
 *         ▲                  │                 │ │                     │
 *         │◄── peer down ────┘   published     │ └── peer down ──► DETACHED
 *         │                      without it    ▼                       │
 *         └◄─── transfers done ───────────── LEAVING ◄── published ────┘
 *                                                        without it
 *
 *   LIVE      holds every acknowledged write; reads come from here
 *   FILLING   gets every new write; a fill copies the rest to it
 *   DETACHED  its connection is down (or it was refused: `gone`); it missed nothing yet, because
 *             nothing is acknowledged that a listed copy has not stored
 *   LEAVING   no longer in the map; nothing new goes there; freed when its transfers have ended
 *
 *   `listed` copies are those that the published map names. Promises P1 and P4 in one line:
 *
 *       a write is acknowledged  ⇔  the map is not in doubt, lists a copy, every listed copy has
 *                                   stored it, and the LIVE and FILLING ones that stored it are
 *                                   at least min(replicas, 2)
 *
 *   so that whoever takes the volume over by its map misses nothing, and a copy that was away is
 *   either still listed, and complete, or not listed, and never read again.
 */
#ifndef AFAR_POOL_VOLUME_H
#define AFAR_POOL_VOLUME_H

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/fiber.h"
#include "base/list.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "pool/checksums.h"
#include "pool/nodes.h"
#include "pool/pool.h"

#define POOL_VOLUMES_MAX  256u
#define PIECE_COPIES_MAX  5u  /* replicas, and those that replace them */
#define COPY_OPERATIONS   32u /* of one volume: pages that fills have in flight */
#define OPERATIONS        (POOL_OPERATIONS_MAX + COPY_OPERATIONS)
#define PAGE_BUCKETS      2048u
#define POOL_EVENTS       64u /* taken from the fabric at a time */
#define POOL_EVENT_ROUNDS 32u /* of them, in one pool_poll() */
#define PIECE_WORKERS_MAX 16u
#define PIECE_FILLS_MAX   2u
#define POOL_FIBERS_MAX   (PIECE_WORKERS_MAX + POOL_NODES_MAX + 2 * POOL_VOLUMES_MAX)

#define GRACE_NS_DEFAULT            (200 * NS_PER_MS) /* before a copy that went away is replaced */
#define REATTACH_NS_DEFAULT         (3 * NS_PER_S) /* before the last copy that went away is lost */
#define PATIENCE_NS_DEFAULT         (10 * NS_PER_S)
#define REQUEST_NS_DEFAULT          (2 * NS_PER_S)
#define REBUILD_BYTES_PER_S_DEFAULT (UINT64_C(200) << 20)
#define RETRY_NS                    (250 * NS_PER_MS) /* between attempts to find room */

static_assert(PAGE_BYTES == POOL_PAGE_BYTES, "a page is a page");
static_assert(POOL_REPLICAS_MAX <= CLUSTER_COPIES_MAX, "the record has room for all copies");
static_assert(OPERATIONS < 1u << 16 && POOL_VOLUMES_MAX <= 1u << 12, "a token's fields");

enum copy_state { COPY_EMPTY = 0, COPY_FILLING, COPY_LIVE, COPY_DETACHED, COPY_LEAVING };

struct copy {
	enum copy_state state;
	bool listed;
	bool gone;    /* DETACHED: the node does not have it any more */
	bool noticed; /* the node wants it back */
	bool near;    /* in memory of this host */
	struct pool_node *node;
	struct fabric_window *window; /* LIVE, FILLING, LEAVING */
	uint64_t key;
	uint32_t epoch;     /* under which the node exports it */
	uint32_t serial;    /* of the volume's copies: a place used again has another one */
	uint32_t transfers; /* operations of the fabric that have not ended */
	int64_t detached_ns;
	int64_t notice_end_ns;
	uint32_t notice_request;
};

struct piece {
	struct volume *volume;
	uint32_t number;
	uint32_t piece_epoch;
	uint32_t epoch_salt;
	struct copy copies[PIECE_COPIES_MAX];
	struct page_table pages;
	bool holes; /* pages were lost that `pages` may not know of: copies may have zeros there */

	uint32_t active;  /* operations that have begun and not ended */
	bool wanted;      /* a write waits for it, or volume_piece_open() */
	bool direct;      /* other processes write its pages */
	bool held;        /* by volume_piece_direct() */
	bool direct_lost; /* it was lost while direct */

	/* Control work: one fiber at a time. */
	struct list link; /* pool->work or pool->later */
	bool busy;
	struct fiber_line line;
	int64_t due_ns;              /* in pool->later: look again then */
	int64_t retry_ns;            /* no room was found: not again before this */
	uint32_t fill_page, filling; /* next page to copy; pages being copied */
	bool in_doubt; /* what the store says of it is not known: nothing is acknowledged */
	unsigned publish_mask, publish_detached;
	int publish_status;
	struct list publish_link;

	struct list told; /* VOLUME_PIECE waits in pool->told */
	int told_status;

	uint32_t accesses; /* since activity_ns */
	uint32_t activity; /* pages a second, smoothed */
	int64_t activity_ns;
};

enum operation_kind { OPERATION_READ, OPERATION_WRITE, OPERATION_COPY };

struct operation {
	struct list link; /* one of: free, ready, waiting, blocked, done */
	struct volume *volume;
	struct piece *piece; /* NULL until it starts */
	uint64_t page;
	void *buf;
	uint64_t token;
	struct operation *next_in_bucket;  /* heads of pages in flight */
	struct operation *behind, *last;   /* on the same page; head only: the last of them */
	uint32_t stored[PIECE_COPIES_MAX]; /* WRITE: serial of the copy that has it; READ, COPY: of
					      the copy whose bytes were wrong */
	int64_t deadline_ns;               /* 0: it has not waited yet */
	uint32_t checksum;                 /* without epoch */
	int status;
	uint16_t index;
	uint8_t kind;    /* enum operation_kind */
	uint8_t pending; /* a bit a copy: a transfer is in flight */
	uint8_t tried;   /* copies that failed since it was last started */
	uint8_t agreed;  /* loading: copies that were compared; storing: copies that were served */
	bool loaded;     /* WRITE: the checksum is known; else buf has the page */
	bool storing;    /* READ, COPY: buf goes to copies that lack the page */
	bool mistrusts;  /* READ, COPY: `stored` names copies whose bytes were wrong */
	bool discard;    /* when it ends, the page is discarded */
	bool told;       /* the caller knows already (POOL_MUTATE_ACK_ORDER) */
	bool done;
};

enum volume_phase { VOLUME_OPENING, VOLUME_OPEN, VOLUME_BROKEN, VOLUME_ENDING };

struct volume_node {
	uint32_t copies; /* of the volume's pieces */
	bool touched;    /* it was asked for a slab: it may have more of ours than we know */
};

struct volume {
	struct pool *pool;
	struct list link;
	uint32_t slot; /* in pool->volumes */
	enum volume_phase phase;
	int status;         /* BROKEN: why */
	bool tell;          /* READY or FAILED is still to be told */
	bool keep;          /* ENDING: the volume stays for whoever takes it over */
	bool ending, ended; /* ENDING: its fiber runs; has let go of everything */
	bool takeover;
	void *context;

	struct volume_record record;
	bool leased;        /* the record is in the store, and ours */
	int64_t renewed_ns; /* when the last good renewal began */
	int64_t renew_ns;   /* the next one */

	uint64_t pages;
	uint32_t piece_pages;
	uint32_t piece_shift; /* log2 of that, or 0 */
	struct piece *pieces;
	uint32_t serial;
	struct volume_node *on; /* by node index: what there is of ours */

	struct operation *operations; /* OPERATIONS */
	unsigned char *copy_pages;    /* a buffer for each copying operation */
	struct operation *buckets[PAGE_BUCKETS];
	struct list free, copy_free, waiting;
	uint32_t outstanding; /* of the caller, not yet taken */
	uint32_t in_flight;   /* begun and not ended, copying ones included */
	uint32_t workers;     /* fibers that may touch it */

	struct list publishing;
	struct fiber_line publish_line;
	struct log_limit store_limit;
	struct volume_stats stats;
};

struct pool_counters {
	struct counter reads, writes, read_retries, checksum_failures, pages_lost;
	struct counter pieces_mapped, pieces_remapped, copies_lost, copies_rebuilt, bytes_rebuilt;
	struct counter evictions_answered, lease_losses, bad_messages, stray_events;
};

struct pool {
	struct env *env;
	struct fabric *fabric;
	struct cluster *cluster;
	struct pool_options options; /* defaults filled in */
	struct log *log;
	struct log_limit bad_messages_limit;
	struct sched *sched;
	page_hash_fn *hash;
	char boot_id[FABRIC_BOOT_ID_BYTES];
	uint64_t slab_bytes; /* what a node last told; 0: none was asked yet */

	struct pool_node *nodes[POOL_NODES_MAX];
	uint32_t node_count;
	struct cluster_member *members; /* CLUSTER_MEMBERS_MAX, scratch of nodes_refresh() */

	struct volume *volumes[POOL_VOLUMES_MAX];
	struct list volume_list;

	struct list ready;   /* operations to start, or start again */
	struct list blocked; /* the fabric had no room for them */
	struct list done;    /* the caller has yet to hear of them */
	struct list work;    /* pieces that need a fiber */
	struct list later;   /* pieces that need one at due_ns */
	struct list told;
	uint32_t workers, fills;
	int64_t fill_next_ns;

	int64_t now_ns; /* as of the present poll */
	uint32_t polls_without_clock;
	uint32_t leased;  /* volumes whose record is in the store, and ours */
	int64_t timer_ns; /* when pool_tick() must run */
	bool flush;       /* the fabric was given something since it was last flushed */
	uint32_t tells;   /* volumes with READY or FAILED to be told */
	bool paused;      /* what is done may not be told: a lease has run out */
	struct pool_counters count;
	struct fabric_event events[POOL_EVENTS];
};

/* ---- pool.c ---- */

/* pool_poll() looks at timers no later than this. */
static inline void pool_timer(struct pool *pool, int64_t when_ns)
{
	if (when_ns < pool->timer_ns)
		pool->timer_ns = when_ns;
}

static inline bool pool_mutates(const struct pool *pool, enum pool_mutation mutation)
{
	return (pool->options.mutations & mutation) != 0;
}

/* ---- volume.c ---- */

/* No operation of the volume is carried out from now on: each ends with `status`. */
void volume_break(struct volume *volume, int status);
/* Geometry is known: makes the pieces. -ENOMEM, -EINVAL: too many. */
int volume_make_pieces(struct volume *volume);
void volume_set_leased(struct volume *volume, bool leased);
/* Everything about leases that is due. */
void volume_renew(struct volume *volume, int64_t now_ns);
static inline bool volume_renews(const struct volume *volume)
{
	return volume->leased && (volume->phase == VOLUME_OPENING || volume->phase == VOLUME_OPEN);
}
/* Gives all that waits, for a peer or for a piece, so much more time. */
void volume_excuse(struct volume *volume, int64_t late_ns);
/* Whether what ended may be told: our lease, if we need one, has not run out. */
bool volume_may_tell(struct volume *volume);
/* ENDING: lets go of it, and frees it once nothing touches it any more. */
void volume_reap(struct volume *volume);
/* The same without waiting, while the pool closes; then volume_free(). */
void volume_end_now(struct volume *volume);
void volume_free(struct volume *volume);
static inline bool volume_is_open(const struct volume *volume)
{
	return volume->phase == VOLUME_OPEN;
}

/* ---- takeover.c ---- */

/* On a fiber: claims the volume and puts its copies into the pieces, DETACHED. */
int volume_take_over(struct volume *volume);

/* ---- operation.c ---- */

int operations_make(struct volume *volume);
void operations_free(struct volume *volume);
/* Starts whatever is ready, until nothing is. */
void operations_run(struct pool *pool);
/* What the fabric had no room for gets another chance. */
void operations_unblock(struct pool *pool);
/* Those that wait for this piece look again. */
void operations_of_piece(struct piece *piece);
/* All that wait look again: the volume has another phase. */
void operations_of_volume(struct volume *volume);
/* Discards behind those that wait for the volume to open. */
void operations_discard_waiting(struct volume *volume, uint64_t page, uint64_t end);
/* Ends those that have waited too long; lowers *timer_ns. */
void operations_expire(struct volume *volume, int64_t now_ns, int64_t *timer_ns);
/* Ends writes that wait for a piece that cannot be mapped. */
void operations_refuse(struct piece *piece, int status);
/* Begins copying a page to the FILLING copies; false: no operation is free. */
bool operation_copy(struct piece *piece, uint32_t page);
/* Whether some operation is on its way to the page, or waits for it. */
bool operation_on_page(struct volume *volume, uint64_t page);
/* The page is discarded, behind the operations on it. */
void operation_discard(struct volume *volume, struct piece *piece, uint64_t page);
void operation_wait(struct operation *op);
void operation_block(struct operation *op);
void operation_finish(struct operation *op, int status);

/* ---- io.c ---- */

/* Carries an operation on as far as it goes now. */
void io_start(struct operation *op);
/* A transfer of an operation ended. */
void io_done(struct pool *pool, uint64_t token, int status);

/* ---- piece.c ---- */

/* Something about the piece changed: a fiber looks after it. */
void piece_work(struct piece *piece);
/* Spawns fibers for pieces that need one. */
void pieces_spawn(struct pool *pool);
/* Moves what is due from `later` to `work`; lowers *timer_ns. */
void pieces_tick(struct pool *pool, int64_t now_ns, int64_t *timer_ns);
/* Every piece with a copy there. */
void pieces_of_node(struct pool_node *node);
/* On the piece's fiber: waits until something about it changes. */
int piece_wait(struct piece *piece, int64_t deadline_ns);
void piece_tell(struct piece *piece, int status);
/* Copies that missed nothing that was acknowledged. */
static inline unsigned piece_complete(const struct piece *piece)
{
	unsigned mask = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];
		bool complete = copy->state == COPY_LIVE ||
				(copy->state == COPY_DETACHED && copy->listed && !copy->gone);

		mask |= (complete ? 1u : 0u) << slot;
	}
	return mask;
}
static inline bool piece_is_mapped(const struct piece *piece)
{
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		if (piece->copies[slot].listed)
			return true;
	return false;
}
static inline uint32_t piece_copies_needed(const struct piece *piece)
{
	return piece->volume->record.replicas < 2 ? 1 : 2;
}

/* ---- copies.c ---- */

/* The connection of every copy on this node is gone. */
void copies_detach(struct pool_node *node);
/* The node refused an access: it does not serve this copy any more. */
void copy_refused(struct piece *piece, unsigned slot);
/* On a fiber each: */
int copy_allocate(struct piece *piece);
int copy_attach(struct piece *piece, unsigned slot);
/* Takes a copy that is in no map out of its place: waits for its transfers, frees the slab. */
void copy_leave(struct piece *piece, unsigned slot);
/* Frees its slab without waiting for an answer. */
void copy_give_back(struct piece *piece, unsigned slot);
/* A place for a copy on `node`; NULL: there is none. */
struct copy *copy_place(struct piece *piece, struct pool_node *node, uint64_t key, uint32_t epoch);
void copy_clear(struct piece *piece, unsigned slot);
/* Copies in a state. */
static inline unsigned copies_in(const struct piece *piece, enum copy_state state)
{
	unsigned mask = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		mask |= (piece->copies[slot].state == state ? 1u : 0u) << slot;
	return mask;
}

/* ---- publish.c ---- */

/*
 * On a fiber: makes the copies in `mask` the piece's map, under the next piece_epoch, in the
 * cluster's store if it has one. FILLING copies in the mask become LIVE.
 *
 * -EAGAIN: a copy in the mask went away meanwhile; look again. -ECANCELED; AFAR_ELEASE. Any other
 * error: the piece is in doubt.
 */
int piece_publish(struct piece *piece, unsigned mask);

/* ---- place.c ---- */

/* On a fiber: the node for another copy of the piece. AFAR_ENOSPACE_FAR; AFAR_EPEER_DOWN: none
 * of the nodes answers; -ECANCELED. */
int place_choose(struct piece *piece, struct pool_node **node);

/* ---- fill.c ---- */

/* On a fiber: copies some more pages to the FILLING copies. 0: all are copied; -EAGAIN: not yet. */
int fill_step(struct piece *piece);

/* ---- evict.c ---- */

void copy_take_notice(struct pool_node *node, const struct node_message *message);
void copy_tell_activity(struct pool_node *node, const struct node_message *message);
void copy_answer_notice(struct copy *copy, struct piece *piece, uint32_t answer);
void piece_count_access(struct piece *piece);

#endif
