/* closed_descriptors.c: a program that closes every descriptor it can find, as daemons do */
#include "check.h"

#include <dirent.h>
#include <sys/wait.h>

static void close_all(void)
{
	for (int fd = 0; fd < 4096; fd++)
		close(fd);
	check(close_range(0, ~0u, 0) == 0);
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv);
	char *memory = malloc(len);
	int out = dup(STDOUT_FILENO);
	pid_t child;
	int status = -1;

	check(memory && out >= 0);
	pattern_write(memory, len, 1);
	child = fork();
	check(child >= 0);
	if (child == 0) {
		close_all();
		if (!pattern_is(memory, len, 1))
			_exit(2);
		pattern_write(memory, len, 2);
		/* A child of one that has no descriptors. */
		child = fork();
		if (child == 0)
			_exit(pattern_is(memory, len, 2) ? 0 : 3);
		if (child < 0 || waitpid(child, &status, 0) != child)
			_exit(4);
		_exit(pattern_is(memory, len, 2) && status == 0 ? 0 : 5);
	}
	check(waitpid(child, &status, 0) == child);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	check(pattern_is(memory, len, 1));
	puts("memory needs no descriptors");
	return 0;
}
