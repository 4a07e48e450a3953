/*
 * harness_sim.c: the members of a net as machines of a simulated world
 */
#include "harness.h"

#include "base/base.h"
#include "base/env.h"
#include "base/world.h"
#include "fabric/sim.h"

static unsigned poll_member(void *context)
{
	struct member *member = context;

	return member->fabric && !member->deaf ? member_pump(member) : 0;
}

static int64_t member_deadline_ns(void *context)
{
	struct member *member = context;

	return member->fabric && !member->deaf ? fabric_deadline_ns(member->fabric) : INT64_MAX;
}

static void member_crashed(void *context)
{
	struct member *member = context;

	sim_net_crash(member->net->sim_net, member->machine);
	fabric_close(member->fabric);
	member->fabric = NULL;
}

void simulate_open(struct net *net)
{
	struct sim_net_options options = {
		.kind = net->kind == NET_SIM_SHM   ? SIM_LIKE_SHM
			: net->kind == NET_SIM_TCP ? SIM_LIKE_TCP
						   : SIM_LIKE_VERBS,
		.loss_per_million = 1000,
		.torn_per_million = 100000,
	};

	assert_int_equal(world_open(test_random(), &net->world), 0);
	assert_int_equal(sim_net_open(net->world, &options, &net->sim_net), 0);
}

void simulate_close(struct net *net)
{
	sim_net_close(net->sim_net);
	world_close(net->world);
}

void simulate_boot(struct net *net, struct member *member, struct fabric_options *options,
		   struct env **env)
{
	struct world_program program = {poll_member, member_deadline_ns, member_crashed, member};

	member->machine = world_machine_add(net->world);
	options->net = net->sim_net;
	options->machine = member->machine;
	*env = world_env(net->world, member->machine);
	world_boot(net->world, member->machine, &program);
}

void simulate_run(struct net *net, int64_t ns)
{
	for (uint32_t i = 0; i < net->count; i++)
		if (net->members[i].fabric)
			world_wake(net->world, net->members[i].machine);
	world_run_until(net->world, world_now_ns(net->world) + ns);
}

void simulate_crash(struct net *net, struct member *member)
{
	world_crash(net->world, member->machine);
}

void simulate_power_off(struct net *net, struct member *member)
{
	world_power_off(net->world, member->machine);
}

int64_t simulate_now_ns(const struct net *net)
{
	return world_now_ns(net->world);
}
