/*
 * owner.c: a machine that runs a pool, and what it does with its volumes
 *
 *   All that happens here happens in the owner's poll, as in a real program: what others ask of
 *   it (open, close, delete) stands in the volume until then.
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "pool/pool.h"
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_RETRY_NS (200 * NS_PER_MS)
#define BURST_MAX     12u
#define DISCARD_MAX   6u
#define EVENTS_MAX    32u
#define READ_WINDOW   8u /* of one volume, when all is read back */

static struct world *world_of(const struct sim_owner *owner)
{
	return owner->run->world;
}

static struct env *env_of(const struct sim_owner *owner)
{
	return world_env(owner->run->world, owner->machine);
}

struct sim_handle *owner_handle(struct sim_owner *owner, const struct sim_volume *what)
{
	for (uint32_t i = 0; i < owner->handles; i++)
		if (owner->handle[i].volume && owner->handle[i].what == what)
			return &owner->handle[i];
	return NULL;
}

void owner_wake(struct sim_owner *owner)
{
	owner->asked = true;
	world_wake(owner->run->world, owner->machine);
}

void owner_excuse(struct sim_owner *owner, int64_t ns)
{
	for (uint32_t i = 0; i < SIM_OPS_MAX; i++)
		if (owner->op[i].busy)
			owner->op[i].deadline_ns += ns;
}

/* ---- opening and closing ---- */

static struct sim_handle *free_handle(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < owner->handles; i++)
		if (!owner->handle[i].volume)
			return &owner->handle[i];
	return owner->handles < SIM_VOLUMES_MAX ? &owner->handle[owner->handles++] : NULL;
}

static void take_over_pages(struct sim_volume *what)
{
	for (uint32_t i = 0; i < what->pages; i++)
		oracle_take_over(&what->page[i]);
}

static void open_volume(struct sim_owner *owner, struct sim_volume *what)
{
	struct volume_options options = {
		.size_bytes = (uint64_t)what->pages * POOL_PAGE_BYTES,
		.replicas = what->replicas,
		.takeover = what->made || what->prefer_takeover,
	};
	struct sim_handle *handle = free_handle(owner);
	struct volume *volume;
	int err;

	if (!handle)
		return;
	snprintf(options.name, sizeof(options.name), "%s", what->name);
	err = volume_open(owner->pool, &options, &volume);
	sim_tell(owner->run, "owner %u %s %s: %d", owner->index,
		 options.takeover ? "takes over" : "makes", what->name, err);
	if (err) {
		what->prefer_takeover = !what->prefer_takeover && owner->run->plan.store;
		return;
	}
	*handle = (struct sim_handle){
		.what = what,
		.volume = volume,
		.incarnation = ++what->incarnation,
		.is_new = !options.takeover,
	};
	volume_set_context(volume, handle);
	take_over_pages(what);
}

static void close_handle(struct sim_owner *owner, struct sim_handle *handle, bool delete)
{
	struct volume *volume = handle->volume;

	sim_tell(owner->run, "owner %u %s %s", owner->index, delete ? "deletes" : "closes",
		 handle->what->name);
	if (delete || !owner->run->plan.store)
		handle->what->gone = true;
	owner->deposed |= !delete;
	handle->what->close_asked = false;
	handle->what->delete_asked = false;
	/* Operations still to be told refer to the handle: it stays in use until they were. */
	handle->failed = true;
	if (delete)
		volume_delete(volume);
	else
		volume_close(volume);
}

/* Whether the owner has operations on the handle that have not ended. */
static bool is_in_use(const struct sim_owner *owner, const struct sim_handle *handle)
{
	for (uint32_t i = 0; i < SIM_OPS_MAX; i++)
		if (owner->op[i].busy && owner->op[i].handle == handle)
			return true;
	return false;
}

static void do_what_is_asked(struct sim_owner *owner)
{
	struct sim_run *run = owner->run;

	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[i];
		struct sim_handle *handle = owner_handle(owner, what);

		if (handle && handle->incarnation == what->holder && !handle->failed &&
		    what->owner == owner->index && (what->delete_asked || what->close_asked)) {
			bool delete = what->delete_asked;

			/* The next owner is told when this one has let go. */
			if (!delete)
				what->owner = (owner->index + 1) % run->plan.owners;
			close_handle(owner, handle, delete);
			owner_wake(&run->owner[what->owner]);
		} else if (!handle && what->owner == owner->index && !what->gone) {
			if (what->delete_asked && !what->made)
				what->gone = true;
			else
				open_volume(owner, what);
		}
	}
}

