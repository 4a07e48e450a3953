/*
 * test_futex.c: sleeping on a word
 */
#include "base/base.h"
#include "base/env.h"
#include "base/futex.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

struct sleeper {
	_Atomic uint32_t word;
	_Atomic int result; /* 1 until the wait has ended */
	pthread_t thread;
};

static void a_deadline_ends_a_sleep(void **state)
{
	_Atomic uint32_t word = 5;
	int64_t deadline_ns = env_now_ns(env_real()) + NS_PER_MS;

	assert_int_equal(futex_wait_until(&word, 5, 0), -ETIMEDOUT);
	assert_int_equal(futex_wait_until(&word, 5, deadline_ns), -ETIMEDOUT);
	assert_true(env_now_ns(env_real()) >= deadline_ns);
}

static void another_value_is_no_reason_to_sleep(void **state)
{
	_Atomic uint32_t word = 5;

	assert_int_equal(futex_wait_until(&word, 4, INT64_MAX), -EAGAIN);
}

static void *sleep_while_zero(void *arg)
{
	struct sleeper *sleeper = arg;
	int err;

	do
		err = futex_wait_until(&sleeper->word, 0, INT64_MAX);
	while (err == -EAGAIN && atomic_load(&sleeper->word) == 0);
	atomic_store(&sleeper->result, err);
	return NULL;
}

static void a_wake_ends_all_sleeps(void **state)
{
	struct sleeper sleeper = {.result = 1};
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, sleep_while_zero, &sleeper), 0);
	atomic_store(&sleeper.word, 1);
	futex_wake(&sleeper.word);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(sleeper.result, -EAGAIN);
}

static void do_nothing(int number)
{
}

static void a_signal_ends_a_sleep(void **state)
{
	struct sleeper sleeper = {.result = 1};
	struct sigaction action = {.sa_handler = do_nothing};
	struct sigaction before;

	assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
	assert_int_equal(pthread_create(&sleeper.thread, NULL, sleep_while_zero, &sleeper), 0);
	/* Again and again: the first may come before the thread sleeps. */
	while (atomic_load(&sleeper.result) == 1) {
		assert_int_equal(pthread_kill(sleeper.thread, SIGUSR1), 0);
		cpu_relax();
	}
	assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
	assert_int_equal(sleeper.result, -EINTR);
	assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_deadline_ends_a_sleep),
		cmocka_unit_test(another_value_is_no_reason_to_sleep),
		cmocka_unit_test(a_wake_ends_all_sleeps),
		cmocka_unit_test(a_signal_ends_a_sleep),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
