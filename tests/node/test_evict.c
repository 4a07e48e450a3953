/*
 * test_evict.c: headroom, and whom it costs what
 *
 *   The clients play the owners: they are asked for the activity of slabs, and told to spare some.
 *   How short memory is, the test says: by the capacity where a number of slabs matters, else by
 *   what the machine has available.
 */
#include "stage.h"

#include "afar/error.h"
#include "base/base.h"
#include "node/activity.h"
#include "node/evict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME UINT64_C(0x7001)
#define SLABS  16u

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

/* The same stage, whose node keeps so many slabs of the machine free. */
static void with_headroom(struct stage *stage, uint64_t slabs)
{
	stage->options.headroom_bytes = slabs * STAGE_SLAB_BYTES;
	stage->memory.available_bytes = 1000 * STAGE_SLAB_BYTES;
	stage_restart_node(stage);
}

static struct client *owner_of_all(struct stage *stage, struct node_slab_name slabs[SLABS])
{
	struct client *client = client_open(stage, 1);

	for (uint32_t i = 0; i < SLABS; i++)
		slabs[i] = client_slab(client, VOLUME, i);
	return client;
}

/* Makes the node short of so many slabs. */
static void shorten(struct stage *stage, uint64_t slabs)
{
	node_set_capacity(stage->node,
			  (stage_stats(stage).slabs_mapped - slabs) * STAGE_SLAB_BYTES);
}

static uint32_t piece_of(const struct node_slab_name slabs[SLABS], uint64_t key)
{
	for (uint32_t i = 0; i < SLABS; i++) {
		if (slabs[i].key == key)
			return i;
	}
	fail_msg("the node asked for a key that nobody has");
	return 0;
}

/* Answers the question for activity: piece n is `activity[n]` busy. How many were asked. */
static uint32_t answer_activity(struct client *client, const struct node_slab_name slabs[SLABS],
				const uint32_t activity[SLABS], bool asked[SLABS])
{
	struct node_message message;

	client_take(client, NODE_ACTIVITY_ASK, &message);
	for (uint32_t i = 0; i < message.activity.count; i++) {
		uint32_t piece = piece_of(slabs, message.activity.keys[i]);

		message.activity.activity[i] = activity[piece];
		if (asked)
			asked[piece] = true;
	}
	client_say(client, &message, NODE_ACTIVITY);
	return message.activity.count;
}

static void answer_notice(struct client *client, struct node_message *notice,
			  enum node_evict_answer answer)
{
	notice->evict.answer = answer;
	client_say(client, notice, NODE_EVICT_ANSWER);
}

/* The node has taken what the client said before: it answered a question after that. */
static void settle(struct client *client)
{
	struct node_message message = {0};

	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
}

