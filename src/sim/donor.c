/*
 * donor.c: a machine that runs a memory node
 */
#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DONOR_ID_BASE  1000u
#define MACHINE_BYTES  (UINT64_C(1) << 30)
#define HEADROOM_BYTES (UINT64_C(1) << 28)

static uint64_t slab_bytes_of(const struct sim_donor *donor)
{
	return (uint64_t)donor->run->plan.slab_pages * PAGE_BYTES;
}

/* ---- memory ---- */

static int remember(struct sim_donor *donor, void *memory, int memfd)
{
	if (donor->slab_count == donor->slab_room) {
		uint32_t room = donor->slab_room ? 2 * donor->slab_room : 16;
		struct sim_slab *slabs = reallocarray(donor->slabs, room, sizeof(*donor->slabs));

		if (!slabs)
			return -ENOMEM;
		donor->slabs = slabs;
		donor->slab_room = room;
	}
	donor->slabs[donor->slab_count++] = (struct sim_slab){.memory = memory, .memfd = memfd};
	return 0;
}

static int make_shared(uint64_t size_bytes, void **memory, int *memfd)
{
	*memfd = memfd_create("sim-slab", MFD_CLOEXEC);
	if (*memfd < 0)
		return -ENOMEM;
	if (ftruncate(*memfd, (off_t)size_bytes) == 0)
		*memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	else
		*memory = MAP_FAILED;
	if (*memory != MAP_FAILED)
		return 0;
	close(*memfd);
	return -ENOMEM;
}

static void free_memory(void *memory, uint64_t size_bytes, int memfd)
{
	if (memfd < 0) {
		free(memory);
	} else {
		munmap(memory, size_bytes);
		close(memfd);
	}
}

static int slab_make(void *context, uint64_t size_bytes, void **memory, int *memfd)
{
	struct sim_donor *donor = context;
	int err = 0;

	if (world_chance(donor->run->world, donor->refuse_per_million))
		return world_random_below(donor->run->world, 2) ? -ENOMEM : -EAGAIN;
	*memfd = -1;
	if (donor->run->plan.net.kind == SIM_LIKE_SHM)
		err = make_shared(size_bytes, memory, memfd);
	else
		*memory = calloc(1, size_bytes);
	if (!err && !*memory)
		err = -ENOMEM;
	if (!err) {
		err = remember(donor, *memory, *memfd);
		if (err)
			free_memory(*memory, size_bytes, *memfd);
	}
	return err;
}

static void slab_destroy(void *context, void *memory, uint64_t size_bytes, int memfd)
{
	struct sim_donor *donor = context;

	for (uint32_t i = 0; i < donor->slab_count; i++) {
		if (donor->slabs[i].memory != memory)
			continue;
		donor->slabs[i] = donor->slabs[--donor->slab_count];
		free_memory(memory, size_bytes, memfd);
		return;
	}
	sim_violation(donor->run, "donor %u destroys a slab that it did not make", donor->index);
}

static uint64_t available_bytes(void *context)
{
	const struct sim_donor *donor = context;
	uint64_t taken_bytes = donor->other_bytes + donor->slab_count * slab_bytes_of(donor);

	return taken_bytes < MACHINE_BYTES ? MACHINE_BYTES - taken_bytes : 0;
}

void donor_set_pressure(struct sim_donor *donor, uint32_t short_slabs)
{
	donor->other_bytes = 0;
	if (short_slabs == 0)
		return;
	/* So much is in other use that the headroom is missed by this many slabs. */
	donor->other_bytes = MACHINE_BYTES - HEADROOM_BYTES -
			     donor->slab_count * slab_bytes_of(donor) +
			     min_u64(short_slabs, donor->slab_count) * slab_bytes_of(donor);
}

void donor_rot(struct sim_donor *donor)
{
	struct world *world = donor->run->world;

	if (donor->slab_count == 0)
		return;

	unsigned char *memory = donor->slabs[world_random_below(world, donor->slab_count)].memory;

	memory[world_random_below(world, slab_bytes_of(donor))] ^=
		(unsigned char)(1 + world_random_below(world, 255));
}

uint64_t donor_used_bytes(const struct sim_donor *donor)
{
	struct node_stats stats;

	if (!donor->up)
		return 0;
	node_stats(donor->node, &stats);
	return stats.used_bytes;
}

/* ---- the program ---- */

