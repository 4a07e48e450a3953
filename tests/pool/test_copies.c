/*
 * test_copies.c: nodes that die, return, lie or fill up, and what becomes of the copies on them
 */
#include "bed.h"

#include "afar/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES (3 * BED_SLAB_PAGES)

static struct bed *bed;
static struct bed_client *client;

/* Which transport: every test runs on both. */
static int open_shm(void **state)
{
	static enum bed_kind kind = BED_SHM;

	*state = &kind;
	return 0;
}

static int open_tcp(void **state)
{
	static enum bed_kind kind = BED_TCP;

	*state = &kind;
	return 0;
}

static int close_bed(void **state)
{
	bed_close(bed);
	bed = NULL;
	return 0;
}

static void open_bed(void **state, uint32_t nodes, uint32_t slabs_most,
		     const struct pool_options *options)
{
	bed = bed_open(*(enum bed_kind *)*state, false, nodes, slabs_most);
	client = bed_client(bed, 0, options);
}

static void fill_volume(struct volume *volume, uint64_t pages, uint64_t salt)
{
	for (uint64_t page = 0; page < pages; page++)
		assert_int_equal(client_write(client, volume, page, salt + page), 0);
}

static void expect_all(struct volume *volume, uint64_t pages, uint64_t salt)
{
	for (uint64_t page = 0; page < pages; page++) {
		uint64_t number = 0;

		assert_int_equal(client_read(client, volume, page, &number), 0);
		assert_int_equal(number, salt + page);
	}
}

static struct volume_stats stats_of(const struct volume *volume)
{
	struct volume_stats stats;

	volume_stats(volume, &stats);
	return stats;
}

static void the_death_of_a_node_loses_nothing_that_is_replicated(void **state)
{
	open_bed(state, 4, 64, NULL);

	struct volume *volume = client_volume(client, "v", PAGES, 2);

	fill_volume(volume, PAGES, 100);
	for (unsigned i = 0; i < 2; i++) {
		/* After each death everything is read at once, then made whole again. */
		bed_node_kill(&bed->nodes[i]);
		expect_all(volume, PAGES, 100);
		bed_until(bed, bed_used_slabs(bed) == 6);
		bed_settle(bed);
	}
	expect_all(volume, PAGES, 100);
	assert_true(stats_of(volume).copies_lost > 0);
	assert_int_equal(stats_of(volume).pages_lost, 0);
}

static void a_lost_copy_is_made_again_where_none_of_the_piece_is(void **state)
{
	open_bed(state, 3, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);
	unsigned holders = 0;

	fill_volume(volume, BED_SLAB_PAGES, 100);
	for (unsigned i = 0; i < 3; i++) {
		if (!bed_node_has(&bed->nodes[i], 100))
			continue;
		bed_node_kill(&bed->nodes[i]);
		break;
	}
	bed_until(bed, stats_of(volume).copies_rebuilt == 1);
	for (unsigned i = 0; i < 3; i++)
		if (bed->nodes[i].fabric) {
			assert_int_equal(bed_node_used_slabs(&bed->nodes[i]), 1);
			for (uint64_t page = 0; page < BED_SLAB_PAGES; page++)
				assert_true(bed_node_has(&bed->nodes[i], 100 + page));
			holders++;
		}
	assert_int_equal(holders, 2);
}

/* Writes go on all the time; afterwards the copy that was there before dies. */
static void pages_written_during_a_rebuild_are_in_the_new_copy(void **state)
{
	const struct pool_options slow = {.rebuild_bytes_per_s = 4 << 20};

	open_bed(state, 3, 64, &slow);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);
	uint64_t expected[BED_SLAB_PAGES];
	unsigned first = 3, survivor = 3;

	fill_volume(volume, BED_SLAB_PAGES, 100);
	for (unsigned i = 0; i < 3; i++) {
		if (!bed_node_has(&bed->nodes[i], 100))
			continue;
		survivor = first == 3 ? survivor : i;
		first = first == 3 ? i : first;
	}
	for (unsigned page = 0; page < BED_SLAB_PAGES; page++)
		expected[page] = 100 + page;
	bed_node_kill(&bed->nodes[first]);
	for (uint64_t i = 0; stats_of(volume).copies_rebuilt == 0; i++) {
		uint64_t page = test_random_below(BED_SLAB_PAGES);

		expected[page] = 1000 + i;
		assert_int_equal(client_write(client, volume, page, expected[page]), 0);
	}
	bed_settle(bed);
	bed_node_kill(&bed->nodes[survivor]);
	for (uint64_t page = 0; page < BED_SLAB_PAGES; page++) {
		uint64_t number = 0;

		assert_int_equal(client_read(client, volume, page, &number), 0);
		assert_int_equal(number, expected[page]);
	}
}

