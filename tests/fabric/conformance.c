/*
 * conformance.c: what fabric.h promises, on every transport
 *
 *     conformance shm | tcp | sim-shm | sim-tcp | sim-verbs
 *
 *   In the order of the header: connecting, messages, memory, fences, bounds, ends.
 */
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES (1u << 20)
#define KEY          7u

static enum net_kind kind;

/* A server, a client, and one window between them: what most tests begin with. */
struct pair {
	struct net *net;
	struct member *server;
	struct member *client;
	struct fabric_peer *at_server; /* the client, as the server sees it */
	struct fabric_peer *at_client;
	struct memory memory;
	struct fabric_window *window;
};

static int pair_open(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->net = net_open(kind);
	pair->server = net_add_server(pair->net, NULL);
	pair->client = net_add(pair->net, NULL);
	pair->at_client = net_connect(pair->net, pair->client, pair->server, &pair->at_server);
	memory_create(&pair->memory, MEMORY_BYTES);
	pattern_fill(pair->memory.bytes, MEMORY_BYTES, 0);
	pair->window = net_share(pair->net, pair->at_server, pair->client, pair->at_client,
				 &pair->memory, KEY);
	*state = pair;
	return 0;
}

static int pair_close(void **state)
{
	struct pair *pair = *state;

	net_close(pair->net);
	memory_destroy(&pair->memory);
	free(pair);
	return 0;
}

/* Forgets what has been seen so far. */
static void skip_events(struct member *member)
{
	member->taken = member->seen_count;
}

/* ---- connecting ---- */

static void both_ends_learn_who_the_other_is(void **state)
{
	struct pair *pair = *state;

	assert_int_equal(fabric_peer_id(pair->at_client), 1);
	assert_int_equal(fabric_peer_id(pair->at_server), 2);
	if (!net_is_simulated(kind)) {
		assert_true(fabric_peer_is_local(pair->at_client));
		assert_true(fabric_peer_is_local(pair->at_server));
	}
}

static void a_context_belongs_to_whoever_set_it(void **state)
{
	struct pair *pair = *state;

	assert_null(fabric_peer_context(pair->at_client));
	fabric_peer_set_context(pair->at_client, pair);
	assert_ptr_equal(fabric_peer_context(pair->at_client), pair);
	assert_null(fabric_peer_context(pair->at_server));
}

static void nonsense_is_no_address(void **state)
{
	struct pair *pair = *state;
	struct fabric_peer *peer;
	static const char *const addresses[] = {
		"",
		"tcp",
		"tcp:",
		"tcp://",
		"tcp://127.0.0.1",
		"tcp://127.0.0.1:99999",
		"shm:x",
		"ftp://127.0.0.1:1",
		"shm:",
	};

	for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
		assert_int_equal(fabric_listen(pair->client->fabric, addresses[i], NULL), -EINVAL);
		assert_int_equal(fabric_connect(pair->client->fabric, addresses[i], &peer),
				 -EINVAL);
	}
}

static void nobody_at_the_address_is_heard_of_soon(void **state)
{
	struct pair *pair = *state;
	char address[FABRIC_ADDRESS_BYTES];
	struct fabric_peer *peer;
	int err;

	strcpy(address, pair->server->address);
	net_remove(pair->net, pair->server);
	assert_int_equal(net_expect(pair->net, pair->client, FABRIC_DOWN).status, AFAR_EPEER_DOWN);
	err = fabric_connect(pair->client->fabric, address, &peer);
	if (!err) {
		struct fabric_event event = net_expect(pair->net, pair->client, FABRIC_DOWN);

		assert_ptr_equal(event.peer, peer);
		err = event.status;
	}
	assert_true(err == -ECONNREFUSED || err == -ENOENT);
}

static void a_client_can_leave_and_come_back(void **state)
{
	struct pair *pair = *state;

	for (int i = 0; i < 10; i++) {
		struct fabric_peer *at_server;
		struct fabric_peer *at_client;

		fabric_disconnect(pair->at_client);
		assert_int_equal(net_expect(pair->net, pair->client, FABRIC_DOWN).status, 0);
		assert_int_equal(net_expect(pair->net, pair->server, FABRIC_DOWN).status,
				 AFAR_EPEER_DOWN);
		at_client = net_connect(pair->net, pair->client, pair->server, &at_server);
		pair->window = net_share(pair->net, at_server, pair->client, at_client,
					 &pair->memory, KEY);
		assert_int_equal(net_write(pair->net, pair->client, pair->window, 0, "again", 5),
				 0);
		pair->at_client = at_client;
	}
}

