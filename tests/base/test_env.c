/*
 * test_env.c: the real environment keeps the promises of env.h
 */
#include "base/base.h"
#include "base/env.h"

#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 256

struct world {
	struct env *env;
	char dir[PATH_BYTES];
};

/* The path of a name in the test's own directory. */
#define AT(world, name) at((char[PATH_BYTES]){0}, world, name)

static const char *at(char path[PATH_BYTES], const struct world *world, const char *name)
{
	assert_true(snprintf(path, PATH_BYTES, "%s/%s", world->dir, name) < PATH_BYTES);
	return path;
}

static int begin(void **state)
{
	struct world *world = calloc(1, sizeof(*world));

	assert_non_null(world);
	world->env = env_real();
	(void)snprintf(world->dir, PATH_BYTES, "/tmp/afar-test-env-XXXXXX");
	assert_non_null(mkdtemp(world->dir));
	*state = world;
	return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	return remove(path);
}

static int end(void **state)
{
	struct world *world = *state;

	assert_int_equal(nftw(world->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
	free(world);
	return 0;
}

static int entries_with_dot(const struct world *world)
{
	DIR *dir = opendir(world->dir);
	struct dirent *entry;
	int count = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir))) /* NOLINT(concurrency-mt-unsafe) */
		count += entry->d_name[0] == '.';
	closedir(dir);
	return count - 2; /* without "." and ".." */
}

static void assert_holds(const struct world *world, const char *name, const char *expected)
{
	char buf[64] = {0};
	size_t len = 0;

	assert_int_equal(env_file_read(world->env, AT(world, name), buf, sizeof(buf), &len), 0);
	assert_int_equal(len, strlen(expected));
	assert_memory_equal(buf, expected, len);
}

static void the_clock_never_goes_back(void **state)
{
	struct env *env = env_real();
	int64_t before = env_now_ns(env);

	for (int i = 0; i < 10000; i++) {
		int64_t now = env_now_ns(env);

		assert_true(now >= before);
		before = now;
	}
}

static void numbers_do_not_repeat(void **state)
{
	enum { COUNT = 1000 };
	struct env *env = env_real();
	uint64_t numbers[COUNT];

	for (int i = 0; i < COUNT; i++) {
		numbers[i] = env_random(env);
		for (int j = 0; j < i; j++)
			assert_true(numbers[i] != numbers[j]);
	}
	for (int i = 0; i < 100; i++)
		assert_true(env_random_below(env, 3) < 3);
}

static void a_forked_child_draws_other_numbers(void **state)
{
	struct env *env = env_real();
	uint64_t childs = 0;
	uint64_t own;
	int pipes[2];
	pid_t pid;

	env_random(env); /* fills the buffer that the child inherits */
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		childs = env_random(env);
		_exit(write(pipes[1], &childs, sizeof(childs)) == sizeof(childs) ? 0 : 1);
	}
	own = env_random(env);
	assert_int_equal(read(pipes[0], &childs, sizeof(childs)), sizeof(childs));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(own != childs);
	close(pipes[0]);
	close(pipes[1]);
}

static void a_file_is_read_as_it_was_written(void **state)
{
	struct world *world = *state;

	assert_int_equal(env_file_write(world->env, AT(world, "truth"), "first", 5), 0);
	assert_holds(world, "truth", "first");
	assert_int_equal(env_file_write(world->env, AT(world, "truth"), "second!", 7), 0);
	assert_holds(world, "truth", "second!");
	assert_int_equal(env_file_write(world->env, AT(world, "truth"), "", 0), 0);
	assert_holds(world, "truth", "");
	assert_int_equal(entries_with_dot(world), 0);
}

static void a_read_says_what_is_wrong(void **state)
{
	struct world *world = *state;
	char buf[4];
	size_t len = 77;

	assert_int_equal(env_file_read(world->env, AT(world, "none"), buf, 4, &len), -ENOENT);
	assert_int_equal(env_file_write(world->env, AT(world, "five"), "12345", 5), 0);
	assert_int_equal(env_file_read(world->env, AT(world, "five"), buf, 4, &len), -EMSGSIZE);
	assert_int_equal(env_file_read(world->env, world->dir, buf, 4, &len), -EISDIR);
	assert_int_equal(len, 77);
	assert_int_equal(env_file_write(world->env, AT(world, "four"), "1234", 4), 0);
	assert_int_equal(env_file_read(world->env, AT(world, "four"), buf, 4, &len), 0);
	assert_int_equal(len, 4);
}

static void a_failed_write_leaves_nothing_behind(void **state)
{
	struct world *world = *state;

	assert_int_equal(env_file_write(world->env, AT(world, "no/such"), "x", 1), -ENOENT);
	assert_int_equal(env_dir_make(world->env, AT(world, "taken/inner")), 0);
	assert_int_equal(env_file_write(world->env, AT(world, "taken"), "x", 1), -EISDIR);
	assert_int_equal(entries_with_dot(world), 0);
}

static void a_file_is_created_once(void **state)
{
	struct world *world = *state;

	assert_int_equal(env_file_create(world->env, AT(world, "once"), "mine", 4), 0);
	assert_int_equal(env_file_create(world->env, AT(world, "once"), "theirs", 6), -EEXIST);
	assert_holds(world, "once", "mine");
	assert_int_equal(entries_with_dot(world), 0);
	assert_int_equal(env_file_remove(world->env, AT(world, "once")), 0);
	assert_int_equal(env_file_remove(world->env, AT(world, "once")), -ENOENT);
	assert_int_equal(env_file_create(world->env, AT(world, "once"), "theirs", 6), 0);
}

