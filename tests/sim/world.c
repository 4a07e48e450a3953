/*
 * The simulated world: order of events, machines and their clocks, files and locks, crashes.
 */
#include "base/world.h"

#include "base/base.h"
#include "base/env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* A program that notes when it was polled, by its own clock, and asks for the next poll. */
struct ticker {
	struct world *world;
	struct env *env;
	int64_t period_ns;
	int64_t due_ns;
	unsigned polls;
	unsigned writes_each_poll;
	int64_t latest_late_ns;
	int last_write;
	bool crashed;
};

static unsigned ticker_poll(void *context)
{
	struct ticker *ticker = context;
	int64_t now_ns = env_now_ns(ticker->env);

	if (now_ns < ticker->due_ns)
		return 0;
	if (ticker->polls > 0)
		ticker->latest_late_ns = max_i64(ticker->latest_late_ns, now_ns - ticker->due_ns);
	ticker->polls++;
	ticker->due_ns = now_ns + ticker->period_ns;
	for (unsigned i = 0; i < ticker->writes_each_poll; i++) {
		char path[8] = {'/', (char)('a' + i)};

		ticker->last_write =
			env_file_write(ticker->env, path, &ticker->polls, sizeof(ticker->polls));
	}
	return 1;
}

static int64_t ticker_deadline_ns(void *context)
{
	return ((struct ticker *)context)->due_ns;
}

static void ticker_crashed(void *context)
{
	((struct ticker *)context)->crashed = true;
}

static uint32_t ticker_start(struct world *world, struct ticker *ticker, int64_t period_ns)
{
	uint32_t machine = world_machine_add(world);
	struct world_program program = {ticker_poll, ticker_deadline_ns, ticker_crashed, ticker};

	*ticker = (struct ticker){
		.world = world, .env = world_env(world, machine), .period_ns = period_ns};
	world_boot(world, machine, &program);
	return machine;
}

static struct world *open_world(uint64_t seed)
{
	struct world *world;

	assert_int_equal(world_open(seed, &world), 0);
	return world;
}

struct noted {
	struct world_event event;
	char name;
	char *log;
};

static void note(struct world_event *event)
{
	struct noted *noted = event->context;

	strncat(noted->log, &noted->name, 1);
}

static void events_run_by_time_and_then_by_the_order_of_scheduling(void **state)
{
	struct world *world = open_world(1);
	char log[16] = "";
	struct noted events[5];
	const int64_t at_ns[5] = {30, 10, 20, 10, 20};

	for (unsigned i = 0; i < ARRAY_COUNT(events); i++) {
		events[i] = (struct noted){{.run = note}, (char)('a' + i), log};
		events[i].event.context = &events[i];
		world_schedule(world, &events[i].event, at_ns[i]);
	}
	world_cancel(world, &events[2].event);
	world_schedule(world, &events[1].event, 25);
	world_run_until(world, 20);
	assert_string_equal(log, "de");
	assert_int_equal(world_now_ns(world), 20);
	world_run_until(world, 100);
	assert_string_equal(log, "deba");
	assert_int_equal(world_now_ns(world), 100);
	assert_false(world_step(world));
	world_close(world);
}

static void the_queue_sorts_thousands_of_events_with_cancellations(void **state)
{
	enum { COUNT = 5000 };
	static struct noted events[COUNT];
	static char log[COUNT + 1];
	struct world *world = open_world(2);
	int64_t last_ns = 0;

	memset(log, 0, sizeof(log));
	for (unsigned i = 0; i < COUNT; i++) {
		events[i] = (struct noted){{.run = note}, 'x', log};
		events[i].event.context = &events[i];
		world_schedule(world, &events[i].event, (int64_t)world_random_below(world, 10000));
	}
	for (unsigned i = 0; i < COUNT; i += 3)
		world_cancel(world, &events[i].event);
	for (unsigned i = 0; i < COUNT - (COUNT + 2) / 3; i++) {
		assert_true(world_step(world));
		assert_true(world_now_ns(world) >= last_ns);
		last_ns = world_now_ns(world);
	}
	assert_false(world_step(world));
	world_close(world);
}

