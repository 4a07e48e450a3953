/*
 * oracle.c: see oracle.h
 */
#include "oracle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define WORDS (ORACLE_PAGE_BYTES / sizeof(uint64_t))

uint64_t oracle_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t oracle_seed(void)
{
	const char *given = getenv("AFAR_SEED");
	uint64_t seed = 0;

	if (given)
		seed = strtoull(given, NULL, 0);
	else
		(void)!getrandom(&seed, sizeof(seed), 0);
	printf("AFAR_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	return seed;
}

void oracle_init(struct oracle *oracle, void *memory, size_t pages, uint64_t seed)
{
	*oracle = (struct oracle){.memory = memory,
				  .pages = pages,
				  .generation = calloc(pages, sizeof(uint32_t)),
				  .seed = seed};
}

void oracle_destroy(struct oracle *oracle)
{
	free(oracle->generation);
}

static uint64_t word_of(const struct oracle *oracle, size_t page, size_t word)
{
	uint64_t state = oracle->seed ^ (uint64_t)page << 32 ^ oracle->generation[page];

	return oracle->generation[page] ? oracle_random(&state) + word * 0x9e3779b1u : 0;
}

void oracle_write(struct oracle *oracle, size_t page)
{
	volatile uint64_t *words =
		(volatile uint64_t *)(void *)(oracle->memory + page * ORACLE_PAGE_BYTES);
	uint64_t first;

	oracle->generation[page]++;
	first = word_of(oracle, page, 0);
	for (size_t i = 0; i < WORDS; i++)
		words[i] = first + i * 0x9e3779b1u;
}

void oracle_clear(struct oracle *oracle, size_t page, size_t n)
{
	for (size_t i = 0; i < n; i++)
		oracle->generation[page + i] = 0;
}

void oracle_check_bytes(const struct oracle *oracle, size_t page, const void *bytes)
{
	const volatile uint64_t *words = bytes;
	bool written = oracle->generation[page] != 0;
	uint64_t first = word_of(oracle, page, 0);

	for (size_t i = 0; i < WORDS; i++) {
		uint64_t expected = written ? first + i * 0x9e3779b1u : 0;
		uint64_t found = words[i];

		if (found == expected)
			continue;
		fprintf(stderr,
			"page %zu of generation %u: word %zu is %016" PRIx64 ", not %016" PRIx64
			" (seed %" PRIu64 ")\n",
			page, oracle->generation[page], i, found, expected, oracle->seed);
		_exit(99);
	}
}

void oracle_check(const struct oracle *oracle, size_t page)
{
	oracle_check_bytes(oracle, page, oracle->memory + page * ORACLE_PAGE_BYTES);
}

void oracle_check_all(const struct oracle *oracle)
{
	for (size_t page = 0; page < oracle->pages; page++)
		oracle_check(oracle, page);
}

void oracle_work(struct oracle *oracle, uint64_t *random, size_t first, size_t step, size_t count)
{
	size_t own = (oracle->pages - first + step - 1) / step;

	for (size_t i = 0; i < count; i++) {
		uint64_t r = oracle_random(random);
		size_t page = first + (size_t)(r >> 1) % own * step;

		oracle_check(oracle, page);
		if (r & 1)
			oracle_write(oracle, page);
	}
}