#define CROWD_MEMBERS     10u
#define CROWD_CONNECTIONS 10u

static void a_hundred_connections_work_side_by_side(void **state)
{
	struct pair *pair = *state;
	struct fabric_window *windows[CROWD_MEMBERS][CROWD_CONNECTIONS];
	struct member *members[CROWD_MEMBERS];
	uint64_t previous;

	for (unsigned i = 0; i < CROWD_MEMBERS; i++) {
		members[i] = net_add(pair->net, NULL);
		for (unsigned j = 0; j < CROWD_CONNECTIONS; j++) {
			struct fabric_peer *at_server;
			struct fabric_peer *at_client =
				net_connect(pair->net, members[i], pair->server, &at_server);

			windows[i][j] = net_share(pair->net, at_server, members[i], at_client,
						  &pair->memory, 100 * i + j);
		}
	}
	memset(pair->memory.bytes, 0, 8);
	for (unsigned i = 0; i < CROWD_MEMBERS; i++)
		for (unsigned j = 0; j < CROWD_CONNECTIONS; j++)
			assert_int_equal(
				net_add_to(pair->net, members[i], windows[i][j], 0, 1, &previous),
				0);
	assert_int_equal(*(uint64_t *)(void *)pair->memory.bytes, 100);
}

static void more_peers_than_allowed_are_refused(void **state)
{
	struct pair *pair = *state;
	struct fabric_options options = {.peers_max = 2};
	struct member *few = net_add(pair->net, &options);
	struct fabric_peer *peer;

	net_connect(pair->net, few, pair->server, NULL);
	net_connect(pair->net, few, pair->server, NULL);
	assert_int_equal(fabric_connect(few->fabric, pair->server->address, &peer), -EMFILE);
}

/* ---- messages ---- */

/* The nth message of a run: its number, then bytes that depend on it. */
static uint32_t make_message(unsigned char *message, uint32_t number)
{
	uint32_t len_bytes = (uint32_t)(4 + test_random_below(FABRIC_MESSAGE_BYTES_MAX - 3));

	memcpy(message, &number, 4);
	pattern_fill(message + 4, len_bytes - 4, number);
	return len_bytes;
}

static void expect_message(struct pair *pair, struct member *member, uint32_t number)
{
	struct fabric_event event = net_expect(pair->net, member, FABRIC_MESSAGE);
	uint32_t said;

	memcpy(&said, event.message, 4);
	assert_int_equal(said, number);
	assert_true(pattern_holds((const unsigned char *)event.message + 4, event.len_bytes - 4,
				  number));
}

static void messages_arrive_whole_once_and_in_order(void **state)
{
	struct pair *pair = *state;
	unsigned char message[FABRIC_MESSAGE_BYTES_MAX];

	for (uint32_t i = 0; i < 2000; i++) {
		uint32_t len_bytes = make_message(message, i);

		while (fabric_send(pair->at_client, message, len_bytes) == -EAGAIN)
			net_pump(pair->net);
		len_bytes = make_message(message, i);
		while (fabric_send(pair->at_server, message, len_bytes) == -EAGAIN)
			net_pump(pair->net);
	}
	for (uint32_t i = 0; i < 2000; i++) {
		expect_message(pair, pair->server, i);
		expect_message(pair, pair->client, i);
	}
}

static void empty_messages_are_messages(void **state)
{
	struct pair *pair = *state;

	assert_int_equal(fabric_send(pair->at_client, "", 0), 0);
	assert_int_equal(fabric_send(pair->at_client, "x", 1), 0);
	assert_int_equal(net_expect(pair->net, pair->server, FABRIC_MESSAGE).len_bytes, 0);
	assert_int_equal(net_expect(pair->net, pair->server, FABRIC_MESSAGE).len_bytes, 1);
}

static void a_message_too_long_is_refused(void **state)
{
	struct pair *pair = *state;
	static const unsigned char message[FABRIC_MESSAGE_BYTES_MAX + 1];

	assert_int_equal(fabric_send(pair->at_client, message, sizeof(message)), -EMSGSIZE);
	assert_int_equal(fabric_send(pair->at_client, message, FABRIC_MESSAGE_BYTES_MAX), 0);
	assert_int_equal(net_expect(pair->net, pair->server, FABRIC_MESSAGE).len_bytes,
			 FABRIC_MESSAGE_BYTES_MAX);
}

