/*
 * threads.c: threads that write and verify random pages: threads SEED THREADS MIB ROUNDS [progress]
 *
 *   Each thread owns every THREADSth page of one large allocation. A page holds {its number, its
 *   generation} and words derived from both; each round picks a page, verifies it whole against
 *   the generation that the thread remembers, and writes the next. At the end all are verified and
 *   a sum is printed, which depends on nothing but the arguments. With `progress` the first thread
 *   says so when a tenth of its rounds is done, for those who want to disturb it then.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

struct work {
	uint64_t seed;
	unsigned number, threads;
	size_t pages; /* of all threads */
	uint64_t rounds;
	int progress;
	uint64_t *memory;
	uint32_t *generation; /* local memory: small */
	uint64_t sum;
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t word_of(size_t page, uint32_t generation, size_t word)
{
	return generation ? mix(page << 20 ^ (uint64_t)generation << 44 ^ word) | 1 : 0;
}

static void verify(const struct work *work, size_t page)
{
	const uint64_t *at = work->memory + page * PAGE_WORDS;

	for (size_t word = 0; word < PAGE_WORDS; word++) {
		if (at[word] == word_of(page, work->generation[page], word))
			continue;
		fprintf(stderr, "page %zu word %zu: %" PRIx64 " is not of generation %u\n", page,
			word, at[word], work->generation[page]);
		abort();
	}
}

static void renew(struct work *work, size_t page)
{
	uint64_t *at = work->memory + page * PAGE_WORDS;
	uint32_t generation = ++work->generation[page];

	for (size_t word = 0; word < PAGE_WORDS; word++)
		at[word] = word_of(page, generation, word);
}

static void *run(void *context)
{
	struct work *work = context;
	size_t own = work->pages / work->threads;
	uint64_t state = mix(work->seed + work->number);

	for (uint64_t round = 0; round < work->rounds; round++) {
		state = mix(state + round);
		size_t page = state % own * work->threads + work->number;

		verify(work, page);
		if (state >> 40 & 1)
			renew(work, page);
		if (work->progress && work->number == 0 && round == work->rounds / 10) {
			puts("progress");
			fflush(stdout);
		}
	}
	for (size_t i = 0; i < own; i++) {
		size_t page = i * work->threads + work->number;

		verify(work, page);
		work->sum = mix(work->sum ^ work->memory[page * PAGE_WORDS + page % PAGE_WORDS]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	unsigned threads = (unsigned)atoi(argv[2]);
	size_t pages = (size_t)atoi(argv[3]) * 256 / threads * threads;
	uint64_t *memory = aligned_alloc(PAGE_BYTES, pages * PAGE_BYTES);
	uint32_t *generation = calloc(pages, sizeof(*generation));
	pthread_t *thread = calloc(threads, sizeof(*thread));
	struct work *work = calloc(threads, sizeof(*work));
	uint64_t sum = 0;

	if (!memory || !generation || !thread || !work)
		return 1;
	memset(memory, 0, pages * PAGE_BYTES);
	for (size_t page = 0; page < pages; page++)
		renew(&(struct work){.memory = memory, .generation = generation}, page);
	for (unsigned i = 0; i < threads; i++) {
		work[i] = (struct work){
			.seed = strtoull(argv[1], NULL, 10),
			.number = i,
			.threads = threads,
			.pages = pages,
			.rounds = strtoull(argv[4], NULL, 10),
			.progress = argc > 5,
			.memory = memory,
			.generation = generation,
		};
		if (pthread_create(&thread[i], NULL, run, &work[i]))
			return 1;
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(thread[i], NULL);
		sum = mix(sum ^ work[i].sum);
	}
	printf("verified %zu pages, sum %016" PRIx64 "\n", pages, sum);
	free(work);
	free(thread);
	free(generation);
	free(memory);
	return 0;
}
