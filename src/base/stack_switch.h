/*
 * stack_switch.h: one function call on another stack
 *
 *   The caller's stack is not touched from before the call until after it.
 */
#ifndef AFAR_BASE_STACK_SWITCH_H
#define AFAR_BASE_STACK_SWITCH_H

#include <stdint.h>

/* Calls function(argument) on the stack that ends below `top`, which is aligned to 16 bytes. */
static inline long stack_switch_call(void *top, long (*function)(void *argument), void *argument)
{
#if defined(__x86_64__)
	long result;

	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %[top], %%rsp\n\t"
			 "callq *%[function]\n\t"
			 "movq %%rbx, %%rsp"
			 : "=a"(result), "+D"(argument)
			 : [top] "r"(top), [function] "r"(function)
			 : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc",
			   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
			   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return result;
#elif defined(__aarch64__)
	register long x0 __asm__("x0") = (long)argument;

	__asm__ volatile("mov x19, sp\n\t"
			 "mov sp, %[top]\n\t"
			 "blr %[function]\n\t"
			 "mov sp, x19"
			 : "+r"(x0)
			 : [top] "r"(top), [function] "r"(function)
			 : "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11",
			   "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x30", "memory",
			   "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17",
			   "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
			   "v28", "v29", "v30", "v31");
	return x0;
#else
#error "no stack switch for this processor yet"
#endif
}

#endif
