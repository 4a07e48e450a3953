/*
 * bench/pool.c: reads of a volume beside reads of the fabric below it
 *
 *     pool [--rounds N] [--smoke] [--only shm|tcp]
 *
 *   Prints "metric value unit" lines. A node runs in a process of its own; pages are read one at a
 *   time, at random, through the volume, checksum included, and through the very window that the
 *   volume reads from. The two take turns in short chunks, each ratio is that of neighbours, and
 *   the median of all is printed: a noisy machine is noisy for both.
 */
#include "pool/pool.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "node/serve.h"
#include "pool/volume.h"

#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY          "the key of the benchmark"
#define SLAB_BYTES   (UINT64_C(16) << 20)
#define PAGES        (SLAB_BYTES / POOL_PAGE_BYTES)
#define NODE_SLABS   4u
#define CHUNKS       20u /* of a round */
#define SILENCE_NS   (60 * NS_PER_S)
#define START_END_NS (60 * NS_PER_S)

struct settings {
	unsigned rounds;
	unsigned shm_reads, tcp_reads; /* a chunk */
	const char *only;
	char directory[64];
};

struct server {
	pid_t pid;
	char address[FABRIC_ADDRESS_BYTES];
};

struct client {
	struct fabric *fabric;
	struct cluster *cluster;
	struct pool *pool;
	struct volume *volume;
};

static unsigned char buf[POOL_PAGE_BYTES] __attribute__((aligned(4096)));

static int64_t now_ns(void)
{
	return env_now_ns(env_real());
}

static void must(int error, const char *what)
{
	if (error < 0)
		errx(1, "%s: error %d", what, error);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare_doubles);
	return values[count / 2];
}

static struct fabric *open_fabric(uint64_t id)
{
	struct fabric_options options = {
		.id = id, .key = KEY, .key_len = sizeof(KEY), .silence_ns = SILENCE_NS};
	struct fabric *fabric;

	must(fabric_open(env_real(), &options, &fabric), "fabric_open");
	return fabric;
}

/* ---- the node, in another process ---- */

static _Noreturn void serve(const char *address, int tell_fd, int stop_fd)
{
	struct fabric *fabric = open_fabric(1);
	struct node_options options = {.capacity_bytes = NODE_SLABS * SLAB_BYTES,
				       .slab_bytes = SLAB_BYTES};
	char actual[FABRIC_ADDRESS_BYTES] = "";
	struct node *node;

	must(node_memory_open(NULL, SLAB_BYTES, options.capacity_bytes, &options.memory),
	     "node_memory_open");
	must(fabric_listen(fabric, address, actual), "fabric_listen");
	must(node_open(env_real(), fabric, &options, &node), "node_open");
	if (write(tell_fd, actual, sizeof(actual)) != (ssize_t)sizeof(actual))
		_exit(1);
	must(node_serve(node, fabric, NULL, stop_fd), "node_serve");
	node_close(node);
	fabric_close(fabric);
	node_memory_close(&options.memory);
	_exit(0);
}

/* The node ends when our end of `stop` closes, so also when we die. */
static int start_server(const struct settings *settings, struct server *server, bool tcp)
{
	char address[FABRIC_ADDRESS_BYTES];
	int tell[2], stop[2];

	if (tcp)
		snprintf(address, sizeof(address), "tcp://127.0.0.1:0");
	else
		snprintf(address, sizeof(address), "shm:%s/node.sock", settings->directory);
	if (pipe(tell) || pipe(stop))
		err(1, "pipe");
	server->pid = fork();
	if (server->pid < 0)
		err(1, "fork");
	if (server->pid == 0) {
		close(stop[1]);
		close(tell[0]);
		serve(address, tell[1], stop[0]);
	}
	close(tell[1]);
	close(stop[0]);
	if (read(tell[0], server->address, sizeof(server->address)) !=
	    (ssize_t)sizeof(server->address))
		errx(1, "the node did not start");
	close(tell[0]);
	return stop[1];
}

/* ---- the pool ---- */

static struct pool_event next_pool_event(struct client *client, enum pool_event_kind kind)
{
	int64_t end_ns = now_ns() + START_END_NS;
	struct pool_event event;

	do {
		while (pool_poll(client->pool, &event, 1) == 0)
			if (now_ns() > end_ns)
				errx(1, "nothing happens");
		must(event.status, "the pool");
	} while (event.kind != kind);
	return event;
}

static void start_client(struct client *client, const struct server *server)
{
	const struct pool_options options = {.owner = 3, .patience_ns = START_END_NS};
	const struct volume_options volume_options = {.size_bytes = SLAB_BYTES, .replicas = 1};

	client->fabric = open_fabric(3);
	must(cluster_open(env_real(), server->address, NULL, &client->cluster), "cluster_open");
	must(pool_open(env_real(), client->fabric, client->cluster, &options, &client->pool),
	     "pool_open");
	must(volume_open(client->pool, &volume_options, &client->volume), "volume_open");
	next_pool_event(client, VOLUME_READY);
}

