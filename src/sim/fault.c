/*
 * fault.c: what goes wrong, and when
 *
 *   All faults of a run are planned at its start, as events. One whose time has come looks first
 *   whether it may happen now: in a careful run a node fault waits until the pool has recovered
 *   from the last one. What a fault allows (sim.h, "risky") is noted when it begins.
 */
#include "base/base.h"
#include "base/env.h"
#include "node/node.h"
#include "sim/sim.h"

#include <errno.h>
#include <stdlib.h>

/* After a node fault: until the pool has noticed it and made new copies. */
#define RECOVERY_NS      (8 * NS_PER_S)
#define CRASH_ACTS_MAX   40u
#define CRASH_AT_LAST_NS (100 * NS_PER_MS)
#define ROTS             20u

/* An owner that hears of nobody for so long may give up last copies. */
#define OWNER_CUT_RISKY_NS (2 * NS_PER_S)

struct sim_fault {
	struct sim_run *run;
	enum sim_fault_kind kind;
	bool begun, over;
	uint32_t donor, owner;
	bool ways[2]; /* FAULT_CUT: from the donor, to the donor */
	int64_t length_ns;
	struct world_event event; /* its beginning, then its end */
	struct world_event
		second; /* a crash at the latest; the donors are back, the store is not */
};

static bool is_node_fault(enum sim_fault_kind kind)
{
	return kind == FAULT_DONOR_CRASH || kind == FAULT_DONOR_PAUSE || kind == FAULT_CUT;
}

static int64_t now(const struct sim_fault *fault)
{
	return world_now_ns(fault->run->world);
}

static uint64_t below(const struct sim_fault *fault, uint64_t bound)
{
	return world_random_below(fault->run->world, bound);
}

static void again_in(struct sim_fault *fault, int64_t ns)
{
	world_schedule(fault->run->world, &fault->event, now(fault) + ns);
}

static void make_risky(struct sim_run *run, uint32_t replicas_max, const struct sim_owner *owner)
{
	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[i];

		if (what->replicas <= replicas_max && (!owner || what->owner == owner->index))
			what->risky = true;
	}
}

/* A node is in trouble: one copy of anything may be lost, or two if one was lost before. */
static void node_trouble_begins(struct sim_run *run)
{
	bool alone = run->node_faults == 0 && world_now_ns(run->world) >= run->node_settled_ns;

	run->node_faults++;
	run->node_faulted = true;
	if (!alone)
		run->overlapped = true;
	make_risky(run, alone ? 1 : 3, NULL);
}

static void node_trouble_ends(struct sim_run *run)
{
	run->node_faults--;
	run->node_settled_ns = world_now_ns(run->world) + RECOVERY_NS;
}

/* ---- what happens to donors ---- */

static void cut(const struct sim_fault *fault, bool cut)
{
	uint32_t donor = fault->run->donor[fault->donor].machine;
	uint32_t owner = fault->run->owner[fault->owner].machine;

	if (fault->ways[0])
		sim_net_cut(fault->run->net, donor, owner, cut);
	if (fault->ways[1])
		sim_net_cut(fault->run->net, owner, donor, cut);
}

static void cut_owner(const struct sim_fault *fault, bool cut)
{
	uint32_t owner = fault->run->owner[fault->owner].machine;

	for (uint32_t i = 0; i < fault->run->plan.donors; i++) {
		sim_net_cut(fault->run->net, fault->run->donor[i].machine, owner, cut);
		sim_net_cut(fault->run->net, owner, fault->run->donor[i].machine, cut);
	}
}

/* At once, or in the middle of something. */
static void crash(struct sim_fault *fault, uint32_t machine)
{
	struct world *world = fault->run->world;

	if (below(fault, 3) == 0) {
		world_crash(world, machine);
		return;
	}
	world_crash_within(world, machine, 1 + (uint32_t)below(fault, CRASH_ACTS_MAX));
	world_schedule(world, &fault->second, now(fault) + CRASH_AT_LAST_NS);
}

