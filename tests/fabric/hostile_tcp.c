/*
 * hostile_tcp.c: a peer that holds the key and breaks the protocol all the same
 *
 *   Each case writes raw frames. The fabric ends that connection and counts it, touches no memory
 *   that was not exported, and goes on serving others.
 */
#include "attacker.h"
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "fabric/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_BYTES (1u << 20)
#define KEY          1u

/* An attacker that is a peer of the server's, with a window; and an honest client beside it. */
struct scene {
	struct net *net;
	struct member *server;
	struct member *client;
	struct attacker attacker;
	struct fabric_peer *at_server;
	struct memory memory; /* the attacker's; the last page is not exported */
	struct memory other;  /* the client's */
	struct fabric_window *window;
};

#define EXPORT_BYTES (MEMORY_BYTES - 4096u)

static int scene_open(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));
	struct fabric_peer *at_server;
	struct fabric_peer *at_client;

	assert_non_null(scene);
	scene->net = net_open(NET_TCP);
	scene->server = net_add_server(scene->net, NULL);
	scene->client = net_add(scene->net, NULL);
	at_client = net_connect(scene->net, scene->client, scene->server, &at_server);
	memory_create(&scene->other, 4096);
	scene->window =
		net_share(scene->net, at_server, scene->client, at_client, &scene->other, KEY);
	attacker_connect(&scene->attacker, scene->net, scene->server);
	scene->at_server = attacker_hello(&scene->attacker, scene->net, scene->server, -1);
	memory_create(&scene->memory, MEMORY_BYTES);
	pattern_fill(scene->memory.bytes, MEMORY_BYTES, 0);
	assert_int_equal(
		fabric_export(scene->at_server, KEY, 1, scene->memory.bytes, EXPORT_BYTES, -1), 0);
	*state = scene;
	return 0;
}

static int scene_close(void **state)
{
	struct scene *scene = *state;
	unsigned char buf[64];

	if (scene->attacker.fd >= 0)
		attacker_close(&scene->attacker);
	assert_int_equal(net_write(scene->net, scene->client, scene->window, 0, "fine", 4), 0);
	assert_int_equal(net_read(scene->net, scene->client, scene->window, 0, buf, sizeof(buf)),
			 0);
	net_close(scene->net);
	memory_destroy(&scene->memory);
	memory_destroy(&scene->other);
	free(scene);
	return 0;
}

static void send_bytes(struct scene *scene, const void *bytes, size_t len_bytes)
{
	attacker_send(&scene->attacker, scene->net, bytes, len_bytes);
}

static struct wire_frame request(enum wire_kind kind, uint64_t offset, uint32_t len_bytes)
{
	return (struct wire_frame){
		.kind = kind,
		.len_bytes = len_bytes,
		.epoch = 1,
		.key = KEY,
		.offset = offset,
	};
}

static void send_request(struct scene *scene, const struct wire_frame *frame)
{
	unsigned char bytes[WIRE_REQUEST_BYTES];

	send_bytes(scene, bytes, wire_put_request(bytes, frame));
}

static int receive_reply(struct scene *scene, void *payload, uint32_t len_bytes)
{
	unsigned char bytes[WIRE_REPLY_BYTES];
	struct wire_frame frame;

	/* Heartbeats come between. */
	do {
		assert_true(
			attacker_receive(&scene->attacker, scene->net, bytes, WIRE_SHORT_BYTES));
	} while (bytes[2] == WIRE_PING);
	assert_true(attacker_receive(&scene->attacker, scene->net, bytes + WIRE_SHORT_BYTES,
				     WIRE_REPLY_BYTES - WIRE_SHORT_BYTES));
	assert_int_equal(wire_decode(bytes, sizeof(bytes), &frame), WIRE_REPLY_BYTES);
	assert_int_equal(frame.payload_bytes, frame.status ? 0 : len_bytes);
	if (frame.payload_bytes > 0)
		assert_true(attacker_receive(&scene->attacker, scene->net, payload, len_bytes));
	return frame.status;
}

/* The server ended this connection, and says that it was a crime. */
static void expect_crime(struct scene *scene)
{
	struct fabric_event event = net_expect(scene->net, scene->server, FABRIC_DOWN);
	struct fabric_stats stats;

	assert_ptr_equal(event.peer, scene->at_server);
	assert_int_equal(event.status, -EPROTO);
	fabric_stats(scene->server->fabric, &stats);
	assert_int_equal(stats.protocol_errors, 1);
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
}

/* ---- frames ---- */

static void a_head_of_no_kind_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct wire_short head = {.magic = WIRE_MAGIC, .kind = WIRE_KINDS};

	send_bytes(scene, &head, sizeof(head));
	expect_crime(scene);
}