static const uint32_t rising[SLABS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* ---- a batch ---- */

static void of_those_asked_the_coldest_go(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	bool asked[SLABS] = {false};
	uint32_t colder = 0;

	shorten(stage, 5);
	assert_int_equal(answer_activity(client, slabs, rising, asked), 10);
	for (uint32_t i = 0; i < 5; i++) {
		struct node_message notice;

		client_take(client, NODE_EVICT_NOTICE, &notice);
		assert_int_equal(notice.evict.slab.volume, VOLUME);
		assert_int_equal(notice.evict.slab.piece_epoch, 1);
		assert_true(notice.evict.deadline_ms > 0);
		/* The next of those asked, from the coldest up. */
		while (!asked[colder])
			colder++;
		assert_int_equal(notice.evict.slab.piece, colder);
		colder++;
		answer_notice(client, &notice, i % 2 ? NODE_EVICT_DROPPABLE : NODE_EVICT_MOVED);
	}
	stage_pump_until_mapped(stage, SLABS - 5);
	settle(client);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
	assert_int_equal(stage_stats(stage).evictions, 5);
	assert_int_equal(stage_stats(stage).headroom_breaches, 0);
	/* The machine has it back. */
	assert_int_equal(stage->memory.live, SLABS - 5);
	/* And nothing more happens. */
	stage_pass(stage, 60 * NS_PER_S);
	settle(client);
	assert_false(client_has(client, NODE_ACTIVITY_ASK));
}

static void an_evicted_slab_is_fenced(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message notice;
	struct fabric_window *window;

	shorten(stage, 1);
	answer_activity(client, slabs, rising, NULL);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	window = client_window(client, &notice.evict.slab);
	assert_int_equal(client_fill(client, window, 1), 0);
	answer_notice(client, &notice, NODE_EVICT_DROPPABLE);
	stage_pump_until_mapped(stage, SLABS - 1);
	if (strcmp(stage->scheme, "tcp") == 0)
		assert_int_equal(client_fill(client, window, 2), AFAR_EFENCED);
	assert_int_equal(client_attach(client, &notice.evict.slab, 1), -ENOENT);
}

static void each_owner_is_asked_for_its_own(void **state)
{
	struct stage *stage = *state;
	struct client *clients[4];

	for (unsigned i = 0; i < 4; i++) {
		clients[i] = client_open(stage, i + 1);
		for (uint32_t piece = 0; piece < SLABS / 4; piece++)
			client_slab(clients[i], VOLUME + i, piece);
	}
	shorten(stage, SLABS / 2);
	for (unsigned i = 0; i < 4; i++) {
		struct node_message ask;

		client_take(clients[i], NODE_ACTIVITY_ASK, &ask);
		assert_int_equal(ask.activity.count, SLABS / 4);
		for (uint32_t k = 0; k < ask.activity.count; k++)
			ask.activity.activity[k] = i < 2 ? 100 : 1;
		client_say(clients[i], &ask, NODE_ACTIVITY);
	}
	/* The colder half belongs to the last two. */
	for (unsigned i = 2; i < 4; i++) {
		for (uint32_t piece = 0; piece < SLABS / 4; piece++) {
			struct node_message notice;

			client_take(clients[i], NODE_EVICT_NOTICE, &notice);
			assert_int_equal(notice.evict.slab.volume, VOLUME + i);
			answer_notice(clients[i], &notice, NODE_EVICT_DROPPABLE);
		}
	}
	stage_pump_until_mapped(stage, SLABS / 2);
	settle(clients[0]);
	assert_false(client_has(clients[0], NODE_EVICT_NOTICE));
}

static void a_batch_is_bounded(void **state)
{
	enum { MANY = 100 };
	struct stage *stage = *state;
	struct client *client = client_open(stage, 1);
	struct node_message message;

	node_set_capacity(stage->node, MANY * STAGE_SLAB_BYTES);
	for (uint32_t i = 0; i < MANY; i++)
		client_slab(client, VOLUME, i);
	shorten(stage, MANY - 1);
	client_take(client, NODE_ACTIVITY_ASK, &message);
	assert_int_equal(message.activity.count, 2 * EVICT_BATCH_MAX);
	client_say(client, &message, NODE_ACTIVITY);
	for (unsigned i = 0; i < EVICT_BATCH_MAX; i++) {
		client_take(client, NODE_EVICT_NOTICE, &message);
		answer_notice(client, &message, NODE_EVICT_DROPPABLE);
	}
	/* The rest follows in batches of their own. */
	stage_pump_until_mapped(stage, MANY - EVICT_BATCH_MAX);
	stage_pass(stage, NS_PER_S);
	client_take(client, NODE_ACTIVITY_ASK, &message);
}

/* ---- owners that cannot spare what they are asked for ---- */

static void a_slab_that_its_owner_keeps_stays_and_the_next_is_asked_for(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message notice;
	bool asked[SLABS] = {false};
	uint32_t first;

	shorten(stage, 1);
	assert_int_equal(answer_activity(client, slabs, rising, asked), 1 + EVICT_EXTRA_MIN);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	first = notice.evict.slab.piece;
	answer_notice(client, &notice, NODE_EVICT_KEEP);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	assert_true(notice.evict.slab.piece > first);
	answer_notice(client, &notice, NODE_EVICT_DROPPABLE);
	stage_pump_until_mapped(stage, SLABS - 1);
	assert_int_equal(stage_stats(stage).evictions_refused, 1);
	assert_int_equal(client_attach(client, &slabs[first], 1), 0);
}

static void what_nobody_can_spare_is_kept_and_reported(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	bool first[SLABS] = {false};
	bool second[SLABS] = {false};

	shorten(stage, 1);
	answer_activity(client, slabs, rising, first);
	for (unsigned i = 0; i < 1 + EVICT_EXTRA_MIN; i++) {
		struct node_message notice;

		client_take(client, NODE_EVICT_NOTICE, &notice);
		answer_notice(client, &notice, NODE_EVICT_KEEP);
	}
	settle(client);
	assert_int_equal(stage_stats(stage).headroom_breaches, 1);
	assert_int_equal(stage_stats(stage).evictions_refused, 1 + EVICT_EXTRA_MIN);
	assert_int_equal(stage_stats(stage).slabs_mapped, SLABS);

	/* It asks again, but not at once, and not those who just said no. */
	assert_false(client_has(client, NODE_ACTIVITY_ASK));
	stage_pass(stage, 500 * NS_PER_MS);
	assert_int_equal(answer_activity(client, slabs, rising, second), 1 + EVICT_EXTRA_MIN);
	for (uint32_t i = 0; i < SLABS; i++)
		assert_false(first[i] && second[i]);
}

static void silence_after_a_notice_keeps_the_slab(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message notice;

	shorten(stage, 2);
	answer_activity(client, slabs, rising, NULL);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	stage_pass(stage, notice.evict.deadline_ms * NS_PER_MS + NS_PER_MS);
	assert_int_equal(stage_stats(stage).slabs_mapped, SLABS);
	assert_int_equal(stage_stats(stage).evictions, 0);
	assert_int_equal(stage_stats(stage).evictions_refused, 2);
	assert_int_equal(stage_stats(stage).headroom_breaches, 1);
	assert_true(client_sees(client, client_window(client, &notice.evict.slab), 0));

	/* The owner that answers late has let go of it all the same. */
	answer_notice(client, &notice, NODE_EVICT_MOVED);
	stage_pump_until_mapped(stage, SLABS - 1);
}

static void silence_about_activity_evicts_nobody(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message message;

	shorten(stage, 2);
	client_take(client, NODE_ACTIVITY_ASK, &message);
	stage_pass(stage, NS_PER_S);
	settle(client);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
	assert_int_equal(stage_stats(stage).headroom_breaches, 1);
	assert_int_equal(stage_stats(stage).slabs_mapped, SLABS);
	/* An answer that comes then belongs to no question. */
	client_say(client, &message, NODE_ACTIVITY);
	settle(client);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
}

static void an_answer_to_an_older_question_is_none(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message older;
	struct node_message message;

	shorten(stage, 2);
	client_take(client, NODE_ACTIVITY_ASK, &older);
	stage_pass(stage, NS_PER_S);
	stage_pass(stage, NS_PER_S);
	client_take(client, NODE_ACTIVITY_ASK, &message);
	older.activity = message.activity;
	client_say(client, &older, NODE_ACTIVITY);
	settle(client);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
	client_say(client, &message, NODE_ACTIVITY);
	client_take(client, NODE_EVICT_NOTICE, &message);
}

static void who_answers_is_not_held_up_by_who_does_not(void **state)
{
	struct stage *stage = *state;
	struct client *mute = client_open(stage, 1);
	struct client *awake = client_open(stage, 2);
	struct node_message message;

	for (uint32_t i = 0; i < SLABS / 2; i++) {
		client_slab(mute, VOLUME, i);
		client_slab(awake, VOLUME + 1, i);
	}
	shorten(stage, SLABS / 2);
	client_take(mute, NODE_ACTIVITY_ASK, &message);
	client_take(awake, NODE_ACTIVITY_ASK, &message);
	for (uint32_t i = 0; i < message.activity.count; i++)
		message.activity.activity[i] = UINT32_MAX;
	client_say(awake, &message, NODE_ACTIVITY);
	settle(awake);
	stage_pass(stage, NS_PER_S);
	for (uint32_t i = 0; i < SLABS / 2; i++) {
		client_take(awake, NODE_EVICT_NOTICE, &message);
		answer_notice(awake, &message, NODE_EVICT_DROPPABLE);
	}
	stage_pump_until_mapped(stage, SLABS / 2);
	assert_false(client_has(mute, NODE_EVICT_NOTICE));
}

/* ---- what happens meanwhile ---- */

static void an_owner_that_dies_in_a_batch_does_not_hold_it_up(void **state)
{
	struct stage *stage = *state;
	struct client *dies = client_open(stage, 1);
	struct client *stays = client_open(stage, 2);
	struct node_message message;

	for (uint32_t i = 0; i < SLABS / 2; i++) {
		client_slab(dies, VOLUME, i);
		client_slab(stays, VOLUME + 1, i);
	}
	shorten(stage, SLABS / 2);
	client_take(dies, NODE_ACTIVITY_ASK, &message);
	client_say(dies, &message, NODE_ACTIVITY);
	client_take(stays, NODE_ACTIVITY_ASK, &message);
	for (uint32_t i = 0; i < message.activity.count; i++)
		message.activity.activity[i] = 9;
	client_say(stays, &message, NODE_ACTIVITY);
	client_take(dies, NODE_EVICT_NOTICE, &message);
	client_close(dies);
	/* Its slabs are orphans, which are nobody's to give: the other's are asked for. */
	for (uint32_t i = 0; i < SLABS / 2; i++) {
		client_take(stays, NODE_EVICT_NOTICE, &message);
		answer_notice(stays, &message, NODE_EVICT_DROPPABLE);
	}
	stage_pump_until_mapped(stage, SLABS / 2);
	assert_int_equal(stage_stats(stage).orphans_freed, 0);
}

static void what_its_owner_frees_in_a_batch_counts(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct node_message notice;

	shorten(stage, 1);
	answer_activity(client, slabs, rising, NULL);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	assert_int_equal(client_free(client, &notice.evict.slab, 1), 0);
	settle(client);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
	assert_int_equal(stage_stats(stage).headroom_breaches, 0);
	assert_int_equal(stage->memory.live, SLABS - 1);
}

static void a_batch_over_nothing_but_orphans_waits_for_them(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);

	client_close(client);
	shorten(stage, 2);
	stage_pass(stage, NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, SLABS);
	stage_pass(stage, 31 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 0);
}

