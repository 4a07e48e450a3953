/*
 * test_volume.c: reads, writes and discards of one volume, on shm and on tcp
 */
#include "bed.h"

#include "afar/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct bed *bed;
static struct bed_client *client;

static void open_bed(enum bed_kind kind, uint32_t nodes, uint32_t slabs_most)
{
	bed = bed_open(kind, false, nodes, slabs_most);
	client = bed_client(bed, 0, NULL);
}

static int open_shm(void **state)
{
	open_bed(BED_SHM, 3, 64);
	return 0;
}

static int open_tcp(void **state)
{
	open_bed(BED_TCP, 3, 64);
	return 0;
}

static int close_bed(void **state)
{
	bed_close(bed);
	return 0;
}

static void a_page_never_written_reads_as_zeros(void **state)
{
	struct volume *volume = client_volume(client, "v", 100, 1);
	uint64_t number = 1;

	assert_int_equal(client_read(client, volume, 99, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(bed_used_slabs(bed), 0);
}

/* Many operations at once, in any order, over pages of several pieces. */
static void what_was_written_last_is_read(void **state)
{
	enum { PAGES = 100, DEPTH = 64, ROUNDS = 60 };
	struct volume *volume = client_volume(client, "v", PAGES, 2);
	uint64_t expected[PAGES] = {0}, seen[DEPTH];
	unsigned char *bufs = aligned_alloc(POOL_PAGE_BYTES, DEPTH * POOL_PAGE_BYTES);
	uint64_t next = 1;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct volume_io ios[DEPTH];

		for (unsigned i = 0; i < DEPTH; i++) {
			uint64_t page = test_random_below(PAGES);
			unsigned char *buf = bufs + i * POOL_PAGE_BYTES;

			ios[i] = (struct volume_io){.page = page, .buf = buf, .token = i};
			ios[i].op = test_random_below(2) ? VOLUME_WRITE : VOLUME_READ;
			if (ios[i].op == VOLUME_WRITE) {
				expected[page] = next++;
				page_fill(buf, expected[page]);
			}
			seen[i] = expected[page];
		}
		assert_int_equal(volume_submit(volume, ios, DEPTH), DEPTH);
		for (unsigned i = 0; i < DEPTH; i++) {
			assert_int_equal(client_wait(client, volume, i), 0);
			assert_int_equal(page_number(ios[i].buf), seen[i]);
		}
	}
	free(bufs);
}

static void operations_on_one_page_take_effect_in_order(void **state)
{
	enum { N = 40 };
	struct volume *volume = client_volume(client, "v", 8, 2);
	static unsigned char bufs[2 * N][POOL_PAGE_BYTES];
	struct volume_io ios[2 * N];

	for (unsigned i = 0; i < N; i++) {
		page_fill(bufs[2 * i], 100 + i);
		ios[2 * i] = (struct volume_io){VOLUME_WRITE, 3, bufs[2 * i], 2 * i};
		ios[2 * i + 1] = (struct volume_io){VOLUME_READ, 3, bufs[2 * i + 1], 2 * i + 1};
	}
	assert_int_equal(volume_submit(volume, ios, 2 * N), 2 * N);
	for (unsigned i = 0; i < 2 * N; i++)
		assert_int_equal(client_wait(client, volume, i), 0);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(page_number(bufs[2 * i + 1]), 100 + i);
}

static void a_page_beyond_the_end_is_out_of_range(void **state)
{
	struct volume *volume = client_volume(client, "v", 100, 1);
	uint64_t number;

	assert_int_equal(client_read(client, volume, 100, &number), -ERANGE);
	assert_int_equal(client_write(client, volume, UINT64_MAX, 1), -ERANGE);
}

static void no_more_operations_are_accepted_than_the_limit(void **state)
{
	struct volume *volume = client_volume(client, "v", 8, 1);
	static unsigned char buf[POOL_PAGE_BYTES];
	static struct volume_io ios[POOL_OPERATIONS_MAX + 1];
	struct pool_event event;

	for (unsigned i = 0; i <= POOL_OPERATIONS_MAX; i++)
		ios[i] = (struct volume_io){VOLUME_READ, 0, buf, i};
	assert_int_equal(volume_submit(volume, ios, POOL_OPERATIONS_MAX + 1), POOL_OPERATIONS_MAX);
	assert_int_equal(volume_submit(volume, ios, 1), 0);
	bed_until(bed, client->event_count == POOL_OPERATIONS_MAX);
	assert_true(client_take(client, volume, VOLUME_DONE, 0, &event));
	assert_int_equal(volume_submit(volume, ios, 1), 1);
}

static void operations_submitted_before_the_volume_is_ready_are_done(void **state)
{
	const struct volume_options options = {.size_bytes = 8 * POOL_PAGE_BYTES, .replicas = 2};
	struct volume *volume;
	unsigned char buf[POOL_PAGE_BYTES], back[POOL_PAGE_BYTES];

	assert_int_equal(volume_open(client->pool, &options, &volume), 0);
	assert_string_not_equal(volume_name(volume), "");
	page_fill(buf, 5);
	client_submit(client, volume, VOLUME_WRITE, 7, buf, 1);
	client_submit(client, volume, VOLUME_READ, 7, back, 2);
	assert_int_equal(client_wait(client, volume, 1), 0);
	assert_int_equal(client_wait(client, volume, 2), 0);
	assert_int_equal(page_number(back), 5);
}

static void a_discarded_piece_gives_its_slabs_back(void **state)
{
	struct volume *volume = client_volume(client, "v", 3 * BED_SLAB_PAGES, 2);
	struct volume_stats stats;
	uint64_t number;

	for (uint64_t page = 0; page < 3 * BED_SLAB_PAGES; page++)
		assert_int_equal(client_write(client, volume, page, page + 1), 0);
	assert_int_equal(bed_used_slabs(bed), 6);
	volume_stats(volume, &stats);
	assert_int_equal(stats.pages_held, 3 * BED_SLAB_PAGES);

	volume_discard(volume, 1, BED_SLAB_PAGES - 2);
	bed_settle(bed);
	assert_int_equal(bed_used_slabs(bed), 6);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 1);
	assert_int_equal(client_read(client, volume, 1, &number), 0);
	assert_int_equal(number, 0);

	volume_discard(volume, 0, 2 * BED_SLAB_PAGES);
	bed_until(bed, bed_used_slabs(bed) == 2);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(client_read(client, volume, 2 * BED_SLAB_PAGES, &number), 0);
	assert_int_equal(number, 2 * BED_SLAB_PAGES + 1);

	assert_int_equal(client_write(client, volume, 0, 77), 0);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 77);
}

