/*
 * stranger.c: who does not hold the key gets nothing, disturbs nobody, and is gone in bounded time
 *
 *     stranger shm | tcp
 */
#include "attacker.h"
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/shm.h"
#include "fabric/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MEMORY_BYTES 65536u

static enum net_kind kind;

/* A server with an honest client, whom no stranger may disturb. */
struct scene {
	struct net *net;
	struct member *server;
	struct member *client;
	struct memory memory;
	struct fabric_window *window;
};

static int scene_open(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));
	struct fabric_peer *at_server;
	struct fabric_peer *at_client;

	assert_non_null(scene);
	scene->net = net_open(kind);
	scene->server = net_add_server(scene->net, NULL);
	scene->client = net_add(scene->net, NULL);
	at_client = net_connect(scene->net, scene->client, scene->server, &at_server);
	memory_create(&scene->memory, MEMORY_BYTES);
	scene->window =
		net_share(scene->net, at_server, scene->client, at_client, &scene->memory, 1);
	*state = scene;
	return 0;
}

static int scene_close(void **state)
{
	struct scene *scene = *state;
	unsigned char buf[64];

	/* The honest client was never disturbed, and the server saw no peer but it. */
	assert_false(net_has_event(scene->server));
	assert_int_equal(net_read(scene->net, scene->client, scene->window, 0, buf, sizeof(buf)),
			 0);
	net_close(scene->net);
	memory_destroy(&scene->memory);
	free(scene);
	return 0;
}

static struct fabric_stats stats_of(const struct member *member)
{
	struct fabric_stats stats;

	fabric_stats(member->fabric, &stats);
	return stats;
}

static void garbage_is_cut_off(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;
	unsigned char garbage[HELLO_FRAME_BYTES];

	for (unsigned i = 0; i < 20; i++) {
		for (size_t j = 0; j < sizeof(garbage); j++)
			garbage[j] = (unsigned char)test_random();
		attacker_connect(&attacker, scene->net, scene->server);
		attacker_send(&attacker, scene->net, garbage, sizeof(garbage));
		assert_int_equal(attacker_expect_end(&attacker, scene->net), -EPROTO);
		attacker_close(&attacker);
	}
	assert_int_equal(stats_of(scene->server).protocol_errors, 20);
}

/* A hello of which one word says what no honest end says. */
static void expect_nonsense(struct scene *scene, size_t offset, uint64_t value, size_t len_bytes)
{
	struct attacker attacker;

	attacker_connect(&attacker, scene->net, scene->server);
	memcpy((unsigned char *)&attacker.hello.ours + offset, &value, len_bytes);
	attacker_send(&attacker, scene->net, &attacker.hello.ours, HELLO_FRAME_BYTES);
	assert_int_equal(attacker_expect_end(&attacker, scene->net), -EPROTO);
	attacker_close(&attacker);
}

static void a_hello_that_makes_no_sense_is_refused(void **state)
{
	struct scene *scene = *state;

	expect_nonsense(scene, offsetof(struct hello_frame, magic), 7, 4);
	expect_nonsense(scene, offsetof(struct hello_frame, kind), HELLO_KIND_PROOF, 2);
	expect_nonsense(scene, offsetof(struct hello_frame, transport), 9, 4);
	expect_nonsense(scene, offsetof(struct hello_frame, hello.id), 0, 8);
	expect_nonsense(scene, offsetof(struct hello_frame, hello.operations_max), 0, 4);
	expect_nonsense(scene, offsetof(struct hello_frame, hello.operations_max), UINT32_MAX, 4);
	for (size_t i = 0; i < 5; i++) {
		struct attacker attacker;

		attacker_connect(&attacker, scene->net, scene->server);
		memset(attacker.hello.ours.hello.boot_id, 'x', 40);
		attacker_send(&attacker, scene->net, &attacker.hello.ours, HELLO_FRAME_BYTES);
		assert_int_equal(attacker_expect_end(&attacker, scene->net), -EPROTO);
		attacker_close(&attacker);
	}
}

static void half_a_hello_is_nobody(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;

	attacker_connect(&attacker, scene->net, scene->server);
	attacker_send(&attacker, scene->net, &attacker.hello.ours, HELLO_FRAME_BYTES / 2);
	if (kind == NET_SHM)
		attacker_expect_end(&attacker, scene->net);
	attacker_close(&attacker);
	net_settle(scene->net);
	assert_int_equal(stats_of(scene->server).peers_up, 1);
}

static void who_says_nothing_is_not_kept(void **state)
{
	struct scene *scene = *state;
	struct fabric_options options = {.silence_ns = 100 * NS_PER_MS};
	struct member *impatient = net_add_server(scene->net, &options);
	struct attacker attacker;
	struct hello_frame proof;

	attacker_connect(&attacker, scene->net, impatient);
	assert_int_equal(attacker_expect_end(&attacker, scene->net), 0);
	attacker_close(&attacker);
	attacker_connect(&attacker, scene->net, impatient);
	attacker_begin_hello(&attacker, scene->net, &proof);
	assert_int_equal(attacker_expect_end(&attacker, scene->net), 0);
	attacker_close(&attacker);
}

