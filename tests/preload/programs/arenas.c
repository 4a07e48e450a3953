/* arenas.c: threads that allocate at once, each from an arena of its own, and free for others */
#include "check.h"

#include <pthread.h>
#include <string.h>

#define THREADS 4u
#define BLOCKS  32u

static size_t budget;
static pthread_barrier_t barrier;
static char *given[THREADS][BLOCKS]; /* from one thread to the next */

static size_t len_of(unsigned thread, unsigned i)
{
	return (1 + (thread * 7 + i * 13) % 16) * (budget / THREADS / BLOCKS / 16 / PAGE + 1) *
	       PAGE;
}

static void *allocate(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	unsigned other = (me + 1) % THREADS;

	for (unsigned turn = 0; turn < 4; turn++) {
		uint64_t owner = (uint64_t)(turn + 1) << 16;

		for (unsigned i = 0; i < BLOCKS; i++) {
			given[me][i] = malloc(len_of(me, i));
			check(given[me][i]);
			pattern_write(given[me][i], len_of(me, i), owner | me << 8 | i);
		}
		pthread_barrier_wait(&barrier);
		for (unsigned i = 0; i < BLOCKS; i++) {
			check(pattern_is(given[other][i], len_of(other, i),
					 owner | other << 8 | i));
			free(given[other][i]);
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];

	budget = program_bytes(argc, argv);
	check(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		check(pthread_create(&thread[i], NULL, allocate, (void *)(uintptr_t)i) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		check(pthread_join(thread[i], NULL) == 0);
	puts("what one thread allocated another read and freed");
	return 0;
}
