/*
 * world.h: the simulated world: one clock, one seed, and the machines that live by them
 *
 * What lives here
 *
 *   A *world* is a queue of events in virtual time, run by one thread. A *machine* of it has an
 *   env (env.h) whose clock, random numbers and files are the world's, and runs one *program*:
 *   real components, unmodified, behind two functions, `poll` and `deadline_ns`. Between events
 *   nothing happens and no time passes, so a minute with a hundred machines takes milliseconds,
 *   and happens again, event for event, from the same seed.
 *
 * The life of one machine
 *
 *     world_machine_add ──► off ──world_boot──► running ◄──────► paused (world_pause)
 *                            ▲                   │   │
 *                            └──world_power_off──┘   └──world_crash, world_crash_within──► crashed
 *                            (its program ended)         │ program->crashed() frees its objects
 *                            ▲                           ▼
 *                            └───────────────────────── off, its files as they were
 *
 *   A crash may come between two polls, or in the middle of one, before the nth thing that the
 *   program does to the world outside (world_act). From then on the outside refuses everything;
 *   the program runs to the end of its poll like a ghost that nobody hears, and is then freed.
 *
 * Invariants
 *
 *   W1  Events run in the order of their time; of one time, in the order of their scheduling.
 *   W2  Every number comes from the seed. The machines' generators are apart, so that one machine
 *       asking more often does not change what another one gets.
 *   W3  A running machine is polled at its program's deadline at the latest, and soon after
 *       world_wake(). A paused one is not polled, however long it takes.
 *   W4  Clocks of machines start at different times and drift apart by up to one percent.
 *   W5  A file is replaced whole or not at all, whenever the machine crashes. A path below
 *       WORLD_SHARED is one file for all machines, any other one is the machine's own.
 *   W6  A lock is never waited for: code that holds one does not wait, so whoever finds it held
 *       found a defect, and the world stops with an assertion.
 *
 * Who owns memory, and which thread
 *
 *   The world owns machines and files. An event is embedded in what belongs to its maker, and must
 *   be cancelled before that is freed. One thread. For tests only: where memory runs out the
 *   process ends, as a simulation without memory proves nothing.
 */
#ifndef AFAR_BASE_WORLD_H
#define AFAR_BASE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct env;
struct world;

#define WORLD_MACHINES_MAX 1024u
#define WORLD_SHARED       "/shared" /* the folder that all machines see */
#define WORLD_SPINS_MAX    100000u   /* polls in a row that did nothing and were due at once */

int world_open(uint64_t seed, struct world **world);
/* The programs of machines are gone by now: crashed or powered off. */
void world_close(struct world *world);

/* Nanoseconds of virtual time since the world began; machines see it through clocks of their own.
 */
int64_t world_now_ns(const struct world *world);
uint64_t world_random(struct world *world);
/* A number below `bound`, which is not 0. */
uint64_t world_random_below(struct world *world, uint64_t bound);
/* True in `per_million` of a million cases. */
bool world_chance(struct world *world, uint32_t per_million);

/*
 * Two runs from one seed do the same if and only if their hashes are equal: what matters is mixed
 * in here as it happens. The world mixes every event; users mix the results that they see.
 */
void world_trace(struct world *world, uint64_t word);
uint64_t world_trace_hash(const struct world *world);
uint64_t world_events_run(const struct world *world);

/* Something that will happen. Zeroed by its owner, then only read outside of world.c. */
struct world_event {
	void (*run)(struct world_event *event);
	void *context;
	int64_t at_ns;
	uint64_t order;
	uint32_t place; /* in the queue, from 1; 0: not pending */
};

/* Schedules `event` (run and context are set) or moves it if it is pending. Not before now. */
void world_schedule(struct world *world, struct world_event *event, int64_t at_ns);
/* Takes the event out if it is pending. */
void world_cancel(struct world *world, struct world_event *event);

/* Runs the next event. False: there is none. */
bool world_step(struct world *world);
/* Runs all events up to until_ns; that is then the time. */
void world_run_until(struct world *world, int64_t until_ns);

/* What a machine runs. */
struct world_program {
	unsigned (*poll)(void *context);       /* does all it can; how much it did */
	int64_t (*deadline_ns)(void *context); /* by the machine's clock; INT64_MAX: never */
	void (*crashed)(void *context);        /* the machine is dead: free its objects */
	void *context;
};

/* A machine that is off; its number counts from 0. */
uint32_t world_machine_add(struct world *world);
uint32_t world_machines(const struct world *world);
/* Valid for the life of the world, over crashes. */
struct env *world_env(struct world *world, uint32_t machine);

/* Starts a machine that is off. The program is copied; it is polled soon. */
void world_boot(struct world *world, uint32_t machine, const struct world_program *program);
/* The program has ended by itself and was freed by its owner. */
void world_power_off(struct world *world, uint32_t machine);
/* Dead at once; program->crashed() is called before the next event if its poll is running. */
void world_crash(struct world *world, uint32_t machine);
/* Dead when it does its `acts`th thing to the outside from now on, or after the poll if never. */
void world_crash_within(struct world *world, uint32_t machine, uint32_t acts);
/* Not polled before until_ns. */
void world_pause(struct world *world, uint32_t machine, int64_t until_ns);
/* Every poll comes up to delay_ns late: a slow machine. */
void world_slow(struct world *world, uint32_t machine, int64_t delay_ns);
/* Calls on files fail with this negative errno; 0: they work again. */
void world_fail_files(struct world *world, uint32_t machine, int error);

/* Neither off nor crashed: its sockets answer, though it may be paused. */
bool world_is_up(const struct world *world, uint32_t machine);
/* Up and not paused. */
bool world_is_running(const struct world *world, uint32_t machine);
/* When the machine is next running: now, the end of the pause, or INT64_MAX if it is not up. */
int64_t world_running_at_ns(const struct world *world, uint32_t machine);

/* The last moment at which it was running: now, or when it was paused or died. */
int64_t world_ran_last_ns(const struct world *world, uint32_t machine);

/* Has the machine polled soon: something came for it. */
void world_wake(struct world *world, uint32_t machine);
/*
 * Called before anything the machine does to the outside takes effect. False: the machine is
 * dead, and it must not.
 */
bool world_act(struct world *world, uint32_t machine);

#endif
