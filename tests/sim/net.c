/*
 * The simulated network: what fabric.h promises, and the faults that a test may ask for.
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/world.h"
#include "fabric/fabric.h"
#include "fabric/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define EVENTS_MAX   4096
#define WINDOW_BYTES 16384u
#define KEY          7u

/* A machine whose program does nothing but poll its fabric and note the events. */
struct host {
	struct world *world;
	struct sim_net *net;
	struct fabric *fabric;
	uint32_t machine;
	bool lazy; /* polls take nothing */
	struct fabric_event events[EVENTS_MAX];
	unsigned event_count;
	unsigned char messages[EVENTS_MAX]; /* the first byte of each */
	unsigned message_count;
	struct fabric_peer *peer; /* the last that came up, NULL after its DOWN */
	unsigned done_count, done_after_down, down_count;
	int down_status, done_status;
};

static void host_note(struct host *host, const struct fabric_event *event)
{
	if (host->event_count < EVENTS_MAX)
		host->events[host->event_count++] = *event;
	switch (event->kind) {
	case FABRIC_UP:
		host->peer = event->peer;
		break;
	case FABRIC_MESSAGE:
		if (host->message_count < EVENTS_MAX)
			host->messages[host->message_count++] =
				*(const unsigned char *)event->message;
		break;
	case FABRIC_DONE:
		host->done_count++;
		host->done_status = event->status;
		host->done_after_down += host->down_count != 0;
		break;
	case FABRIC_DOWN:
		host->down_count++;
		host->down_status = event->status;
		host->peer = NULL;
		break;
	}
}

static unsigned host_poll(void *context)
{
	struct host *host = context;
	struct fabric_event events[16];
	unsigned count = host->lazy ? 0 : fabric_poll(host->fabric, events, ARRAY_COUNT(events));

	for (unsigned i = 0; i < count; i++)
		host_note(host, &events[i]);
	return count;
}

static int64_t host_deadline_ns(void *context)
{
	struct host *host = context;

	return host->lazy ? INT64_MAX : fabric_deadline_ns(host->fabric);
}

static void host_crashed(void *context)
{
	struct host *host = context;

	sim_net_crash(host->net, host->machine);
	fabric_close(host->fabric);
	host->fabric = NULL;
}

static void host_boot(struct host *host, struct world *world, struct sim_net *net, uint32_t machine)
{
	struct fabric_options options = {
		.id = 100 + machine, .net = net, .machine = machine, .send_bytes_max = 16384};
	struct world_program program = {host_poll, host_deadline_ns, host_crashed, host};

	memset(host, 0, sizeof(*host));
	host->world = world;
	host->net = net;
	host->machine = machine;
	assert_int_equal(fabric_open(world_env(world, machine), &options, &host->fabric), 0);
	world_boot(world, machine, &program);
}

/* Two machines, the second listens, the first has connected; the second exports a window. */
struct pair {
	struct world *world;
	struct sim_net *net;
	struct host client, owner;
	struct fabric_window *window;
	int memfd;
	unsigned char *memory;
};

static void pair_connect(struct pair *pair)
{
	struct fabric_peer *peer;

	assert_int_equal(fabric_connect(pair->client.fabric, "sim://9", &peer), 0);
	world_wake(pair->world, 0);
	world_run_until(pair->world, world_now_ns(pair->world) + 10 * NS_PER_MS);
}

static void pair_open(struct pair *pair, uint64_t seed, const struct sim_net_options *options)
{
	char actual[FABRIC_ADDRESS_BYTES];

	memset(pair, 0, sizeof(*pair));
	assert_int_equal(world_open(seed, &pair->world), 0);
	assert_int_equal(sim_net_open(pair->world, options, &pair->net), 0);
	world_machine_add(pair->world);
	world_machine_add(pair->world);
	host_boot(&pair->client, pair->world, pair->net, 0);
	host_boot(&pair->owner, pair->world, pair->net, 1);
	assert_int_equal(fabric_listen(pair->owner.fabric, "sim://9", actual), 0);
	assert_string_equal(actual, "sim://9");
	pair->memfd = memfd_create("window", MFD_CLOEXEC);
	assert_true(pair->memfd >= 0);
	assert_int_equal(ftruncate(pair->memfd, WINDOW_BYTES), 0);
	pair->memory = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pair->memfd, 0);
	assert_ptr_not_equal(pair->memory, MAP_FAILED);
}

