/*
 * stage.h: a node, its clients and a machine of which the test says how much memory it has
 *
 *   All in one thread, over real transports. The node's clock stands, so that a slow machine
 * changes nothing, and is set forward by the test, so that what takes half a minute takes no time.
 * The fabrics have the real clock, and much patience.
 */
#ifndef AFAR_TESTS_NODE_STAGE_H
#define AFAR_TESTS_NODE_STAGE_H

#include "base/env.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "node/protocol.h"

#include <stdbool.h>
#include <stdint.h>

#define STAGE_SLAB_BYTES  (UINT64_C(64) << 10)
#define STAGE_INBOX       256u
#define STAGE_CLIENTS_MAX 8u

/* How long something may take before a test fails instead of hanging. */
#ifndef STAGE_PATIENCE_NS
#define STAGE_PATIENCE_NS (120 * NS_PER_S)
#endif

/* The machine, as the node sees it. */
struct stage_memory {
	uint64_t available_bytes;
	unsigned slow; /* so many calls of slab_make say -EAGAIN first */
	bool stuck;    /* all of them do */
	int error;     /* what they return, if it is not 0 */
	unsigned made, live;
	unsigned stock_drops;
	uint64_t samples;
};

struct stage_env {
	struct env env;
	int64_t now_ns;
	uint64_t random_state;
};

struct client {
	struct stage *stage;
	struct fabric *fabric;
	struct fabric_peer *peer;
	uint64_t id;
	bool up, down;
	uint32_t next_request;
	struct node_message inbox[STAGE_INBOX];
	unsigned inbox_count;
	uint64_t done_tokens;
	int done_status;
};

struct stage {
	const char *scheme; /* "shm", "tcp" */
	char directory[64];
	char address[FABRIC_ADDRESS_BYTES];
	struct stage_env clock;
	struct stage_memory memory;
	struct fabric *fabric;
	struct node_options options;
	struct node *node; /* NULL: in another process */
	struct client client[STAGE_CLIENTS_MAX];
	unsigned clients;
};

/* The seed of this run: from AFAR_SEED, else random; printed once. */
uint64_t stage_seed(void);
uint64_t stage_random(struct stage *stage);

struct node_memory_ops stage_memory_ops(struct stage_memory *memory);

/* A node of so many slabs, listening, without clients. NULL options: as they come. */
void stage_begin(struct stage *stage, const char *scheme, uint64_t slabs,
		 const struct node_options *options);
void stage_end(struct stage *stage);
/* Closes the node and opens another, with the same options, on the same fabric. */
void stage_restart_node(struct stage *stage);

/* One look of everybody at what came; a short sleep if nothing did. */
void stage_pump(struct stage *stage);
/* Pumps until *flag, or until the test's patience ends: then it fails. */
void stage_pump_until(struct stage *stage, const bool *flag);
/* Pumps until the node holds so many slabs. */
void stage_pump_until_mapped(struct stage *stage, uint64_t slabs);
/* Sets the node's clock forward, and looks. */
void stage_pass(struct stage *stage, int64_t ns);
struct node_stats stage_stats(const struct stage *stage);

/* One more client, connected. */
struct client *client_open(struct stage *stage, uint64_t id);
/* Gone, and the node knows. */
void client_close(struct client *client);
/* Says it and waits for the answer, which replaces the message. The answer's status. */
int client_ask(struct client *client, struct node_message *message, enum node_message_kind kind);
/* Says it, and waits for nothing. */
void client_say(struct client *client, struct node_message *message, enum node_message_kind kind);
/* Takes the first message of this kind out of the inbox, waiting for it. */
void client_take(struct client *client, enum node_message_kind kind, struct node_message *message);
/* Whether one of this kind is in the inbox. */
bool client_has(const struct client *client, enum node_message_kind kind);

/* What is said most often. All return the answer's status. */
int client_allocate(struct client *client, struct node_slab_name *slab, uint32_t owner_epoch);
int client_attach(struct client *client, const struct node_slab_name *slab, uint32_t owner_epoch);
int client_free(struct client *client, const struct node_slab_name *slab, uint32_t owner_epoch);
int client_claim(struct client *client, uint64_t volume, uint32_t owner_epoch, uint32_t *count);

/* A slab of a piece of the volume, under owner_epoch 1. The test fails if there is none. */
struct node_slab_name client_slab(struct client *client, uint64_t volume, uint32_t piece);
struct fabric_window *client_window(struct client *client, const struct node_slab_name *slab);
/* One-sided access, waited for. The status of the operation. */
int client_write(struct client *client, struct fabric_window *window, uint64_t offset,
		 const void *bytes, uint32_t len_bytes);
int client_read(struct client *client, struct fabric_window *window, uint64_t offset, void *buf,
		uint32_t len_bytes);
/* Fills the whole slab with a byte; whether all of it is this byte. */
int client_fill(struct client *client, struct fabric_window *window, unsigned char byte);
bool client_sees(struct client *client, struct fabric_window *window, unsigned char byte);

#endif
