/* reservations.c: address space reserved unreadable, and opened piece by piece, as runtimes do */
#include "check.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
	size_t budget = program_bytes(argc, argv);
	size_t reserved = (size_t)8 << 30, piece = 64 * PAGE, pieces = budget / 2 / piece;
	char *space =
		mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t stride = reserved / pieces & ~(PAGE - 1);

	check(space != MAP_FAILED);
	for (size_t i = 0; i < pieces; i++) {
		char *memory = space + i * stride;

		if (i % 2)
			check(mprotect(memory, piece, PROT_READ | PROT_WRITE) == 0);
		else
			check(mmap(memory, piece, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
		check(is_zero(memory, piece));
		pattern_write(memory, piece, i);
	}
	for (size_t i = 0; i < pieces; i++) {
		check(pattern_is(space + i * stride, piece, i));
		/* Closed again; the contents are to be there when it opens. */
		check(mprotect(space + i * stride, piece, PROT_NONE) == 0);
	}
	for (size_t i = 0; i < pieces; i++) {
		check(mprotect(space + i * stride, piece, PROT_READ | PROT_WRITE) == 0);
		check(pattern_is(space + i * stride, piece, i));
	}
	check(munmap(space, reserved) == 0);
	puts("every piece of the reservation held");
	return 0;
}