/* The kernel's buffers take some megabytes; beyond them and ours there is no room. */
#define FLOOD_MAX 100000u

static void a_slow_reader_bounds_its_writer_and_loses_nothing(void **state)
{
	struct pair *pair = *state;
	unsigned char message[FABRIC_MESSAGE_BYTES_MAX];
	uint32_t sent = 0;

	pair->server->deaf = true;
	for (int idle = 0; idle < 100;) {
		int err = fabric_send(pair->at_client, message, make_message(message, sent));

		assert_true(err == 0 || err == -EAGAIN);
		sent += err == 0;
		assert_true(sent < FLOOD_MAX);
		idle = err ? idle + 1 : 0;
		if (err)
			net_pump(pair->net);
	}
	assert_true(sent > 0);
	pair->server->deaf = false;
	for (uint32_t i = 0; i < sent; i++)
		expect_message(pair, pair->server, i);
}

/* More than fabric_poll() keeps: it leaves the rest where it is, and what it gave stays whole. */
static void messages_stay_until_the_next_poll(void **state)
{
	struct pair *pair = *state;
	struct fabric_event events[256];
	unsigned char message[64];
	uint32_t next = 0;

	if (net_is_simulated(kind))
		return; /* there it is the machine that polls */
	for (uint32_t i = 0; i < 200; i++) {
		memcpy(message, &i, 4);
		assert_int_equal(fabric_send(pair->at_client, message, sizeof(message)), 0);
	}
	fabric_flush(pair->client->fabric);
	while (next < 200) {
		unsigned max = (unsigned)(1 + test_random_below(100));
		unsigned count = fabric_poll(pair->server->fabric, events, max);

		for (unsigned i = 0; i < count; i++) {
			uint32_t said;

			assert_int_equal(events[i].kind, FABRIC_MESSAGE);
			memcpy(&said, events[i].message, 4);
			assert_int_equal(said, next);
			next++;
		}
	}
}

/* ---- memory ---- */

static void what_was_written_is_read(void **state)
{
	struct pair *pair = *state;
	unsigned char *written = malloc(MEMORY_BYTES);
	unsigned char *read = malloc(MEMORY_BYTES);

	for (unsigned i = 0; i < 300; i++) {
		uint64_t largest = i % 10 == 0 ? MEMORY_BYTES : 5000;
		uint32_t len_bytes = (uint32_t)(1 + test_random_below(largest));
		uint64_t offset = test_random_below(MEMORY_BYTES - len_bytes + 1);

		pattern_fill(written, len_bytes, test_random());
		assert_int_equal(net_write(pair->net, pair->client, pair->window, offset, written,
					   len_bytes),
				 0);
		assert_memory_equal(pair->memory.bytes + offset, written, len_bytes);
		memset(read, 0, len_bytes);
		assert_int_equal(
			net_read(pair->net, pair->client, pair->window, offset, read, len_bytes),
			0);
		assert_memory_equal(read, written, len_bytes);
	}
	free(written);
	free(read);
}

#define MANY_SLOTS 64u
#define SLOT_BYTES (MEMORY_BYTES / MANY_SLOTS)

/* Many at once, each in a place of its own, against a copy of what the memory should hold. */
static void many_operations_in_flight_do_what_each_alone_would(void **state)
{
	struct pair *pair = *state;
	unsigned char *model = malloc(MEMORY_BYTES);
	unsigned char *buf = malloc(MEMORY_BYTES);

	memcpy(model, pair->memory.bytes, MEMORY_BYTES);
	for (unsigned round = 0; round < 20; round++) {
		for (uint32_t slot = 0; slot < MANY_SLOTS; slot++) {
			uint32_t len_bytes = (uint32_t)(1 + test_random_below(SLOT_BYTES));
			uint64_t offset = slot * SLOT_BYTES;
			bool writes = test_random() & 1;

			if (writes)
				pattern_fill(buf + offset, len_bytes, test_random());
			else
				memset(buf + offset, 0, SLOT_BYTES);
			if (writes)
				memcpy(model + offset, buf + offset, len_bytes);
			assert_int_equal(writes ? fabric_write(pair->window, offset, buf + offset,
							       len_bytes, len_bytes)
						: fabric_read(pair->window, offset, buf + offset,
							      SLOT_BYTES, SLOT_BYTES),
					 0);
		}
		for (uint32_t slot = 0; slot < MANY_SLOTS; slot++)
			assert_int_equal(net_expect(pair->net, pair->client, FABRIC_DONE).status,
					 0);
		assert_memory_equal(pair->memory.bytes, model, MEMORY_BYTES);
		for (uint32_t slot = 0; slot < MANY_SLOTS; slot++)
			assert_memory_equal(buf + slot * SLOT_BYTES, model + slot * SLOT_BYTES, 1);
	}
	free(model);
	free(buf);
}