void volume_add(struct sim_run *run, uint32_t owner)
{
	struct sim_volume *what = &run->volume[run->volumes];
	const struct sim_plan *plan = &run->plan;

	if (run->volumes == SIM_VOLUMES_MAX)
		return;
	*what = (struct sim_volume){.index = run->volumes, .owner = owner};
	snprintf(what->name, sizeof(what->name), "v%u", what->index);
	what->replicas = (uint32_t)min_u64(1 + world_random_below(run->world, 3), plan->donors);
	what->pages = 1 + (uint32_t)world_random_below(run->world, plan->volume_pages_max);
	what->page = calloc(what->pages, sizeof(*what->page));
	if (!what->page)
		abort();
	run->volumes++;
}

/* ---- operations ---- */

static struct sim_op *free_op(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < SIM_OPS_MAX; i++)
		if (!owner->op[i].busy)
			return &owner->op[i];
	return NULL;
}

static bool submit(struct sim_owner *owner, struct sim_handle *handle, uint64_t page, bool write)
{
	struct sim_volume *what = handle->what;
	struct oracle_page *state = &what->page[page];
	struct sim_op *op = free_op(owner);
	struct volume_io io = {.op = write ? VOLUME_WRITE : VOLUME_READ, .page = page};

	if (!op)
		return false;
	op->busy = true;
	op->is_write = write;
	op->handle = handle;
	op->page = page;
	op->low = oracle_low(state, handle->incarnation);
	op->high = write ? oracle_write(state) : state->next;
	op->serial = ++owner->next_serial;
	op->deadline_ns = world_now_ns(world_of(owner)) + SIM_HANG_NS;
	if (write)
		oracle_fill(what->index, page, op->high, op->buf);
	else
		memset(op->buf, 0xee, POOL_PAGE_BYTES);
	sim_tell(owner->run, "owner %u %s page %lu begins: %s %u to %u", owner->index, what->name,
		 (unsigned long)page, write ? "write" : "read", op->low, op->high);
	io.buf = op->buf;
	io.token = (uint64_t)op->serial << 16 | (uint64_t)(op - owner->op);
	owner->busy++;
	if (volume_submit(handle->volume, &io, 1) != 1) {
		sim_violation(owner->run, "%s takes no operation beside %u others", what->name,
			      owner->busy - 1);
		return false;
	}
	return true;
}

static void discard(struct sim_owner *owner, struct sim_handle *handle, uint64_t page)
{
	struct world *world = world_of(owner);
	struct sim_volume *what = handle->what;
	uint64_t n = 1 + world_random_below(world, DISCARD_MAX);

	/* At times a whole piece and more, so that slabs go back. */
	if (world_random_below(world, 4) == 0)
		n = owner->run->plan.slab_pages * 2;
	n = min_u64(n, what->pages - page);
	for (uint64_t i = page; i < page + n; i++)
		if (!oracle_has_room(&what->page[i]))
			return;
	for (uint64_t i = page; i < page + n; i++)
		oracle_discard(&what->page[i], handle->incarnation);
	owner->run->counts.discards++;
	sim_tell(owner->run, "owner %u %s pages %lu to %lu are discarded", owner->index, what->name,
		 (unsigned long)page, (unsigned long)(page + n - 1));
	volume_discard(handle->volume, page, n);
}

/* An error has to be one that the story so far explains. */
static bool is_explained(const struct sim_owner *owner, const struct sim_op *op, int status)
{
	const struct sim_run *run = owner->run;
	const struct sim_volume *what = op->handle->what;

	if (op->handle->failed || op->handle->risky)
		return true;
	if (what->risky || what->page[op->page].shaky)
		return true;
	/* Lost to another owner; VOLUME_FAILED is on its way. */
	if (status == AFAR_ELEASE && what->incarnation != op->handle->incarnation)
		return true;
	if (!op->is_write)
		return false;
	return run->plan.scarce || run->node_faulted;
}

