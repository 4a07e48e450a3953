/*
 * test_record.c: records come back as they went in, and nothing else is taken for one
 */
#include "cluster/record.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed;

/* Each call another number; from the seed alone. */
static uint64_t next_random(void)
{
	seed += UINT64_C(0x9e3779b97f4a7c15);
	return mix_u64(seed);
}

static struct record_member a_member(void)
{
	struct record_member member = {
		.id = 17,
		.lease_counter = 3,
		.lease_ns = NS_PER_S,
		.addresses = 2,
		.boot_id = "0a1b",
		.address = {"tcp://10.0.0.1:7000", "shm:/run/afar/17.sock"},
	};

	record_seal(&member.head, RECORD_MEMBER, sizeof(member));
	return member;
}

static struct record_lease a_lease(void)
{
	struct record_lease lease = {.volume = 5,
				     .owner = 6,
				     .lease_counter = 7,
				     .lease_ns = NS_PER_S,
				     .owner_epoch = 8};

	record_seal(&lease.head, RECORD_LEASE, sizeof(lease));
	return lease;
}

static struct volume_piece_record pieces[3] = {
	{.piece_epoch = 1, .copies = {{.node = 1, .key = 2}, {.node = 3, .key = 4}}},
	{.piece_epoch = 0},
	{.piece_epoch = 9, .copies = {{.node = 5, .key = 6}}},
};

static struct volume_record a_volume(void)
{
	return (struct volume_record){
		.name = "warehouse",
		.id = 42,
		.size_bytes = UINT64_C(3) << 26,
		.slab_bytes = UINT64_C(1) << 26,
		.owner = 7,
		.owner_nonce = 8,
		.owner_epoch = 9,
		.replicas = 2,
		.pieces = 3,
		.map = pieces,
	};
}

