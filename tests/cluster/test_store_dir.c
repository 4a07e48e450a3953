/*
 * test_store_dir.c: the directory store, over real files and over those of a simulated world
 */
#include "cluster/store.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/world.h"
#include "cluster/cluster.h"
#include "scratch.h"
#include "store_conformance.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- makers for the conformance suite ---- */

static void *real_begin(void)
{
	char *path = malloc(SCRATCH_BYTES);

	assert_non_null(path);
	assert_int_equal(scratch_make(path), 0);
	return path;
}

static struct store *real_open(void *place)
{
	struct store *store;

	if (store_dir_open(env_real(), place, "root", &store) != 0)
		return NULL;
	/* So that the directory stays one of ours. */
	uint64_t version;
	int err = store_create(store, "root", "", 0, &version);

	return err == 0 || err == -EEXIST ? store : NULL;
}

static void real_end(void *place)
{
	scratch_remove(place);
	free(place);
}

struct simulated {
	struct world *world;
	uint32_t opened;
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

static void *simulated_begin(void)
{
	struct simulated *simulated = calloc(1, sizeof(*simulated));

	assert_non_null(simulated);
	assert_int_equal(world_open(1, &simulated->world), 0);
	return simulated;
}

static struct store *simulated_open(void *place)
{
	struct simulated *simulated = place;
	uint32_t machine = world_machine_add(simulated->world);
	struct store *store;

	world_boot(simulated->world, machine, &idle);
	assert_int_equal(store_dir_open(world_env(simulated->world, machine), WORLD_SHARED "/c",
					"root", &store),
			 0);
	uint64_t version;

	store_create(store, "root", "", 0, &version);
	simulated->opened = machine + 1;
	return store;
}

static void simulated_end(void *place)
{
	struct simulated *simulated = place;

	for (uint32_t i = 0; i < simulated->opened; i++)
		world_power_off(simulated->world, i);
	world_close(simulated->world);
	free(simulated);
}

static const struct store_maker real_maker = {
	.name = "directory",
	.begin = real_begin,
	.open = real_open,
	.end = real_end,
	.processes = true,
};

static const struct store_maker simulated_maker = {
	.name = "directory of a simulated world",
	.begin = simulated_begin,
	.open = simulated_open,
	.end = simulated_end,
};

/* ---- files that are no records ---- */

static void overwrite(const char *path, const void *bytes, size_t len_bytes)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len_bytes, file), len_bytes);
	assert_int_equal(fclose(file), 0);
}

static size_t slurp(const char *path, void *bytes, size_t size_bytes)
{
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	size_t len_bytes = fread(bytes, 1, size_bytes, file);

	fclose(file);
	return len_bytes;
}

static void every_changed_bit_of_a_head_is_noticed(void **state)
{
	char *root = real_begin();
	struct store *store = real_open(root);
	unsigned char good[256];
	unsigned char bad[256];
	char path[SCRATCH_BYTES + 8];
	char buf[64];
	size_t len_bytes;
	uint64_t version;

	assert_int_equal(store_create(store, "r", "0123456789", 10, &version), 0);
	snprintf(path, sizeof(path), "%s/r", root);

	size_t file_bytes = slurp(path, good, sizeof(good));

	for (size_t bit = 0; bit < (file_bytes - 10) * 8; bit++) {
		memcpy(bad, good, file_bytes);
		bad[bit / 8] ^= (unsigned char)(1u << bit % 8);
		overwrite(path, bad, file_bytes);

		int err = store_get(store, "r", buf, sizeof(buf), &len_bytes, &version);

		assert_true(err == AFAR_ECHECKSUM || err == AFAR_EVERSION);
	}
	for (size_t short_bytes = 0; short_bytes < file_bytes; short_bytes++) {
		overwrite(path, good, short_bytes);
		assert_int_equal(store_get(store, "r", buf, sizeof(buf), &len_bytes, &version),
				 AFAR_ECHECKSUM);
	}
	memcpy(bad, good, file_bytes);
	bad[file_bytes] = 0;
	overwrite(path, bad, file_bytes + 1);
	assert_int_equal(store_get(store, "r", buf, sizeof(buf), &len_bytes, &version),
			 AFAR_ECHECKSUM);
	/* A put does not write over what it cannot read. */
	assert_int_equal(store_put(store, "r", "x", 1, &version), AFAR_ECHECKSUM);
	store_close(store);
	real_end(root);
}