static void run_second(struct world_event *event)
{
	struct sim_fault *fault = event->context;
	struct sim_run *run = fault->run;

	if (fault->kind == FAULT_OWNER_ALONE)
		cut_owner(fault, false);
	else if (fault->kind == FAULT_DONOR_CRASH)
		world_crash(run->world, run->donor[fault->donor].machine);
	else
		world_crash(run->world, run->owner[fault->owner].machine);
}

static bool begin_donor(struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	struct sim_donor *donor = &run->donor[fault->donor];

	if (!donor->up)
		return false;
	switch (fault->kind) {
	case FAULT_DONOR_CRASH:
		crash(fault, donor->machine);
		break;
	case FAULT_DONOR_PAUSE:
		world_pause(run->world, donor->machine, now(fault) + fault->length_ns);
		break;
	case FAULT_DONOR_SLOW:
		world_slow(run->world, donor->machine, NS_PER_MS);
		sim_net_slow(run->net, donor->machine, 5 * NS_PER_MS);
		break;
	case FAULT_CUT:
		cut(fault, true);
		break;
	case FAULT_EVICT:
		donor_set_pressure(donor, 1 + (uint32_t)below(fault, 4));
		break;
	case FAULT_SHRINK:
		node_set_capacity(donor->node, donor_used_bytes(donor) / (1 + below(fault, 3)));
		break;
	case FAULT_NO_MEMORY:
		donor->refuse_per_million = 1 + (uint32_t)below(fault, 1000000);
		break;
	default:
		make_risky(run, 1, NULL);
		for (unsigned i = 0; i < ROTS; i++)
			donor_rot(donor);
		break;
	}
	world_wake(run->world, donor->machine);
	return true;
}

static void end_donor(struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	struct sim_donor *donor = &run->donor[fault->donor];

	switch (fault->kind) {
	case FAULT_DONOR_CRASH:
		world_cancel(run->world, &fault->second);
		world_crash(run->world, donor->machine);
		donor_boot(donor);
		break;
	case FAULT_DONOR_PAUSE:
		world_pause(run->world, donor->machine, 0);
		break;
	case FAULT_DONOR_SLOW:
		world_slow(run->world, donor->machine, 0);
		sim_net_slow(run->net, donor->machine, 0);
		break;
	case FAULT_CUT:
		cut(fault, false);
		break;
	case FAULT_EVICT:
		donor_set_pressure(donor, 0);
		break;
	case FAULT_SHRINK:
		if (donor->up)
			node_set_capacity(donor->node, (uint64_t)run->plan.slabs_each *
							       run->plan.slab_pages * PAGE_BYTES);
		break;
	default:
		donor->refuse_per_million = 0;
		break;
	}
	world_wake(run->world, donor->machine);
}

/* ---- what happens to owners ---- */

/* The volumes of one owner are another's from now on. */
static void hand_over_all(struct sim_run *run, uint32_t from)
{
	if (run->plan.owners == 1 || !run->plan.store)
		return;
	for (uint32_t i = 0; i < run->volumes; i++)
		if (run->volume[i].owner == from && !run->volume[i].gone)
			run->volume[i].owner = (from + 1) % run->plan.owners;
	owner_wake(&run->owner[(from + 1) % run->plan.owners]);
}

static void set_handles_risky(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < owner->handles; i++)
		owner->handle[i].risky = true;
}

static bool is_held_by_another(struct sim_run *run, const struct sim_handle *handle)
{
	for (uint32_t i = 0; i < run->plan.owners; i++) {
		struct sim_handle *other = owner_handle(&run->owner[i], handle->what);

		if (other && other != handle && other->ready && !other->failed)
			return true;
	}
	return false;
}

/*
 * What an owner that was alone gave up for lost is lost if it still has the volume; whoever took
 * it over had the donors all the time.
 */