static void pair_window(struct pair *pair, uint32_t epoch)
{
	assert_non_null(pair->owner.peer);
	assert_int_equal(fabric_export(pair->owner.peer, KEY, epoch, pair->memory, WINDOW_BYTES,
				       pair->memfd),
			 0);
	assert_int_equal(fabric_import(pair->client.peer, KEY, epoch, WINDOW_BYTES, &pair->window),
			 0);
}

static void pair_start(struct pair *pair, uint64_t seed, const struct sim_net_options *options)
{
	pair_open(pair, seed, options);
	pair_connect(pair);
	assert_non_null(pair->client.peer);
	pair_window(pair, 1);
}

static void pair_close(struct pair *pair)
{
	world_crash(pair->world, 0);
	world_crash(pair->world, 1);
	sim_net_close(pair->net);
	world_close(pair->world);
	munmap(pair->memory, WINDOW_BYTES);
	close(pair->memfd);
}

static void pair_run(struct pair *pair, int64_t ns)
{
	world_wake(pair->world, 0);
	world_wake(pair->world, 1);
	world_run_until(pair->world, world_now_ns(pair->world) + ns);
}

static const struct sim_net_options calm[] = {
	{.kind = SIM_LIKE_TCP}, {.kind = SIM_LIKE_VERBS}, {.kind = SIM_LIKE_SHM}};

static void peers_come_up_with_each_others_id_and_messages_stay_in_order(void **state)
{
	static struct pair pair;
	const struct sim_net_options lossy = {.loss_per_million = 100000};

	pair_start(&pair, 1, &lossy);
	assert_int_equal(fabric_peer_id(pair.client.peer), 101);
	assert_int_equal(fabric_peer_id(pair.owner.peer), 100);
	assert_false(pair.client.events[0].accepted);
	assert_true(pair.owner.events[0].accepted);
	for (unsigned char i = 0; i < 100; i++)
		assert_int_equal(fabric_send(pair.client.peer, &i, 1), 0);
	fabric_flush(pair.client.fabric);
	pair_run(&pair, 20 * NS_PER_S);
	assert_int_equal(pair.owner.message_count, 100);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(pair.owner.messages[i], i);
	pair_close(&pair);
}

static void operations_do_what_they_say_on_each_kind_of_network(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		static struct pair pair;
		const uint64_t swap[2] = {5, 9};
		uint64_t word = 5, previous = 0;
		unsigned char bytes[300], back[300] = {0};

		pair_start(&pair, 2, &calm[kind]);
		memset(bytes, 0xab, sizeof(bytes));
		assert_int_equal(fabric_write(pair.window, 100, bytes, sizeof(bytes), 1), 0);
		pair_run(&pair, NS_PER_MS);
		assert_int_equal(pair.client.done_count, 1);
		assert_memory_equal(pair.memory + 100, bytes, sizeof(bytes));
		assert_int_equal(fabric_read(pair.window, 100, back, sizeof(back), 2), 0);
		pair_run(&pair, NS_PER_MS);
		assert_memory_equal(back, bytes, sizeof(bytes));
		memcpy(pair.memory + 8, &word, sizeof(word));
		assert_int_equal(fabric_compare_and_swap(pair.window, 8, swap, &previous, 3), 0);
		pair_run(&pair, NS_PER_MS);
		assert_int_equal(previous, 5);
		assert_int_equal(fabric_fetch_and_add(pair.window, 8, 3, &previous, 4), 0);
		pair_run(&pair, NS_PER_MS);
		assert_int_equal(previous, 9);
		memcpy(&word, pair.memory + 8, sizeof(word));
		assert_int_equal(word, 12);
		assert_int_equal(pair.client.done_count, 4);
		assert_int_equal(fabric_read(pair.window, WINDOW_BYTES, back, 1, 5), -ERANGE);
		pair_close(&pair);
	}
}

