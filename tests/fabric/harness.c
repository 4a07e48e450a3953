/*
 * harness.c: several fabrics in one thread; harness.h says what for
 */
#include "harness.h"

#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_NS (60 * NS_PER_S)
#define EVENTS_ONCE 32u

static uint64_t random_state;

void test_seed(void)
{
	const char *text = getenv("AFAR_SEED");

	random_state = text ? strtoull(text, NULL, 0) : env_random(env_real());
	printf("AFAR_SEED=%llu\n", (unsigned long long)random_state);
}

uint64_t test_random(void)
{
	random_state += UINT64_C(0x9e3779b97f4a7c15);
	return mix_u64(random_state);
}

uint64_t test_random_below(uint64_t bound)
{
	return test_random() % bound;
}

/* ---- members ---- */

struct net *net_open(enum net_kind kind)
{
	struct net *net = calloc(1, sizeof(*net));

	assert_non_null(net);
	net->kind = kind;
	if (net_is_simulated(kind)) {
		simulate_open(net);
		return net;
	}
	snprintf(net->directory, sizeof(net->directory), "%s/afar-fabric-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	assert_non_null(mkdtemp(net->directory));
	return net;
}

static void forget(struct member *member)
{
	for (uint32_t i = 0; i < member->seen_count; i++)
		free(member->seen[i].message);
	free(member->seen);
	*member = (struct member){0};
}

void net_remove(struct net *net, struct member *member)
{
	if (!member->fabric)
		return;
	fabric_close(member->fabric);
	if (net_is_simulated(net->kind))
		simulate_power_off(net, member);
	forget(member);
}

void net_crash(struct net *net, struct member *member)
{
	assert_true(net_is_simulated(net->kind));
	simulate_crash(net, member);
	forget(member);
}

void net_close(struct net *net)
{
	for (uint32_t i = 0; i < net->count; i++)
		net_remove(net, &net->members[i]);
	if (net_is_simulated(net->kind))
		simulate_close(net);
	else /* empty: a listener takes its socket file away */
		assert_int_equal(rmdir(net->directory), 0);
	free(net);
}

void net_address(struct net *net, char *address)
{
	static unsigned number;

	if (net->kind == NET_TCP)
		snprintf(address, FABRIC_ADDRESS_BYTES, "tcp://127.0.0.1:0");
	else if (net->kind == NET_SHM)
		snprintf(address, FABRIC_ADDRESS_BYTES, "shm:%s/%u.sock", net->directory, number++);
	else
		snprintf(address, FABRIC_ADDRESS_BYTES, "sim://%u", number++);
}

struct member *net_add(struct net *net, const struct fabric_options *options)
{
	struct member *member = &net->members[net->count++];
	struct fabric_options own = options ? *options : (struct fabric_options){0};
	struct env *env = env_real();

	assert_true(net->count <= NET_MEMBERS_MAX);
	if (own.id == 0)
		own.id = ++net->next_id;
	if (!own.key) {
		own.key = NET_KEY;
		own.key_len = strlen(NET_KEY);
	}
	/* A machine that runs ten tests at once is slow, not dead. */
	if (own.silence_ns == 0)
		own.silence_ns = 30 * NS_PER_S;
	member->net = net;
	if (net_is_simulated(net->kind))
		simulate_boot(net, member, &own, &env);
	assert_int_equal(fabric_open(env, &own, &member->fabric), 0);
	return member;
}

struct member *net_add_server(struct net *net, const struct fabric_options *options)
{
	struct member *member = net_add(net, options);
	char address[FABRIC_ADDRESS_BYTES];

