/* deep_stacks.c: large frames on the main stack, on thread stacks, and on a stack from mmap */
#include "check.h"

#include <alloca.h>
#include <pthread.h>
#include <sys/mman.h>
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

static void in_context(void)
{
	check(descend(20, fiber_frame) == 210);
	ran = true;
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
	puts("no frame was lost");
	return 0;
}