static void nothing_begins_before_the_flush(void **state)
{
	static struct pair pair;
	struct sim_net_stats stats;

	pair_start(&pair, 3, &calm[SIM_LIKE_TCP]);
	pair.client.lazy = true;
	assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
	assert_int_equal(fabric_send(pair.client.peer, "x", 1), 0);
	pair_run(&pair, NS_PER_MS);
	sim_net_stats(pair.net, &stats);
	assert_int_equal(stats.operations + stats.messages, 0);
	assert_int_equal(pair.memory[0], 0);
	fabric_flush(pair.client.fabric);
	pair_run(&pair, NS_PER_MS);
	assert_int_equal(pair.memory[0], 'x');
	assert_int_equal(pair.owner.message_count, 1);
	pair_close(&pair);
}

static void a_cut_ends_the_connection_after_the_silence_time_and_a_short_one_does_not(void **state)
{
	static struct pair pair;

	pair_start(&pair, 4, &calm[SIM_LIKE_TCP]);
	sim_net_cut(pair.net, 0, 1, true);
	sim_net_cut(pair.net, 1, 0, true);
	assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
	pair_run(&pair, 900 * NS_PER_MS);
	sim_net_cut(pair.net, 0, 1, false);
	sim_net_cut(pair.net, 1, 0, false);
	pair_run(&pair, NS_PER_S);
	assert_int_equal(pair.client.down_count + pair.owner.down_count, 0);
	assert_int_equal(pair.client.done_count, 1);
	assert_int_equal(pair.client.done_status, 0);

	sim_net_cut(pair.net, 0, 1, true);
	sim_net_cut(pair.net, 1, 0, true);
	assert_int_equal(fabric_write(pair.window, 0, "y", 1, 2), 0);
	pair_run(&pair, 999 * NS_PER_MS);
	assert_int_equal(pair.client.down_count + pair.owner.down_count, 0);
	pair_run(&pair, 300 * NS_PER_MS);
	assert_int_equal(pair.client.down_count, 1);
	assert_int_equal(pair.owner.down_count, 1);
	assert_int_equal(pair.client.down_status, -ETIMEDOUT);
	assert_int_equal(pair.client.done_count, 2);
	assert_int_equal(pair.client.done_status, AFAR_EPEER_DOWN);
	assert_int_equal(pair.client.done_after_down, 0);
	pair_close(&pair);
}

static void a_one_way_cut_ends_the_connection_at_both_ends(void **state)
{
	for (uint32_t from = 0; from < 2; from++) {
		static struct pair pair;

		pair_start(&pair, 5, &calm[SIM_LIKE_VERBS]);
		sim_net_cut(pair.net, from, !from, true);
		pair_run(&pair, 3 * NS_PER_S);
		assert_int_equal(pair.client.down_count, 1);
		assert_int_equal(pair.owner.down_count, 1);
		pair_close(&pair);
	}
}

static void an_attempt_to_connect_ends_within_the_silence_time(void **state)
{
	static struct pair pair;
	struct fabric_peer *peer;

	pair_open(&pair, 6, &calm[SIM_LIKE_TCP]);
	assert_int_equal(fabric_connect(pair.client.fabric, "sim://8", &peer), -ECONNREFUSED);
	assert_int_equal(fabric_connect(pair.client.fabric, "sim://x", &peer), -EINVAL);
	sim_net_cut(pair.net, 0, 1, true);
	assert_int_equal(fabric_connect(pair.client.fabric, "sim://9", &peer), 0);
	pair_run(&pair, NS_PER_S + NS_PER_MS);
	assert_int_equal(pair.client.down_count, 1);
	sim_net_cut(pair.net, 0, 1, false);
	sim_net_cut(pair.net, 1, 0, true);
	assert_int_equal(fabric_connect(pair.client.fabric, "sim://9", &peer), 0);
	pair_run(&pair, NS_PER_S + NS_PER_MS);
	assert_int_equal(pair.client.down_count, 2);
	assert_int_equal(pair.client.event_count, 2);
	pair_close(&pair);
}

