/*
 * bench/fabric.c: the fabric beside the least that could do the same work
 *
 *     fabric [--rounds N] [--smoke] [--only NAME]
 *
 *   Prints "metric value unit" lines. Each ratio is the median of rounds in which ours and the
 *   bare program take turns, so that a noisy machine is noisy for both. The bare programs are
 *   here: memcpy and a local atomic for shm, two processes that exchange fixed requests and
 *   replies over one TCP connection for tcp, with the waiting that ours uses.
 */
#include "fabric/fabric.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"

#include <arpa/inet.h>
#include <assert.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY         "the key of the benchmark"
#define ROUNDS_MAX  101u
#define SPINS_MANY  1000000000u
#define DEPTH       64u
#define SMALL_BYTES 64u
#define SHM_CHUNKS  20u /* of a round: short enough that most are not interrupted */

struct settings {
	unsigned rounds;
	const char *only;
	uint64_t memory_bytes;
	unsigned shm_reads; /* a chunk */
	unsigned tcp_reads;
	unsigned small_reads;
	unsigned kills;
	char directory[64];
};

/* A process that serves, and how to reach it. */
struct server {
	pid_t pid;
	char address[FABRIC_ADDRESS_BYTES];
};

/* The client's end of a connection to a server. */
struct client {
	struct fabric *fabric;
	struct fabric_peer *peer;
	struct fabric_window *window;
};

static int64_t now_ns(void)
{
	return env_now_ns(env_real());
}

static void must(int error, const char *what)
{
	if (error < 0)
		errx(1, "%s: error %d", what, error);
}

static void print(const char *metric, double value, const char *unit)
{
	printf("%s %.4g %s\n", metric, value, unit);
	fflush(stdout);
}

