/*
 * harness.h: several fabrics in one thread, and what happened to each
 *
 *   A test opens a net of one kind, gives it members, and looks at what their polls returned. The
 *   same test runs on every transport: here is all that differs between them.
 *
 *   Nothing sleeps: net_pump() polls every member once, and the expect functions pump until the
 *   event is there, or fail the test after a time that no machine needs.
 */
#ifndef AFAR_TESTS_FABRIC_HARNESS_H
#define AFAR_TESTS_FABRIC_HARNESS_H

#include "fabric/fabric.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#define NET_MEMBERS_MAX 128u
#define NET_KEY         "the key of the tests of fabric"

enum net_kind { NET_SHM, NET_TCP, NET_SIM_SHM, NET_SIM_TCP, NET_SIM_VERBS };

static inline bool net_is_simulated(enum net_kind kind)
{
	return kind >= NET_SIM_SHM;
}

/* An event as it was polled; `message` is a copy. */
struct seen {
	struct fabric_event event;
	unsigned char *message;
};

struct member {
	struct fabric *fabric;
	char address[FABRIC_ADDRESS_BYTES]; /* "" if it does not listen */
	struct seen *seen;
	uint32_t seen_count;
	uint32_t seen_max;
	uint32_t taken; /* events before this were expected already */
	bool deaf;      /* net_pump() passes it over */
	struct net *net;
	uint32_t machine; /* simulated */
};

struct net {
	enum net_kind kind;
	char directory[64];
	struct member members[NET_MEMBERS_MAX];
	uint32_t count;
	uint64_t next_id;
	struct world *world; /* simulated */
	struct sim_net *sim_net;
};

/* Memory as an owner exports it. */
struct memory {
	unsigned char *bytes;
	uint64_t size_bytes;
	int memfd;
};

struct net *net_open(enum net_kind kind);
void net_close(struct net *net);

/* Adds a member. `options` may be NULL; id and key are filled in where they are 0. */
struct member *net_add(struct net *net, const struct fabric_options *options);
/* The same, and it listens. */
struct member *net_add_server(struct net *net, const struct fabric_options *options);
/* A fresh address for a listener of this kind. */
void net_address(struct net *net, char *address);
/* The end of a member without a word. Simulated: its machine crashes. Its place stays empty. */
void net_crash(struct net *net, struct member *member);
/* Closes the member's fabric; its place stays empty. */
void net_remove(struct net *net, struct member *member);

/* Connects and waits for both UPs. `server_peer` may be NULL. */
struct fabric_peer *net_connect(struct net *net, struct member *client, struct member *server,
				struct fabric_peer **server_peer);

/* Polls everyone once; returns how many events came. */
unsigned net_pump(struct net *net);
/* Pumps until the member has an event that was not taken yet, and takes it. */
struct fabric_event net_next(struct net *net, struct member *member);
/* The same, and it must be of this kind. */
struct fabric_event net_expect(struct net *net, struct member *member, enum fabric_event_kind kind);
/* Pumps until nothing has happened for a while. */
void net_settle(struct net *net);
/* Pumps for so long, of the net's own time. */
void net_run(struct net *net, int64_t ns);
/* The net's own time. */
int64_t net_now_ns(const struct net *net);
/* Whether the member has an event that was not taken. */
bool net_has_event(const struct member *member);

/* Submits, pumps until DONE, and returns its status, or what the submission said. */
int net_read(struct net *net, struct member *member, struct fabric_window *window, uint64_t offset,
	     void *buf, uint32_t len_bytes);
int net_write(struct net *net, struct member *member, struct fabric_window *window, uint64_t offset,
	      const void *bytes, uint32_t len_bytes);
int net_add_to(struct net *net, struct member *member, struct fabric_window *window,
	       uint64_t offset, uint64_t delta, uint64_t *previous);

/* Fills with bytes that depend on `salt`; whether it still holds them. */
void pattern_fill(void *bytes, size_t len_bytes, uint64_t salt);
bool pattern_holds(const void *bytes, size_t len_bytes, uint64_t salt);

void memory_create(struct memory *memory, uint64_t size_bytes);
void memory_destroy(struct memory *memory);

/* Exports `memory` to the server's peer under key, tells the client by a message, imports it. */
struct fabric_window *net_share(struct net *net, struct fabric_peer *server_peer,
				struct member *client, struct fabric_peer *client_peer,
				struct memory *memory, uint64_t key);

/*
 * Another process that listens, exports `size_bytes` to whoever connects under key 1, epoch 1,
 * and sends messages back as they come. It does not outlive us.
 */
struct process {
	pid_t pid;
	char address[FABRIC_ADDRESS_BYTES];
};
void process_start(struct net *net, struct process *process, uint64_t size_bytes);
void process_kill(struct process *process);

/* Simulated nets (harness_sim.c): a member's machine, a round of events. */
void simulate_open(struct net *net);
void simulate_close(struct net *net);
void simulate_boot(struct net *net, struct member *member, struct fabric_options *options,
		   struct env **env);
void simulate_run(struct net *net, int64_t ns);
void simulate_crash(struct net *net, struct member *member);
void simulate_power_off(struct net *net, struct member *member);
int64_t simulate_now_ns(const struct net *net);
/* Polls one member, and remembers what came. */
unsigned member_pump(struct member *member);

/* Random numbers from AFAR_SEED, or from a new seed that is printed. */
uint64_t test_random(void);
uint64_t test_random_below(uint64_t bound);
void test_seed(void);

#endif