static void only_tcp_needs_the_owner_to_run(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		static struct pair pair;

		pair_start(&pair, 7, &calm[kind]);
		world_pause(pair.world, 1, world_now_ns(pair.world) + 500 * NS_PER_MS);
		assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
		pair_run(&pair, 100 * NS_PER_MS);
		assert_int_equal(pair.client.done_count, kind != SIM_LIKE_TCP);
		assert_int_equal(fabric_peer_capabilities(pair.client.peer) & FABRIC_CAP_ONE_SIDED,
				 kind != SIM_LIKE_TCP);
		pair_run(&pair, NS_PER_S);
		assert_int_equal(pair.client.done_count, 1);
		assert_int_equal(pair.client.down_count, 0);
		pair_close(&pair);
	}
}

static void a_machine_that_pauses_too_long_is_down(void **state)
{
	static struct pair pair;

	pair_start(&pair, 8, &calm[SIM_LIKE_TCP]);
	world_pause(pair.world, 1, world_now_ns(pair.world) + 5 * NS_PER_S);
	pair_run(&pair, 2 * NS_PER_S);
	assert_int_equal(pair.client.down_count, 1);
	assert_int_equal(pair.owner.down_count, 0);
	pair_run(&pair, 4 * NS_PER_S);
	assert_int_equal(pair.owner.down_count, 1);
	pair_close(&pair);
}

static void a_withdrawn_key_is_fenced_or_its_memory_abandoned(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		static struct pair pair;
		struct sim_net_stats stats;
		bool is_shm = kind == SIM_LIKE_SHM;

		pair_start(&pair, 9, &calm[kind]);
		assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
		fabric_flush(pair.client.fabric); /* on its way when the key is taken back */
		assert_int_equal(fabric_withdraw(pair.owner.peer, KEY), is_shm ? -EBUSY : 0);
		assert_int_equal(fabric_withdraw(pair.owner.peer, KEY), -ENOENT);
		pair_run(&pair, 10 * NS_PER_MS);
		assert_int_equal(pair.client.done_status, is_shm ? 0 : AFAR_EFENCED);
		assert_int_equal(pair.memory[0], is_shm ? 'x' : 0);
		assert_int_equal(fabric_write(pair.window, 0, "y", 1, 2), 0);
		pair_run(&pair, 10 * NS_PER_MS);
		assert_int_equal(pair.client.done_status, AFAR_EFENCED);
		assert_int_equal(pair.memory[0], is_shm ? 'x' : 0);
		sim_net_stats(pair.net, &stats);
		assert_int_equal(stats.into_old, is_shm);
		pair_close(&pair);
	}
}

static void an_access_under_another_epoch_touches_nothing(void **state)
{
	for (unsigned kind = 0; kind < SIM_LIKE_SHM; kind++) {
		static struct pair pair;

		pair_start(&pair, 10, &calm[kind]);
		assert_int_equal(fabric_withdraw(pair.owner.peer, KEY), 0);
		assert_int_equal(
			fabric_export(pair.owner.peer, KEY, 2, pair.memory, WINDOW_BYTES, -1), 0);
		assert_int_equal(
			fabric_export(pair.owner.peer, KEY, 3, pair.memory, WINDOW_BYTES, -1),
			-EEXIST);
		assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
		pair_run(&pair, 10 * NS_PER_MS);
		assert_int_equal(pair.client.done_status, AFAR_EFENCED);
		assert_int_equal(pair.memory[0], 0);
		pair_close(&pair);
	}
}

