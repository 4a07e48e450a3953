/*
 * test_hostile.c: whatever peers say, and however they die, the node goes on for the others
 */
#include "stage.h"

#include "afar/error.h"
#include "base/base.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define VOLUME   UINT64_C(0x7001)
#define SLABS    8u
#define CHILDREN 3u

static int begin(void **state)
{
	struct stage *stage = test_malloc(sizeof(*stage));

	stage_begin(stage, *state, SLABS, NULL);
	*state = stage;
	return 0;
}

static int end(void **state)
{
	struct stage *stage = *state;

	stage_end(stage);
	test_free(stage);
	return 0;
}

/* ---- somebody who does no wrong ---- */

struct witness {
	struct client *client;
	struct node_slab_name slab;
	struct fabric_window *window;
};

static struct witness call_witness(struct stage *stage)
{
	struct witness witness = {.client = client_open(stage, 1)};

	witness.slab = client_slab(witness.client, VOLUME, 0);
	witness.window = client_window(witness.client, &witness.slab);
	assert_int_equal(client_fill(witness.client, witness.window, 0x5a), 0);
	return witness;
}

/* Its slab is as it was, and the node answers. */
static void question(const struct witness *witness)
{
	struct node_message message = {.query.volume = VOLUME};

	assert_int_equal(client_ask(witness->client, &message, NODE_QUERY), 0);
	assert_int_equal(message.status.volume_bytes, STAGE_SLAB_BYTES);
	assert_true(message.status.used_bytes + message.status.free_bytes <=
		    message.status.capacity_bytes);
	assert_true(client_sees(witness->client, witness->window, 0x5a));
}

/* ---- bad form ---- */

struct attack {
	const char *name;
	enum node_message_kind kind;
	size_t offset;
	uint32_t value; /* of 4 bytes there */
	int longer;     /* than the message should be */
};

#define AT(member) offsetof(struct node_message, member)

static const struct attack attacks[] = {
	{"another magic", NODE_QUERY, AT(head.magic), 0x12345678, 0},
	{"another version", NODE_QUERY, AT(head.version), 2 | NODE_QUERY << 16, 0},
	{"no kind", NODE_QUERY, AT(head.version), NODE_PROTOCOL_VERSION, 0},
	{"an unknown kind", NODE_QUERY, AT(head.version),
	 NODE_PROTOCOL_VERSION | NODE_MESSAGE_KINDS << 16, 0},
	{"the greatest kind", NODE_QUERY, AT(head.version), NODE_PROTOCOL_VERSION | 0xffffu << 16,
	 0},
	{"one byte short", NODE_ALLOCATE, AT(head.request), 1, -1},
	{"one byte long", NODE_ALLOCATE, AT(head.request), 1, 1},
	{"half a head", NODE_QUERY, AT(head.magic), NODE_PROTOCOL_MAGIC, -20},
	{"too many slabs", NODE_LIST, AT(list.count), NODE_KEYS_MAX + 1, 0},
	{"far too many slabs", NODE_LIST, AT(list.count), UINT32_MAX, 0},
	{"too many activities", NODE_ACTIVITY, AT(activity.count), NODE_KEYS_MAX + 1, 0},
	{"far too many activities", NODE_ACTIVITY, AT(activity.count), UINT32_MAX, 0},
	{"an unknown answer", NODE_EVICT_ANSWER, AT(evict.answer), NODE_EVICT_MOVED + 1, 0},
	{"what only nodes say: status", NODE_STATUS, AT(head.request), 1, 0},
	{"what only nodes say: allocated", NODE_ALLOCATED, AT(head.request), 1, 0},
	{"what only nodes say: attached", NODE_ATTACHED, AT(head.request), 1, 0},
	{"what only nodes say: freed", NODE_FREED, AT(head.request), 1, 0},
	{"what only nodes say: claimed", NODE_CLAIMED, AT(head.request), 1, 0},
	{"what only nodes say: listed", NODE_LISTED, AT(head.request), 1, 0},
	{"what only nodes say: activity ask", NODE_ACTIVITY_ASK, AT(head.request), 1, 0},
	{"what only nodes say: notice", NODE_EVICT_NOTICE, AT(head.request), 1, 0},
};

static void bad_form_ends_the_connection_and_nothing_else(void **state)
{
	struct stage *stage = *state;
	struct witness witness = call_witness(stage);

	for (size_t i = 0; i < ARRAY_COUNT(attacks); i++) {
		const struct attack *attack = &attacks[i];
		struct client *attacker = client_open(stage, 2);
		struct node_message message = {
			.head =
				{
					.magic = NODE_PROTOCOL_MAGIC,
					.version = NODE_PROTOCOL_VERSION,
					.kind = (uint16_t)attack->kind,
				},
		};
		int len_bytes = (int)node_message_bytes(message.head.kind) + attack->longer;

		print_message("  %s\n", attack->name);
		memcpy((char *)&message + attack->offset, &attack->value, sizeof(attack->value));
		assert_int_equal(fabric_send(attacker->peer, &message, (uint32_t)len_bytes), 0);
		stage_pump_until(stage, &attacker->down);
		assert_int_equal(stage_stats(stage).bad_messages, i + 1);
		client_close(attacker);
		question(&witness);
	}
}