#define COUNTERS 4u

static void atomics_of_many_clients_lose_nothing(void **state)
{
	struct pair *pair = *state;
	struct member *members[COUNTERS];
	struct fabric_window *windows[COUNTERS];
	uint64_t *words = (uint64_t *)(void *)pair->memory.bytes;
	uint64_t known[COUNTERS] = {0};
	unsigned swapped[COUNTERS] = {0};

	words[0] = words[1] = 0;
	for (unsigned i = 0; i < COUNTERS; i++) {
		struct fabric_peer *at_server;
		struct fabric_peer *at_client;

		members[i] = net_add(pair->net, NULL);
		at_client = net_connect(pair->net, members[i], pair->server, &at_server);
		windows[i] =
			net_share(pair->net, at_server, members[i], at_client, &pair->memory, KEY);
	}
	/* All in flight before any is looked at: one adds, one tries to swap, and tries again. */
	for (unsigned round = 0; round < 200; round++) {
		uint64_t previous[COUNTERS][2];

		for (unsigned i = 0; i < COUNTERS; i++) {
			uint64_t expected_desired[2] = {known[i], known[i] + 1};

			assert_int_equal(fabric_fetch_and_add(windows[i], 0, 1, &previous[i][0], 0),
					 0);
			assert_int_equal(fabric_compare_and_swap(windows[i], 8, expected_desired,
								 &previous[i][1], 1),
					 0);
		}
		for (unsigned i = 0; i < COUNTERS; i++) {
			net_expect(pair->net, members[i], FABRIC_DONE);
			net_expect(pair->net, members[i], FABRIC_DONE);
			swapped[i] += previous[i][1] == known[i];
			known[i] = previous[i][1] == known[i] ? known[i] + 1 : previous[i][1];
		}
	}
	assert_int_equal(words[0], 200 * COUNTERS);
	assert_int_equal(words[1], swapped[0] + swapped[1] + swapped[2] + swapped[3]);
	assert_true(words[1] >= 200);
}

static int swap(struct pair *pair, uint64_t expected, uint64_t desired, uint64_t *previous)
{
	uint64_t expected_desired[2] = {expected, desired};

	assert_int_equal(fabric_compare_and_swap(pair->window, 64, expected_desired, previous, 1),
			 0);
	return net_expect(pair->net, pair->client, FABRIC_DONE).status;
}

static void a_swap_takes_place_only_if_it_finds_what_it_expects(void **state)
{
	struct pair *pair = *state;
	uint64_t *word = (uint64_t *)(void *)(pair->memory.bytes + 64);
	uint64_t previous;

	*word = 5;
	assert_int_equal(swap(pair, 6, 7, &previous), 0);
	assert_int_equal(previous, 5);
	assert_int_equal(*word, 5);
	assert_int_equal(swap(pair, 5, 7, &previous), 0);
	assert_int_equal(previous, 5);
	assert_int_equal(*word, 7);
}

static void an_access_outside_touches_nothing(void **state)
{
	struct pair *pair = *state;
	unsigned char buf[64] = {0};
	uint64_t previous = 0;
	uint64_t swap[2] = {0, 1};
	static const struct {
		uint64_t offset;
		uint32_t len_bytes;
	} bad[] = {
		{MEMORY_BYTES, 1},    {MEMORY_BYTES - 1, 2},   {UINT64_MAX, 1},
		{UINT64_MAX - 7, 64}, {UINT64_C(1) << 63, 64},
	};

	for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
		assert_int_equal(net_read(pair->net, pair->client, pair->window, bad[i].offset, buf,
					  bad[i].len_bytes),
				 -ERANGE);
		assert_int_equal(net_write(pair->net, pair->client, pair->window, bad[i].offset,
					   buf, bad[i].len_bytes),
				 -ERANGE);
	}
	assert_int_equal(fabric_compare_and_swap(pair->window, MEMORY_BYTES, swap, &previous, 1),
			 -ERANGE);
	assert_int_equal(fabric_compare_and_swap(pair->window, 4, swap, &previous, 1), -EINVAL);
	assert_int_equal(fabric_read(pair->window, 0, buf, 0, 1), -EINVAL);
	assert_int_equal(fabric_read(pair->window, 0, buf, FABRIC_IO_BYTES_MAX + 1, 1), -EINVAL);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 0));
}

