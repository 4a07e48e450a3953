/*
 * test_fork.c: after a fork each process has its memory as of that moment
 */
#include "program.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE_BYTES 4096u

static struct program_options options_of(unsigned way)
{
	return (struct program_options){
		.pages = 200, .limit_pages = 48, .staged = way / 2 == 1, .no_move = way % 2 == 1};
}

static void write_all(struct program *program)
{
	for (size_t page = 0; page < program->options.pages; page++)
		oracle_write(&program->oracle, page);
}

/* The child looks at everything, changes much, and looks again. */
__attribute__((noreturn)) static void live_in_child(struct program *program)
{
	oracle_check_all(&program->oracle);
	program->random ^= 0x5555;
	oracle_work(&program->oracle, &program->random, 0, 1, 300);
	oracle_check_all(&program->oracle);
	_exit(0);
}

static void parent_and_child_each_keep_their_moment(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct program_options options = options_of(way);
		struct program program;
		pid_t child;

		program_begin(&program, &options);
		write_all(&program);
		oracle_work(&program.oracle, &program.random, 0, 1, 100);
		child = program_fork(&program);
		if (child == 0)
			live_in_child(&program);
		oracle_work(&program.oracle, &program.random, 0, 1, 300);
		oracle_check_all(&program.oracle);
		expect_success(child);
		/* Shared pages and slots are ours alone again. */
		oracle_work(&program.oracle, &program.random, 0, 1, 300);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

/* Deterministic: the parent overwrites all that is far before the child looks. */
static void what_the_parent_writes_later_is_not_seen_by_the_child(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct program_options options = options_of(way);
		struct program program;
		char go = 'g';
		int ends[2];
		pid_t child;

		program_begin(&program, &options);
		assert_int_equal(pipe(ends), 0);
		write_all(&program);
		child = program_fork(&program);
		if (child == 0) {
			if (read(ends[0], &go, 1) != 1)
				_exit(1);
			live_in_child(&program);
		}
		/* Every slot of before is dropped here, and taken anew by other pages. */
		for (unsigned round = 0; round < 4; round++)
			write_all(&program);
		assert_int_equal(write(ends[1], &go, 1), 1);
		expect_success(child);
		oracle_check_all(&program.oracle);
		close(ends[0]);
		close(ends[1]);
		program_end(&program);
	}
}

