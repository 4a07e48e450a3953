/*
 * sim_access.c: one-sided operations in the simulated network
 *
 *   The life of an operation is one event that is scheduled again at each step:
 *
 *     submit ─► unflushed ─flush─► TRAVELLING ──► effect ──► ANSWERING ──► DONE, freed
 *                                   │   ▲  │        │ ▲
 *                          cut, paused  │  └─► half an effect (torn): SECOND_HALF
 *                                   └───┘
 *
 *   A write's bytes are copied when it is submitted and a read's are copied out at DONE, so an
 *   operation needs nothing of its sender in between. When the sender hears FABRIC_DOWN, all its
 *   operations get their DONE (F1) but go on travelling without a peer: late.
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"
#include "fabric/sim_link.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* After this long both sides of a mapping know that it was withdrawn. */
#define NOTICE_NS NS_PER_MS

enum sim_phase { SIM_UNFLUSHED, SIM_TRAVELLING, SIM_SECOND_HALF, SIM_ANSWERING };

enum sim_crash_fate { SIM_FATE_NONE, SIM_FATE_TORN };

struct sim_op {
	struct list link;    /* of the transport's unflushed, or the net's operations */
	struct list of_peer; /* of the peer's operations, until DONE */
	struct world_event step;
	struct sim_link *on;
	struct sim_end *from;
	struct sim_peer *peer;     /* NULL: it had its DONE */
	struct sim_memory *memory; /* SIM_LIKE_SHM: what is mapped */
	enum sim_phase phase;
	enum sim_crash_fate fate;
	bool torn;
	int status;
	uint64_t key;
	uint32_t epoch;
	uint64_t pattern; /* torn: which cache lines come first */
	uint64_t old;     /* atomics: what was there */
	struct fabric_op op;
	unsigned char bytes[];
};

/* Memory */

static void memory_drop(struct sim_memory *memory)
{
	if (--memory->references > 0)
		return;
	if (memory->is_mapping)
		munmap(memory->bytes, memory->size_bytes);
	free(memory);
}

static struct sim_memory *memory_make(void *bytes, uint64_t size_bytes, int memfd)
{
	struct sim_memory *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return NULL;
	memory->references = 1;
	memory->size_bytes = size_bytes;
	memory->bytes = bytes;
	memory->is_mapping = memfd >= 0;
	if (memfd >= 0) {
		memory->bytes =
			mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
		if (memory->bytes == MAP_FAILED) {
			free(memory);
			return NULL;
		}
	}
	return memory;
}

static bool is_mapped(const struct sim_net *net)
{
	return net->options.kind == SIM_LIKE_SHM;
}

static struct sim_peer *sim_peer_of(struct fabric_peer *peer)
{
	return (struct sim_peer *)(void *)peer;
}

static struct sim_net *net_of(const struct sim_peer *peer)
{
	return peer->end->link->net;
}

static bool acts(struct sim_peer *peer)
{
	struct sim_transport *transport = (struct sim_transport *)(void *)peer->base.transport;

	return !transport->dead && world_act(transport->world, transport->machine);
}

int sim_export(struct fabric_peer *base, uint64_t key, uint32_t epoch, void *memory,
	       uint64_t size_bytes, int memfd)
{
	struct sim_peer *peer = sim_peer_of(base);
	struct sim_export *export;
	int err;

	if (!peer->end->open || !acts(peer))
		return AFAR_EPEER_DOWN;
	if (is_mapped(net_of(peer)) && memfd < 0)
		return -ENOTSUP;
	export = calloc(1, sizeof(*export));
	if (!export)
		return -ENOMEM;
	export->key = key;
	export->epoch = epoch;
	err = table_insert(&peer->end->exports, key, export);
	if (err == 0) {
		export->memory =
			memory_make(memory, size_bytes, is_mapped(net_of(peer)) ? memfd : -1);
		if (export->memory)
			return 0;
		table_remove(&peer->end->exports, key);
		err = -ENOMEM;
	}
	free(export);
	return err == -ENOSPC ? -EMFILE : err;
}

static void export_free(struct sim_export *export, int64_t now_ns)
{
	if (!export->memory->withdrawn)
		export->memory->withdrawn_ns = now_ns;
	export->memory->withdrawn = true;
	memory_drop(export->memory);
	free(export);
}

