/*
 * fiber.h: code that waits: stackful fibers and the scheduler that steps them
 *
 * What lives here
 *
 *   A fiber is a function with a stack of its own that may stop in the middle and go on later.
 *   Protocol code above base/ is written as plain calls (read, then check, then write) and runs
 *   on fibers; a scheduler belongs to one thread, or to one machine of the simulator, and runs
 *   its fibers one at a time. A fiber stays with its scheduler for life.
 *
 * The life of one fiber
 *
 *     sched_spawn ──► ready ──sched_run──► running ──fn returns──► gone, its stack pooled
 *                      ▲ ▲                  │   │
 *                      │ └──fiber_yield─────┘   └──fiber_wait_until──► waiting
 *                      └──fiber_wake, deadline passed, sched_cancel───────┘
 *
 *   Nothing preempts: between two waits a fiber has its scheduler's data for itself. Hence the
 *   only rule of waiting: look at the condition, wait if it does not hold, look again. A wake of
 *   a fiber that does not wait does nothing, and none is lost, since nothing runs between look
 *   and wait.
 *
 *   Order is first come, first served, and timers of one deadline fire in the order in which they
 *   were set: the same calls and the same clock give the same run.
 *
 * How a thread drives it
 *
 *     for (;;) {
 *             sched_run(sched);
 *             poll or sleep until sched_deadline_ns(sched), then fiber_wake() what is done
 *     }
 *
 * How it ends
 *
 *   sched_cancel() makes every wait, present and future, return -ECANCELED; sched_destroy() does
 *   it too, then runs the fibers until all have returned. So a fiber must return soon after it
 *   sees -ECANCELED; one that goes on waiting is a programmer's error, and asserts.
 *
 * Memory and threads
 *
 *   Stacks are mapped with a page below that cannot be touched: an overflow is a SIGSEGV, never
 *   silent. Stacks of ended fibers are kept for the next; at most fibers_max exist. All calls
 *   come from the scheduler's one thread. Code on a fiber must not hold a lock of threads across
 *   a wait.
 */
#ifndef AFAR_BASE_FIBER_H
#define AFAR_BASE_FIBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The deadline of a wait without one. */
#define FIBER_FOREVER INT64_MAX

#define SCHED_FIBERS_MAX_DEFAULT  1024u
#define SCHED_FIBERS_MAX_LIMIT    16384u /* two mappings each, of the 65530 of a process */
#define SCHED_STACK_BYTES_DEFAULT ((size_t)256 * 1024) /* touched pages alone take memory */
#define SCHED_STACK_BYTES_MIN     ((size_t)16 * 1024)

/* One sched_run() ends after so many resumptions, though fibers go on waking each other. */
#define SCHED_RESUMES_MAX 65536u

struct env;
struct fiber;
struct sched;

/* Zeroes mean the defaults. */
struct sched_options {
	uint32_t fibers_max;
	size_t stack_bytes; /* rounded up to pages */
};

/*
 * A scheduler that reads its clock from env. `options` may be NULL: all defaults.
 *
 * -EINVAL: options out of bounds. -ENOMEM.
 */
int sched_create(struct sched **sched, struct env *env, const struct sched_options *options);

/* Cancels, runs until the last fiber has returned, frees all. NULL is fine. Not from a fiber. */
void sched_destroy(struct sched *sched);

/*
 * Starts a fiber: fn(arg) runs at the next sched_run(), or later in the present one. `name` is not
 * copied; it shows in assertions and debuggers.
 *
 * -ENOBUFS: fibers_max fibers exist. -ECANCELED: the scheduler is cancelled. -ENOMEM.
 */
int sched_spawn(struct sched *sched, void (*fn)(void *arg), void *arg, const char *name);

/*
 * Runs every fiber that can run until each waits, yields or ends; returns how often one ran.
 * Fibers that are woken meanwhile run too; those that yield run again in the next call. Not from
 * a fiber.
 */
uint32_t sched_run(struct sched *sched);

/*
 * When sched_run() next has something to do: 0 if now, INT64_MAX if nothing but a wake can
 * bring it.
 */
int64_t sched_deadline_ns(const struct sched *sched);

/* Makes every wait return -ECANCELED from now on, and every spawn. */
void sched_cancel(struct sched *sched);
bool sched_is_cancelled(const struct sched *sched);

/* How many fibers have not ended. */
uint32_t sched_fiber_count(const struct sched *sched);

/* Spawns refused for want of room. */
uint64_t sched_spawns_refused(const struct sched *sched);

/* The env that sched_create() was given. */
struct env *sched_env(const struct sched *sched);

/* The running fiber; NULL when called from outside sched_run(). */
struct fiber *fiber_self(const struct sched *sched);

/* Lets all other ready fibers, and the thread's loop, go first. It is no wait: time stands still
 * in a simulator whose fibers only yield. */
void fiber_yield(struct sched *sched);

/*
 * Stops the running fiber until fiber_wake() or until env_now_ns() has reached deadline_ns
 * (FIBER_FOREVER: no deadline).
 *
 * 0: woken. -ETIMEDOUT. -ECANCELED: the scheduler is cancelled; at once, without a wait.
 */
int fiber_wait_until(struct sched *sched, int64_t deadline_ns);

/* Waits whatever happens until deadline_ns; 0, or -ECANCELED. */
int fiber_sleep_until(struct sched *sched, int64_t deadline_ns);

/*
 * Makes a waiting fiber ready; does nothing to one that does not wait. The fiber must not have
 * ended: who waits puts fiber_self() where the waker finds it and takes it away afterwards.
 */
void fiber_wake(struct fiber *fiber);

/* The name given to sched_spawn(). */
const char *fiber_name(const struct fiber *fiber);

/*
 * A line of fibers that wait for the same thing, first come first served. Zero is an empty line;
 * it must be empty when its memory goes.
 */
struct fiber_line {
	struct fiber *first;
	struct fiber *last;
};

/* As fiber_wait_until(), standing in the line meanwhile. */
int fiber_line_wait(struct fiber_line *line, struct sched *sched, int64_t deadline_ns);

/* Wakes the first in line; false if nobody waits. */
bool fiber_line_wake_one(struct fiber_line *line);

/* Wakes all who wait now. */
void fiber_line_wake_all(struct fiber_line *line);

#endif
