/*
 * check.h: what the programs share: their one argument, patterns in memory, and failing
 *
 *   A pattern tells of every page which one it is and to whom it belongs: so a page that comes
 *   back from far away in the wrong place, or old, or as zeros, is seen.
 */
#ifndef TESTS_PRELOAD_PROGRAMS_CHECK_H
#define TESTS_PRELOAD_PROGRAMS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE             ((size_t)4096)
#define MIB              ((size_t)1 << 20)
#define check(condition) check_that(condition, #condition, __FILE__, __LINE__)

static inline void check_that(bool holds, const char *what, const char *file, int line)
{
	if (holds)
		return;
	dprintf(STDERR_FILENO, "%s:%d: process %d: not so: %s\n", file, line, (int)getpid(), what);
	_exit(1);
}

/* Bytes of memory to use: the first argument in MiB, 64 without one. */
static inline size_t program_bytes(int argc, char **argv)
{
	size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;

	check(mib >= 1 && mib <= 65536);
	return mib * MIB;
}

static inline uint64_t pattern_word(uint64_t owner, size_t page, size_t word)
{
	uint64_t value = (owner << 40) ^ ((uint64_t)page << 10) ^ word;

	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	return value ^ value >> 27;
}

/* One word in eight of a page. */
static inline void pattern_write_page(void *memory, uint64_t owner, size_t page)
{
	uint64_t *word = (uint64_t *)((char *)memory + page * PAGE);

	for (size_t i = 0; i < PAGE / sizeof(*word); i += 8)
		word[i] = pattern_word(owner, page, i);
}

static inline bool pattern_is_page(const void *memory, uint64_t owner, size_t page)
{
	const uint64_t *word = (const uint64_t *)((const char *)memory + page * PAGE);

	for (size_t i = 0; i < PAGE / sizeof(*word); i += 8) {
		if (word[i] != pattern_word(owner, page, i))
			return false;
	}
	return true;
}

static inline void pattern_write(void *memory, size_t len, uint64_t owner)
{
	for (size_t page = 0; page < len / PAGE; page++)
		pattern_write_page(memory, owner, page);
}

static inline bool pattern_is(const void *memory, size_t len, uint64_t owner)
{
	for (size_t page = 0; page < len / PAGE; page++) {
		if (!pattern_is_page(memory, owner, page))
			return false;
	}
	return true;
}

static inline bool is_zero(const void *memory, size_t len)
{
	const uint64_t *word = memory;

	for (size_t i = 0; i < len / sizeof(*word); i++) {
		if (word[i] != 0)
			return false;
	}
	return true;
}

/* The same numbers every time. */
static inline uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

#endif
