/*
 * test_cluster.c: members and volumes of a cluster, in the virtual time of a simulated world
 *
 *   Every "machine" opens the same cluster by a handle of its own; their clocks start at different
 *   times and drift, as the world has it.
 */
#include "cluster/cluster.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define URI      "dir:" WORLD_SHARED "/cluster"
#define MACHINES 4
#define LEASE_NS NS_PER_S

static uint64_t seed;

struct machine {
	struct env *env;
	struct cluster *cluster;
};

struct stage {
	struct world *world;
	struct machine machine[MACHINES];
};

static unsigned idle_poll(void *context)
{
	return 0;
}

static int64_t idle_deadline_ns(void *context)
{
	return INT64_MAX;
}

static void idle_crashed(void *context)
{
}

static const struct world_program idle = {
	.poll = idle_poll,
	.deadline_ns = idle_deadline_ns,
	.crashed = idle_crashed,
};

static void open_machine(struct stage *stage, uint32_t i)
{
	assert_int_equal(cluster_open(stage->machine[i].env, URI, NULL, &stage->machine[i].cluster),
			 0);
}

/* The machine dies; its program is freed. */
static void crash(struct stage *stage, uint32_t i)
{
	world_crash(stage->world, i);
	cluster_close(stage->machine[i].cluster);
	stage->machine[i].cluster = NULL;
}

static void reboot(struct stage *stage, uint32_t i)
{
	if (stage->machine[i].cluster)
		crash(stage, i);
	world_boot(stage->world, i, &idle);
	open_machine(stage, i);
}

static int begin(void **state)
{
	struct stage *stage = test_calloc(1, sizeof(*stage));

	assert_int_equal(world_open(seed, &stage->world), 0);
	for (uint32_t i = 0; i < MACHINES; i++) {
		world_machine_add(stage->world);
		stage->machine[i].env = world_env(stage->world, i);
		reboot(stage, i);
	}
	*state = stage;
	return 0;
}

static int end(void **state)
{
	struct stage *stage = *state;

	for (uint32_t i = 0; i < MACHINES; i++) {
		if (stage->machine[i].cluster)
			crash(stage, i);
	}
	world_close(stage->world);
	test_free(stage);
	return 0;
}

/* ---- time ---- */

static void pass(struct stage *stage, int64_t ns)
{
	world_run_until(stage->world, world_now_ns(stage->world) + ns);
}

/* Lets time pass while these machines (bits) do what they do on their own. */
static bool pass_polling(struct stage *stage, int64_t ns, unsigned machines)
{
	bool changed = false;

	for (int64_t passed_ns = 0; passed_ns < ns; passed_ns += 50 * NS_PER_MS) {
		pass(stage, 50 * NS_PER_MS);
		for (uint32_t i = 0; i < MACHINES; i++) {
			if (machines & 1u << i)
				changed = cluster_poll(stage->machine[i].cluster) || changed;
		}
	}
	return changed;
}

/* ---- members ---- */

static struct cluster_member member_of(uint64_t id)
{
	struct cluster_member member = {.id = id, .addresses = 2, .boot_id = "boot"};

	snprintf(member.address[0], sizeof(member.address[0]), "tcp://node-%" PRIu64 ":1", id);
	snprintf(member.address[1], sizeof(member.address[1]), "shm:/run/%" PRIu64, id);
	return member;
}

static void join(struct stage *stage, uint32_t i)
{
	struct cluster_member member = member_of(i + 1);

	assert_int_equal(cluster_join(stage->machine[i].cluster, &member, LEASE_NS), 0);
}

/* How machine i sees member `id`: -1 not at all, 0 dead, 1 alive. */
static int sees(struct stage *stage, uint32_t i, uint64_t id)
{
	struct cluster_member members[CLUSTER_MEMBERS_MAX];
	unsigned count = cluster_members(stage->machine[i].cluster, members, CLUSTER_MEMBERS_MAX);

	for (unsigned k = 0; k < count; k++) {
		if (members[k].id == id)
			return members[k].alive;
	}
	return -1;
}