static void a_listener_that_says_nothing_is_given_up(void **state)
{
	struct scene *scene = *state;
	struct fabric_options options = {.silence_ns = 100 * NS_PER_MS};
	struct member *impatient = net_add(scene->net, &options);
	struct fabric_peer *peer;

	scene->server->deaf = true;
	assert_int_equal(fabric_connect(impatient->fabric, scene->server->address, &peer), 0);
	assert_int_equal(net_expect(scene->net, impatient, FABRIC_DOWN).status, -ETIMEDOUT);
	scene->server->deaf = false;
	net_settle(scene->net);
}

static void another_version_is_told_so(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;

	attacker_connect(&attacker, scene->net, scene->server);
	attacker.hello.ours.version++;
	attacker_send(&attacker, scene->net, &attacker.hello.ours, HELLO_FRAME_BYTES);
	assert_int_equal(attacker_expect_end(&attacker, scene->net), AFAR_EVERSION);
	attacker_close(&attacker);
}

static void a_wrong_proof_opens_nothing(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;
	struct hello_frame proof;

	for (unsigned i = 0; i < 8; i++) {
		attacker_connect(&attacker, scene->net, scene->server);
		attacker_begin_hello(&attacker, scene->net, &proof);
		proof.proof.mac[test_random_below(SECRET_MAC_BYTES)] ^=
			(uint8_t)(1u << test_random_below(8));
		attacker_send(&attacker, scene->net, &proof, sizeof(proof));
		assert_int_equal(attacker_expect_end(&attacker, scene->net), AFAR_EAUTH);
		attacker_close(&attacker);
	}
	assert_int_equal(stats_of(scene->server).auth_failures, 8);
}

/* What the hello said is proven with it: whoever changes it on the way changes the proof. */
static void a_hello_that_was_changed_on_the_way_proves_nothing(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;
	struct hello_frame changed;
	struct hello_frame frame;
	struct hello_frame proof;
	bool answers;

	attacker_connect(&attacker, scene->net, scene->server);
	changed = attacker.hello.ours;
	changed.hello.id++;
	attacker_send(&attacker, scene->net, &changed, sizeof(changed));
	assert_true(attacker_receive(&attacker, scene->net, &frame, sizeof(frame)));
	assert_int_equal(hello_take(&attacker.hello, &attacker.self, &frame, &proof, &answers), 0);
	attacker_send(&attacker, scene->net, &proof, sizeof(proof));
	assert_int_equal(attacker_expect_end(&attacker, scene->net), AFAR_EAUTH);
	attacker_close(&attacker);
}

static void our_own_words_played_back_prove_nothing(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;
	struct attacker second;
	struct hello_frame frame;

	/* A hello of the server's, got on one connection, is said to it on another. */
	attacker_connect(&attacker, scene->net, scene->server);
	attacker_send(&attacker, scene->net, &attacker.hello.ours, sizeof(frame));
	assert_true(attacker_receive(&attacker, scene->net, &frame, sizeof(frame)));
	attacker_connect(&second, scene->net, scene->server);
	attacker_send(&second, scene->net, &frame, sizeof(frame));
	assert_true(attacker_receive(&second, scene->net, &frame, sizeof(frame)));
	attacker_send(&second, scene->net, &frame, sizeof(frame));
	assert_int_equal(attacker_expect_end(&second, scene->net), -EPROTO);
	attacker_close(&attacker);
	attacker_close(&second);
}

static void the_server_proves_itself_to_nobody_first(void **state)
{
	struct scene *scene = *state;
	struct attacker attacker;
	struct hello_frame frame;
	struct hello_frame proof;

	attacker_connect(&attacker, scene->net, scene->server);
	attacker_send(&attacker, scene->net, &attacker.hello.ours, sizeof(frame));
	assert_true(attacker_receive(&attacker, scene->net, &frame, sizeof(frame)));
	assert_int_equal(frame.kind, HELLO_KIND_HELLO);
	memset(&proof, 0, sizeof(proof));
	proof.magic = HELLO_MAGIC;
	proof.version = HELLO_VERSION;
	proof.kind = HELLO_KIND_PROOF;
	attacker_send(&attacker, scene->net, &proof, sizeof(proof));
	assert_true(attacker_receive(&attacker, scene->net, &frame, sizeof(frame)));
	assert_int_equal(frame.kind, HELLO_KIND_REFUSED);
	attacker_close(&attacker);
}