static unsigned donor_poll(void *context)
{
	struct sim_donor *donor = context;
	struct env *env = world_env(donor->run->world, donor->machine);
	unsigned done = node_poll(donor->node);
	struct node_stats stats;

	/* A node looks at the other members for nothing but its own lease: that is dear here. */
	if (donor->cluster && env_now_ns(env) >= donor->cluster_due_ns) {
		cluster_poll(donor->cluster);
		donor->cluster_due_ns = env_now_ns(env) + donor->run->plan.member_lease_ns / 4;
	}
	node_stats(donor->node, &stats);
	if (stats.slabs_mapped > donor->slab_count)
		sim_violation(donor->run, "donor %u has %lu slabs mapped, and memory for %u",
			      donor->index, (unsigned long)stats.slabs_mapped, donor->slab_count);
	return done;
}

static int64_t donor_deadline_ns(void *context)
{
	struct sim_donor *donor = context;
	int64_t deadline_ns =
		min_i64(node_deadline_ns(donor->node), fabric_deadline_ns(donor->fabric));

	return donor->cluster ? min_i64(deadline_ns, donor->cluster_due_ns) : deadline_ns;
}

static void donor_free(struct sim_donor *donor)
{
	if (donor->node)
		node_close(donor->node);
	if (donor->cluster)
		cluster_close(donor->cluster);
	if (donor->fabric)
		fabric_close(donor->fabric);
	donor->node = NULL;
	donor->cluster = NULL;
	donor->fabric = NULL;
	donor->up = false;
	if (donor->slab_count != 0)
		sim_violation(donor->run, "donor %u is closed and %u of its slabs are left",
			      donor->index, donor->slab_count);
}

static void donor_crashed(void *context)
{
	struct sim_donor *donor = context;

	sim_net_crash(donor->run->net, donor->machine);
	donor_free(donor);
}

static int open_fabric(struct sim_donor *donor, struct env *env, char *address)
{
	const struct fabric_options options = {
		.id = DONOR_ID_BASE + donor->index,
		.operations_max = 64,
		.send_bytes_max = 64u << 10,
		.silence_ns = donor->run->plan.silence_ns,
		.heartbeat_ns = donor->run->plan.silence_ns / 20,
		.log = donor->log,
		.net = donor->run->net,
		.machine = donor->machine,
	};
	int err = fabric_open(env, &options, &donor->fabric);

	snprintf(address, CLUSTER_ADDRESS_BYTES, "sim://%u", donor->index + 1);
	return err ? err : fabric_listen(donor->fabric, address, NULL);
}

static int open_cluster(struct sim_donor *donor, struct env *env, const char *address)
{
	struct cluster_member self = {.id = DONOR_ID_BASE + donor->index, .addresses = 1};
	int err;

	if (!donor->run->plan.store)
		return 0;
	snprintf(self.address[0], sizeof(self.address[0]), "%s", address);
	err = cluster_open(env, donor->run->uri, donor->log, &donor->cluster);
	return err ? err : cluster_join(donor->cluster, &self, donor->run->plan.member_lease_ns);
}

static int open_node(struct sim_donor *donor, struct env *env)
{
	const struct sim_plan *plan = &donor->run->plan;
	const struct node_options options = {
		.capacity_bytes = plan->slabs_each * slab_bytes_of(donor),
		.slab_bytes = slab_bytes_of(donor),
		.headroom_bytes = plan->faults & 1u << FAULT_EVICT ? HEADROOM_BYTES : 0,
		.orphan_ns = plan->orphan_ns,
		.log = donor->log,
		.memory = {slab_make, slab_destroy, NULL, available_bytes, donor},
		.mutations = donor->run->options.node_mutations,
	};

	return node_open(env, donor->fabric, &options, &donor->node);
}

void donor_boot(struct sim_donor *donor)
{
	struct env *env = world_env(donor->run->world, donor->machine);
	const struct world_program program = {donor_poll, donor_deadline_ns, donor_crashed, donor};
	char address[CLUSTER_ADDRESS_BYTES];
	int err;

	donor->refuse_per_million = 0;
	donor->other_bytes = 0;
	/* Booted first: a machine that is off reaches neither files nor the network. */
	world_boot(donor->run->world, donor->machine, &program);
	err = open_fabric(donor, env, address);
	if (!err)
		err = open_cluster(donor, env, address);
	if (!err)
		err = open_node(donor, env);
	if (err)
		sim_violation(donor->run, "donor %u does not boot: %s", donor->index,
			      afar_strerror(err));
	donor->cluster_due_ns = env_now_ns(env);
	donor->up = true;
}

void donor_init(struct sim_run *run, uint32_t index)
{
	struct sim_donor *donor = &run->donor[index];

	*donor = (struct sim_donor){.run = run, .index = index};
	donor->machine = world_machine_add(run->world);
	donor->log = sim_log(run, donor->machine);
}

void donor_end(struct sim_donor *donor)
{
	if (donor->cluster)
		cluster_leave(donor->cluster);
	donor_free(donor);
	world_power_off(donor->run->world, donor->machine);
	free(donor->slabs);
	donor->slabs = NULL;
}
