/*
 * test_fiber.c: fibers and their scheduler keep the promises of fiber.h
 *
 * Time is the test's own: an env whose clock stands still until the test moves it. Each fiber
 * writes letters into a trace, which shows who ran when.
 */
#include "base/base.h"
#include "base/env.h"
#include "base/fiber.h"
#include "seed.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define TRACE_BYTES 512

struct world {
	struct env env; /* first: the clock finds the world from it */
	int64_t now_ns;
	struct sched *sched;
	char trace[TRACE_BYTES];
	size_t trace_len;
	struct fiber_line line;
	struct fiber *sleeper;
	int result;
	int left; /* rounds that a fiber has to go */
};

static uint64_t seed;

static int64_t still_clock(struct env *env)
{
	return container_of(env, struct world, env)->now_ns;
}

static void begin_with(struct world *world, const struct sched_options *options)
{
	static const struct env_ops ops = {.now_ns = still_clock};

	*world = (struct world){.env = {.ops = &ops}, .now_ns = 1000};
	assert_int_equal(sched_create(&world->sched, &world->env, options), 0);
}

static void begin(struct world *world)
{
	begin_with(world, NULL);
}

static void end(struct world *world)
{
	sched_destroy(world->sched);
	assert_null(world->line.first);
}

static void trace(struct world *world, char letter)
{
	assert_true(world->trace_len < TRACE_BYTES - 1);
	world->trace[world->trace_len++] = letter;
}

static void spawn(struct world *world, void (*fn)(void *arg), const char *name)
{
	assert_int_equal(sched_spawn(world->sched, fn, world, name), 0);
}

static char own_letter(struct world *world)
{
	return fiber_name(fiber_self(world->sched))[0];
}

/* ---- running ---- */

static void trace_once(void *arg)
{
	trace(arg, own_letter(arg));
}

static void fibers_run_in_the_order_of_their_start(void **state)
{
	struct world world;

	begin(&world);
	assert_int_equal(sched_deadline_ns(world.sched), INT64_MAX);
	assert_int_equal(sched_run(world.sched), 0);
	spawn(&world, trace_once, "a");
	spawn(&world, trace_once, "b");
	spawn(&world, trace_once, "c");
	assert_int_equal(sched_fiber_count(world.sched), 3);
	assert_int_equal(sched_deadline_ns(world.sched), 0);
	assert_int_equal(sched_run(world.sched), 3);
	assert_string_equal(world.trace, "abc");
	assert_int_equal(sched_fiber_count(world.sched), 0);
	assert_null(fiber_self(world.sched));
	end(&world);
}

static void trace_and_yield(void *arg)
{
	struct world *world = arg;

	for (int i = 0; i < 3; i++) {
		trace(world, own_letter(world));
		fiber_yield(world->sched);
	}
}

static void who_yields_runs_again_in_the_next_call(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, trace_and_yield, "a");
	spawn(&world, trace_and_yield, "b");
	assert_int_equal(sched_run(world.sched), 2);
	assert_string_equal(world.trace, "ab");
	assert_int_equal(sched_deadline_ns(world.sched), 0);
	while (sched_run(world.sched) > 0)
		;
	assert_string_equal(world.trace, "ababab");
	end(&world);
}

static void spawn_two_more(void *arg)
{
	spawn(arg, trace_once, "y");
	spawn(arg, trace_once, "z");
	trace(arg, 'x');
}

static void a_fiber_started_by_a_fiber_runs_in_the_same_call(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, spawn_two_more, "x");
	assert_int_equal(sched_run(world.sched), 3);
	assert_string_equal(world.trace, "xyz");
	end(&world);
}

static void a_full_scheduler_refuses(void **state)
{
	struct world world;

	begin_with(&world, &(struct sched_options){.fibers_max = 2});
	spawn(&world, trace_once, "a");
	spawn(&world, trace_once, "b");
	assert_int_equal(sched_spawn(world.sched, trace_once, &world, "c"), -ENOBUFS);
	assert_int_equal(sched_spawns_refused(world.sched), 1);
	sched_run(world.sched);
	spawn(&world, trace_once, "d");
	sched_run(world.sched);
	assert_string_equal(world.trace, "abd");
	end(&world);
}

