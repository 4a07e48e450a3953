/*
 * run.c: one seed, from its beginning to its verdict
 */
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "cluster/cluster.h"
#include "sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLICE_NS      (20 * NS_PER_MS)
#define SETTLE_NS_MAX (120 * NS_PER_S)
#define DONOR_DEAD_NS (200 * NS_PER_MS)
#define DELETE_NS     (3 * NS_PER_S)
#define GIVE_BACK_NS  (60 * NS_PER_S) /* beyond orphan_ns */

void sim_violation(struct sim_run *run, const char *format, ...)
{
	va_list arguments;

	if (run->violated)
		return;
	run->violated = true;
	va_start(arguments, format);
	vsnprintf(run->what, sizeof(run->what), format, arguments);
	va_end(arguments);
	sim_tell(run, "VIOLATION: %s", run->what);
}

void sim_tell(const struct sim_run *run, const char *format, ...)
{
	va_list arguments;

	if (!run->options.verbose)
		return;
	fprintf(stderr, "[%10.6f] ", (double)world_now_ns(run->world) / (double)NS_PER_S);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

struct log *sim_log(struct sim_run *run, uint32_t machine)
{
	const struct log_options options = {
		.fd = STDERR_FILENO,
		.level = LOG_LEVEL_DEBUG,
		.env = world_env(run->world, machine),
	};
	struct log *log = NULL;

	if (run->options.verbose && log_open(&log, &options) != 0)
		abort();
	return log;
}

/* ---- beginning and end ---- */

static void make_uri(struct sim_run *run)
{
	size_t len = 0;

	if (run->plan.store) {
		snprintf(run->uri, sizeof(run->uri), "dir:%s/cluster", WORLD_SHARED);
		return;
	}
	for (uint32_t i = 0; i < run->plan.donors; i++)
		len += (size_t)snprintf(run->uri + len, sizeof(run->uri) - len, "%ssim://%u",
					i ? "," : "", i + 1);
}

static void begin(struct sim_run *run)
{
	const struct sim_plan *plan = &run->plan;

	if (world_open(run->options.seed, &run->world) != 0)
		abort();
	sim_plan_make(run->world, &run->plan);
	if (sim_net_open(run->world, &plan->net, &run->net) != 0)
		abort();
	make_uri(run);
	sim_tell(run, "net %d, %s, %s, %u donors, %u owners, %u volumes, faults %x, %s",
		 plan->net.kind, plan->store ? "store" : "list", plan->careful ? "careful" : "wild",
		 plan->donors, plan->owners, plan->volumes, plan->faults,
		 plan->scarce ? "scarce" : "plenty");
	for (uint32_t i = 0; i < plan->donors; i++) {
		donor_init(run, i);
		donor_boot(&run->donor[i]);
	}
	for (uint32_t i = 0; i < plan->volumes; i++)
		volume_add(run, i % plan->owners);
	for (uint32_t i = 0; i < plan->owners; i++) {
		owner_init(run, i);
		owner_boot(&run->owner[i]);
	}
	observer_open(run);
	faults_plan(run);
}

static void finish(struct sim_run *run)
{
	faults_free(run);
	observer_close(run);
	/* After a violation nothing can be relied upon but death. */
	for (uint32_t i = 0; i < world_machines(run->world) && run->violated; i++)
		world_crash(run->world, i);
	for (uint32_t i = 0; i < run->plan.owners; i++) {
		owner_end(&run->owner[i]);
		log_close(run->owner[i].log);
	}
	for (uint32_t i = 0; i < run->plan.donors; i++) {
		donor_end(&run->donor[i]);
		log_close(run->donor[i].log);
	}
	for (uint32_t i = 0; i < run->volumes; i++)
		free(run->volume[i].page);
	sim_net_close(run->net);
	world_close(run->world);
}

/* ---- the phases ---- */

static void run_slice(struct sim_run *run)
{
	world_run_until(run->world, world_now_ns(run->world) + SLICE_NS);
	observer_look(run);
}

/* Runs until the condition holds. False, and a violation with this text, if it does not in time. */
static bool run_until(struct sim_run *run, bool (*holds)(struct sim_run *run), int64_t within_ns,
		      const char *otherwise)
{
	int64_t end_ns = world_now_ns(run->world) + within_ns;

	while (!run->violated && !holds(run)) {
		if (world_now_ns(run->world) >= end_ns)
			sim_violation(run, "%s", otherwise);
		else
			run_slice(run);
	}
	return !run->violated;
}

static bool run_for(struct sim_run *run, int64_t ns)
{
	int64_t end_ns = world_now_ns(run->world) + ns;

	while (!run->violated && world_now_ns(run->world) < end_ns)
		run_slice(run);
	return !run->violated;
}

static void wake_owners(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->plan.owners; i++)
		owner_wake(&run->owner[i]);
}

static bool all_idle(const struct sim_run *run)
{
	for (uint32_t i = 0; i < run->plan.owners; i++)
		if (run->owner[i].busy != 0)
			return false;
	return true;
}