	net_address(net, address);
	assert_int_equal(fabric_listen(member->fabric, address, member->address), 0);
	return member;
}

/* ---- events ---- */

static void remember(struct member *member, const struct fabric_event *event)
{
	struct seen *seen;

	if (member->seen_count == member->seen_max) {
		member->seen_max = member->seen_max ? 2 * member->seen_max : 16;
		member->seen = realloc(member->seen, member->seen_max * sizeof(*member->seen));
		assert_non_null(member->seen);
	}
	seen = &member->seen[member->seen_count++];
	*seen = (struct seen){.event = *event};
	if (event->kind == FABRIC_MESSAGE) {
		seen->message = malloc(event->len_bytes + 1);
		assert_non_null(seen->message);
		memcpy(seen->message, event->message, event->len_bytes);
		seen->event.message = seen->message;
	}
}

unsigned member_pump(struct member *member)
{
	struct fabric_event events[EVENTS_ONCE];
	unsigned count = fabric_poll(member->fabric, events, EVENTS_ONCE);

	for (unsigned i = 0; i < count; i++)
		remember(member, &events[i]);
	return count;
}

unsigned net_pump(struct net *net)
{
	unsigned count = 0;

	if (net_is_simulated(net->kind)) {
		simulate_run(net, 100 * NS_PER_US);
		return 1;
	}
	for (uint32_t i = 0; i < net->count; i++)
		if (net->members[i].fabric && !net->members[i].deaf)
			count += member_pump(&net->members[i]);
	return count;
}

int64_t net_now_ns(const struct net *net)
{
	return net_is_simulated(net->kind) ? simulate_now_ns(net) : env_now_ns(env_real());
}

/* Nothing came from a round of polls: lets other processes run, at most for a moment. */
static void rest(struct net *net)
{
	struct pollfd fds[NET_MEMBERS_MAX];
	nfds_t count = 0;

	for (uint32_t i = 0; i < net->count; i++) {
		struct member *member = &net->members[i];

		if (!member->fabric || member->deaf)
			continue;
		if (fabric_arm(member->fabric))
			return;
		fds[count++] = (struct pollfd){.fd = fabric_fd(member->fabric), .events = POLLIN};
	}
	poll(fds, count, 5);
}

struct fabric_event net_next(struct net *net, struct member *member)
{
	int64_t end_ns = net_now_ns(net) + PATIENCE_NS;

	while (member->taken == member->seen_count) {
		if (net_pump(net) == 0)
			rest(net);
		if (net_now_ns(net) > end_ns)
			fail_msg("nothing happens to a member of the net");
	}
	return member->seen[member->taken++].event;
}

struct fabric_event net_expect(struct net *net, struct member *member, enum fabric_event_kind kind)
{
	struct fabric_event event = net_next(net, member);

	if (event.kind != kind)
		fail_msg("event %d (status %d) where %d was expected", event.kind, event.status,
			 kind);
	return event;
}

void net_settle(struct net *net)
{
	if (net_is_simulated(net->kind)) {
		simulate_run(net, NS_PER_S);
		return;
	}
	for (unsigned idle = 0; idle < 20;) {
		idle = net_pump(net) == 0 ? idle + 1 : 0;
		if (idle > 0)
			rest(net);
	}
}

void net_run(struct net *net, int64_t ns)
{
	int64_t end_ns = net_now_ns(net) + ns;

	while (net_now_ns(net) < end_ns)
		if (net_pump(net) == 0)
			rest(net);
}

bool net_has_event(const struct member *member)
{
	return member->taken != member->seen_count;
}

struct fabric_peer *net_connect(struct net *net, struct member *client, struct member *server,
				struct fabric_peer **server_peer)
{
	struct fabric_event event;
	struct fabric_peer *peer;

	assert_int_equal(fabric_connect(client->fabric, server->address, &peer), 0);
	event = net_expect(net, client, FABRIC_UP);
	assert_ptr_equal(event.peer, peer);
	assert_false(event.accepted);
	event = net_expect(net, server, FABRIC_UP);
	assert_true(event.accepted);
	if (server_peer)
		*server_peer = event.peer;
	return peer;
}

/* ---- operations ---- */

static int finish(struct net *net, struct member *member, int submitted, uint64_t token)
{
	struct fabric_event event;

	if (submitted)
		return submitted;
	event = net_expect(net, member, FABRIC_DONE);
	assert_int_equal(event.token, token);
	return event.status;
}

int net_read(struct net *net, struct member *member, struct fabric_window *window, uint64_t offset,
	     void *buf, uint32_t len_bytes)
{
	uint64_t token = ++net->next_id;

	return finish(net, member, fabric_read(window, offset, buf, len_bytes, token), token);
}

int net_write(struct net *net, struct member *member, struct fabric_window *window, uint64_t offset,
	      const void *bytes, uint32_t len_bytes)
{
	uint64_t token = ++net->next_id;

	return finish(net, member, fabric_write(window, offset, bytes, len_bytes, token), token);
}

int net_add_to(struct net *net, struct member *member, struct fabric_window *window,
	       uint64_t offset, uint64_t delta, uint64_t *previous)
{
	uint64_t token = ++net->next_id;

	return finish(net, member, fabric_fetch_and_add(window, offset, delta, previous, token),
		      token);
}

/* ---- memory ---- */

static unsigned char pattern_byte(size_t place, uint64_t salt)
{
	return (unsigned char)(salt * 131 + place * 31 + (place >> 8) + (place >> 16));
}

void pattern_fill(void *bytes, size_t len_bytes, uint64_t salt)
{
	for (size_t i = 0; i < len_bytes; i++)
		((unsigned char *)bytes)[i] = pattern_byte(i, salt);
}

bool pattern_holds(const void *bytes, size_t len_bytes, uint64_t salt)
{
	for (size_t i = 0; i < len_bytes; i++)
		if (((const unsigned char *)bytes)[i] != pattern_byte(i, salt))
			return false;
	return true;
}

void memory_create(struct memory *memory, uint64_t size_bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
	memory->bytes = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory->bytes, MAP_FAILED);
	memory->size_bytes = size_bytes;
	memory->memfd = fd;
}