static void options_out_of_bounds_are_refused(void **state)
{
	static const struct sched_options bad[] = {
		{.fibers_max = SCHED_FIBERS_MAX_LIMIT + 1},
		{.stack_bytes = SCHED_STACK_BYTES_MIN - 1},
		{.stack_bytes = SIZE_MAX},
	};
	struct sched *sched;

	for (unsigned i = 0; i < ARRAY_COUNT(bad); i++)
		assert_int_equal(sched_create(&sched, env_real(), &bad[i]), -EINVAL);
}

/* ---- waiting ---- */

static void wait_forever(void *arg)
{
	struct world *world = arg;

	world->sleeper = fiber_self(world->sched);
	world->result = fiber_wait_until(world->sched, FIBER_FOREVER);
	world->sleeper = NULL;
	trace(world, own_letter(world));
}

static void a_wake_ends_a_wait(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, wait_forever, "a");
	assert_int_equal(sched_run(world.sched), 1);
	assert_int_equal(sched_deadline_ns(world.sched), INT64_MAX);
	world.result = 77;
	fiber_wake(world.sleeper);
	fiber_wake(world.sleeper);
	assert_int_equal(sched_deadline_ns(world.sched), 0);
	assert_int_equal(sched_run(world.sched), 1);
	assert_int_equal(world.result, 0);
	assert_string_equal(world.trace, "a");
	end(&world);
}

static void wake_the_sleeper(void *arg)
{
	struct world *world = arg;

	fiber_wake(fiber_self(world->sched)); /* nothing: it runs */
	fiber_wake(world->sleeper);
	trace(world, own_letter(world));
}

static void a_woken_fiber_runs_in_the_same_call(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, wait_forever, "a");
	spawn(&world, wake_the_sleeper, "b");
	assert_int_equal(sched_run(world.sched), 3);
	assert_string_equal(world.trace, "ba");
	end(&world);
}

static void wait_a_while(void *arg)
{
	struct world *world = arg;

	world->sleeper = fiber_self(world->sched);
	world->result = fiber_wait_until(world->sched, 2000);
}

static void a_wait_ends_at_its_deadline(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, wait_a_while, "a");
	sched_run(world.sched);
	assert_int_equal(sched_deadline_ns(world.sched), 2000);
	world.now_ns = 1999;
	assert_int_equal(sched_run(world.sched), 0);
	world.now_ns = 2000;
	assert_int_equal(sched_run(world.sched), 1);
	assert_int_equal(world.result, -ETIMEDOUT);
	assert_int_equal(sched_deadline_ns(world.sched), INT64_MAX);
	end(&world);
}

static void a_wake_before_the_deadline_disarms_it(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, wait_a_while, "a");
	sched_run(world.sched);
	fiber_wake(world.sleeper);
	world.now_ns = 5000;
	assert_int_equal(sched_run(world.sched), 1);
	assert_int_equal(world.result, 0);
	assert_int_equal(sched_run(world.sched), 0);
	end(&world);
}

static void sleep_once(void *arg)
{
	struct world *world = arg;

	world->sleeper = fiber_self(world->sched);
	world->result = fiber_sleep_until(world->sched, 3000);
}

static void a_sleep_goes_on_through_wakes(void **state)
{
	struct world world;

	begin(&world);
	world.result = 77;
	spawn(&world, sleep_once, "a");
	sched_run(world.sched);
	for (int i = 0; i < 3; i++) {
		fiber_wake(world.sleeper);
		sched_run(world.sched);
		assert_int_equal(world.result, 77);
	}
	world.now_ns = 3000;
	sched_run(world.sched);
	assert_int_equal(world.result, 0);
	end(&world);
}

/* ---- many timers ---- */

#define TIMERS 400

