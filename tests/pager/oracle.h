/*
 * oracle.h: memory of which it is known what each page must hold
 *
 *   A page is either untouched, and all zeros, or holds words that follow from its number, its
 *   generation and the seed: any page that is stale, somebody else's, or torn shows itself. What
 *   is known lies in memory that no pager manages.
 */
#ifndef AFAR_TESTS_PAGER_ORACLE_H
#define AFAR_TESTS_PAGER_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_PAGE_BYTES 4096u

struct oracle {
	unsigned char *memory;
	size_t pages;
	uint32_t *generation; /* of each page; 0: zeros */
	uint64_t seed;
};

/* The seed of this run: AFAR_SEED, or a new one; printed. */
uint64_t oracle_seed(void);
uint64_t oracle_random(uint64_t *state);

/* Over memory that is all zeros and stays the caller's. */
void oracle_init(struct oracle *oracle, void *memory, size_t pages, uint64_t seed);
void oracle_destroy(struct oracle *oracle);
/* The next generation of the page is written whole. */
void oracle_write(struct oracle *oracle, size_t page);
void oracle_clear(struct oracle *oracle, size_t page, size_t n); /* is all zeros from now on */
/* Ends the process with a message if the page is not as it must be. */
void oracle_check(const struct oracle *oracle, size_t page);
void oracle_check_bytes(const struct oracle *oracle, size_t page, const void *bytes);
void oracle_check_all(const struct oracle *oracle);
/* So many random reads and writes, half each, over pages first, first + step, … */
void oracle_work(struct oracle *oracle, uint64_t *random, size_t first, size_t step, size_t count);

#endif