static void members_see_each_other(void **state)
{
	struct stage *stage = *state;
	struct cluster_member members[2];

	join(stage, 0);
	join(stage, 1);
	assert_true(pass_polling(stage, NS_PER_S, 0xf));
	for (uint32_t i = 0; i < MACHINES; i++) {
		assert_int_equal(sees(stage, i, 1), 1);
		assert_int_equal(sees(stage, i, 2), 1);
	}
	assert_int_equal(cluster_members(stage->machine[3].cluster, members, 2), 2);
	assert_string_equal(members[0].address[0], "tcp://node-1:1");
	assert_string_equal(members[0].address[1], "shm:/run/1");
	assert_string_equal(members[0].boot_id, "boot");
	assert_int_equal(members[0].addresses, 2);
	/* Renewals are no change. */
	assert_false(pass_polling(stage, 3 * NS_PER_S, 0xf));
}

static void who_opens_later_sees_who_was_there(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	reboot(stage, 3);
	assert_int_equal(sees(stage, 3, 1), 1);
}

static void who_leaves_is_gone_at_the_next_look(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	assert_int_equal(cluster_leave(stage->machine[0].cluster), 0);
	assert_int_equal(cluster_leave(stage->machine[0].cluster), 0);
	assert_true(pass_polling(stage, 200 * NS_PER_MS, 0x8));
	assert_int_equal(sees(stage, 3, 1), -1);
}

static void who_dies_is_dead_when_its_lease_has_ended(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	crash(stage, 0);
	pass_polling(stage, LEASE_NS / 2, 0xe);
	assert_int_equal(sees(stage, 3, 1), 1);
	assert_true(pass_polling(stage, 2 * LEASE_NS, 0xe));
	assert_int_equal(sees(stage, 3, 1), 0);
}

static void who_comes_back_under_its_id_is_alive_again(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	crash(stage, 0);
	pass_polling(stage, 3 * LEASE_NS, 0xe);
	assert_int_equal(sees(stage, 3, 1), 0);
	reboot(stage, 0);
	join(stage, 0);
	assert_true(pass_polling(stage, NS_PER_S, 0xf));
	assert_int_equal(sees(stage, 3, 1), 1);
}

static void who_was_only_late_enters_again_by_itself(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	join(stage, 1);
	pass_polling(stage, NS_PER_S, 0xf);
	/* So late that it was forgotten. */
	pass_polling(stage, 80 * LEASE_NS, 0xe);
	assert_int_equal(sees(stage, 3, 1), -1);
	pass_polling(stage, NS_PER_S, 0xf);
	assert_int_equal(sees(stage, 3, 1), 1);
}

static void only_members_forget_the_dead(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	crash(stage, 0);
	pass_polling(stage, 80 * LEASE_NS, 0xe);
	assert_int_equal(sees(stage, 3, 1), 0);
	join(stage, 1);
	pass_polling(stage, 80 * LEASE_NS, 0xe);
	assert_int_equal(sees(stage, 3, 1), -1);
}