static bool wanted(const struct settings *settings, const char *name)
{
	return !settings->only || strstr(name, settings->only) != NULL;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
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

/* ---- a fabric in another process ---- */

static struct fabric *open_fabric(uint64_t id, uint32_t spins)
{
	struct fabric_options options = {
		.id = id,
		.key = KEY,
		.key_len = sizeof(KEY),
		.spins = spins,
		.silence_ns = 60 * NS_PER_S,
	};
	struct fabric *fabric;

	must(fabric_open(env_real(), &options, &fabric), "fabric_open");
	return fabric;
}

static void *make_memory(uint64_t size_bytes, int *memfd)
{
	void *memory;

	*memfd = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*memfd < 0 || ftruncate(*memfd, (off_t)size_bytes) ||
	    fcntl(*memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		err(1, "memfd");
	memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	memset(memory, 1, size_bytes);
	return memory;
}

static _Noreturn void serve(const char *address, uint64_t size_bytes, uint32_t spins, int tell_fd)
{
	struct fabric *fabric = open_fabric(1, spins);
	char actual[FABRIC_ADDRESS_BYTES] = "";
	int memfd;
	void *memory = make_memory(size_bytes, &memfd);

	must(fabric_listen(fabric, address, actual), "fabric_listen");
	if (write(tell_fd, actual, sizeof(actual)) != (ssize_t)sizeof(actual))
		_exit(1);
	for (;;) {
		struct fabric_event events[16];
		unsigned count = fabric_poll(fabric, events, 16);

		for (unsigned i = 0; i < count; i++) {
			if (events[i].kind != FABRIC_UP)
				continue;
			must(fabric_export(events[i].peer, 1, 1, memory, size_bytes, memfd),
			     "fabric_export");
			must(fabric_send(events[i].peer, "", 0), "fabric_send");
			fabric_flush(fabric);
		}
		fabric_wait(fabric, now_ns() + NS_PER_S);
	}
}

static void start_child(struct server *server, int tell[2])
{
	if (pipe2(tell, O_CLOEXEC))
		err(1, "pipe");
	server->pid = fork();
	if (server->pid < 0)
		err(1, "fork");
	if (server->pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void start_server(const struct settings *settings, struct server *server, const char *scheme,
			 uint32_t spins)
{
	static unsigned number;
	char address[FABRIC_ADDRESS_BYTES];
	int tell[2];

	if (strcmp(scheme, "tcp") == 0)
		strcpy(address, "tcp://127.0.0.1:0");
	else
		snprintf(address, sizeof(address), "shm:%s/%u.sock", settings->directory, number++);
	start_child(server, tell);
	if (server->pid == 0)
		serve(address, settings->memory_bytes, spins, tell[1]);
	close(tell[1]);
	if (read(tell[0], server->address, sizeof(server->address)) !=
	    (ssize_t)sizeof(server->address))
		errx(1, "the server did not start");
	close(tell[0]);
}

static void stop_server(struct server *server)
{
	kill(server->pid, SIGKILL);
	waitpid(server->pid, NULL, 0);
	if (strncmp(server->address, "shm:", 4) == 0)
		unlink(server->address + 4);
}

static struct fabric_event next_event(struct fabric *fabric)
{
	struct fabric_event event;

	while (fabric_poll(fabric, &event, 1) == 0)
		fabric_wait(fabric, now_ns() + NS_PER_S);
	return event;
}

static void start_client(const struct settings *settings, struct client *client,
			 const struct server *server, uint32_t spins)
{
	client->fabric = open_fabric(2, spins);
	must(fabric_connect(client->fabric, server->address, &client->peer), "fabric_connect");
	struct fabric_event up = next_event(client->fabric);
	struct fabric_event exported = next_event(client->fabric);

	if (up.kind != FABRIC_UP || exported.kind != FABRIC_MESSAGE)
		errx(1, "no connection");
	must(fabric_import(client->peer, 1, 1, settings->memory_bytes, &client->window),
	     "fabric_import");
}

/* ---- shm ---- */

static uint64_t *random_offsets(unsigned count, uint64_t size_bytes, uint64_t alignment)
{
	uint64_t *offsets = calloc(count, sizeof(*offsets));

	assert(size_bytes >= alignment);
	if (!offsets)
		err(1, "offsets");
	for (unsigned i = 0; i < count; i++)
		offsets[i] = mix_u64(i + 1) % (size_bytes / alignment) * alignment;
	return offsets;
}

static void complete_one(struct fabric *fabric)
{
	struct fabric_event event;

	while (fabric_poll(fabric, &event, 1) == 0)
		;
	if (event.kind != FABRIC_DONE || event.status)
		errx(1, "operation failed: %d", event.status);
}

static double fabric_reads_ns(struct client *client, const uint64_t *offsets, unsigned count)
{
	static unsigned char buf[4096];
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		must(fabric_read(client->window, offsets[i], buf, sizeof(buf), i), "read");
		complete_one(client->fabric);
	}
	return (double)(now_ns() - start_ns) / count;
}

static double memcpy_ns(const unsigned char *memory, const uint64_t *offsets, unsigned count)
{
	static unsigned char buf[4096];
	/* Not a constant, as it is none in ours: both call the same memcpy of libc. */
	volatile size_t len_bytes = sizeof(buf);
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		memcpy(buf, memory + offsets[i], len_bytes);
		__asm__ volatile("" ::"r"(buf) : "memory");
	}
	return (double)(now_ns() - start_ns) / count;
}

static double fabric_swaps_ns(struct client *client, const uint64_t *offsets, unsigned count)
{
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		uint64_t expected_desired[2] = {i, i + 1};
		uint64_t previous;

		must(fabric_compare_and_swap(client->window, offsets[i], expected_desired,
					     &previous, i),
		     "swap");
		complete_one(client->fabric);
	}
	return (double)(now_ns() - start_ns) / count;
}

/* Each begins when the one before has its result, as ours do: a latency, not an overlap. */
static double local_swaps_ns(unsigned char *memory, const uint64_t *offsets, unsigned count)
{
	uint64_t chain = 0;
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		uint64_t expected = i;

		__atomic_compare_exchange_n((uint64_t *)(void *)(memory + offsets[i] + chain),
					    &expected, i + 1, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
		chain = expected;
		__asm__ volatile("and $0, %0" : "+r"(chain));
	}
	return (double)(now_ns() - start_ns) / count;
}

/* Ours and the bare one take turns in short chunks; each ratio is the median over all of them. */
static void compare_shm(const struct settings *settings, struct client *client)
{
	unsigned count = settings->shm_reads;
	unsigned chunks = settings->rounds * SHM_CHUNKS;
	uint64_t *pages = random_offsets(count * chunks, settings->memory_bytes, 4096);
	uint64_t *words = random_offsets(count * chunks, settings->memory_bytes, 8);
	double *results = calloc(4 * (size_t)chunks, sizeof(*results));
	unsigned char *memory = fabric_window_memory(client->window);

	if (!results)
		err(1, "results");
	double *reads = results, *read_ratios = reads + chunks;
	double *swaps = read_ratios + chunks, *swap_ratios = swaps + chunks;

	for (unsigned i = 0; i < chunks; i++) {
		double bare = memcpy_ns(memory, pages + (size_t)i * count, count);

		/* Others' offsets: what one just read is warm for the other. */
		reads[i] =
			fabric_reads_ns(client, pages + (size_t)((i + 7) % chunks) * count, count);
		read_ratios[i] = reads[i] / bare;
		bare = local_swaps_ns(memory, words + (size_t)i * count, count);
		swaps[i] =
			fabric_swaps_ns(client, words + (size_t)((i + 7) % chunks) * count, count);
		swap_ratios[i] = swaps[i] / bare;
	}
	print("fabric.shm.read4k_ns", median(reads, chunks), "ns");
	print("fabric.shm.read4k_vs_memcpy", median(read_ratios, chunks), "ratio");
	print("fabric.shm.cas_ns", median(swaps, chunks), "ns");
	print("fabric.shm.cas_ns_vs_local", median(swap_ratios, chunks), "ratio");
	free(results);
	free(pages);
	free(words);
}

static void bench_shm(const struct settings *settings)
{
	struct server server;
	struct client client;
	unsigned char *memory;

	start_server(settings, &server, "shm", 0);
	start_client(settings, &client, &server, 0);
	memory = fabric_window_memory(client.window);
	/* Every page is mapped before the clock runs. */
	for (uint64_t i = 0; i < settings->memory_bytes; i += 4096)
		__atomic_fetch_add(memory + i, 0, __ATOMIC_RELAXED);
	compare_shm(settings, &client);
	fabric_close(client.fabric);
	stop_server(&server);
}

/* ---- the bare program over tcp ---- */

struct bare_request {
	uint64_t offset;
	uint32_t len_bytes;
	uint32_t padding[5]; /* as long as ours */
};

static void no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* Waits as ours does: spinning on the socket, or asleep in the kernel. */
static size_t bare_receive(int fd, void *buf, size_t size_bytes, bool spins)
{
	for (;;) {
		ssize_t received = recv(fd, buf, size_bytes, spins ? MSG_DONTWAIT : 0);

		if (received > 0)
			return (size_t)received;
		if (received == 0)
			_exit(0);
		if (errno != EAGAIN && errno != EINTR)
			err(1, "recv");
		cpu_relax();
	}
}

static void bare_send(int fd, const void *bytes, size_t len_bytes)
{
	for (size_t sent = 0; sent < len_bytes;) {
		ssize_t once = send(fd, (const char *)bytes + sent, len_bytes - sent, 0);

		if (once < 0)
			err(1, "send");
		sent += (size_t)once;
	}
}

/* Answers each batch of requests with one send. */
static _Noreturn void bare_serve(int listen_fd, uint64_t size_bytes, bool spins)
{
	static struct bare_request requests[DEPTH];
	static unsigned char out[DEPTH * (16 + 4096)];
	int memfd;
	unsigned char *memory = make_memory(size_bytes, &memfd);
	int fd = accept(listen_fd, NULL, NULL);
	size_t have = 0;

	no_delay(fd);
	for (;;) {
		size_t used = 0;
		size_t out_bytes = 0;

		have += bare_receive(fd, (char *)requests + have, sizeof(requests) - have, spins);
		for (; have - used >= sizeof(*requests); used += sizeof(*requests)) {
			struct bare_request *request = &requests[used / sizeof(*requests)];

			memset(out + out_bytes, 0, 16);
			memcpy(out + out_bytes + 16, memory + request->offset, request->len_bytes);
			out_bytes += 16 + request->len_bytes;
		}
		bare_send(fd, out, out_bytes);
		have -= used;
		memmove(requests, (char *)requests + used, have);
	}
}

static int bare_start(const struct settings *settings, struct server *server, bool spins)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_addr = {htonl(INADDR_LOOPBACK)},
	};
	socklen_t len_bytes = sizeof(address);
	int listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int tell[2];

	if (bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) || listen(listen_fd, 1) ||
	    getsockname(listen_fd, (struct sockaddr *)&address, &len_bytes))
		err(1, "listen");
	start_child(server, tell);
	if (server->pid == 0)
		bare_serve(listen_fd, settings->memory_bytes, spins);
	close(tell[0]);
	close(tell[1]);
	close(listen_fd);
	server->address[0] = 0;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "connect");
	no_delay(fd);
	return fd;
}

