/*
 * pool.h: far volumes, made of slabs on many nodes
 *
 * What lives here
 *
 *   A *volume* is a linear range of pages of 4 KiB that lives in other processes' memory. It is
 *   cut into *pieces* of one slab each. A piece is mapped at its first write: for each copy that
 *   the volume's protection asks for, two nodes are asked how full they are, preferring those
 *   that hold none of this volume, and the less loaded one gives a slab (power of two choices,
 *   Infiniswap section 4.3). A volume has one owner at a time, and this is its side.
 *
 * The life of one write
 *
 *     volume_submit(WRITE page)                      piece mapped? else its fiber maps it first
 *       crc of the page, salted (volume, page, piece_epoch)
 *       fabric_write to every live copy              all copies in flight at once
 *     pool_poll() ─► volume_done                     only when every live copy is stored, and with
 *                                                    replicas=N at least two (N >= 2)
 *   and of one read
 *
 *     volume_submit(READ page)   never written: zeros, at once; else fabric_read from one copy
 *       checksum right ─► done   wrong, or the peer went down ─► the next copy
 *                                none left ─► AFAR_ELOST: never zeros, never a hang
 *
 * Invariants
 *
 *   P1  A write is acknowledged only when its protection holds from then on.
 *   P2  A read returns the last acknowledged write of its page, or one that was in flight beside
 *       it, or an error. A page in flight is ordered: operations on one page take effect in the
 *       order of their submission.
 *   P3  piece_epoch rises at every remap of the piece; a checksum is salted with the epoch under
 *       which it was stored, so neither a stale copy nor a zeroed one ever validates.
 *   P4  The map of a volume is in the cluster's store before any slab of it holds data that was
 *       acknowledged (dir: clusters; tcp:// and local: ones keep it in the owner only).
 *   P5  A lost copy is replaced in the background, paced, on a node that holds no copy of the
 *       piece, while reads and writes go on.
 *
 * Who does what
 *
 *   A pool, its volumes and its fabric belong to one thread. Control work (map, remap, rebuild,
 *   takeover) runs on fibers that pool_poll() steps; data is a state machine per operation,
 *   allocated when the volume is opened. Nothing waits; nothing calls upwards.
 */
#ifndef AFAR_POOL_H
#define AFAR_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cluster;
struct env;
struct fabric;
struct log;
struct metrics;
struct pool;
struct volume;

#define POOL_PAGE_BYTES     4096u
#define POOL_REPLICAS_MAX   3u
#define POOL_OPERATIONS_MAX 1024u /* of one volume, not yet taken by pool_poll() */
#define POOL_NODES_MAX      256u
#define VOLUME_NAME_BYTES   64u

/* Safety mechanisms that a test may take out, to see that it notices (pool_options.mutations). */
enum pool_mutation {
	POOL_MUTATE_EPOCHS = 1u << 0,    /* piece_epoch does not rise at a remap */
	POOL_MUTATE_CHECKSUMS = 1u << 1, /* what comes back is not verified */
	POOL_MUTATE_ACK_ORDER = 1u << 2, /* acknowledged when the first copy is stored */
	POOL_MUTATE_REBUILD = 1u << 3,   /* a rebuild does not copy pages written meanwhile */
};

struct pool_options {
	uint64_t owner; /* our id, as the fabric's options.id */
	struct log *log;
	struct metrics *metrics;
	uint64_t mutations;
	uint64_t rebuild_bytes_per_s; /* pace of background copying; 0: 200 MiB/s */
	int64_t request_ns;           /* a node that does not answer a control request; 0: 2 s */
	int64_t grace_ns;             /* before a copy that went away is replaced; 0: 200 ms */
	int64_t reattach_ns; /* before the last copy that went away counts as lost; 0: 3 s */
	int64_t patience_ns; /* before an operation that cannot go on fails; 0: 10 s */
};

/*
 * A pool over the nodes of an open cluster. It connects to them as they are needed. The fabric
 * is polled by the pool alone. Both must outlive the pool.
 */
int pool_open(struct env *env, struct fabric *fabric, struct cluster *cluster,
	      const struct pool_options *options, struct pool **pool);
/* Closes its volumes as volume_close() does. */
void pool_close(struct pool *pool);

struct volume_options {
	char name[VOLUME_NAME_BYTES]; /* "": one is made up; told by volume_name() */
	uint64_t size_bytes; /* a multiple of POOL_PAGE_BYTES; space is taken at first write */
	uint32_t replicas;   /* 1: protection none; 2 or 3: replicas=N */
	bool takeover;       /* take it from a dead owner, instead of making a new one */
};

/* "none" or "replicas=N" to a number of copies. -EINVAL: something else. */
int volume_protection_parse(const char *text, uint32_t *replicas);

