/*
 * test_takeover.c: volumes that outlive their owner, and owners that outlive their lease
 */
#include "bed.h"

#include "afar/error.h"
#include "pool/volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES (3 * BED_SLAB_PAGES)

static struct bed *bed;
static struct bed_client *first;

static int open_shm(void **state)
{
	bed = bed_open(BED_SHM, true, 4, 32);
	first = bed_client(bed, 0, NULL);
	return 0;
}

static int open_tcp(void **state)
{
	bed = bed_open(BED_TCP, true, 4, 32);
	first = bed_client(bed, 0, NULL);
	return 0;
}

static int close_bed(void **state)
{
	bed_close(bed);
	bed = NULL;
	return 0;
}

static void fill_volume(struct bed_client *client, struct volume *volume, uint64_t salt)
{
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(client_write(client, volume, page, salt + page), 0);
}

static void expect_all(struct bed_client *client, struct volume *volume, uint64_t salt)
{
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t number = 0;

		assert_int_equal(client_read(client, volume, page, &number), 0);
		assert_int_equal(number, salt + page);
	}
}

/* Takes the volume over, however often it must be asked for while the old lease runs out. */
static struct volume *take_over(struct bed_client *client, const char *name)
{
	for (unsigned i = 0; i < 200; i++) {
		struct volume *volume;
		int status = client_take_over(client, name, &volume);

		if (status == 0)
			return volume;
		assert_int_equal(status, AFAR_EOWNED);
		volume_close(volume);
		client_skip(client, NS_PER_S);
	}
	fail_msg("%s cannot be taken over", name);
	return NULL;
}

static void a_volume_that_was_closed_is_there_for_the_next(void **state)
{
	struct volume *volume = client_volume(first, "v", PAGES, 2);
	struct bed_client *second = bed_client(bed, 1, NULL);

	fill_volume(first, volume, 100);
	bed_client_close(first);
	volume = take_over(second, "v");
	assert_int_equal(volume_pages(volume), PAGES);
	expect_all(second, volume, 100);
	fill_volume(second, volume, 500);
	expect_all(second, volume, 500);
	assert_int_equal(bed_used_slabs(bed), 6);
}

/* The owner is stopped, as by SIGSTOP; it wakes up when another one has its volume. */
static void an_owner_that_lost_its_lease_does_nothing_more(void **state)
{
	struct volume *volume = client_volume(first, "v", PAGES, 2), *taken;
	struct bed_client *second = bed_client(bed, 1, NULL);
	unsigned char buf[POOL_PAGE_BYTES];
	struct pool_event event;
	uint64_t number = 0;

	fill_volume(first, volume, 100);
	first->deaf = true;
	taken = take_over(second, "v");
	assert_int_equal(client_write(second, taken, 7, 777), 0);

	page_fill(buf, 666);
	first->deaf = false;
	client_submit(first, volume, VOLUME_WRITE, 7, buf, 1);
	assert_int_equal(client_wait(first, volume, 1), AFAR_ELEASE);
	bed_until(bed, client_take(first, volume, VOLUME_FAILED, 0, &event));
	assert_int_equal(event.status, AFAR_ELEASE);
	assert_int_equal(client_read(first, volume, 8, &number), AFAR_ELEASE);
	assert_int_equal(client_read(second, taken, 7, &number), 0);
	assert_int_equal(number, 777);
	/* Its end takes nothing from the new owner. */
	volume_delete(volume);
	bed_settle(bed);
	assert_int_equal(client_read(second, taken, 8, &number), 0);
	assert_int_equal(number, 108);
}

static void a_volume_whose_owner_lives_is_not_taken(void **state)
{
	struct volume *volume = client_volume(first, "v", PAGES, 1), *taken;
	struct bed_client *second = bed_client(bed, 1, NULL);
	struct pool_event event;
	const struct volume_options again = {
		.name = "v", .size_bytes = POOL_PAGE_BYTES, .replicas = 1};
	struct volume *another;

	fill_volume(first, volume, 100);
	assert_int_equal(client_take_over(second, "v", &taken), AFAR_EOWNED);
	assert_int_equal(volume_open(second->pool, &again, &another), 0);
	bed_until(bed, client_take(second, another, VOLUME_FAILED, 0, &event));
	assert_int_equal(event.status, -EEXIST);
	assert_int_equal(client_take_over(second, "none", &taken), -ENOENT);
	expect_all(first, volume, 100);
}

