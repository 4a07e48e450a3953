/*
 * fiber.c: stacks, switches, the ready queue and the timers
 *
 *   A stack is one mapping: a page that cannot be touched, the stack, and at its top the fiber's
 *   own record, out of reach of an overflow, which goes down.
 *
 *       ┌────────┬───────────────────────────◄── grows ──┬──────────────┐
 *       │ guard  │ stack                                 │ struct fiber │
 *       └────────┴───────────────────────────────────────┴──────────────┘
 *
 *   The switch itself is libboost-context's: jump_fcontext() saves the callee-saved registers on
 *   the stack it leaves and returns, on the stack it enters, a handle to the one left. The two
 *   prototypes are its C linkage, which its headers show to C++ alone.
 *
 *   Invariants
 *
 *   I1  A fiber is linked in exactly one of ready, yielded, pooled if its state is READY, YIELDED,
 *       ENDED, and in none otherwise.
 *   I2  A fiber is in the timer heap if and only if it waits with a deadline.
 *   I3  A fiber is in a fiber_line only while it waits: fiber_line_wait() returns out of line.
 */
#include "base/fiber.h"

#include "base/base.h"
#include "base/env.h"
#include "base/list.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#define COMPILER_HAS(feature) __has_feature(feature)
#else
#define COMPILER_HAS(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || COMPILER_HAS(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SANITIZE_ADDRESS 1
#endif

#if defined(__SANITIZE_THREAD__) || COMPILER_HAS(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define SANITIZE_THREAD 1
#endif

struct transfer {
	void *left; /* the context that was left */
	void *data;
};

struct transfer jump_fcontext(void *to, void *data);
void *make_fcontext(void *stack_top, size_t size_bytes, void (*fn)(struct transfer));

#define TIMER_NONE        UINT32_MAX
#define CANCEL_ROUNDS_MAX 100000u

enum fiber_state {
	FIBER_READY,
	FIBER_RUNNING,
	FIBER_YIELDED,
	FIBER_WAITING,
	FIBER_ENDED,
};

/* What a sanitizer must be told about a stack, at each switch. */
struct stack_shadow {
#if defined(SANITIZE_ADDRESS)
	void *fake_stack;
	const void *bottom;
	size_t size_bytes;
#endif
#if defined(SANITIZE_THREAD)
	void *tsan;
#endif
	char unused; /* a struct of nothing is no C */
};

struct fiber {
	struct list link;
	enum fiber_state state;
	struct sched *sched;
	void *context; /* where it goes on, while it does not run */
	void (*fn)(void *arg);
	void *arg;
	const char *name;
	int wait_result;

	int64_t deadline_ns;
	uint64_t timer_order; /* among equal deadlines */
	uint32_t timer_place; /* in the heap, or TIMER_NONE */

	struct fiber_line *line;
	struct fiber *line_next;
	struct fiber *line_prev;

	struct list all;
	struct stack_shadow shadow;
};

struct sched {
	struct env *env;
	uint32_t fibers_max;
	size_t stack_bytes; /* without guard, with the record */
	size_t guard_bytes;

	struct list ready;
	struct list yielded;
	struct list pooled;
	struct list all; /* those that have not ended */
	uint32_t count;
	uint32_t stacks; /* mapped, pooled ones included */
	uint64_t refused;

	struct fiber *running;
	void *context; /* of sched_run(), while a fiber runs */
	struct stack_shadow shadow;
	bool cancelled;

	struct fiber **timers; /* binary heap: the parent of place p is (p - 1) / 2 */
	uint32_t timer_count;
	uint64_t timer_order_next;
};

/* ---- the sanitizers ---- */

/*
 * Always inlined: the thread sanitizer notes each entry and exit of a function on the stack it
 * believes in, and must not be told of another stack between the two.
 */
#define SHADOW static inline __attribute__((always_inline))

#if defined(SANITIZE_ADDRESS)
SHADOW void shadow_leave(struct stack_shadow *left, const struct stack_shadow *entered,
			 bool for_good)
{
	__sanitizer_start_switch_fiber(for_good ? NULL : &left->fake_stack, entered->bottom,
				       entered->size_bytes);
}

/* Learns, by the way, where the stack is that was left: the thread's own is known no other way. */
SHADOW void shadow_arrive(const struct stack_shadow *arrived, struct stack_shadow *left)
{
	__sanitizer_finish_switch_fiber(arrived->fake_stack, &left->bottom, &left->size_bytes);
}

