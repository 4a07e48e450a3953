/*
 * world.c: the queue of events, the machines and their clocks
 */
#include "base/world.h"

#include "base/bits.h"
#include "base/env.h"
#include "base/world_files.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAKE_NS_MAX        INT64_C(2000) /* from an interrupt to the poll */
#define BUSY_NS            INT64_C(1000) /* between polls of a program that has work or spins */
#define DRIFT_PER_MILLION  INT64_C(10000)
#define CLOCK_START_NS_MAX (UINT64_C(1000) * 1000 * 1000 * 1000)

enum machine_state { MACHINE_OFF, MACHINE_UP, MACHINE_DYING };

struct machine {
	struct env env; /* first: world_env() hands it out, the ops come back with it */
	struct world *world;
	struct world_event poll_event;
	struct world_program program;
	struct world_files files;
	enum machine_state state;
	bool in_poll;
	bool woken; /* world_wake() came during the poll */
	uint32_t number;
	uint32_t acts_left; /* until the crash; 0: none is set */
	uint32_t spins;
	int files_error;
	int64_t paused_until_ns, slow_ns;
	int64_t stopped_ns; /* when the pause or death began that is not over, or the last one */
	int64_t clock_start_ns, drift_per_million;
	uint64_t random_state;
};

struct world {
	int64_t now_ns;
	uint64_t random_state;
	uint64_t seed;
	uint64_t hash;
	uint64_t scheduled, events_run;
	struct world_event **heap; /* from place 1 */
	uint32_t heap_count, heap_room;
	struct machine *machines[WORLD_MACHINES_MAX];
	uint32_t machine_count;
	struct world_files shared;
};

/* splitmix64: a counter in golden steps, mixed. */
static uint64_t next_random(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return mix_u64(*state);
}

int world_open(uint64_t seed, struct world **result)
{
	struct world *world = calloc(1, sizeof(*world));

	if (!world)
		return -ENOMEM;
	world->seed = seed;
	world->random_state = mix_u64(seed + 1);
	if (world_files_dir_make(&world->shared, WORLD_SHARED) != 0)
		abort();
	*result = world;
	return 0;
}

void world_close(struct world *world)
{
	for (uint32_t i = 0; i < world->machine_count; i++) {
		assert(world->machines[i]->state == MACHINE_OFF);
		world_files_free(&world->machines[i]->files);
		free(world->machines[i]);
	}
	world_files_free(&world->shared);
	free(world->heap);
	free(world);
}

int64_t world_now_ns(const struct world *world)
{
	return world->now_ns;
}

uint64_t world_random(struct world *world)
{
	return next_random(&world->random_state);
}

uint64_t world_random_below(struct world *world, uint64_t bound)
{
	return world_random(world) % bound;
}

bool world_chance(struct world *world, uint32_t per_million)
{
	return per_million != 0 && world_random_below(world, 1000000) < per_million;
}

void world_trace(struct world *world, uint64_t word)
{
	world->hash = mix_u64(world->hash + UINT64_C(0x9e3779b97f4a7c15)) ^ word;
}

uint64_t world_trace_hash(const struct world *world)
{
	return mix_u64(world->hash);
}

uint64_t world_events_run(const struct world *world)
{
	return world->events_run;
}

/* The queue: a binary heap whose events know their place, so that each can be moved or taken. */

