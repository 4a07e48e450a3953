/* affinity.c: what a program asks of the scheduler stays so while its memory comes and goes */
#include "check.h"

#include <pthread.h>
#include <sched.h>

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv) / 2;
	char *memory = malloc(len);
	cpu_set_t all, one, seen;
	size_t processor = CPU_SETSIZE;

	check(memory && sched_getaffinity(0, sizeof(all), &all) == 0);
	for (size_t i = 0; i < CPU_SETSIZE; i++) {
		if (CPU_ISSET(i, &all))
			processor = i;
	}
	check(processor < CPU_SETSIZE);
	CPU_ZERO(&one);
	CPU_SET(processor, &one);
	for (unsigned turn = 0; turn < 6; turn++) {
		const cpu_set_t *wanted = turn % 2 ? &one : &all;

		if (turn < 3)
			check(sched_setaffinity(0, sizeof(*wanted), wanted) == 0);
		else
			check(pthread_setaffinity_np(pthread_self(), sizeof(*wanted), wanted) == 0);
		pattern_write(memory, len, turn);
		check(pattern_is(memory, len, turn));
		check(sched_getaffinity(0, sizeof(seen), &seen) == 0 && CPU_EQUAL(&seen, wanted));
		check(pthread_getaffinity_np(pthread_self(), sizeof(seen), &seen) == 0);
		check(CPU_EQUAL(&seen, wanted));
	}
	check(sched_getaffinity(0, 1, &seen) == -1);
	puts("the threads ran where they were to run");
	return 0;
}
