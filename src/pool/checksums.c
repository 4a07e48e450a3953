/*
 * checksums.c: the table of a piece's pages; checksums.h tells its story
 */
#include "pool/checksums.h"

#include "base/bits.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int page_table_make(struct page_table *table, uint32_t pages)
{
	if (table->checksums)
		return 0;
	table->checksums = calloc(pages, sizeof(*table->checksums) + sizeof(*table->states));
	if (!table->checksums)
		return -ENOMEM;
	table->states = (uint8_t *)(table->checksums + pages);
	table->pages = pages;
	table->held = 0;
	table->lost = 0;
	return 0;
}

void page_table_free(struct page_table *table)
{
	free(table->checksums);
	*table = (struct page_table){0};
}

void page_set_state(struct page_table *table, uint32_t page, enum page_state state)
{
	if (!table->states) {
		assert(state == PAGE_EMPTY);
		return;
	}

	enum page_state before = (enum page_state)table->states[page];

	table->held -= before == PAGE_HELD || before == PAGE_UNKNOWN;
	table->lost -= before == PAGE_LOST;
	table->held += state == PAGE_HELD || state == PAGE_UNKNOWN;
	table->lost += state == PAGE_LOST;
	table->states[page] = (uint8_t)state;
	assert(table->held + table->lost <= table->pages);
}

void page_table_set_unknown(struct page_table *table)
{
	memset(table->states, PAGE_UNKNOWN, table->pages);
	table->held = table->pages;
	table->lost = 0;
}

void page_table_set_lost(struct page_table *table)
{
	memset(table->states, PAGE_LOST, table->pages);
	table->held = 0;
	table->lost = table->pages;
}

uint32_t page_table_lose(struct page_table *table, bool only_unknown)
{
	uint32_t lost = 0;

	for (uint32_t page = 0; page < table->pages && table->states; page++) {
		enum page_state state = (enum page_state)table->states[page];

		if (state == PAGE_UNKNOWN || (state == PAGE_HELD && !only_unknown)) {
			page_set_state(table, page, PAGE_LOST);
			lost++;
		}
	}
	return lost;
}

uint32_t checksum_epoch_salt(uint32_t piece_epoch)
{
	return (uint32_t)mix_u64(piece_epoch + UINT64_C(0x9e3779b97f4a7c15));
}

void page_table_resalt(struct page_table *table, uint32_t from_salt, uint32_t to_salt)
{
	uint32_t change = from_salt ^ to_salt;

	for (uint32_t page = 0; page < table->pages; page++)
		table->checksums[page] ^= change;
}
