/*
 * test_serve.c: a node in a process of its own, driven by node_serve()
 */
#include "node/serve.h"

#include "base/base.h"
#include "cluster/cluster.h"
#include "stage.h"

#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define VOLUME   UINT64_C(0x7001)
#define NODE_ID  UINT64_C(77)
#define LEASE_NS (400 * NS_PER_MS)

struct daemon {
	pid_t pid;
	int stop;
	char directory[64];
	char uri[128];
};

/* In the child: what `afar node` does. Never returns; the status says which step failed. */
static void run_node(const struct daemon *daemon, int stop_fd)
{
	const struct fabric_options fabric_options = {.id = NODE_ID, .silence_ns = 60 * NS_PER_S};
	struct stage_memory memory = {.available_bytes = UINT64_MAX};
	const struct node_options options = {
		.capacity_bytes = 4 * STAGE_SLAB_BYTES,
		.slab_bytes = STAGE_SLAB_BYTES,
		.memory = stage_memory_ops(&memory),
	};
	struct cluster_member self = {.id = NODE_ID, .addresses = 1};
	struct cluster *cluster;
	struct fabric *fabric;
	struct node *node;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cluster_open(env_real(), daemon->uri, NULL, &cluster) ||
	    fabric_open(env_real(), &fabric_options, &fabric) ||
	    fabric_listen(fabric, "tcp://127.0.0.1:0", self.address[0]) ||
	    node_open(env_real(), fabric, &options, &node) ||
	    cluster_join(cluster, &self, LEASE_NS))
		_exit(1);
	if (node_serve(node, fabric, cluster, stop_fd))
		_exit(2);
	if (cluster_leave(cluster))
		_exit(3);
	node_close(node);
	fabric_close(fabric);
	cluster_close(cluster);
	_exit(memory.live == 0 ? 0 : 4);
}

static void daemon_begin(struct daemon *daemon)
{
	int stop[2];

	snprintf(daemon->directory, sizeof(daemon->directory), "/tmp/afar-test-XXXXXX");
	assert_non_null(mkdtemp(daemon->directory));
	snprintf(daemon->uri, sizeof(daemon->uri), "dir:%s", daemon->directory);
	assert_int_equal(pipe(stop), 0);
	daemon->pid = fork();
	assert_true(daemon->pid >= 0);
	if (daemon->pid == 0) {
		close(stop[1]);
		run_node(daemon, stop[0]);
	}
	close(stop[0]);
	daemon->stop = stop[1];
}

/* Asks it to stop; what it used of the processor meanwhile. */
static int64_t daemon_end(struct daemon *daemon)
{
	struct rusage used;
	int status;

	close(daemon->stop); /* a pipe without a writer is readable */
	assert_int_equal(wait4(daemon->pid, &status, 0, &used), daemon->pid);
	assert_int_equal(status, 0);
	return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * NS_PER_S +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * NS_PER_US;
}

static void remove_cluster(const struct daemon *daemon)
{
	static const char *const names[] = {"members", "cluster", "lock", ""};
	char path[128];

	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", daemon->directory, names[i]);
		assert_int_equal(remove(path), 0);
	}
}

/* Waits until the cluster has so many members; their first is then in *member. */
static void wait_for_members(struct cluster *cluster, unsigned count, struct cluster_member *member)
{
	int64_t end_ns = env_now_ns(env_real()) + STAGE_PATIENCE_NS;

	while (cluster_members(cluster, member, 1) != count) {
		assert_true(env_now_ns(env_real()) < end_ns);
		cluster_poll(cluster);
		sched_yield();
	}
}

static void a_node_serves_until_it_is_told_to_stop(void **state)
{
	struct stage stage = {0};
	struct cluster_member member;
	struct node_slab_name slab;
	struct cluster *cluster;
	struct daemon daemon;
	struct client *client;

	daemon_begin(&daemon);
	assert_int_equal(cluster_open(env_real(), daemon.uri, NULL, &cluster), 0);
	wait_for_members(cluster, 1, &member);
	assert_int_equal(member.id, NODE_ID);
	assert_true(member.alive);

	snprintf(stage.address, sizeof(stage.address), "%s", member.address[0]);
	client = client_open(&stage, 1);
	assert_int_equal(fabric_peer_id(client->peer), NODE_ID);
	for (uint32_t piece = 0; piece < 20; piece++) {
		struct fabric_window *window;

		slab = client_slab(client, VOLUME, piece);
		window = client_window(client, &slab);
		assert_int_equal(client_fill(client, window, 0x5a), 0);
		assert_true(client_sees(client, window, 0x5a));
		if (piece > 2)
			assert_int_equal(client_free(client, &slab, 1), 0);
		fabric_window_close(window);
	}

	daemon_end(&daemon);
	stage_pump_until(&stage, &client->down);
	fabric_close(client->fabric);
	wait_for_members(cluster, 0, &member);
	cluster_close(cluster);
	remove_cluster(&daemon);
}

/* A busy loop would use all of the time that passed; this one only renews its lease. */
static void an_idle_node_sleeps(void **state)
{
	struct cluster_member member;
	struct cluster *cluster;
	struct daemon daemon;
	int64_t begun_ns;
	int64_t now_ns;

	daemon_begin(&daemon);
	assert_int_equal(cluster_open(env_real(), daemon.uri, NULL, &cluster), 0);
	wait_for_members(cluster, 1, &member);
	begun_ns = env_now_ns(env_real());
	do {
		cluster_poll(cluster);
		assert_int_equal(cluster_members(cluster, &member, 1), 1);
		sched_yield();
		now_ns = env_now_ns(env_real());
	} while (now_ns - begun_ns < 4 * LEASE_NS);
	assert_true(daemon_end(&daemon) < (now_ns - begun_ns) / 2);
	cluster_close(cluster);
	remove_cluster(&daemon);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_serves_until_it_is_told_to_stop),
		cmocka_unit_test(an_idle_node_sleeps),
	};

	stage_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