static void a_condemned_peer_is_not_heard_any_more(void **state)
{
	struct stage *stage = *state;
	struct witness witness = call_witness(stage);
	struct client *attacker = client_open(stage, 2);
	struct node_slab_name slab = client_slab(attacker, VOLUME + 1, 0);
	struct node_message message = {
		.slab = {.slab = slab, .owner = 2, .owner_epoch = 1},
	};

	/* Both arrive together: the first condemns, the second would free its slab. */
	assert_int_equal(fabric_send(attacker->peer, "nonsense", 8), 0);
	client_say(attacker, &message, NODE_FREE);
	stage_pump_until(stage, &attacker->down);
	assert_int_equal(stage_stats(stage).slabs_mapped, 2);
	question(&witness);
}

/* ---- bad meaning, at random ---- */

/* A number that is often one that matters. */
static uint64_t plausible(struct stage *stage, const struct witness *witness)
{
	uint64_t random = stage_random(stage);

	switch (random % 10) {
	case 0:
		return VOLUME;
	case 1:
		return witness->slab.key;
	case 2:
		return witness->slab.key + random / 16 % 3 - 1;
	case 3:
		return STAGE_SLAB_BYTES;
	case 4:
		return UINT64_MAX;
	case 5:
		return random >> 8;
	default:
		return random / 16 % 4;
	}
}

static uint32_t invent(struct stage *stage, const struct witness *witness,
		       struct node_message *message)
{
	uint64_t words[sizeof(*message) / sizeof(uint64_t)];
	uint32_t len_bytes;

	for (size_t i = 0; i < ARRAY_COUNT(words); i++)
		words[i] = plausible(stage, witness);
	memcpy(message, words, sizeof(words));
	if (stage_random(stage) % 8 == 0)
		return 1 + (uint32_t)(stage_random(stage) % sizeof(words));
	message->head.magic = NODE_PROTOCOL_MAGIC;
	message->head.version = NODE_PROTOCOL_VERSION;
	message->head.kind = (uint16_t)(stage_random(stage) % NODE_MESSAGE_KINDS);
	len_bytes = node_message_bytes(message->head.kind);
	if (message->head.kind == NODE_ACTIVITY)
		message->activity.count %= NODE_KEYS_MAX + 2;
	if (message->head.kind == NODE_LIST)
		message->list.count %= NODE_KEYS_MAX + 2;
	/* Often in its own name, else it gets no further than that check. */
	if (stage_random(stage) % 4 != 0)
		message->slab.owner = 2;
	if (message->head.kind == NODE_CLAIM && stage_random(stage) % 4 != 0)
		message->claim.owner = 2;
	/* Whoever holds the cluster's key may claim any volume: not the witness's in this test. */
	if (message->slab.slab.volume == VOLUME && message->slab.owner_epoch > 1)
		message->slab.owner_epoch = 1;
	if (message->head.kind == NODE_CLAIM && message->claim.volume == VOLUME)
		message->claim.owner_epoch = 0;
	return len_bytes ? len_bytes : 16;
}

static void random_messages_harm_nobody_else(void **state)
{
	struct stage *stage = *state;
	struct witness witness = call_witness(stage);
	struct client *attacker = client_open(stage, 2);

	for (unsigned run = 0; run < 2000; run++) {
		struct node_message message;
		uint32_t len_bytes = invent(stage, &witness, &message);

		if (attacker->down) {
			client_close(attacker);
			attacker = client_open(stage, 2);
		}
		attacker->inbox_count = 0;
		(void)fabric_send(attacker->peer, &message, len_bytes);
		fabric_flush(attacker->fabric);
		stage_pump(stage);
		if (run % 64 == 0)
			question(&witness);
	}
	question(&witness);
	client_close(attacker);
	stage_pass(stage, 31 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	question(&witness);
}

static void more_volumes_than_the_node_remembers_harm_nobody_else(void **state)
{
	struct stage *stage = *state;
	struct witness witness = call_witness(stage);
	struct client *greedy = client_open(stage, 2);

	for (uint64_t volume = 1; volume <= 5000; volume++) {
		struct node_message message = {
			.claim = {.volume = VOLUME + volume, .owner = 2, .owner_epoch = 1},
		};

		/* Most are not waited for, which would take most of the time. */
		if (volume % 64 != 0) {
			client_say(greedy, &message, NODE_CLAIM);
			continue;
		}
		assert_int_equal(client_claim(greedy, VOLUME + volume, 1, NULL), 0);
		greedy->inbox_count = 0;
	}
	question(&witness);
}

/* A peer that asks and never takes an answer is cut off before its answers take all memory. */
static void who_takes_no_answers_is_cut_off(void **state)
{
	struct stage *stage = *state;
	struct witness witness = call_witness(stage);
	struct client *deaf = client_open(stage, 2);
	struct node_message message = {
		.head =
			{
				.magic = NODE_PROTOCOL_MAGIC,
				.version = NODE_PROTOCOL_VERSION,
				.kind = NODE_LIST,
			},
	};

	for (unsigned i = 0; i < 100000 && stage_stats(stage).bad_messages == 0; i++) {
		(void)fabric_send(deaf->peer, &message, node_message_bytes(NODE_LIST));
		fabric_flush(deaf->fabric);
		node_poll(stage->node);
	}
	assert_int_equal(stage_stats(stage).bad_messages, 1);
	fabric_close(deaf->fabric);
	deaf->fabric = NULL;
	question(&witness);
}

/* ---- death ---- */

struct child {
	pid_t pid;
	int to_child, from_child;
};

/* In the child: allocates, fills and frees for ever, until it is killed. */
static void live(int from_parent, int to_parent, uint64_t id)
{
	struct stage stage = {0};
	struct client *client;
	char byte = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(from_parent, stage.address, sizeof(stage.address)) != sizeof(stage.address))
		_exit(1);
	client = client_open(&stage, id);
	for (uint32_t piece = 0;; piece++) {
		struct node_slab_name slab = client_slab(client, VOLUME + id, piece);
		struct fabric_window *window = client_window(client, &slab);

		if (client_fill(client, window, (unsigned char)id) != 0)
			_exit(2);
		if (piece == 0 && write(to_parent, &byte, 1) != 1)
			_exit(3);
		/* One is kept, so that there is something to inherit. */
		if (piece > 0 && client_free(client, &slab, 1) != 0)
			_exit(4);
		fabric_window_close(window);
	}
}

