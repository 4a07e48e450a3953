/* fork_while_busy.c: forks while other threads allocate, free and write; nobody waits for ever */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define THREADS 3u
#define FORKS   12u

static _Atomic bool done;
static size_t budget;

static void *keep_busy(void *arg)
{
	uint64_t random = (uintptr_t)arg;
	size_t most = budget / THREADS / 4 / PAGE;

	while (!atomic_load(&done)) {
		size_t len = (32 + next_random(&random) % most) * PAGE;
		uint64_t owner = next_random(&random);
		char *memory = malloc(len);

		check(memory);
		pattern_write(memory, len, owner);
		check(pattern_is(memory, len, owner));
		free(memory);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];
	size_t len;
	char *memory;

	budget = program_bytes(argc, argv);
	len = budget / 4 & ~(PAGE - 1);
	memory = malloc(len);
	check(memory);
	for (uintptr_t i = 0; i < THREADS; i++)
		check(pthread_create(&thread[i], NULL, keep_busy, (void *)(i + 1)) == 0);
	for (unsigned turn = 0; turn < FORKS; turn++) {
		int status = -1;
		pid_t child;

		pattern_write(memory, len, turn);
		child = fork();
		check(child >= 0);
		if (child == 0) {
			char *more = malloc(len);

			check(more && pattern_is(memory, len, turn));
			pattern_write(more, len, turn + 1000);
			check(pattern_is(more, len, turn + 1000));
			_exit(0);
		}
		pattern_write(memory, len, turn + 500);
		check(pattern_is(memory, len, turn + 500));
		check(waitpid(child, &status, 0) == child);
		check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	atomic_store(&done, true);
	for (unsigned i = 0; i < THREADS; i++)
		check(pthread_join(thread[i], NULL) == 0);
	puts("every child saw its moment");
	return 0;
}