static void a_member_that_cannot_write_is_dead_to_others_until_it_can(void **state)
{
	struct stage *stage = *state;

	join(stage, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	world_fail_files(stage->world, 0, -ENOSPC);
	pass_polling(stage, 3 * LEASE_NS, 0xf);
	assert_int_equal(sees(stage, 3, 1), 0);
	world_fail_files(stage->world, 0, 0);
	pass_polling(stage, NS_PER_S, 0xf);
	assert_int_equal(sees(stage, 3, 1), 1);
}

static void joining_asks_for_an_id_and_an_address_and_a_sane_lease(void **state)
{
	struct stage *stage = *state;
	struct cluster *cluster = stage->machine[0].cluster;
	struct cluster_member member = member_of(0);

	assert_int_equal(cluster_join(cluster, &member, LEASE_NS), -EINVAL);
	member = member_of(1);
	member.addresses = 0;
	assert_int_equal(cluster_join(cluster, &member, LEASE_NS), -EINVAL);
	member.addresses = CLUSTER_ADDRESSES_MAX + 1;
	assert_int_equal(cluster_join(cluster, &member, LEASE_NS), -EINVAL);
	member = member_of(1);
	assert_int_equal(cluster_join(cluster, &member, 1), -EINVAL);
	assert_int_equal(cluster_join(cluster, &member, INT64_MAX), -EINVAL);
	assert_int_equal(sees(stage, 0, 1), -1);
}

static bool is_remote(struct env *env, const char *path)
{
	return true;
}

static void leases_on_a_folder_that_others_serve_are_long(void **state)
{
	struct stage *stage = *state;
	struct env *env = stage->machine[0].env;
	const struct env_ops *local = env->ops;
	struct env_ops remote = *local;
	struct cluster_member member = member_of(1);

	remote.dir_is_remote = is_remote;
	env->ops = &remote;
	reboot(stage, 0);
	assert_int_equal(cluster_join(stage->machine[0].cluster, &member, NS_PER_S - 1), -EINVAL);
	assert_int_equal(cluster_join(stage->machine[0].cluster, &member, NS_PER_S), 0);
	env->ops = local;
	reboot(stage, 0);
	assert_int_equal(cluster_join(stage->machine[0].cluster, &member, 10 * NS_PER_MS), 0);
}

/* ---- lists ---- */

static void a_list_names_its_members(void **state)
{
	struct stage *stage = *state;
	struct cluster_member members[8];
	struct cluster_member self = member_of(9);
	struct volume_record record = {0};
	struct cluster *cluster;

	assert_int_equal(cluster_open(stage->machine[0].env,
				      "tcp://a:1,b:2,shm:/run/x.sock,sim://3,4", NULL, &cluster),
			 0);
	assert_false(cluster_has_store(cluster));
	assert_int_equal(cluster_members(cluster, members, 8), 5);
	assert_string_equal(members[0].address[0], "tcp://a:1");
	assert_string_equal(members[1].address[0], "tcp://b:2");
	assert_string_equal(members[2].address[0], "shm:/run/x.sock");
	assert_string_equal(members[3].address[0], "sim://3");
	assert_string_equal(members[4].address[0], "sim://4");
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(members[i].id, i + 1);
		assert_int_equal(members[i].addresses, 1);
		assert_true(members[i].alive);
	}
	assert_int_equal(cluster_join(cluster, &self, 0), 0);
	assert_int_equal(cluster_leave(cluster), 0);
	assert_false(cluster_poll(cluster));
	assert_true(cluster_deadline_ns(cluster) == INT64_MAX);
	assert_int_equal(volume_record_create(cluster, &record), -ENOTSUP);
	assert_int_equal(volume_record_claim(cluster, "v", 1, 1, &record), -ENOTSUP);
	assert_int_equal(volume_record_update(cluster, &record), -ENOTSUP);
	assert_int_equal(volume_record_renew(cluster, &record), -ENOTSUP);
	assert_int_equal(volume_record_give_up(cluster, &record), -ENOTSUP);
	assert_int_equal(volume_record_remove(cluster, &record), -ENOTSUP);
	cluster_close(cluster);
}

static void what_is_no_cluster_is_refused(void **state)
{
	static const char *const uris[] = {
		"",           "dir:",        "/tmp",          "local:", "tcp://",
		"tcp://a",    "tcp://a:1,,", "tcp://a:1,",    "a:1",    "http://a:1",
		"sim://x",    "tcp://a:0x1", "tcp://a:99999", "dir",    ",tcp://a:1",
		"tcp://a b:1"};
	struct stage *stage = *state;

	for (size_t i = 0; i < ARRAY_COUNT(uris); i++) {
		struct cluster *cluster;
		int err = cluster_open(stage->machine[0].env, uris[i], NULL, &cluster);

		if (err != -EINVAL)
			print_message("uri=%s\n", uris[i]);
		assert_int_equal(err, -EINVAL);
	}
}

/* ---- volumes ---- */

#define PIECES 3

struct owned {
	struct volume_record record;
	struct volume_piece_record map[PIECES];
};