static void judge_read(struct sim_owner *owner, const struct sim_op *op)
{
	struct sim_volume *what = op->handle->what;
	struct oracle_page *state = &what->page[op->page];
	const uint32_t bounds[2] = {op->low, op->high};
	bool shaky = state->shaky;

	switch (oracle_judge(state, what->index, op->page, bounds, op->buf)) {
	case ORACLE_GOOD:
		return;
	case ORACLE_TORN:
		/* One copy was left of what its owner wrote when it died: it may be in pieces. */
		owner->run->counts.torn++;
		if (shaky && (what->replicas == 1 || owner->run->node_faulted))
			return;
		sim_violation(owner->run, "%s page %lu: a mixture of writes %u to %u was read",
			      what->name, (unsigned long)op->page, op->low, op->high);
		return;
	case ORACLE_OLD:
		sim_violation(owner->run,
			      "%s page %lu: an old page was read, from before write %u of %u",
			      what->name, (unsigned long)op->page, op->low, state->next);
		return;
	case ORACLE_ZERO:
		sim_violation(owner->run, "%s page %lu: zeros were read where writes %u to %u were",
			      what->name, (unsigned long)op->page, op->low, op->high);
		return;
	case ORACLE_FOREIGN:
		sim_violation(owner->run,
			      "%s page %lu: bytes were read that nobody wrote there (%u to %u): "
			      "%02x %02x … %02x",
			      what->name, (unsigned long)op->page, op->low, op->high, op->buf[0],
			      op->buf[1], op->buf[POOL_PAGE_BYTES - 1]);
		return;
	}
}

/* A write that was acknowledged is the least that reads behind it may return. */
static void acknowledge(struct sim_run *run, const struct sim_op *write)
{
	const struct sim_volume *what = write->handle->what;

	oracle_acknowledge(&what->page[write->page], write->high);
	for (uint32_t i = 0; i < run->plan.owners; i++) {
		for (uint32_t k = 0; k < SIM_OPS_MAX; k++) {
			struct sim_op *op = &run->owner[i].op[k];

			if (op->busy && !op->is_write && op->handle->what == what &&
			    op->page == write->page && op->high >= write->high &&
			    op->low < write->high)
				op->low = write->high;
		}
	}
}

static void op_done(struct sim_owner *owner, uint64_t token, int status)
{
	struct sim_run *run = owner->run;
	uint64_t index = token & 0xffff;
	struct sim_op *op = index < SIM_OPS_MAX ? &owner->op[index] : NULL;

	if (!op || !op->busy || op->serial != token >> 16) {
		sim_violation(run, "an operation ended that was not running: token %lx",
			      (unsigned long)token);
		return;
	}
	sim_tell(run, "owner %u %s page %lu ended: %s %u to %u: %d", owner->index,
		 op->handle->what->name, (unsigned long)op->page, op->is_write ? "write" : "read",
		 op->low, op->high, status);
	op->busy = false;
	owner->busy--;
	if (op->is_write)
		run->counts.writes++;
	else
		run->counts.reads++;
	if (status == 0 && op->is_write) {
		acknowledge(run, op);
	} else if (status == 0) {
		judge_read(owner, op);
	} else if (is_explained(owner, op, status)) {
		run->counts.lost++;
	} else {
		sim_violation(run, "%s page %lu: %s failed (%s), and nothing explains it",
			      op->handle->what->name, (unsigned long)op->page,
			      op->is_write ? "a write" : "a read", afar_strerror(status));
	}
}

/* ---- the work ---- */

static void work_on(struct sim_owner *owner, struct sim_handle *handle)
{
	struct world *world = world_of(owner);
	struct sim_volume *what = handle->what;
	uint64_t burst = 1 + world_random_below(world, BURST_MAX);
	uint64_t page = world_random_below(world, what->pages);

	for (uint64_t i = 0; i < burst; i++) {
		uint64_t dice = world_random_below(world, 100);

		/* A run of pages, the same page again, or anywhere. */
		if (dice % 3 == 0)
			page = (page + 1) % what->pages;
		else if (dice % 3 == 1)
			page = world_random_below(world, what->pages);
		dice = world_random_below(world, 100);
		if (dice < 4 && handle->incarnation == what->holder)
			discard(owner, handle, page);
		else if (dice < 50 || !oracle_has_room(&what->page[page]))
			submit(owner, handle, page, false);
		else
			submit(owner, handle, page, true);
	}
}