static void a_head_of_kind_zero_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct wire_short head = {.magic = WIRE_MAGIC};

	send_bytes(scene, &head, sizeof(head));
	expect_crime(scene);
}

static void a_head_of_another_magic_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct wire_short head = {.magic = WIRE_MAGIC ^ 1, .kind = WIRE_PING};

	send_bytes(scene, &head, sizeof(head));
	expect_crime(scene);
}

static void a_head_of_another_protocol_is_a_crime(void **state)
{
	struct scene *scene = *state;

	send_bytes(scene, "GET / HTTP/1.1\r\n", 16);
	expect_crime(scene);
}

static void an_oversized_message_is_a_crime(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[WIRE_SHORT_BYTES];

	send_bytes(scene, bytes, wire_put_short(bytes, WIRE_MESSAGE, FABRIC_MESSAGE_BYTES_MAX + 1));
	expect_crime(scene);
}

static void an_oversized_read_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_READ, 0, FABRIC_IO_BYTES_MAX + 1);

	send_request(scene, &frame);
	expect_crime(scene);
}

static void an_oversized_write_is_a_crime_before_its_payload(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_WRITE, 0, UINT32_MAX);

	send_request(scene, &frame);
	expect_crime(scene);
}

static void an_atomic_of_another_size_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_CAS, 0, 8);

	send_request(scene, &frame);
	expect_crime(scene);
}

static void a_reply_that_nobody_asked_for_is_a_crime(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[WIRE_REPLY_BYTES];

	send_bytes(scene, bytes, wire_put_reply(bytes, 0, 0, 0));
	expect_crime(scene);
}

static void random_bytes_are_a_crime_sooner_or_later(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[256];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)test_random();
	bytes[0] ^= 1; /* not our magic by chance */
	bytes[1] = 0;
	send_bytes(scene, bytes, sizeof(bytes));
	expect_crime(scene);
}

/* ---- requests ---- */

static void a_request_outside_is_refused_and_touches_nothing(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[64] = {0};
	static const uint64_t offsets[] = {
		EXPORT_BYTES, EXPORT_BYTES - 63, UINT64_MAX, UINT64_MAX - 31, UINT64_C(1) << 63,
	};

	for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
		struct wire_frame frame = request(WIRE_WRITE, offsets[i], 64);

		send_request(scene, &frame);
		send_bytes(scene, bytes, sizeof(bytes));
		assert_int_equal(receive_reply(scene, NULL, 0), -ERANGE);
		frame.kind = WIRE_READ;
		send_request(scene, &frame);
		assert_int_equal(receive_reply(scene, NULL, 0), -ERANGE);
	}
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
}

static void a_large_write_outside_is_read_and_dropped(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_WRITE, 8, EXPORT_BYTES);
	unsigned char *zeroes = calloc(1, EXPORT_BYTES);
	unsigned char byte;

	send_request(scene, &frame);
	send_bytes(scene, zeroes, EXPORT_BYTES);
	assert_int_equal(receive_reply(scene, NULL, 0), -ERANGE);
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
	frame = request(WIRE_READ, 0, 1);
	send_request(scene, &frame);
	assert_int_equal(receive_reply(scene, &byte, 1), 0);
	free(zeroes);
}

static void a_request_under_another_epoch_or_key_is_fenced(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_WRITE, 0, 8);

	frame.epoch = 2;
	send_request(scene, &frame);
	send_bytes(scene, "01234567", 8);
	assert_int_equal(receive_reply(scene, NULL, 0), AFAR_EFENCED);
	frame.epoch = 1;
	frame.key = 99;
	send_request(scene, &frame);
	send_bytes(scene, "01234567", 8);
	assert_int_equal(receive_reply(scene, NULL, 0), AFAR_EFENCED);
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
}

static void an_atomic_between_two_words_is_refused(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_FAA, 12, 8);

	send_request(scene, &frame);
	send_bytes(scene, "01234567", 8);
	assert_int_equal(receive_reply(scene, NULL, 0), -EINVAL);
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
}

/* ---- torn ---- */

static void a_torn_write_changes_nothing(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_WRITE, 0, 65536);
	unsigned char *zeroes = calloc(1, 65536);

	send_request(scene, &frame);
	send_bytes(scene, zeroes, 65535);
	net_settle(scene->net);
	attacker_close(&scene->attacker);
	assert_int_equal(net_expect(scene->net, scene->server, FABRIC_DOWN).status,
			 AFAR_EPEER_DOWN);
	assert_true(pattern_holds(scene->memory.bytes, MEMORY_BYTES, 0));
	free(zeroes);
}