SHADOW void shadow_create(struct stack_shadow *shadow, void *bottom, size_t size_bytes)
{
	/* The last fiber on this stack never returned from its first frame: it left marks. */
	__asan_unpoison_memory_region(bottom, size_bytes);
	shadow->bottom = bottom;
	shadow->size_bytes = size_bytes;
}
#elif defined(SANITIZE_THREAD)
SHADOW void shadow_leave(struct stack_shadow *left, const struct stack_shadow *entered,
			 bool for_good)
{
	__tsan_switch_to_fiber(entered->tsan, 0);
}
#else
SHADOW void shadow_leave(struct stack_shadow *left, const struct stack_shadow *entered,
			 bool for_good)
{
}
#endif

#if !defined(SANITIZE_ADDRESS)
SHADOW void shadow_arrive(const struct stack_shadow *arrived, struct stack_shadow *left)
{
}

SHADOW void shadow_create(struct stack_shadow *shadow, void *bottom, size_t size_bytes)
{
#if defined(SANITIZE_THREAD)
	shadow->tsan = __tsan_create_fiber(0);
#endif
}
#endif

SHADOW void shadow_destroy(struct stack_shadow *shadow)
{
#if defined(SANITIZE_THREAD)
	__tsan_destroy_fiber(shadow->tsan);
#endif
}

SHADOW void shadow_of_thread(struct stack_shadow *shadow)
{
#if defined(SANITIZE_THREAD)
	shadow->tsan = __tsan_get_current_fiber();
#endif
}

/* ---- timers ---- */

static bool fires_before(const struct fiber *a, const struct fiber *b)
{
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->timer_order < b->timer_order;
}

static void timer_put(struct sched *sched, struct fiber *fiber, uint32_t place)
{
	sched->timers[place] = fiber;
	fiber->timer_place = place;
}

static void timer_rise(struct sched *sched, struct fiber *fiber, uint32_t place)
{
	while (place > 0 && fires_before(fiber, sched->timers[(place - 1) / 2])) {
		timer_put(sched, sched->timers[(place - 1) / 2], place);
		place = (place - 1) / 2;
	}
	timer_put(sched, fiber, place);
}

static void timer_sink(struct sched *sched, struct fiber *fiber, uint32_t place)
{
	for (;;) {
		uint32_t child = 2 * place + 1;

		if (child + 1 < sched->timer_count &&
		    fires_before(sched->timers[child + 1], sched->timers[child]))
			child++;
		if (child >= sched->timer_count || !fires_before(sched->timers[child], fiber))
			break;
		timer_put(sched, sched->timers[child], place);
		place = child;
	}
	timer_put(sched, fiber, place);
}

static void timer_set(struct fiber *fiber, int64_t deadline_ns)
{
	struct sched *sched = fiber->sched;

	fiber->deadline_ns = deadline_ns;
	fiber->timer_order = sched->timer_order_next++;
	timer_rise(sched, fiber, sched->timer_count++);
}

static void timer_clear(struct fiber *fiber)
{
	struct sched *sched = fiber->sched;
	uint32_t place = fiber->timer_place;
	struct fiber *last;

	if (place == TIMER_NONE)
		return;
	fiber->timer_place = TIMER_NONE;
	last = sched->timers[--sched->timer_count];
	if (last == fiber)
		return;
	/* The last takes the empty place, and may be too early for it or too late. */
	timer_rise(sched, last, place);
	timer_sink(sched, last, last->timer_place);
}

/* ---- lines ---- */

static void line_append(struct fiber_line *line, struct fiber *fiber)
{
	fiber->line = line;
	fiber->line_next = NULL;
	fiber->line_prev = line->last;
	if (line->last)
		line->last->line_next = fiber;
	else
		line->first = fiber;
	line->last = fiber;
}

static void line_leave(struct fiber *fiber)
{
	struct fiber_line *line = fiber->line;

	if (!line)
		return;
	if (fiber->line_prev)
		fiber->line_prev->line_next = fiber->line_next;
	else
		line->first = fiber->line_next;
	if (fiber->line_next)
		fiber->line_next->line_prev = fiber->line_prev;
	else
		line->last = fiber->line_prev;
	fiber->line = NULL;
}

/* ---- switching ---- */

/* Enters `fiber` from sched_run(); comes back when it waits, yields or ends. */
static void resume(struct sched *sched, struct fiber *fiber)
{
	struct transfer back;

	fiber->state = FIBER_RUNNING;
	sched->running = fiber;
	shadow_leave(&sched->shadow, &fiber->shadow, false);
	back = jump_fcontext(fiber->context, fiber);
	shadow_arrive(&sched->shadow, &fiber->shadow);
	fiber->context = back.left;
	sched->running = NULL;
}

/* Leaves the running fiber for sched_run(); comes back when it is resumed. */
static void suspend(struct sched *sched, struct fiber *fiber)
{
	struct transfer back;

	shadow_leave(&fiber->shadow, &sched->shadow, false);
	back = jump_fcontext(sched->context, NULL);
	shadow_arrive(&fiber->shadow, &sched->shadow);
	sched->context = back.left;
}

