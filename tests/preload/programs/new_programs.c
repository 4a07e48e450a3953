/*
 * new_programs.c: exec in every way, also with an environment that has nothing in it
 *
 *   The new program is this one again with the word `child`. If the library is here it must be
 *   there, too, and what the caller did put into the environment must have come along.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ENTRIES 3000u

static char *self;
static char *with_us = "alone"; /* or "run": what the child is to find */

static int as_child(int argc, char **argv)
{
	const char *libraries = getenv("LD_PRELOAD");
	bool run = strcmp(argv[2], "run") == 0;
	size_t len = 4 * MIB;
	char *memory = malloc(len);

	check(run == (libraries && strstr(libraries, "libafar-run")));
	check(run == (getenv("AFAR_RUN_SOCKET") != NULL));
	check(run == (getenv("AFAR_RUN_TOKEN") != NULL));
	check(!getenv("KEPT") || strcmp(getenv("KEPT"), "as it was") == 0);
	check(argc == 3 || getenv("KEPT"));
	check(memory);
	pattern_write(memory, len, 5);
	check(pattern_is(memory, len, 5));
	return 0;
}

static void expect_success(pid_t child)
{
	int status = -1;

	check(child > 0 && waitpid(child, &status, 0) == child);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

enum way {
	EXECVE,
	EXECVPE,
	EXECVEAT,
	FEXECVE,
	BY_NUMBER,
	WAYS,
};

static void execute(enum way way, char **arguments, char **environment)
{
	int fd;

	switch (way) {
	case EXECVE:
		execve(self, arguments, environment);
		break;
	case EXECVPE:
		execvpe(self, arguments, environment);
		break;
	case EXECVEAT:
		execveat(AT_FDCWD, self, arguments, environment, 0);
		break;
	case FEXECVE:
		fd = open(self, O_RDONLY | O_CLOEXEC);
		fexecve(fd, arguments, environment);
		break;
	default:
		syscall(SYS_execve, self, arguments, environment);
		break;
	}
	_exit(3);
}

/* A child of vfork shares our memory until it is another program. */
static pid_t execute_in_vfork(enum way way, char **arguments, char **environment)
{
	pid_t child = vfork();

	if (child == 0)
		execute(way, arguments, environment);
	return child;
}

static void each_way(char **environment, char *kept)
{
	char *arguments[] = {self, "child", with_us, kept, NULL};

	for (enum way way = 0; way < WAYS; way++) {
		pid_t child = fork();

		if (child == 0)
			execute(way, arguments, environment);
		expect_success(child);
		expect_success(execute_in_vfork(way, arguments, environment));
	}
}

static void spawn(char **environment, char *kept)
{
	char *arguments[] = {self, "child", with_us, kept, NULL};
	pid_t child;

	check(posix_spawn(&child, self, NULL, NULL, arguments, environment) == 0);
	expect_success(child);
	check(posix_spawnp(&child, self, NULL, NULL, arguments, environment) == 0);
	expect_success(child);
}

static void shells(void)
{
	char command[4200];
	char line[64] = "";
	FILE *pipe;

	snprintf(command, sizeof(command), "exec '%s' child %s", self, with_us);
	check(system(command) == 0);
	snprintf(command, sizeof(command),
		 "env -i KEPT='as it was' '%s' child %s kept && echo good", self, with_us);
	pipe = popen(command, "r");
	check(pipe && fgets(line, sizeof(line), pipe) && strcmp(line, "good\n") == 0);
	check(pclose(pipe) == 0);
}

int main(int argc, char **argv)
{
	char *nothing[] = {NULL};
	char *few[] = {"A=b", "KEPT=as it was", "LD_PRELOAD=", NULL};
	static char *many[ENTRIES + 1];
	size_t len;
	char *memory;

	self = realpath("/proc/self/exe", NULL);
	if (argc > 1 && strcmp(argv[1], "child") == 0)
		return as_child(argc, argv);
	len = program_bytes(argc, argv) / 2;
	memory = malloc(len);
	check(self && memory);
	pattern_write(memory, len, 1);
	if (getenv("AFAR_RUN_SOCKET"))
		with_us = "run";
	for (unsigned i = 0; i < ENTRIES; i++)
		many[i] = "KEPT=as it was";
	each_way(nothing, NULL);
	each_way(few, "kept");
	each_way(many, "kept");
	each_way(environ, NULL);
	spawn(nothing, NULL);
	spawn(many, "kept");
	shells();
	check(execve("/nowhere/at/all", nothing, nothing) == -1 && errno == ENOENT);
	check(pattern_is(memory, len, 1));
	puts("every new program came into the run");
	return 0;
}