static void a_program_is_polled_when_its_own_clock_says_so(void **state)
{
	struct world *world = open_world(3);
	struct ticker tickers[8];

	for (unsigned i = 0; i < ARRAY_COUNT(tickers); i++)
		ticker_start(world, &tickers[i], 10 * NS_PER_MS);
	world_run_until(world, 10 * NS_PER_S);
	for (unsigned i = 0; i < ARRAY_COUNT(tickers); i++) {
		/* A thousand periods by clocks that run up to one percent fast or slow. */
		assert_in_range(tickers[i].polls, 985, 1015);
		assert_true(tickers[i].latest_late_ns < 100 * NS_PER_US);
	}
	assert_int_not_equal(env_now_ns(tickers[0].env), env_now_ns(tickers[1].env));
	for (unsigned i = 0; i < ARRAY_COUNT(tickers); i++)
		world_crash(world, i);
	world_close(world);
}

static void a_paused_machine_is_not_polled_until_the_pause_is_over(void **state)
{
	struct world *world = open_world(4);
	struct ticker ticker;
	uint32_t machine = ticker_start(world, &ticker, NS_PER_MS);
	unsigned polls;

	world_run_until(world, NS_PER_S);
	polls = ticker.polls;
	world_pause(world, machine, 3 * NS_PER_S);
	world_wake(world, machine);
	assert_false(world_is_running(world, machine));
	assert_true(world_is_up(world, machine));
	world_run_until(world, 3 * NS_PER_S - 1);
	assert_int_equal(ticker.polls, polls);
	assert_int_equal(world_ran_last_ns(world, machine), NS_PER_S);
	world_run_until(world, 3 * NS_PER_S + NS_PER_MS);
	assert_true(ticker.polls > polls);
	world_crash(world, machine);
	world_close(world);
}

static void files_survive_a_crash_and_dead_machines_write_none(void **state)
{
	struct world *world = open_world(5);
	struct ticker ticker;
	uint32_t machine = ticker_start(world, &ticker, NS_PER_S);
	struct env *env = world_env(world, machine);
	unsigned found = 0;
	size_t len_bytes;

	ticker.writes_each_poll = 1;
	world_run_until(world, NS_PER_MS);
	assert_int_equal(ticker.polls, 1);
	world_crash(world, machine);
	assert_true(ticker.crashed);
	assert_int_equal(env_file_write(env, "/a", "", 0), -EIO);
	assert_int_equal(env_file_read(env, "/a", &found, sizeof(found), &len_bytes), -EIO);

	ticker_start(world, &(struct ticker){0}, NS_PER_S); /* another machine: other files */
	world_boot(
		world, machine,
		&(struct world_program){ticker_poll, ticker_deadline_ns, ticker_crashed, &ticker});
	assert_int_equal(env_file_read(env, "/a", &found, sizeof(found), &len_bytes), 0);
	assert_int_equal(found, 1);
	assert_int_equal(
		env_file_read(world_env(world, 1), "/a", &found, sizeof(found), &len_bytes),
		-ENOENT);
	world_crash(world, 0);
	world_crash(world, 1);
	world_close(world);
}

static void a_crash_in_the_middle_of_a_poll_lets_nothing_out_behind_it(void **state)
{
	unsigned before = 0, after = 0;

	for (uint64_t seed = 0; seed < 32; seed++) {
		struct world *world = open_world(seed);
		struct ticker ticker;
		uint32_t machine = ticker_start(world, &ticker, NS_PER_S);
		struct env *env = world_env(world, machine);
		unsigned found;
		size_t len_bytes;

		ticker.writes_each_poll = 5;
		world_crash_within(world, machine, 3);
		world_run_until(world, NS_PER_MS);
		assert_true(ticker.crashed);
		assert_int_equal(ticker.last_write, -EIO);
		world_boot(world, machine,
			   &(struct world_program){ticker_poll, ticker_deadline_ns, ticker_crashed,
						   &ticker});
		assert_int_equal(env_file_read(env, "/b", &found, sizeof(found), &len_bytes), 0);
		if (env_file_read(env, "/c", &found, sizeof(found), &len_bytes) == 0)
			after++; /* the crash came just behind the write's rename */
		else
			before++;
		assert_int_equal(env_file_read(env, "/d", &found, sizeof(found), &len_bytes),
				 -ENOENT);
		world_crash(world, machine);
		world_close(world);
	}
	assert_true(before > 0 && after > 0);
}

static void join_names(void *context, const char *name)
{
	strcat(strcat(context, name), " ");
}