static void a_discard_stands_in_line_with_writes(void **state)
{
	struct volume *volume = client_volume(client, "v", 8, 2);
	unsigned char bufs[4][POOL_PAGE_BYTES];

	page_fill(bufs[0], 1);
	page_fill(bufs[2], 2);
	client_submit(client, volume, VOLUME_WRITE, 3, bufs[0], 0);
	volume_discard(volume, 3, 1);
	client_submit(client, volume, VOLUME_READ, 3, bufs[1], 1);
	client_submit(client, volume, VOLUME_WRITE, 3, bufs[2], 2);
	client_submit(client, volume, VOLUME_READ, 3, bufs[3], 3);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(client_wait(client, volume, i), 0);
	assert_int_equal(page_number(bufs[1]), 0);
	assert_int_equal(page_number(bufs[3]), 2);
}

static void a_deleted_volume_leaves_nothing_behind(void **state)
{
	struct volume *volume = client_volume(client, "v", 4 * BED_SLAB_PAGES, 2);
	static unsigned char buf[POOL_PAGE_BYTES];
	struct pool_event event;
	unsigned cancelled = 0;

	for (uint64_t page = 0; page < 3 * BED_SLAB_PAGES; page++)
		assert_int_equal(client_write(client, volume, page, page + 1), 0);
	for (uint64_t i = 0; i < 20; i++)
		client_submit(client, volume, VOLUME_WRITE, 3 * BED_SLAB_PAGES, buf, i);
	volume_delete(volume);
	bed_until(bed, bed_used_slabs(bed) == 0);
	for (uint64_t i = 0; i < 20; i++) {
		bed_until(bed, client_take(client, volume, VOLUME_DONE, i, &event));
		cancelled += event.status == -ECANCELED;
	}
	assert_int_equal(cancelled, 20);
}