static void torn_operations_mix_cache_lines_of_two_writes(void **state)
{
	const struct sim_net_options torn = {.kind = SIM_LIKE_VERBS, .torn_per_million = 1000000};
	unsigned mixed = 0;

	for (uint64_t seed = 0; seed < 20; seed++) {
		static struct pair pair;
		unsigned char ones[4096], twos[4096], back[4096];
		unsigned in_line[2] = {0, 0};

		pair_start(&pair, seed, &torn);
		memset(ones, 1, sizeof(ones));
		memset(twos, 2, sizeof(twos));
		assert_int_equal(fabric_write(pair.window, 0, ones, sizeof(ones), 1), 0);
		pair_run(&pair, NS_PER_MS);
		assert_int_equal(fabric_write(pair.window, 0, twos, sizeof(twos), 2), 0);
		assert_int_equal(fabric_read(pair.window, 0, back, sizeof(back), 3), 0);
		pair_run(&pair, NS_PER_MS);
		assert_int_equal(pair.client.done_count, 3);
		assert_memory_equal(pair.memory, twos, sizeof(twos));
		for (unsigned line = 0; line < sizeof(back); line += 64) {
			for (unsigned i = 1; i < 64; i++)
				assert_int_equal(back[line + i], back[line]);
			in_line[back[line] - 1]++;
		}
		mixed += in_line[0] != 0 && in_line[1] != 0;
		pair_close(&pair);
	}
	assert_true(mixed > 3);
}

static void the_other_end_hears_of_a_crash_and_a_dying_machines_writes_may_be_torn(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		unsigned whole = 0, torn = 0, none = 0;

		for (uint64_t seed = 0; seed < 60; seed++) {
			static struct pair pair;
			unsigned char bytes[4096];
			unsigned lines = 0;

			pair_start(&pair, seed, &calm[kind]);
			memset(bytes, 1, sizeof(bytes));
			assert_int_equal(fabric_write(pair.window, 0, bytes, sizeof(bytes), 1), 0);
			fabric_flush(pair.client.fabric);
			world_crash(pair.world, 0);
			assert_null(pair.client.fabric);
			pair_run(&pair, 2 * NS_PER_S);
			assert_int_equal(pair.owner.down_count, 1);
			for (unsigned i = 0; i < sizeof(bytes); i += 64)
				lines += pair.memory[i];
			none += lines == 0;
			torn += lines > 0 && lines < 64;
			whole += lines == 64;
			pair_close(&pair);
		}
		assert_true(none > 0 && torn > 0);
		assert_int_equal(whole > 0, kind != SIM_LIKE_SHM);
	}
}

static void a_machine_that_died_in_its_poll_sends_nothing_more(void **state)
{
	static struct pair pair;

	pair_start(&pair, 11, &calm[SIM_LIKE_TCP]);
	for (unsigned char i = 0; i < 5; i++)
		assert_int_equal(fabric_send(pair.client.peer, &i, 1), 0);
	world_crash_within(pair.world, 0, 3);
	pair_run(&pair, 2 * NS_PER_S);
	assert_null(pair.client.fabric);
	assert_true(pair.owner.message_count <= 2);
	assert_int_equal(pair.owner.down_count, 1);
	host_boot(&pair.client, pair.world, pair.net, 0);
	pair_connect(&pair);
	assert_non_null(pair.client.peer);
	pair_close(&pair);
}