static void fill(struct owned *owned, const char *name, uint64_t owner)
{
	*owned = (struct owned){
		.record =
			{
				.id = 100 + owner,
				.size_bytes = PIECES << 20,
				.slab_bytes = 1 << 20,
				.owner = owner,
				.owner_nonce = owner * 7,
				.replicas = 2,
				.pieces = PIECES,
				.lease_ns = LEASE_NS,
			},
	};
	snprintf(owned->record.name, sizeof(owned->record.name), "%s", name);
	owned->record.map = owned->map;
}

static struct cluster *at(struct stage *stage, uint32_t i)
{
	return stage->machine[i].cluster;
}

/* Machine 0 owns "v" from here on. */
static void create(struct stage *stage, struct owned *owned)
{
	fill(owned, "v", 1);
	assert_int_equal(volume_record_create(at(stage, 0), &owned->record), 0);
	assert_int_equal(owned->record.owner_epoch, 1);
}

/* Claims until it is known; what came of it, and how long it took. */
static int claim(struct stage *stage, uint32_t i, struct volume_record *record, int64_t *took_ns)
{
	int64_t begun_ns = world_now_ns(stage->world);
	int err;

	for (int tries = 0; tries < 200; tries++) {
		err = volume_record_claim(at(stage, i), "v", i + 1, (i + 1) * 7, record);
		if (err != -EAGAIN)
			break;
		pass(stage, 50 * NS_PER_MS);
	}
	if (took_ns)
		*took_ns = world_now_ns(stage->world) - begun_ns;
	return err;
}

static void a_volume_is_made_once(void **state)
{
	struct stage *stage = *state;
	struct owned owned;
	struct owned other;

	create(stage, &owned);
	fill(&other, "v", 2);
	assert_int_equal(volume_record_create(at(stage, 1), &other.record), -EEXIST);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), 0);
}

static void a_volume_without_sense_is_not_made(void **state)
{
	static const char *const names[] = {"", ".", "..", "a/b", "a b", ".v", "../v"};
	struct stage *stage = *state;
	struct owned owned;

	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		fill(&owned, names[i], 1);
		assert_int_equal(volume_record_create(at(stage, 0), &owned.record), -EINVAL);
	}
#define REFUSE(change)                                                                        \
	do {                                                                                  \
		fill(&owned, "v", 1);                                                         \
		change;                                                                       \
		assert_int_equal(volume_record_create(at(stage, 0), &owned.record), -EINVAL); \
	} while (0)
	REFUSE(owned.record.id = 0);
	REFUSE(owned.record.owner = 0);
	REFUSE(owned.record.replicas = 0);
	REFUSE(owned.record.replicas = CLUSTER_COPIES_MAX + 1);
	REFUSE(owned.record.pieces = CLUSTER_PIECES_MAX + 1);
	REFUSE(owned.record.slab_bytes = 0);
	REFUSE(owned.record.lease_ns = 1);
	REFUSE(memset(owned.record.name, 'v', sizeof(owned.record.name)));
}

static void a_volume_that_is_not_there_cannot_be_claimed(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;

	assert_int_equal(volume_record_claim(at(stage, 1), "v", 2, 2, &record), -ENOENT);
	assert_int_equal(volume_record_claim(at(stage, 1), "../v", 2, 2, &record), -EINVAL);
}

static void an_owner_that_renews_keeps_its_volume(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;

	create(stage, &owned);
	for (int i = 0; i < 40; i++) {
		int err = volume_record_claim(at(stage, 1), "v", 2, 2, &record);

		assert_true(err == -EAGAIN || err == AFAR_EOWNED);
		assert_true(i == 0 || err == AFAR_EOWNED);
		pass(stage, LEASE_NS / 4);
		assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), 0);
	}
}

