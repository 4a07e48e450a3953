/* raw_calls.c: the same calls by number, through syscall() */
#include "check.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char *map(size_t len)
{
	char *memory = (char *)syscall(SYS_mmap, NULL, len, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(memory != MAP_FAILED);
	return memory;
}

static void forked(char *memory, size_t len, long child)
{
	int status = -1;

	check(child >= 0);
	if (child == 0) {
		check(pattern_is(memory, len, 1));
		pattern_write(memory, len, 2);
		check(pattern_is(memory, len, 2));
		_exit(0);
	}
	check(waitpid((pid_t)child, &status, 0) == child);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	check(pattern_is(memory, len, 1));
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 4 & ~(PAGE - 1);
	char *memory = map(len);

	pattern_write(memory, len, 1);
#ifdef SYS_fork
	forked(memory, len, syscall(SYS_fork));
#endif
	forked(memory, len, syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
	memory = (char *)syscall(SYS_mremap, memory, len, 2 * len, MREMAP_MAYMOVE, NULL);
	check(memory != MAP_FAILED && pattern_is(memory, len, 1) && is_zero(memory + len, len));
	check(syscall(SYS_mprotect, memory, len, PROT_NONE) == 0);
	check(syscall(SYS_mprotect, memory, len, PROT_READ) == 0 && pattern_is(memory, len, 1));
	check(syscall(SYS_madvise, memory, len, MADV_DONTNEED) == 0 && is_zero(memory, len));
	check(syscall(SYS_munmap, memory, 2 * len) == 0);
	errno = 0;
	check(syscall(SYS_munmap, 1, 1) == -1 && errno == EINVAL);
	check(syscall(SYS_getpid) == getpid());
	puts("numbers and names mean the same");
	return 0;
}