struct timed {
	struct world *world;
	int64_t deadline_ns;
	bool woken; /* by the test, before its deadline */
	int result;
	int64_t ended_ns;
	uint64_t ended_order;
	uint64_t *order;
	struct fiber *fiber;
};

static void wait_timed(void *arg)
{
	struct timed *timed = arg;

	timed->fiber = fiber_self(timed->world->sched);
	timed->result = fiber_wait_until(timed->world->sched, timed->deadline_ns);
	timed->ended_ns = timed->world->now_ns;
	timed->ended_order = (*timed->order)++;
}

static void check_timers(const struct timed *timed)
{
	for (int i = 0; i < TIMERS; i++) {
		assert_int_equal(timed[i].result, timed[i].woken ? 0 : -ETIMEDOUT);
		if (timed[i].woken)
			continue;
		assert_int_equal(timed[i].ended_ns, max_i64(timed[i].deadline_ns, 1000));
		/* Of one deadline, the first to wait was the first to wake. */
		for (int j = 0; j < i; j++) {
			if (!timed[j].woken && timed[j].deadline_ns == timed[i].deadline_ns)
				assert_true(timed[j].ended_order < timed[i].ended_order);
		}
	}
}

static void run_timers(uint64_t random)
{
	struct world world;
	struct timed timed[TIMERS];
	uint64_t order = 0;

	begin(&world);
	for (int i = 0; i < TIMERS; i++) {
		timed[i] = (struct timed){
			.world = &world,
			.deadline_ns = 1001 + (int64_t)seed_below(&random, 2000),
			.order = &order,
		};
		assert_int_equal(sched_spawn(world.sched, wait_timed, &timed[i], "timed"), 0);
	}
	sched_run(world.sched);
	while (sched_fiber_count(world.sched) > 0) {
		struct timed *chosen = &timed[seed_below(&random, TIMERS)];

		if (chosen->deadline_ns > world.now_ns && !chosen->woken) {
			chosen->woken = true;
			fiber_wake(chosen->fiber);
			sched_run(world.sched);
		}
		if (sched_deadline_ns(world.sched) == INT64_MAX)
			break;
		assert_true(sched_deadline_ns(world.sched) > world.now_ns);
		if (seed_below(&random, 2) == 0) {
			world.now_ns = sched_deadline_ns(world.sched);
			sched_run(world.sched);
		}
	}
	assert_int_equal(sched_fiber_count(world.sched), 0);
	check_timers(timed);
	end(&world);
}

static void timers_fire_in_order_whatever_is_woken_between(void **state)
{
	for (uint64_t run = 0; run < 10; run++)
		run_timers(seed + run);
}

/* ---- lines ---- */

static void stand_in_line(void *arg)
{
	struct world *world = arg;
	int64_t deadline_ns = own_letter(world) == 't' ? 2000 : FIBER_FOREVER;
	int err = fiber_line_wait(&world->line, world->sched, deadline_ns);

	if (err == 0)
		trace(world, own_letter(world));
	else
		trace(world, err == -ETIMEDOUT ? '-' : '!');
}

static void a_line_is_served_first_come_first_served(void **state)
{
	struct world world;

	begin(&world);
	assert_false(fiber_line_wake_one(&world.line));
	spawn(&world, stand_in_line, "a");
	spawn(&world, stand_in_line, "t");
	spawn(&world, stand_in_line, "b");
	spawn(&world, stand_in_line, "c");
	sched_run(world.sched);
	assert_true(fiber_line_wake_one(&world.line));
	sched_run(world.sched);
	assert_string_equal(world.trace, "a");
	world.now_ns = 2000; /* the second leaves from the middle of nothing: it is the first now */
	sched_run(world.sched);
	assert_string_equal(world.trace, "a-");
	fiber_line_wake_all(&world.line);
	sched_run(world.sched);
	assert_string_equal(world.trace, "a-bc");
	assert_false(fiber_line_wake_one(&world.line));
	end(&world);
}

