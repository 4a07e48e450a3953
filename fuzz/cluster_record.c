/*
 * cluster_record.c: whatever is in the store, decoding a record stays inside it
 *
 *   A checksum keeps a fuzzer out, so each input is tried as it is, and again with the head that
 *   makes it a whole record of the kind that its first byte asks for.
 */
#include "cluster/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void decode(const void *bytes, size_t len_bytes)
{
	struct record_cluster cluster;
	struct record_member member;
	struct record_lease lease;
	struct volume_record volume;

	record_decode_cluster(bytes, len_bytes, &cluster);
	if (record_decode_member(bytes, len_bytes, &member) == 0 &&
	    (member.addresses > CLUSTER_ADDRESSES_MAX || strlen(member.boot_id) > 36))
		abort();
	record_decode_lease(bytes, len_bytes, &lease);
	if (record_decode_volume(bytes, len_bytes, &volume) != 0)
		return;
	if (volume.pieces > CLUSTER_PIECES_MAX || record_volume_bytes(&volume) != len_bytes)
		abort();
	volume_record_release(&volume);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	decode(bytes, len_bytes);
	if (len_bytes < sizeof(struct record_head) || len_bytes > RECORD_VOLUME_BYTES_MAX)
		return 0;

	void *sealed = malloc(len_bytes);

	if (!sealed)
		return 0;
	memcpy(sealed, bytes, len_bytes);
	record_seal(sealed, (enum record_kind)(bytes[0] % 5), len_bytes);
	decode(sealed, len_bytes);
	free(sealed);
	return 0;
}