/* An import that claims more than was exported: refused at once, or when it is used. */
static void a_window_larger_than_the_export_reaches_nothing_more(void **state)
{
	struct pair *pair = *state;
	struct fabric_window *window;
	unsigned char buf[4096] = {0};
	int err = fabric_import(pair->at_client, KEY, 1, 2 * MEMORY_BYTES, &window);

	if (err) {
		assert_int_equal(err, -EPROTO);
		return;
	}
	assert_int_equal(net_write(pair->net, pair->client, window, MEMORY_BYTES - 8, buf, 64),
			 -ERANGE);
	assert_int_equal(net_read(pair->net, pair->client, window, MEMORY_BYTES, buf, 1), -ERANGE);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 0));
}

/* ---- fences ---- */

/* Whoever has no right to (key, epoch): refused at import, or by each operation. */
static void expect_no_access(struct pair *pair, struct fabric_peer *peer, struct member *member,
			     uint64_t key, uint32_t epoch)
{
	struct fabric_window *window;
	unsigned char buf[64] = {0};
	uint64_t previous;
	int err = fabric_import(peer, key, epoch, MEMORY_BYTES, &window);

	if (err) {
		assert_true(err == -ENOENT || err == AFAR_EFENCED);
		return;
	}
	assert_int_equal(net_write(pair->net, member, window, 0, buf, sizeof(buf)), AFAR_EFENCED);
	assert_int_equal(net_read(pair->net, member, window, 0, buf, sizeof(buf)), AFAR_EFENCED);
	assert_int_equal(net_add_to(pair->net, member, window, 0, 1, &previous), AFAR_EFENCED);
	fabric_window_close(window);
}

static void another_epoch_reaches_nothing(void **state)
{
	struct pair *pair = *state;

	expect_no_access(pair, pair->at_client, pair->client, KEY, 0);
	expect_no_access(pair, pair->at_client, pair->client, KEY, 2);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 0));
}

static void a_key_that_was_not_exported_reaches_nothing(void **state)
{
	struct pair *pair = *state;
	unsigned char byte;

	/* The owner has just served another key. */
	assert_int_equal(net_read(pair->net, pair->client, pair->window, 0, &byte, 1), 0);
	expect_no_access(pair, pair->at_client, pair->client, KEY + 1, 1);
	expect_no_access(pair, pair->at_client, pair->client, UINT64_MAX, 1);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 0));
}

static void what_is_exported_to_one_peer_is_not_to_another(void **state)
{
	struct pair *pair = *state;
	struct member *other = net_add(pair->net, NULL);
	struct fabric_peer *at_other = net_connect(pair->net, other, pair->server, NULL);

	expect_no_access(pair, at_other, other, KEY, 1);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 0));
}

static void a_key_is_exported_once_and_withdrawn_once(void **state)
{
	struct pair *pair = *state;
	int err;

	assert_int_equal(fabric_export(pair->at_server, KEY, 1, pair->memory.bytes, MEMORY_BYTES,
				       pair->memory.memfd),
			 -EEXIST);
	err = fabric_withdraw(pair->at_server, KEY);
	assert_true(err == 0 || err == -EBUSY);
	assert_int_equal(fabric_withdraw(pair->at_server, KEY), -ENOENT);
	assert_int_equal(fabric_withdraw(pair->at_server, KEY + 1), -ENOENT);
}

static void after_a_fence_nothing_is_reached_any_more(void **state)
{
	struct pair *pair = *state;
	unsigned char buf[64] = {0};
	int err = fabric_withdraw(pair->at_server, KEY);

	assert_true(err == 0 || err == -EBUSY);
	net_settle(pair->net);
	pattern_fill(pair->memory.bytes, MEMORY_BYTES, 1);
	assert_int_equal(net_write(pair->net, pair->client, pair->window, 0, buf, sizeof(buf)),
			 AFAR_EFENCED);
	assert_int_equal(net_read(pair->net, pair->client, pair->window, 0, buf, sizeof(buf)),
			 AFAR_EFENCED);
	assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 1));
}

