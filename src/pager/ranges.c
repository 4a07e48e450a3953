/*
 * ranges.c: which memory is managed
 *
 *   A sorted array of disjoint half-open ranges. Programs have tens of them, allocators with many
 *   arenas thousands; an insertion moves what lies behind it. Neighbours with the same flags are
 *   one range, so that a heap which grows piece by piece stays one.
 */
#include "pager/state.h"

#include <errno.h>
#include <string.h>

/* The index of the first range that ends beyond the address. */
static unsigned index_of(const struct pager *pager, uintptr_t address)
{
	unsigned low = 0;
	unsigned high = pager->ranges_count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (pager->ranges[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct range *ranges_first(const struct pager *pager, uintptr_t address)
{
	unsigned i = index_of(pager, address);

	return i < pager->ranges_count ? &pager->ranges[i] : NULL;
}

struct range *ranges_find(const struct pager *pager, uintptr_t address)
{
	struct range *range = ranges_first(pager, address);

	return range && range->start <= address ? range : NULL;
}

/* Beyond RANGES_MAX only holes make more ranges, and each of them is a mapping of the kernel's. */
bool ranges_have_room(const struct pager *pager)
{
	return pager->ranges_count < RANGES_MAX;
}

static void insert(struct pager *pager, unsigned i, struct range range)
{
	PAGER_CHECK(pager->ranges_count < RANGES_ROOM);
	memmove(&pager->ranges[i + 1], &pager->ranges[i],
		(pager->ranges_count - i) * sizeof(range));
	pager->ranges[i] = range;
	pager->ranges_count++;
}

static void erase(struct pager *pager, unsigned i)
{
	pager->ranges_count--;
	memmove(&pager->ranges[i], &pager->ranges[i + 1],
		(pager->ranges_count - i) * sizeof(struct range));
}

/* Makes one range of i and the one before it, if they are alike and touch. */
static void join_with_previous(struct pager *pager, unsigned i)
{
	struct range *range = &pager->ranges[i];

	if (i == 0 || i >= pager->ranges_count)
		return;
	if (range[-1].end != range->start || range[-1].flags != range->flags)
		return;
	range[-1].end = range->end;
	erase(pager, i);
}

int ranges_add(struct pager *pager, uintptr_t start, uintptr_t end, uint32_t flags)
{
	/* What was there before was unmapped without a word: the new mapping took its place. */
	ranges_remove(pager, start, end);
	if (!ranges_have_room(pager))
		return -ENOSPC;

	unsigned i = index_of(pager, start);

	insert(pager, i, (struct range){start, end, flags});
	join_with_previous(pager, i + 1);
	join_with_previous(pager, i);
	return 0;
}

/* Cuts the range that spans the address in two there. */
static void split_at(struct pager *pager, uintptr_t address)
{
	unsigned i = index_of(pager, address);

	if (i >= pager->ranges_count || pager->ranges[i].start >= address)
		return;

	struct range tail = pager->ranges[i];

	tail.start = address;
	pager->ranges[i].end = address;
	insert(pager, i + 1, tail);
}

void ranges_remove(struct pager *pager, uintptr_t start, uintptr_t end)
{
	const struct range *first = ranges_first(pager, start);

	if (!first || first->start >= end)
		return;
	split_at(pager, start);
	split_at(pager, end);

	unsigned i = index_of(pager, start);

	while (i < pager->ranges_count && pager->ranges[i].start < end)
		erase(pager, i);
}

int ranges_set(struct pager *pager, uintptr_t start, uintptr_t end, uint32_t set, uint32_t clear)
{
	if (!ranges_have_room(pager))
		return -ENOSPC;
	split_at(pager, start);
	split_at(pager, end);

	unsigned i = index_of(pager, start);

	for (; i < pager->ranges_count && pager->ranges[i].start < end; i++)
		pager->ranges[i].flags = (pager->ranges[i].flags & ~clear) | set;
	/* From the end, so that the indices before stay what they are. */
	for (; i > 0 && pager->ranges[i - 1].end >= start; i--)
		join_with_previous(pager, i);
	join_with_previous(pager, i);
	return 0;
}
