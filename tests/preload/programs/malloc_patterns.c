/* malloc_patterns.c: malloc, calloc, realloc, memalign and free, with large and small sizes */
#include "check.h"

#include <malloc.h>
#include <string.h>

#define BLOCKS 64u

struct block {
	char *memory;
	size_t len;
	uint64_t owner;
};

static size_t some_len(uint64_t *random, size_t budget)
{
	size_t most = budget / BLOCKS * 2 / PAGE;

	return (1 + next_random(random) % most) * PAGE;
}

static void renew(struct block *block, uint64_t *random, size_t budget)
{
	size_t len = some_len(random, budget);

	switch (next_random(random) % 4) {
	case 0:
		free(block->memory);
		block->memory = malloc(len);
		check(block->memory);
		break;
	case 1:
		free(block->memory);
		block->memory = calloc(1, len);
		check(block->memory && is_zero(block->memory, len));
		break;
	case 2:
		free(block->memory);
		block->memory = memalign((size_t)1 << (next_random(random) % 10 + 5), len);
		check(block->memory);
		break;
	default: {
		size_t kept = block->len < len ? block->len : len;

		block->memory = realloc(block->memory, len);
		check(block->memory);
		check(pattern_is(block->memory, kept, block->owner));
		break;
	}
	}
	block->len = len;
	block->owner++;
	pattern_write(block->memory, len, block->owner);
}

int main(int argc, char **argv)
{
	size_t budget = program_bytes(argc, argv);
	struct block block[BLOCKS] = {0};
	uint64_t random = 1;
	char *small[1000];

	for (unsigned i = 0; i < BLOCKS; i++)
		block[i].owner = (uint64_t)i << 32;
	for (unsigned i = 0; i < 1000; i++) {
		small[i] = malloc(i + 1);
		memset(small[i], (int)(i & 0xff), i + 1);
	}
	for (unsigned turn = 0; turn < 6 * BLOCKS; turn++) {
		unsigned i = (unsigned)(next_random(&random) % BLOCKS);

		if (block[i].memory)
			check(pattern_is(block[i].memory, block[i].len, block[i].owner));
		renew(&block[i], &random, budget);
	}
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (block[i].memory)
			check(pattern_is(block[i].memory, block[i].len, block[i].owner));
		free(block[i].memory);
	}
	for (unsigned i = 0; i < 1000; i++) {
		check(small[i][0] == (char)(i & 0xff) && small[i][i] == (char)(i & 0xff));
		free(small[i]);
	}
	malloc_trim(0);
	puts("every block held what was put into it");
	return 0;
}
