/* mremap_moves.c: mappings that grow, shrink and move take their contents along */
#include "check.h"

#include <errno.h>
#include <sys/mman.h>

static char *map(size_t len)
{
	char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(memory != MAP_FAILED);
	return memory;
}

/* Doubles and halves: with growth the kernel has to move it sooner or later. */
static void grow_and_shrink(size_t most)
{
	size_t len = 16 * PAGE;
	char *memory = map(len);
	size_t written = 0;

	while (len < most) {
		memory = mremap(memory, len, 2 * len, MREMAP_MAYMOVE);
		check(memory != MAP_FAILED);
		check(pattern_is(memory, written, 1));
		check(is_zero(memory + len, len));
		len *= 2;
		pattern_write(memory, len, 1);
		written = len;
	}
	while (len > 16 * PAGE) {
		memory = mremap(memory, len, len / 2, 0);
		check(memory != MAP_FAILED);
		len /= 2;
		check(pattern_is(memory, len, 1));
	}
	check(munmap(memory, len) == 0);
}

/* To a place that is taken: what was there is gone. */
static void move_onto(size_t len)
{
	char *from = map(len), *onto = map(2 * len);

	pattern_write(from, len, 2);
	pattern_write(onto, 2 * len, 3);
	check(mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, onto + len / 2) ==
	      onto + len / 2);
	check(pattern_is(onto, len / 2, 3));
	check(pattern_is(onto + len / 2, len, 2));
	for (size_t page = (len + len / 2) / PAGE; page < 2 * len / PAGE; page++)
		check(pattern_is_page(onto, 3, page));
	/* The place it came from is free: a new mapping there is empty. */
	from = mmap(from, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(from != MAP_FAILED && is_zero(from, len));
	check(munmap(from, len) == 0 && munmap(onto, 2 * len) == 0);
}

/* The middle of a mapping moves away; its ends stay. */
static void move_the_middle(size_t len)
{
	size_t third = len / 3 & ~(PAGE - 1);
	char *memory = map(3 * third), *place = map(third);

	pattern_write(memory, third, 4);
	pattern_write(memory + third, third, 5);
	pattern_write(memory + 2 * third, third, 6);
	check(mremap(memory + third, third, third, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
	check(pattern_is(memory, third, 4));
	check(pattern_is(place, third, 5));
	check(pattern_is(memory + 2 * third, third, 6));
	check(munmap(memory, 3 * third) == 0 && munmap(place, third) == 0);
}

static void refusals(void)
{
	char *memory = map(64 * PAGE);

	pattern_write(memory, 64 * PAGE, 7);
	check(mremap(memory + 1, 64 * PAGE, 128 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED &&
	      errno == EINVAL);
	check(mremap(memory, 64 * PAGE, 0, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
	check(mremap(memory, 64 * PAGE, 64 * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, memory + PAGE) ==
		      MAP_FAILED &&
	      errno == EINVAL);
	check(pattern_is(memory, 64 * PAGE, 7));
	check(munmap(memory, 64 * PAGE) == 0);
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv);

	grow_and_shrink(len / 2);
	move_onto(len / 4 & ~(2 * PAGE - 1));
	move_the_middle(len / 2);
	refusals();
	puts("what moved arrived");
	return 0;
}
