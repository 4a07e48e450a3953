/*
 * test_node.c: what a node promises (N1 to N5 of node/node.h), over each real transport
 */
#include "stage.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define VOLUME UINT64_C(0x7001)
#define SLABS  8u

/* ---- fixtures: the initial state is the scheme ---- */

static int begin(void **state)
{
	struct stage *stage = test_malloc(sizeof(*stage));

	stage_begin(stage, *state, SLABS, NULL);
	*state = stage;
	return 0;
}

static int end(void **state)
{
	struct stage *stage = *state;

	stage_end(stage);
	test_free(stage);
	return 0;
}

static bool is_shm(const struct stage *stage)
{
	return strcmp(stage->scheme, "shm") == 0;
}

/* ---- the life of a slab ---- */

static void a_slab_is_allocated_written_and_read(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_slab_name slab = client_slab(client, VOLUME, 3);
	struct fabric_window *window = client_window(client, &slab);

	assert_true(client_sees(client, window, 0));
	assert_int_equal(client_fill(client, window, 0xab), 0);
	assert_true(client_sees(client, window, 0xab));
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	assert_int_equal(stage_stats(stage).used_bytes, STAGE_SLAB_BYTES);
	assert_int_equal(stage_stats(stage).owners, 1);
	assert_int_equal(client_free(client, &slab, 1), 0);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
	assert_int_equal(stage_stats(stage).owners, 0);
	assert_int_equal(client_free(client, &slab, 1), -ENOENT);
}

static void a_query_tells_how_full_the_node_is(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {.query.volume = VOLUME};

	client_slab(client, VOLUME, 0);
	client_slab(client, VOLUME + 1, 0);
	client_slab(client, VOLUME + 1, 1);
	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
	assert_int_equal(message.status.capacity_bytes, SLABS * STAGE_SLAB_BYTES);
	assert_int_equal(message.status.used_bytes, 3 * STAGE_SLAB_BYTES);
	assert_int_equal(message.status.free_bytes, (SLABS - 3) * STAGE_SLAB_BYTES);
	assert_int_equal(message.status.volume_bytes, STAGE_SLAB_BYTES);
	assert_int_equal(message.status.slab_bytes, STAGE_SLAB_BYTES);
}

static void an_allocation_that_comes_again_gets_the_same_slab(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_slab_name first = client_slab(client, VOLUME, 3);
	struct node_slab_name again = client_slab(client, VOLUME, 3);
	struct node_slab_name remapped = {.volume = VOLUME, .piece = 3, .piece_epoch = 2};

	assert_int_equal(first.key, again.key);
	assert_int_equal(client_allocate(client, &remapped, 1), 0);
	assert_int_not_equal(remapped.key, first.key);
	assert_int_equal(stage_stats(stage).slabs_mapped, 2);
}

static void a_list_tells_each_slab_once(void **state)
{
	enum { PIECES = 150 };
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {0};
	bool seen[PIECES] = {false};
	unsigned rounds = 0;

	node_set_capacity(stage->node, 2 * PIECES * STAGE_SLAB_BYTES);
	for (uint32_t piece = 0; piece < PIECES; piece++) {
		client_slab(client, VOLUME, piece);
		if (piece % 10 == 0)
			client_slab(client, VOLUME + 1, piece);
	}
	do {
		uint32_t cursor = message.list.cursor;

		message = (struct node_message){.list = {.volume = VOLUME, .cursor = cursor}};
		assert_int_equal(client_ask(client, &message, NODE_LIST), 0);
		for (uint32_t i = 0; i < message.list.count; i++) {
			assert_int_equal(message.list.slabs[i].volume, VOLUME);
			assert_false(seen[message.list.slabs[i].piece]);
			seen[message.list.slabs[i].piece] = true;
		}
		assert_true(++rounds < 10);
	} while (message.list.cursor != 0);
	for (uint32_t piece = 0; piece < PIECES; piece++)
		assert_true(seen[piece]);
}

static void a_cursor_beyond_the_end_lists_nothing(void **state)
{
	struct client *client = client_open(*state, 1);
	struct node_message message = {.list = {.volume = VOLUME, .cursor = UINT32_MAX}};

	client_slab(client, VOLUME, 0);
	assert_int_equal(client_ask(client, &message, NODE_LIST), 0);
	assert_int_equal(message.list.count, 0);
	assert_int_equal(message.list.cursor, 0);
}

/* ---- N1 ---- */