static void nobody_speaks_for_anothers_slabs(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);
	struct client *liar = client_open(stage, 2);
	struct node_message ask;
	struct node_message notice;

	shorten(stage, 1);
	client_take(client, NODE_ACTIVITY_ASK, &ask);
	/* The liar says that the last one is idle, and that it may go. */
	client_say(liar, &ask, NODE_ACTIVITY);
	settle(liar);
	assert_false(client_has(client, NODE_EVICT_NOTICE));
	for (uint32_t i = 0; i < ask.activity.count; i++)
		ask.activity.activity[i] = piece_of(slabs, ask.activity.keys[i]);
	client_say(client, &ask, NODE_ACTIVITY);
	client_take(client, NODE_EVICT_NOTICE, &notice);
	answer_notice(liar, &notice, NODE_EVICT_DROPPABLE);
	settle(liar);
	assert_int_equal(stage_stats(stage).slabs_mapped, SLABS);
}

/* ---- the machine's memory ---- */

static void idle_memory_is_given_back_before_anybody_is_asked(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client;

	with_headroom(stage, 8);
	client = owner_of_all(stage, slabs);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(client_free(client, &slabs[i], 1), 0);
	for (unsigned i = 0; i < 10; i++)
		stage_pump(stage);
	if (strcmp(stage->scheme, "tcp") == 0)
		assert_int_equal(stage->memory.live, SLABS);

	/* A machine that has a little less than it should, for good. */
	stage->memory.available_bytes = 7 * STAGE_SLAB_BYTES;
	for (unsigned i = 0; i < 100 && stage->memory.live > SLABS - 4; i++)
		stage_pass(stage, 100 * NS_PER_MS);
	stage->memory.available_bytes = 9 * STAGE_SLAB_BYTES;
	for (unsigned i = 0; i < 100; i++)
		stage_pass(stage, 100 * NS_PER_MS);
	assert_int_equal(stage->memory.live, SLABS - 4);
	assert_true(strcmp(stage->scheme, "shm") == 0 || stage->memory.stock_drops > 0);
}