/*
 * Writes, large and small, are on their way when the key is withdrawn. A fence of 0 promises that
 * none lands; one of -EBUSY that none lands in the memory that is given out next.
 */
static void late_writes_do_not_reach_the_next_contents(void **state)
{
	struct pair *pair = *state;
	unsigned char *bytes = calloc(1, MEMORY_BYTES);
	struct memory fresh;
	struct fabric_window *window;
	int written;
	int err;

	memory_create(&fresh, MEMORY_BYTES);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(fabric_write(pair->window, 0, bytes, MEMORY_BYTES, i), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(fabric_write(pair->window, i * 4096, bytes, 4096, i), 0);
	fabric_flush(pair->client->fabric);
	for (uint64_t i = test_random_below(4); i > 0; i--)
		net_pump(pair->net);
	err = fabric_withdraw(pair->at_server, KEY);
	if (err == 0) {
		pattern_fill(pair->memory.bytes, MEMORY_BYTES, 1);
	} else {
		assert_int_equal(err, -EBUSY);
		assert_true(fabric_peer_capabilities(pair->at_server) & FABRIC_CAP_ABANDON);
	}
	pattern_fill(fresh.bytes, MEMORY_BYTES, 2);
	for (unsigned i = 0; i < 16; i++)
		assert_true(net_expect(pair->net, pair->client, FABRIC_DONE).status <= 0);
	window = net_share(pair->net, pair->at_server, pair->client, pair->at_client, &fresh,
			   KEY + 1);
	/* Into memory that was abandoned a write may go, if the client has not heard yet. */
	written = net_write(pair->net, pair->client, pair->window, 0, bytes, 4096);
	assert_true(written == AFAR_EFENCED || (written == 0 && err == -EBUSY));
	net_settle(pair->net);
	if (err == 0)
		assert_true(pattern_holds(pair->memory.bytes, MEMORY_BYTES, 1));
	assert_true(pattern_holds(fresh.bytes, MEMORY_BYTES, 2));
	assert_int_equal(net_read(pair->net, pair->client, window, 0, bytes, MEMORY_BYTES), 0);
	assert_true(pattern_holds(bytes, MEMORY_BYTES, 2));
	net_remove(pair->net, pair->client);
	memory_destroy(&fresh);
	free(bytes);
}

/* Replies wait for a reader that does not read; the memory they come from is taken back. */
static void a_fence_takes_no_byte_of_the_next_contents_along(void **state)
{
	struct pair *pair = *state;
	unsigned char *bufs[3];

	for (unsigned i = 0; i < 3; i++) {
		bufs[i] = calloc(1, MEMORY_BYTES);
		assert_int_equal(fabric_read(pair->window, 0, bufs[i], MEMORY_BYTES, i), 0);
	}
	fabric_flush(pair->client->fabric);
	pair->client->deaf = true;
	for (unsigned i = 0; i < 100; i++)
		net_pump(pair->net);
	if (fabric_withdraw(pair->at_server, KEY) == 0)
		pattern_fill(pair->memory.bytes, MEMORY_BYTES, 1);
	pair->client->deaf = false;
	for (unsigned i = 0; i < 3; i++) {
		struct fabric_event event = net_expect(pair->net, pair->client, FABRIC_DONE);

		if (event.status == 0)
			assert_true(pattern_holds(bufs[event.token], MEMORY_BYTES, 0));
		else
			assert_int_equal(event.status, AFAR_EFENCED);
	}
	for (unsigned i = 0; i < 3; i++)
		free(bufs[i]);
}

static void many_exports_come_and_go(void **state)
{
	struct pair *pair = *state;

	for (uint64_t key = 100; key < 400; key++) {
		struct fabric_window *window = net_share(pair->net, pair->at_server, pair->client,
							 pair->at_client, &pair->memory, key);

		assert_int_equal(net_write(pair->net, pair->client, window, 8 * key, &key, 8), 0);
		if (key % 3 != 0)
			fabric_window_close(window);
		assert_int_not_equal(fabric_withdraw(pair->at_server, key), -ENOENT);
	}
}

/* ---- bounds ---- */

static void more_operations_than_allowed_wait(void **state)
{
	struct pair *pair = *state;
	struct fabric_options options = {.operations_max = 16};
	struct member *member = net_add(pair->net, &options);
	struct fabric_peer *at_server;
	struct fabric_peer *at_client = net_connect(pair->net, member, pair->server, &at_server);
	struct fabric_window *window =
		net_share(pair->net, at_server, member, at_client, &pair->memory, KEY);
	unsigned char bufs[17][64];

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(fabric_read(window, 64 * i, bufs[i], 64, i), 0);
		assert_int_equal(fabric_read(window, 0, bufs[16], 64, 16), -EAGAIN);
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(net_expect(pair->net, member, FABRIC_DONE).status, 0);
	}
}

