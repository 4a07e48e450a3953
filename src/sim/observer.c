/*
 * observer.c: the maps of volumes, as the store has them
 *
 *   A machine of its own reads them now and then, as whoever takes a volume over would. The epoch
 *   of a piece rises whenever its copies change (pool.h, P3), and no two copies share a node.
 */
#include "base/base.h"
#include "base/env.h"
#include "cluster/cluster.h"
#include "cluster/record.h"
#include "cluster/store.h"
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS      (100 * NS_PER_MS)
#define VOLUMES_MAX  16u /* larger runs are about other things */
#define PIECES_MAX   16u
#define RECORD_BYTES 16384u

struct sim_observer {
	struct store *store;
	uint32_t machine;
	int64_t due_ns;
	uint64_t id[VOLUMES_MAX];
	struct volume_piece_record piece[VOLUMES_MAX][PIECES_MAX];
	unsigned char bytes[RECORD_BYTES];
};

static unsigned nothing_to_do(void *context)
{
	return 0;
}

static int64_t never(void *context)
{
	return INT64_MAX;
}

static void nothing_to_free(void *context)
{
}

void observer_open(struct sim_run *run)
{
	const struct world_program program = {nothing_to_do, never, nothing_to_free, NULL};
	struct sim_observer *observer;

	if (!run->plan.store)
		return;
	observer = calloc(1, sizeof(*observer));
	if (!observer)
		abort();
	observer->machine = world_machine_add(run->world);
	world_boot(run->world, observer->machine, &program);
	if (store_dir_open(world_env(run->world, observer->machine), WORLD_SHARED "/cluster",
			   "cluster", &observer->store) != 0)
		abort();
	run->observer = observer;
}

void observer_close(struct sim_run *run)
{
	if (!run->observer)
		return;
	store_close(run->observer->store);
	world_power_off(run->world, run->observer->machine);
	free(run->observer);
	run->observer = NULL;
}

static bool has_copy(const struct volume_piece_record *piece, const struct volume_copy *copy)
{
	for (unsigned i = 0; i < CLUSTER_COPIES_MAX; i++)
		if (piece->copies[i].key == copy->key && piece->copies[i].node == copy->node)
			return true;
	return false;
}

static bool same_copies(const struct volume_piece_record *a, const struct volume_piece_record *b)
{
	for (unsigned i = 0; i < CLUSTER_COPIES_MAX; i++)
		if ((a->copies[i].key != 0 && !has_copy(b, &a->copies[i])) ||
		    (b->copies[i].key != 0 && !has_copy(a, &b->copies[i])))
			return false;
	return true;
}

static bool shares_a_node(const struct volume_piece_record *piece)
{
	for (unsigned i = 0; i < CLUSTER_COPIES_MAX; i++)
		for (unsigned k = i + 1; k < CLUSTER_COPIES_MAX; k++)
			if (piece->copies[i].key != 0 && piece->copies[k].key != 0 &&
			    piece->copies[i].node == piece->copies[k].node)
				return true;
	return false;
}

static void tell_copies(const struct sim_run *run, const char *name, uint32_t number,
			const struct volume_piece_record *piece)
{
	sim_tell(run, "map: %s piece %u epoch %u flags %u: %lu %lu %lu", name, number,
		 piece->piece_epoch, piece->flags, (unsigned long)piece->copies[0].node,
		 (unsigned long)piece->copies[1].node, (unsigned long)piece->copies[2].node);
}

static void compare(struct sim_run *run, uint32_t index, const struct volume_record *record)
{
	struct sim_observer *observer = run->observer;

	if (observer->id[index] != record->id)
		memset(observer->piece[index], 0, sizeof(observer->piece[index]));
	observer->id[index] = record->id;
	for (uint32_t i = 0; i < record->pieces && i < PIECES_MAX; i++) {
		const struct volume_piece_record *now = &record->map[i];
		struct volume_piece_record *before = &observer->piece[index][i];

		if (!same_copies(before, now) && now->piece_epoch <= before->piece_epoch)
			sim_violation(run, "%s piece %u: other copies under the old epoch %u",
				      record->name, i, now->piece_epoch);
		if (!same_copies(before, now))
			tell_copies(run, record->name, i, now);
		if (shares_a_node(now))
			sim_violation(run, "%s piece %u: two copies on one node", record->name, i);
		*before = *now;
	}
}

void observer_look(struct sim_run *run)
{
	struct sim_observer *observer = run->observer;

	if (!observer || world_now_ns(run->world) < observer->due_ns)
		return;
	observer->due_ns = world_now_ns(run->world) + LOOK_NS;
	for (uint32_t i = 0; i < run->volumes && i < VOLUMES_MAX; i++) {
		struct volume_record record;
		char name[STORE_NAME_BYTES];
		size_t len_bytes;
		uint64_t version;

		snprintf(name, sizeof(name), "volumes/%s", run->volume[i].name);
		if (store_get(observer->store, name, observer->bytes, sizeof(observer->bytes),
			      &len_bytes, &version) != 0)
			continue;
		if (record_decode_volume(observer->bytes, len_bytes, &record) != 0) {
			sim_violation(run, "%s: its record is damaged", run->volume[i].name);
			continue;
		}
		compare(run, i, &record);
		volume_record_release(&record);
	}
}
