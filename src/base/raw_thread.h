/*
 * raw_thread.h: threads below the C library
 *
 *   For code that runs where libc's state does not exist: on a thread that libc did not start, or
 *   inside a call that libc itself makes. Nothing here touches errno or any other thread-local
 *   word; what comes back is what the kernel said: a value, or a negative errno. System calls
 *   for such threads are in kernel_call.h.
 */
#ifndef AFAR_BASE_RAW_THREAD_H
#define AFAR_BASE_RAW_THREAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

/* What a thread started here finds below its thread pointer and above it, in bytes. */
#define RAW_TLS_BYTES  16384u
#define RAW_TLS_OFFSET 12288u

#if defined(__x86_64__)

/*
 * Begins a thread by clone(flags): it runs run(context) on the stack that ends at stack_top, with
 * its thread pointer at tls, and must not return. *tid is set to its id, and to 0 when it has ended
 * (CLONE_CHILD_CLEARTID in flags). What comes back is its id or a negative errno.
 */
static inline long raw_thread_start(unsigned long flags, void *stack_top, void *tls, void *tid,
				    void (*run)(void *context), void *context)
{
	register void *r10 __asm__("r10") = tid;
	register void *r8 __asm__("r8") = tls;
	register void (*r12)(void *) __asm__("r12") = run;
	register void *r13 __asm__("r13") = context;
	long result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(result)
			 : "a"(SYS_clone), "D"(flags), "S"(stack_top), "d"(tid), "r"(r10), "r"(r8),
			   "r"(r12), "r"(r13)
			 : "rcx", "r11", "memory");
	return result;
}

/* Makes zeroed memory fit for a thread pointer at `tls`: itself, the canary, the pointer guard. */
static inline void raw_tls_prepare(void *tls)
{
	uintptr_t *words = tls;

	words[0] = (uintptr_t)tls;
	words[2] = (uintptr_t)tls;
	__asm__("mov %%fs:0x28, %0" : "=r"(words[5]));
	__asm__("mov %%fs:0x30, %0" : "=r"(words[6]));
}

/* Copies so that no tool that watches plain loads takes part: the source may change meanwhile. */
static inline void raw_copy(void *to, const void *from, size_t len_bytes)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len_bytes) : : "memory");
}

#elif defined(__aarch64__)

static inline long raw_thread_start(unsigned long flags, void *stack_top, void *tls, void *tid,
				    void (*run)(void *context), void *context)
{
	register long x8 __asm__("x8") = SYS_clone;
	register long x0 __asm__("x0") = (long)flags;
	register void *x1 __asm__("x1") = stack_top;
	register void *x2 __asm__("x2") = tid;
	register void *x3 __asm__("x3") = tls;
	register void *x4 __asm__("x4") = tid;
	register void (*x19)(void *) __asm__("x19") = run;
	register void *x20 __asm__("x20") = context;

	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x0, x20\n\t"
			 "blr x19\n\t"
			 "brk 1\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19), "r"(x20)
			 : "memory", "x30");
	return x0;
}

/* The canary is a global here. */
static inline void raw_tls_prepare(void *tls)
{
	(void)tls;
}

static inline void raw_copy(void *to, const void *from, size_t len_bytes)
{
	uint64_t low;
	uint64_t high;

	for (; len_bytes >= 16; len_bytes -= 16)
		__asm__ volatile("ldp %2, %3, [%1], #16\n\t"
				 "stp %2, %3, [%0], #16"
				 : "+r"(to), "+r"(from), "=&r"(low), "=&r"(high)
				 :
				 : "memory");
	for (; len_bytes > 0; len_bytes--)
		__asm__ volatile("ldrb %w2, [%1], #1\n\t"
				 "strb %w2, [%0], #1"
				 : "+r"(to), "+r"(from), "=&r"(low)
				 :
				 : "memory");
}

#endif

#endif
