/*
 * base.h: the ground floor: what every storey stands on
 *
 * What lives here
 *
 *   env.h          the world as a component may see it: clock, randomness, files
 *   fiber.h        code that waits: stackful fibers, stepped by a thread or by the simulator
 *   log.h          what happened, one structured line an event
 *   metrics.h      what was counted; metrics_http.h serves it to Prometheus
 *   histogram.h    how long things took, to one part in 32
 *   queue.h        a bounded queue; list.h: an intrusive list; table.h: a map from u64
 *   size.h, uri.h  what people type: "4G", "10ms", "tcp://host:port"
 *   secret.h       the key of a cluster and proofs of holding it
 *   page_hash.h    the checksum of a page (a library of its own: no libc, no state)
 *   futex.h        sleeping on a word of memory
 *   world.h        the simulated world, with env.h's other environment
 *   kernel_call.h  system calls without libc, and, for the preloaded library and its pager:
 *                  raw_thread.h, stack_switch.h, patch.h (redirecting loaded code)
 *   bits.h         powers of two, little-endian words, mixing; base.h: smaller still
 *
 * The life of one wait, which is what ties them together
 *
 *     component on a fiber                     the thread that owns it
 *     fabric read is posted                    sched_run(sched)          runs what can run
 *     fiber_wait_until(sched, deadline) ─────► fabric poll or sleep,     until then at most:
 *          counter, histogram ◄─────────────── fiber_wake(fiber)         sched_deadline_ns(sched)
 *
 *   In the simulator the same component runs unchanged: the env's clock is virtual, the loop on
 *   the right belongs to the simulator, and one seed decides the order.
 *
 * Invariants
 *
 *   No hidden globals: all state hangs from a handle. The exceptions hold no state that a test
 *   could see: the buffer of random numbers, and the thread's text of afar_strerror().
 *   Nothing here knows of nodes, slabs or volumes.
 *   Only here may code ask which processor it runs on.
 *
 * Who owns memory, and which thread
 *
 *   What is created is destroyed by the caller; what is passed in stays the caller's unless the
 *   function says that it keeps it. A handle is used by one thread at a time; log lines, counters,
 *   gauges and env_now_ns() may come from any thread.
 */
#ifndef AFAR_BASE_BASE_H
#define AFAR_BASE_BASE_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A page of a volume; also the page of every machine that we build for. */
#define PAGE_BYTES 4096u

/* How many elements an array has; a pointer does not compile. */
#define ARRAY_COUNT(array) (sizeof(array) / sizeof(*(array)) + 0 * sizeof(MUST_BE_ARRAY(array)))

#define MUST_BE_ARRAY(array)                                                                   \
	struct {                                                                               \
		static_assert(!__builtin_types_compatible_p(typeof(array), typeof(&*(array))), \
			      "a pointer has no count");                                       \
		char unused;                                                                   \
	}

/* The structure whose `member` is at `ptr`. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline int64_t min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static inline size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline size_t max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* The nearest multiple of `alignment`, a power of two, not above `value`. */
static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
	return value & ~(alignment - 1);
}

/* The nearest multiple of `alignment`, a power of two, not below `value`; it must fit in 64 bits.
 */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

static inline bool is_aligned(uint64_t value, uint64_t alignment)
{
	return (value & (alignment - 1)) == 0;
}

/* Tells the core that this is a spin loop, so that its sibling thread gets the execution units. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

#endif
