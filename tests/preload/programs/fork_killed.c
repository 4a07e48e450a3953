/* fork_killed.c: children that are killed as soon as they are born, or sooner than they know it */
#include "check.h"

#include <signal.h>
#include <sys/wait.h>

#define CHILDREN 60u

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 2;
	char *memory = malloc(len);

	check(memory);
	for (unsigned i = 0; i < CHILDREN; i++) {
		size_t part = len / CHILDREN & ~(PAGE - 1);
		int status = -1;
		pid_t child;

		pattern_write(memory + i * part, part, i);
		child = fork();
		check(child >= 0);
		if (child == 0) {
			/* Until the end comes. */
			for (;;)
				pattern_write(memory, len, i + 1000);
		}
		check(kill(child, SIGKILL) == 0);
		check(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
		for (unsigned k = 0; k <= i; k += 7)
			check(pattern_is(memory + k * part, part, k));
	}
	puts("the living were not harmed");
	return 0;
}