static double pool_ns(struct client *client, enum volume_op op, const uint32_t *pages,
		      unsigned count)
{
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		const struct volume_io io = {.op = op, .page = pages[i], .buf = buf, .token = i};
		struct pool_event event;

		if (volume_submit(client->volume, &io, 1) != 1)
			errx(1, "not accepted");
		do {
			while (pool_poll(client->pool, &event, 1) == 0)
				;
		} while (event.kind != VOLUME_DONE);
		must(event.status, "an operation");
	}
	return (double)(now_ns() - start_ns) / count;
}

/* Every page holds something: what was never written is not read from a node at all. */
static void fill(struct client *client)
{
	for (uint32_t page = 0; page < PAGES; page++) {
		memset(buf, (int)(page % 251 + 1), sizeof(buf));
		pool_ns(client, VOLUME_WRITE, &page, 1);
	}
}

/* The same reads below the pool: by its own window of the same slab. */
static double fabric_ns(struct client *client, const uint32_t *pages, unsigned count)
{
	struct fabric_window *window = client->volume->pieces[0].copies[0].window;
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		struct fabric_event event;

		must(fabric_read(window, (uint64_t)pages[i] * POOL_PAGE_BYTES, buf, POOL_PAGE_BYTES,
				 i),
		     "fabric_read");
		do {
			while (fabric_poll(client->fabric, &event, 1) == 0)
				;
		} while (event.kind != FABRIC_DONE);
		must(event.status, "a transfer");
	}
	return (double)(now_ns() - start_ns) / count;
}

/* ---- side by side ---- */

static void compare(const struct settings *settings, struct client *client, const char *name)
{
	bool tcp = strcmp(name, "tcp") == 0;
	unsigned count = tcp ? settings->tcp_reads : settings->shm_reads;
	unsigned chunks = settings->rounds * CHUNKS;
	uint32_t *pages = calloc((size_t)count * chunks, sizeof(*pages));
	double *bares = calloc(3 * (size_t)chunks, sizeof(*bares));

	if (!pages || !bares)
		err(1, "memory");
	double *pools = bares + chunks, *ratios = pools + chunks;

	for (unsigned i = 0; i < count * chunks; i++)
		pages[i] = (uint32_t)(mix_u64(i + 1) % PAGES);
	for (unsigned i = 0; i < chunks; i++) {
		const uint32_t *chunk = pages + (size_t)i * count;
		/* Others: what one has just read is warm for the other. */
		const uint32_t *other = pages + (size_t)((i + 7) % chunks) * count;

		if (i % 2)
			bares[i] = fabric_ns(client, other, count);
		pools[i] = pool_ns(client, VOLUME_READ, chunk, count);
		if (i % 2 == 0)
			bares[i] = fabric_ns(client, other, count);
		ratios[i] = pools[i] / bares[i];
	}
	printf("pool.%s.fabric_read4k_us %.4g us\n", name, median(bares, chunks) / 1e3);
	printf("pool.%s.read4k_us %.4g us\n", name, median(pools, chunks) / 1e3);
	printf("pool.%sread4k_vs_fabric %.4g ratio\n", tcp ? "" : "shm.", median(ratios, chunks));
	fflush(stdout);
	free(pages);
	free(bares);
}

static void measure(const struct settings *settings, const char *name)
{
	struct server server;
	struct client client;
	int stop_fd = start_server(settings, &server, strcmp(name, "tcp") == 0);

	start_client(&client, &server);
	fill(&client);
	compare(settings, &client, name);
	pool_close(client.pool);
	cluster_close(client.cluster);
	fabric_close(client.fabric);
	close(stop_fd);
	waitpid(server.pid, NULL, 0);
}

int main(int argc, char **argv)
{
	struct settings settings = {.rounds = 9, .shm_reads = 200, .tcp_reads = 20};

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--smoke") == 0) {
			settings.rounds = 1;
			settings.shm_reads = 20;
			settings.tcp_reads = 2;
		} else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
			settings.rounds = (unsigned)strtoul(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
			settings.only = argv[++i];
		} else {
			errx(2, "usage: pool [--rounds N] [--smoke] [--only shm|tcp]");
		}
	}
	if (settings.rounds == 0 || settings.rounds > 1000)
		errx(2, "--rounds: from 1 to 1000");
	snprintf(settings.directory, sizeof(settings.directory), "/tmp/afar-bench-XXXXXX");
	if (!mkdtemp(settings.directory))
		err(1, "mkdtemp");
	if (!settings.only || strcmp(settings.only, "shm") == 0)
		measure(&settings, "shm");
	if (!settings.only || strcmp(settings.only, "tcp") == 0)
		measure(&settings, "tcp");

	char path[128];

	snprintf(path, sizeof(path), "%s/node.sock", settings.directory);
	unlink(path);
	rmdir(settings.directory);
	return 0;
}
