/*
 * fork_tree.c: children and grandchildren that share pages with their parents and then part
 *
 *   Each process sees the memory as it was at its fork, overwrites its half, and must find what it
 *   wrote and what it inherited, while its parent writes, too.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define DEPTH 3u

static size_t len;

static void grow_tree(char *memory, uint64_t inherited, unsigned depth)
{
	size_t half = len / 2;
	pid_t child[2];

	for (unsigned i = 0; i < 2; i++) {
		child[i] = fork();
		check(child[i] >= 0);
		if (child[i] == 0) {
			uint64_t mine = inherited * 4 + i + 1;

			check(pattern_is(memory, half, inherited));
			pattern_write(memory, half, mine);
			check(pattern_is(memory + half, len - half, 1));
			if (depth + 1 < DEPTH)
				grow_tree(memory, mine, depth + 1);
			check(pattern_is(memory, half, mine));
			_exit(0);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		int status = -1;

		check(waitpid(child[i], &status, 0) == child[i]);
		check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	check(pattern_is(memory, half, inherited));
}

int main(int argc, char **argv)
{
	char *memory;

	/* Up to eleven processes at once, each with half of it as its own. */
	len = program_bytes(argc, argv) / 4 & ~(2 * PAGE - 1);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(memory != MAP_FAILED);
	pattern_write(memory, len / 2, 1);
	pattern_write(memory + len / 2, len / 2, 1);
	grow_tree(memory, 1, 0);
	/* And once more, when the parent has written since. */
	pattern_write(memory, len / 2, 77);
	grow_tree(memory, 77, 1);
	puts("every process of the tree kept its own memory");
	return 0;
}
