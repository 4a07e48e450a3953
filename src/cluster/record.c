/*
 * record.c: encoding, and hostile decoding, of the cluster's records
 */
#include "cluster/record.h"

#include "afar/error.h"
#include "base/bits.h" /* asserts that memory is little-endian, as the records are */

#include <errno.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

/* The checksum of a record, as if its own field were 0. */
static uint32_t record_crc(const void *bytes, size_t len_bytes)
{
	struct record_head head;

	memcpy(&head, bytes, sizeof(head));
	head.crc = 0;

	/* The library's parameter lacks a const; it does not write. */
	uint32_t crc = crc32_iscsi((unsigned char *)&head, sizeof(head), ~0u);
	unsigned char *rest = (unsigned char *)bytes + sizeof(head);

	return crc32_iscsi(rest, (int)(len_bytes - sizeof(head)), crc);
}

void record_seal(struct record_head *head, enum record_kind kind, size_t len_bytes)
{
	*head = (struct record_head){
		.magic = RECORD_MAGIC,
		.version = RECORD_VERSION,
		.kind = (uint16_t)kind,
		.len_bytes = (uint32_t)len_bytes,
	};
	head->crc = record_crc(head, len_bytes);
}

/* Checks what all records have in common; the rest is then at least as long as the head says. */
static int check_head(const void *bytes, size_t len_bytes, enum record_kind kind)
{
	struct record_head head;

	if (len_bytes < sizeof(head) || len_bytes > RECORD_VOLUME_BYTES_MAX)
		return AFAR_ECHECKSUM;
	memcpy(&head, bytes, sizeof(head));
	if (head.magic != RECORD_MAGIC)
		return AFAR_ECHECKSUM;
	if (head.version != RECORD_VERSION)
		return AFAR_EVERSION;
	if (head.kind != kind || head.len_bytes != len_bytes ||
	    head.crc != record_crc(bytes, len_bytes))
		return AFAR_ECHECKSUM;
	return 0;
}

static int decode_fixed(const void *bytes, size_t len_bytes, enum record_kind kind, void *record,
			size_t record_bytes)
{
	int err = check_head(bytes, len_bytes, kind);

	if (err)
		return err;
	if (len_bytes != record_bytes)
		return -EPROTO;
	memcpy(record, bytes, record_bytes);
	return 0;
}

static bool ends_within(const char *text, size_t size_bytes)
{
	return memchr(text, '\0', size_bytes) != NULL;
}

static bool lease_is_sane(int64_t lease_ns)
{
	return lease_ns >= RECORD_LEASE_NS_MIN && lease_ns <= RECORD_LEASE_NS_MAX;
}

int record_decode_cluster(const void *bytes, size_t len_bytes, struct record_cluster *record)
{
	struct record_cluster found;
	int err = decode_fixed(bytes, len_bytes, RECORD_CLUSTER, &found, sizeof(found));

	if (!err)
		*record = found;
	return err;
}

int record_decode_member(const void *bytes, size_t len_bytes, struct record_member *record)
{
	struct record_member found;
	int err = decode_fixed(bytes, len_bytes, RECORD_MEMBER, &found, sizeof(found));

	if (err)
		return err;
	if (found.id == 0 || found.addresses == 0 || found.addresses > CLUSTER_ADDRESSES_MAX ||
	    !lease_is_sane(found.lease_ns) || !ends_within(found.boot_id, 37))
		return -EPROTO;
	for (uint32_t i = 0; i < CLUSTER_ADDRESSES_MAX; i++) {
		if (!ends_within(found.address[i], CLUSTER_ADDRESS_BYTES))
			return -EPROTO;
	}
	*record = found;
	return 0;
}

int record_decode_lease(const void *bytes, size_t len_bytes, struct record_lease *record)
{
	struct record_lease found;
	int err = decode_fixed(bytes, len_bytes, RECORD_LEASE, &found, sizeof(found));

	if (err)
		return err;
	if (found.volume == 0 || !lease_is_sane(found.lease_ns))
		return -EPROTO;
	*record = found;
	return 0;
}

int record_decode_volume(const void *bytes, size_t len_bytes, struct volume_record *volume)
{
	struct record_volume found;
	int err = check_head(bytes, len_bytes, RECORD_VOLUME);

	if (err)
		return err;
	if (len_bytes < sizeof(found))
		return -EPROTO;
	memcpy(&found, bytes, sizeof(found));
	/* The count is bounded before it is multiplied. */
	if (found.pieces > CLUSTER_PIECES_MAX ||
	    len_bytes != sizeof(found) + found.pieces * sizeof(*volume->map))
		return -EPROTO;
	if (found.id == 0 || found.slab_bytes == 0 || found.replicas == 0 ||
	    found.replicas > CLUSTER_COPIES_MAX || !ends_within(found.name, sizeof(found.name)))
		return -EPROTO;

	struct volume_piece_record *map = calloc(found.pieces + 1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	memcpy(map, (const unsigned char *)bytes + sizeof(found), found.pieces * sizeof(*map));
	*volume = (struct volume_record){
		.id = found.id,
		.size_bytes = found.size_bytes,
		.slab_bytes = found.slab_bytes,
		.owner = found.owner,
		.owner_nonce = found.owner_nonce,
		.owner_epoch = found.owner_epoch,
		.replicas = found.replicas,
		.pieces = found.pieces,
		.map = map,
	};
	memcpy(volume->name, found.name, sizeof(volume->name));
	return 0;
}

size_t record_volume_bytes(const struct volume_record *volume)
{
	assert(volume->pieces <= CLUSTER_PIECES_MAX);
	return sizeof(struct record_volume) + volume->pieces * sizeof(*volume->map);
}

void record_encode_volume(const struct volume_record *volume, struct record_volume *record)
{
	*record = (struct record_volume){
		.id = volume->id,
		.size_bytes = volume->size_bytes,
		.slab_bytes = volume->slab_bytes,
		.owner = volume->owner,
		.owner_nonce = volume->owner_nonce,
		.owner_epoch = volume->owner_epoch,
		.replicas = volume->replicas,
		.pieces = volume->pieces,
	};
	memcpy(record->name, volume->name, strnlen(volume->name, sizeof(record->name) - 1));
	memcpy(record->map, volume->map, volume->pieces * sizeof(*volume->map));
	record_seal(&record->head, RECORD_VOLUME, record_volume_bytes(volume));
}
