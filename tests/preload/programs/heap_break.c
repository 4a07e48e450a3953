/* heap_break.c: a program with a heap of its own, in brk and sbrk */
#include "check.h"

#include <errno.h>

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) & ~(PAGE - 1);
	size_t step = 33 * PAGE + 128, used = 0, written = 0;
	char *start = sbrk(0);
	char *aligned = (char *)(((uintptr_t)start + PAGE - 1) & ~(PAGE - 1));

	/* No malloc from here on: it would put its own things in between. */
	check(start != (char *)-1);
	check(sbrk(aligned - start) == start);
	while (used + step <= len) {
		check(sbrk((intptr_t)step) == aligned + used);
		check(is_zero(aligned + used, step & ~(size_t)7));
		used += step;
		for (; written < used / PAGE; written++)
			pattern_write_page(aligned, 1, written);
	}
	check(pattern_is(aligned, used & ~(PAGE - 1), 1));
	/* Down to half and up again: the upper half is new and empty. */
	check(brk(aligned + len / 4) == 0 && sbrk(0) == aligned + len / 4);
	check(pattern_is(aligned, len / 4 & ~(PAGE - 1), 1));
	check(brk(aligned + len / 2) == 0);
	check(is_zero(aligned + ((len / 4 + PAGE - 1) & ~(PAGE - 1)), len / 4 - PAGE));
	/* Below where it was when the program began, and back. */
	check(brk(aligned) == 0 && sbrk(0) == aligned);
	check(sbrk((intptr_t)(16 * PAGE)) == aligned && is_zero(aligned, 16 * PAGE));
	check(sbrk(-(intptr_t)(16 * PAGE)) == aligned + 16 * PAGE && sbrk(0) == aligned);
	errno = 0;
	check(sbrk(INTPTR_MAX) == (void *)-1 && errno == ENOMEM && sbrk(0) == aligned);
	errno = 0;
	check(brk((void *)-PAGE) == -1 && errno == ENOMEM && sbrk(0) == aligned);
	/* malloc goes on where the heap is now. */
	check(sbrk(-(aligned - start)) == aligned);
	puts("the heap grew and shrank in one piece");
	return 0;
}