/* ---- whose directory it is ---- */

static void a_directory_of_something_else_is_refused_untouched(void **state)
{
	char *root = real_begin();
	char path[SCRATCH_BYTES + 16];
	struct store *store;

	snprintf(path, sizeof(path), "%s/thesis.tex", root);
	overwrite(path, "x", 1);
	assert_int_equal(store_dir_open(env_real(), root, "root", &store), -ENOTEMPTY);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(root), 0);
	free(root);
}

static void a_missing_directory_is_made_with_those_above_it(void **state)
{
	char *root = real_begin();
	char path[SCRATCH_BYTES + 16];
	struct store *store;
	struct stat status;

	snprintf(path, sizeof(path), "%s/a/b", root);
	assert_int_equal(store_dir_open(env_real(), path, "root", &store), 0);
	assert_int_equal(stat(path, &status), 0);
	store_close(store);
	real_end(root);
}

static void a_path_that_is_a_file_is_refused(void **state)
{
	char *root = real_begin();
	char path[SCRATCH_BYTES + 16];
	struct store *store;

	snprintf(path, sizeof(path), "%s/file", root);
	overwrite(path, "x", 1);
	assert_int_equal(store_dir_open(env_real(), path, "root", &store), -ENOTDIR);
	real_end(root);
}

/* What a node or a client does that starts; 0 if all went well. */
static int open_and_join(const char *uri, uint64_t id)
{
	struct cluster_member self = {.id = id, .addresses = 1};
	struct cluster *cluster;
	int err = cluster_open(env_real(), uri, NULL, &cluster);

	if (err)
		return 1;
	snprintf(self.address[0], sizeof(self.address[0]), "tcp://127.0.0.1:%" PRIu64, id);
	if (cluster_join(cluster, &self, 0))
		return 2;
	cluster_poll(cluster);
	return 0;
}

static void all_who_open_a_new_cluster_at_once_succeed(void **state)
{
	char *root = real_begin();

	for (unsigned round = 0; round < 25; round++) {
		char uri[SCRATCH_BYTES + 32];
		int start[2];
		char byte;

		snprintf(uri, sizeof(uri), "dir:%s/new-%u", root, round);
		assert_int_equal(pipe(start), 0);
		for (uint64_t id = 1; id <= 6; id++) {
			pid_t pid = fork();

			assert_true(pid >= 0);
			if (pid > 0)
				continue;
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(start[1]);
			/* All wait here, until the parent closes the other end. */
			if (read(start[0], &byte, 1) != 0)
				_exit(3);
			_exit(open_and_join(uri, id));
		}
		close(start[0]);
		close(start[1]);
		for (int i = 0; i < 6; i++) {
			int status;

			assert_true(wait(&status) > 0);
			assert_int_equal(status, 0);
		}

		struct cluster *cluster;
		struct cluster_member members[8];

		assert_int_equal(cluster_open(env_real(), uri, NULL, &cluster), 0);
		assert_int_equal(cluster_members(cluster, members, 8), 6);
		cluster_close(cluster);
	}
	real_end(root);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_changed_bit_of_a_head_is_noticed),
		cmocka_unit_test(a_directory_of_something_else_is_refused_untouched),
		cmocka_unit_test(a_missing_directory_is_made_with_those_above_it),
		cmocka_unit_test(a_path_that_is_a_file_is_refused),
		cmocka_unit_test(all_who_open_a_new_cluster_at_once_succeed),
	};
	int failed = store_conformance(&real_maker);

	failed += store_conformance(&simulated_maker);
	failed += cmocka_run_group_tests(tests, NULL, NULL);
	return failed;
}