struct racer {
	struct world *world;
	pthread_barrier_t *start;
	int won;
};

static void *race(void *arg)
{
	struct racer *racer = arg;

	for (int i = 0; i < 20; i++) {
		char name[16];

		(void)snprintf(name, sizeof(name), "race-%d", i);
		pthread_barrier_wait(racer->start);
		racer->won += env_file_create(env_real(), AT(racer->world, name), "x", 1) == 0;
	}
	return NULL;
}

static void of_two_who_create_at_once_one_succeeds(void **state)
{
	struct world *world = *state;
	pthread_barrier_t start;
	struct racer racers[2] = {{.world = world, .start = &start},
				  {.world = world, .start = &start}};
	pthread_t threads[2];

	pthread_barrier_init(&start, NULL, 2);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	pthread_barrier_destroy(&start);
	assert_int_equal(racers[0].won + racers[1].won, 20);
}

static void directories_are_made_with_those_above(void **state)
{
	struct world *world = *state;
	struct stat status;

	assert_int_equal(env_dir_make(world->env, AT(world, "a/b//c/")), 0);
	assert_int_equal(env_dir_make(world->env, AT(world, "a/b/c")), 0);
	assert_int_equal(stat(AT(world, "a/b/c"), &status), 0);
	assert_true(S_ISDIR(status.st_mode));
	assert_int_equal(status.st_mode & 0777, 0700);
	assert_int_equal(env_file_write(world->env, AT(world, "file"), "x", 1), 0);
	assert_int_equal(env_dir_make(world->env, AT(world, "file/inner")), -ENOTDIR);
	assert_int_equal(env_dir_make(world->env, AT(world, "file")), -ENOTDIR);
	assert_int_equal(env_dir_make(world->env, ""), -ENOENT);
}

static void append_name(void *context, const char *name)
{
	char *names = context;

	size_t len = strlen(names);

	(void)snprintf(names + len, PATH_BYTES - len, "%s ", name);
}

static void a_listing_is_in_byte_order_without_temporaries(void **state)
{
	struct world *world = *state;
	static const char *const made[] = {"b", "a10", "a2", "B", ".tmp-left-by-a-crash"};
	char names[PATH_BYTES] = "";

	assert_int_equal(env_dir_list(world->env, world->dir, append_name, names), 0);
	assert_string_equal(names, "");
	for (unsigned i = 0; i < ARRAY_COUNT(made); i++)
		assert_int_equal(env_file_write(world->env, AT(world, made[i]), "", 0), 0);
	assert_int_equal(env_dir_list(world->env, world->dir, append_name, names), 0);
	assert_string_equal(names, "B a10 a2 b ");
	assert_int_equal(env_dir_list(world->env, AT(world, "none"), append_name, names), -ENOENT);
}

/* Atomic for the thread sanitizer, which does not know that file locks order anything; counted up
 * by a load and a store, so that two at once lose counts. */
struct counting {
	struct world *world;
	_Atomic int64_t shared;
};

static void *count_under_lock(void *arg)
{
	struct counting *counting = arg;

	for (int i = 0; i < 500; i++) {
		int lock = env_lock(env_real(), AT(counting->world, "lock"));
		int64_t before;

		if (lock < 0)
			return NULL;
		before = atomic_load(&counting->shared);
		sched_yield();
		atomic_store(&counting->shared, before + 1);
		env_unlock(env_real(), lock);
	}
	return NULL;
}

static void a_lock_excludes_threads_of_one_process(void **state)
{
	struct world *world = *state;
	struct counting counting = {.world = world};
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_under_lock, &counting), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(counting.shared, 1500);
}

static void the_lock_of_a_dead_process_is_free(void **state)
{
	struct world *world = *state;
	int lock;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(env_lock(world->env, AT(world, "lock")) >= 0 ? 0 : 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	lock = env_lock(world->env, AT(world, "lock"));
	assert_true(lock >= 0);
	env_unlock(world->env, lock);
	assert_int_equal(env_lock(world->env, AT(world, "no/such/lock")), -ENOENT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_clock_never_goes_back),
		cmocka_unit_test(numbers_do_not_repeat),
		cmocka_unit_test(a_forked_child_draws_other_numbers),
		cmocka_unit_test_setup_teardown(a_file_is_read_as_it_was_written, begin, end),
		cmocka_unit_test_setup_teardown(a_read_says_what_is_wrong, begin, end),
		cmocka_unit_test_setup_teardown(a_failed_write_leaves_nothing_behind, begin, end),
		cmocka_unit_test_setup_teardown(a_file_is_created_once, begin, end),
		cmocka_unit_test_setup_teardown(of_two_who_create_at_once_one_succeeds, begin, end),
		cmocka_unit_test_setup_teardown(directories_are_made_with_those_above, begin, end),
		cmocka_unit_test_setup_teardown(a_listing_is_in_byte_order_without_temporaries,
						begin, end),
		cmocka_unit_test_setup_teardown(a_lock_excludes_threads_of_one_process, begin, end),
		cmocka_unit_test_setup_teardown(the_lock_of_a_dead_process_is_free, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
