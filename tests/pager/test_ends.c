/*
 * test_ends.c: how a process ends when its far memory cannot be had, and when it must not end
 *
 *   Each program lives in a child of the test, whose wait status tells.
 */
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE_BYTES     4096u
#define STATUS_FAILURE 125

/* What a child found out, for the test to read. */
struct findings {
	_Atomic uint32_t reason, fails, duplicates;
	_Atomic uint64_t page;
};

struct scene {
	unsigned way;
	struct findings *findings;
	int pipe[2];
};

static struct program_options options_of(unsigned way)
{
	return (struct program_options){.pages = 128,
					.limit_pages = 32,
					.staged = way / 2 == 1,
					.no_move = way % 2 == 1,
					.no_prefetch = true};
}

static void write_all(struct program *program)
{
	for (size_t page = 0; page < program->options.pages; page++)
		oracle_write(&program->oracle, page);
}

static void make_scene(struct scene *scene, unsigned way)
{
	*scene = (struct scene){.way = way};
	scene->findings = mmap(NULL, sizeof(struct findings), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(scene->findings, MAP_FAILED);
	assert_int_equal(pipe(scene->pipe), 0);
}

static void end_scene(struct scene *scene)
{
	munmap(scene->findings, sizeof(struct findings));
	close(scene->pipe[0]);
	close(scene->pipe[1]);
}

/* A bit of every stored page flips; then one is wanted. */
static void read_damaged(void *context)
{
	struct scene *scene = context;
	struct program_options options = options_of(scene->way);
	struct program program;
	pid_t child;
	int status;

	program_begin(&program, &options);
	write_all(&program);
	for (uint32_t slot = 0; slot < program.supervisor->slots.slots_count; slot++)
		supervisor_far(program.supervisor, slot)[777] ^= 4;
	/* The program dies of it; its supervisor, which is this process's child, lives on. */
	child = program_fork(&program);
	if (child == 0) {
		oracle_check(&program.oracle, 0);
		_exit(0);
	}
	waitpid(child, &status, 0);
	scene->findings->reason = program.supervisor->control->fail_reason;
	scene->findings->fails = program.supervisor->control->fails;
	scene->findings->page = program.supervisor->control->fail_page - (uintptr_t)program.memory;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void a_damaged_page_ends_the_process(void **state)
{
	for (unsigned way = 0; way < 4; way++) {
		struct scene scene;
		int status;

		make_scene(&scene, way);
		status = in_child(read_damaged, &scene);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), STATUS_FAILURE);
		assert_int_equal(scene.findings->fails, 1);
		assert_int_equal(scene.findings->reason, SESSION_FAIL_CHECKSUM);
		assert_int_equal(scene.findings->page, 0);
		end_scene(&scene);
	}
}

static void lose_supervisor(void *context)
{
	struct scene *scene = context;
	struct program_options options = options_of(scene->way);
	struct program program;

	program_begin(&program, &options);
	write_all(&program);
	kill(program.supervisor->pid, SIGKILL);
	/* Nothing is touched: it is the pager that notices. */
	for (;;)
		pause();
}

static void the_supervisors_death_ends_the_process(void **state)
{
	for (unsigned way = 0; way < 4; way += 2) {
		struct scene scene;
		int status;

		make_scene(&scene, way);
		status = in_child(lose_supervisor, &scene);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), STATUS_FAILURE);
		end_scene(&scene);
	}
}

static void *check_all(void *context)
{
	struct program *program = context;

	oracle_check_all(&program->oracle);
	return NULL;
}

static void a_stopped_supervisor_only_delays(void **state)
{
	for (unsigned way = 0; way < 4; way += 2) {
		struct program_options options = options_of(way);
		struct program program;
		pthread_t thread;
		int status;

		program_begin(&program, &options);
		write_all(&program);
		assert_int_equal(kill(program.supervisor->pid, SIGSTOP), 0);
		assert_int_equal(waitpid(program.supervisor->pid, &status, WUNTRACED),
				 program.supervisor->pid);
		assert_true(WIFSTOPPED(status));
		assert_int_equal(pthread_create(&thread, NULL, check_all, &program), 0);
		/* The thread misses a page meanwhile; in staged mode it waits for the stopped one.
		 */
		WAIT_UNTIL(program_counters(&program)->faults_far > 0);
		assert_int_equal(kill(program.supervisor->pid, SIGCONT), 0);
		pthread_join(thread, NULL);
		oracle_work(&program.oracle, &program.random, 0, 1, 200);
		program_end(&program);
	}
}

