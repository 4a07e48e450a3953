/*
 * cluster.h: who is in, who owns what
 *
 * What lives here
 *
 *   The small truth of a cluster: its members, with leases, and its volumes, with their owners
 *   and maps. It is kept as records in a *configuration store* (store.h): each has a name, a few
 *   KiB of bytes and a version, and is changed by compare-and-swap. Nothing on a data path comes
 *   here.
 *
 *   A cluster is named by a URI:
 *
 *     dir:/path             records are files of a directory (this host, or a shared folder)
 *     tcp://a:1,b:2         a fixed list of nodes; no store: volumes live and die with their owner
 *     shm:/path/x.sock      the same with a node of this host; sim://1,2 in the simulator. A list
 *                           may mix them: tcp://a:1,b:2,shm:/path/x.sock
 *     local:                a node is started for the occasion by whoever sees this (cli, run);
 *                           cluster_open() refuses it
 *
 * The records of a dir: cluster
 *
 *     cluster               format version, cluster id          (made by the first that opens it)
 *     members/NODEID        addresses, boot id, lease
 *     volumes/NAME          volume id, size, copies, owner id, owner nonce, owner_epoch,
 *                           and for each piece its epoch and where its copies are
 *     leases/NAME           who owns the volume, and the counter that shows that he lives
 *
 * The life of a volume's owner
 *
 *     owner A                                       owner B
 *     volume_record_create                          volume_record_claim ─► -EAGAIN: it watches
 *     volume_record_renew, every quarter interval   volume_record_claim ─► AFAR_EOWNED: it moved
 *     (dies)                                        volume_record_claim ─► -EAGAIN, -EAGAIN, …
 *                                                     swaps leases/NAME: owner B, owner_epoch + 1
 *     (or is only late: update, renew                 rewrites volumes/NAME with the new owner
 *      ─► AFAR_ELEASE)                              ─► 0: the map is B's
 *
 *   Whoever swaps the lease is the owner. It then rewrites the volume's record, so that an update
 *   which the old owner began before fails by its version: B sees all of A's updates, or A fails.
 *
 * Leases
 *
 *   A lease is an interval, renewed by whoever holds it with a rising counter; clocks of different
 *   machines are never compared: who waits for a lease to end watches the counter stand still for
 *   the interval by its own clock (plus a quarter). Whoever failed to renew for an interval by its
 *   own clock stops acting until a renewal succeeds: if it does, nobody claimed meanwhile; if it
 *   says AFAR_ELEASE, somebody did. Shortest: 10 ms on a local directory, 1 s on any other.
 *
 * Who owns memory, and which thread
 *
 *   A cluster is used by one thread. Its calls block for as long as the store's files do.
 *
 * Who may open a volume twice: nobody. volume_record_claim() is refused with AFAR_EOWNED while the
 * owner's lease counter moves; afterwards it succeeds once, by compare-and-swap, with owner_epoch
 * raised: nodes then fence the old owner (node/protocol.h CLAIM).
 */
#ifndef AFAR_CLUSTER_H
#define AFAR_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cluster;
struct env;
struct log;

#define CLUSTER_MEMBERS_MAX       256u
#define CLUSTER_ADDRESSES_MAX     4u
#define CLUSTER_ADDRESS_BYTES     128u
#define CLUSTER_VOLUME_NAME_BYTES 64u
#define CLUSTER_COPIES_MAX        3u
#define CLUSTER_PIECES_MAX        65536u /* of one volume */
#define CLUSTER_LEASE_NS_DEFAULT  (INT64_C(2000) * 1000 * 1000)

struct cluster_member {
	uint64_t
		id; /* in lists: the place from 1; the peer's own is learned when it is connected */
	uint32_t addresses;
	char address[CLUSTER_ADDRESSES_MAX][CLUSTER_ADDRESS_BYTES];
	char boot_id[37]; /* "" where it is not known (lists) */
	bool alive;       /* its lease moves, or it was not watched long enough to say no */
};

/*
 * Opens a cluster by its URI. A dir: cluster is made if the directory is empty or missing.
 *
 * -EINVAL: not a URI, with the reason logged; -ENOTEMPTY: the directory holds something else;
 * AFAR_EVERSION; any errno of files.
 */
int cluster_open(struct env *env, const char *uri, struct log *log, struct cluster **cluster);
void cluster_close(struct cluster *cluster);

