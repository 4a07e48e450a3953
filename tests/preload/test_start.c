/*
 * test_start.c: what the library does as it comes into a program, seen from outside
 *
 *   The library under test has the strict pager of null_pager.c in it, whose counts say whether
 *   memory calls reached us at all. Arguments: the library, the directory of the programs.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *library, *programs;

struct outcome {
	int status; /* of waitpid */
	char errors[4096];
	unsigned long long managed, discarded, released, moved, protected, pinned, forks, bytes;
};

static void read_all(int fd, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, text + len, size - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
}

static void in_child(const char *program, const char *socket, const char *token, const char *report)
{
	char path[4096];

	setenv("LD_PRELOAD", library, 1);
	setenv("AFAR_NULL_PAGER_REPORT", report, 1);
	if (socket)
		setenv("AFAR_RUN_SOCKET", socket, 1);
	if (token)
		setenv("AFAR_RUN_TOKEN", token, 1);
	snprintf(path, sizeof(path), "%s/%s", programs, program);
	execl(path, path, "8", NULL);
	_exit(99);
}

static void run(struct outcome *outcome, const char *program, const char *socket, const char *token)
{
	char directory[] = "/tmp/preload-XXXXXX", report[64], counts[512] = "";
	int ends[2], fd;
	pid_t child;

	memset(outcome, 0, sizeof(*outcome));
	assert_non_null(mkdtemp(directory));
	snprintf(report, sizeof(report), "%s/report", directory);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		in_child(program, socket, token, report);
	}
	close(ends[1]);
	read_all(ends[0], outcome->errors, sizeof(outcome->errors));
	close(ends[0]);
	assert_int_equal(waitpid(child, &outcome->status, 0), child);
	fd = open(report, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		read_all(fd, counts, sizeof(counts));
		close(fd);
		assert_int_equal(
			sscanf(counts,
			       "manage %llu discard %llu release %llu move %llu protect %llu "
			       "pin %llu fork %llu bytes %llu",
			       &outcome->managed, &outcome->discarded, &outcome->released,
			       &outcome->moved, &outcome->protected, &outcome->pinned,
			       &outcome->forks, &outcome->bytes),
			8);
		unlink(report);
	}
	assert_int_equal(rmdir(directory), 0);
}

static bool succeeded(const struct outcome *outcome)
{
	return WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == 0;
}

static bool refused(const struct outcome *outcome)
{
	return WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == 125;
}

static void without_a_run_nothing_is_done(void **state)
{
	struct outcome outcome;

	run(&outcome, "malloc_patterns", NULL, NULL);
	assert_true(succeeded(&outcome));
	assert_string_equal(outcome.errors, "");
	assert_int_equal(outcome.managed, 0);
	run(&outcome, "malloc_patterns", "", "1");
	assert_true(succeeded(&outcome));
	assert_int_equal(outcome.managed, 0);
}

static void large_memory_of_malloc_is_caught(void **state)
{
	struct outcome outcome;

	run(&outcome, "malloc_patterns", "none", "1");
	assert_true(succeeded(&outcome));
	assert_string_equal(outcome.errors, "");
	assert_true(outcome.managed > 0 && outcome.released > 0 && outcome.moved > 0);
	assert_true(outcome.bytes >= 6 << 20);
}

static void the_heap_of_brk_is_caught(void **state)
{
	struct outcome outcome;

	run(&outcome, "heap_break", "none", "1");
	assert_true(succeeded(&outcome));
	assert_true(outcome.bytes >= 7 << 20);
}

static void arrays_in_zeroed_data_are_caught(void **state)
{
	struct outcome outcome;

	run(&outcome, "zero_data", "none", "1");
	assert_true(succeeded(&outcome));
	assert_true(outcome.bytes >= 120 << 20);
}

static void arenas_of_threads_are_caught(void **state)
{
	struct outcome outcome;

	run(&outcome, "arenas", "none", "1");
	assert_true(succeeded(&outcome));
	assert_true(outcome.managed > 0 && outcome.protected > 0);
}

static void forks_are_announced(void **state)
{
	struct outcome outcome;

	run(&outcome, "fork_tree", "none", "1");
	assert_true(succeeded(&outcome));
	assert_int_equal(outcome.forks, 4);
	run(&outcome, "raw_calls", "none", "1");
	assert_true(succeeded(&outcome));
	assert_true(outcome.forks >= 1);
}

static void a_damaged_token_is_refused(void **state)
{
	static const char *const tokens[] = {NULL, "", "xyz", "12 ", "11112222333344445"};

	for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++) {
		struct outcome outcome;

		run(&outcome, "malloc_patterns", "none", tokens[i]);
		assert_true(refused(&outcome));
		assert_non_null(strstr(outcome.errors, "AFAR_RUN_TOKEN"));
	}
}

static void a_pager_that_does_not_start_is_told(void **state)
{
	struct outcome outcome;

	run(&outcome, "malloc_patterns", "none", "dead");
	assert_true(refused(&outcome));
	assert_non_null(strstr(outcome.errors, "userfaultfd is not permitted"));
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_run_nothing_is_done),
		cmocka_unit_test(large_memory_of_malloc_is_caught),
		cmocka_unit_test(the_heap_of_brk_is_caught),
		cmocka_unit_test(arrays_in_zeroed_data_are_caught),
		cmocka_unit_test(arenas_of_threads_are_caught),
		cmocka_unit_test(forks_are_announced),
		cmocka_unit_test(a_damaged_token_is_refused),
		cmocka_unit_test(a_pager_that_does_not_start_is_told),
	};

	if (argc != 3)
		return 2;
	library = argv[1];
	programs = argv[2];
	/* The test itself may run under a library of its own. */
	unsetenv("LD_PRELOAD");
	unsetenv("AFAR_RUN_SOCKET");
	unsetenv("AFAR_RUN_TOKEN");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