void memory_destroy(struct memory *memory)
{
	munmap(memory->bytes, memory->size_bytes);
	close(memory->memfd);
}

struct fabric_window *net_share(struct net *net, struct fabric_peer *server_peer,
				struct member *client, struct fabric_peer *client_peer,
				struct memory *memory, uint64_t key)
{
	struct fabric_window *window;
	struct fabric_event event;

	assert_int_equal(fabric_export(server_peer, key, 1, memory->bytes, memory->size_bytes,
				       memory->memfd),
			 0);
	assert_int_equal(fabric_send(server_peer, &key, sizeof(key)), 0);
	event = net_expect(net, client, FABRIC_MESSAGE);
	assert_int_equal(event.len_bytes, sizeof(key));
	assert_memory_equal(event.message, &key, sizeof(key));
	assert_int_equal(fabric_import(client_peer, key, 1, memory->size_bytes, &window), 0);
	return window;
}

/* ---- another process ---- */

static void serve_one(const struct fabric_event *event, struct memory *memory)
{
	uint64_t size_bytes = memory->size_bytes;

	if (event->kind == FABRIC_UP) {
		fabric_export(event->peer, 1, 1, memory->bytes, size_bytes, memory->memfd);
		fabric_send(event->peer, &size_bytes, sizeof(size_bytes));
	} else if (event->kind == FABRIC_MESSAGE) {
		fabric_send(event->peer, event->message, event->len_bytes);
	}
}

static _Noreturn void serve(const char *address, uint64_t size_bytes, int tell_fd)
{
	struct fabric_options options = {
		.id = 1000000,
		.key = NET_KEY,
		.key_len = strlen(NET_KEY),
		.silence_ns = 30 * NS_PER_S,
	};
	struct fabric *fabric;
	struct memory memory;
	char actual[FABRIC_ADDRESS_BYTES] = "";

	memory_create(&memory, size_bytes);
	if (fabric_open(env_real(), &options, &fabric) || fabric_listen(fabric, address, actual) ||
	    write(tell_fd, actual, sizeof(actual)) != (ssize_t)sizeof(actual))
		_exit(1);
	for (;;) {
		struct fabric_event events[EVENTS_ONCE];
		unsigned count = fabric_poll(fabric, events, EVENTS_ONCE);

		for (unsigned i = 0; i < count; i++)
			serve_one(&events[i], &memory);
		fabric_flush(fabric);
		fabric_wait(fabric, env_now_ns(env_real()) + NS_PER_S);
	}
}

void process_start(struct net *net, struct process *process, uint64_t size_bytes)
{
	char address[FABRIC_ADDRESS_BYTES];
	int tell[2];

	net_address(net, address);
	assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
	process->pid = fork();
	assert_true(process->pid >= 0);
	if (process->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(tell[0]);
		serve(address, size_bytes, tell[1]);
	}
	close(tell[1]);
	assert_int_equal(read(tell[0], process->address, FABRIC_ADDRESS_BYTES),
			 FABRIC_ADDRESS_BYTES);
	close(tell[0]);
}

void process_kill(struct process *process)
{
	const char *path = strchr(process->address, '/');

	if (process->pid == 0)
		return;
	kill(process->pid, SIGKILL);
	waitpid(process->pid, NULL, 0);
	/* The dead take no socket file with them. */
	if (strncmp(process->address, "shm:", 4) == 0)
		unlink(path);
	process->pid = 0;
}
