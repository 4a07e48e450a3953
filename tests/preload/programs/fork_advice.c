/* fork_advice.c: memory that a child is not to have, or is to have empty */
#include "check.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#define MADV_KEEPONFORK 19
#endif

static sigjmp_buf back;

static void jump_back(int signal)
{
	siglongjmp(back, 1);
}

static bool is_there(const volatile char *memory)
{
	if (sigsetjmp(back, 1))
		return false;
	(void)*memory;
	return true;
}

static void expect_child(void (*test)(char *, size_t), char *memory, size_t part)
{
	int status = -1;
	pid_t child = fork();

	check(child >= 0);
	if (child == 0) {
		test(memory, part);
		_exit(0);
	}
	check(waitpid(child, &status, 0) == child);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void first_child(char *memory, size_t part)
{
	check(pattern_is(memory, part, 1));
	check(!is_there(memory + part) && !is_there(memory + 2 * part - 1));
	check(is_zero(memory + 2 * part, part));
	check(pattern_is(memory + 3 * part, part, 4));
	/* What is wiped in a child is wiped in its child, too. */
	pattern_write(memory + 2 * part, part, 9);
	int status = -1;
	pid_t child = fork();

	check(child >= 0);
	if (child == 0) {
		check(is_zero(memory + 2 * part, part));
		_exit(0);
	}
	check(waitpid(child, &status, 0) == child && status == 0);
	check(pattern_is(memory + 2 * part, part, 9));
}

static void second_child(char *memory, size_t part)
{
	for (unsigned i = 0; i < 4; i++)
		check(pattern_is(memory + i * part, part, i + 1));
}

int main(int argc, char **argv)
{
	size_t part = program_bytes(argc, argv) / 8 & ~(PAGE - 1);
	struct sigaction action = {.sa_handler = jump_back};
	char *memory =
		mmap(NULL, 4 * part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(memory != MAP_FAILED);
	check(sigaction(SIGSEGV, &action, NULL) == 0);
	for (unsigned i = 0; i < 4; i++)
		pattern_write(memory + i * part, part, i + 1);
	check(madvise(memory + part, part, MADV_DONTFORK) == 0);
	check(madvise(memory + 2 * part, part, MADV_WIPEONFORK) == 0);
	expect_child(first_child, memory, part);
	for (unsigned i = 0; i < 4; i++)
		check(pattern_is(memory + i * part, part, i + 1));
	check(madvise(memory, 4 * part, MADV_DOFORK) == 0);
	check(madvise(memory, 4 * part, MADV_KEEPONFORK) == 0);
	expect_child(second_child, memory, part);
	check(munmap(memory, 4 * part) == 0);
	puts("children had what they were to have");
	return 0;
}