static void a_dead_owner_loses_its_volume_after_its_lease_and_not_before(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;
	int64_t took_ns;

	create(stage, &owned);
	owned.map[1] = (struct volume_piece_record){
		.piece_epoch = 5, .copies = {{.node = 8, .key = 9}, {.node = 10, .key = 11}}};
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), 0);
	crash(stage, 0);

	assert_int_equal(claim(stage, 1, &record, &took_ns), 0);
	assert_in_range(took_ns, LEASE_NS, 2 * LEASE_NS);
	assert_int_equal(record.owner_epoch, 2);
	assert_int_equal(record.owner, 2);
	assert_int_equal(record.owner_nonce, 14);
	assert_int_equal(record.id, 101);
	assert_int_equal(record.lease_ns, LEASE_NS);
	assert_string_equal(record.name, "v");
	assert_memory_equal(record.map, owned.map, sizeof(owned.map));

	/* It is the owner in full. */
	assert_int_equal(volume_record_renew(at(stage, 1), &record), 0);
	record.map[0].piece_epoch = 1;
	assert_int_equal(volume_record_update(at(stage, 1), &record), 0);
	volume_record_release(&record);
}

static void an_owner_that_comes_late_learns_that_it_is_none(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;

	create(stage, &owned);
	assert_int_equal(claim(stage, 1, &record, NULL), 0);

	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_give_up(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_remove(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_renew(at(stage, 1), &record), 0);
	assert_int_equal(volume_record_update(at(stage, 1), &record), 0);
	volume_record_release(&record);
}

static void an_owner_that_was_late_but_not_replaced_goes_on(void **state)
{
	struct stage *stage = *state;
	struct owned owned;

	create(stage, &owned);
	pass(stage, 10 * LEASE_NS);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), 0);
}

static void of_two_claimants_one_wins(void **state)
{
	struct stage *stage = *state;
	struct volume_record records[2];
	struct owned owned;
	int won = -1;

	create(stage, &owned);
	for (int tries = 0; tries < 100 && won < 0; tries++) {
		pass(stage, 50 * NS_PER_MS);
		for (int i = 0; i < 2; i++) {
			int err = volume_record_claim(at(stage, (uint32_t)i + 1), "v",
						      (uint64_t)i + 2, 0, &records[i]);

			if (err == 0) {
				assert_int_equal(won, -1);
				won = i;
			} else {
				assert_true(err == -EAGAIN || err == AFAR_ECONFLICT ||
					    err == AFAR_EOWNED);
			}
		}
	}
	assert_in_range(won, 0, 1);
	volume_record_release(&records[won]);
}