/*
 * Makes a volume, or takes one over. *volume can be used at once; pool_poll() tells of it with
 * VOLUME_READY or VOLUME_FAILED, and operations submitted before wait for that.
 *
 * A takeover needs a dir: cluster: it fences the old owner on every node, raises the owner epoch,
 * and reads the map from the store. Checksums of pages died with the old owner: they are taken
 * from the surviving copies, which must agree (all copies equal, or the page reads AFAR_ELOST).
 *
 * -EINVAL: size, name or copies; -EEXIST: the name is taken; -ENOMEM; -ENOTSUP: takeover where
 * the cluster keeps no map; AFAR_EOWNED: the owner's lease is alive.
 */
int volume_open(struct pool *pool, const struct volume_options *options, struct volume **volume);

/*
 * Frees every slab of the volume and forgets it. Operations not done end with -ECANCELED; the
 * pointer names the volume in their events until the last was taken. Before a takeover is
 * VOLUME_READY it may not be ours yet: then it is only let go.
 */
void volume_delete(struct volume *volume);
/* Lets go of the volume: on dir: clusters it can be taken over, elsewhere it is deleted. */
void volume_close(struct volume *volume);

const char *volume_name(const struct volume *volume);
uint64_t volume_id(const struct volume *volume);
uint64_t volume_pages(const struct volume *volume);
uint64_t volume_piece_pages(const struct volume *volume); /* pages of one piece */
void volume_set_context(struct volume *volume, void *context);
void *volume_context(const struct volume *volume);

enum volume_op { VOLUME_READ, VOLUME_WRITE };

struct volume_io {
	enum volume_op op;
	uint64_t page;
	void *buf; /* one page; the pool's until done. A write's bytes must not change meanwhile */
	uint64_t token; /* comes back with the completion */
};

/*
 * Starts n operations; returns how many were accepted, in order: fewer when POOL_OPERATIONS_MAX
 * are outstanding. A page beyond the end is accepted and ends with -ERANGE.
 */
unsigned volume_submit(struct volume *volume, const struct volume_io *ios, unsigned n);

/*
 * The pages hold nothing any more: they read as zeros, and a piece of which no page holds
 * anything gives its slabs back to the nodes. Ordered with operations as a write is. Before a
 * takeover is VOLUME_READY only what was submitted before it is discarded.
 */
void volume_discard(struct volume *volume, uint64_t page, uint64_t n);

enum pool_event_kind {
	VOLUME_DONE,  /* volume, token, status: 0, AFAR_ELOST, AFAR_ENOSPACE_FAR, -ECANCELED, … */
	VOLUME_READY, /* volume */
	VOLUME_FAILED, /* volume, status: AFAR_EOWNED, AFAR_ELEASE, …: only close it */
	VOLUME_PIECE,  /* volume, token = piece, status: 0: mapped or remapped; AFAR_ELOST;
			  AFAR_ENOSPACE_FAR: cannot be mapped now */
};

struct pool_event {
	enum pool_event_kind kind;
	struct volume *volume;
	uint64_t token;
	int status;
};

/* Does all that can be done now and hands out up to `max` events. Never waits. */
unsigned pool_poll(struct pool *pool, struct pool_event *events, unsigned max);
/* When pool_poll() must run again even if the fabric has nothing; INT64_MAX: never. */
int64_t pool_deadline_ns(const struct pool *pool);

/*
 * Direct access, for processes of this host that copy pages themselves (src/pager): a volume
 * with one copy whose piece lies on a shm node. volume_piece_open() maps the piece if it is not
 * (VOLUME_PIECE tells when); volume_piece_direct() then says where it is. While a piece is held
 * the pool never moves it, and the node is told KEEP when it wants the slab back.
 */
struct volume_piece_direct {
	int memfd; /* the pool's; duplicate it */
	uint64_t size_bytes;
	uint32_t piece_epoch;
};
int volume_piece_open(struct volume *volume, uint64_t piece);
/* -EAGAIN: not mapped yet; -ENOTSUP: not on shm, or several copies; AFAR_ELOST. */
int volume_piece_direct(struct volume *volume, uint64_t piece, bool hold,
			struct volume_piece_direct *direct);
/* Ends the hold and gives the slab back. */
void volume_piece_free(struct volume *volume, uint64_t piece);

struct volume_stats {
	uint64_t reads, writes, read_retries, checksum_failures, pages_lost;
	uint64_t pieces_mapped, pieces_remapped, copies_lost, copies_rebuilt, bytes_rebuilt;
	uint64_t evictions_answered, pages_held;
};
void volume_stats(const struct volume *volume, struct volume_stats *stats);

#endif