static void a_machine_that_runs_short_gets_slabs_back(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client;
	struct node_message message;

	with_headroom(stage, 8);
	client = owner_of_all(stage, slabs);
	stage->memory.available_bytes = 0;
	/* The published daemon looked at free memory alone, and never smoothed its fall. */
	for (unsigned i = 0; i < 200 && !client_has(client, NODE_ACTIVITY_ASK); i++) {
		stage_pass(stage, 100 * NS_PER_MS);
		settle(client);
	}
	answer_activity(client, slabs, rising, NULL);
	client_take(client, NODE_EVICT_NOTICE, &message);
	assert_true(stage->memory.stock_drops > 0);
}

static void a_short_dip_evicts_nobody(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client;

	with_headroom(stage, 8);
	client = owner_of_all(stage, slabs);
	stage_pass(stage, 100 * NS_PER_MS);
	stage->memory.available_bytes = 0;
	stage_pass(stage, 100 * NS_PER_MS);
	stage->memory.available_bytes = 1000 * STAGE_SLAB_BYTES;
	for (unsigned i = 0; i < 20; i++)
		stage_pass(stage, 100 * NS_PER_MS);
	settle(client);
	assert_false(client_has(client, NODE_ACTIVITY_ASK));
	assert_int_equal(stage_stats(stage).headroom_breaches, 0);
}

