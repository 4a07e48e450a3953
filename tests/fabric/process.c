/*
 * process.c: a peer in another process is killed, stopped, forked; a sleeper is woken
 *
 *     process shm | tcp
 */
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEMORY_BYTES (1u << 20)
#define OPERATIONS   64u

static enum net_kind kind;

/* A client here, a server elsewhere, its memory in a window. */
struct pair {
	struct net *net;
	struct member *client;
	struct process server;
	struct fabric_peer *peer;
	struct fabric_window *window;
	unsigned char *buf;
};

static void connect_pair(struct pair *pair, const struct fabric_options *options)
{
	struct fabric_event event;

	pair->client = net_add(pair->net, options);
	assert_int_equal(fabric_connect(pair->client->fabric, pair->server.address, &pair->peer),
			 0);
	net_expect(pair->net, pair->client, FABRIC_UP);
	event = net_expect(pair->net, pair->client, FABRIC_MESSAGE);
	assert_int_equal(event.len_bytes, 8);
	assert_int_equal(fabric_import(pair->peer, 1, 1, MEMORY_BYTES, &pair->window), 0);
}

static int pair_open(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->net = net_open(kind);
	process_start(pair->net, &pair->server, MEMORY_BYTES);
	connect_pair(pair, NULL);
	pair->buf = calloc(1, MEMORY_BYTES);
	*state = pair;
	return 0;
}

static int pair_close(void **state)
{
	struct pair *pair = *state;

	process_kill(&pair->server);
	net_close(pair->net);
	free(pair->buf);
	free(pair);
	return 0;
}

static void echo(struct pair *pair, const char *text)
{
	struct fabric_event event;

	assert_int_equal(fabric_send(pair->peer, text, (uint32_t)strlen(text)), 0);
	event = net_expect(pair->net, pair->client, FABRIC_MESSAGE);
	assert_int_equal(event.len_bytes, strlen(text));
	assert_memory_equal(event.message, text, event.len_bytes);
}

static void another_process_is_read_and_written(void **state)
{
	struct pair *pair = *state;
	unsigned char *read = calloc(1, MEMORY_BYTES);

	for (uint64_t i = 0; i < 20; i++) {
		pattern_fill(pair->buf, MEMORY_BYTES, i);
		assert_int_equal(net_write(pair->net, pair->client, pair->window, 0, pair->buf,
					   MEMORY_BYTES),
				 0);
		echo(pair, "between");
		assert_int_equal(
			net_read(pair->net, pair->client, pair->window, 0, read, MEMORY_BYTES), 0);
		assert_true(pattern_holds(read, MEMORY_BYTES, i));
	}
	free(read);
}

/* Each wait sleeps, at both ends: nothing that was sent may be slept through. */
static void sleepers_are_woken_by_every_message(void **state)
{
	struct pair *pair = *state;

	for (uint32_t i = 0; i < 2000; i++) {
		struct fabric_event event;

		assert_int_equal(fabric_send(pair->peer, &i, sizeof(i)), 0);
		while (fabric_poll(pair->client->fabric, &event, 1) == 0)
			assert_int_equal(fabric_wait(pair->client->fabric,
						     env_now_ns(env_real()) + 60 * NS_PER_S),
					 0);
		assert_int_equal(event.kind, FABRIC_MESSAGE);
		assert_memory_equal(event.message, &i, sizeof(i));
	}
}

static void a_wait_for_nothing_ends_at_its_deadline(void **state)
{
	struct pair *pair = *state;
	int64_t deadline_ns = env_now_ns(env_real()) + 20 * NS_PER_MS;

	assert_int_equal(fabric_wait(pair->client->fabric, deadline_ns), -ETIMEDOUT);
	assert_true(env_now_ns(env_real()) >= deadline_ns);
}

/* Asleep on the descriptor, with what is in flight, when the other process dies. */
static void a_killed_peer_is_noticed_and_every_operation_ends(void **state)
{
	struct pair *pair = *state;
	unsigned ended = 0;
	int64_t killed_ns;

	/* Stopped first, so that on tcp the operations are surely unanswered. */
	kill(pair->server.pid, SIGSTOP);
	for (uint64_t i = 0; i < OPERATIONS; i++)
		assert_int_equal(
			i % 2 ? fabric_write(pair->window, 4096 * i, pair->buf, 4096, i)
			      : fabric_read(pair->window, 4096 * i, pair->buf + 4096 * i, 4096, i),
			0);
	fabric_flush(pair->client->fabric);
	killed_ns = env_now_ns(env_real());
	kill(pair->server.pid, SIGKILL);
	for (bool down = false; !down;) {
		struct fabric_event event;

		if (fabric_poll(pair->client->fabric, &event, 1) == 0) {
			fabric_wait(pair->client->fabric, killed_ns + 60 * NS_PER_S);
			assert_true(env_now_ns(env_real()) < killed_ns + 60 * NS_PER_S);
			continue;
		}
		down = event.kind == FABRIC_DOWN;
		ended += event.kind == FABRIC_DONE;
		assert_int_equal(event.status, kind == NET_SHM && !down ? 0 : AFAR_EPEER_DOWN);
	}
	assert_int_equal(ended, OPERATIONS);
	/* The promise is 100 ms; a machine that is busy with other tests is given ten seconds. */
	assert_true(env_now_ns(env_real()) - killed_ns < 10 * NS_PER_S);
}