int sim_withdraw(struct fabric_peer *base, uint64_t key)
{
	struct sim_peer *peer = sim_peer_of(base);
	struct sim_net *net = net_of(peer);
	struct sim_export *export = table_remove(&peer->end->exports, key);

	if (!export)
		return -ENOENT;
	acts(peer);
	export_free(export, world_now_ns(net->world));
	return is_mapped(net) ? -EBUSY : 0;
}

void sim_end_release(struct sim_end *end)
{
	struct sim_export *export;
	uint32_t cursor = 0;
	uint64_t key;

	while ((export = table_next(&end->exports, &cursor, &key)) != NULL) {
		table_remove(&end->exports, key);
		export_free(export, world_now_ns(end->link->net->world));
		cursor = 0;
	}
}

int sim_import(struct fabric_peer *base, struct fabric_window *window)
{
	struct sim_peer *peer = sim_peer_of(base);
	const struct sim_export *export;

	if (!peer->end->open)
		return AFAR_EPEER_DOWN;
	if (!is_mapped(net_of(peer)))
		return 0;
	export = table_get(&sim_other_end(peer->end)->exports, window->key);
	if (!export || export->epoch != window->epoch)
		return -ENOENT;
	if (export->memory->size_bytes != window->size_bytes)
		return -EPROTO;
	export->memory->references++;
	window->transport_data = export->memory;
	return 0;
}

void sim_window_close(struct fabric_window *window)
{
	if (window->transport_data)
		memory_drop(window->transport_data);
}

/* Operations */

static void op_free(struct sim_op *op)
{
	struct sim_link *link = op->on;

	world_cancel(link->net->world, &op->step);
	list_remove(&op->link);
	list_remove(&op->of_peer);
	if (op->memory)
		memory_drop(op->memory);
	free(op);
	sim_link_drop(link);
}

/* Its DONE. A read's bytes reach their buffer now and no sooner. */
static void op_done(struct sim_op *op, int status)
{
	struct sim_peer *peer = op->peer;

	assert(peer); /* it is done once */
	op->peer = NULL;
	list_remove(&op->of_peer);
	if (status == 0 && op->op.kind == FABRIC_OP_READ)
		memcpy(op->op.buf, op->bytes, op->op.len_bytes);
	else if (status == 0 && op->op.kind != FABRIC_OP_WRITE && op->op.previous)
		*op->op.previous = op->old;
	world_trace(net_of(peer)->world, op->op.token << 16 ^ (uint64_t)(int64_t)status);
	fabric_op_done(&peer->base, op->op.token, status);
	world_wake(net_of(peer)->world, peer->end->machine);
}

static struct sim_end *owner_end(const struct sim_op *op)
{
	return sim_other_end(op->from);
}

/* Copies the lines of this half: of a whole operation all, of a torn one those of the pattern. */
static void copy_lines(struct sim_op *op, unsigned char *memory, bool second_half)
{
	uint32_t len_bytes = op->op.len_bytes;
	bool is_write = op->op.kind == FABRIC_OP_WRITE;

	for (uint32_t at = 0; at < len_bytes;) {
		uint64_t address = op->op.offset + at;
		uint32_t step = (uint32_t)min_u64(SIM_LINE_BYTES - address % SIM_LINE_BYTES,
						  len_bytes - at);
		bool is_second = mix_u64(op->pattern + address / SIM_LINE_BYTES) % 2;

		if (!op->torn)
			step = len_bytes;
		if (!op->torn || is_second == second_half) {
			if (is_write)
				memcpy(memory + address, op->bytes + at, step);
			else
				memcpy(op->bytes + at, memory + address, step);
		}
		at += step;
	}
}

static void take_effect(struct sim_op *op, unsigned char *memory, bool second_half)
{
	uint64_t word;

	switch (op->op.kind) {
	case FABRIC_OP_READ:
	case FABRIC_OP_WRITE:
		copy_lines(op, memory, second_half);
		break;
	case FABRIC_OP_CAS:
		memcpy(&op->old, memory + op->op.offset, sizeof(op->old));
		if (op->old == op->op.operand[0])
			memcpy(memory + op->op.offset, &op->op.operand[1], sizeof(op->old));
		break;
	case FABRIC_OP_FAA:
		memcpy(&op->old, memory + op->op.offset, sizeof(op->old));
		word = op->old + op->op.operand[0];
		memcpy(memory + op->op.offset, &word, sizeof(word));
		break;
	}
}