static void a_write_without_a_second_node_waits_and_then_fails(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", PAGES, 2);
	unsigned char buf[POOL_PAGE_BYTES];
	struct pool_event event;
	uint64_t number = 0;

	assert_int_equal(client_write(client, volume, 0, 1), 0);
	assert_int_equal(client_write(client, volume, 1, 2), 0);
	bed_node_kill(&bed->nodes[0]);
	/* On shm its memory takes writes until its end is noticed. */
	bed_until(bed, client_lost(client, 0));
	page_fill(buf, 3);
	client_submit(client, volume, VOLUME_WRITE, 0, buf, 7);
	bed_settle(bed);
	assert_false(client_take(client, volume, VOLUME_DONE, 7, &event));
	assert_int_equal(client_read(client, volume, 1, &number), 0);
	assert_int_equal(number, 2);

	/* Patience has an end. */
	client_skip(client, 60 * NS_PER_S);
	assert_int_equal(client_wait(client, volume, 7), AFAR_ENOSPACE_FAR);

	/* A node that comes back, empty, is as good as a new one. */
	bed_node_start(&bed->nodes[0]);
	client_skip(client, 2 * NS_PER_S);
	assert_int_equal(client_write(client, volume, 0, 4), 0);
	bed_until(bed, bed_used_slabs(bed) == 2);
	bed_settle(bed);
	bed_node_kill(&bed->nodes[1]);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 4);
	assert_int_equal(client_read(client, volume, 1, &number), 0);
	assert_int_equal(number, 2);
}

static void what_is_lost_is_an_error_and_never_zeros(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 1);
	struct pool_event event;
	uint64_t number = 0;
	unsigned holder;

	fill_volume(volume, 8, 100);
	holder = bed_node_has(&bed->nodes[0], 100) ? 0 : 1;
	bed_settle(bed);
	client->event_count = 0;
	bed_node_kill(&bed->nodes[holder]);
	bed_pump(bed);
	client_skip(client, 10 * NS_PER_S);
	bed_until(bed, client_take(client, volume, VOLUME_PIECE, 0, &event));
	assert_int_equal(event.status, AFAR_ELOST);
	for (uint64_t page = 0; page < 8; page++)
		assert_int_equal(client_read(client, volume, page, &number), AFAR_ELOST);
	assert_int_equal(client_read(client, volume, 8, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(stats_of(volume).pages_lost, 8);

	/* A write brings its page back, and no other; a discard makes it empty. */
	assert_int_equal(client_write(client, volume, 3, 5), 0);
	assert_int_equal(client_read(client, volume, 3, &number), 0);
	assert_int_equal(number, 5);
	assert_int_equal(client_read(client, volume, 4, &number), AFAR_ELOST);
	volume_discard(volume, 4, 1);
	assert_int_equal(client_read(client, volume, 4, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(client_read(client, volume, 5, &number), AFAR_ELOST);
}

static void a_node_that_was_away_for_a_moment_is_attached_again(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", PAGES, 1);

	fill_volume(volume, PAGES, 100);
	/* Both ends live; only their connections go. */
	for (unsigned i = 0; i < 2; i++)
		client_cut(client, i);
	expect_all(volume, PAGES, 100);
	fill_volume(volume, PAGES, 500);
	expect_all(volume, PAGES, 500);
	assert_int_equal(stats_of(volume).copies_lost, 0);
	assert_int_equal(bed_used_slabs(bed), 3);
}

static void a_node_that_comes_back_empty_has_lost_what_it_had(void **state)
{
	open_bed(state, 1, 64, NULL);

	struct volume *volume = client_volume(client, "v", PAGES, 1);
	uint64_t number = 0;

	fill_volume(volume, PAGES, 100);
	bed_node_kill(&bed->nodes[0]);
	bed_until(bed, client_lost(client, 0));
	bed_node_start(&bed->nodes[0]);
	assert_int_equal(client_read(client, volume, 0, &number), AFAR_ELOST);
	assert_int_equal(client_write(client, volume, 0, 9), 0);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 9);
}

static void a_damaged_page_is_read_from_the_other_copy_and_mended(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);

	unsigned mended = 0;

	/* Whichever copy a page is read from, it is damaged in one of the two rounds. */
	for (unsigned node = 0; node < 2; node++) {
		uint64_t salt = 100 * (node + 1);

		fill_volume(volume, BED_SLAB_PAGES, salt);
		for (unsigned page = 0; page < BED_SLAB_PAGES; page++)
			assert_int_equal(bed_node_scribble(&bed->nodes[node], salt + page), 1);
		expect_all(volume, BED_SLAB_PAGES, salt);
		for (unsigned page = 0; page < BED_SLAB_PAGES; page++)
			mended += bed_node_has(&bed->nodes[node], salt + page);
	}
	assert_int_equal(stats_of(volume).checksum_failures, BED_SLAB_PAGES);
	assert_int_equal(mended, BED_SLAB_PAGES);
	assert_int_equal(stats_of(volume).pages_lost, 0);
}

static void a_page_that_no_copy_has_right_is_an_error(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);
	uint64_t number = 0;

	fill_volume(volume, 2, 100);
	assert_int_equal(bed_node_scribble(&bed->nodes[0], 100), 1);
	assert_int_equal(bed_node_scribble(&bed->nodes[1], 100), 1);
	assert_int_equal(client_read(client, volume, 0, &number), AFAR_ELOST);
	assert_int_equal(client_read(client, volume, 1, &number), 0);
	assert_int_equal(client_write(client, volume, 0, 7), 0);
	assert_int_equal(client_read(client, volume, 0, &number), 0);
	assert_int_equal(number, 7);
}

