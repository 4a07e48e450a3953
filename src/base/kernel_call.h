/*
 * kernel_call.h: system calls without the C library
 *
 *   For code that runs where the library must not be entered: a thread the library does not know
 *   of, or a memory call of the library itself that was redirected to us. No errno: the result is
 *   the kernel's, a negative errno on failure. Nothing here touches memory but what the kernel is
 *   told to.
 */
#ifndef AFAR_BASE_KERNEL_CALL_H
#define AFAR_BASE_KERNEL_CALL_H

#include <stdbool.h>
#include <sys/syscall.h>

/* Calls that not every processor's table has; -1 is never a call. */
#ifdef SYS_fork
#define KERNEL_SYS_FORK SYS_fork
#else
#define KERNEL_SYS_FORK (-1)
#endif

/* NOLINTNEXTLINE(readability-function-size): the kernel takes six arguments. */
static inline long kernel_call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#else
#error "no system calls for this processor yet"
#endif
}

static inline long kernel_call0(long number)
{
	return kernel_call(number, 0, 0, 0, 0, 0, 0);
}

static inline long kernel_call1(long number, long a)
{
	return kernel_call(number, a, 0, 0, 0, 0, 0);
}

static inline long kernel_call2(long number, long a, long b)
{
	return kernel_call(number, a, b, 0, 0, 0, 0);
}

static inline long kernel_call3(long number, long a, long b, long c)
{
	return kernel_call(number, a, b, c, 0, 0, 0);
}

static inline long kernel_call4(long number, long a, long b, long c, long d)
{
	return kernel_call(number, a, b, c, d, 0, 0);
}

static inline long kernel_call5(long number, long a, long b, long c, long d, long e)
{
	return kernel_call(number, a, b, c, d, e, 0);
}

/* Whether a result is an error; addresses of the upper half are never results. */
static inline bool kernel_failed(long result)
{
	return (unsigned long)result > -4096ul;
}

#endif