static void a_write_may_land_after_its_sender_heard_down(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		unsigned late = 0;

		for (uint64_t seed = 0; seed < 40; seed++) {
			static struct pair pair;
			struct sim_net_stats stats;

			pair_start(&pair, seed, &calm[kind]);
			sim_net_cut(pair.net, 0, 1, true);
			sim_net_cut(pair.net, 1, 0, true);
			assert_int_equal(fabric_write(pair.window, 0, "x", 1, 1), 0);
			if (kind == SIM_LIKE_SHM) {
				fabric_flush(pair.client.fabric);
				fabric_disconnect(pair.client.peer);
			}
			while (pair.client.down_count == 0)
				pair_run(&pair, NS_PER_MS);
			assert_int_equal(pair.client.done_status, AFAR_EPEER_DOWN);
			sim_net_cut(pair.net, 0, 1, false);
			pair_run(&pair, 2 * NS_PER_S);
			sim_net_stats(pair.net, &stats);
			assert_int_equal(stats.late, pair.memory[0] == 'x');
			late += (unsigned)stats.late;
			pair_close(&pair);
		}
		assert_true(late > 0);
	}
}

static void a_peer_that_takes_nothing_stops_its_sender_for_a_while(void **state)
{
	static struct pair pair;
	unsigned char message[4096] = {0};
	unsigned sent = 0;

	pair_start(&pair, 12, &calm[SIM_LIKE_TCP]);
	pair.owner.lazy = true;
	while (fabric_send(pair.client.peer, message, sizeof(message)) == 0)
		sent++;
	assert_int_equal(sent, 4);
	pair_run(&pair, 100 * NS_PER_MS);
	assert_int_equal(fabric_send(pair.client.peer, message, sizeof(message)), -EAGAIN);
	pair.owner.lazy = false;
	pair_run(&pair, 10 * NS_PER_MS);
	assert_int_equal(pair.owner.message_count, 4);
	assert_int_equal(fabric_send(pair.client.peer, message, sizeof(message)), 0);
	pair_close(&pair);
}

static void what_was_sent_before_a_disconnect_arrives_before_the_down(void **state)
{
	static struct pair pair;

	pair_start(&pair, 13, &calm[SIM_LIKE_TCP]);
	assert_int_equal(fabric_send(pair.client.peer, "last", 4), 0);
	fabric_disconnect(pair.client.peer);
	pair_run(&pair, 100 * NS_PER_MS);
	assert_int_equal(pair.client.down_count, 1);
	assert_int_equal(pair.client.down_status, 0);
	assert_int_equal(pair.owner.message_count, 1);
	assert_int_equal(pair.owner.down_count, 1);
	pair_connect(&pair);
	assert_non_null(pair.client.peer);
	pair_close(&pair);
}

static void peers_with_different_keys_do_not_meet(void **state)
{
	static struct pair pair;
	struct fabric_options options = {.id = 5, .key = "0123456789abcdef", .key_len = 16};
	struct fabric_peer *peer;

	pair_open(&pair, 14, &calm[SIM_LIKE_TCP]);
	options.net = pair.net;
	fabric_close(pair.client.fabric);
	assert_int_equal(fabric_open(world_env(pair.world, 0), &options, &pair.client.fabric), 0);
	assert_int_equal(fabric_connect(pair.client.fabric, "sim://9", &peer), 0);
	pair_run(&pair, 100 * NS_PER_MS);
	assert_int_equal(pair.client.down_status, AFAR_EAUTH);
	assert_int_equal(pair.client.event_count, 1);
	assert_int_equal(pair.owner.event_count, 0);
	pair_close(&pair);
}