static void a_torn_message_is_no_message(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[WIRE_SHORT_BYTES + 100] = {0};

	wire_put_short(bytes, WIRE_MESSAGE, 100);
	send_bytes(scene, bytes, sizeof(bytes) - 1);
	net_settle(scene->net);
	attacker_close(&scene->attacker);
	net_expect(scene->net, scene->server, FABRIC_DOWN);
}

static void frames_that_come_byte_by_byte_are_frames(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[WIRE_SHORT_BYTES + 5 + WIRE_REQUEST_BYTES + 8 + WIRE_REQUEST_BYTES];
	struct wire_frame frame = request(WIRE_FAA, 8, 8);
	uint64_t previous;
	uint32_t place = wire_put_short(bytes, WIRE_MESSAGE, 5);

	memset(scene->memory.bytes, 0, 16);
	memcpy(bytes + place, "hello", 5);
	place += 5;
	place += wire_put_request(bytes + place, &frame);
	memcpy(bytes + place, "\1\0\0\0\0\0\0\0", 8);
	place += 8;
	frame = request(WIRE_READ, 0, 4096);
	frame.sequence = 1;
	place += wire_put_request(bytes + place, &frame);
	assert_int_equal(place, sizeof(bytes));
	for (uint32_t i = 0; i < place; i++) {
		send_bytes(scene, bytes + i, 1);
		net_pump(scene->net);
	}
	assert_int_equal(net_expect(scene->net, scene->server, FABRIC_MESSAGE).len_bytes, 5);
	assert_int_equal(receive_reply(scene, &previous, 8), 0);
	assert_int_equal(previous, 0);
	unsigned char *page = calloc(1, 4096);
	assert_int_equal(receive_reply(scene, page, 4096), 0);
	assert_int_equal(page[8], 1);
	free(page);
}

/* ---- greed ---- */

/* Asks and asks, and takes no answer: cut off, by our bound or as one that takes nothing. */
static void who_asks_without_end_and_takes_nothing_is_cut_off(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_READ, 0, 65536);

	for (unsigned i = 0; i < 100000 && !net_has_event(scene->server); i++) {
		unsigned char bytes[WIRE_REQUEST_BYTES];

		frame.sequence = i;
		send_bytes(scene, bytes, wire_put_request(bytes, &frame));
	}
	expect_crime(scene);
}

#define ASKED_BYTES 65536u

/* So much is asked for as is copied at a fence; some of it the socket has not taken by then. */
static void a_fence_takes_nothing_of_the_next_contents_to_a_slow_reader(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_READ, 0, ASKED_BYTES);
	unsigned char *bytes = malloc(ASKED_BYTES);

	for (frame.sequence = 0; frame.sequence < 60; frame.sequence++)
		send_request(scene, &frame);
	net_settle(scene->net);
	assert_int_equal(fabric_withdraw(scene->at_server, KEY), 0);
	pattern_fill(scene->memory.bytes, MEMORY_BYTES, 1);
	for (unsigned i = 0; i < 60; i++) {
		assert_int_equal(receive_reply(scene, bytes, ASKED_BYTES), 0);
		assert_true(pattern_holds(bytes, ASKED_BYTES, 0));
	}
	free(bytes);
}

/* More than that is not copied for anybody: the fence comes first. */
static void a_fence_waits_for_no_reader(void **state)
{
	struct scene *scene = *state;
	struct wire_frame frame = request(WIRE_READ, 0, EXPORT_BYTES);

	for (frame.sequence = 0; frame.sequence < 100; frame.sequence++)
		send_request(scene, &frame);
	net_settle(scene->net);
	assert_int_equal(fabric_withdraw(scene->at_server, KEY), 0);
	assert_int_equal(net_expect(scene->net, scene->server, FABRIC_DOWN).status,
			 AFAR_EPEER_DOWN);
}

static void a_quiet_peer_is_told_that_we_are_there(void **state)
{
	struct scene *scene = *state;
	struct wire_short head;

	for (unsigned i = 0; i < 3; i++) {
		assert_true(attacker_receive(&scene->attacker, scene->net, &head, sizeof(head)));
		assert_int_equal(head.kind, WIRE_PING);
	}
}

static void more_messages_than_are_polled_wait_in_the_socket(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[WIRE_SHORT_BYTES + 4];
	struct fabric_event events[1];
	uint32_t next = 0;

	for (uint32_t i = 0; i < 1000; i++) {
		wire_put_short(bytes, WIRE_MESSAGE, 4);
		memcpy(bytes + WIRE_SHORT_BYTES, &i, 4);
		assert_int_equal(write(scene->attacker.fd, bytes, sizeof(bytes)), sizeof(bytes));
	}
	/* One a poll: the bytes of each stay until the next. */
	while (next < 1000) {
		if (fabric_poll(scene->server->fabric, events, 1) == 0)
			continue;
		assert_int_equal(events[0].kind, FABRIC_MESSAGE);
		assert_memory_equal(events[0].message, &next, 4);
		next++;
	}
}