/* ---- ends ---- */

/* After DOWN nothing is outstanding, and each operation has had its DONE. Returns DOWN's status. */
static int expect_all_done_then_down(struct pair *pair, unsigned operations)
{
	struct fabric_event event;
	int down_status;

	for (unsigned i = 0; i < operations; i++) {
		event = net_expect(pair->net, pair->client, FABRIC_DONE);
		assert_true(event.status == 0 || event.status == AFAR_EPEER_DOWN);
	}
	event = net_expect(pair->net, pair->client, FABRIC_DOWN);
	assert_ptr_equal(event.peer, pair->at_client);
	down_status = event.status;
	net_settle(pair->net);
	assert_false(net_has_event(pair->client));
	return down_status;
}

static void submit_some(struct pair *pair, unsigned char *buf)
{
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(
			i % 2 ? fabric_read(pair->window, 4096 * i, buf + 4096 * i, 4096, i)
			      : fabric_write(pair->window, 4096 * i, buf + 4096 * i, 4096, i),
			0);
}

static void our_disconnection_ends_every_operation_once(void **state)
{
	struct pair *pair = *state;
	unsigned char *buf = calloc(100, 4096);

	submit_some(pair, buf);
	fabric_disconnect(pair->at_client);
	assert_int_equal(fabric_send(pair->at_client, "x", 1), AFAR_EPEER_DOWN);
	assert_int_equal(fabric_read(pair->window, 0, buf, 1, 0), AFAR_EPEER_DOWN);
	assert_int_equal(expect_all_done_then_down(pair, 100), 0);
	free(buf);
}

static void their_disconnection_ends_every_operation_once(void **state)
{
	struct pair *pair = *state;
	unsigned char *buf = calloc(100, 4096);

	submit_some(pair, buf);
	fabric_flush(pair->client->fabric);
	fabric_disconnect(pair->at_server);
	assert_true(expect_all_done_then_down(pair, 100) < 0);
	free(buf);
}

static void the_end_of_their_fabric_ends_every_operation_once(void **state)
{
	struct pair *pair = *state;
	unsigned char *buf = calloc(100, 4096);

	submit_some(pair, buf);
	fabric_flush(pair->client->fabric);
	net_remove(pair->net, pair->server);
	assert_true(expect_all_done_then_down(pair, 100) < 0);
	free(buf);
}

static void what_was_sent_before_the_end_still_arrives(void **state)
{
	struct pair *pair = *state;
	unsigned char message[FABRIC_MESSAGE_BYTES_MAX];
	unsigned char *bytes = calloc(1, MEMORY_BYTES);

	skip_events(pair->server);
	memset(pair->memory.bytes, 1, MEMORY_BYTES);
	/* More than the socket takes at once, less than is copied when the buffer goes back. */
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fabric_write(pair->window, 0, bytes, MEMORY_BYTES, 1), 0);
	/* More than a poll hands out at once. */
	for (uint32_t i = 0; i < 150; i++) {
		memcpy(message, &i, 4);
		pattern_fill(message + 4, 1000, i);
		assert_int_equal(fabric_send(pair->at_client, message, 1004), 0);
	}
	fabric_disconnect(pair->at_client);
	memset(bytes, 0xff, MEMORY_BYTES); /* ours again since the DONE that is queued */
	for (uint32_t i = 0; i < 150; i++)
		expect_message(pair, pair->server, i);
	net_expect(pair->net, pair->server, FABRIC_DOWN);
	for (size_t i = 0; i < MEMORY_BYTES; i++)
		assert_true(pair->memory.bytes[i] <= 1);
	free(bytes);
}