static void expect_refused(struct scene *scene, const void *key, size_t key_len)
{
	struct fabric_options options = {.id = 77, .key = key, .key_len = key_len};
	struct member *stranger = net_add(scene->net, NULL);
	struct fabric_peer *peer;

	fabric_close(stranger->fabric);
	assert_int_equal(fabric_open(env_real(), &options, &stranger->fabric), 0);
	assert_int_equal(fabric_connect(stranger->fabric, scene->server->address, &peer), 0);
	assert_int_equal(net_expect(scene->net, stranger, FABRIC_DOWN).status, AFAR_EAUTH);
	assert_int_equal(stats_of(stranger).peers_up, 0);
}

static void another_key_is_refused(void **state)
{
	struct scene *scene = *state;
	char key[] = NET_KEY;

	key[3] ^= 1;
	expect_refused(scene, key, strlen(key));
	expect_refused(scene, NET_KEY "!", strlen(NET_KEY) + 1);
	assert_int_equal(stats_of(scene->server).auth_failures, 2);
}

static void no_key_is_refused_by_who_has_one(void **state)
{
	expect_refused(*state, NULL, 0);
}

static void two_without_a_key_meet_on_one_host(void **state)
{
	struct scene *scene = *state;
	struct fabric_options options = {.id = 5};
	struct member *server = net_add(scene->net, NULL);
	struct member *client = net_add(scene->net, NULL);

	fabric_close(server->fabric);
	fabric_close(client->fabric);
	assert_int_equal(fabric_open(env_real(), &options, &server->fabric), 0);
	assert_int_equal(fabric_open(env_real(), &options, &client->fabric), 0);
	net_address(scene->net, server->address);
	assert_int_equal(fabric_listen(server->fabric, server->address, server->address), 0);
	net_connect(scene->net, client, server, NULL);
}

static void without_a_key_nobody_beyond_this_host_is_talked_to(void **state)
{
	struct fabric_options options = {.id = 5};
	struct fabric *fabric;
	struct fabric_peer *peer;

	assert_int_equal(fabric_open(env_real(), &options, &fabric), 0);
	assert_int_equal(fabric_listen(fabric, "tcp://0.0.0.0:0", NULL), -EACCES);
	assert_int_equal(fabric_listen(fabric, "tcp://[::]:0", NULL), -EACCES);
	assert_int_equal(fabric_listen(fabric, "tcp://:0", NULL), -EACCES);
	/* TEST-NET-1: an address that nobody has. */
	assert_int_equal(fabric_connect(fabric, "tcp://192.0.2.1:9", &peer), -EACCES);
	fabric_close(fabric);
}

static void a_key_too_short_is_no_key(void **state)
{
	struct fabric_options options = {.id = 5, .key = "short", .key_len = 5};
	struct fabric *fabric;

	assert_int_equal(fabric_open(env_real(), &options, &fabric), -EINVAL);
}

#define CROWD 300u

static void a_crowd_at_the_door_keeps_nobody_out(void **state)
{
	struct scene *scene = *state;
	struct member *late = net_add(scene->net, NULL);
	struct attacker *crowd = calloc(CROWD, sizeof(*crowd));
	unsigned gone = 0;

	for (unsigned i = 0; i < CROWD; i++) {
		attacker_connect(&crowd[i], scene->net, scene->server);
		net_pump(scene->net);
	}
	net_connect(scene->net, late, scene->server, NULL);
	for (unsigned i = 0; i < CROWD; i++) {
		char byte;

		gone += recv(crowd[i].fd, &byte, 1, MSG_DONTWAIT) == 0;
		attacker_close(&crowd[i]);
	}
	/* Those who came first went first: no more than so many are kept waiting. */
	assert_true(gone >= CROWD - TCP_PENDING_MAX && TCP_PENDING_MAX == SHM_PENDING_MAX);
	free(crowd);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, scene_open, scene_close)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(garbage_is_cut_off),
		CASE(a_hello_that_makes_no_sense_is_refused),
		CASE(half_a_hello_is_nobody),
		CASE(who_says_nothing_is_not_kept),
		CASE(a_listener_that_says_nothing_is_given_up),
		CASE(another_version_is_told_so),
		CASE(a_wrong_proof_opens_nothing),
		CASE(a_hello_that_was_changed_on_the_way_proves_nothing),
		CASE(our_own_words_played_back_prove_nothing),
		CASE(the_server_proves_itself_to_nobody_first),
		CASE(another_key_is_refused),
		CASE(no_key_is_refused_by_who_has_one),
		CASE(two_without_a_key_meet_on_one_host),
		CASE(without_a_key_nobody_beyond_this_host_is_talked_to),
		CASE(a_key_too_short_is_no_key),
		CASE(a_crowd_at_the_door_keeps_nobody_out),
	};

	if (argc != 2)
		return 2;
	kind = strcmp(argv[1], "shm") == 0 ? NET_SHM : NET_TCP;
	test_seed();
	return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