/*
 * The published code wrote to disk alone while one peer was being disconnected, and went on
 * reading other peers' old pages. Here: a copy misses writes, then its node comes back with it.
 */
static void a_copy_that_missed_writes_is_never_read_again(void **state)
{
	open_bed(state, 3, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);
	unsigned away;

	fill_volume(volume, BED_SLAB_PAGES, 100);
	away = bed_node_has(&bed->nodes[0], 100) ? 0 : 1;
	bed->nodes[away].deaf = true;
	client_cut(client, away);
	/* Its grace runs out; the others go on without it. */
	for (unsigned page = 0; page < BED_SLAB_PAGES; page++) {
		client_skip(client, NS_PER_S);
		assert_int_equal(client_write(client, volume, page, 500 + page), 0);
	}
	bed_until(bed, stats_of(volume).copies_rebuilt == 1);
	bed->nodes[away].deaf = false;
	client_skip(client, 2 * NS_PER_S);
	bed_settle(bed);
	expect_all(volume, BED_SLAB_PAGES, 500);
	assert_int_equal(stats_of(volume).checksum_failures, 0);
}

static void three_copies_survive_two_deaths_at_once(void **state)
{
	open_bed(state, 5, 64, NULL);

	struct volume *volume = client_volume(client, "v", PAGES, 3);

	fill_volume(volume, PAGES, 100);
	assert_int_equal(bed_used_slabs(bed), 9);
	bed_node_kill(&bed->nodes[1]);
	bed_node_kill(&bed->nodes[3]);
	expect_all(volume, PAGES, 100);
	bed_until(bed, bed_used_slabs(bed) == 9);
	bed_settle(bed);
	expect_all(volume, PAGES, 100);
}

/* The caller's buffer comes back when both nodes have the page, not when the first has it. */
static void a_write_ends_when_every_copy_is_stored(void **state)
{
	open_bed(state, 2, 64, NULL);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);

	for (uint64_t i = 1; i <= 200; i++) {
		assert_int_equal(client_write(client, volume, i % BED_SLAB_PAGES, 1000 + i), 0);
		assert_true(bed_node_has(&bed->nodes[0], 1000 + i));
		assert_true(bed_node_has(&bed->nodes[1], 1000 + i));
	}
}

#define ON_BOTH(test)                                           \
	{#test " (shm)", test, open_shm, close_bed, NULL},      \
	{                                                       \
#test " (tcp)", test, open_tcp, close_bed, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_BOTH(the_death_of_a_node_loses_nothing_that_is_replicated),
		ON_BOTH(a_lost_copy_is_made_again_where_none_of_the_piece_is),
		ON_BOTH(pages_written_during_a_rebuild_are_in_the_new_copy),
		ON_BOTH(a_write_without_a_second_node_waits_and_then_fails),
		ON_BOTH(what_is_lost_is_an_error_and_never_zeros),
		ON_BOTH(a_node_that_was_away_for_a_moment_is_attached_again),
		ON_BOTH(a_node_that_comes_back_empty_has_lost_what_it_had),
		ON_BOTH(a_damaged_page_is_read_from_the_other_copy_and_mended),
		ON_BOTH(a_page_that_no_copy_has_right_is_an_error),
		ON_BOTH(a_copy_that_missed_writes_is_never_read_again),
		ON_BOTH(three_copies_survive_two_deaths_at_once),
		ON_BOTH(a_write_ends_when_every_copy_is_stored),
	};

	test_seed();
	return cmocka_run_group_tests_name("copies", tests, NULL, NULL);
}
