/*
 * seed.h: random tests that can be run again
 *
 *   The seed comes from AFAR_SEED, else from the kernel, and is printed before the first test: a
 *   failing run is repeated by setting it.
 */
#ifndef AFAR_TESTS_SEED_H
#define AFAR_TESTS_SEED_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

static inline uint64_t seed_begin(void)
{
	const char *wanted = getenv("AFAR_SEED"); /* NOLINT(concurrency-mt-unsafe): no thread yet */
	uint64_t seed = 1;

	if (wanted)
		seed = strtoull(wanted, NULL, 0);
	else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		seed = 1;
	printf("AFAR_SEED=%" PRIu64 "\n", seed);
	(void)fflush(stdout);
	return seed;
}

/* splitmix64 */
static inline uint64_t seed_next(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline uint64_t seed_below(uint64_t *state, uint64_t bound)
{
	return seed_next(state) % bound;
}

#endif