/* Before the parent opens any socket, which the child would keep open. */
static struct child bear(uint64_t id)
{
	struct child child;
	int down[2];
	int up[2];

	assert_int_equal(pipe(down), 0);
	assert_int_equal(pipe(up), 0);
	child.pid = fork();
	assert_true(child.pid >= 0);
	if (child.pid == 0) {
		close(down[1]);
		close(up[0]);
		live(down[0], up[1], id);
	}
	close(down[0]);
	close(up[1]);
	child.to_child = down[1];
	child.from_child = up[0];
	return child;
}

static void bury(const struct child *child)
{
	int status;

	assert_int_equal(kill(child->pid, SIGKILL), 0);
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	/* It did not end by itself before. */
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	close(child->to_child);
	close(child->from_child);
}

/* Pumps until the node has allocated so many slabs more. */
static void pump_allocations(struct stage *stage, uint64_t more)
{
	uint64_t wanted = stage_stats(stage).allocations + more;
	int64_t end_ns = env_now_ns(env_real()) + STAGE_PATIENCE_NS;

	while (stage_stats(stage).allocations < wanted) {
		stage_pump(stage);
		assert_true(env_now_ns(env_real()) < end_ns);
	}
}

static void clients_killed_at_any_moment_leave_what_they_had_and_no_more(void **state)
{
	/* The stage of begin() has sockets: another is made after the children were born. */
	struct stage *stage = *state;
	const char *scheme = strcmp(stage->scheme, "shm") == 0 ? "shm" : "tcp";
	struct child children[CHILDREN];
	struct witness witness;

	stage_end(stage);
	for (unsigned i = 0; i < CHILDREN; i++)
		children[i] = bear(10 + i);
	stage_begin(stage, scheme, SLABS, NULL);
	witness = call_witness(stage);
	for (unsigned i = 0; i < CHILDREN; i++)
		assert_int_equal(
			write(children[i].to_child, stage->address, sizeof(stage->address)),
			sizeof(stage->address));
	for (unsigned i = 0; i < CHILDREN; i++) {
		pump_allocations(stage, 10 + stage_random(stage) % 50);
		bury(&children[i]);
		question(&witness);
	}

	/* Each left the slab that it kept, if it got so far, and at most one more. */
	struct fabric_stats stats;

	do {
		stage_pump(stage);
		fabric_stats(stage->fabric, &stats);
	} while (stats.peers_down < CHILDREN);
	assert_in_range(stage_stats(stage).slabs_mapped, 2, 1 + 2 * CHILDREN);
	stage_pass(stage, 31 * NS_PER_S);
	assert_int_equal(stage_stats(stage).slabs_mapped, 1);
	question(&witness);
}

int main(void)
{
#define OVER(transport, test)                                                           \
	{                                                                               \
		.name = transport ": " #test, .test_func = (test), .setup_func = begin, \
		.teardown_func = end, .initial_state = (void *)(uintptr_t)(transport),  \
	}
#define OVER_EACH(test) OVER("shm", test), OVER("tcp", test)
	static const struct CMUnitTest tests[] = {
		OVER_EACH(bad_form_ends_the_connection_and_nothing_else),
		OVER_EACH(a_condemned_peer_is_not_heard_any_more),
		OVER_EACH(random_messages_harm_nobody_else),
		OVER_EACH(more_volumes_than_the_node_remembers_harm_nobody_else),
		OVER_EACH(who_takes_no_answers_is_cut_off),
		OVER_EACH(clients_killed_at_any_moment_leave_what_they_had_and_no_more),
	};

	stage_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