static void keep_risk(struct sim_owner *owner)
{
	for (uint32_t i = 0; i < owner->handles; i++) {
		struct sim_handle *handle = &owner->handle[i];

		if (handle->volume && !handle->failed && !is_held_by_another(owner->run, handle))
			handle->what->risky = true;
	}
}

/* One volume of the owner, or NULL. */
static struct sim_volume *some_volume(const struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	uint32_t first = (uint32_t)below(fault, run->volumes);

	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[(first + i) % run->volumes];

		if (!what->gone && what->owner == fault->owner)
			return what;
	}
	return NULL;
}

static bool begin_owner(struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	struct sim_owner *owner = &run->owner[fault->owner];
	struct sim_volume *what = some_volume(fault);

	if (!owner->up)
		return false;
	switch (fault->kind) {
	case FAULT_OWNER_CRASH:
		crash(fault, owner->machine);
		if (below(fault, 2))
			hand_over_all(run, fault->owner);
		break;
	case FAULT_OWNER_PAUSE:
		world_pause(run->world, owner->machine, now(fault) + fault->length_ns);
		owner_excuse(owner, fault->length_ns);
		if (below(fault, 2))
			hand_over_all(run, fault->owner);
		break;
	case FAULT_OWNER_CUT:
		if (fault->length_ns > OWNER_CUT_RISKY_NS)
			make_risky(run, 3, owner);
		cut_owner(fault, true);
		owner_excuse(owner, fault->length_ns);
		break;
	case FAULT_OWNER_ALONE:
		set_handles_risky(owner);
		cut_owner(fault, true);
		world_schedule(run->world, &fault->second,
			       now(fault) + fault->length_ns / 4 +
				       (int64_t)below(fault, (uint64_t)fault->length_ns / 2 + 1));
		world_fail_files(run->world, owner->machine, -EIO);
		owner_excuse(owner, fault->length_ns);
		hand_over_all(run, fault->owner);
		break;
	case FAULT_STORE_FAILS:
		world_fail_files(run->world, owner->machine, below(fault, 2) ? -EIO : -ENOSPC);
		owner_excuse(owner, fault->length_ns);
		if (below(fault, 2))
			hand_over_all(run, fault->owner);
		break;
	case FAULT_HAND_OVER:
		if (what && run->plan.owners > 1)
			what->close_asked = true;
		break;
	default:
		if (what) {
			what->delete_asked = true;
			volume_add(run, fault->owner);
		}
		break;
	}
	owner_wake(owner);
	return true;
}

static void end_owner(struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	struct sim_owner *owner = &run->owner[fault->owner];

	switch (fault->kind) {
	case FAULT_OWNER_CRASH:
		world_cancel(run->world, &fault->second);
		world_crash(run->world, owner->machine);
		owner_boot(owner);
		break;
	case FAULT_OWNER_PAUSE:
		world_pause(run->world, owner->machine, 0);
		break;
	case FAULT_OWNER_CUT:
		cut_owner(fault, false);
		break;
	case FAULT_OWNER_ALONE:
		world_cancel(run->world, &fault->second);
		cut_owner(fault, false);
		world_fail_files(run->world, owner->machine, 0);
		keep_risk(owner);
		break;
	case FAULT_STORE_FAILS:
		world_fail_files(run->world, owner->machine, 0);
		break;
	default:
		break;
	}
	owner_wake(owner);
}

/* ---- when ---- */

static bool is_about_donor(enum sim_fault_kind kind)
{
	return kind <= FAULT_ROT;
}

/* Two faults of one machine would end each other. */
static bool is_taken(const struct sim_fault *fault)
{
	const struct sim_run *run = fault->run;

	for (uint32_t i = 0; i < run->plan.fault_count; i++) {
		const struct sim_fault *other = &run->faults[i];

		if (!other->begun || other->over)
			continue;
		if (is_about_donor(other->kind) == is_about_donor(fault->kind) &&
		    (is_about_donor(fault->kind) ? other->donor == fault->donor
						 : other->owner == fault->owner))
			return true;
		if (fault->kind == FAULT_CUT &&
		    (other->kind == FAULT_OWNER_CUT || other->kind == FAULT_OWNER_ALONE))
			return true;
	}
	return false;
}

