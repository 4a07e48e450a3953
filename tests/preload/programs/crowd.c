/* crowd.c: many more threads at once in memory calls than there are processors, or stacks of ours
 */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>

#define THREADS 100u
#define TURNS   6u

static pthread_barrier_t barrier;
static size_t part;

static void *crowd(void *arg)
{
	uint64_t me = (uintptr_t)arg;

	pthread_barrier_wait(&barrier);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		char *memory = mmap(NULL, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				    -1, 0);

		check(memory != MAP_FAILED);
		pattern_write(memory, part, me << 16 | turn);
		check(pattern_is(memory, part, me << 16 | turn));
		check(madvise(memory, PAGE, MADV_DONTNEED) == 0 && is_zero(memory, PAGE));
		check(munmap(memory, part) == 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];

	part = (program_bytes(argc, argv) / THREADS + 16 * PAGE) & ~(PAGE - 1);
	check(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		check(pthread_create(&thread[i], NULL, crowd, (void *)i) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		check(pthread_join(thread[i], NULL) == 0);
	puts("everybody had a turn");
	return 0;
}