static void fiber_main(struct transfer from)
{
	struct fiber *fiber = from.data;
	struct sched *sched = fiber->sched;

	shadow_arrive(&fiber->shadow, &sched->shadow);
	sched->context = from.left;
	fiber->fn(fiber->arg);
	fiber->state = FIBER_ENDED;
	shadow_leave(&fiber->shadow, &sched->shadow, true);
	jump_fcontext(sched->context, NULL);
	__builtin_unreachable();
}

static void make_ready(struct fiber *fiber, int wait_result)
{
	timer_clear(fiber);
	line_leave(fiber);
	fiber->wait_result = wait_result;
	fiber->state = FIBER_READY;
	list_push_last(&fiber->sched->ready, &fiber->link);
}

/* ---- stacks ---- */

static void *stack_bottom(const struct sched *sched, struct fiber *fiber)
{
	return (char *)(fiber + 1) - sched->stack_bytes;
}

static struct fiber *stack_map(struct sched *sched)
{
	size_t total_bytes = sched->guard_bytes + sched->stack_bytes;
	char *memory = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	if (mprotect(memory, sched->guard_bytes, PROT_NONE) < 0) {
		munmap(memory, total_bytes);
		return NULL;
	}
	sched->stacks++;
	return (struct fiber *)(void *)(memory + total_bytes - sizeof(struct fiber));
}

static void stack_unmap(struct sched *sched, struct fiber *fiber)
{
	sched->stacks--;
	munmap((char *)stack_bottom(sched, fiber) - sched->guard_bytes,
	       sched->guard_bytes + sched->stack_bytes);
}

static struct fiber *stack_take(struct sched *sched)
{
	struct list *link = list_pop_first(&sched->pooled);

	return link ? container_of(link, struct fiber, link) : stack_map(sched);
}

static void retire(struct sched *sched, struct fiber *fiber)
{
	shadow_destroy(&fiber->shadow);
	list_remove(&fiber->all);
	list_push_first(&sched->pooled, &fiber->link); /* the warmest stack is used next */
	sched->count--;
}

/* ---- the scheduler ---- */

int sched_create(struct sched **sched_out, struct env *env, const struct sched_options *options)
{
	struct sched_options chosen = options ? *options : (struct sched_options){0};
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	struct sched *sched;

	if (chosen.fibers_max == 0)
		chosen.fibers_max = SCHED_FIBERS_MAX_DEFAULT;
	if (chosen.stack_bytes == 0)
		chosen.stack_bytes = SCHED_STACK_BYTES_DEFAULT;
	if (chosen.fibers_max > SCHED_FIBERS_MAX_LIMIT ||
	    chosen.stack_bytes < SCHED_STACK_BYTES_MIN || chosen.stack_bytes > SIZE_MAX / 2)
		return -EINVAL;

	sched = calloc(1, sizeof(*sched));
	if (!sched)
		return -ENOMEM;
	sched->timers = calloc(chosen.fibers_max, sizeof(struct fiber *));
	if (!sched->timers) {
		free(sched);
		return -ENOMEM;
	}
	sched->env = env;
	sched->fibers_max = chosen.fibers_max;
	sched->stack_bytes = align_up(chosen.stack_bytes, page_bytes);
	sched->guard_bytes = page_bytes;
	list_init(&sched->ready);
	list_init(&sched->yielded);
	list_init(&sched->pooled);
	list_init(&sched->all);
	*sched_out = sched;
	return 0;
}

void sched_destroy(struct sched *sched)
{
	struct list *link;

	if (!sched)
		return;
	assert(!sched->running && "a fiber cannot destroy its own scheduler");
	sched_cancel(sched);
	for (uint32_t round = 0; sched->count > 0; round++) {
		assert(round < CANCEL_ROUNDS_MAX && "a fiber waits on though it was cancelled");
		sched_run(sched);
	}
	while ((link = list_pop_first(&sched->pooled)))
		stack_unmap(sched, container_of(link, struct fiber, link));
	assert(sched->stacks == 0 && sched->timer_count == 0);
	free(sched->timers);
	free(sched);
}