static void after_a_takeover_copies_that_differ_are_an_error(void **state)
{
	struct volume *volume = client_volume(first, "v", PAGES, 2);
	struct bed_client *second = bed_client(bed, 1, NULL);
	uint64_t number = 0;
	unsigned damaged = 0;

	fill_volume(first, volume, 100);
	bed_client_close(first);
	for (unsigned i = 0; i < 4 && damaged == 0; i++)
		damaged += bed_node_scribble(&bed->nodes[i], 105);
	assert_int_equal(damaged, 1);
	volume = take_over(second, "v");
	assert_int_equal(client_read(second, volume, 4, &number), 0);
	assert_int_equal(number, 104);
	assert_int_equal(client_read(second, volume, 5, &number), AFAR_ELOST);
	assert_int_equal(client_write(second, volume, 5, 9), 0);
	assert_int_equal(client_read(second, volume, 5, &number), 0);
	assert_int_equal(number, 9);
}

static void what_was_lost_stays_lost_for_the_next_owner(void **state)
{
	struct volume *volume = client_volume(first, "v", PAGES, 1);
	struct bed_client *second;
	struct pool_event event;
	uint64_t number = 0;

	fill_volume(first, volume, 100);
	bed_settle(bed);
	first->event_count = 0;
	for (unsigned i = 0; i < 3; i++)
		bed_node_kill(&bed->nodes[i]);
	/* One of the three pieces may lie on the node that is left. */
	for (uint64_t left = bed_node_used_slabs(&bed->nodes[3]); left < 3; left++) {
		client_skip(first, 5 * NS_PER_S);
		bed_until(bed, client_take(first, volume, VOLUME_PIECE, 0, &event) ||
				       client_take(first, volume, VOLUME_PIECE, 1, &event) ||
				       client_take(first, volume, VOLUME_PIECE, 2, &event));
		assert_int_equal(event.status, AFAR_ELOST);
	}
	assert_int_equal(client_write(first, volume, 0, 1), 0);
	bed_client_close(first);
	second = bed_client(bed, 1, NULL);
	volume = take_over(second, "v");
	assert_int_equal(client_read(second, volume, 0, &number), 0);
	assert_int_equal(number, 1);
	for (uint64_t page = 1; page < PAGES; page++) {
		int status = client_read(second, volume, page, &number);

		assert_true(status == AFAR_ELOST || (status == 0 && number == 100 + page));
	}
}

/* The store's map: each change under a higher epoch, and never a node that holds nothing. */
static void every_map_that_is_published_has_a_higher_epoch(void **state)
{
	struct volume *volume = client_volume(first, "v", BED_SLAB_PAGES, 2);
	uint32_t epoch = 0;

	for (unsigned round = 0; round < 3; round++) {
		const struct volume_piece_record *entry = &volume->record.map[0];
		unsigned copies = 0;

		assert_int_equal(client_write(first, volume, round, 100 + round), 0);
		bed_settle(bed);
		assert_true(entry->piece_epoch > epoch);
		epoch = entry->piece_epoch;
		for (unsigned i = 0; i < CLUSTER_COPIES_MAX; i++)
			copies += entry->copies[i].key != 0;
		assert_int_equal(copies, 2);
		/* One of its nodes dies, and the map must change. */
		for (unsigned i = 0; i < 4; i++) {
			if (bed->nodes[i].fabric && bed->nodes[i].id == entry->copies[0].node) {
				bed_node_kill(&bed->nodes[i]);
				bed_until(bed, volume->record.map[0].piece_epoch > epoch &&
						       volume->stats.copies_rebuilt == round + 1);
				bed_node_start(&bed->nodes[i]);
				break;
			}
		}
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
		ON_BOTH(a_volume_that_was_closed_is_there_for_the_next),
		ON_BOTH(an_owner_that_lost_its_lease_does_nothing_more),
		ON_BOTH(a_volume_whose_owner_lives_is_not_taken),
		ON_BOTH(after_a_takeover_copies_that_differ_are_an_error),
		ON_BOTH(what_was_lost_stays_lost_for_the_next_owner),
		ON_BOTH(every_map_that_is_published_has_a_higher_epoch),
	};

	test_seed();
	return cmocka_run_group_tests_name("takeover", tests, NULL, NULL);
}
