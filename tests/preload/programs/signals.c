/*
 * signals.c: handlers that touch far memory and call the memory functions, a thousand times a
 * second, while the program does the same; on a signal stack that may itself be far
 */
#include "check.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static char *watched;
static size_t watched_len;
static volatile uint64_t handled, wrong;

static void on_timer(int signal)
{
	size_t page = handled * 131 % (watched_len / PAGE);

	if (!pattern_is_page(watched, 1, page))
		wrong++;
	/* mmap and munmap are system calls: allowed here, and our lock must not be in the way. */
	if (handled % 16 == 0) {
		char *memory = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			_exit(7);
		memory[0] = 1;
		munmap(memory, 32 * PAGE);
	}
	handled++;
}

static void set_timer(long interval_us)
{
	struct itimerval timer = {{0, interval_us}, {0, interval_us}};

	check(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 4;
	struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_ONSTACK | SA_RESTART};
	stack_t stack = {.ss_size = MIB};
	uint64_t random = 1;

	stack.ss_sp = malloc(stack.ss_size);
	watched = malloc(len);
	watched_len = len;
	check(stack.ss_sp && watched && sigaltstack(&stack, NULL) == 0);
	pattern_write(watched, len, 1);
	check(sigaction(SIGALRM, &action, NULL) == 0);
	set_timer(1000);
	/* Until enough have come, however slow the machine is. */
	for (unsigned turn = 0; turn < 40 || handled < 100; turn++) {
		size_t size = (64 + next_random(&random) % 256) * PAGE;
		char *memory = malloc(size);

		check(memory);
		pattern_write(memory, size, turn);
		check(pattern_is(memory, size, turn));
		free(memory);
		check(pattern_is(watched, len, 1));
	}
	set_timer(0);
	check(wrong == 0);
	puts("no handler saw anything wrong");
	return 0;
}
