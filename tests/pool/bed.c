/*
 * bed.c: nodes and clients in one thread; bed.h tells the story
 */
#include "bed.h"

#include "base/base.h"
#include "base/bits.h"
#include "pool/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEY          "the key of the tests of the pool"
#define SKIP_NS      (100 * NS_PER_MS)
#define SETTLE_TURNS 2000u
/* Machines that run tests are slow and shared: silence is no proof of death here. */
#define SILENCE_NS (60 * NS_PER_S)

/* ---- numbers and pages ---- */

static uint64_t seed_state;

void test_seed(void)
{
	const char *text = getenv("AFAR_SEED");

	seed_state = text ? strtoull(text, NULL, 0) : env_random(env_real());
	printf("AFAR_SEED=%llu\n", (unsigned long long)seed_state);
	fflush(stdout);
}

static uint64_t next_random(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return mix_u64(*state);
}

uint64_t test_random_below(uint64_t bound)
{
	return next_random(&seed_state) % bound;
}

void page_fill(void *page, uint64_t number)
{
	for (size_t i = 0; i < POOL_PAGE_BYTES / sizeof(number); i++)
		memcpy((char *)page + i * sizeof(number), &number, sizeof(number));
}

static bool page_is(const void *page, uint64_t number)
{
	for (size_t i = 0; i < POOL_PAGE_BYTES / sizeof(number); i++)
		if (memcmp((const char *)page + i * sizeof(number), &number, sizeof(number)) != 0)
			return false;
	return true;
}

uint64_t page_number(const void *page)
{
	uint64_t number;

	memcpy(&number, page, sizeof(number));
	assert_true(page_is(page, number));
	return number;
}

/* ---- the environment of a client ---- */

static int64_t skewed_now_ns(struct env *env)
{
	return env_now_ns(env_real()) + ((struct bed_env *)(void *)env)->skew_ns;
}

static uint64_t seeded_random(struct env *env)
{
	return next_random(&((struct bed_env *)(void *)env)->random);
}

static int real_read(struct env *env, const char *path, void *buf, size_t size_bytes,
		     size_t *len_bytes)
{
	return env_file_read(env_real(), path, buf, size_bytes, len_bytes);
}

static int real_write(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return env_file_write(env_real(), path, bytes, len_bytes);
}

static int real_create(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return env_file_create(env_real(), path, bytes, len_bytes);
}

static int real_remove(struct env *env, const char *path)
{
	return env_file_remove(env_real(), path);
}

static int real_make(struct env *env, const char *path)
{
	return env_dir_make(env_real(), path);
}

static int real_list(struct env *env, const char *path,
		     void (*each)(void *context, const char *name), void *context)
{
	return env_dir_list(env_real(), path, each, context);
}

static int real_lock(struct env *env, const char *path)
{
	return env_lock(env_real(), path);
}

static void real_unlock(struct env *env, int lock)
{
	env_unlock(env_real(), lock);
}

static const struct env_ops bed_env_ops = {
	.now_ns = skewed_now_ns,
	.random = seeded_random,
	.file_read = real_read,
	.file_write = real_write,
	.file_create = real_create,
	.file_remove = real_remove,
	.dir_make = real_make,
	.dir_list = real_list,
	.lock = real_lock,
	.unlock = real_unlock,
};

void client_cut(struct bed_client *client, unsigned node)
{
	struct fabric_peer *peer = client->pool->nodes[node]->peer;

	assert_non_null(peer);
	fabric_disconnect(peer);
}

bool client_lost(const struct bed_client *client, unsigned node)
{
	return client->pool->nodes[node]->link != NODE_READY;
}

/* In small steps: a pool that finds itself far behind was stopped, and takes back the time. */
void client_skip(struct bed_client *client, int64_t ns)
{
	for (; ns > 0; ns -= SKIP_NS) {
		client->env.skew_ns += SKIP_NS;
		bed_pump(client->bed);
	}
}

/* ---- nodes ---- */