static void nothing_is_given_away_that_the_headroom_needs(void **state)
{
	struct node_slab_name slab = {.volume = VOLUME, .piece = 1, .piece_epoch = 1};
	struct stage *stage = *state;
	struct node_message message = {0};
	struct client *client;

	stage->options.headroom_bytes = 8 * STAGE_SLAB_BYTES;
	stage->memory.available_bytes = 10 * STAGE_SLAB_BYTES;
	stage_restart_node(stage);
	stage_pump(stage);
	client = client_open(stage, 1);
	assert_int_equal(client_ask(client, &message, NODE_QUERY), 0);
	assert_int_equal(message.status.free_bytes, 2 * STAGE_SLAB_BYTES);
	client_slab(client, VOLUME, 0);
	assert_int_equal(client_allocate(client, &slab, 1), 0);
	slab.piece++;
	assert_int_equal(client_allocate(client, &slab, 1), AFAR_ENOSPACE_FAR);
}

static void a_machine_that_does_not_tell_is_never_short(void **state)
{
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client;

	with_headroom(stage, 8);
	stage->memory.available_bytes = UINT64_MAX;
	client = owner_of_all(stage, slabs);
	for (unsigned i = 0; i < 20; i++)
		stage_pass(stage, 100 * NS_PER_MS);
	settle(client);
	assert_false(client_has(client, NODE_ACTIVITY_ASK));
}

/* The published daemon stopped looking after its last client (defect 7). */
static void the_machine_is_watched_after_the_last_client_left(void **state)
{
	struct stage *stage = *state;
	struct client *client;
	uint64_t samples;

	with_headroom(stage, 8);
	client = client_open(stage, 1);
	client_slab(client, VOLUME, 0);
	client_close(client);
	samples = stage->memory.samples;
	for (unsigned i = 0; i < 10; i++) {
		assert_true(node_deadline_ns(stage->node) <= stage->clock.now_ns + EVICT_SAMPLE_NS);
		stage_pass(stage, EVICT_SAMPLE_NS);
	}
	assert_int_equal(stage->memory.samples, samples + 10);
	client = client_open(stage, 2);
	client_slab(client, VOLUME + 1, 0);
}

/* ---- smoothing ---- */