static void the_shared_folder_is_one_for_all_machines(void **state)
{
	struct world *world = open_world(6);
	struct ticker tickers[2];
	char names[64] = "";
	char bytes[4];
	size_t len_bytes;
	struct env *one, *two;

	ticker_start(world, &tickers[0], NS_PER_S);
	ticker_start(world, &tickers[1], NS_PER_S);
	one = world_env(world, 0);
	two = world_env(world, 1);
	assert_int_equal(env_file_write(one, "/shared/c/x", "1", 1), -ENOENT);
	assert_int_equal(env_dir_make(one, "/shared/c/d"), 0);
	assert_int_equal(env_dir_make(two, "/shared/c/d"), 0);
	assert_int_equal(env_file_create(one, "/shared/c/x", "12", 2), 0);
	assert_int_equal(env_file_create(two, "/shared/c/x", "3", 1), -EEXIST);
	assert_int_equal(env_file_read(two, "/shared/c/x", bytes, 1, &len_bytes), -EMSGSIZE);
	assert_int_equal(env_file_read(two, "/shared/c/x", bytes, 4, &len_bytes), 0);
	assert_int_equal(len_bytes, 2);
	assert_int_equal(env_file_write(two, "/shared/c/b", "", 0), 0);
	assert_int_equal(env_file_write(two, "/shared/c/d/y", "", 0), 0);
	assert_int_equal(env_file_write(two, "/shared/c/.hidden", "", 0), 0);
	assert_int_equal(env_dir_list(one, "/shared/c", join_names, names), 0);
	assert_string_equal(names, "b d x ");
	assert_int_equal(env_file_remove(one, "/shared/c/b"), 0);
	assert_int_equal(env_file_remove(two, "/shared/c/b"), -ENOENT);
	world_fail_files(world, 1, -ENOSPC);
	assert_int_equal(env_file_write(two, "/shared/c/b", "", 0), -ENOSPC);
	world_crash(world, 0);
	world_crash(world, 1);
	world_close(world);
}

static void the_lock_of_a_dead_machine_is_free(void **state)
{
	struct world *world = open_world(7);
	struct ticker tickers[2];
	int lock;

	ticker_start(world, &tickers[0], NS_PER_S);
	ticker_start(world, &tickers[1], NS_PER_S);
	assert_true(env_lock(world_env(world, 0), "/shared/lock") >= 0);
	world_crash(world, 0);
	lock = env_lock(world_env(world, 1), "/shared/lock");
	assert_true(lock >= 0);
	env_unlock(world_env(world, 0), lock); /* a ghost's unlock takes nothing from the living */
	env_unlock(world_env(world, 1), lock);
	assert_int_equal(env_lock(world_env(world, 1), "/shared/lock"), lock);
	world_crash(world, 1);
	world_close(world);
}

static uint64_t hash_of_a_run(uint64_t seed)
{
	struct world *world = open_world(seed);
	struct ticker tickers[4];
	uint64_t hash;

	for (uint32_t i = 0; i < ARRAY_COUNT(tickers); i++) {
		ticker_start(world, &tickers[i],
			     NS_PER_MS + (int64_t)world_random_below(world, NS_PER_MS));
		world_slow(world, i, 100 * NS_PER_US);
	}
	world_run_until(world, NS_PER_S);
	for (uint32_t i = 0; i < ARRAY_COUNT(tickers); i++)
		world_trace(world, env_random(tickers[i].env));
	hash = world_trace_hash(world);
	for (uint32_t i = 0; i < ARRAY_COUNT(tickers); i++)
		world_crash(world, i);
	world_close(world);
	return hash;
}

static void one_seed_gives_one_run_and_another_seed_another(void **state)
{
	assert_int_equal(hash_of_a_run(8), hash_of_a_run(8));
	assert_int_not_equal(hash_of_a_run(8), hash_of_a_run(9));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(events_run_by_time_and_then_by_the_order_of_scheduling),
		cmocka_unit_test(the_queue_sorts_thousands_of_events_with_cancellations),
		cmocka_unit_test(a_program_is_polled_when_its_own_clock_says_so),
		cmocka_unit_test(a_paused_machine_is_not_polled_until_the_pause_is_over),
		cmocka_unit_test(files_survive_a_crash_and_dead_machines_write_none),
		cmocka_unit_test(a_crash_in_the_middle_of_a_poll_lets_nothing_out_behind_it),
		cmocka_unit_test(the_shared_folder_is_one_for_all_machines),
		cmocka_unit_test(the_lock_of_a_dead_machine_is_free),
		cmocka_unit_test(one_seed_gives_one_run_and_another_seed_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
