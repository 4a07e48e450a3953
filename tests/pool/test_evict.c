/*
 * test_evict.c: nodes that want memory back, nodes that are chosen, and pieces held directly
 */
#include "bed.h"

#include "afar/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES (4 * BED_SLAB_PAGES)

static struct bed *bed;
static struct bed_client *client;

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

static void open_bed(void **state, uint32_t nodes, uint32_t slabs_most)
{
	bed = bed_open(*(enum bed_kind *)*state, false, nodes, slabs_most);
	client = bed_client(bed, 0, NULL);
}

static struct volume_stats stats_of(const struct volume *volume)
{
	struct volume_stats stats;

	volume_stats(volume, &stats);
	return stats;
}

static void fill_volume(struct volume *volume, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		assert_int_equal(client_write(client, volume, page, 100 + page), 0);
}

static void expect_all(struct volume *volume, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++) {
		uint64_t number = 0;

		assert_int_equal(client_read(client, volume, page, &number), 0);
		assert_int_equal(number, 100 + page);
	}
}

static void set_slabs(struct bed_node *node, uint64_t slabs)
{
	node_set_capacity(node->node, slabs * BED_SLAB_BYTES);
}

/* ---- eviction ---- */

static void a_single_copy_moves_when_its_node_wants_it_back(void **state)
{
	open_bed(state, 2, 16);

	struct volume *volume = client_volume(client, "v", PAGES, 1);

	fill_volume(volume, PAGES);
	assert_int_equal(bed_used_slabs(bed), 4);
	set_slabs(&bed->nodes[0], 0);
	bed_until(bed, bed_node_used_slabs(&bed->nodes[0]) == 0);
	expect_all(volume, PAGES);
	assert_int_equal(bed_node_used_slabs(&bed->nodes[1]), 4);
	assert_int_equal(stats_of(volume).copies_lost, 0);
	assert_int_equal(stats_of(volume).pages_lost, 0);
}

static void a_move_takes_along_what_is_written_meanwhile(void **state)
{
	open_bed(state, 2, 16);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 1);
	unsigned from;
	uint64_t expected[BED_SLAB_PAGES], number = 0;

	fill_volume(volume, BED_SLAB_PAGES);
	for (unsigned page = 0; page < BED_SLAB_PAGES; page++)
		expected[page] = 100 + page;
	from = bed_node_used_slabs(&bed->nodes[0]) ? 0 : 1;
	set_slabs(&bed->nodes[from], 0);
	for (uint64_t i = 0; bed_node_used_slabs(&bed->nodes[from]) > 0; i++) {
		uint64_t page = test_random_below(BED_SLAB_PAGES);

		expected[page] = 1000 + i;
		assert_int_equal(client_write(client, volume, page, expected[page]), 0);
	}
	for (uint64_t page = 0; page < BED_SLAB_PAGES; page++) {
		assert_int_equal(client_read(client, volume, page, &number), 0);
		assert_int_equal(number, expected[page]);
	}
}

static void with_nowhere_to_move_to_the_node_keeps_the_last_copy(void **state)
{
	open_bed(state, 1, 16);

	struct volume *volume = client_volume(client, "v", PAGES, 1);

	fill_volume(volume, PAGES);
	set_slabs(&bed->nodes[0], 1);
	bed_until(bed, stats_of(volume).evictions_answered >= 3);
	bed_settle(bed);
	assert_int_equal(bed_node_used_slabs(&bed->nodes[0]), 4);
	expect_all(volume, PAGES);
}

/* Of two copies neither can be spared: until another was full, one failure would lose all. */
static void one_of_two_copies_is_moved_and_not_dropped(void **state)
{
	open_bed(state, 2, 16);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 2);

	fill_volume(volume, BED_SLAB_PAGES);
	set_slabs(&bed->nodes[0], 0);
	bed_until(bed, stats_of(volume).evictions_answered >= 1);
	bed_settle(bed);
	assert_int_equal(bed_node_used_slabs(&bed->nodes[0]), 1);
	expect_all(volume, BED_SLAB_PAGES);
}

static void one_of_three_copies_is_given_up_at_once(void **state)
{
	open_bed(state, 3, 16);

	struct volume *volume = client_volume(client, "v", BED_SLAB_PAGES, 3);

	fill_volume(volume, BED_SLAB_PAGES);
	set_slabs(&bed->nodes[1], 0);
	bed_until(bed, bed_node_used_slabs(&bed->nodes[1]) == 0);
	expect_all(volume, BED_SLAB_PAGES);
	assert_int_equal(client_write(client, volume, 0, 100), 0);
	bed_node_kill(&bed->nodes[2]);
	expect_all(volume, BED_SLAB_PAGES);
}