/* Reads, writes and messages beside cuts, pauses, losses and resets: F1 and F2, and the hash. */
static uint64_t rough_run(uint64_t seed, unsigned kind, struct sim_net_stats *stats)
{
	const struct sim_net_options rough = {.kind = kind,
					      .loss_per_million = 20000,
					      .break_per_million = 2000,
					      .torn_per_million = 300000};
	static struct pair pair;
	static unsigned char pages[64][4096];
	unsigned accepted = 0;
	uint64_t hash;

	pair_open(&pair, seed, &rough);
	for (unsigned round = 0; round < 400; round++) {
		uint64_t dice = world_random_below(pair.world, 100);

		if (!pair.client.peer || !pair.owner.peer)
			pair_connect(&pair);
		if (dice < 2)
			sim_net_cut(pair.net, round % 2, !(round % 2), true);
		else if (dice < 4)
			sim_net_cut(pair.net, round % 2, !(round % 2), false);
		else if (dice < 8)
			world_pause(pair.world, round % 2,
				    world_now_ns(pair.world) + (int64_t)dice * NS_PER_S / 5);
		if (pair.client.peer && pair.owner.peer &&
		    fabric_export(pair.owner.peer, round, 1, pair.memory, WINDOW_BYTES,
				  pair.memfd) == 0 &&
		    fabric_import(pair.client.peer, round, 1, WINDOW_BYTES, &pair.window) == 0) {
			for (unsigned i = 0; i < 8; i++)
				accepted += fabric_write(pair.window, 4096 * (i % 4), pages[i],
							 4096, round) == 0;
			for (unsigned i = 8; i < 16; i++)
				accepted += fabric_read(pair.window, 4096 * (i % 4), pages[i], 4096,
							round) == 0;
			fabric_send(pair.client.peer, "m", 1);
		}
		pair_run(&pair, (int64_t)world_random_below(pair.world, 50) * NS_PER_MS);
	}
	sim_net_cut(pair.net, 0, 1, false);
	sim_net_cut(pair.net, 1, 0, false);
	pair_run(&pair, 10 * NS_PER_S);
	if (pair.client.peer)
		fabric_disconnect(pair.client.peer);
	pair_run(&pair, NS_PER_S);
	assert_int_equal(pair.client.done_count, accepted);
	sim_net_stats(pair.net, stats);
	hash = world_trace_hash(pair.world);
	pair_close(&pair);
	return hash;
}

static void every_operation_ends_once_through_all_faults_and_runs_repeat(void **state)
{
	for (unsigned kind = 0; kind < ARRAY_COUNT(calm); kind++) {
		struct sim_net_stats one, two;

		assert_int_equal(rough_run(15, kind, &one), rough_run(15, kind, &two));
		assert_memory_equal(&one, &two, sizeof(one));
		assert_int_not_equal(rough_run(15, kind, &one), rough_run(16, kind, &two));
		assert_true(one.silence_downs > 0 && one.torn > 0);
		assert_int_equal(one.broken > 0 && one.resent > 0, kind != SIM_LIKE_SHM);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(peers_come_up_with_each_others_id_and_messages_stay_in_order),
		cmocka_unit_test(operations_do_what_they_say_on_each_kind_of_network),
		cmocka_unit_test(nothing_begins_before_the_flush),
		cmocka_unit_test(
			a_cut_ends_the_connection_after_the_silence_time_and_a_short_one_does_not),
		cmocka_unit_test(a_one_way_cut_ends_the_connection_at_both_ends),
		cmocka_unit_test(an_attempt_to_connect_ends_within_the_silence_time),
		cmocka_unit_test(only_tcp_needs_the_owner_to_run),
		cmocka_unit_test(a_machine_that_pauses_too_long_is_down),
		cmocka_unit_test(a_withdrawn_key_is_fenced_or_its_memory_abandoned),
		cmocka_unit_test(an_access_under_another_epoch_touches_nothing),
		cmocka_unit_test(torn_operations_mix_cache_lines_of_two_writes),
		cmocka_unit_test(
			the_other_end_hears_of_a_crash_and_a_dying_machines_writes_may_be_torn),
		cmocka_unit_test(a_machine_that_died_in_its_poll_sends_nothing_more),
		cmocka_unit_test(a_write_may_land_after_its_sender_heard_down),
		cmocka_unit_test(a_peer_that_takes_nothing_stops_its_sender_for_a_while),
		cmocka_unit_test(what_was_sent_before_a_disconnect_arrives_before_the_down),
		cmocka_unit_test(peers_with_different_keys_do_not_meet),
		cmocka_unit_test(every_operation_ends_once_through_all_faults_and_runs_repeat),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