static double bare_reads_ns(int fd, const uint64_t *offsets, unsigned count, bool spins)
{
	static unsigned char in[16 + 4096];
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		struct bare_request request = {.offset = offsets[i], .len_bytes = 4096};

		bare_send(fd, &request, sizeof(request));
		for (size_t have = 0; have < sizeof(in);)
			have += bare_receive(fd, in + have, sizeof(in) - have, spins);
	}
	return (double)(now_ns() - start_ns) / count;
}

/* Reads a second, a window of DEPTH at a time. */
static double bare_small_per_s(int fd, const uint64_t *offsets, unsigned count)
{
	static unsigned char in[DEPTH * (16 + SMALL_BYTES)];
	static struct bare_request requests[DEPTH];
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i += DEPTH) {
		for (unsigned j = 0; j < DEPTH; j++)
			requests[j] = (struct bare_request){
				.offset = offsets[(i + j) % count],
				.len_bytes = SMALL_BYTES,
			};
		bare_send(fd, requests, sizeof(requests));
		for (size_t have = 0; have < sizeof(in);)
			have += bare_receive(fd, in + have, sizeof(in) - have, true);
	}
	return count * 1e9 / (double)(now_ns() - start_ns);
}

/* ---- tcp ---- */

static double tcp_reads_ns(struct client *client, const uint64_t *offsets, unsigned count)
{
	static unsigned char buf[4096];
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i++) {
		struct fabric_event event;

		must(fabric_read(client->window, offsets[i], buf, sizeof(buf), i), "read");
		while (must(fabric_wait(client->fabric, INT64_MAX), "wait"),
		       fabric_poll(client->fabric, &event, 1) == 0)
			;
		if (event.kind != FABRIC_DONE || event.status)
			errx(1, "read failed: %d", event.status);
	}
	return (double)(now_ns() - start_ns) / count;
}

