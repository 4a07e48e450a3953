/*
 * write_barrier.c: a collector's write barrier: pages are made read-only or unreadable, and the
 * program's own SIGSEGV handler opens the one that was touched
 */
#include "check.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>

static char *memory;
static size_t len;
static volatile size_t opened;
static unsigned char *dirty; /* one byte a page, written by the handler */

static void open_page(int signal, siginfo_t *info, void *context)
{
	size_t at = (size_t)((char *)info->si_addr - memory);

	if (at >= len)
		_exit(9);
	dirty[at / PAGE] = 1;
	opened++;
	if (mprotect(memory + at / PAGE * PAGE, PAGE, PROT_READ | PROT_WRITE))
		_exit(8);
}

static void touch_some(uint64_t *random, unsigned count, uint64_t owner)
{
	memset(dirty, 0, len / PAGE);
	opened = 0;
	for (unsigned i = 0; i < count; i++) {
		size_t page = next_random(random) % (len / PAGE);
		bool seen = dirty[page];
		size_t before = opened;

		pattern_write_page(memory, owner + page, page);
		check(dirty[page] && opened == before + (seen ? 0 : 1));
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = open_page, .sa_flags = SA_SIGINFO};
	uint64_t random = 3;

	len = program_bytes(argc, argv) / 2;
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	dirty = calloc(1, len / PAGE);
	check(memory != MAP_FAILED && dirty);
	check(sigaction(SIGSEGV, &action, NULL) == 0);
	for (size_t page = 0; page < len / PAGE; page++)
		pattern_write_page(memory, page, page);
	for (unsigned turn = 1; turn <= 4; turn++) {
		uint64_t owner = (uint64_t)turn << 20;

		check(mprotect(memory, len, turn % 2 ? PROT_READ : PROT_NONE) == 0);
		touch_some(&random, 300, owner);
		check(mprotect(memory, len, PROT_READ | PROT_WRITE) == 0);
		for (size_t page = 0; page < len / PAGE; page++) {
			if (dirty[page])
				check(pattern_is_page(memory, owner + page, page));
		}
		/* All written anew, so that each turn can tell old from new. */
		for (size_t page = 0; page < len / PAGE; page++)
			pattern_write_page(memory, page, page);
	}
	check(mprotect(memory, len, PROT_NONE) == 0);
	check(mprotect(memory, len, PROT_READ) == 0);
	for (size_t page = 0; page < len / PAGE; page++)
		check(pattern_is_page(memory, page, page));
	puts("every touch was seen once");
	return 0;
}