static int slab_make(void *context, uint64_t size_bytes, void **memory, int *memfd)
{
	struct bed_node *node = context;
	int fd = memfd_create("slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size_bytes) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0)
		return -ENOMEM;
	*memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(*memory != MAP_FAILED && node->slab_count < BED_SLABS_MAX);
	node->slabs[node->slab_count++] = (struct bed_slab){*memory, fd};
	*memfd = fd;
	return 0;
}

static void slab_destroy(void *context, void *memory, uint64_t size_bytes, int memfd)
{
	struct bed_node *node = context;

	for (uint32_t i = 0; i < node->slab_count; i++)
		if (node->slabs[i].memory == memory)
			node->slabs[i] = node->slabs[--node->slab_count];
	munmap(memory, size_bytes);
	close(memfd);
}

static uint64_t available_bytes(void *context)
{
	return UINT64_MAX;
}

void bed_node_start(struct bed_node *node)
{
	struct bed *bed = node->bed;
	const struct fabric_options fabric_options = {
		.key = KEY, .key_len = sizeof(KEY) - 1, .id = node->id, .silence_ns = SILENCE_NS};
	const struct node_options options = {
		.capacity_bytes = (uint64_t)node->slabs_most * BED_SLAB_BYTES,
		.slab_bytes = BED_SLAB_BYTES,
		.memory = {.slab_make = slab_make,
			   .slab_destroy = slab_destroy,
			   .available_bytes = available_bytes,
			   .context = node},
	};
	char actual[FABRIC_ADDRESS_BYTES];

	assert_int_equal(fabric_open(env_real(), &fabric_options, &node->fabric), 0);
	assert_int_equal(fabric_listen(node->fabric, node->address, actual), 0);
	snprintf(node->address, sizeof(node->address), "%s", actual);
	assert_int_equal(node_open(env_real(), node->fabric, &options, &node->node), 0);
	if (bed->store) {
		struct cluster_member self = {.id = node->id, .addresses = 1};
		char uri[128];

		snprintf(uri, sizeof(uri), "dir:%s/cluster", bed->directory);
		snprintf(self.address[0], sizeof(self.address[0]), "%s", actual);
		assert_int_equal(cluster_open(env_real(), uri, NULL, &node->cluster), 0);
		assert_int_equal(cluster_join(node->cluster, &self, 30 * NS_PER_S), 0);
	}
}

static struct node *graves[1024]; /* reachable, so that what is left behind is no leak */
static size_t grave_count;

void bed_node_kill(struct bed_node *node)
{
	if (!node->fabric)
		return;
	/*
	 * As when its process dies: the connections end, and nothing is said before. node_close()
	 * would take the slabs from their owners first, and cannot come afterwards without the
	 * fabric: the object stays where it is.
	 */
	fabric_close(node->fabric);
	node->fabric = NULL;
	assert_true(grave_count < ARRAY_COUNT(graves));
	graves[grave_count++] = node->node;
	node->node = NULL;
	if (node->cluster)
		cluster_close(node->cluster);
	node->cluster = NULL;
}

uint64_t bed_node_used_slabs(const struct bed_node *node)
{
	struct node_stats stats;

	if (!node->fabric)
		return 0;
	node_stats(node->node, &stats);
	return stats.used_bytes / BED_SLAB_BYTES;
}

uint64_t bed_used_slabs(const struct bed *bed)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < bed->node_count; i++)
		used += bed_node_used_slabs(&bed->nodes[i]);
	return used;
}

static unsigned char *find_page(const struct bed_node *node, uint64_t number, uint32_t *at)
{
	for (; *at < node->slab_count * BED_SLAB_PAGES; ++*at) {
		unsigned char *page = node->slabs[*at / BED_SLAB_PAGES].memory +
				      *at % BED_SLAB_PAGES * POOL_PAGE_BYTES;

		if (page_is(page, number))
			return page;
	}
	return NULL;
}