static double tcp_small_per_s(struct client *client, const uint64_t *offsets, unsigned count)
{
	static unsigned char buf[DEPTH][SMALL_BYTES];
	struct fabric_event events[DEPTH];
	int64_t start_ns = now_ns();

	for (unsigned i = 0; i < count; i += DEPTH) {
		for (unsigned j = 0; j < DEPTH; j++)
			must(fabric_read(client->window, offsets[(i + j) % count], buf[j],
					 SMALL_BYTES, j),
			     "read");
		for (unsigned completed = 0; completed < DEPTH;)
			completed += fabric_poll(client->fabric, events, DEPTH);
	}
	return count * 1e9 / (double)(now_ns() - start_ns);
}

/* One kind of waiting; returns the ratio. */
static double bench_tcp_reads(const struct settings *settings, bool spins)
{
	unsigned count = settings->tcp_reads;
	uint64_t *offsets = random_offsets(count, settings->memory_bytes, 4096);
	double ours[ROUNDS_MAX], ratios[ROUNDS_MAX];
	struct server server, bare_server;
	struct client client;
	double ratio;
	int fd;

	start_server(settings, &server, "tcp", spins ? SPINS_MANY : 0);
	start_client(settings, &client, &server, spins ? SPINS_MANY : 0);
	kill(server.pid, SIGSTOP); /* two that spin beside us would fight for the cores */
	fd = bare_start(settings, &bare_server, spins);
	bare_reads_ns(fd, offsets, count, spins);
	for (unsigned i = 0; i < settings->rounds; i++) {
		double bare = bare_reads_ns(fd, offsets, count, spins);

		kill(bare_server.pid, SIGSTOP);
		kill(server.pid, SIGCONT);
		ours[i] = tcp_reads_ns(&client, offsets, count);
		ratios[i] = ours[i] / bare;
		kill(server.pid, SIGSTOP);
		kill(bare_server.pid, SIGCONT);
	}
	ratio = median(ratios, settings->rounds);
	print(spins ? "fabric.tcp.read4k_spin_us" : "fabric.tcp.read4k_sleep_us",
	      median(ours, settings->rounds) / 1e3, "us");
	print(spins ? "fabric.tcp.read4k_spin_vs_raw" : "fabric.tcp.read4k_sleep_vs_raw", ratio,
	      "ratio");
	fabric_close(client.fabric);
	stop_server(&server);
	close(fd);
	stop_server(&bare_server);
	free(offsets);
	return ratio;
}