static void what_was_given_up_is_claimed_at_once(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;

	create(stage, &owned);
	assert_int_equal(volume_record_give_up(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_claim(at(stage, 1), "v", 2, 2, &record), 0);
	assert_int_equal(record.owner_epoch, 2);
	assert_int_equal(volume_record_give_up(at(stage, 1), &record), 0);
	volume_record_release(&record);
	assert_int_equal(volume_record_claim(at(stage, 0), "v", 1, 1, &record), 0);
	assert_int_equal(record.owner_epoch, 3);
	volume_record_release(&record);
}

static void join_name(void *context, const char *name)
{
	strcat(context, name);
	strcat(context, " ");
}

static void a_removed_volume_leaves_its_name_to_others(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;
	struct owned other;
	char names[64] = "";

	create(stage, &owned);
	assert_int_equal(volume_record_list(at(stage, 2), join_name, names), 0);
	assert_string_equal(names, "v ");
	assert_int_equal(volume_record_remove(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_claim(at(stage, 1), "v", 2, 2, &record), -ENOENT);

	fill(&other, "v", 2);
	assert_int_equal(volume_record_create(at(stage, 1), &other.record), 0);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_remove(at(stage, 0), &owned.record), AFAR_ELEASE);
	assert_int_equal(volume_record_renew(at(stage, 1), &other.record), 0);
}

static void the_largest_map_is_carried(void **state)
{
	struct stage *stage = *state;
	struct volume_record record;
	struct owned owned;
	struct volume_piece_record *map = test_calloc(CLUSTER_PIECES_MAX, sizeof(*map));

	fill(&owned, "v", 1);
	for (uint32_t i = 0; i < CLUSTER_PIECES_MAX; i++)
		map[i] = (struct volume_piece_record){.piece_epoch = i,
						      .copies = {{.node = i * 3, .key = i * 5}}};
	owned.record.map = map;
	owned.record.pieces = CLUSTER_PIECES_MAX;
	assert_int_equal(volume_record_create(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_give_up(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_claim(at(stage, 1), "v", 2, 2, &record), 0);
	assert_int_equal(record.pieces, CLUSTER_PIECES_MAX);
	assert_memory_equal(record.map, map, CLUSTER_PIECES_MAX * sizeof(*map));
	volume_record_release(&record);
	test_free(map);
}

/* ---- dying in the middle ---- */

/* Whatever became of the update that died at its nth act, the map is whole: old or new. */
static void an_owner_may_die_anywhere_in_an_update(void **state)
{
	struct stage *stage = *state;
	bool finished = false;

	for (uint32_t acts = 1; !finished; acts++) {
		struct volume_record record;
		struct owned owned;

		create(stage, &owned);
		for (uint32_t i = 0; i < PIECES; i++)
			owned.map[i].piece_epoch = 7;
		world_crash_within(stage->world, 0, acts);
		finished = volume_record_update(at(stage, 0), &owned.record) == 0;
		reboot(stage, 0);

		assert_int_equal(claim(stage, 1, &record, NULL), 0);
		assert_true(record.map[0].piece_epoch == 7 || !finished);
		for (uint32_t i = 0; i < PIECES; i++)
			assert_int_equal(record.map[i].piece_epoch, record.map[0].piece_epoch);
		assert_int_equal(volume_record_remove(at(stage, 1), &record), 0);
		volume_record_release(&record);
	}
}

/* A claim that dies leaves a volume that the next one gets, whole, under a higher owner_epoch. */
static void a_claimant_may_die_anywhere(void **state)
{
	struct stage *stage = *state;
	bool finished = false;

	for (uint32_t acts = 1; !finished; acts++) {
		struct volume_record record;
		struct owned owned;
		uint32_t owner_epoch = 1;
		int64_t took_ns;

		create(stage, &owned);
		owned.map[2].piece_epoch = 3;
		assert_int_equal(volume_record_update(at(stage, 0), &owned.record), 0);
		assert_int_equal(volume_record_give_up(at(stage, 0), &owned.record), 0);

		world_crash_within(stage->world, 1, acts);
		finished = volume_record_claim(at(stage, 1), "v", 2, 2, &record) == 0;
		if (finished) {
			owner_epoch = record.owner_epoch;
			volume_record_release(&record);
		}
		reboot(stage, 1);

		assert_int_equal(claim(stage, 2, &record, &took_ns), 0);
		/* If its lease had to be waited for, the dead claimant had counted already. */
		assert_true(record.owner_epoch > owner_epoch + (took_ns > 0 && !finished));
		assert_int_equal(record.map[2].piece_epoch, 3);
		assert_int_equal(volume_record_remove(at(stage, 2), &record), 0);
		volume_record_release(&record);
	}
}

/* What a creation that died leaves is no volume, or one that can be claimed. */
static void a_creator_may_die_anywhere(void **state)
{
	struct stage *stage = *state;
	bool finished = false;

	for (uint32_t acts = 1; !finished; acts++) {
		struct volume_record record;
		struct owned owned;
		struct owned other;

		fill(&owned, "v", 1);
		world_crash_within(stage->world, 0, acts);
		finished = volume_record_create(at(stage, 0), &owned.record) == 0;
		reboot(stage, 0);

		int err = claim(stage, 1, &record, NULL);

		if (err == -ENOENT) {
			fill(&other, "v", 2);
			assert_int_equal(volume_record_create(at(stage, 1), &other.record), 0);
			assert_int_equal(volume_record_remove(at(stage, 1), &other.record), 0);
			continue;
		}
		assert_int_equal(err, 0);
		assert_int_equal(volume_record_remove(at(stage, 1), &record), 0);
		volume_record_release(&record);
	}
}

/* The volume is there as it was, or its name is free. */
static void an_owner_may_die_anywhere_in_a_removal(void **state)
{
	struct stage *stage = *state;
	bool finished = false;

	for (uint32_t acts = 1; !finished; acts++) {
		struct volume_record record;
		struct owned owned;
		struct owned other;

		create(stage, &owned);
		world_crash_within(stage->world, 0, acts);
		finished = volume_record_remove(at(stage, 0), &owned.record) == 0;
		reboot(stage, 0);

		fill(&other, "v", 2);

		int err = volume_record_create(at(stage, 1), &other.record);

		assert_true(err == 0 || (err == -EEXIST && !finished));
		if (err == 0) {
			assert_int_equal(volume_record_renew(at(stage, 1), &other.record), 0);
			assert_int_equal(volume_record_remove(at(stage, 1), &other.record), 0);
			continue;
		}
		assert_int_equal(claim(stage, 1, &record, NULL), 0);
		assert_int_equal(volume_record_remove(at(stage, 1), &record), 0);
		volume_record_release(&record);
	}
}

/* After an error that left open what happened, calling again does the right thing. */
static void an_owner_goes_on_after_errors_of_files(void **state)
{
	struct stage *stage = *state;
	struct owned owned;

	create(stage, &owned);
	world_fail_files(stage->world, 0, -ENOSPC);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), -ENOSPC);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), -ENOSPC);
	world_fail_files(stage->world, 0, 0);
	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), 0);

	/* As if both had happened after all, unknown to the owner. */
	struct volume_record unaware = owned.record;

	assert_int_equal(volume_record_renew(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_update(at(stage, 0), &owned.record), 0);
	assert_int_equal(volume_record_renew(at(stage, 0), &unaware), 0);
	assert_int_equal(volume_record_update(at(stage, 0), &unaware), 0);
}