unsigned bed_node_scribble(struct bed_node *node, uint64_t number)
{
	unsigned char *page;
	unsigned count = 0;
	uint32_t at = 0;

	while ((page = find_page(node, number, &at))) {
		page[test_random_below(POOL_PAGE_BYTES)] ^=
			(unsigned char)(1 + test_random_below(255));
		count++;
	}
	return count;
}

bool bed_node_has(const struct bed_node *node, uint64_t number)
{
	uint32_t at = 0;

	return find_page(node, number, &at) != NULL;
}

/* ---- the bed ---- */

struct bed *bed_open(enum bed_kind kind, bool store, uint32_t nodes, uint32_t slabs_most)
{
	struct bed *bed = calloc(1, sizeof(*bed));

	assert_non_null(bed);
	assert_true(nodes <= BED_NODES_MAX);
	bed->kind = kind;
	bed->store = store;
	snprintf(bed->directory, sizeof(bed->directory), "/tmp/afar-pool-XXXXXX");
	assert_non_null(mkdtemp(bed->directory));
	for (uint32_t i = 0; i < nodes; i++) {
		struct bed_node *node = &bed->nodes[bed->node_count++];

		node->bed = bed;
		node->id = 1000 + i;
		node->slabs_most = slabs_most;
		if (kind == BED_SHM)
			snprintf(node->address, sizeof(node->address), "shm:%s/%u.sock",
				 bed->directory, i);
		else
			snprintf(node->address, sizeof(node->address), "tcp://127.0.0.1:0");
		bed_node_start(node);
	}
	return bed;
}

static int remove_path(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	return remove(path);
}

void bed_close(struct bed *bed)
{
	for (unsigned i = 0; i < BED_CLIENTS_MAX; i++)
		if (bed->clients[i].pool)
			bed_client_close(&bed->clients[i]);
	for (uint32_t i = 0; i < bed->node_count; i++) {
		struct bed_node *node = &bed->nodes[i];

		if (node->fabric) {
			node_close(node->node);
			fabric_close(node->fabric);
		}
		if (node->cluster)
			cluster_close(node->cluster);
		while (node->slab_count > 0)
			slab_destroy(node, node->slabs[0].memory, BED_SLAB_BYTES,
				     node->slabs[0].memfd);
	}
	assert_int_equal(nftw(bed->directory, remove_path, 16, FTW_DEPTH | FTW_PHYS), 0);
	free(bed);
}

static void cluster_uri(const struct bed *bed, char *uri, size_t size_bytes)
{
	int len = 0;

	if (bed->store) {
		snprintf(uri, size_bytes, "dir:%s/cluster", bed->directory);
		return;
	}
	for (uint32_t i = 0; i < bed->node_count; i++)
		len += snprintf(uri + len, size_bytes - (size_t)len, "%s%s", i > 0 ? "," : "",
				bed->nodes[i].address);
}

struct bed_client *bed_client(struct bed *bed, unsigned place, const struct pool_options *options)
{
	struct bed_client *client = &bed->clients[place];
	struct pool_options own = options ? *options : (struct pool_options){0};
	const struct fabric_options fabric_options = {
		.key = KEY, .key_len = sizeof(KEY) - 1, .id = 1 + place, .silence_ns = SILENCE_NS};
	char uri[8192];

	client->bed = bed;
	client->env =
		(struct bed_env){.env.ops = &bed_env_ops, .random = test_random_below(UINT64_MAX)};
	own.owner = 1 + place;
	cluster_uri(bed, uri, sizeof(uri));
	assert_int_equal(cluster_open(&client->env.env, uri, NULL, &client->cluster), 0);
	assert_int_equal(fabric_open(env_real(), &fabric_options, &client->fabric), 0);
	assert_int_equal(
		pool_open(&client->env.env, client->fabric, client->cluster, &own, &client->pool),
		0);
	return client;
}

void bed_client_close(struct bed_client *client)
{
	pool_close(client->pool);
	fabric_close(client->fabric);
	cluster_close(client->cluster);
	client->pool = NULL;
	client->event_count = 0;
}

