/*
 * deep_stacks.c: large frames on the main stack and on thread stacks; and stacks that the program
 * made itself, which may be far like any memory: a fiber's and a thread's that call the memory
 * functions and fork
 */
#include "check.h"

#include <alloca.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

static uint64_t descend(unsigned depth, size_t frame)
{
	char *memory = alloca(frame + PAGE);
	char *aligned = (char *)(((uintptr_t)memory + PAGE - 1) & ~(PAGE - 1));
	uint64_t sum = depth;

	pattern_write(aligned, frame, depth);
	if (depth > 0)
		sum += descend(depth - 1, frame);
	check(pattern_is(aligned, frame, depth));
	return sum;
}

static void *in_thread(void *arg)
{
	check(descend(20, 64 * PAGE) == 210);
	return NULL;
}

static ucontext_t back;
static size_t fiber_frame;
static volatile bool ran;

/* Memory calls and forks while the stack below and above may be anywhere. */
static void call_all(void)
{
	size_t len = 64 * PAGE;

	for (unsigned turn = 0; turn < 20; turn++) {
		char *memory =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		check(memory != MAP_FAILED);
		pattern_write(memory, len, turn);
		check(mprotect(memory, len, PROT_READ) == 0 && pattern_is(memory, len, turn));
		if (turn % 10 == 0) {
			pid_t child = fork();
			int status = -1;

			check(child >= 0);
			if (child == 0)
				_exit(pattern_is(memory, len, turn) ? 0 : 1);
			check(waitpid(child, &status, 0) == child && status == 0);
		}
		check(madvise(memory, len, MADV_DONTNEED) == 0 && is_zero(memory, len));
		check(munmap(memory, len) == 0);
	}
}

static void in_context(void)
{
	check(descend(20, fiber_frame) == 210);
	call_all();
	check(descend(20, fiber_frame) == 210);
	ran = true;
}

static void *in_own_stack(void *arg)
{
	check(descend(20, fiber_frame) == 210);
	call_all();
	check(descend(20, fiber_frame) == 210);
	return NULL;
}

static void thread_on(char *stack, size_t len)
{
	pthread_attr_t attributes;
	pthread_t thread;

	check(pthread_attr_init(&attributes) == 0);
	check(pthread_attr_setstack(&attributes, stack, len) == 0);
	check(pthread_create(&thread, &attributes, in_own_stack, NULL) == 0);
	check(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv)
{
	size_t len = program_bytes(argc, argv);
	pthread_attr_t attributes;
	pthread_t thread[4];
	ucontext_t context;
	char *stack;

	fiber_frame = len / 24 & ~(PAGE - 1);
	check(descend(20, 32 * PAGE) == 210);
	check(pthread_attr_init(&attributes) == 0);
	check(pthread_attr_setstacksize(&attributes, 8 * MIB) == 0);
	for (unsigned turn = 0; turn < 3; turn++) {
		for (unsigned i = 0; i < 4; i++)
			check(pthread_create(&thread[i], &attributes, in_thread, NULL) == 0);
		for (unsigned i = 0; i < 4; i++)
			check(pthread_join(thread[i], NULL) == 0);
	}
	/* A fiber's stack is ordinary memory: it may be far. */
	stack = mmap(NULL, len + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	check(stack != MAP_FAILED && getcontext(&context) == 0);
	context.uc_stack.ss_sp = stack;
	context.uc_stack.ss_size = len + 2 * MIB;
	context.uc_link = &back;
	makecontext(&context, in_context, 0);
	check(swapcontext(&back, &context) == 0 && ran);
	thread_on(stack, len + 2 * MIB);
	check(munmap(stack, len + 2 * MIB) == 0);
	puts("no frame was lost");
	return 0;
}
