/*
 * conformance.c: what fabric.h promises, on every transport
 *
 *     conformance shm | tcp | sim
 */
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES (1u << 20)

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
	pair->window = net_share(pair->net, pair->at_server, pair->client, pair->at_client,
				 &pair->memory, 7);
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

static void fill(void *bytes, size_t len_bytes)
{
	for (size_t i = 0; i < len_bytes; i++)
		((unsigned char *)bytes)[i] = (unsigned char)test_random();
}

/* ---- connecting ---- */

static void both_ends_learn_who_the_other_is(void **state)
{
	struct pair *pair = *state;

	assert_int_equal(fabric_peer_id(pair->at_client), 1);
	assert_int_equal(fabric_peer_id(pair->at_server), 2);
	if (kind != NET_SIM) {
		assert_true(fabric_peer_is_local(pair->at_client));
		assert_true(fabric_peer_is_local(pair->at_server));
	}
}

/* ---- memory ---- */

static void what_was_written_is_read(void **state)
{
	struct pair *pair = *state;
	unsigned char *written = malloc(MEMORY_BYTES);
	unsigned char *read = malloc(MEMORY_BYTES);

	for (int i = 0; i < 300; i++) {
		uint64_t largest = i % 10 == 0 ? MEMORY_BYTES : 5000;
		uint32_t len_bytes = (uint32_t)(1 + test_random_below(largest));
		uint64_t offset = test_random_below(MEMORY_BYTES - len_bytes + 1);

		fill(written, len_bytes);
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

#define CASE(test) cmocka_unit_test_setup_teardown(test, pair_open, pair_close)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(both_ends_learn_who_the_other_is),
		CASE(what_was_written_is_read),
	};

	if (argc != 2)
		return 2;
	kind = strcmp(argv[1], "shm") == 0 ? NET_SHM : NET_TCP;
	test_seed();
	return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
