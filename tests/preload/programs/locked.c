/* locked.c: memory that is locked stays, grows, and is unlocked again */
#include "check.h"

#include <errno.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 4 & ~(PAGE - 1);
	size_t part = 32 * PAGE;
	char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *other;

	check(memory != MAP_FAILED);
	pattern_write(memory, len, 1);
	/* A machine may allow no locked memory at all: then there is no more to see. */
	if (mlock(memory + part, part)) {
		check(errno == ENOMEM || errno == EPERM || errno == EAGAIN);
		puts("what is locked is there");
		return 0;
	}
	check(pattern_is(memory, len, 1));
	check(madvise(memory, len, MADV_DONTNEED) == -1 && errno == EINVAL);
	check(pattern_is(memory + part, part, 1) || pattern_is_page(memory, 1, part / PAGE));
	for (size_t page = 0; page < part / PAGE; page++)
		check(pattern_is_page(memory, 1, part / PAGE + page));
	check(munlock(memory + part, part) == 0);
	check(madvise(memory, len, MADV_DONTNEED) == 0 && is_zero(memory, len));

	/* Locked memory that grows is locked where it is new. */
	check(mlock2(memory, part, MLOCK_ONFAULT) == 0 || errno == ENOSYS || errno == EINVAL);
	check(munlock(memory, part) == 0);
	other = mmap(NULL, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(other != MAP_FAILED && mlock(other, part) == 0);
	pattern_write(other, part, 2);
	other = mremap(other, part, 2 * part, MREMAP_MAYMOVE);
	if (other != MAP_FAILED) {
		check(pattern_is(other, part, 2) && is_zero(other + part, part));
		check(munmap(other, 2 * part) == 0);
	}
	pattern_write(memory, len, 3);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
		other = mmap(NULL, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			     0);
		check(other != MAP_FAILED);
		pattern_write(other, part, 4);
		check(pattern_is(memory, len, 3) && pattern_is(other, part, 4));
		check(munlockall() == 0);
	}
	check(pattern_is(memory, len, 3));
	puts("what is locked is there");
	return 0;
}
