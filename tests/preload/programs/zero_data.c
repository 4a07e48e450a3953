/* zero_data.c: an array that is declared, not allocated; its first pages touched by a constructor
 */
#include "check.h"

#include <sys/wait.h>

#define ARRAY_BYTES (128 * MIB)

static char array[ARRAY_BYTES] __attribute__((aligned(4096)));

__attribute__((constructor)) static void touch_early(void)
{
	pattern_write(array, 8 * PAGE, 1);
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv);
	int status = -1;
	pid_t child;

	len = len < ARRAY_BYTES ? len : ARRAY_BYTES;
	check(pattern_is(array, 8 * PAGE, 1));
	check(is_zero(array + 8 * PAGE, len - 8 * PAGE));
	pattern_write(array, len, 2);
	check(pattern_is(array, len, 2));
	child = fork();
	check(child >= 0);
	if (child == 0)
		_exit(pattern_is(array, len, 2) ? 0 : 1);
	check(waitpid(child, &status, 0) == child && status == 0);
	puts("the array was what it was declared to be");
	return 0;
}