/* Infiniswap's daemon handed pages of one owner to the next (defect 7). */
static void n1_the_next_owner_sees_zeros(void **state)
{
	struct stage *stage = *state;

	for (uint64_t owner = 1; owner < STAGE_CLIENTS_MAX; owner++) {
		struct client *client = client_open(stage, owner);
		struct node_slab_name slabs[SLABS];

		for (uint32_t i = 0; i < SLABS; i++) {
			slabs[i] = client_slab(client, owner, i);
			assert_true(client_sees(client, client_window(client, &slabs[i]), 0));
		}
		for (uint32_t i = 0; i < SLABS; i++) {
			struct fabric_window *window = client_window(client, &slabs[i]);

			assert_int_equal(client_fill(client, window, 0xee), 0);
			assert_int_equal(client_free(client, &slabs[i], 1), 0);
		}
	}
	/* On tcp it is the same memory every time; on shm never. */
	assert_int_equal(stage->memory.made,
			 is_shm(stage) ? SLABS * (STAGE_CLIENTS_MAX - 1) : SLABS);
}

/* ---- N2 ---- */

static void n2_a_key_never_comes_again(void **state)
{
	enum { ROUNDS = 100 };
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	uint64_t keys[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct node_slab_name slab;

		if (i == ROUNDS / 2) {
			/* A new life of the node, which remembers nothing. */
			client_close(client);
			stage_restart_node(stage);
			client = client_open(stage, 1);
		}
		slab = client_slab(client, VOLUME, 0);
		keys[i] = slab.key;
		for (unsigned k = 0; k < i; k++)
			assert_int_not_equal(keys[k], keys[i]);
		assert_int_equal(client_free(client, &slab, 1), 0);
	}
}

/* ---- N3 ---- */

static void n3_a_claim_fences_the_older_owner(void **state)
{
	struct stage *stage = *state;
	struct client *old = client_open(stage, 1);
	struct client *new = client_open(stage, 2);
	struct node_slab_name slab = client_slab(old, VOLUME, 0);
	struct fabric_window *old_window = client_window(old, &slab);
	struct fabric_window *new_window;
	uint32_t count;

	assert_int_equal(client_fill(old, old_window, 0x11), 0);
	assert_int_equal(client_claim(new, VOLUME, 2, &count), 0);
	assert_int_equal(count, 1);
	/* The claim alone is the fence; where a mapping remains, the attachment copies. */
	if (!is_shm(stage))
		assert_int_equal(client_fill(old, old_window, 0x22), AFAR_EFENCED);
	assert_int_equal(client_attach(new, &slab, 2), 0);
	new_window = client_window(new, &slab);

	/* What was written before is there, what the old owner writes now is not. */
	assert_true(client_sees(new, new_window, 0x11));
	(void)client_fill(old, old_window, 0x22);
	assert_true(client_sees(new, new_window, 0x11));
	if (!is_shm(stage))
		assert_int_equal(client_fill(old, old_window, 0x33), AFAR_EFENCED);
	assert_int_equal(stage_stats(stage).takeovers, 1);
	assert_true(stage_stats(stage).fences >= 1);

	/* And the new owner's writes are its own. */
	assert_int_equal(client_fill(new, new_window, 0x44), 0);
	(void)client_fill(old, old_window, 0x55);
	assert_true(client_sees(new, new_window, 0x44));
}

static void n3_an_older_owner_is_answered_with_its_fate(void **state)
{
	struct stage *stage = *state;
	struct client *old = client_open(stage, 1);
	struct client *new = client_open(stage, 2);
	struct node_slab_name slab = client_slab(old, VOLUME, 0);
	struct node_slab_name more = {.volume = VOLUME, .piece = 1, .piece_epoch = 1};

	assert_int_equal(client_claim(new, VOLUME, 5, NULL), 0);
	assert_int_equal(client_free(old, &slab, 1), AFAR_EFENCED);
	assert_int_equal(client_attach(old, &slab, 4), AFAR_EFENCED);
	assert_int_equal(client_allocate(old, &more, 4), AFAR_EFENCED);
	assert_int_equal(client_claim(old, VOLUME, 4, NULL), AFAR_EFENCED);
	assert_int_equal(client_claim(old, VOLUME, 5, NULL), AFAR_EOWNED);
	assert_int_equal(client_allocate(old, &more, 5), AFAR_EOWNED);
	assert_int_equal(client_free(old, &slab, 5), AFAR_EOWNED);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	/* The owner may say it again. */
	assert_int_equal(client_claim(new, VOLUME, 5, NULL), 0);
	assert_int_equal(client_free(new, &slab, 5), 0);
}