static void bench_tcp_small(const struct settings *settings)
{
	unsigned count = settings->small_reads;
	uint64_t *offsets = random_offsets(count, settings->memory_bytes, SMALL_BYTES);
	double ours[ROUNDS_MAX], ratios[ROUNDS_MAX];
	struct server server, bare_server;
	struct client client;
	int fd;

	start_server(settings, &server, "tcp", SPINS_MANY);
	start_client(settings, &client, &server, SPINS_MANY);
	kill(server.pid, SIGSTOP);
	fd = bare_start(settings, &bare_server, true);
	bare_small_per_s(fd, offsets, count);
	for (unsigned i = 0; i < settings->rounds; i++) {
		double bare = bare_small_per_s(fd, offsets, count);

		kill(bare_server.pid, SIGSTOP);
		kill(server.pid, SIGCONT);
		ours[i] = tcp_small_per_s(&client, offsets, count);
		ratios[i] = ours[i] / bare;
		kill(server.pid, SIGSTOP);
		kill(bare_server.pid, SIGCONT);
	}
	print("fabric.tcp.read64_d64_per_s", median(ours, settings->rounds), "1/s");
	print("fabric.tcp.read64_d64_vs_raw", median(ratios, settings->rounds), "ratio");
	fabric_close(client.fabric);
	stop_server(&server);
	close(fd);
	stop_server(&bare_server);
	free(offsets);
}

/* ---- death ---- */

static double kill_notice_ms(const struct settings *settings, const char *scheme)
{
	struct server server;
	struct client client;
	int64_t start_ns;
	double notice_ms;

	start_server(settings, &server, scheme, 0);
	start_client(settings, &client, &server, 0);
	start_ns = now_ns();
	kill(server.pid, SIGKILL);
	while (next_event(client.fabric).kind != FABRIC_DOWN)
		;
	notice_ms = (double)(now_ns() - start_ns) / 1e6;
	fabric_close(client.fabric);
	stop_server(&server);
	return notice_ms;
}

static void bench_peer_down(const struct settings *settings)
{
	struct settings small = *settings;
	double worst_ms[2] = {0, 0};

	small.memory_bytes = 1 << 20;
	for (unsigned i = 0; i < settings->kills; i++) {
		worst_ms[0] = larger(worst_ms[0], kill_notice_ms(&small, "shm"));
		worst_ms[1] = larger(worst_ms[1], kill_notice_ms(&small, "tcp"));
	}
	print("fabric.shm.peer_down_ms", worst_ms[0], "ms");
	print("fabric.tcp.peer_down_ms", worst_ms[1], "ms");
	print("fabric.peer_down_ms", larger(worst_ms[0], worst_ms[1]), "ms");
}

static int usage(void)
{
	fprintf(stderr, "usage: fabric [--rounds N] [--smoke] [--only NAME]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct settings settings = {
		.rounds = 7,
		.memory_bytes = 256 << 20,
		.shm_reads = 5000,
		.tcp_reads = 20000,
		.small_reads = 64 * 10000,
		.kills = 20,
		.directory = "/tmp/afar-bench-XXXXXX",
	};

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
			settings.rounds = (unsigned)strtoul(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
			settings.only = argv[++i];
		} else if (strcmp(argv[i], "--smoke") == 0) {
			settings.rounds = 1;
			settings.memory_bytes = 16 << 20;
			settings.shm_reads = 500;
			settings.tcp_reads = 500;
			settings.small_reads = 64 * 100;
			settings.kills = 2;
		} else {
			return usage();
		}
	}
	if (settings.rounds == 0 || settings.rounds > ROUNDS_MAX)
		return usage();
	if (!mkdtemp(settings.directory))
		err(1, "mkdtemp");
	if (wanted(&settings, "fabric.shm.read4k_vs_memcpy fabric.shm.cas_ns_vs_local"))
		bench_shm(&settings);
	if (wanted(&settings, "fabric.tcp.read4k_vs_raw")) {
		double spin = bench_tcp_reads(&settings, true);
		double sleep = bench_tcp_reads(&settings, false);

		print("fabric.tcp.read4k_vs_raw", larger(spin, sleep), "ratio");
	}
	if (wanted(&settings, "fabric.tcp.read64_d64_vs_raw"))
		bench_tcp_small(&settings);
	if (wanted(&settings, "fabric.peer_down_ms"))
		bench_peer_down(&settings);
	return rmdir(settings.directory) ? 1 : 0;
}