static void a_thread_that_never_runs_dry_still_hears_of_a_death(void **state)
{
	struct pair *pair = *state;
	bool down = false;

	kill(pair->server.pid, SIGKILL);
	for (uint64_t i = 0; !down; i++) {
		struct fabric_event events[4];
		unsigned count;

		if (fabric_read(pair->window, 0, pair->buf, 64, i) != 0)
			assert_true(i > 0);
		count = fabric_poll(pair->client->fabric, events, 4);
		for (unsigned j = 0; j < count; j++)
			down |= events[j].kind == FABRIC_DOWN;
	}
}

/* On shm its memory stays open, for longer than silence_ns; on tcp silence is the end. */
static void a_stopped_peer_is_silent(void **state)
{
	struct pair *pair = *state;
	struct fabric_options options = {.heartbeat_ns = 20 * NS_PER_MS,
					 .silence_ns = 200 * NS_PER_MS};

	connect_pair(pair, &options);
	kill(pair->server.pid, SIGSTOP);
	if (kind == NET_TCP) {
		assert_int_equal(net_expect(pair->net, pair->client, FABRIC_DOWN).status,
				 AFAR_EPEER_DOWN);
		return;
	}
	for (unsigned i = 0; i < 6; i++) {
		net_run(pair->net, 100 * NS_PER_MS);
		pattern_fill(pair->buf, 4096, i);
		assert_int_equal(
			net_write(pair->net, pair->client, pair->window, 4096, pair->buf, 4096), 0);
		assert_int_equal(net_read(pair->net, pair->client, pair->window, 4096,
					  pair->buf + 4096, 4096),
				 0);
		assert_true(pattern_holds(pair->buf + 4096, 4096, i));
	}
	kill(pair->server.pid, SIGCONT);
	echo(pair, "still there");
}

/* A peer that says nothing but its heartbeats stays, however long. */
static void heartbeats_keep_a_quiet_peer(void **state)
{
	struct pair *pair = *state;
	struct fabric_options options = {.heartbeat_ns = 20 * NS_PER_MS,
					 .silence_ns = 10 * NS_PER_S};

	connect_pair(pair, &options);
	net_run(pair->net, 500 * NS_PER_MS);
	assert_false(net_has_event(pair->client));
	echo(pair, "still there");
}

static void a_process_that_is_gone_leaves_nothing_to_abandon(void **state)
{
	struct pair *pair = *state;
	struct fabric_event event;
	struct memory memory;
	struct member *server = net_add_server(pair->net, NULL);
	pid_t pid;

	memory_create(&memory, MEMORY_BYTES);
	pid = fork();
	if (pid == 0) {
		struct member *client = net_add(pair->net, NULL);
		struct fabric_peer *peer;

		if (fabric_connect(client->fabric, server->address, &peer))
			_exit(1);
		for (;;) {
			fabric_wait(client->fabric, env_now_ns(env_real()) + NS_PER_S);
			fabric_poll(client->fabric, &event, 1);
		}
	}
	event = net_expect(pair->net, server, FABRIC_UP);
	if (kind == NET_SHM)
		assert_int_equal(fabric_peer_pid(event.peer), pid);
	for (uint64_t key = 1; key <= 2; key++)
		assert_int_equal(
			fabric_export(event.peer, key, 1, memory.bytes, MEMORY_BYTES, memory.memfd),
			0);
	assert_int_equal(fabric_withdraw(event.peer, 1), kind == NET_SHM ? -EBUSY : 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(fabric_withdraw(event.peer, 2), 0);
	net_expect(pair->net, server, FABRIC_DOWN);
	memory_destroy(&memory);
}

/* A child has neither our windows nor, after exec, our descriptors. */
static void a_child_does_not_inherit_a_window(void **state)
{
	struct pair *pair = *state;
	unsigned char *memory = fabric_window_memory(pair->window);
	int status;
	pid_t pid;

	if (kind != NET_SHM)
		return;
	assert_non_null(memory);
	pid = fork();
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile unsigned char *)memory = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void the_file_of_a_dead_listener_is_replaced_and_of_a_living_one_is_not(void **state)
{
	struct pair *pair = *state;
	struct fabric_options options = {.id = 9};
	struct fabric *fabric;

	if (kind != NET_SHM)
		return;
	assert_int_equal(fabric_open(env_real(), &options, &fabric), 0);
	assert_int_equal(fabric_listen(fabric, pair->server.address, NULL), -EADDRINUSE);
	kill(pair->server.pid, SIGKILL);
	waitpid(pair->server.pid, NULL, 0);
	assert_int_equal(fabric_listen(fabric, pair->server.address, NULL), 0);
	fabric_close(fabric);
	assert_int_equal(access(strchr(pair->server.address, '/'), F_OK), -1);
	pair->server.pid = 0;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, pair_open, pair_close)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(another_process_is_read_and_written),
		CASE(sleepers_are_woken_by_every_message),
		CASE(a_wait_for_nothing_ends_at_its_deadline),
		CASE(a_killed_peer_is_noticed_and_every_operation_ends),
		CASE(a_thread_that_never_runs_dry_still_hears_of_a_death),
		CASE(a_stopped_peer_is_silent),
		CASE(heartbeats_keep_a_quiet_peer),
		CASE(a_process_that_is_gone_leaves_nothing_to_abandon),
		CASE(a_child_does_not_inherit_a_window),
		CASE(the_file_of_a_dead_listener_is_replaced_and_of_a_living_one_is_not),
	};

	if (argc != 2)
		return 2;
	kind = strcmp(argv[1], "shm") == 0 ? NET_SHM : NET_TCP;
	test_seed();
	return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