static void n3_a_volume_without_slabs_remembers_its_owner(void **state)
{
	struct stage *stage = *state;
	struct client *old = client_open(stage, 1);
	struct client *new = client_open(stage, 2);
	struct node_slab_name slab = {.volume = VOLUME, .piece = 1, .piece_epoch = 1};

	assert_int_equal(client_claim(new, VOLUME, 2, NULL), 0);
	assert_int_equal(client_allocate(old, &slab, 1), AFAR_EFENCED);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
}

/* A mapping that outlives the connection, the claim and the process that the node knew. */
static void n3_a_mapping_that_was_handed_on_cannot_reach_the_new_owner(void **state)
{
	struct stage *stage = *state;
	struct client *old = client_open(stage, 1);
	struct node_slab_name slab = client_slab(old, VOLUME, 0);
	struct fabric_window *window = client_window(old, &slab);
	unsigned char *mapping;
	struct client *new;
	int memfd;

	if (fabric_window_memfd(window) < 0)
		return; /* only where there are mappings */
	memfd = fcntl(fabric_window_memfd(window), F_DUPFD_CLOEXEC, 0);
	assert_true(memfd >= 0);
	mapping = mmap(NULL, STAGE_SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_ptr_not_equal(mapping, MAP_FAILED);
	memset(mapping, 0x11, STAGE_SLAB_BYTES);
	client_close(old);

	new = client_open(stage, 2);
	assert_int_equal(client_claim(new, VOLUME, 2, NULL), 0);
	assert_int_equal(client_attach(new, &slab, 2), 0);
	window = client_window(new, &slab);
	memset(mapping, 0x22, STAGE_SLAB_BYTES);
	assert_true(client_sees(new, window, 0x11));

	/* Freed and given to a third: neither does it reach that. */
	assert_int_equal(client_free(new, &slab, 2), 0);
	for (uint32_t i = 0; i < SLABS; i++) {
		slab = client_slab(new, VOLUME + 1, i);
		memset(mapping, 0x33, STAGE_SLAB_BYTES);
		assert_true(client_sees(new, client_window(new, &slab), 0));
	}
	munmap(mapping, STAGE_SLAB_BYTES);
	close(memfd);
}

static void n3_a_takeover_works_on_a_full_node(void **state)
{
	struct stage *stage = *state;
	struct client *old = client_open(stage, 1);
	struct client *new = client_open(stage, 2);
	struct node_slab_name slabs[SLABS];

	for (uint32_t i = 0; i < SLABS; i++) {
		slabs[i] = client_slab(old, VOLUME, i);
		assert_int_equal(client_fill(old, client_window(old, &slabs[i]), (unsigned char)i),
				 0);
	}
	assert_int_equal(client_claim(new, VOLUME, 2, NULL), 0);
	for (uint32_t i = 0; i < SLABS; i++) {
		assert_int_equal(client_attach(new, &slabs[i], 2), 0);
		assert_true(client_sees(new, client_window(new, &slabs[i]), (unsigned char)i));
	}
	assert_int_equal(stage->memory.live, SLABS);
}

/* ---- N4 ---- */

static void n4_a_lost_owner_finds_its_slabs_again(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_slab_name slab = client_slab(client, VOLUME, 0);

	assert_int_equal(client_fill(client, client_window(client, &slab), 0x77), 0);
	client_close(client);
	stage_pass(stage, 29 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);

	client = client_open(stage, 1);
	assert_int_equal(client_attach(client, &slab, 1), 0);
	assert_true(client_sees(client, client_window(client, &slab), 0x77));
	/* It has an owner again, for however long. */
	stage_pass(stage, 3600 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	assert_true(client_sees(client, client_window(client, &slab), 0x77));
}

static void n4_orphans_are_freed_when_their_time_is_over(void **state)
{
	struct stage *stage = *state;
	struct client *gone = client_open(stage, 1);
	struct client *stays = client_open(stage, 2);
	struct node_slab_name orphan = client_slab(gone, VOLUME, 0);
	struct node_slab_name other = client_slab(stays, VOLUME + 1, 0);

	client_slab(gone, VOLUME, 1);
	client_close(gone);
	assert_true(node_deadline_ns(stage->node) <= env_now_ns(&stage->clock.env) + 30 * NS_PER_S);
	stage_pass(stage, 31 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	assert_int_equal(stage_stats(stage).orphans_freed, 2);

	gone = client_open(stage, 1);
	assert_int_equal(client_attach(gone, &orphan, 1), -ENOENT);
	assert_int_equal(client_fill(stays, client_window(stays, &other), 1), 0);
}

static void n4_two_connections_of_an_owner_are_one_owner(void **state)
{
	struct stage *stage = *state;
	struct client *first = client_open(stage, 1);
	struct node_slab_name slab = client_slab(first, VOLUME, 0);
	struct client *second = client_open(stage, 1);

	assert_int_equal(client_fill(first, client_window(first, &slab), 0x55), 0);
	assert_int_equal(client_attach(second, &slab, 1), 0);
	/* The node hears of the first one's end after the owner came back. */
	client_close(first);
	stage_pass(stage, 3600 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	assert_true(client_sees(second, client_window(second, &slab), 0x55));
}

static void n4_nobody_frees_or_takes_what_is_anothers(void **state)
{
	struct stage *stage = *state;
	struct client *owner = client_open(stage, 1);
	struct client *thief = client_open(stage, 2);
	struct node_slab_name slab = client_slab(owner, VOLUME, 0);
	struct node_slab_name wrong = slab;
	struct fabric_window *window = client_window(owner, &slab);
	struct node_message message;

	assert_int_equal(client_fill(owner, window, 0x66), 0);
	assert_int_equal(client_free(thief, &slab, 1), AFAR_EOWNED);
	assert_int_equal(client_attach(thief, &slab, 1), AFAR_EOWNED);
	wrong.volume++;
	assert_int_equal(client_free(thief, &wrong, 1), -ENOENT);
	wrong = slab;
	wrong.piece++;
	assert_int_equal(client_free(owner, &wrong, 1), -ENOENT);
	wrong = slab;
	wrong.piece_epoch++;
	assert_int_equal(client_free(owner, &wrong, 1), -ENOENT);

	/* In the owner's name. */
	message = (struct node_message){
		.slab = {.slab = slab,
			 .owner = 1,
			 .owner_epoch = 9,
			 .slab_bytes = STAGE_SLAB_BYTES},
	};
	assert_int_equal(client_ask(thief, &message, NODE_FREE), -EPERM);
	message = (struct node_message){.claim = {.volume = VOLUME, .owner = 1, .owner_epoch = 9}};
	assert_int_equal(client_ask(thief, &message, NODE_CLAIM), -EPERM);

	/* An answer to an eviction that nobody asked for. */
	message = (struct node_message){.evict = {.slab = slab, .answer = NODE_EVICT_DROPPABLE}};
	client_say(thief, &message, NODE_EVICT_ANSWER);
	assert_int_equal(client_claim(thief, VOLUME + 1, 1, NULL), 0);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	assert_true(client_sees(owner, window, 0x66));
}

/* ---- N5 ---- */

static void n5_a_full_node_refuses_and_takes_again_what_was_freed(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_slab_name slabs[SLABS];
	struct node_slab_name more = {.volume = VOLUME, .piece = SLABS, .piece_epoch = 1};

	for (uint32_t i = 0; i < SLABS; i++)
		slabs[i] = client_slab(client, VOLUME, i);
	assert_int_equal(client_allocate(client, &more, 1), AFAR_ENOSPACE_FAR);
	assert_int_equal(stage_stats(stage).allocations_refused, 1);
	assert_int_equal(stage->memory.live, SLABS);
	assert_int_equal(client_free(client, &slabs[3], 1), 0);
	assert_int_equal(client_allocate(client, &more, 1), 0);
	assert_int_equal(stage->memory.live, SLABS);
}

static void n5_no_owner_exceeds_its_quota_over_all_its_volumes(void **state)
{
	const struct node_options options = {.quota_bytes = 2 * STAGE_SLAB_BYTES};
	struct node_slab_name more = {.volume = VOLUME + 2, .piece = 0, .piece_epoch = 1};
	struct stage *stage = *state;
	struct node_slab_name slab;
	struct client *client;
	struct client *other;

	stage_end(stage);
	stage_begin(stage, is_shm(stage) ? "shm" : "tcp", SLABS, &options);
	client = client_open(stage, 1);
	other = client_open(stage, 2);
	slab = client_slab(client, VOLUME, 0);
	client_slab(client, VOLUME + 1, 0);
	assert_int_equal(client_allocate(client, &more, 1), AFAR_EQUOTA);
	client_slab(other, VOLUME + 3, 0);
	/* What is allocated already may be asked for again. */
	assert_int_equal(client_slab(client, VOLUME, 0).key, slab.key);
	assert_int_equal(client_free(client, &slab, 1), 0);
	assert_int_equal(client_allocate(client, &more, 1), 0);
}

static void n5_memory_that_cannot_be_had_is_refused(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_slab_name slab = {.volume = VOLUME, .piece = 0, .piece_epoch = 1};

	stage->memory.error = -ENOMEM;
	assert_int_equal(client_allocate(client, &slab, 1), AFAR_ENOSPACE_FAR);
	stage->memory.error = 0;
	assert_int_equal(client_allocate(client, &slab, 1), 0);
}

static void an_allocation_of_another_size_is_refused(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {
		.slab =
			{
				.slab = {.volume = VOLUME},
				.owner = 1,
				.owner_epoch = 1,
				.slab_bytes = STAGE_SLAB_BYTES * 2,
			},
	};

	assert_int_equal(client_ask(client, &message, NODE_ALLOCATE), -EINVAL);
	message.slab.slab_bytes = STAGE_SLAB_BYTES;
	message.slab.slab.volume = 0;
	assert_int_equal(client_ask(client, &message, NODE_ALLOCATE), -EINVAL);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
}

/* ---- memory that is still being made ---- */

static void say_allocate(struct client *client, uint32_t piece)
{
	struct node_message message = {
		.head.request = 1000 + piece,
		.slab =
			{
				.slab = {.volume = VOLUME + client->id,
					 .piece = piece,
					 .piece_epoch = 1},
				.owner = client->id,
				.owner_epoch = 1,
				.slab_bytes = STAGE_SLAB_BYTES,
			},
	};

	client_say(client, &message, NODE_ALLOCATE);
}

static void an_allocation_waits_while_memory_is_made(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {0};

	stage->memory.slow = 3;
	say_allocate(client, 0);
	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
	assert_false(client_has(client, NODE_ALLOCATED));
	for (unsigned i = 0; i < 3; i++)
		stage_pass(stage, 10 * NS_PER_MS);
	client_take(client, NODE_ALLOCATED, &message);
	assert_int_equal(message.head.status, 0);
	assert_int_equal(stage->memory.slow, 0);
	assert_true(client_sees(client, client_window(client, &message.slab.slab), 0));
}

static void who_waits_for_too_long_is_told_to_ask_again(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {0};

	stage->memory.stuck = true;
	say_allocate(client, 0);
	/* The answer to this one says that the node has the one before it. */
	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
	assert_false(client_has(client, NODE_ALLOCATED));
	assert_true(node_deadline_ns(stage->node) != INT64_MAX);
	stage_pass(stage, 2 * NS_PER_S);
	client_take(client, NODE_ALLOCATED, &message);
	assert_int_equal(message.head.status, -EAGAIN);
	assert_int_equal(message.head.request, 1000);
}

static void one_client_cannot_fill_the_line_of_those_who_wait(void **state)
{
	struct stage *stage = *state;
	struct client *greedy = client_open(stage, 1);
	struct client *other = client_open(stage, 2);
	struct node_message message;
	unsigned refused = 0;

	node_set_capacity(stage->node, 200 * STAGE_SLAB_BYTES);
	stage->memory.stuck = true;
	for (uint32_t i = 0; i < 100; i++)
		say_allocate(greedy, i);
	message = (struct node_message){0};
	assert_int_equal(client_ask(greedy, &message, NODE_QUERY), 0);
	while (client_has(greedy, NODE_ALLOCATED)) {
		client_take(greedy, NODE_ALLOCATED, &message);
		assert_int_equal(message.head.status, -EAGAIN);
		refused++;
	}
	assert_in_range(refused, 50, 99);

	say_allocate(other, 0);
	message = (struct node_message){0};
	assert_int_equal(client_ask(other, &message, NODE_QUERY), 0);
	assert_false(client_has(other, NODE_ALLOCATED));
	stage->memory.stuck = false;
	stage_pass(stage, 10 * NS_PER_MS);
	client_take(other, NODE_ALLOCATED, &message);
	assert_int_equal(message.head.status, 0);
}

static void who_waits_may_die(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message = {0};

	stage->memory.stuck = true;
	for (uint32_t i = 0; i < 5; i++)
		say_allocate(client, i);
	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
	client_close(client);
	stage->memory.stuck = false;
	stage_pass(stage, NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
	assert_int_equal(stage->memory.made, 0);
}

/* ---- opening ---- */

static void sizes_without_sense_are_refused(void **state)
{
	struct stage *stage = *state;
	struct node_options options = stage->options;
	struct node *node;

	options.slab_bytes = 4096 + 1;
	assert_int_equal(node_open(&stage->clock.env, stage->fabric, &options, &node), -EINVAL);
	options = stage->options;
	options.capacity_bytes = options.slab_bytes - 1;
	assert_int_equal(node_open(&stage->clock.env, stage->fabric, &options, &node), -EINVAL);
	options.slab_bytes = 4096;
	options.capacity_bytes = UINT64_MAX;
	assert_int_equal(node_open(&stage->clock.env, stage->fabric, &options, &node), -EINVAL);
	options = stage->options;
	options.orphan_ns = -1;
	assert_int_equal(node_open(&stage->clock.env, stage->fabric, &options, &node), -EINVAL);
}

static void a_closed_node_leaves_no_memory(void **state)
{
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);

	for (uint32_t i = 0; i < SLABS; i++)
		client_slab(client, VOLUME, i);
	stage_restart_node(stage);
	assert_int_equal(stage->memory.live, 0);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
}

static void what_is_counted_is_shown(void **state)
{
	struct stage *stage = *state;
	struct client *client;
	char *text;
	size_t len_bytes;

	assert_int_equal(metrics_create(&stage->options.metrics), 0);
	stage_restart_node(stage);
	client = client_open(stage, 1);
	client_slab(client, VOLUME, 0);
	stage_pump(stage);
	assert_int_equal(metrics_render(stage->options.metrics, &text, &len_bytes), 0);
	assert_non_null(strstr(text, "\nafar_node_used_bytes 65536\n"));
	assert_non_null(strstr(text, "\nafar_node_allocations_total 1\n"));
	free(text);
	client_close(client);

	struct metrics *metrics = stage->options.metrics;

	stage->options.metrics = NULL;
	stage_restart_node(stage);
	assert_int_equal(metrics_render(metrics, &text, &len_bytes), 0);
	assert_null(strstr(text, "afar_node"));
	free(text);
	metrics_destroy(metrics);
}

int main(void)
{
#define OVER(transport, test)                                                           \
	{                                                                               \
		.name = transport ": " #test, .test_func = (test), .setup_func = begin, \
		.teardown_func = end, .initial_state = (void *)(uintptr_t)(transport),  \
	}
#define OVER_EACH(test) OVER("shm", test), OVER("tcp", test)
	static const struct CMUnitTest tests[] = {
		OVER_EACH(a_slab_is_allocated_written_and_read),
		OVER_EACH(a_query_tells_how_full_the_node_is),
		OVER_EACH(an_allocation_that_comes_again_gets_the_same_slab),
		OVER_EACH(a_list_tells_each_slab_once),
		OVER_EACH(a_cursor_beyond_the_end_lists_nothing),
		OVER_EACH(n1_the_next_owner_sees_zeros),
		OVER_EACH(n2_a_key_never_comes_again),
		OVER_EACH(n3_a_claim_fences_the_older_owner),
		OVER_EACH(n3_an_older_owner_is_answered_with_its_fate),
		OVER_EACH(n3_a_volume_without_slabs_remembers_its_owner),
		OVER_EACH(n3_a_mapping_that_was_handed_on_cannot_reach_the_new_owner),
		OVER_EACH(n3_a_takeover_works_on_a_full_node),
		OVER_EACH(n4_a_lost_owner_finds_its_slabs_again),
		OVER_EACH(n4_orphans_are_freed_when_their_time_is_over),
		OVER_EACH(n4_two_connections_of_an_owner_are_one_owner),
		OVER_EACH(n4_nobody_frees_or_takes_what_is_anothers),
		OVER_EACH(n5_a_full_node_refuses_and_takes_again_what_was_freed),
		OVER_EACH(n5_no_owner_exceeds_its_quota_over_all_its_volumes),
		OVER_EACH(n5_memory_that_cannot_be_had_is_refused),
		OVER_EACH(an_allocation_of_another_size_is_refused),
		OVER_EACH(an_allocation_waits_while_memory_is_made),
		OVER_EACH(who_waits_for_too_long_is_told_to_ask_again),
		OVER_EACH(one_client_cannot_fill_the_line_of_those_who_wait),
		OVER_EACH(who_waits_may_die),
		OVER_EACH(sizes_without_sense_are_refused),
		OVER_EACH(a_closed_node_leaves_no_memory),
		OVER_EACH(what_is_counted_is_shown),
	};

	stage_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