static void who_gives_up_leaves_the_middle_of_the_line(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, stand_in_line, "a");
	spawn(&world, stand_in_line, "t");
	spawn(&world, stand_in_line, "b");
	spawn(&world, stand_in_line, "t");
	sched_run(world.sched);
	world.now_ns = 2000;
	sched_run(world.sched);
	fiber_line_wake_all(&world.line);
	sched_run(world.sched);
	assert_string_equal(world.trace, "--ab");
	end(&world);
}

/* ---- the end ---- */

static void destroying_cancels_every_wait(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, stand_in_line, "a");
	spawn(&world, stand_in_line, "t");
	spawn(&world, wait_forever, "w");
	sched_run(world.sched);
	end(&world);
	assert_int_equal(world.result, -ECANCELED);
	assert_string_equal(world.trace, "!!w");
}

static void wait_again_after_cancel(void *arg)
{
	struct world *world = arg;

	while (world->left-- > 0)
		world->result = fiber_wait_until(world->sched, FIBER_FOREVER);
	assert_int_equal(sched_spawn(world->sched, trace_once, world, "late"), -ECANCELED);
	assert_int_equal(fiber_sleep_until(world->sched, INT64_MAX), -ECANCELED);
	fiber_yield(world->sched); /* no wait: it returns, one round later */
	trace(world, 'e');
}

static void a_cancelled_scheduler_neither_waits_nor_spawns(void **state)
{
	struct world world;

	begin(&world);
	world.left = 5;
	spawn(&world, wait_again_after_cancel, "a");
	sched_run(world.sched);
	assert_false(sched_is_cancelled(world.sched));
	sched_cancel(world.sched);
	assert_true(sched_is_cancelled(world.sched));
	assert_int_equal(sched_run(world.sched), 1);
	assert_int_equal(world.left, -1);
	assert_int_equal(world.result, -ECANCELED);
	end(&world);
	assert_string_equal(world.trace, "e");
}

static void a_fiber_never_run_ends_cancelled_too(void **state)
{
	struct world world;

	begin(&world);
	spawn(&world, wait_forever, "w");
	end(&world);
	assert_int_equal(world.result, -ECANCELED);
}

/* ---- stacks ---- */

/* Touches every page of so many bytes of stack, from the top down, as calls would. */
static void use_stack(size_t bytes)
{
	volatile char *memory = __builtin_alloca(bytes);

	for (size_t left = bytes; left >= PAGE_BYTES; left -= PAGE_BYTES)
		memory[left - 1] = 1;
}

static void use_half_the_stack(void *arg)
{
	struct world *world = arg;

	use_stack(SCHED_STACK_BYTES_DEFAULT / 2);
	trace(world, 's');
}

static void stacks_are_used_again(void **state)
{
	struct world world;

	begin_with(&world, &(struct sched_options){.fibers_max = 4});
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 4; i++)
			spawn(&world, use_half_the_stack, "s");
		sched_run(world.sched);
		assert_int_equal(sched_fiber_count(world.sched), 0);
		assert_int_equal(world.trace_len, 4);
		world.trace_len = 0;
	}
	end(&world);
}

static void overflow(void *arg)
{
	use_stack(SCHED_STACK_BYTES_DEFAULT + PAGE_BYTES);
}

static void an_overflow_is_a_fault_not_a_surprise(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		static const struct rlimit no_core = {0, 0};
		struct world world;

		(void)setrlimit(RLIMIT_CORE, &no_core);
		(void)signal(SIGSEGV, SIG_DFL);
		(void)close(STDERR_FILENO); /* a sanitizer's report is no news here */
		begin(&world);
		spawn(&world, overflow, "deep");
		sched_run(world.sched);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
}

/* ---- all at once ---- */

#define CROWD  64
#define ROUNDS 200

struct crowd {
	struct world *world;
	uint64_t random;
	uint64_t done;
	struct fiber_line lines[4];
};