int sched_spawn(struct sched *sched, void (*fn)(void *arg), void *arg, const char *name)
{
	struct fiber *fiber;
	void *bottom;
	size_t usable_bytes;

	if (sched->cancelled)
		return -ECANCELED;
	if (sched->count == sched->fibers_max) {
		sched->refused++;
		return -ENOBUFS;
	}
	fiber = stack_take(sched);
	if (!fiber)
		return -ENOMEM;
	bottom = stack_bottom(sched, fiber);
	usable_bytes = sched->stack_bytes - sizeof(*fiber);
	*fiber = (struct fiber){
		.state = FIBER_READY,
		.sched = sched,
		.fn = fn,
		.arg = arg,
		.name = name,
		.timer_place = TIMER_NONE,
	};
	shadow_create(&fiber->shadow, bottom, usable_bytes);
	fiber->context = make_fcontext((char *)bottom + usable_bytes, usable_bytes, fiber_main);
	list_push_last(&sched->all, &fiber->all);
	list_push_last(&sched->ready, &fiber->link);
	sched->count++;
	return 0;
}

static void fire_timers(struct sched *sched)
{
	int64_t now_ns;

	if (sched->timer_count == 0)
		return;
	now_ns = env_now_ns(sched->env);
	while (sched->timer_count > 0 && sched->timers[0]->deadline_ns <= now_ns)
		make_ready(sched->timers[0], -ETIMEDOUT);
}

uint32_t sched_run(struct sched *sched)
{
	uint32_t resumed = 0;
	struct list *link;

	assert(!sched->running && "a fiber cannot run its own scheduler");
	shadow_of_thread(&sched->shadow);
	fire_timers(sched);
	while (resumed < SCHED_RESUMES_MAX && (link = list_pop_first(&sched->ready))) {
		struct fiber *fiber = container_of(link, struct fiber, link);

		resume(sched, fiber);
		resumed++;
		if (fiber->state == FIBER_ENDED)
			retire(sched, fiber);
	}
	/* Those who yielded let all others go first, this thread's loop among them. */
	while ((link = list_pop_first(&sched->yielded))) {
		container_of(link, struct fiber, link)->state = FIBER_READY;
		list_push_last(&sched->ready, link);
	}
	return resumed;
}

int64_t sched_deadline_ns(const struct sched *sched)
{
	if (!list_is_empty(&sched->ready))
		return 0;
	return sched->timer_count > 0 ? sched->timers[0]->deadline_ns : INT64_MAX;
}

void sched_cancel(struct sched *sched)
{
	sched->cancelled = true;
	list_each(link, &sched->all)
	{
		struct fiber *fiber = container_of(link, struct fiber, all);

		if (fiber->state == FIBER_WAITING)
			make_ready(fiber, -ECANCELED);
	}
}

bool sched_is_cancelled(const struct sched *sched)
{
	return sched->cancelled;
}

uint32_t sched_fiber_count(const struct sched *sched)
{
	return sched->count;
}

uint64_t sched_spawns_refused(const struct sched *sched)
{
	return sched->refused;
}

struct env *sched_env(const struct sched *sched)
{
	return sched->env;
}

/* ---- the fiber's side ---- */

struct fiber *fiber_self(const struct sched *sched)
{
	return sched->running;
}

const char *fiber_name(const struct fiber *fiber)
{
	return fiber->name;
}

void fiber_yield(struct sched *sched)
{
	struct fiber *fiber = sched->running;

	assert(fiber && "only a fiber can yield");
	fiber->state = FIBER_YIELDED;
	list_push_last(&sched->yielded, &fiber->link);
	suspend(sched, fiber);
}

static int wait_in_line(struct sched *sched, struct fiber_line *line, int64_t deadline_ns)
{
	struct fiber *fiber = sched->running;

	assert(fiber && "only a fiber can wait");
	if (sched->cancelled)
		return -ECANCELED;
	if (line)
		line_append(line, fiber);
	if (deadline_ns != FIBER_FOREVER)
		timer_set(fiber, deadline_ns);
	fiber->state = FIBER_WAITING;
	suspend(sched, fiber);
	return fiber->wait_result;
}

int fiber_wait_until(struct sched *sched, int64_t deadline_ns)
{
	return wait_in_line(sched, NULL, deadline_ns);
}

int fiber_sleep_until(struct sched *sched, int64_t deadline_ns)
{
	int err;

	do
		err = fiber_wait_until(sched, deadline_ns);
	while (err == 0);
	return err == -ETIMEDOUT ? 0 : err;
}

void fiber_wake(struct fiber *fiber)
{
	if (fiber->state == FIBER_WAITING)
		make_ready(fiber, 0);
}

int fiber_line_wait(struct fiber_line *line, struct sched *sched, int64_t deadline_ns)
{
	return wait_in_line(sched, line, deadline_ns);
}

bool fiber_line_wake_one(struct fiber_line *line)
{
	if (!line->first)
		return false;
	fiber_wake(line->first);
	return true;
}

void fiber_line_wake_all(struct fiber_line *line)
{
	/* Each wake takes the first out of line; the woken cannot come back before they run. */
	while (fiber_line_wake_one(line))
		;
}
