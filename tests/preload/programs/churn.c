/* churn.c: threads that map, write, check, protect, move and unmap as fast as they can */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>

#define THREADS 4u
#define SLOTS   8u
#define TURNS   300u

struct slot {
	char *memory;
	size_t len;
	uint64_t owner;
};

static size_t budget;

static void turn(struct slot *slot, uint64_t *random, size_t most)
{
	size_t len = (16 + next_random(random) % most) * PAGE;
	size_t kept;

	if (!slot->memory) {
		slot->memory =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(slot->memory != MAP_FAILED && is_zero(slot->memory, len));
		slot->len = len;
		pattern_write(slot->memory, len, slot->owner);
		return;
	}
	check(pattern_is(slot->memory, slot->len, slot->owner));
	switch (next_random(random) % 4) {
	case 0:
		check(munmap(slot->memory, slot->len) == 0);
		*slot = (struct slot){NULL, 0, slot->owner + 1};
		break;
	case 1:
		kept = slot->len < len ? slot->len : len;
		slot->memory = mremap(slot->memory, slot->len, len, MREMAP_MAYMOVE);
		check(slot->memory != MAP_FAILED && pattern_is(slot->memory, kept, slot->owner));
		slot->len = len;
		pattern_write(slot->memory, len, slot->owner);
		break;
	case 2:
		check(mprotect(slot->memory, slot->len, PROT_NONE) == 0);
		check(mprotect(slot->memory, slot->len, PROT_READ | PROT_WRITE) == 0);
		break;
	default:
		check(madvise(slot->memory, slot->len, MADV_DONTNEED) == 0);
		check(is_zero(slot->memory, slot->len));
		pattern_write(slot->memory, slot->len, ++slot->owner);
		break;
	}
}

static void *churn(void *arg)
{
	uint64_t random = (uintptr_t)arg;
	struct slot slot[SLOTS] = {0};

	for (unsigned i = 0; i < SLOTS; i++)
		slot[i].owner = (uint64_t)(uintptr_t)arg << 32 | (uint64_t)i << 20;
	for (unsigned i = 0; i < TURNS; i++)
		turn(&slot[next_random(&random) % SLOTS], &random, budget / THREADS / SLOTS / PAGE);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];

	budget = program_bytes(argc, argv);
	for (uintptr_t i = 0; i < THREADS; i++)
		check(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		check(pthread_join(thread[i], NULL) == 0);
	puts("no thread met another's memory");
	return 0;
}