static unsigned client_poll(struct bed_client *client)
{
	unsigned n = pool_poll(client->pool, client->events + client->event_count,
			       BED_EVENTS_MAX - client->event_count);

	client->event_count += n;
	assert_true(client->event_count < BED_EVENTS_MAX);
	return n;
}

static unsigned turn(struct bed *bed)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < bed->node_count; i++) {
		struct bed_node *node = &bed->nodes[i];

		if (!node->fabric || node->deaf)
			continue;
		n += node_poll(node->node);
		if (node->cluster)
			cluster_poll(node->cluster);
	}
	for (unsigned i = 0; i < BED_CLIENTS_MAX; i++)
		if (bed->clients[i].pool && !bed->clients[i].deaf)
			n += client_poll(&bed->clients[i]);
	return n;
}

void bed_pump(struct bed *bed)
{
	turn(bed);
}

void bed_settle(struct bed *bed)
{
	for (unsigned quiet = 0; quiet < SETTLE_TURNS; quiet++)
		if (turn(bed) > 0)
			quiet = 0;
}

/* ---- what clients do ---- */

bool client_take(struct bed_client *client, const struct volume *volume, enum pool_event_kind kind,
		 uint64_t token, struct pool_event *event)
{
	for (uint32_t i = 0; i < client->event_count; i++) {
		if (client->events[i].volume != volume || client->events[i].kind != kind ||
		    client->events[i].token != token)
			continue;
		*event = client->events[i];
		client->event_count--;
		memmove(&client->events[i], &client->events[i + 1],
			(client->event_count - i) * sizeof(client->events[0]));
		return true;
	}
	return false;
}

static int wait_open(struct bed_client *client, struct volume *volume)
{
	struct pool_event event;

	bed_until(client->bed, client_take(client, volume, VOLUME_READY, 0, &event) ||
				       client_take(client, volume, VOLUME_FAILED, 0, &event));
	return event.status;
}

struct volume *client_volume(struct bed_client *client, const char *name, uint64_t pages,
			     uint32_t replicas)
{
	struct volume_options options = {.size_bytes = pages * POOL_PAGE_BYTES,
					 .replicas = replicas};
	struct volume *volume;

	snprintf(options.name, sizeof(options.name), "%s", name);
	assert_int_equal(volume_open(client->pool, &options, &volume), 0);
	assert_int_equal(wait_open(client, volume), 0);
	return volume;
}

int client_take_over(struct bed_client *client, const char *name, struct volume **volume)
{
	struct volume_options options = {.takeover = true};

	snprintf(options.name, sizeof(options.name), "%s", name);
	assert_int_equal(volume_open(client->pool, &options, volume), 0);
	return wait_open(client, *volume);
}

void client_submit(struct bed_client *client, struct volume *volume, enum volume_op op,
		   uint64_t page, void *buf, uint64_t token)
{
	const struct volume_io io = {.op = op, .page = page, .buf = buf, .token = token};

	assert_int_equal(volume_submit(volume, &io, 1), 1);
}

int client_wait(struct bed_client *client, struct volume *volume, uint64_t token)
{
	struct pool_event event;

	bed_until(client->bed, client_take(client, volume, VOLUME_DONE, token, &event));
	return event.status;
}

int client_write(struct bed_client *client, struct volume *volume, uint64_t page, uint64_t number)
{
	static _Alignas(4096) unsigned char buf[POOL_PAGE_BYTES];

	page_fill(buf, number);
	client_submit(client, volume, VOLUME_WRITE, page, buf, UINT64_MAX);
	return client_wait(client, volume, UINT64_MAX);
}

int client_read(struct bed_client *client, struct volume *volume, uint64_t page, uint64_t *number)
{
	static _Alignas(4096) unsigned char buf[POOL_PAGE_BYTES];

	client_submit(client, volume, VOLUME_READ, page, buf, UINT64_MAX);

	int status = client_wait(client, volume, UINT64_MAX);

	if (status == 0)
		*number = page_number(buf);
	return status;
}