static void a_member_comes_back(void **state)
{
	struct record_member in = a_member();
	struct record_member out;

	assert_int_equal(record_decode_member(&in, sizeof(in), &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void a_lease_comes_back(void **state)
{
	struct record_lease in = a_lease();
	struct record_lease out;

	assert_int_equal(record_decode_lease(&in, sizeof(in), &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void a_volume_comes_back_with_its_map(void **state)
{
	struct volume_record in = a_volume();
	struct volume_record out;
	size_t len_bytes = record_volume_bytes(&in);
	struct record_volume *bytes = test_malloc(len_bytes);

	record_encode_volume(&in, bytes);
	assert_int_equal(record_decode_volume(bytes, len_bytes, &out), 0);
	assert_string_equal(out.name, in.name);
	assert_int_equal(out.id, in.id);
	assert_int_equal(out.size_bytes, in.size_bytes);
	assert_int_equal(out.slab_bytes, in.slab_bytes);
	assert_int_equal(out.owner, in.owner);
	assert_int_equal(out.owner_nonce, in.owner_nonce);
	assert_int_equal(out.owner_epoch, in.owner_epoch);
	assert_int_equal(out.replicas, in.replicas);
	assert_int_equal(out.pieces, in.pieces);
	assert_memory_equal(out.map, in.map, sizeof(pieces));
	volume_record_release(&out);
	test_free(bytes);
}

/* Memory of exactly this length, so that the sanitizer sees a read beyond it. */
static void *exactly(const void *bytes, size_t len_bytes)
{
	void *copy = malloc(len_bytes + (len_bytes == 0));

	assert_non_null(copy);
	memcpy(copy, bytes, len_bytes);
	return copy;
}

static int decode_any(const void *bytes, size_t len_bytes)
{
	struct record_cluster cluster;
	struct record_member member;
	struct record_lease lease;
	struct volume_record volume;
	void *copy = exactly(bytes, len_bytes);
	int accepted = record_decode_cluster(copy, len_bytes, &cluster) == 0;

	accepted += record_decode_member(copy, len_bytes, &member) == 0;
	accepted += record_decode_lease(copy, len_bytes, &lease) == 0;
	if (record_decode_volume(copy, len_bytes, &volume) == 0) {
		accepted++;
		volume_record_release(&volume);
	}
	free(copy);
	return accepted;
}

static void refuse_all_changes(const void *good, size_t len_bytes)
{
	unsigned char *bad = exactly(good, len_bytes);

	assert_int_equal(decode_any(good, len_bytes), 1);
	for (size_t bit = 0; bit < len_bytes * 8; bit++) {
		bad[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_int_equal(decode_any(bad, len_bytes), 0);
		bad[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	for (size_t short_bytes = 0; short_bytes < len_bytes; short_bytes++)
		assert_int_equal(decode_any(good, short_bytes), 0);
	free(bad);
}

static void every_changed_bit_and_every_cut_is_noticed(void **state)
{
	struct record_member member = a_member();
	struct record_lease lease = a_lease();
	struct volume_record volume = a_volume();
	size_t volume_bytes = record_volume_bytes(&volume);
	struct record_volume *bytes = test_malloc(volume_bytes);

	record_encode_volume(&volume, bytes);
	refuse_all_changes(&member, sizeof(member));
	refuse_all_changes(&lease, sizeof(lease));
	refuse_all_changes(bytes, volume_bytes);
	test_free(bytes);
}

static void fields_out_of_range_are_refused_under_a_right_checksum(void **state)
{
	struct record_member member;
	struct record_lease lease;
	struct record_lease lease_out;
	struct record_member out;

#define REFUSE_MEMBER(change)                                                                   \
	do {                                                                                    \
		member = a_member();                                                            \
		change;                                                                         \
		record_seal(&member.head, RECORD_MEMBER, sizeof(member));                       \
		assert_int_equal(record_decode_member(&member, sizeof(member), &out), -EPROTO); \
	} while (0)
	REFUSE_MEMBER(member.id = 0);
	REFUSE_MEMBER(member.addresses = 0);
	REFUSE_MEMBER(member.addresses = CLUSTER_ADDRESSES_MAX + 1);
	REFUSE_MEMBER(member.lease_ns = 0);
	REFUSE_MEMBER(member.lease_ns = INT64_MIN);
	REFUSE_MEMBER(member.lease_ns = INT64_MAX);
	REFUSE_MEMBER(memset(member.address[1], 'x', CLUSTER_ADDRESS_BYTES));
	REFUSE_MEMBER(memset(member.boot_id, 'x', sizeof(member.boot_id)));

	lease = a_lease();
	lease.lease_ns = -1;
	record_seal(&lease.head, RECORD_LEASE, sizeof(lease));
	assert_int_equal(record_decode_lease(&lease, sizeof(lease), &lease_out), -EPROTO);
}

static void another_version_is_told_apart_from_damage(void **state)
{
	struct record_member member = a_member();
	struct record_member out;

	member.head.version++;
	assert_int_equal(record_decode_member(&member, sizeof(member), &out), AFAR_EVERSION);
}

static void a_volume_whose_count_lies_is_refused(void **state)
{
	static const uint32_t counts[] = {0,
					  2,
					  4,
					  CLUSTER_PIECES_MAX,
					  CLUSTER_PIECES_MAX + 1,
					  76695845 /* times 56 is 24 beyond 2^32 */,
					  UINT32_MAX};
	struct volume_record volume = a_volume();
	struct volume_record out;
	size_t len_bytes = record_volume_bytes(&volume);
	struct record_volume *bytes = test_malloc(len_bytes);

	for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
		record_encode_volume(&volume, bytes);
		bytes->pieces = counts[i];
		record_seal(&bytes->head, RECORD_VOLUME, len_bytes);
		assert_int_equal(record_decode_volume(bytes, len_bytes, &out), -EPROTO);
	}
	test_free(bytes);
}

static void random_bytes_are_never_a_record(void **state)
{
	unsigned char bytes[1024];

	for (unsigned run = 0; run < 20000; run++) {
		size_t len_bytes = next_random() % sizeof(bytes);
		struct record_head head = {
			.magic = RECORD_MAGIC,
			.version = (uint16_t)(next_random() % 3),
			.kind = (uint16_t)(next_random() % 6),
			.len_bytes = (uint32_t)len_bytes,
			.crc = (uint32_t)next_random(),
		};

		for (size_t i = 0; i < len_bytes; i++)
			bytes[i] = (unsigned char)next_random();
		if (run % 2)
			memcpy(bytes, &head, min_size(len_bytes, sizeof(head)));
		assert_int_equal(decode_any(bytes, len_bytes), 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_member_comes_back),
		cmocka_unit_test(a_lease_comes_back),
		cmocka_unit_test(a_volume_comes_back_with_its_map),
		cmocka_unit_test(every_changed_bit_and_every_cut_is_noticed),
		cmocka_unit_test(fields_out_of_range_are_refused_under_a_right_checksum),
		cmocka_unit_test(another_version_is_told_apart_from_damage),
		cmocka_unit_test(a_volume_whose_count_lies_is_refused),
		cmocka_unit_test(random_bytes_are_never_a_record),
	};
	const char *wanted = getenv("AFAR_SEED"); /* NOLINT(concurrency-mt-unsafe): no thread yet */

	seed = wanted ? strtoull(wanted, NULL, 0) : env_random(env_real());
	print_message("AFAR_SEED=%" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