/* Whether there is a store, so that volumes outlive their owner. */
bool cluster_has_store(const struct cluster *cluster);

/*
 * The members as of the last look; `members` has room for `max`. Returns how many there are.
 * cluster_poll() looks again when it is time (100 ms) and tells whether anything changed.
 */
unsigned cluster_members(struct cluster *cluster, struct cluster_member *members, unsigned max);
bool cluster_poll(struct cluster *cluster);
int64_t cluster_deadline_ns(const struct cluster *cluster);

/*
 * Node: enters its member record, or takes over the one that it left there when it died;
 * cluster_poll() renews it afterwards. lease_ns 0: CLUSTER_LEASE_NS_DEFAULT. In a cluster without
 * a store nothing happens: 0.
 *
 * -EINVAL: no id, no address, or a lease out of range; any errno of files.
 */
int cluster_join(struct cluster *cluster, const struct cluster_member *self, int64_t lease_ns);
/* Takes the member record out. 0 also if there is none. */
int cluster_leave(struct cluster *cluster);

/* One copy of one piece. key 0: no copy here. */
struct volume_copy {
	uint64_t node; /* member id */
	uint64_t key;
};

/* Pages of the piece were lost: where its copies have zeros, or it has none, data may have been. */
#define VOLUME_PIECE_HOLES 1u

struct volume_piece_record {
	uint32_t piece_epoch; /* 0: never mapped */
	uint32_t flags;       /* VOLUME_PIECE_HOLES */
	struct volume_copy copies[CLUSTER_COPIES_MAX];
};

struct volume_record {
	char name[CLUSTER_VOLUME_NAME_BYTES];
	uint64_t id;
	uint64_t size_bytes, slab_bytes;
	uint64_t owner;
	uint64_t owner_nonce;
	uint32_t owner_epoch;
	uint32_t replicas;
	uint32_t pieces;
	uint32_t reserved;
	uint64_t lease_counter;
	int64_t lease_ns;                /* 0: CLUSTER_LEASE_NS_DEFAULT */
	uint64_t version, lease_version; /* the store's: leave them as they are */
	struct volume_piece_record
		*map; /* `pieces` entries, in memory of whoever holds the record */
};

/*
 * Volumes (clusters with a store; else -ENOTSUP). Each call does a few reads and writes of the
 * store; only create, claim and update carry the map. All may return any errno of files, which
 * leaves open whether the change was made: call again.
 *
 * create: enters a volume that we own; owner_epoch becomes 1. The map is the caller's.
 *   -EEXIST: the name is taken. -EINVAL: name (letters, digits, '-', '_', '.', no point first),
 *   id 0, owner 0, pieces, replicas or lease out of range.
 * claim: fills *record (map allocated: volume_record_release()) and makes us its owner with
 *   owner_epoch + 1. -ENOENT; AFAR_EOWNED: the owner lives; -EAGAIN: it was not watched long
 *   enough yet: call again after a while; AFAR_ECONFLICT: somebody else was faster.
 * update: writes the record (map included) if we still own it. AFAR_ELEASE: we do not.
 * renew: the lease only. AFAR_ELEASE.
 * remove: forgets the volume if we own it. AFAR_ELEASE.
 */
int volume_record_create(struct cluster *cluster, struct volume_record *record);
int volume_record_claim(struct cluster *cluster, const char *name, uint64_t owner,
			uint64_t owner_nonce, struct volume_record *record);
int volume_record_update(struct cluster *cluster, struct volume_record *record);
int volume_record_renew(struct cluster *cluster, struct volume_record *record);
/* Lets go: the next claim succeeds at once. The record is nobody's then (owner 0). */
int volume_record_give_up(struct cluster *cluster, struct volume_record *record);
int volume_record_remove(struct cluster *cluster, struct volume_record *record);
void volume_record_release(struct volume_record *record);

/*
 * Reads a record without owning the volume, to look at it (map allocated: volume_record_release()).
 * -ENOENT; -EPROTO, AFAR_EVERSION, AFAR_ECHECKSUM: what is there is no record of ours.
 */
int volume_record_read(struct cluster *cluster, const char *name, struct volume_record *record);
/* Calls `each` with the name of every volume of the cluster. -ENOTSUP: there is no store. */
int volume_record_list(struct cluster *cluster, void (*each)(void *context, const char *name),
		       void *context);

#endif