/* Waits in all ways there are; wakes others, or time passes. */
static void mingle(void *arg)
{
	struct crowd *crowd = arg;
	struct world *world = crowd->world;

	for (int round = 0; round < ROUNDS; round++) {
		struct fiber_line *line = &crowd->lines[seed_below(&crowd->random, 4)];
		int64_t soon_ns = world->now_ns + (int64_t)seed_below(&crowd->random, 100);
		volatile uint64_t mark = seed_next(&crowd->random);
		uint64_t expected = mark;
		int err = 0;

		switch (seed_below(&crowd->random, 5)) {
		case 0:
			fiber_yield(world->sched);
			break;
		case 1:
			err = fiber_sleep_until(world->sched, soon_ns);
			assert_true(err == 0 && world->now_ns >= soon_ns);
			break;
		case 2:
			err = fiber_line_wait(line, world->sched, soon_ns);
			assert_true(err == 0 || (err == -ETIMEDOUT && world->now_ns >= soon_ns));
			break;
		case 3:
			fiber_line_wake_one(line);
			break;
		default:
			fiber_line_wake_all(line);
			break;
		}
		assert_true(mark == expected);
	}
	crowd->done++;
}

/* Returns a number in which the whole run shows. */
static uint64_t run_crowd(uint64_t crowd_seed)
{
	struct world world;
	struct crowd crowd = {.world = &world, .random = crowd_seed};
	uint64_t resumed = 0;

	begin(&world);
	for (int i = 0; i < CROWD; i++)
		assert_int_equal(sched_spawn(world.sched, mingle, &crowd, "mingle"), 0);
	while (sched_fiber_count(world.sched) > 0) {
		resumed = resumed * 31 + sched_run(world.sched);
		assert_true(sched_deadline_ns(world.sched) != INT64_MAX ||
			    sched_fiber_count(world.sched) == 0);
		world.now_ns = max_i64(world.now_ns,
				       min_i64(sched_deadline_ns(world.sched), world.now_ns + 10));
	}
	assert_int_equal(crowd.done, CROWD);
	for (unsigned i = 0; i < ARRAY_COUNT(crowd.lines); i++)
		assert_null(crowd.lines[i].first);
	end(&world);
	return resumed ^ crowd.random;
}

static void the_same_seed_gives_the_same_run(void **state)
{
	assert_true(run_crowd(seed) == run_crowd(seed));
}

static void *run_crowd_in_thread(void *arg)
{
	*(uint64_t *)arg = run_crowd(seed);
	return NULL;
}

static void schedulers_of_two_threads_do_not_meet(void **state)
{
	uint64_t results[2] = {1, 2};
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, run_crowd_in_thread, &results[i]), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_true(results[0] == results[1]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(fibers_run_in_the_order_of_their_start),
		cmocka_unit_test(who_yields_runs_again_in_the_next_call),
		cmocka_unit_test(a_fiber_started_by_a_fiber_runs_in_the_same_call),
		cmocka_unit_test(a_full_scheduler_refuses),
		cmocka_unit_test(options_out_of_bounds_are_refused),
		cmocka_unit_test(a_wake_ends_a_wait),
		cmocka_unit_test(a_woken_fiber_runs_in_the_same_call),
		cmocka_unit_test(a_wait_ends_at_its_deadline),
		cmocka_unit_test(a_wake_before_the_deadline_disarms_it),
		cmocka_unit_test(a_sleep_goes_on_through_wakes),
		cmocka_unit_test(timers_fire_in_order_whatever_is_woken_between),
		cmocka_unit_test(a_line_is_served_first_come_first_served),
		cmocka_unit_test(who_gives_up_leaves_the_middle_of_the_line),
		cmocka_unit_test(destroying_cancels_every_wait),
		cmocka_unit_test(a_cancelled_scheduler_neither_waits_nor_spawns),
		cmocka_unit_test(a_fiber_never_run_ends_cancelled_too),
		cmocka_unit_test(stacks_are_used_again),
		cmocka_unit_test(an_overflow_is_a_fault_not_a_surprise),
		cmocka_unit_test(the_same_seed_gives_the_same_run),
		cmocka_unit_test(schedulers_of_two_threads_do_not_meet),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
