/*
 * bed.h: nodes and clients in one thread, for tests of the pool
 *
 *   A bed has nodes, each with a fabric of its own that listens on shm or tcp, and clients, each
 *   with a fabric, a cluster and a pool. bed_pump() turns every wheel once; the functions that
 *   wait pump until what they wait for is there, or fail the test after a time that no machine
 *   needs. A client's clock can be set forward, so that no test waits for a time to pass.
 *
 *   Pages of tests are made of a number: page_fill() writes it everywhere, page_number() reads it
 *   and fails on a page that is torn.
 */
#ifndef AFAR_TESTS_POOL_BED_H
#define AFAR_TESTS_POOL_BED_H

#include "base/env.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "pool/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define BED_NODES_MAX   32u
#define BED_CLIENTS_MAX 2u
#define BED_SLAB_PAGES  16u
#define BED_SLAB_BYTES  (BED_SLAB_PAGES * POOL_PAGE_BYTES)
#define BED_SLABS_MAX   512u
#define BED_EVENTS_MAX  8192u

enum bed_kind { BED_SHM, BED_TCP };

/* The real world but for the clock, which can be set forward, and the numbers, which are seeded. */
struct bed_env {
	struct env env;
	int64_t skew_ns;
	uint64_t random;
};

struct bed_slab {
	unsigned char *memory;
	int memfd;
};

struct bed_node {
	struct bed *bed;
	struct fabric *fabric; /* NULL: down */
	struct node *node;
	struct cluster *cluster; /* dir: beds */
	char address[FABRIC_ADDRESS_BYTES];
	uint64_t id;
	uint32_t slabs_most;
	struct bed_slab slabs[BED_SLABS_MAX];
	uint32_t slab_count;
	bool deaf; /* its wheels do not turn */
};

struct bed_client {
	struct bed *bed;
	struct bed_env env;
	struct fabric *fabric;
	struct cluster *cluster;
	struct pool *pool; /* NULL: closed */
	struct pool_event events[BED_EVENTS_MAX];
	uint32_t event_count;
	bool deaf;
};

struct bed {
	enum bed_kind kind;
	char directory[64];
	bool store; /* the cluster is a directory, else a list */
	struct bed_node nodes[BED_NODES_MAX];
	uint32_t node_count;
	struct bed_client clients[BED_CLIENTS_MAX];
};

/* Nodes of slabs_most slabs each; no client yet. */
struct bed *bed_open(enum bed_kind kind, bool store, uint32_t nodes, uint32_t slabs_most);
void bed_close(struct bed *bed);
/* Opens a client over all nodes. `options` may be NULL; owner is filled in. */
struct bed_client *bed_client(struct bed *bed, unsigned place, const struct pool_options *options);
void bed_client_close(struct bed_client *client);

void bed_node_kill(struct bed_node *node);
/* Starts it again at its address, empty. */
void bed_node_start(struct bed_node *node);
uint64_t bed_node_used_slabs(const struct bed_node *node);
uint64_t bed_used_slabs(const struct bed *bed);
/* Changes a byte of every slab page that holds this number. Returns how many. */
unsigned bed_node_scribble(struct bed_node *node, uint64_t number);
/* Whether some slab of the node holds a page of this number. */
bool bed_node_has(const struct bed_node *node, uint64_t number);

void bed_pump(struct bed *bed);
/* Pumps until nothing is under way: for `rounds` turns no event comes. */
void bed_settle(struct bed *bed);
/* Ends a client's connection to a node, in a list bed; both live on. */
void client_cut(struct bed_client *client, unsigned node);
/* Whether a client, in a list bed, has noticed that a node is gone. */
bool client_lost(const struct bed_client *client, unsigned node);
/* Sets a client's clock forward. */
void client_skip(struct bed_client *client, int64_t ns);

/* Pumps until `condition` holds. */
#define bed_until(bed, condition)                                                \
	do {                                                                     \
		int64_t bed_end_ns = env_now_ns(env_real()) + 120 * NS_PER_S;    \
		while (!(condition)) {                                           \
			bed_pump(bed);                                           \
			if (env_now_ns(env_real()) > bed_end_ns)                 \
				fail_msg("waited too long for: %s", #condition); \
		}                                                                \
	} while (0)

/* Takes the first event of this kind for this volume; false: there is none yet. */
bool client_take(struct bed_client *client, const struct volume *volume, enum pool_event_kind kind,
		 uint64_t token, struct pool_event *event);
/* Makes a volume and waits until it is ready. */
struct volume *client_volume(struct bed_client *client, const char *name, uint64_t pages,
			     uint32_t replicas);
/* Takes one over; returns VOLUME_READY's 0 or VOLUME_FAILED's status. */
int client_take_over(struct bed_client *client, const char *name, struct volume **volume);
/* Starts an operation; `token` finds its end. */
void client_submit(struct bed_client *client, struct volume *volume, enum volume_op op,
		   uint64_t page, void *buf, uint64_t token);
/* Waits for its end; returns its status. */
int client_wait(struct bed_client *client, struct volume *volume, uint64_t token);
int client_write(struct bed_client *client, struct volume *volume, uint64_t page, uint64_t number);
/* *number is what the page was filled with. */
int client_read(struct bed_client *client, struct volume *volume, uint64_t page, uint64_t *number);

void page_fill(void *page, uint64_t number);
uint64_t page_number(const void *page);

/* Random numbers from AFAR_SEED, or from a new seed that is printed. */
void test_seed(void);
uint64_t test_random_below(uint64_t bound);

#endif