/* 80 * now + 20 * before, undivided, overflowed within seconds and turned the order round. */
static void activity_never_overflows_and_keeps_the_order(void **state)
{
	uint32_t busy = 0;
	uint32_t idle = 0;

	for (unsigned i = 0; i < 100000; i++) {
		busy = activity_update(busy, 4000000000u, NS_PER_MS);
		idle = activity_update(idle, i % 10 == 0, NS_PER_S);
		assert_true(busy > idle);
	}
	assert_int_equal(busy, UINT32_MAX);
	assert_in_range(idle, 0, 2);
	assert_int_equal(activity_update(0, UINT64_MAX, 1), UINT32_MAX / 5);
	assert_true(activity_smooth(0, UINT64_MAX) == UINT64_MAX / 5);
	assert_true(activity_smooth(UINT64_MAX, 0) == UINT64_MAX - UINT64_MAX / 5);
}

static void activity_follows_what_happens(void **state)
{
	uint32_t activity = 0;

	/* α = 1/5: after one look a fifth of the way, after twenty nearly all of it. */
	activity = activity_update(activity, 1000, NS_PER_S);
	assert_int_equal(activity, 200);
	activity = activity_update(activity, 1000, NS_PER_S);
	assert_int_equal(activity, 360);
	for (unsigned i = 0; i < 40; i++)
		activity = activity_update(activity, 500, NS_PER_S / 2);
	assert_int_equal(activity, 1000);
	for (unsigned i = 0; i < 60; i++)
		activity = activity_update(activity, 0, NS_PER_S);
	assert_int_equal(activity, 0);
}

static void extreme_activities_are_ranked_as_they_are(void **state)
{
	static const uint32_t extreme[SLABS] = {UINT32_MAX,  UINT32_MAX - 1,
						INT32_MAX,   UINT32_C(1) << 31,
						3000000000u, 1,
						0,           4294967295u,
						7,           7,
						7,           7,
						7,           7,
						7,           7};
	struct stage *stage = *state;
	struct node_slab_name slabs[SLABS];
	struct client *client = owner_of_all(stage, slabs);

	shorten(stage, SLABS / 2);
	assert_int_equal(answer_activity(client, slabs, extreme, NULL), SLABS);
	for (uint32_t i = 0; i < SLABS / 2; i++) {
		struct node_message notice;

		client_take(client, NODE_EVICT_NOTICE, &notice);
		assert_true(extreme[notice.evict.slab.piece] <= 7);
		answer_notice(client, &notice, NODE_EVICT_DROPPABLE);
	}
	stage_pump_until_mapped(stage, SLABS / 2);
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
		OVER_EACH(of_those_asked_the_coldest_go),
		OVER_EACH(an_evicted_slab_is_fenced),
		OVER_EACH(each_owner_is_asked_for_its_own),
		OVER_EACH(a_batch_is_bounded),
		OVER_EACH(a_slab_that_its_owner_keeps_stays_and_the_next_is_asked_for),
		OVER_EACH(what_nobody_can_spare_is_kept_and_reported),
		OVER_EACH(silence_after_a_notice_keeps_the_slab),
		OVER_EACH(silence_about_activity_evicts_nobody),
		OVER_EACH(an_answer_to_an_older_question_is_none),
		OVER_EACH(who_answers_is_not_held_up_by_who_does_not),
		OVER_EACH(an_owner_that_dies_in_a_batch_does_not_hold_it_up),
		OVER_EACH(what_its_owner_frees_in_a_batch_counts),
		OVER_EACH(a_batch_over_nothing_but_orphans_waits_for_them),
		OVER_EACH(nobody_speaks_for_anothers_slabs),
		OVER_EACH(idle_memory_is_given_back_before_anybody_is_asked),
		OVER_EACH(a_machine_that_runs_short_gets_slabs_back),
		OVER_EACH(a_short_dip_evicts_nobody),
		OVER_EACH(nothing_is_given_away_that_the_headroom_needs),
		OVER_EACH(a_machine_that_does_not_tell_is_never_short),
		OVER_EACH(the_machine_is_watched_after_the_last_client_left),
		OVER_EACH(extreme_activities_are_ranked_as_they_are),
		cmocka_unit_test(activity_never_overflows_and_keeps_the_order),
		cmocka_unit_test(activity_follows_what_happens),
	};

	stage_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