/*
 * Operations may be submitted before the volume is ready, and wait. But before a takeover is ready
 * the last owner may still write, and the order of versions would not be that of effects.
 */
static bool may_work(const struct sim_handle *handle)
{
	return handle->volume && !handle->failed && (handle->ready || handle->is_new);
}

static void work(struct sim_owner *owner)
{
	struct world *world = world_of(owner);
	uint64_t gap_ns = (uint64_t)owner->run->plan.work_gap_ns;
	uint32_t first;

	owner->work_due_ns =
		env_now_ns(env_of(owner)) + 1 + (int64_t)world_random_below(world, 2 * gap_ns);
	if (owner->handles == 0)
		return;
	first = (uint32_t)world_random_below(world, owner->handles);
	for (uint32_t i = 0; i < owner->handles; i++) {
		struct sim_handle *handle = &owner->handle[(first + i) % owner->handles];

		if (may_work(handle)) {
			work_on(owner, handle);
			return;
		}
	}
}

static void read_back(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < owner->handles; i++) {
		struct sim_handle *handle = &owner->handle[i];

		if (!handle->volume || handle->failed)
			continue;
		for (uint32_t k = 0; k < READ_WINDOW && handle->next_read < handle->what->pages &&
				     submit(owner, handle, handle->next_read, false);
		     k++)
			handle->next_read++;
	}
}

static void work_of_phase(struct sim_owner *owner)
{
	int64_t now_ns = env_now_ns(env_of(owner));

	if (owner->asked || now_ns >= owner->open_due_ns) {
		owner->asked = false;
		owner->open_due_ns = now_ns + OPEN_RETRY_NS;
		do_what_is_asked(owner);
	}
	if (owner->run->phase == PHASE_WORK && now_ns >= owner->work_due_ns)
		work(owner);
	if (owner->run->phase == PHASE_READ_BACK && owner->busy < SIM_OPS_MAX / 2)
		read_back(owner);
}

/* ---- the program ---- */

static void handle_event(struct sim_owner *owner, const struct pool_event *event)
{
	struct sim_handle *handle;

	if (event->kind == VOLUME_DONE) {
		op_done(owner, event->token, event->status);
		return;
	}
	handle = volume_context(event->volume);
	if (event->kind == VOLUME_READY) {
		sim_tell(owner->run, "owner %u has %s, volume %lu", owner->index,
			 handle->what->name, (unsigned long)volume_id(event->volume));
		handle->ready = true;
		handle->what->holder = handle->incarnation;
		owner->run->counts.takeovers += handle->what->made;
		handle->what->made = true;
		take_over_pages(handle->what);
		/* Its last owner could not delete it: the store was away. */
		if (handle->what->gone)
			close_handle(owner, handle, true);
	} else if (event->kind == VOLUME_FAILED) {
		sim_tell(owner->run, "owner %u lost %s: %s", owner->index, handle->what->name,
			 afar_strerror(event->status));
		handle->failed = true;
		owner->deposed |= event->status == AFAR_ELEASE;
		handle->what->prefer_takeover = !handle->what->prefer_takeover;
		volume_close(event->volume);
	}
}

/* A handle is free when its volume is closed and its last operation was told. */
static void tidy_handles(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < owner->handles; i++) {
		struct sim_handle *handle = &owner->handle[i];

		if (handle->volume && handle->failed && !is_in_use(owner, handle))
			handle->volume = NULL;
	}
}

static void check_hangs(struct sim_owner *owner)
{
	int64_t now_ns = world_now_ns(world_of(owner));

	for (uint32_t i = 0; i < SIM_OPS_MAX; i++) {
		const struct sim_op *op = &owner->op[i];

		if (op->busy && op->deadline_ns < now_ns)
			sim_violation(owner->run, "%s page %lu: %s does not end",
				      op->handle->what->name, (unsigned long)op->page,
				      op->is_write ? "a write" : "a read");
	}
}