static void fill_far_memory(void *context)
{
	struct scene *scene = context;
	struct program_options options = options_of(scene->way);
	struct program program;
	pid_t child;
	int status;

	options.pages = 400;
	options.pieces = 2;
	options.piece_slots = 64;
	program_begin(&program, &options);
	child = program_fork(&program);
	if (child == 0) {
		write_all(&program);
		_exit(0);
	}
	waitpid(child, &status, 0);
	scene->findings->reason = program.supervisor->control->fail_reason;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void no_room_anywhere_ends_the_process(void **state)
{
	for (unsigned way = 0; way < 4; way += 2) {
		struct scene scene;
		int status;

		make_scene(&scene, way);
		status = in_child(fill_far_memory, &scene);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), STATUS_FAILURE);
		assert_int_equal(scene.findings->reason, SESSION_FAIL_NO_SPACE);
		end_scene(&scene);
	}
}

static void leave_by_raw_exit(void *context)
{
	struct program_options options = options_of(0);
	struct program program;
	pid_t child;
	int status;

	program_begin(&program, &options);
	child = program_fork(&program);
	if (child == 0) {
		write_all(&program);
		syscall(SYS_exit, 17);
	}
	waitpid(child, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void a_process_of_which_only_the_pager_is_left_ends(void **state)
{
	struct scene scene;
	int status;

	make_scene(&scene, 0);
	status = in_child(leave_by_raw_exit, &scene);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 17);
	end_scene(&scene);
}

static void close_everything(void *context)
{
	struct program_options options = options_of(0);
	struct program program;

	program_begin(&program, &options);
	write_all(&program);
	close_range(0, UINT32_MAX, 0);
	oracle_work(&program.oracle, &program.random, 0, 1, 200);
	oracle_check_all(&program.oracle);
}

static void a_program_may_close_every_descriptor(void **state)
{
	struct scene scene;

	if (UNDER_SANITIZER)
		skip(); /* the pager is a pthread there, and shares the table */
	make_scene(&scene, 0);
	assert_int_equal(in_child(close_everything, &scene), 0);
	end_scene(&scene);
}

/*
 * The pager thread ends, and with it the last descriptor of the process that keeps far pages from
 * reading as zeros.
 */
static void read_without_pager(void *context)
{
	struct scene *scene = context;
	struct program_options options = options_of(0);
	struct program program;
	volatile unsigned char *page;
	pid_t child;
	int status;

	program_begin(&program, &options);
	child = program_fork(&program);
	if (child == 0) {
		write_all(&program);
		page = program.memory;
		if (!program_is_far(&program, program.memory))
			_exit(2);
		program.supervisor->control->end_who_waits = 1;
		pager_stop(program.pager);
		/* Whoever holds the duplicate sees this fault wait, and kills us. */
		_exit(page[0] == 0 ? 3 : 4);
	}
	waitpid(child, &status, 0);
	scene->findings->duplicates = program.supervisor->control->duplicates;
	_exit(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : 1);
}

static void the_supervisors_duplicate_keeps_far_pages_from_reading_as_zeros(void **state)
{
	struct scene scene;

	if (UNDER_SANITIZER)
		skip(); /* the runtime does not bear a thread that ends and one that begins after a
			   fork */
	make_scene(&scene, 0);
	assert_int_equal(in_child(read_without_pager, &scene), 0);
	assert_int_equal(scene.findings->duplicates, 2);
	end_scene(&scene);
}

static void a_pager_without_supervisor_does_not_start(void **state)
{
	struct pager_options options = {.socket_path = "@afar-nobody-listens-here", .token = 1};
	struct pager *pager;

	assert_int_equal(pager_start(&options, &pager), -ECONNREFUSED);
	options.socket_path = "/nonexistent/afar/socket";
	assert_int_equal(pager_start(&options, &pager), -ENOENT);
}

static void a_token_of_another_run_is_refused(void **state)
{
	struct supervisor_options with = {.pieces = 1, .piece_slots = 64, .limit_pages = 10};
	struct supervisor *supervisor = supervisor_start(&with);
	struct pager_options options = {.socket_path = supervisor->path, .token = 5};
	struct pager *pager;

	assert_int_equal(pager_start(&options, &pager), -EPERM);
	options.token = SUPERVISOR_TOKEN;
	assert_int_equal(pager_start(&options, &pager), 0);
	pager_stop(pager);
	supervisor_stop(supervisor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_damaged_page_ends_the_process),
		cmocka_unit_test(the_supervisors_death_ends_the_process),
		cmocka_unit_test(a_stopped_supervisor_only_delays),
		cmocka_unit_test(no_room_anywhere_ends_the_process),
		cmocka_unit_test(a_process_of_which_only_the_pager_is_left_ends),
		cmocka_unit_test(a_program_may_close_every_descriptor),
		cmocka_unit_test(the_supervisors_duplicate_keeps_far_pages_from_reading_as_zeros),
		cmocka_unit_test(a_pager_without_supervisor_does_not_start),
		cmocka_unit_test(a_token_of_another_run_is_refused),
	};

	cmocka_set_test_filter(getenv("TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
