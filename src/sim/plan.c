/*
 * plan.c: what a seed decides before anything runs
 *
 *   Most runs are small: few machines, small volumes, so that faults meet each other and a seed
 *   takes milliseconds. A few are large. Each run has its own mix of faults: a story in which
 *   everything goes wrong at once hides what one fault does alone.
 */
#include "base/base.h"
#include "base/env.h"
#include "sim/sim.h"

#define BIT(kind) (1u << (kind))

#define NODE_FAULTS   (BIT(FAULT_DONOR_CRASH) | BIT(FAULT_DONOR_PAUSE) | BIT(FAULT_CUT))
#define MEMORY_FAULTS (BIT(FAULT_EVICT) | BIT(FAULT_SHRINK) | BIT(FAULT_NO_MEMORY))
#define OWNER_FAULTS                                                                \
	(BIT(FAULT_OWNER_CRASH) | BIT(FAULT_OWNER_PAUSE) | BIT(FAULT_OWNER_ALONE) | \
	 BIT(FAULT_STORE_FAILS) | BIT(FAULT_HAND_OVER))

static uint32_t between(struct world *world, uint32_t low, uint32_t high)
{
	return low + (uint32_t)world_random_below(world, high - low + 1);
}

static bool one_in(struct world *world, uint32_t n)
{
	return world_random_below(world, n) == 0;
}

/* A theme, and at times more. */
static uint32_t choose_faults(struct world *world)
{
	uint32_t faults = 0;

	switch (between(world, 0, 9)) {
	case 0:
		break; /* nothing goes wrong: then no error at all is allowed */
	case 1:
	case 2:
		faults = NODE_FAULTS;
		break;
	case 3:
	case 4:
		faults = OWNER_FAULTS;
		break;
	case 5:
		faults = MEMORY_FAULTS;
		break;
	case 6:
		faults = BIT(FAULT_ROT);
		break;
	case 7:
		faults = NODE_FAULTS | OWNER_FAULTS;
		break;
	case 8:
		faults = OWNER_FAULTS | MEMORY_FAULTS | BIT(FAULT_DONOR_SLOW);
		break;
	case 9:
		faults = NODE_FAULTS | OWNER_FAULTS | MEMORY_FAULTS | BIT(FAULT_DONOR_SLOW) |
			 BIT(FAULT_OWNER_CUT);
		break;
	}
	if (one_in(world, 2))
		faults |= BIT(FAULT_DELETE);
	if (one_in(world, 4))
		faults |= BIT(FAULT_EVICT);
	if (one_in(world, 4))
		faults |= BIT(FAULT_DONOR_SLOW);
	return faults;
}

static void choose_net(struct world *world, struct sim_plan *plan)
{
	struct sim_net_options *net = &plan->net;

	net->kind = (enum sim_kind)between(world, SIM_LIKE_TCP, SIM_LIKE_SHM);
	net->delay_ns_min = 1000;
	net->delay_ns_max = (int64_t)between(world, 5, 100) * NS_PER_US;
	plan->silence_ns = one_in(world, 3) ? 300 * NS_PER_MS : NS_PER_S;
	/* A resend that takes longer than the silence time would be a silence. */
	net->resend_ns_max = plan->silence_ns / 5;
	if (one_in(world, 2))
		net->torn_per_million = 200000;
	if (one_in(world, 3))
		net->loss_per_million = 2000;
}

static void choose_size(struct world *world, struct sim_plan *plan)
{
	plan->slab_pages = 4u << between(world, 0, 2);
	plan->volume_pages_max = plan->slab_pages * between(world, 1, 6);
	if (one_in(world, 100)) {
		plan->donors = between(world, 60, 200);
		plan->owners = between(world, 2, 3);
		plan->volumes = between(world, 100, 250);
		plan->slab_pages = 4;
		plan->volume_pages_max = 8;
	} else if (one_in(world, 8)) {
		plan->donors = between(world, 10, 40);
		plan->owners = between(world, 2, 3);
		plan->volumes = between(world, 6, 16);
	} else {
		plan->donors = between(world, 2, 8);
		plan->owners = between(world, 1, 3);
		plan->volumes = between(world, 1, 5);
	}
}

/* Slabs on each donor: enough for all copies with one donor away, or just not. */
static void choose_memory(struct world *world, struct sim_plan *plan)
{
	uint32_t pieces = (plan->volume_pages_max + plan->slab_pages - 1) / plan->slab_pages;
	uint32_t copies = 3 * pieces * plan->volumes * 2;

	plan->slabs_each = copies / (plan->donors > 1 ? plan->donors - 1 : 1) + 2 + pieces;
	plan->scarce = (plan->faults & MEMORY_FAULTS) != 0;
	if (one_in(world, 10)) {
		plan->slabs_each = 1 + plan->slabs_each / 4;
		plan->scarce = true;
	}
}

void sim_plan_make(struct world *world, struct sim_plan *plan)
{
	*plan = (struct sim_plan){0};
	choose_net(world, plan);
	choose_size(world, plan);
	plan->store = !one_in(world, 4);
	plan->careful = !one_in(world, 3);
	plan->faults = choose_faults(world);
	if (plan->faults & NODE_FAULTS && one_in(world, 4))
		plan->net.break_per_million = 500;
	/* Rot is on one donor: beside other faults it could meet the last good copy. */
	if (plan->faults & BIT(FAULT_ROT))
		plan->faults &= ~(NODE_FAULTS | OWNER_FAULTS | MEMORY_FAULTS);
	/* Without a store a volume dies with its owner, and nobody takes it over. */
	if (!plan->store)
		plan->faults &=
			~(BIT(FAULT_STORE_FAILS) | BIT(FAULT_OWNER_ALONE) | BIT(FAULT_HAND_OVER));
	choose_memory(world, plan);
	plan->member_lease_ns = (plan->donors > 20 ? 12 : 2) * NS_PER_S;
	plan->orphan_ns = 30 * NS_PER_S;
	plan->fault_count = plan->faults ? between(world, 1, 10) : 0;
	/* In a careful run each fault has its time; the work is about the same. */
	plan->run_ns = (int64_t)between(world, 4, 10) * NS_PER_S;
	plan->work_gap_ns = (int64_t)between(world, 5, 50) * NS_PER_MS;
	if (plan->careful) {
		plan->run_ns *= 2;
		plan->work_gap_ns *= 2;
	}
	/* So slow that pages are written while they are copied. */
	if (one_in(world, 2))
		plan->rebuild_bytes_per_s = UINT64_C(1) << between(world, 20, 24);
}
