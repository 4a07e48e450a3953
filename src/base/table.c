/*
 * table.c: open addressing with linear probing
 *
 * Invariant: from a key's home slot to the slot it lies in, no slot is empty. A search may
 * therefore stop at the first empty slot; insertion takes that slot; removal closes its gap.
 */
#include "base/table.h"

#include "base/base.h"
#include "base/bits.h"

#include <stdlib.h>

#define SLOTS_FIRST  16u
#define ENTRIES_MOST (1u << 30)

static uint32_t home_of(const struct table *table, uint64_t key)
{
	/* Twice: xor with a seed and one mixing would keep the differences between keys. */
	return (uint32_t)mix_u64(mix_u64(key ^ table->seed) + table->seed) &
	       (table->slot_count - 1);
}

/* The slot of the key, or the empty slot where it would go. */
static uint32_t find(const struct table *table, uint64_t key)
{
	uint32_t slot = home_of(table, key);

	while (table->slots[slot].value && table->slots[slot].key != key)
		slot = (slot + 1) & (table->slot_count - 1);
	return slot;
}

int table_create(struct table *table, uint32_t entries_max, uint64_t seed)
{
	*table = (struct table){0};
	if (entries_max == 0 || entries_max > ENTRIES_MOST)
		return -EINVAL;
	table->slots = calloc(SLOTS_FIRST, sizeof(*table->slots));
	if (!table->slots)
		return -ENOMEM;
	table->slot_count = SLOTS_FIRST;
	table->entries_max = entries_max;
	table->seed = seed;
	return 0;
}

void table_destroy(struct table *table)
{
	free(table->slots);
	*table = (struct table){0};
}

static int grow(struct table *table)
{
	struct table old = *table;
	struct table_slot *slots = calloc((size_t)old.slot_count * 2, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	table->slots = slots;
	table->slot_count = old.slot_count * 2;
	for (uint32_t i = 0; i < old.slot_count; i++) {
		if (old.slots[i].value)
			table->slots[find(table, old.slots[i].key)] = old.slots[i];
	}
	free(old.slots);
	return 0;
}

/* At three quarters a probe for an absent key looks at some 8 slots; beyond, it soon gets worse. */
static bool is_crowded(const struct table *table)
{
	return table->entries >= table->slot_count / 4 * 3;
}

int table_insert(struct table *table, uint64_t key, void *value)
{
	int err = 0;

	assert(value);
	if (table_get(table, key))
		return -EEXIST;
	if (table->entries == table->entries_max)
		err = -ENOSPC;
	else if (is_crowded(table))
		err = grow(table);
	if (err) {
		table->rejected++;
		return err;
	}
	table->slots[find(table, key)] = (struct table_slot){.key = key, .value = value};
	table->entries++;
	return 0;
}

void *table_get(const struct table *table, uint64_t key)
{
	return table->slots[find(table, key)].value;
}

/*
 * Moves each follower into the gap that may lie there, which moves the gap, until the run ends:
 *
 *     home ≤ gap < slot   the follower may move: gap is still on the way from its home
 *     gap < home ≤ slot   it stays: moved, it would lie before its home
 *
 * Distances are counted back from `slot`, round the end of the table.
 */
static void close_gap(struct table *table, uint32_t gap)
{
	uint32_t mask = table->slot_count - 1;

	for (uint32_t slot = (gap + 1) & mask; table->slots[slot].value; slot = (slot + 1) & mask) {
		uint32_t home = home_of(table, table->slots[slot].key);

		if (((slot - home) & mask) < ((slot - gap) & mask))
			continue;
		table->slots[gap] = table->slots[slot];
		gap = slot;
	}
	table->slots[gap].value = NULL;
}

void *table_remove(struct table *table, uint64_t key)
{
	uint32_t slot = find(table, key);
	void *value = table->slots[slot].value;

	if (value) {
		close_gap(table, slot);
		table->entries--;
	}
	return value;
}

void *table_next(const struct table *table, uint32_t *cursor, uint64_t *key)
{
	while (*cursor < table->slot_count) {
		const struct table_slot *slot = &table->slots[(*cursor)++];

		if (slot->value) {
			if (key)
				*key = slot->key;
			return slot->value;
		}
	}
	return NULL;
}
