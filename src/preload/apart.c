/* apart.c: see apart.h */
#include "preload/apart.h"

#include "base/kernel_call.h"
#include "base/stack_switch.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

struct stack {
	alignas(64) unsigned char bytes[APART_STACK_BYTES];
};

/* What is called, at the very top of the stack that it is called on. */
struct apart {
	alignas(16) long argument[6];
	long (*function)(const long argument[6]);
};

static struct stack stacks[APART_STACKS];
static _Atomic uint32_t taken; /* one bit a stack */

#define ALL_TAKEN UINT32_MAX

static_assert(APART_STACKS == 32, "a bit each");

static unsigned take_stack(void)
{
	uint32_t seen = atomic_load_explicit(&taken, memory_order_relaxed);

	for (;;) {
		if (seen == ALL_TAKEN) {
			kernel_call4(SYS_futex, (long)&taken, FUTEX_WAIT_PRIVATE, (long)ALL_TAKEN,
				     0);
			seen = atomic_load_explicit(&taken, memory_order_relaxed);
			continue;
		}
		unsigned first = (unsigned)__builtin_ctz(~seen);

		/* Acquire: what its last user did on it is done. */
		if (atomic_compare_exchange_weak_explicit(&taken, &seen, seen | 1u << first,
							  memory_order_acquire,
							  memory_order_relaxed))
			return first;
	}
}

/* Who finds that all were taken wakes all who wait: one alone would not pass on what comes next. */
static void give_back_stack(unsigned stack)
{
	uint32_t before = atomic_fetch_and_explicit(&taken, ~(1u << stack), memory_order_release);

	if (before == ALL_TAKEN)
		kernel_call3(SYS_futex, (long)&taken, FUTEX_WAKE_PRIVATE, INT_MAX);
}

static long call_here(void *context)
{
	const struct apart *apart = context;

	return apart->function(apart->argument);
}

long apart_call(long (*function)(const long argument[6]), const long argument[6])
{
	const uint64_t all = UINT64_MAX;
	uint64_t signals;
	unsigned stack;
	struct apart *apart;
	long result;

	/* First of all: a handler on a stack of ours could come back here, and need another. */
	kernel_call4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&signals, sizeof(all));
	stack = take_stack();
	apart = (struct apart *)(void *)(stacks[stack].bytes + APART_STACK_BYTES) - 1;
	memcpy(apart->argument, argument, sizeof(apart->argument));
	apart->function = function;
	result = stack_switch_call(apart, call_here, apart);
	give_back_stack(stack);
	kernel_call4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&signals, 0, sizeof(signals));
	return result;
}

void apart_after_fork(void)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0) - (uintptr_t)stacks;

	/* Those who had the other stacks are not in this process to give them back. */
	atomic_store_explicit(&taken, 1u << (here / APART_STACK_BYTES), memory_order_relaxed);
}
