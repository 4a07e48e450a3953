/*
 * marks.h: what the program asked for its memory that we must remember
 *
 *   The kernel keeps such wishes with the mapping. Those below cannot be left to it on managed
 *   memory: the pager itself decides what a child inherits, and what is locked must be known
 *   before a mapping grows. A mark is an address range with one wish; ranges of one wish neither
 *   overlap nor touch. There are few: a fixed table, searched from end to end.
 */
#ifndef AFAR_PRELOAD_MARKS_H
#define AFAR_PRELOAD_MARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MARKS_MAX 512u

enum mark_kind {
	MARK_NONE = 0,
	MARK_ABSENT_IN_CHILD, /* MADV_DONTFORK */
	MARK_EMPTY_IN_CHILD,  /* MADV_WIPEONFORK */
	MARK_LOCKED,          /* mlock */
	MARK_LOCAL,           /* large, private, anonymous, and not managed: it is counted */
};

struct mark {
	enum mark_kind kind;
	uintptr_t start, end;
};

struct marks {
	struct mark mark[MARKS_MAX];
	unsigned count;
};

/* -ENOSPC: the table is full, and nothing was changed. */
int marks_set(struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end);
/* -ENOSPC: cutting a hole needs one more entry than there is; nothing was changed. */
int marks_clear(struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end);
/* The range is gone: all its marks go. In a full table a mark cut in two loses its upper part. */
void marks_forget(struct marks *marks, uintptr_t start, uintptr_t end);
/* The range has moved, and its marks with it; they cover the new length where they were at the end.
 */
void marks_move(struct marks *marks, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len);
/* How many bytes of the range are marked so. */
size_t marks_bytes(const struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end);
bool marks_any(const struct marks *marks, enum mark_kind kind, uintptr_t start, uintptr_t end);

#endif
