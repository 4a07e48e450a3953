/* discards.c: MADV_DONTNEED and MADV_FREE empty pages, parts of mappings go and come back */
#include "check.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

static bool advise(char *memory, size_t len, int advice)
{
	return madvise(memory, len, advice) == 0;
}

/* Every second stretch of `step` pages is thrown away; the others stay. */
static void throw_away_stripes(char *memory, size_t len, size_t step, int advice)
{
	pattern_write(memory, len, 1);
	for (size_t at = step; at + step <= len; at += 2 * step)
		check(advise(memory + at, step, advice));
	for (size_t at = 0; at + step <= len; at += step) {
		bool thrown = at / step % 2;

		/* MADV_FREE may leave what was there, or zeros; a write stays in either case. */
		for (size_t page = at / PAGE; page < (at + step) / PAGE; page++) {
			if (!thrown)
				check(pattern_is_page(memory, 1, page));
			else if (advice == MADV_DONTNEED)
				check(is_zero(memory + page * PAGE, PAGE));
			else
				check(is_zero(memory + page * PAGE, PAGE) ||
				      pattern_is_page(memory, 1, page));
		}
		if (thrown) {
			for (size_t page = at / PAGE; page < (at + step) / PAGE; page++)
				pattern_write_page(memory, 2, page);
		}
	}
	for (size_t at = 0; at + step <= len; at += step) {
		for (size_t page = at / PAGE; page < (at + step) / PAGE; page++)
			check(pattern_is_page(memory, at / step % 2 ? 2 : 1, page));
	}
}

static void unmap_and_map_again(char *memory, size_t len)
{
	size_t part = len / 4 & ~(PAGE - 1);
	char *hole = memory + part;

	pattern_write(memory, len, 3);
	check(munmap(hole, part) == 0);
	hole = mmap(hole, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		    0);
	check(hole == memory + part && is_zero(hole, part));
	/* Over what is there, without unmapping it first. */
	hole = mmap(memory + 2 * part, part, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check(hole == memory + 2 * part && is_zero(hole, part));
	check(pattern_is(memory, part, 3));
	/* A mapping that cannot be made leaves what is there alone. */
	check(mmap(memory, part, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED &&
	      errno == EBADF);
	check(pattern_is(memory, part, 3));
	/* A file over it, and memory over the file. */
	check(mmap(memory, part, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      memory);
	check(is_zero(memory, part));
	check(mmap(memory, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		   -1, 0) == memory);
	pattern_write(memory, part, 4);
	check(pattern_is(memory, part, 4));
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 2;
	char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	check(memory != MAP_FAILED && is_zero(memory, len));
	throw_away_stripes(memory, len, PAGE, MADV_DONTNEED);
	throw_away_stripes(memory, len, 37 * PAGE, MADV_DONTNEED);
	throw_away_stripes(memory, len, 37 * PAGE, MADV_FREE);
	check(advise(memory, len, MADV_HUGEPAGE) && advise(memory, len, MADV_WILLNEED));
	check(advise(memory, len / 2, MADV_POPULATE_WRITE) || errno == EINVAL);
	check(advise(memory, len / 2, MADV_POPULATE_READ) || errno == EINVAL);
	check(madvise(memory + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
	unmap_and_map_again(memory, len);
	check(munmap(memory, len) == 0);
	puts("what was thrown away was gone, and nothing else");
	return 0;
}