static unsigned owner_poll(void *context)
{
	struct sim_owner *owner = context;
	struct pool_event events[EVENTS_MAX];
	unsigned count;

	work_of_phase(owner);
	count = pool_poll(owner->pool, events, EVENTS_MAX);
	for (unsigned i = 0; i < count; i++)
		handle_event(owner, &events[i]);
	tidy_handles(owner);
	check_hangs(owner);
	return count;
}

static int64_t owner_deadline_ns(void *context)
{
	struct sim_owner *owner = context;
	int64_t deadline_ns =
		min_i64(pool_deadline_ns(owner->pool), fabric_deadline_ns(owner->fabric));

	deadline_ns = min_i64(deadline_ns, owner->open_due_ns);
	if (owner->run->phase == PHASE_WORK)
		deadline_ns = min_i64(deadline_ns, owner->work_due_ns);
	return deadline_ns;
}

static void owner_free(struct sim_owner *owner)
{
	if (owner->pool)
		pool_close(owner->pool);
	if (owner->cluster)
		cluster_close(owner->cluster);
	if (owner->fabric)
		fabric_close(owner->fabric);
	owner->pool = NULL;
	owner->cluster = NULL;
	owner->fabric = NULL;
	owner->up = false;
	for (uint32_t i = 0; i < owner->handles; i++)
		owner->handle[i].volume = NULL;
	for (uint32_t i = 0; i < SIM_OPS_MAX; i++)
		owner->op[i].busy = false;
	owner->handles = 0;
	owner->busy = 0;
}

static void owner_crashed(void *context)
{
	struct sim_owner *owner = context;
	struct sim_run *run = owner->run;

	sim_net_crash(run->net, owner->machine);
	owner_free(owner);
	if (run->plan.store)
		return;
	for (uint32_t i = 0; i < run->volumes; i++)
		if (run->volume[i].owner == owner->index)
			run->volume[i].gone = true;
}

static int open_all(struct sim_owner *owner)
{
	const struct sim_plan *plan = &owner->run->plan;
	const struct fabric_options fabric_options = {
		.id = 1 + owner->index,
		.peers_max = SIM_DONORS_MAX,
		.operations_max = 64,
		.send_bytes_max = 64u << 10,
		.silence_ns = plan->silence_ns,
		.heartbeat_ns = plan->silence_ns / 20,
		.log = owner->log,
		.net = owner->run->net,
		.machine = owner->machine,
	};
	const struct pool_options pool_options = {
		.owner = 1 + owner->index,
		.log = owner->log,
		.mutations = owner->run->options.pool_mutations,
		.rebuild_bytes_per_s = plan->rebuild_bytes_per_s,
	};
	int err = fabric_open(env_of(owner), &fabric_options, &owner->fabric);

	if (!err)
		err = cluster_open(env_of(owner), owner->run->uri, owner->log, &owner->cluster);
	if (!err)
		err = pool_open(env_of(owner), owner->fabric, owner->cluster, &pool_options,
				&owner->pool);
	return err;
}

void owner_boot(struct sim_owner *owner)
{
	const struct world_program program = {owner_poll, owner_deadline_ns, owner_crashed, owner};
	int err;

	world_boot(owner->run->world, owner->machine, &program);
	err = open_all(owner);
	if (err)
		sim_violation(owner->run, "owner %u does not boot: %s", owner->index,
			      afar_strerror(err));
	owner->up = true;
	owner->asked = true;
	owner->work_due_ns = env_now_ns(env_of(owner));
	owner->open_due_ns = owner->work_due_ns;
}

void owner_init(struct sim_run *run, uint32_t index)
{
	struct sim_owner *owner = &run->owner[index];

	*owner = (struct sim_owner){.run = run, .index = index};
	owner->machine = world_machine_add(run->world);
	owner->log = sim_log(run, owner->machine);
	owner->buffers = malloc((size_t)SIM_OPS_MAX * POOL_PAGE_BYTES);
	if (!owner->buffers)
		abort();
	for (uint32_t i = 0; i < SIM_OPS_MAX; i++)
		owner->op[i].buf = owner->buffers + (size_t)i * POOL_PAGE_BYTES;
}

void owner_end(struct sim_owner *owner)
{
	owner_free(owner);
	world_power_off(owner->run->world, owner->machine);
	free(owner->buffers);
	owner->buffers = NULL;
}