/*
 * Whoever has a volume keeps it: an owner that was only thought dead may have lived on, so that
 * the one which was to take over waits in vain.
 */
static void recognize_owners(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[i];

		for (uint32_t k = 0; k < run->plan.owners; k++) {
			struct sim_handle *handle = owner_handle(&run->owner[k], what);

			if (handle && handle->incarnation == what->holder && !handle->failed)
				what->owner = k;
		}
	}
}

/* Every volume that is not gone is held by its owner, and no operation is running. */
static bool is_settled(struct sim_run *run)
{
	recognize_owners(run);
	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[i];
		struct sim_handle *handle;

		if (what->gone)
			continue;
		handle = owner_handle(&run->owner[what->owner], what);
		if (!handle || handle->incarnation != what->holder || handle->failed ||
		    what->delete_asked || what->close_asked)
			return false;
	}
	return all_idle(run);
}

static bool is_read_back(struct sim_run *run)
{
	recognize_owners(run);
	for (uint32_t i = 0; i < run->volumes; i++) {
		struct sim_volume *what = &run->volume[i];
		struct sim_handle *handle = owner_handle(&run->owner[what->owner], what);

		if (!what->gone && (!handle || handle->next_read < what->pages))
			return false;
	}
	return all_idle(run);
}

static bool is_given_back(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->volumes; i++)
		if (!run->volume[i].gone)
			return false;
	for (uint32_t i = 0; i < run->plan.donors; i++)
		if (donor_used_bytes(&run->donor[i]) != 0)
			return false;
	return true;
}

static bool read_all_back(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->plan.owners; i++)
		for (uint32_t k = 0; k < run->owner[i].handles; k++)
			run->owner[i].handle[k].next_read = 0;
	run->phase = PHASE_READ_BACK;
	wake_owners(run);
	return run_until(run, is_read_back, SETTLE_NS_MAX, "pages are not read back in time");
}

/* All copies are there again: then the death of any one donor loses nothing that is replicated. */
static bool lose_one_more(struct sim_run *run)
{
	struct sim_donor *donor = &run->donor[world_random_below(run->world, run->plan.donors)];
	int64_t recovery_ns = run->node_settled_ns - world_now_ns(run->world);
	bool good;

	run->phase = PHASE_SETTLE;
	if (recovery_ns > 0 && !run_for(run, recovery_ns))
		return false;
	sim_tell(run, "donor %u dies, and all is read again", donor->index);
	for (uint32_t i = 0; i < run->volumes; i++)
		run->volume[i].risky |= run->volume[i].replicas == 1;
	run->node_faulted = true;
	world_crash(run->world, donor->machine);
	good = run_for(run, DONOR_DEAD_NS) && read_all_back(run);
	donor_boot(donor);
	return good;
}

/*
 * An owner that lost a volume, or handed it over, may have slabs of it on nodes where its successor
 * never was. They are its own until its connection ends.
 */
static void end_deposed_owners(struct sim_run *run)
{
	for (uint32_t i = 0; i < run->plan.owners; i++) {
		struct sim_owner *owner = &run->owner[i];

		if (!owner->deposed)
			continue;
		sim_tell(run, "owner %u starts again", i);
		world_crash(run->world, owner->machine);
		owner_boot(owner);
	}
}

static bool delete_all(struct sim_run *run)
{
	run->phase = PHASE_DELETE;
	for (uint32_t i = 0; i < run->volumes; i++)
		run->volume[i].delete_asked = !run->volume[i].gone;
	wake_owners(run);
	if (!run_for(run, DELETE_NS))
		return false;
	end_deposed_owners(run);
	return run_until(run, is_given_back, run->plan.orphan_ns + GIVE_BACK_NS,
			 "donors still hold slabs of volumes that were deleted");
}

static void live(struct sim_run *run)
{
	const struct sim_plan *plan = &run->plan;

	if (!run_for(run, plan->run_ns))
		return;
	run->phase = PHASE_SETTLE;
	faults_heal(run);
	sim_tell(run, "all is healed");
	wake_owners(run);
	if (!run_until(run, is_settled, SETTLE_NS_MAX,
		       "not every volume is ready, or operations do not end, though all is healed"))
		return;
	if (!read_all_back(run))
		return;
	if (plan->careful && !plan->scarce && !(plan->faults & 1u << FAULT_ROT) &&
	    !lose_one_more(run))
		return;
	delete_all(run);
}

void sim_run(const struct sim_options *options, struct sim_verdict *verdict)
{
	struct sim_run *run = calloc(1, sizeof(*run));
	struct sim_net_stats net;

	if (!run)
		abort();
	run->options = *options;
	begin(run);
	live(run);
	sim_net_stats(run->net, &net);
	run->counts.late_writes = net.late;
	run->counts.into_old = net.into_old;
	run->counts.virtual_ns = (uint64_t)world_now_ns(run->world);
	run->counts.events = world_events_run(run->world);
	verdict->hash = world_trace_hash(run->world);
	finish(run);
	verdict->violated = run->violated;
	memcpy(verdict->what, run->what, sizeof(verdict->what));
	verdict->counts = run->counts;
	free(run);
}
