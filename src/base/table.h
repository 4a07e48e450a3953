/*
 * table.h: a map from 64-bit keys to pointers
 *
 *   Open addressing with linear probing; a removal shifts its followers back, so there are no
 *   tombstones and a probe ends at the first empty slot. The table doubles while it may, at three
 *   quarters full; at entries_max it refuses. Any key is allowed; NULL is no value.
 *
 *   Keys may be chosen by a peer. The seed, unknown to it, keeps it from piling them up in one
 *   run of slots. One thread at a time.
 */
#ifndef AFAR_BASE_TABLE_H
#define AFAR_BASE_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_slot {
	uint64_t key;
	void *value; /* NULL: the slot is empty */
};

/* Read the counters freely; write nothing. */
struct table {
	struct table_slot *slots;
	uint64_t seed;
	uint32_t slot_count; /* a power of two */
	uint32_t entries;
	uint32_t entries_max;
	uint64_t rejected; /* inserts refused for want of room or memory */
};

/* An empty table of at most entries_max, 1 to 2^30. -EINVAL. -ENOMEM. */
int table_create(struct table *table, uint32_t entries_max, uint64_t seed);

/* Frees the slots, not what they point to. A zeroed table is fine. */
void table_destroy(struct table *table);

/* -EEXIST: the key is there, and keeps its value. -ENOSPC: entries_max reached. -ENOMEM. */
int table_insert(struct table *table, uint64_t key, void *value);

/* The key's value, or NULL. */
void *table_get(const struct table *table, uint64_t key);

/* Removes the key; returns the value that it had, or NULL. */
void *table_remove(struct table *table, uint64_t key);

/*
 * Walks the entries in no order: start with *cursor = 0; NULL ends. The table must not change
 * meanwhile. `key` may be NULL.
 */
void *table_next(const struct table *table, uint32_t *cursor, uint64_t *key);

#endif