/* The memory that the operation reaches, or NULL and why not. */
static unsigned char *reach(struct sim_op *op, int *status)
{
	struct sim_net *net = op->on->net;
	const struct sim_memory *memory = op->memory;

	*status = AFAR_EFENCED;
	if (is_mapped(net)) {
		if (!memory->withdrawn)
			return memory->bytes;
		if (op->peer && memory->withdrawn_ns + NOTICE_NS < world_now_ns(net->world))
			return NULL;
		net->stats.into_old++;
		return memory->bytes;
	}

	const struct sim_export *export = table_get(&owner_end(op)->exports, op->key);

	if (!export || export->epoch != op->epoch)
		return NULL;
	if (op->op.offset > export->memory->size_bytes ||
	    op->op.len_bytes > export->memory->size_bytes - op->op.offset) {
		*status = -ERANGE;
		return NULL;
	}
	return export->memory->bytes;
}

/*
 * When the operation can go on: now, later (what is in its way may pass), or INT64_MAX: never.
 */
static int64_t passable_ns(struct sim_op *op)
{
	struct sim_net *net = op->on->net;
	struct sim_end *owner = owner_end(op);
	int64_t now_ns = world_now_ns(net->world);

	if (is_mapped(net))
		return op->fate == SIM_FATE_TORN
			       ? now_ns
			       : world_running_at_ns(net->world, op->from->machine);
	if (!owner->open)
		return INT64_MAX;
	if (sim_is_cut(net, op->from->machine, owner->machine))
		return now_ns + sim_resend_ns(net);
	if (net->options.kind == SIM_LIKE_TCP)
		return world_running_at_ns(net->world, owner->machine);
	return now_ns;
}

static void answer_at(struct sim_op *op, int status)
{
	struct sim_net *net = op->on->net;

	op->status = status;
	op->phase = SIM_ANSWERING;
	world_schedule(net->world, &op->step,
		       world_now_ns(net->world) +
			       sim_delay_ns(net, owner_end(op)->machine, op->from->machine));
}

/* An operation that can never get further: it is forgotten if it had its DONE, else waits for it.
 */
static void strand(struct sim_op *op)
{
	if (!op->peer)
		op_free(op);
}

static void run_effect(struct sim_op *op)
{
	struct sim_net *net = op->on->net;
	bool second_half = op->phase == SIM_SECOND_HALF;
	int status;
	unsigned char *memory = reach(op, &status);

	if (!memory) {
		net->stats.fenced += status == AFAR_EFENCED;
		if (!is_mapped(net) && owner_end(op)->peer) {
			struct fabric_stats *counters =
				fabric_counters(owner_end(op)->peer->base.fabric);

			counters->fenced += status == AFAR_EFENCED;
			counters->out_of_range += status == -ERANGE;
		}
		answer_at(op, status);
		return;
	}
	if (!second_half && !op->peer)
		net->stats.late++;
	take_effect(op, memory, second_half);
	if (op->fate == SIM_FATE_TORN) {
		net->stats.torn_by_crash++;
		op_free(op);
	} else if (op->torn && !second_half) {
		net->stats.torn++;
		op->phase = SIM_SECOND_HALF;
		world_schedule(net->world, &op->step,
			       world_now_ns(net->world) + sim_delay_ns(net, op->from->machine,
								       owner_end(op)->machine));
	} else {
		answer_at(op, 0);
	}
}

static void run_answer(struct sim_op *op)
{
	struct sim_net *net = op->on->net;

	if (!op->peer) {
		op_free(op);
	} else if (!is_mapped(net) && sim_is_cut(net, owner_end(op)->machine, op->from->machine)) {
		world_schedule(net->world, &op->step,
			       world_now_ns(net->world) + sim_resend_ns(net));
	} else {
		op_done(op, op->status);
		op_free(op);
	}
}