static void a_grandchild_keeps_its_moment_too(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct program_options options = options_of(way);
		struct program program;
		pid_t child;

		program_begin(&program, &options);
		write_all(&program);
		child = program_fork(&program);
		if (child == 0) {
			pid_t grandchild;

			oracle_work(&program.oracle, &program.random, 0, 1, 150);
			grandchild = program_fork(&program);
			if (grandchild == 0)
				live_in_child(&program);
			oracle_work(&program.oracle, &program.random, 0, 1, 150);
			oracle_check_all(&program.oracle);
			expect_success(grandchild);
			_exit(0);
		}
		oracle_work(&program.oracle, &program.random, 0, 1, 150);
		expect_success(child);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

struct noise {
	struct oracle oracle;
	uint64_t random;
	_Atomic bool stop, begun;
};

static void *make_noise(void *context)
{
	struct noise *noise = context;

	while (!noise->stop) {
		oracle_work(&noise->oracle, &noise->random, 0, 1, 10);
		noise->begun = true;
	}
	return NULL;
}

static void forks_under_load_keep_their_moment(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct program_options options = options_of(way);
		struct noise noise[2] = {0};
		pthread_t threads[2];
		struct program program;
		pid_t children[4];

		program_begin(&program, &options);
		for (unsigned i = 0; i < 2; i++) {
			oracle_init(&noise[i].oracle, program_map(&program, 60 * PAGE_BYTES), 60,
				    i);
			noise[i].random = program.random + i;
			assert_int_equal(pthread_create(&threads[i], NULL, make_noise, &noise[i]),
					 0);
		}
		write_all(&program);
		/* No thread is still on its way into life, where it holds the runtime's locks. */
		WAIT_UNTIL(noise[0].begun && noise[1].begun);
		for (unsigned i = 0; i < 4; i++) {
			oracle_work(&program.oracle, &program.random, 0, 1, 50);
			children[i] = program_fork(&program);
			if (children[i] == 0)
				live_in_child(&program);
			assert_true(children[i] > 0);
		}
		oracle_work(&program.oracle, &program.random, 0, 1, 200);
		for (unsigned i = 0; i < 4; i++)
			expect_success(children[i]);
		for (unsigned i = 0; i < 2; i++) {
			noise[i].stop = true;
			pthread_join(threads[i], NULL);
			oracle_check_all(&noise[i].oracle);
			program_unmap(&program, noise[i].oracle.memory, 60 * PAGE_BYTES);
			oracle_destroy(&noise[i].oracle);
		}
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void the_forking_thread_may_miss_pages_in_between(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct program_options options = options_of(way);
		struct pager_guard guard;
		struct program program;
		pid_t child;

		program_begin(&program, &options);
		write_all(&program);
		assert_true(program_is_far(&program, program.memory));
		assert_int_equal(pager_fork_prepare(program.pager, &guard), 0);
		/* As the C library does when it takes its locks. */
		for (size_t page = 0; page < 10; page++) {
			oracle_check(&program.oracle, page);
			oracle_write(&program.oracle, page);
		}
		child = fork();
		if (child == 0) {
			/* Those are there already, before the child's pager is. */
			for (size_t page = 0; page < 10; page++)
				oracle_check(&program.oracle, page);
			if (pager_fork_child(program.pager, &guard))
				_exit(1);
			live_in_child(&program);
		}
		pager_fork_parent(program.pager, &guard, child > 0);
		oracle_work(&program.oracle, &program.random, 0, 1, 200);
		expect_success(child);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void a_fork_that_failed_leaves_no_trace(void **state)
{
	for (unsigned way = 0; way < 4; way += 2) {
		struct program_options options = options_of(way);
		struct pager_guard guard;
		struct program program;

		program_begin(&program, &options);
		write_all(&program);
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(pager_fork_prepare(program.pager, &guard), 0);
			pager_fork_parent(program.pager, &guard, false);
		}
		assert_int_equal(program.supervisor->control->forks_failed, 3);
		oracle_work(&program.oracle, &program.random, 0, 1, 200);
		oracle_check_all(&program.oracle);
		program_end(&program); /* checks that every slot is free */
	}
}

static void a_program_that_fits_forks_too(void **state)
{
	struct program_options options = options_of(0);
	struct program program;
	pid_t child;

	options.lazy = true;
	options.limit_pages = UINT64_MAX;
	program_begin(&program, &options);
	write_all(&program);
	child = program_fork(&program);
	if (child == 0) {
		if (program.supervisor->session[1]->active)
			_exit(1);
		/* It outgrows its budget later than its parent, or sooner. */
		program.supervisor->session[1]->must_activate = 1;
		supervisor_limit(program.supervisor, 1, 48);
		WAIT_UNTIL(program.supervisor->session[1]->active);
		live_in_child(&program);
	}
	expect_success(child);
	assert_int_equal(program.supervisor->session[0]->active, 0);
	oracle_check_all(&program.oracle);
	program_end(&program);
}

static void a_raw_fork_traps_instead_of_reading_zeros(void **state)
{
	struct program_options options = options_of(0);
	struct program program;
	int status;
	pid_t child;

	program_begin(&program, &options);
	write_all(&program);
	child = (pid_t)syscall(SYS_fork);
	if (child == 0) {
		signal(SIGSEGV, SIG_DFL);
		_exit(((volatile unsigned char *)program.memory)[0]);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	program_end(&program);
}

static void a_child_that_dies_young_gives_its_slots_back(void **state)
{
	struct program_options options = options_of(0);
	struct program program;
	int status;
	pid_t child;

	program_begin(&program, &options);
	write_all(&program);
	child = program_fork(&program);
	if (child == 0) {
		raise(SIGKILL);
		_exit(1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	oracle_check_all(&program.oracle);
	program_end(&program);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parent_and_child_each_keep_their_moment),
		cmocka_unit_test(what_the_parent_writes_later_is_not_seen_by_the_child),
		cmocka_unit_test(a_grandchild_keeps_its_moment_too),
		cmocka_unit_test(forks_under_load_keep_their_moment),
		cmocka_unit_test(the_forking_thread_may_miss_pages_in_between),
		cmocka_unit_test(a_fork_that_failed_leaves_no_trace),
		cmocka_unit_test(a_program_that_fits_forks_too),
		cmocka_unit_test(a_raw_fork_traps_instead_of_reading_zeros),
		cmocka_unit_test(a_child_that_dies_young_gives_its_slots_back),
	};

	cmocka_set_test_filter(getenv("TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