static void a_crash_ends_every_operation_once(void **state)
{
	struct pair *pair = *state;
	unsigned char *buf;

	if (!net_is_simulated(kind))
		return; /* process.c does it with real processes */
	buf = calloc(100, 4096);
	submit_some(pair, buf);
	fabric_flush(pair->client->fabric);
	net_crash(pair->net, pair->server);
	assert_true(expect_all_done_then_down(pair, 100) < 0);
	free(buf);
}

static void exports_can_be_withdrawn_when_their_peer_is_down(void **state)
{
	struct pair *pair = *state;
	struct fabric_event event;

	fabric_disconnect(pair->at_client);
	event = net_expect(pair->net, pair->server, FABRIC_DOWN);
	assert_ptr_equal(event.peer, pair->at_server);
	if (net_is_simulated(kind))
		return; /* there the poll that frees the peer may have been already */
	assert_int_equal(fabric_withdraw(pair->at_server, KEY), kind == NET_SHM ? -EBUSY : 0);
}

static void the_statistics_count_what_happened(void **state)
{
	struct pair *pair = *state;
	struct fabric_stats client;
	struct fabric_stats server;
	unsigned char buf[128];

	assert_int_equal(net_read(pair->net, pair->client, pair->window, 0, buf, 128), 0);
	assert_int_equal(net_write(pair->net, pair->client, pair->window, 0, buf, 64), 0);
	fabric_disconnect(pair->at_client);
	net_expect(pair->net, pair->server, FABRIC_DOWN);
	fabric_stats(pair->client->fabric, &client);
	fabric_stats(pair->server->fabric, &server);
	assert_int_equal(client.reads, 1);
	assert_int_equal(client.bytes_read, 128);
	assert_int_equal(client.writes, 1);
	assert_int_equal(client.bytes_written, 64);
	assert_int_equal(client.peers_up, 1);
	assert_int_equal(client.peers_down, 1);
	assert_int_equal(client.messages_received, 1);
	assert_int_equal(server.messages_sent, 1);
	assert_int_equal(server.peers_down, 1);
	assert_int_equal(server.protocol_errors, 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, pair_open, pair_close)

static int choose(const char *name)
{
	static const char *const names[] = {"shm", "tcp", "sim-shm", "sim-tcp", "sim-verbs"};

	for (size_t i = 0; i < ARRAY_COUNT(names); i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(both_ends_learn_who_the_other_is),
		CASE(a_context_belongs_to_whoever_set_it),
		CASE(nonsense_is_no_address),
		CASE(nobody_at_the_address_is_heard_of_soon),
		CASE(a_client_can_leave_and_come_back),
		CASE(a_hundred_connections_work_side_by_side),
		CASE(more_peers_than_allowed_are_refused),
		CASE(messages_arrive_whole_once_and_in_order),
		CASE(empty_messages_are_messages),
		CASE(a_message_too_long_is_refused),
		CASE(a_slow_reader_bounds_its_writer_and_loses_nothing),
		CASE(messages_stay_until_the_next_poll),
		CASE(what_was_written_is_read),
		CASE(many_operations_in_flight_do_what_each_alone_would),
		CASE(atomics_of_many_clients_lose_nothing),
		CASE(a_swap_takes_place_only_if_it_finds_what_it_expects),
		CASE(an_access_outside_touches_nothing),
		CASE(a_window_larger_than_the_export_reaches_nothing_more),
		CASE(another_epoch_reaches_nothing),
		CASE(a_key_that_was_not_exported_reaches_nothing),
		CASE(what_is_exported_to_one_peer_is_not_to_another),
		CASE(a_key_is_exported_once_and_withdrawn_once),
		CASE(after_a_fence_nothing_is_reached_any_more),
		CASE(late_writes_do_not_reach_the_next_contents),
		CASE(a_fence_takes_no_byte_of_the_next_contents_along),
		CASE(many_exports_come_and_go),
		CASE(more_operations_than_allowed_wait),
		CASE(our_disconnection_ends_every_operation_once),
		CASE(their_disconnection_ends_every_operation_once),
		CASE(the_end_of_their_fabric_ends_every_operation_once),
		CASE(what_was_sent_before_the_end_still_arrives),
		CASE(a_crash_ends_every_operation_once),
		CASE(exports_can_be_withdrawn_when_their_peer_is_down),
		CASE(the_statistics_count_what_happened),
	};

	if (argc != 2 || choose(argv[1]) < 0)
		return 2;
	kind = (enum net_kind)choose(argv[1]);
	test_seed();
	return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
