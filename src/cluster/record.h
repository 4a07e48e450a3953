/*
 * record.h: the records of a cluster as bytes
 *
 *   Fixed-width, little-endian, behind a common head with a magic, a version, a kind, the length
 *   and a checksum of everything. What is read may have been written by anybody: a decoder checks
 *   lengths, counts, ends of strings and ranges, and fills its result only if all is well.
 *
 *     kind      name in the store    bytes
 *     CLUSTER   cluster              24
 *     MEMBER    members/HEX16        600
 *     VOLUME    volumes/NAME         136, and 56 a piece
 *     LEASE     leases/NAME          72
 *
 *   A volume's lease is a record of its own, because it changes every second and the map may have
 *   megabytes; the lease also is what a claim swaps.
 *
 *   All decoders: 0, AFAR_ECHECKSUM: not a whole record of this kind; AFAR_EVERSION; -EPROTO: the
 *   checksum is right, but a field is out of range. They never touch a byte beyond len_bytes.
 */
#ifndef AFAR_CLUSTER_RECORD_H
#define AFAR_CLUSTER_RECORD_H

#include "cluster/cluster.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_MAGIC   0x72636661u /* "afcr" */
#define RECORD_VERSION 1u

#define RECORD_LEASE_NS_MIN (INT64_C(10) * 1000 * 1000)
#define RECORD_LEASE_NS_MAX (INT64_C(3600) * 1000 * 1000 * 1000)

enum record_kind {
	RECORD_CLUSTER = 1,
	RECORD_MEMBER,
	RECORD_VOLUME,
	RECORD_LEASE,
};

struct record_head {
	uint32_t magic;
	uint16_t version;
	uint16_t kind; /* enum record_kind */
	uint32_t len_bytes;
	uint32_t crc; /* of the whole record, with 0 here */
};

struct record_cluster {
	struct record_head head;
	uint64_t id;
};

struct record_member {
	struct record_head head;
	uint64_t id;
	uint64_t lease_counter;
	int64_t lease_ns;
	uint32_t addresses;
	uint32_t reserved;
	char boot_id[40];
	char address[CLUSTER_ADDRESSES_MAX][CLUSTER_ADDRESS_BYTES];
};

struct record_volume {
	struct record_head head;
	char name[CLUSTER_VOLUME_NAME_BYTES];
	uint64_t id;
	uint64_t size_bytes, slab_bytes;
	uint64_t owner, owner_nonce;
	uint32_t owner_epoch;
	uint32_t replicas;
	uint32_t pieces;
	uint32_t reserved;
	struct volume_piece_record map[];
};

struct record_lease {
	struct record_head head;
	uint64_t volume;
	uint64_t owner; /* 0: nobody; the next claim succeeds at once */
	uint64_t owner_nonce;
	uint64_t lease_counter;
	int64_t lease_ns;
	uint32_t owner_epoch;
	uint32_t reserved;
	uint64_t reserved_too;
};

static_assert(sizeof(struct record_head) == 16, "version 1");
static_assert(sizeof(struct record_cluster) == 24, "version 1");
static_assert(sizeof(struct record_member) == 600, "version 1");
static_assert(offsetof(struct record_member, address) == 88, "version 1");
static_assert(sizeof(struct volume_piece_record) == 56, "version 1");
static_assert(sizeof(struct record_volume) == 136, "version 1");
static_assert(offsetof(struct record_volume, map) == 136, "version 1");
static_assert(sizeof(struct record_lease) == 72, "version 1");

#define RECORD_VOLUME_BYTES_MAX \
	(sizeof(struct record_volume) + CLUSTER_PIECES_MAX * sizeof(struct volume_piece_record))

/* Fills the head of a record whose other bytes are set; its checksum makes it whole. */
void record_seal(struct record_head *head, enum record_kind kind, size_t len_bytes);

int record_decode_cluster(const void *bytes, size_t len_bytes, struct record_cluster *record);
int record_decode_member(const void *bytes, size_t len_bytes, struct record_member *record);
int record_decode_lease(const void *bytes, size_t len_bytes, struct record_lease *record);

/* -ENOMEM. The map is the caller's: volume_record_release(). Fields of the lease are 0. */
int record_decode_volume(const void *bytes, size_t len_bytes, struct volume_record *volume);

/* How many bytes the volume takes, and those bytes. */
size_t record_volume_bytes(const struct volume_record *volume);
void record_encode_volume(const struct volume_record *volume, struct record_volume *record);

#endif