/* ---- a server that lies to its client ---- */

struct lie {
	struct net *net;
	struct member *client;
	struct attacker attacker;
	struct fabric_peer *peer;
	struct fabric_window *window;
};

static void lie_open(struct lie *lie)
{
	char address[FABRIC_ADDRESS_BYTES];

	lie->net = net_open(NET_TCP);
	lie->client = net_add(lie->net, NULL);
	attacker_listen(&lie->attacker, address);
	assert_int_equal(fabric_connect(lie->client->fabric, address, &lie->peer), 0);
	attacker_accept(&lie->attacker, lie->net);
	net_expect(lie->net, lie->client, FABRIC_UP);
	assert_int_equal(fabric_import(lie->peer, KEY, 1, 4096, &lie->window), 0);
}

/* The client asked for 64 bytes and has room for no more; this is what it is told. */
static void expect_lie_found(const void *answer, size_t len_bytes)
{
	struct lie lie;
	unsigned char guarded[64 + 64];

	lie_open(&lie);
	memset(guarded, 0xee, sizeof(guarded));
	assert_int_equal(fabric_read(lie.window, 0, guarded, 64, 5), 0);
	fabric_flush(lie.client->fabric);
	attacker_send(&lie.attacker, lie.net, answer, len_bytes);
	struct fabric_event event = net_expect(lie.net, lie.client, FABRIC_DONE);
	assert_int_equal(event.token, 5);
	assert_int_equal(event.status, AFAR_EPEER_DOWN);
	assert_int_equal(net_expect(lie.net, lie.client, FABRIC_DOWN).status, -EPROTO);
	for (size_t i = 64; i < sizeof(guarded); i++)
		assert_int_equal(guarded[i], 0xee);
	attacker_close(&lie.attacker);
	net_close(lie.net);
}

static void a_reply_longer_than_asked_for_is_a_crime(void **state)
{
	unsigned char answer[WIRE_REPLY_BYTES + 128] = {0};

	wire_put_reply(answer, 128, 0, 0);
	expect_lie_found(answer, sizeof(answer));
}

static void a_reply_shorter_than_asked_for_is_a_crime(void **state)
{
	unsigned char answer[WIRE_REPLY_BYTES + 8] = {0};

	wire_put_reply(answer, 8, 0, 0);
	expect_lie_found(answer, sizeof(answer));
}

static void a_reply_out_of_turn_is_a_crime(void **state)
{
	unsigned char answer[WIRE_REPLY_BYTES + 64] = {0};

	wire_put_reply(answer, 64, 1, 0);
	expect_lie_found(answer, sizeof(answer));
}

static void a_reply_with_a_status_that_is_no_error_is_a_crime(void **state)
{
	unsigned char answer[WIRE_REPLY_BYTES] = {0};

	wire_put_reply(answer, 0, 0, 7);
	expect_lie_found(answer, sizeof(answer));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, scene_open, scene_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_head_of_no_kind_is_a_crime),
		CASE(a_head_of_kind_zero_is_a_crime),
		CASE(a_head_of_another_magic_is_a_crime),
		CASE(a_head_of_another_protocol_is_a_crime),
		CASE(an_oversized_message_is_a_crime),
		CASE(an_oversized_read_is_a_crime),
		CASE(an_oversized_write_is_a_crime_before_its_payload),
		CASE(an_atomic_of_another_size_is_a_crime),
		CASE(a_reply_that_nobody_asked_for_is_a_crime),
		CASE(random_bytes_are_a_crime_sooner_or_later),
		CASE(a_request_outside_is_refused_and_touches_nothing),
		CASE(a_large_write_outside_is_read_and_dropped),
		CASE(a_request_under_another_epoch_or_key_is_fenced),
		CASE(an_atomic_between_two_words_is_refused),
		CASE(a_torn_write_changes_nothing),
		CASE(a_torn_message_is_no_message),
		CASE(frames_that_come_byte_by_byte_are_frames),
		CASE(who_asks_without_end_and_takes_nothing_is_cut_off),
		CASE(a_fence_takes_nothing_of_the_next_contents_to_a_slow_reader),
		CASE(a_fence_waits_for_no_reader),
		CASE(a_quiet_peer_is_told_that_we_are_there),
		CASE(more_messages_than_are_polled_wait_in_the_socket),
		cmocka_unit_test(a_reply_longer_than_asked_for_is_a_crime),
		cmocka_unit_test(a_reply_shorter_than_asked_for_is_a_crime),
		cmocka_unit_test(a_reply_out_of_turn_is_a_crime),
		cmocka_unit_test(a_reply_with_a_status_that_is_no_error_is_a_crime),
	};

	test_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
