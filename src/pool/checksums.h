/*
 * checksums.h: what the owner knows of each page of a piece
 *
 *   A page is in one of four states:
 *
 *     EMPTY    never written, or discarded: it reads as zeros, whatever a node holds
 *     HELD     written; its checksum is here, and bytes that do not match it are not the page
 *     UNKNOWN  after a takeover: written perhaps; the copies must agree on it (then it is HELD)
 *     LOST     the last copy that matched is gone: AFAR_ELOST until it is written again
 *
 *            write acknowledged                      copies agree
 *     EMPTY ────────────────────► HELD ◄──────────────────────────── UNKNOWN ◄── takeover
 *       ▲                         │  ▲                                  │
 *       └──────── discard ────────┤  └── write acknowledged ──┐         │ copies differ
 *                                 └──── no copy left ──────► LOST ◄─────┘
 *
 *   A checksum is salted with volume, page and piece_epoch. The epoch is folded in last, by
 *   exclusive or, so that a remap re-salts a whole piece without seeing its bytes.
 *
 *   The table is made when the piece is mapped and goes when nothing is in it: 5 bytes a page.
 */
#ifndef AFAR_POOL_CHECKSUMS_H
#define AFAR_POOL_CHECKSUMS_H

#include "base/page_hash.h"

#include <stdbool.h>
#include <stdint.h>

enum page_state { PAGE_EMPTY = 0, PAGE_HELD, PAGE_UNKNOWN, PAGE_LOST };

struct page_table {
	uint32_t *checksums; /* NULL: every page is EMPTY */
	uint8_t *states;     /* enum page_state, behind the checksums in the same memory */
	uint32_t pages;
	uint32_t held; /* HELD and UNKNOWN */
	uint32_t lost;
};

/* Makes the table, all EMPTY, if there is none. -ENOMEM. */
int page_table_make(struct page_table *table, uint32_t pages);
void page_table_free(struct page_table *table);

static inline enum page_state page_state(const struct page_table *table, uint32_t page)
{
	return table->states ? (enum page_state)table->states[page] : PAGE_EMPTY;
}

/* Changes a page's state and the counts. The table must be there unless the state is EMPTY. */
void page_set_state(struct page_table *table, uint32_t page, enum page_state state);

/* Every page: UNKNOWN, for a takeover of a piece that has copies. */
void page_table_set_unknown(struct page_table *table);
/* Every page: LOST, for a takeover of a piece that nobody has any more. */
void page_table_set_lost(struct page_table *table);
/* Every page that is not EMPTY becomes LOST. Returns how many were not LOST before. */
uint32_t page_table_lose(struct page_table *table, bool only_unknown);

/* The hash of a page's bytes without its epoch: `volume` and `page` salt it. */
static inline uint32_t page_checksum(page_hash_fn *hash, const void *bytes, uint64_t volume,
				     uint64_t page)
{
	/* One to one in the page for any volume: two pages never share a salt. */
	return hash(bytes, volume * UINT64_C(0x9e3779b97f4a7c15) + page);
}

/* What the epoch contributes. */
uint32_t checksum_epoch_salt(uint32_t piece_epoch);

/* Notes an acknowledged write. */
static inline void page_hold(struct page_table *table, uint32_t page, uint32_t checksum,
			     uint32_t epoch_salt)
{
	table->checksums[page] = checksum ^ epoch_salt;
	if (table->states[page] != PAGE_HELD)
		page_set_state(table, page, PAGE_HELD);
}

static inline bool page_matches(const struct page_table *table, uint32_t page, uint32_t checksum,
				uint32_t epoch_salt)
{
	return table->checksums[page] == (checksum ^ epoch_salt);
}

/* Carries every checksum over from one epoch to another. */
void page_table_resalt(struct page_table *table, uint32_t from_salt, uint32_t to_salt);

#endif
