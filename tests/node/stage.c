#include "stage.h"

#include "base/base.h"
#include "base/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define STAGE_REST_MS 1
#define NODE_ID       UINT64_C(0xaf0a4)

/* ---- the node's world ---- */

static int64_t stage_now_ns(struct env *env)
{
	return ((struct stage_env *)env)->now_ns;
}

static uint64_t seeded_random(struct env *env)
{
	struct stage_env *stage_env = (struct stage_env *)env;

	stage_env->random_state += UINT64_C(0x9e3779b97f4a7c15);
	return mix_u64(stage_env->random_state);
}

static const struct env_ops stage_env_ops = {.now_ns = stage_now_ns, .random = seeded_random};

uint64_t stage_seed(void)
{
	static uint64_t seed;
	const char *wanted = getenv("AFAR_SEED"); /* NOLINT(concurrency-mt-unsafe): no thread yet */

	if (seed == 0) {
		seed = wanted ? strtoull(wanted, NULL, 0) : env_random(env_real()) | 1;
		print_message("AFAR_SEED=%" PRIu64 "\n", seed);
	}
	return seed;
}

uint64_t stage_random(struct stage *stage)
{
	return seeded_random(&stage->clock.env);
}

static int make_slab(void *context, uint64_t size_bytes, void **memory, int *memfd)
{
	struct stage_memory *machine = context;

	if (machine->error)
		return machine->error;
	if (machine->stuck || machine->slow > 0) {
		machine->slow -= machine->slow > 0;
		return -EAGAIN;
	}
	*memfd = memfd_create("slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(*memfd >= 0);
	assert_int_equal(ftruncate(*memfd, (off_t)size_bytes), 0);
	assert_int_equal(fcntl(*memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	*memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	assert_ptr_not_equal(*memory, MAP_FAILED);
	machine->made++;
	machine->live++;
	return 0;
}

static void destroy_slab(void *context, void *memory, uint64_t size_bytes, int memfd)
{
	struct stage_memory *machine = context;

	munmap(memory, size_bytes);
	close(memfd);
	machine->live--;
}

static uint64_t tell_available(void *context)
{
	struct stage_memory *machine = context;

	machine->samples++;
	return machine->available_bytes;
}

static void drop_stock(void *context)
{
	((struct stage_memory *)context)->stock_drops++;
}

struct node_memory_ops stage_memory_ops(struct stage_memory *memory)
{
	return (struct node_memory_ops){
		.slab_make = make_slab,
		.slab_destroy = destroy_slab,
		.available_bytes = tell_available,
		.stock_drop = drop_stock,
		.context = memory,
	};
}

/* ---- begin and end ---- */

static void open_node(struct stage *stage)
{
	assert_int_equal(node_open(&stage->clock.env, stage->fabric, &stage->options, &stage->node),
			 0);
}

void stage_begin(struct stage *stage, const char *scheme, uint64_t slabs,
		 const struct node_options *options)
{
	const struct fabric_options fabric_options = {.id = NODE_ID, .silence_ns = 60 * NS_PER_S};
	char wanted[FABRIC_ADDRESS_BYTES] = "tcp://127.0.0.1:0";

	*stage = (struct stage){
		.scheme = scheme,
		.clock =
			{
				.env.ops = &stage_env_ops,
				.now_ns = 1000 * NS_PER_S,
				.random_state = stage_seed(),
			},
		.memory.available_bytes = UINT64_MAX,
	};
	if (options)
		stage->options = *options;
	stage->options.slab_bytes = STAGE_SLAB_BYTES;
	stage->options.capacity_bytes = slabs * STAGE_SLAB_BYTES;
	stage->options.memory = stage_memory_ops(&stage->memory);

	snprintf(stage->directory, sizeof(stage->directory), "/tmp/afar-test-XXXXXX");
	assert_non_null(mkdtemp(stage->directory));
	if (strcmp(scheme, "shm") == 0)
		snprintf(wanted, sizeof(wanted), "shm:%s/node.sock", stage->directory);
	assert_int_equal(fabric_open(env_real(), &fabric_options, &stage->fabric), 0);
	assert_int_equal(fabric_listen(stage->fabric, wanted, stage->address), 0);
	open_node(stage);
}

void stage_end(struct stage *stage)
{
	char path[128];

	for (unsigned i = 0; i < stage->clients; i++) {
		if (stage->client[i].fabric)
			fabric_close(stage->client[i].fabric);
	}
	node_close(stage->node);
	fabric_close(stage->fabric);
	assert_int_equal(stage->memory.live, 0);
	snprintf(path, sizeof(path), "%s/node.sock", stage->directory);
	unlink(path);
	assert_int_equal(rmdir(stage->directory), 0);
}

void stage_restart_node(struct stage *stage)
{
	node_close(stage->node);
	open_node(stage);
}

/* ---- time ---- */

static void note(struct client *client, const struct fabric_event *event)
{
	switch (event->kind) {
	case FABRIC_UP:
		client->up = true;
		return;
	case FABRIC_DOWN:
		client->down = true;
		client->peer = NULL;
		return;
	case FABRIC_DONE:
		client->done_tokens++;
		client->done_status = event->status;
		return;
	case FABRIC_MESSAGE:
		assert_true(client->inbox_count < STAGE_INBOX);
		assert_int_equal(node_message_decode(event->message, event->len_bytes,
						     &client->inbox[client->inbox_count]),
				 0);
		client->inbox_count++;
		return;
	}
}

/* Sleeps until something may have come for anybody, or for a moment. */
static void rest(struct stage *stage)
{
	struct pollfd fds[1 + STAGE_CLIENTS_MAX];
	nfds_t count = 0;
	bool ready = false;

	if (stage->node) {
		ready = fabric_arm(stage->fabric);
		fds[count++] = (struct pollfd){.fd = fabric_fd(stage->fabric), .events = POLLIN};
	}
	for (unsigned i = 0; i < stage->clients; i++) {
		struct fabric *fabric = stage->client[i].fabric;

		if (!fabric)
			continue;
		ready = fabric_arm(fabric) || ready;
		fds[count++] = (struct pollfd){.fd = fabric_fd(fabric), .events = POLLIN};
	}
	poll(fds, count, ready ? 0 : STAGE_REST_MS);
}

/* One look of everybody at what came; how much it was. */
static unsigned look(struct stage *stage)
{
	unsigned done = stage->node ? node_poll(stage->node) : 0;

	for (unsigned i = 0; i < stage->clients; i++) {
		struct client *client = &stage->client[i];
		struct fabric_event events[16];
		unsigned count = client->fabric ? fabric_poll(client->fabric, events, 16) : 0;

		for (unsigned k = 0; k < count; k++)
			note(client, &events[k]);
		done += count;
	}
	return done;
}

void stage_pump(struct stage *stage)
{
	if (look(stage) == 0)
		rest(stage);
}

/* Pumps while `wait` says so. */
static void pump_while(struct stage *stage, bool (*wait)(const void *context), const void *context)
{
	int64_t end_ns = env_now_ns(env_real()) + STAGE_PATIENCE_NS;

	while (wait(context)) {
		stage_pump(stage);
		if (env_now_ns(env_real()) > end_ns)
			fail_msg("waited in vain");
	}
}

static bool is_unset(const void *flag)
{
	return !*(const bool *)flag;
}

void stage_pump_until(struct stage *stage, const bool *flag)
{
	pump_while(stage, is_unset, flag);
}

struct awaited_slabs {
	const struct stage *stage;
	uint64_t slabs;
};

static bool holds_others(const void *context)
{
	const struct awaited_slabs *awaited = context;

	return stage_stats(awaited->stage).slabs_mapped != awaited->slabs;
}

void stage_pump_until_mapped(struct stage *stage, uint64_t slabs)
{
	const struct awaited_slabs awaited = {.stage = stage, .slabs = slabs};

	pump_while(stage, holds_others, &awaited);
}

void stage_pass(struct stage *stage, int64_t ns)
{
	stage->clock.now_ns += ns;
	for (unsigned i = 0; i < 3; i++)
		look(stage);
}

struct node_stats stage_stats(const struct stage *stage)
{
	struct node_stats stats;

	node_stats(stage->node, &stats);
	return stats;
}

/* ---- clients ---- */

static struct client *free_place(struct stage *stage)
{
	for (unsigned i = 0; i < stage->clients; i++) {
		if (!stage->client[i].fabric)
			return &stage->client[i];
	}
	assert_true(stage->clients < STAGE_CLIENTS_MAX);
	return &stage->client[stage->clients++];
}

struct client *client_open(struct stage *stage, uint64_t id)
{
	struct client *client = free_place(stage);
	const struct fabric_options options = {.id = id, .silence_ns = 60 * NS_PER_S};

	*client = (struct client){.stage = stage, .id = id, .next_request = 1};
	assert_int_equal(fabric_open(env_real(), &options, &client->fabric), 0);
	assert_int_equal(fabric_connect(client->fabric, stage->address, &client->peer), 0);
	stage_pump_until(stage, &client->up);
	return client;
}

/* Whether the node still sees a client more than there are. */
static bool is_thought_alive(const void *context)
{
	const struct stage *stage = context;
	struct fabric_stats stats;
	uint64_t alive = 0;

	for (unsigned i = 0; i < stage->clients; i++)
		alive += stage->client[i].fabric && !stage->client[i].down;
	fabric_stats(stage->fabric, &stats);
	return stats.peers_up - stats.peers_down > alive;
}

void client_close(struct client *client)
{
	fabric_close(client->fabric);
	client->fabric = NULL;
	client->peer = NULL;
	pump_while(client->stage, is_thought_alive, client->stage);
	/* Counted when the event was put: now the node takes it. */
	stage_pump(client->stage);
}

void client_say(struct client *client, struct node_message *message, enum node_message_kind kind)
{
	message->head.magic = NODE_PROTOCOL_MAGIC;
	message->head.version = NODE_PROTOCOL_VERSION;
	message->head.kind = (uint16_t)kind;
	assert_int_equal(fabric_send(client->peer, message, node_message_bytes(message->head.kind)),
			 0);
	fabric_flush(client->fabric);
}

struct awaited_message {
	const struct client *client;
	enum node_message_kind kind;
	uint32_t request; /* 0: any */
};

static const struct node_message *find(const struct awaited_message *awaited)
{
	for (unsigned i = 0; i < awaited->client->inbox_count; i++) {
		const struct node_message *message = &awaited->client->inbox[i];

		if (message->head.kind == awaited->kind &&
		    (awaited->request == 0 || message->head.request == awaited->request))
			return message;
	}
	return NULL;
}

static bool is_missing(const void *context)
{
	const struct awaited_message *awaited = context;

	return !find(awaited) && !awaited->client->down;
}

static void take(struct client *client, const struct awaited_message *awaited,
		 struct node_message *message)
{
	pump_while(client->stage, is_missing, awaited);

	const struct node_message *found = find(awaited);

	assert_non_null(found);

	unsigned place = (unsigned)(found - client->inbox);

	*message = *found;
	client->inbox_count--;
	memmove(&client->inbox[place], &client->inbox[place + 1],
		(client->inbox_count - place) * sizeof(*client->inbox));
}

int client_ask(struct client *client, struct node_message *message, enum node_message_kind kind)
{
	/* In the protocol an answer's kind follows its question's. */
	const struct awaited_message answer = {
		.client = client,
		.kind = kind + 1,
		.request = client->next_request,
	};

	message->head.request = client->next_request++;
	message->head.status = 0;
	client_say(client, message, kind);
	take(client, &answer, message);
	return message->head.status;
}

void client_take(struct client *client, enum node_message_kind kind, struct node_message *message)
{
	const struct awaited_message any = {.client = client, .kind = kind};

	take(client, &any, message);
}

bool client_has(const struct client *client, enum node_message_kind kind)
{
	const struct awaited_message any = {.client = client, .kind = kind};

	return find(&any) != NULL;
}

/* ---- what is said most often ---- */

static int ask_about(struct client *client, struct node_slab_name *slab, uint32_t owner_epoch,
		     enum node_message_kind kind)
{
	struct node_message message = {
		.slab =
			{
				.slab = *slab,
				.owner = client->id,
				.owner_epoch = owner_epoch,
				.slab_bytes = STAGE_SLAB_BYTES,
			},
	};
	int status = client_ask(client, &message, kind);

	*slab = message.slab.slab;
	return status;
}

int client_allocate(struct client *client, struct node_slab_name *slab, uint32_t owner_epoch)
{
	return ask_about(client, slab, owner_epoch, NODE_ALLOCATE);
}

int client_attach(struct client *client, const struct node_slab_name *slab, uint32_t owner_epoch)
{
	struct node_slab_name name = *slab;

	return ask_about(client, &name, owner_epoch, NODE_ATTACH);
}

int client_free(struct client *client, const struct node_slab_name *slab, uint32_t owner_epoch)
{
	struct node_slab_name name = *slab;

	return ask_about(client, &name, owner_epoch, NODE_FREE);
}

int client_claim(struct client *client, uint64_t volume, uint32_t owner_epoch, uint32_t *count)
{
	struct node_message message = {
		.claim = {.volume = volume, .owner = client->id, .owner_epoch = owner_epoch},
	};
	int status = client_ask(client, &message, NODE_CLAIM);

	if (count)
		*count = message.claim.count;
	return status;
}

struct node_slab_name client_slab(struct client *client, uint64_t volume, uint32_t piece)
{
	struct node_slab_name slab = {.volume = volume, .piece = piece, .piece_epoch = 1};

	assert_int_equal(client_allocate(client, &slab, 1), 0);
	assert_int_not_equal(slab.key, 0);
	return slab;
}

struct fabric_window *client_window(struct client *client, const struct node_slab_name *slab)
{
	struct fabric_window *window;

	assert_int_equal(fabric_import(client->peer, slab->key, slab->piece_epoch, STAGE_SLAB_BYTES,
				       &window),
			 0);
	return window;
}

struct awaited_done {
	const struct client *client;
	uint64_t done_tokens;
};

static bool is_outstanding(const void *context)
{
	const struct awaited_done *awaited = context;

	return awaited->client->done_tokens != awaited->done_tokens;
}

static int wait_done(struct client *client, int started)
{
	const struct awaited_done awaited = {
		.client = client,
		.done_tokens = client->done_tokens + 1,
	};

	if (started)
		return started;
	fabric_flush(client->fabric);
	pump_while(client->stage, is_outstanding, &awaited);
	return client->done_status;
}

int client_write(struct client *client, struct fabric_window *window, uint64_t offset,
		 const void *bytes, uint32_t len_bytes)
{
	return wait_done(client, fabric_write(window, offset, bytes, len_bytes, 1));
}

int client_read(struct client *client, struct fabric_window *window, uint64_t offset, void *buf,
		uint32_t len_bytes)
{
	return wait_done(client, fabric_read(window, offset, buf, len_bytes, 2));
}

int client_fill(struct client *client, struct fabric_window *window, unsigned char byte)
{
	static unsigned char bytes[STAGE_SLAB_BYTES];

	memset(bytes, byte, sizeof(bytes));
	return client_write(client, window, 0, bytes, sizeof(bytes));
}

bool client_sees(struct client *client, struct fabric_window *window, unsigned char byte)
{
	static unsigned char bytes[STAGE_SLAB_BYTES];

	assert_int_equal(client_read(client, window, 0, bytes, sizeof(bytes)), 0);
	return bytes[0] == byte && memcmp(bytes, bytes + 1, sizeof(bytes) - 1) == 0;
}