int main(void)
{
#define STAGED(test) cmocka_unit_test_setup_teardown(test, begin, end)
	static const struct CMUnitTest tests[] = {
		STAGED(members_see_each_other),
		STAGED(who_opens_later_sees_who_was_there),
		STAGED(who_leaves_is_gone_at_the_next_look),
		STAGED(who_dies_is_dead_when_its_lease_has_ended),
		STAGED(who_comes_back_under_its_id_is_alive_again),
		STAGED(who_was_only_late_enters_again_by_itself),
		STAGED(only_members_forget_the_dead),
		STAGED(a_member_that_cannot_write_is_dead_to_others_until_it_can),
		STAGED(joining_asks_for_an_id_and_an_address_and_a_sane_lease),
		STAGED(leases_on_a_folder_that_others_serve_are_long),
		STAGED(a_list_names_its_members),
		STAGED(what_is_no_cluster_is_refused),
		STAGED(a_volume_is_made_once),
		STAGED(a_volume_without_sense_is_not_made),
		STAGED(a_volume_that_is_not_there_cannot_be_claimed),
		STAGED(an_owner_that_renews_keeps_its_volume),
		STAGED(a_dead_owner_loses_its_volume_after_its_lease_and_not_before),
		STAGED(an_owner_that_comes_late_learns_that_it_is_none),
		STAGED(an_owner_that_was_late_but_not_replaced_goes_on),
		STAGED(of_two_claimants_one_wins),
		STAGED(what_was_given_up_is_claimed_at_once),
		STAGED(a_removed_volume_leaves_its_name_to_others),
		STAGED(the_largest_map_is_carried),
		STAGED(an_owner_may_die_anywhere_in_an_update),
		STAGED(a_claimant_may_die_anywhere),
		STAGED(a_creator_may_die_anywhere),
		STAGED(an_owner_may_die_anywhere_in_a_removal),
		STAGED(an_owner_goes_on_after_errors_of_files),
	};
	const char *wanted = getenv("AFAR_SEED"); /* NOLINT(concurrency-mt-unsafe): no thread yet */

	seed = wanted ? strtoull(wanted, NULL, 0) : env_random(env_real());
	print_message("AFAR_SEED=%" PRIu64 "\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
