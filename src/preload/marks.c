/* marks.c: see marks.h */
#include "preload/marks.h"

#include <errno.h>

static bool overlaps(const struct mark *mark, uintptr_t start, uintptr_t end)
{
	return mark->start < end && start < mark->end;
}

static void remove_at(struct marks *marks, unsigned i)
{
	marks->mark[i] = marks->mark[--marks->count];
}

int marks_set(struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end)
{
	unsigned i = 0;

	if (start >= end)
		return 0;
	if (marks->count == MARKS_MAX) {
		bool joins = false;

		for (unsigned k = 0; k < marks->count; k++)
			joins |= marks->mark[k].kind == kind && marks->mark[k].start <= end &&
				 start <= marks->mark[k].end;
		if (!joins)
			return -ENOSPC;
	}
	while (i < marks->count) {
		const struct mark *mark = &marks->mark[i];

		if (mark->kind != kind || mark->start > end || start > mark->end) {
			i++;
			continue;
		}
		start = mark->start < start ? mark->start : start;
		end = mark->end > end ? mark->end : end;
		remove_at(marks, i);
		i = 0;
	}
	marks->mark[marks->count++] = (struct mark){kind, start, end};
	return 0;
}

/* Cuts [start, end) out of the mark at i. True if the entry is gone and another is in its place. */
static bool cut(struct marks *marks, unsigned i, uintptr_t start, uintptr_t end)
{
	struct mark *mark = &marks->mark[i];
	bool below = mark->start<start, above = mark->end> end;

	if (below && above && marks->count < MARKS_MAX)
		marks->mark[marks->count++] = (struct mark){mark->kind, end, mark->end};
	if (below)
		mark->end = start;
	else if (above)
		mark->start = end;
	else
		remove_at(marks, i);
	return !below && !above;
}

int marks_clear(struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; marks->count == MARKS_MAX && i < marks->count; i++) {
		const struct mark *mark = &marks->mark[i];

		if (mark->kind == kind && mark->start < start && mark->end > end)
			return -ENOSPC;
	}
	for (unsigned i = 0; i < marks->count;) {
		bool hit = marks->mark[i].kind == kind && overlaps(&marks->mark[i], start, end);

		if (!hit || !cut(marks, i, start, end))
			i++;
	}
	return 0;
}

void marks_forget(struct marks *marks, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < marks->count;) {
		if (!overlaps(&marks->mark[i], start, end) || !cut(marks, i, start, end))
			i++;
	}
}

/* A mapping that stays where it is takes its marks along as it grows or shrinks. */
static void resize(struct marks *marks, uintptr_t start, size_t old_len, size_t new_len)
{
	uintptr_t old_end = start + old_len;

	if (new_len < old_len)
		marks_forget(marks, start + new_len, old_end);
	for (unsigned i = 0; new_len > old_len && i < marks->count; i++) {
		struct mark *mark = &marks->mark[i];

		if (mark->start < old_end && mark->end == old_end)
			mark->end = start + new_len;
	}
}

void marks_move(struct marks *marks, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len)
{
	uintptr_t from_end = from + from_len;
	unsigned before = marks->count;

	if (from == to) {
		resize(marks, from, from_len, to_len);
		return;
	}
	for (unsigned i = 0; i < before; i++) {
		struct mark old = marks->mark[i];

		if (!overlaps(&old, from, from_end))
			continue;
		uintptr_t low = old.start > from ? old.start - from : 0;
		uintptr_t high = old.end < from_end ? old.end - from : to_len;

		high = high < to_len ? high : to_len;
		marks->mark[i] =
			(struct mark){low < high ? old.kind : MARK_NONE, to + low, to + high};
		if (old.start < from && marks->count < MARKS_MAX)
			marks->mark[marks->count++] = (struct mark){old.kind, old.start, from};
		if (old.end > from_end && marks->count < MARKS_MAX)
			marks->mark[marks->count++] = (struct mark){old.kind, from_end, old.end};
	}
	for (unsigned i = 0; i < marks->count;) {
		if (marks->mark[i].kind == MARK_NONE)
			remove_at(marks, i);
		else
			i++;
	}
}

size_t marks_bytes(const struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < marks->count; i++) {
		const struct mark *mark = &marks->mark[i];

		if (mark->kind != kind || !overlaps(mark, start, end))
			continue;
		bytes += (mark->end < end ? mark->end : end) -
			 (mark->start > start ? mark->start : start);
	}
	return bytes;
}

bool marks_any(const struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end)
{
	return marks_bytes(marks, kind, start, end) > 0;
}