/* ---- placement ---- */

static void copies_of_a_piece_lie_on_different_nodes(void **state)
{
	open_bed(state, 4, 64);

	struct volume *volume = client_volume(client, "v", 8 * BED_SLAB_PAGES, 3);

	for (uint64_t piece = 0; piece < 8; piece++) {
		unsigned holders = 0;

		assert_int_equal(client_write(client, volume, piece * BED_SLAB_PAGES, 100 + piece),
				 0);
		for (unsigned i = 0; i < 4; i++)
			holders += bed_node_has(&bed->nodes[i], 100 + piece);
		assert_int_equal(holders, 3);
	}
}

static void nodes_that_hold_none_of_the_volume_come_first(void **state)
{
	open_bed(state, 8, 64);

	struct volume *volume = client_volume(client, "v", 8 * BED_SLAB_PAGES, 1);

	for (uint64_t piece = 0; piece < 8; piece++)
		assert_int_equal(client_write(client, volume, piece * BED_SLAB_PAGES, 1), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(bed_node_used_slabs(&bed->nodes[i]), 1);
}

/*
 * Power of two choices (the published code had one, by mistake). Of 4000 simulated placements of
 * 640 slabs on 32 nodes, the fullest node had at most 23 with two choices, and 24 or more with one.
 */
static void two_choices_balance_the_nodes(void **state)
{
	enum { NODES = 32, PIECES = 640 };
	uint64_t most = 0;

	open_bed(state, NODES, 64);

	struct volume *volume = client_volume(client, "v", PIECES * BED_SLAB_PAGES, 1);

	for (uint64_t piece = 0; piece < PIECES; piece++)
		assert_int_equal(client_write(client, volume, piece * BED_SLAB_PAGES, 1), 0);
	for (unsigned i = 0; i < NODES; i++)
		if (bed_node_used_slabs(&bed->nodes[i]) > most)
			most = bed_node_used_slabs(&bed->nodes[i]);
	assert_int_equal(bed_used_slabs(bed), PIECES);
	assert_in_range(most, PIECES / NODES, PIECES / NODES + 4);
}

static void the_emptier_of_two_nodes_is_chosen(void **state)
{
	open_bed(state, 2, 40);

	struct volume *first = client_volume(client, "a", 20 * BED_SLAB_PAGES, 1);

	/* One node is filled while the other is dead. */
	bed_node_kill(&bed->nodes[1]);
	for (uint64_t piece = 0; piece < 20; piece++)
		assert_int_equal(client_write(client, first, piece * BED_SLAB_PAGES, 1), 0);
	bed_node_start(&bed->nodes[1]);

	/* The pool tries a node that did not answer again when others are no longer better. */
	struct bed_client *other = bed_client(bed, 1, NULL);
	struct volume *second = client_volume(other, "b", 20 * BED_SLAB_PAGES, 1);

	for (uint64_t piece = 0; piece < 20; piece++)
		assert_int_equal(client_write(other, second, piece * BED_SLAB_PAGES, 1), 0);
	assert_in_range(bed_node_used_slabs(&bed->nodes[1]), 19, 20);
}

static void a_node_without_room_is_passed_over(void **state)
{
	open_bed(state, 2, 16);
	set_slabs(&bed->nodes[0], 0);

	struct volume *volume = client_volume(client, "v", 8 * BED_SLAB_PAGES, 1);

	for (uint64_t piece = 0; piece < 8; piece++)
		assert_int_equal(client_write(client, volume, piece * BED_SLAB_PAGES, 1), 0);
	assert_int_equal(bed_node_used_slabs(&bed->nodes[1]), 8);
}

/* ---- direct access ---- */

static int open_piece(struct volume *volume, uint64_t piece)
{
	struct pool_event event;

	assert_int_equal(volume_piece_open(volume, piece), 0);
	bed_until(bed, client_take(client, volume, VOLUME_PIECE, piece, &event));
	return event.status;
}

static void a_direct_piece_is_memory_that_both_see(void **state)
{
	open_bed(state, 1, 16);

	struct volume *volume = client_volume(client, "v", PAGES, 1);
	struct volume_piece_direct direct;
	unsigned char *memory;
	uint64_t number = 0;

	assert_int_equal(volume_piece_direct(volume, 1, true, &direct), -EAGAIN);
	assert_int_equal(open_piece(volume, 1), 0);
	assert_int_equal(volume_piece_direct(volume, 1, true, &direct), 0);
	assert_int_equal(direct.size_bytes, BED_SLAB_BYTES);
	assert_true(direct.piece_epoch > 0);
	memory = mmap(NULL, BED_SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, direct.memfd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	page_fill(memory + 3 * POOL_PAGE_BYTES, 77);
	assert_true(bed_node_has(&bed->nodes[0], 77));
	assert_int_equal(client_read(client, volume, BED_SLAB_PAGES + 3, &number), 0);
	assert_int_equal(number, 77);
	munmap(memory, BED_SLAB_BYTES);

	volume_piece_free(volume, 1);
	bed_until(bed, bed_used_slabs(bed) == 0);
	assert_int_equal(volume_piece_direct(volume, 1, true, &direct), -EAGAIN);
}

static void a_direct_piece_is_kept_when_its_node_wants_it_back(void **state)
{
	open_bed(state, 2, 16);

	struct volume *volume = client_volume(client, "v", PAGES, 1);
	struct volume_piece_direct direct;
	unsigned holder;

	assert_int_equal(open_piece(volume, 0), 0);
	assert_int_equal(volume_piece_direct(volume, 0, true, &direct), 0);
	holder = bed_node_used_slabs(&bed->nodes[0]) ? 0 : 1;
	set_slabs(&bed->nodes[holder], 0);
	bed_until(bed, stats_of(volume).evictions_answered >= 1);
	bed_settle(bed);
	assert_int_equal(bed_node_used_slabs(&bed->nodes[holder]), 1);
}

static void a_direct_piece_that_is_lost_says_so(void **state)
{
	open_bed(state, 1, 16);

	struct volume *volume = client_volume(client, "v", PAGES, 1);
	struct volume_piece_direct direct;
	struct pool_event event;
	uint64_t number;

	assert_int_equal(open_piece(volume, 0), 0);
	assert_int_equal(volume_piece_direct(volume, 0, true, &direct), 0);
	bed_node_kill(&bed->nodes[0]);
	bed_until(bed, client_lost(client, 0));
	client_skip(client, 10 * NS_PER_S);
	bed_until(bed, client_take(client, volume, VOLUME_PIECE, 0, &event));
	assert_int_equal(event.status, AFAR_ELOST);
	assert_int_equal(volume_piece_direct(volume, 0, true, &direct), AFAR_ELOST);
	assert_int_equal(client_read(client, volume, 0, &number), AFAR_ELOST);

	/* Freed and opened again, it is a new one. */
	bed_node_start(&bed->nodes[0]);
	volume_piece_free(volume, 0);
	client_skip(client, 2 * NS_PER_S);
	assert_int_equal(open_piece(volume, 0), 0);
	assert_int_equal(volume_piece_direct(volume, 0, true, &direct), 0);
}

static void direct_access_is_refused_where_it_cannot_be(void **state)
{
	open_bed(state, 3, 16);

	struct volume *two = client_volume(client, "two", PAGES, 2);
	struct volume *one = client_volume(client, "one", PAGES, 1);

	assert_int_equal(volume_piece_open(two, 0), -ENOTSUP);
	assert_int_equal(volume_piece_open(one, 4), -ERANGE);
	assert_int_equal(client_write(client, one, 0, 1), 0);
	assert_int_equal(volume_piece_open(one, 0), -EBUSY);
	if (*(enum bed_kind *)*state == BED_TCP)
		assert_int_equal(open_piece(one, 1), AFAR_ENOSPACE_FAR);
}

#define ON_BOTH(test)                                           \
	{#test " (shm)", test, open_shm, close_bed, NULL},      \
	{                                                       \
#test " (tcp)", test, open_tcp, close_bed, NULL \
	}
#define ON_SHM(test)                                            \
	{                                                       \
#test " (shm)", test, open_shm, close_bed, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_BOTH(a_single_copy_moves_when_its_node_wants_it_back),
		ON_BOTH(a_move_takes_along_what_is_written_meanwhile),
		ON_BOTH(with_nowhere_to_move_to_the_node_keeps_the_last_copy),
		ON_BOTH(one_of_two_copies_is_moved_and_not_dropped),
		ON_BOTH(one_of_three_copies_is_given_up_at_once),
		ON_BOTH(copies_of_a_piece_lie_on_different_nodes),
		ON_BOTH(nodes_that_hold_none_of_the_volume_come_first),
		ON_SHM(two_choices_balance_the_nodes),
		ON_BOTH(the_emptier_of_two_nodes_is_chosen),
		ON_BOTH(a_node_without_room_is_passed_over),
		ON_SHM(a_direct_piece_is_memory_that_both_see),
		ON_SHM(a_direct_piece_is_kept_when_its_node_wants_it_back),
		ON_SHM(a_direct_piece_that_is_lost_says_so),
		ON_BOTH(direct_access_is_refused_where_it_cannot_be),
	};

	test_seed();
	return cmocka_run_group_tests_name("evict", tests, NULL, NULL);
}