static bool is_before(const struct world_event *a, const struct world_event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void put_at(struct world *world, struct world_event *event, uint32_t place)
{
	world->heap[place] = event;
	event->place = place;
}

static void rise(struct world *world, struct world_event *event, uint32_t place)
{
	while (place > 1 && is_before(event, world->heap[place / 2])) {
		put_at(world, world->heap[place / 2], place);
		place /= 2;
	}
	put_at(world, event, place);
}

static void sink(struct world *world, struct world_event *event, uint32_t place)
{
	for (;;) {
		uint32_t child = 2 * place;

		if (child < world->heap_count &&
		    is_before(world->heap[child + 1], world->heap[child]))
			child++;
		if (child > world->heap_count || !is_before(world->heap[child], event))
			break;
		put_at(world, world->heap[child], place);
		place = child;
	}
	put_at(world, event, place);
}

void world_cancel(struct world *world, struct world_event *event)
{
	uint32_t place = event->place;

	if (place == 0)
		return;

	struct world_event *last = world->heap[world->heap_count--];

	event->place = 0;
	if (last == event)
		return;
	if (place > 1 && is_before(last, world->heap[place / 2]))
		rise(world, last, place);
	else
		sink(world, last, place);
}

void world_schedule(struct world *world, struct world_event *event, int64_t at_ns)
{
	world_cancel(world, event);
	if (world->heap_count + 1 >= world->heap_room) {
		world->heap_room = world->heap_room ? 2 * world->heap_room : 256;
		world->heap =
			reallocarray(world->heap, world->heap_room, sizeof(struct world_event *));
		if (!world->heap)
			abort();
	}
	event->at_ns = at_ns < world->now_ns ? world->now_ns : at_ns;
	event->order = world->scheduled++;
	world->heap_count++;
	rise(world, event, world->heap_count);
}

bool world_step(struct world *world)
{
	if (world->heap_count == 0)
		return false;

	struct world_event *event = world->heap[1];

	world_cancel(world, event);
	assert(event->at_ns >= world->now_ns);
	world->now_ns = event->at_ns;
	world->events_run++;
	world_trace(world, (uint64_t)event->at_ns);
	event->run(event);
	return true;
}

void world_run_until(struct world *world, int64_t until_ns)
{
	while (world->heap_count != 0 && world->heap[1]->at_ns <= until_ns)
		world_step(world);
	if (world->now_ns < until_ns)
		world->now_ns = until_ns;
}

/* Machines */

static struct machine *machine_at(const struct world *world, uint32_t machine)
{
	assert(machine < world->machine_count);
	return world->machines[machine];
}

static int64_t clock_of(const struct machine *machine)
{
	int64_t now_ns = machine->world->now_ns;

	return machine->clock_start_ns + now_ns + now_ns / 1000000 * machine->drift_per_million;
}

/* The first time of the world at which the machine's clock shows clock_ns. */
static int64_t world_time_of(const struct machine *machine, int64_t clock_ns)
{
	int64_t behind_ns = clock_ns - clock_of(machine);

	if (behind_ns <= 0)
		return machine->world->now_ns;
	/* Clocks advance in steps of a millionth; two more of them are late enough for any drift.
	 */
	return machine->world->now_ns + behind_ns -
	       behind_ns / (1000000 + machine->drift_per_million) * machine->drift_per_million +
	       2 * DRIFT_PER_MILLION;
}

static void poll_at(struct machine *machine, int64_t at_ns)
{
	struct world *world = machine->world;

	if (machine->slow_ns > 0)
		at_ns += (int64_t)world_random_below(world, (uint64_t)machine->slow_ns);
	if (at_ns < machine->paused_until_ns)
		at_ns = machine->paused_until_ns;
	if (machine->poll_event.place == 0 || at_ns < machine->poll_event.at_ns)
		world_schedule(world, &machine->poll_event, at_ns);
}

static void bury(struct machine *machine)
{
	struct world *world = machine->world;

	world_cancel(world, &machine->poll_event);
	world_files_unlock_all(&world->shared, machine->number);
	world_files_unlock_all(&machine->files, machine->number);
	machine->program.crashed(machine->program.context);
	machine->state = MACHINE_OFF;
	machine->acts_left = 0;
}

static void plan_next_poll(struct machine *machine, unsigned done)
{
	int64_t now_ns = machine->world->now_ns;
	int64_t clock_ns = machine->program.deadline_ns(machine->program.context);
	int64_t at_ns = clock_ns == INT64_MAX ? INT64_MAX : world_time_of(machine, clock_ns);

	machine->spins = done == 0 && !machine->woken && at_ns <= now_ns ? machine->spins + 1 : 0;
	assert(machine->spins < WORLD_SPINS_MAX &&
	       "the program is always due and never does a thing");
	if (done != 0 || machine->woken || at_ns <= now_ns)
		at_ns = now_ns + BUSY_NS;
	machine->woken = false;
	if (at_ns != INT64_MAX)
		poll_at(machine, at_ns);
}

static void run_poll(struct world_event *event)
{
	struct machine *machine = event->context;
	struct world *world = machine->world;

	if (machine->paused_until_ns > world->now_ns) {
		poll_at(machine, machine->paused_until_ns);
		return;
	}
	machine->in_poll = true;

	unsigned done = machine->program.poll(machine->program.context);

	machine->in_poll = false;
	world_trace(world, (uint64_t)machine->number << 32 | done);
	if (machine->state == MACHINE_DYING)
		bury(machine);
	else if (machine->state == MACHINE_UP)
		plan_next_poll(machine, done);
}

void world_boot(struct world *world, uint32_t number, const struct world_program *program)
{
	struct machine *machine = machine_at(world, number);

	assert(machine->state == MACHINE_OFF);
	machine->state = MACHINE_UP;
	machine->program = *program;
	machine->acts_left = 0;
	machine->spins = 0;
	machine->paused_until_ns = 0;
	machine->woken = false;
	poll_at(machine, world->now_ns + BUSY_NS);
}

void world_power_off(struct world *world, uint32_t number)
{
	struct machine *machine = machine_at(world, number);

	world_cancel(world, &machine->poll_event);
	machine->stopped_ns = world->now_ns;
	machine->state = MACHINE_OFF;
}

void world_crash(struct world *world, uint32_t number)
{
	struct machine *machine = machine_at(world, number);

	if (machine->state != MACHINE_UP)
		return;
	world_trace(world, number);
	machine->state = MACHINE_DYING;
	if (machine->paused_until_ns <= world->now_ns)
		machine->stopped_ns = world->now_ns;
	if (!machine->in_poll)
		bury(machine);
}

void world_crash_within(struct world *world, uint32_t number, uint32_t acts)
{
	assert(acts != 0);
	machine_at(world, number)->acts_left = acts;
}

void world_pause(struct world *world, uint32_t number, int64_t until_ns)
{
	struct machine *machine = machine_at(world, number);

	if (machine->paused_until_ns <= world->now_ns)
		machine->stopped_ns = world->now_ns;
	machine->paused_until_ns = until_ns;
}

void world_slow(struct world *world, uint32_t number, int64_t delay_ns)
{
	machine_at(world, number)->slow_ns = delay_ns;
}

void world_fail_files(struct world *world, uint32_t number, int error)
{
	machine_at(world, number)->files_error = error;
}

bool world_is_up(const struct world *world, uint32_t number)
{
	return machine_at(world, number)->state == MACHINE_UP;
}

bool world_is_running(const struct world *world, uint32_t number)
{
	return world_running_at_ns(world, number) <= world->now_ns;
}

int64_t world_running_at_ns(const struct world *world, uint32_t number)
{
	const struct machine *machine = machine_at(world, number);

	if (machine->state != MACHINE_UP)
		return INT64_MAX;
	return machine->paused_until_ns > world->now_ns ? machine->paused_until_ns : world->now_ns;
}

int64_t world_ran_last_ns(const struct world *world, uint32_t number)
{
	return world_is_running(world, number) ? world->now_ns
					       : machine_at(world, number)->stopped_ns;
}

void world_wake(struct world *world, uint32_t number)
{
	struct machine *machine = machine_at(world, number);

	if (machine->state != MACHINE_UP)
		return;
	machine->woken = machine->in_poll;
	if (!machine->in_poll)
		poll_at(machine, world->now_ns + (int64_t)world_random_below(world, WAKE_NS_MAX));
}

bool world_act(struct world *world, uint32_t number)
{
	struct machine *machine = machine_at(world, number);

	if (machine->state == MACHINE_UP && machine->acts_left != 0 && --machine->acts_left == 0)
		world_crash(world, number);
	return machine->state == MACHINE_UP;
}

/* The env of a machine */

static struct machine *machine_of(struct env *env)
{
	return (struct machine *)(void *)env;
}

static int64_t env_world_now_ns(struct env *env)
{
	return clock_of(machine_of(env));
}

static uint64_t env_world_random(struct env *env)
{
	return next_random(&machine_of(env)->random_state);
}

static struct world_files *tree_of(struct machine *machine, const char *path)
{
	size_t len = strlen(WORLD_SHARED);

	if (strncmp(path, WORLD_SHARED, len) == 0 && (path[len] == '/' || path[len] == '\0'))
		return &machine->world->shared;
	return &machine->files;
}

/* A dead machine's calls fail, with no effect but that a write may have come through just before.
 */
static int may_touch_files(struct machine *machine)
{
	if (machine->files_error)
		return machine->files_error;
	return world_act(machine->world, machine->number) ? 0 : -EIO;
}

static int env_world_read(struct env *env, const char *path, void *buf, size_t size_bytes,
			  size_t *len_bytes)
{
	struct machine *machine = machine_of(env);

	if (machine->files_error || machine->state != MACHINE_UP)
		return machine->files_error ? machine->files_error : -EIO;
	return world_files_read(tree_of(machine, path), path, buf, size_bytes, len_bytes);
}

static int put_file(struct env *env, const char *path, const void *bytes, size_t len_bytes,
		    bool must_be_new)
{
	struct machine *machine = machine_of(env);
	bool was_up = machine->state == MACHINE_UP;
	int err = may_touch_files(machine);

	/* The crash hit this very write: before its rename or after it. */
	if (err && was_up && machine->state != MACHINE_UP && world_random(machine->world) % 2)
		world_files_write(tree_of(machine, path), path, bytes, len_bytes, must_be_new);
	return err ? err
		   : world_files_write(tree_of(machine, path), path, bytes, len_bytes, must_be_new);
}

static int env_world_write(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return put_file(env, path, bytes, len_bytes, false);
}

static int env_world_create(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return put_file(env, path, bytes, len_bytes, true);
}

static int env_world_remove(struct env *env, const char *path)
{
	struct machine *machine = machine_of(env);
	int err = may_touch_files(machine);

	return err ? err : world_files_remove(tree_of(machine, path), path);
}

static int env_world_dir_make(struct env *env, const char *path)
{
	struct machine *machine = machine_of(env);
	int err = may_touch_files(machine);

	return err ? err : world_files_dir_make(tree_of(machine, path), path);
}

static int env_world_dir_list(struct env *env, const char *path,
			      void (*each)(void *context, const char *name), void *context)
{
	struct machine *machine = machine_of(env);

	if (machine->files_error || machine->state != MACHINE_UP)
		return machine->files_error ? machine->files_error : -EIO;
	return world_files_dir_list(tree_of(machine, path), path, each, context);
}

/* The number of a lock: its tree in the lowest bit, its place in the tree above. */
static int env_world_lock(struct env *env, const char *path)
{
	struct machine *machine = machine_of(env);
	struct world_files *tree = tree_of(machine, path);
	int number = may_touch_files(machine);

	if (number == 0)
		number = world_files_lock(tree, path, machine->number);
	return number < 0 ? number : 2 * number + (tree == &machine->world->shared);
}

static void env_world_unlock(struct env *env, int lock)
{
	struct machine *machine = machine_of(env);
	struct world_files *tree = lock % 2 ? &machine->world->shared : &machine->files;

	assert(lock >= 0);
	world_files_unlock(tree, (uint32_t)lock / 2, machine->number);
}

static const struct env_ops world_env_ops = {
	.now_ns = env_world_now_ns,
	.random = env_world_random,
	.file_read = env_world_read,
	.file_write = env_world_write,
	.file_create = env_world_create,
	.file_remove = env_world_remove,
	.dir_make = env_world_dir_make,
	.dir_list = env_world_dir_list,
	.lock = env_world_lock,
	.unlock = env_world_unlock,
};

uint32_t world_machine_add(struct world *world)
{
	uint32_t number = world->machine_count;
	struct machine *machine = calloc(1, sizeof(*machine));

	assert(number < WORLD_MACHINES_MAX);
	if (!machine)
		abort();
	machine->env.ops = &world_env_ops;
	machine->world = world;
	machine->number = number;
	machine->poll_event.run = run_poll;
	machine->poll_event.context = machine;
	machine->random_state = mix_u64(mix_u64(world->seed + 1) + number);
	machine->clock_start_ns =
		(int64_t)(next_random(&machine->random_state) % CLOCK_START_NS_MAX);
	machine->drift_per_million =
		(int64_t)(next_random(&machine->random_state) % (2 * DRIFT_PER_MILLION + 1)) -
		DRIFT_PER_MILLION;
	world->machines[number] = machine;
	world->machine_count++;
	return number;
}

uint32_t world_machines(const struct world *world)
{
	return world->machine_count;
}

struct env *world_env(struct world *world, uint32_t number)
{
	return &machine_at(world, number)->env;
}