static void a_closed_pool_leaves_nothing_behind(void **state)
{
	struct volume *volume = client_volume(client, "v", 4 * BED_SLAB_PAGES, 2);

	for (uint64_t page = 0; page < 3 * BED_SLAB_PAGES; page++)
		assert_int_equal(client_write(client, volume, page, page + 1), 0);
	bed_client_close(client);
	bed_until(bed, bed_used_slabs(bed) == 0);
}

static void options_that_mean_nothing_are_refused(void **state)
{
	struct volume_options options = {.size_bytes = POOL_PAGE_BYTES, .replicas = 1};
	struct volume *volume;
	uint32_t replicas;

	options.size_bytes = 1;
	assert_int_equal(volume_open(client->pool, &options, &volume), -EINVAL);
	options.size_bytes = POOL_PAGE_BYTES;
	options.replicas = 0;
	assert_int_equal(volume_open(client->pool, &options, &volume), -EINVAL);
	options.replicas = POOL_REPLICAS_MAX + 1;
	assert_int_equal(volume_open(client->pool, &options, &volume), -EINVAL);
	options.replicas = 1;
	options.takeover = true;
	assert_int_equal(volume_open(client->pool, &options, &volume), -ENOTSUP);
	assert_int_equal(volume_protection_parse("none", &replicas), 0);
	assert_int_equal(replicas, 1);
	assert_int_equal(volume_protection_parse("replicas=3", &replicas), 0);
	assert_int_equal(replicas, 3);
	assert_int_equal(volume_protection_parse("replicas=4", &replicas), -EINVAL);
	assert_int_equal(volume_protection_parse("replicas=", &replicas), -EINVAL);
	assert_int_equal(volume_protection_parse("parity=4+1", &replicas), -EINVAL);
}

static void a_full_cluster_says_so_at_once(void **state)
{
	struct volume *volume;

	bed_close(bed);
	open_bed(BED_SHM, 2, 2);
	volume = client_volume(client, "v", 16 * BED_SLAB_PAGES, 1);
	for (uint64_t piece = 0; piece < 4; piece++)
		assert_int_equal(client_write(client, volume, piece * BED_SLAB_PAGES, 1), 0);
	assert_int_equal(client_write(client, volume, 4 * BED_SLAB_PAGES, 1), AFAR_ENOSPACE_FAR);

	/* What is given back can be had again. */
	volume_discard(volume, 0, BED_SLAB_PAGES);
	bed_until(bed, bed_used_slabs(bed) == 3);
	client_skip(client, NS_PER_S);
	assert_int_equal(client_write(client, volume, 4 * BED_SLAB_PAGES, 1), 0);
}

#define ON_BOTH(test)                                           \
	{#test " (shm)", test, open_shm, close_bed, NULL},      \
	{                                                       \
#test " (tcp)", test, open_tcp, close_bed, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_BOTH(a_page_never_written_reads_as_zeros),
		ON_BOTH(what_was_written_last_is_read),
		ON_BOTH(operations_on_one_page_take_effect_in_order),
		ON_BOTH(a_page_beyond_the_end_is_out_of_range),
		ON_BOTH(no_more_operations_are_accepted_than_the_limit),
		ON_BOTH(operations_submitted_before_the_volume_is_ready_are_done),
		ON_BOTH(a_discarded_piece_gives_its_slabs_back),
		ON_BOTH(a_discard_stands_in_line_with_writes),
		ON_BOTH(a_deleted_volume_leaves_nothing_behind),
		ON_BOTH(a_closed_pool_leaves_nothing_behind),
		ON_BOTH(options_that_mean_nothing_are_refused),
		ON_BOTH(a_full_cluster_says_so_at_once),
	};

	test_seed();
	return cmocka_run_group_tests_name("volume", tests, NULL, NULL);
}