static void run_step(struct world_event *event)
{
	struct sim_op *op = event->context;
	struct world *world = op->on->net->world;
	int64_t at_ns;

	if (op->phase == SIM_ANSWERING) {
		run_answer(op);
		return;
	}
	at_ns = passable_ns(op);
	if (at_ns == INT64_MAX)
		strand(op);
	else if (at_ns > world_now_ns(world))
		world_schedule(world, &op->step, at_ns);
	else
		run_effect(op);
}

int sim_submit(const struct fabric_op *request)
{
	struct sim_peer *peer = sim_peer_of(request->window->peer);
	struct sim_transport *transport = (struct sim_transport *)(void *)peer->base.transport;
	bool has_bytes = request->kind == FABRIC_OP_READ || request->kind == FABRIC_OP_WRITE;
	struct sim_op *op;

	if (!peer->end->open || transport->dead)
		return AFAR_EPEER_DOWN;
	op = calloc(1, sizeof(*op) + (has_bytes ? request->len_bytes : 0));
	if (!op)
		return -ENOMEM;
	op->op = *request;
	op->op.window = NULL; /* it may be closed before the operation ends */
	if (!has_bytes)
		op->op.len_bytes = sizeof(uint64_t);
	op->key = request->window->key;
	op->epoch = request->window->epoch;
	op->memory = request->window->transport_data;
	if (op->memory)
		op->memory->references++;
	if (request->kind == FABRIC_OP_WRITE)
		memcpy(op->bytes, request->buf, request->len_bytes);
	op->on = peer->end->link;
	op->from = peer->end;
	op->peer = peer;
	op->step.run = run_step;
	op->step.context = op;
	sim_link_hold(op->on);
	list_push_last(&transport->unflushed, &op->link);
	list_push_last(&peer->operations, &op->of_peer);
	return 0;
}

void sim_launch_operations(struct sim_transport *transport)
{
	struct sim_net *net = transport->net;
	struct list *link;

	while ((link = list_pop_first(&transport->unflushed)) != NULL) {
		struct sim_op *op = container_of(link, struct sim_op, link);
		int64_t delay_ns = sim_delay_ns(net, op->from->machine, owner_end(op)->machine);

		list_push_last(&net->operations, &op->link);
		/* What a dead machine launches goes nowhere; its fabric will be closed. */
		if (!acts(op->peer))
			continue;
		net->stats.operations++;
		op->phase = SIM_TRAVELLING;
		op->pattern = world_random(net->world);
		op->torn = op->op.len_bytes > SIM_LINE_BYTES &&
			   world_chance(net->world, net->options.torn_per_million);
		if (!is_mapped(net) && world_chance(net->world, net->options.loss_per_million)) {
			delay_ns += sim_resend_ns(net);
			net->stats.resent++;
		}
		world_schedule(net->world, &op->step, world_now_ns(net->world) + delay_ns);
		if (!is_mapped(net) && world_chance(net->world, net->options.break_per_million))
			sim_link_break(op->on);
	}
}

void sim_operations_end(struct sim_peer *peer, int status)
{
	while (!list_is_empty(&peer->operations)) {
		struct sim_op *op = container_of(peer->operations.next, struct sim_op, of_peer);

		op_done(op, status);
		if (op->step.place == 0)
			op_free(op);
	}
}

/*
 * Of what a dying machine had sent, some is lost, some arrives whole, and some only in part. An
 * access through a mapping was a copy loop: it stops where it is.
 */
static void op_crash(struct sim_op *op)
{
	struct sim_net *net = op->on->net;
	uint64_t fate = world_random_below(net->world, 3);

	if (op->phase == SIM_ANSWERING || op->step.place == 0)
		return;
	if (op->phase == SIM_TRAVELLING && fate == 0 && op->op.kind == FABRIC_OP_WRITE &&
	    op->op.len_bytes > SIM_LINE_BYTES) {
		op->torn = true;
		op->fate = SIM_FATE_TORN;
	} else if (fate == 1 || is_mapped(net)) {
		world_cancel(net->world, &op->step);
	}
}

void sim_operations_crash(struct sim_net *net, uint32_t machine)
{
	list_each(link, &net->operations)
	{
		struct sim_op *op = container_of(link, struct sim_op, link);

		if (op->from->machine == machine)
			op_crash(op);
	}
}

void sim_operations_forget(struct sim_net *net)
{
	while (!list_is_empty(&net->operations))
		op_free(container_of(net->operations.next, struct sim_op, link));
}