static void begin(struct sim_fault *fault)
{
	struct sim_run *run = fault->run;
	bool is_node = is_node_fault(fault->kind);

	if (run->phase != PHASE_WORK)
		return;
	if (is_taken(fault) || (is_node && run->plan.careful &&
				(run->node_faults > 0 || now(fault) < run->node_settled_ns))) {
		again_in(fault, 100 * NS_PER_MS);
		return;
	}
	if (is_about_donor(fault->kind) ? !begin_donor(fault) : !begin_owner(fault))
		return;
	sim_tell(run, "fault %d begins: donor %u, owner %u, for %ld ms", fault->kind, fault->donor,
		 fault->owner, (long)(fault->length_ns / NS_PER_MS));
	if (is_node)
		node_trouble_begins(run);
	run->counts.faults++;
	fault->begun = true;
	again_in(fault, fault->length_ns);
}

static void end(struct sim_fault *fault)
{
	if (fault->over)
		return;
	sim_tell(fault->run, "fault %d ends", fault->kind);
	fault->over = true;
	if (is_about_donor(fault->kind))
		end_donor(fault);
	else
		end_owner(fault);
	if (is_node_fault(fault->kind))
		node_trouble_ends(fault->run);
}

static void run_event(struct world_event *event)
{
	struct sim_fault *fault = event->context;

	if (fault->begun)
		end(fault);
	else
		begin(fault);
}

static enum sim_fault_kind choose_kind(const struct sim_run *run)
{
	uint32_t kind;

	do
		kind = (uint32_t)world_random_below(run->world, FAULT_KINDS);
	while (!(run->plan.faults & 1u << kind));
	return (enum sim_fault_kind)kind;
}

void faults_plan(struct sim_run *run)
{
	const struct sim_plan *plan = &run->plan;
	int64_t work_ns = plan->run_ns;

	run->faults = calloc(plan->fault_count + 1, sizeof(*run->faults));
	if (!run->faults)
		abort();
	for (uint32_t i = 0; i < plan->fault_count; i++) {
		struct sim_fault *fault = &run->faults[i];

		fault->run = run;
		fault->kind = choose_kind(run);
		/* Rot has one home. */
		fault->donor = fault->kind == FAULT_ROT
				       ? 0
				       : (uint32_t)world_random_below(run->world, plan->donors);
		fault->owner = (uint32_t)world_random_below(run->world, plan->owners);
		fault->ways[0] = below(fault, 3) != 0;
		fault->ways[1] = !fault->ways[0] || below(fault, 2);
		fault->length_ns =
			(int64_t)below(fault, (uint64_t)(below(fault, 2) ? 4 : 1) * NS_PER_S) + 1;
		/* At times it is long enough to be taken for death. */
		if (fault->kind >= FAULT_OWNER_CRASH && below(fault, 3) == 0)
			fault->length_ns += 4 * NS_PER_S;
		fault->event.run = run_event;
		fault->event.context = fault;
		fault->second.run = run_second;
		fault->second.context = fault;
		world_schedule(run->world, &fault->event, (int64_t)below(fault, (uint64_t)work_ns));
	}
}

void faults_heal(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->plan.fault_count; i++) {
		struct sim_fault *fault = &run->faults[i];

		world_cancel(run->world, &fault->event);
		if (fault->begun)
			end(fault);
	}
}

void faults_free(struct sim_run *run)
{
	for (uint32_t i = 0; run->faults && i < run->plan.fault_count; i++) {
		world_cancel(run->world, &run->faults[i].event);
		world_cancel(run->world, &run->faults[i].second);
	}
	free(run->faults);
	run->faults = NULL;
}
