/*
 * ring.c: each promise of ring.h, kept
 *
 *   In the order of the header: making and opening, messages, sleeping, the end of a side, a
 *   hostile peer; then stress over random sizes.
 *
 *   Every ring here ends at a page that cannot be touched: one byte too far is a SIGSEGV.
 */
#include "harness.h"

#include "base/base.h"
#include "base/env.h"
#include "base/futex.h"
#include "fabric/ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SMALL         128u
#define LARGE         4096u
#define STRESS_COUNT  50000u
#define STRESS_MAX    1500u
#define SCRIBBLE_RUNS 20000u

/* A ring with both ends in this process. */
struct world {
	struct ring_memory *memory;
	size_t size_bytes;
	struct ring tx;
	struct ring rx;
	_Atomic uint32_t bell;
};

static size_t pages_for(size_t size_bytes)
{
	return align_up(size_bytes, PAGE_BYTES);
}

static void begin(struct world *world, size_t capacity)
{
	size_t size_bytes = RING_OVERHEAD_BYTES + capacity;
	size_t pages_bytes = pages_for(size_bytes);
	unsigned char *pages = mmap(NULL, pages_bytes + PAGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(pages, MAP_FAILED);
	assert_int_equal(mprotect(pages + pages_bytes, PAGE_BYTES, PROT_NONE), 0);
	world->size_bytes = size_bytes;
	world->memory = (struct ring_memory *)(void *)(pages + pages_bytes - size_bytes);
	atomic_store(&world->bell, 0);
	assert_int_equal(ring_format(world->memory, size_bytes), 0);
}

static void begin_open(struct world *world, size_t capacity)
{
	begin(world, capacity);
	assert_int_equal(ring_open(&world->tx, world->memory, world->size_bytes, RING_PRODUCER), 0);
	assert_int_equal(ring_open(&world->rx, world->memory, world->size_bytes, RING_CONSUMER), 0);
}

static void end(struct world *world)
{
	size_t pages_bytes = pages_for(world->size_bytes);

	munmap((unsigned char *)world->memory - (pages_bytes - world->size_bytes),
	       pages_bytes + PAGE_BYTES);
}

static void deliver(struct world *world, const char *text)
{
	assert_int_equal(ring_put(&world->tx, text, strlen(text)), 0);
	ring_publish(&world->tx);
}

static void expect(struct world *world, const char *text)
{
	char buf[LARGE];
	size_t len_bytes;

	assert_int_equal(ring_take(&world->rx, buf, sizeof(buf), &len_bytes), 0);
	assert_int_equal(len_bytes, strlen(text));
	assert_memory_equal(buf, text, len_bytes);
}

static int take(struct world *world)
{
	char buf[LARGE];
	size_t len_bytes;

	return ring_take(&world->rx, buf, sizeof(buf), &len_bytes);
}

/* ---- making and opening ---- */

static void format_refuses_what_is_no_ring(void **state)
{
	struct world world;
	unsigned char *memory;

	begin(&world, LARGE);
	memory = (unsigned char *)world.memory;
	assert_int_equal(ring_format(memory, 0), -EINVAL);
	assert_int_equal(ring_format(memory, RING_OVERHEAD_BYTES), -EINVAL);
	assert_int_equal(ring_format(memory, RING_OVERHEAD_BYTES + RING_CAPACITY_MIN / 2), -EINVAL);
	assert_int_equal(ring_format(memory, RING_OVERHEAD_BYTES + LARGE - 8), -EINVAL);
	assert_int_equal(ring_format(memory, RING_OVERHEAD_BYTES + 2 * (size_t)RING_CAPACITY_MAX),
			 -EINVAL);
	assert_int_equal(ring_format(memory + 64, RING_OVERHEAD_BYTES + LARGE / 2), -EINVAL);
	assert_int_equal(ring_format(memory, RING_OVERHEAD_BYTES + LARGE), 0);
	end(&world);
}

static void open_refuses_another_ring_than_agreed(void **state)
{
	struct world world;
	struct ring_memory good;

	begin(&world, SMALL);
	memcpy(&good, world.memory, sizeof(good));
	world.memory->magic++;
	assert_int_equal(ring_open(&world.rx, world.memory, world.size_bytes, RING_CONSUMER),
			 -EPROTO);
	memcpy(world.memory, &good, sizeof(good));
	world.memory->version++;
	assert_int_equal(ring_open(&world.rx, world.memory, world.size_bytes, RING_CONSUMER),
			 -EPROTO);
	memcpy(world.memory, &good, sizeof(good));
	world.memory->capacity *= 2;
	assert_int_equal(ring_open(&world.rx, world.memory, world.size_bytes, RING_CONSUMER),
			 -EPROTO);
	memcpy(world.memory, &good, sizeof(good));
	assert_int_equal(ring_open(&world.rx, world.memory, world.size_bytes - 1, RING_CONSUMER),
			 -EINVAL);
	assert_int_equal(ring_open(&world.rx, world.memory, world.size_bytes, RING_CONSUMER), 0);
	end(&world);
}

static void a_side_is_taken_once(void **state)
{
	struct world world;
	struct ring second;

	begin_open(&world, SMALL);
	assert_int_equal(ring_open(&second, world.memory, world.size_bytes, RING_PRODUCER), -EBUSY);
	ring_close(&world.tx);
	assert_int_equal(ring_open(&second, world.memory, world.size_bytes, RING_PRODUCER), -EBUSY);
	end(&world);
}

/* ---- messages ---- */

static void messages_come_out_as_they_went_in(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	assert_int_equal(take(&world), -EAGAIN);
	deliver(&world, "first");
	deliver(&world, "");
	deliver(&world, "the third");
	expect(&world, "first");
	expect(&world, "");
	expect(&world, "the third");
	assert_int_equal(take(&world), -EAGAIN);
	end(&world);
}

static void a_message_is_seen_only_once_published(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	assert_int_equal(ring_put(&world.tx, "a", 1), 0);
	assert_int_equal(ring_put(&world.tx, "b", 1), 0);
	assert_int_equal(take(&world), -EAGAIN);
	ring_publish(&world.tx);
	expect(&world, "a");
	expect(&world, "b");
	end(&world);
}

static void bytes_are_reused_only_once_released(void **state)
{
	static const char half[SMALL / 2 - RING_FRAME_BYTES];
	struct world world;

	begin_open(&world, SMALL);
	assert_int_equal(ring_put(&world.tx, half, sizeof(half)), 0);
	assert_int_equal(ring_put(&world.tx, half, sizeof(half)), 0);
	assert_int_equal(ring_put(&world.tx, "", 0), -EAGAIN);
	ring_publish(&world.tx);
	assert_int_equal(take(&world), 0);
	assert_int_equal(ring_put(&world.tx, "", 0), -EAGAIN);
	ring_release(&world.rx);
	assert_int_equal(ring_put(&world.tx, half, sizeof(half)), 0);
	assert_int_equal(ring_put(&world.tx, "", 0), -EAGAIN);
	end(&world);
}

static void the_longest_message_fits_exactly(void **state)
{
	unsigned char msg[SMALL];
	struct world world;

	begin_open(&world, SMALL);
	assert_int_equal(ring_put(&world.tx, msg, SMALL - RING_FRAME_BYTES + 1), -EMSGSIZE);
	assert_int_equal(ring_put(&world.tx, msg, SIZE_MAX), -EMSGSIZE);
	for (uint64_t n = 0; n < 10; n++) {
		size_t len_bytes;

		pattern_fill(msg, SMALL - RING_FRAME_BYTES, n);
		assert_int_equal(ring_put(&world.tx, msg, SMALL - RING_FRAME_BYTES), 0);
		ring_publish(&world.tx);
		assert_int_equal(ring_take(&world.rx, msg, sizeof(msg), &len_bytes), 0);
		assert_true(pattern_holds(msg, len_bytes, n));
		ring_release(&world.rx);
	}
	end(&world);
}

static void a_short_buffer_leaves_the_message(void **state)
{
	struct world world;
	char buf[4];
	size_t len_bytes;

	begin_open(&world, SMALL);
	deliver(&world, "longer");
	assert_int_equal(ring_take(&world.rx, buf, sizeof(buf), &len_bytes), -EMSGSIZE);
	assert_int_equal(len_bytes, 6);
	expect(&world, "longer");
	end(&world);
}

/* All lengths at all places of a small ring, over the end of the data and of the cursors. */
static void messages_wrap_around(void **state)
{
	unsigned char msg[SMALL];
	struct world world;
	uint64_t n = 0;

	begin_open(&world, SMALL);
	world.tx.cursor = world.tx.published = UINT64_MAX - SMALL + 1;
	world.rx.cursor = world.rx.published = UINT64_MAX - SMALL + 1;
	atomic_store(&world.memory->side[RING_PRODUCER].cursor, world.tx.cursor);
	atomic_store(&world.memory->side[RING_CONSUMER].cursor, world.rx.cursor);
	for (size_t shift = 0; shift < SMALL / RING_FRAME_BYTES; shift++) {
		for (size_t len = 0; len <= SMALL - RING_FRAME_BYTES; len++, n++) {
			size_t len_bytes;

			pattern_fill(msg, len, n);
			assert_int_equal(ring_put(&world.tx, msg, len), 0);
			ring_publish(&world.tx);
			memset(msg, 0, sizeof(msg));
			assert_int_equal(ring_take(&world.rx, msg, len, &len_bytes), 0);
			assert_int_equal(len_bytes, len);
			assert_true(pattern_holds(msg, len, n));
			ring_release(&world.rx);
		}
		deliver(&world, ""); /* so that each length meets another place next time */
		expect(&world, "");
		ring_release(&world.rx);
		n++;
	}
	end(&world);
}

/* ---- sleeping ---- */

static void only_a_sleeper_is_to_be_woken_and_only_once(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	assert_int_equal(ring_put(&world.tx, "a", 1), 0);
	assert_false(ring_publish(&world.tx));
	expect(&world, "a");
	assert_true(ring_arm(&world.rx));
	assert_false(ring_publish(&world.tx)); /* there is nothing new */
	assert_int_equal(ring_put(&world.tx, "b", 1), 0);
	assert_true(ring_publish(&world.tx));
	assert_int_equal(ring_put(&world.tx, "c", 1), 0);
	assert_false(ring_publish(&world.tx));
	ring_disarm(&world.rx);
	assert_int_equal(world.tx.bells, 1);
	end(&world);
}

static void who_has_a_message_does_not_sleep(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	deliver(&world, "here");
	assert_false(ring_arm(&world.rx));
	assert_int_equal(ring_put(&world.tx, "more", 4), 0);
	assert_false(ring_publish(&world.tx)); /* it is awake again */
	expect(&world, "here");
	expect(&world, "more");
	ring_close(&world.tx);
	assert_false(ring_arm(&world.rx)); /* the end is something to hear of */
	end(&world);
}

static void *produce_and_ring(void *arg)
{
	struct world *world = arg;

	for (uint32_t i = 0; i < STRESS_COUNT; i++) {
		while (ring_put(&world->tx, &i, sizeof(i)) == -EAGAIN)
			sched_yield();
		if (ring_publish(&world->tx)) {
			atomic_store(&world->bell, 1);
			futex_wake(&world->bell);
		}
	}
	return NULL;
}

/* However arming and publishing fall together, a message is seen or a bell is rung. */
static void no_message_is_slept_through(void **state)
{
	struct world world;
	pthread_t thread;
	uint32_t next = 0;

	begin_open(&world, SMALL);
	assert_int_equal(pthread_create(&thread, NULL, produce_and_ring, &world), 0);
	while (next < STRESS_COUNT) {
		uint32_t number;
		size_t len_bytes;

		if (ring_take(&world.rx, &number, sizeof(number), &len_bytes) == 0) {
			assert_int_equal(number, next);
			next++;
			continue;
		}
		ring_release(&world.rx);
		atomic_store(&world.bell, 0);
		if (ring_arm(&world.rx))
			assert_int_not_equal(
				futex_wait_until(&world.bell, 0,
						 env_now_ns(env_real()) + 60 * NS_PER_S),
				-ETIMEDOUT);
		ring_disarm(&world.rx);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	end(&world);
}

/* ---- the end of a side ---- */

static void a_consumer_drains_a_closed_ring(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	deliver(&world, "published");
	assert_int_equal(ring_put(&world.tx, "pending", 7), 0);
	ring_close(&world.tx);
	expect(&world, "published");
	expect(&world, "pending");
	assert_int_equal(take(&world), -EPIPE);
	end(&world);
}

static void a_consumer_drains_the_ring_of_the_dead(void **state)
{
	struct world world;

	begin_open(&world, SMALL);
	deliver(&world, "published");
	assert_int_equal(ring_put(&world.tx, "lost", 4), 0);
	ring_declare_dead(&world.rx);
	expect(&world, "published");
	assert_int_equal(take(&world), -ECONNRESET);
	end(&world);
}

static void *put_and_close(void *arg)
{
	struct world *world = arg;

	ring_put(&world->tx, "last", 4);
	ring_close(&world->tx);
	return NULL;
}

/* However publishing and closing fall between two looks, the message comes before the end. */
static void a_last_message_is_not_lost(void **state)
{
	for (int run = 0; run < 300; run++) {
		struct world world;
		pthread_t thread;
		int err;

		begin_open(&world, SMALL);
		assert_int_equal(pthread_create(&thread, NULL, put_and_close, &world), 0);
		while ((err = take(&world)) == -EAGAIN)
			;
		assert_int_equal(err, 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(take(&world), -EPIPE);
		end(&world);
	}
}

static void a_producer_hears_of_a_closed_ring(void **state)
{
	static const char most[SMALL - RING_FRAME_BYTES];
	struct world world;

	begin_open(&world, SMALL);
	ring_close(&world.rx);
	assert_int_equal(ring_put(&world.tx, most, sizeof(most)), 0);
	assert_int_equal(ring_put(&world.tx, most, sizeof(most)), -EPIPE);
	end(&world);
}

static void a_producer_hears_of_a_death(void **state)
{
	static const char most[SMALL - RING_FRAME_BYTES];
	struct world world;

	begin_open(&world, SMALL);
	ring_declare_dead(&world.tx);
	assert_int_equal(ring_put(&world.tx, most, sizeof(most)), 0);
	assert_int_equal(ring_put(&world.tx, most, sizeof(most)), -ECONNRESET);
	end(&world);
}

/* ---- a hostile peer ---- */

/* One word that the peer overwrites. */
struct attack {
	const char *name;
	size_t offset;
	uint64_t value;
	const char *fault;
};

#define SIDE(role, field)                                                         \
	(offsetof(struct ring_memory, side) + (role) * sizeof(struct ring_side) + \
	 offsetof(struct ring_side, field))

static void overwrite(struct world *world, const struct attack *attack, enum ring_role role)
{
	memcpy((unsigned char *)world->memory + attack->offset, &attack->value,
	       attack->offset == SIDE(role, state) ? 4 : 8);
}

/* In a ring whose consumer has one message of 8 bytes to take. */
static const struct attack attacks_on_consumer[] = {
	{"tail past capacity", SIDE(RING_PRODUCER, cursor), SMALL + 8, "cursor out of bounds"},
	{"tail behind head", SIDE(RING_PRODUCER, cursor), UINT64_MAX - 7, "cursor out of bounds"},
	{"tail misaligned", SIDE(RING_PRODUCER, cursor), 17, "cursor out of bounds"},
	{"half a frame", SIDE(RING_PRODUCER, cursor), 8, "frame longer than published"},
	{"length past tail", RING_OVERHEAD_BYTES, 9, "frame longer than published"},
	{"length huge", RING_OVERHEAD_BYTES, UINT32_MAX, "frame longer than published"},
	{"sequence ahead", RING_OVERHEAD_BYTES, UINT64_C(1) << 32 | 8, "sequence broken"},
	{"state unknown", SIDE(RING_PRODUCER, state), 77, "unknown state"},
};

static void a_consumer_condemns(void **state)
{
	for (size_t i = 0; i < ARRAY_COUNT(attacks_on_consumer); i++) {
		const struct attack *attack = &attacks_on_consumer[i];
		unsigned char good[RING_OVERHEAD_BYTES + SMALL];
		struct world world;

		print_message("  %s\n", attack->name);
		begin_open(&world, SMALL);
		deliver(&world, "12345678");
		memcpy(good, world.memory, sizeof(good));
		overwrite(&world, attack, RING_PRODUCER);
		assert_int_equal(take(&world), -EPROTO);
		assert_string_equal(world.rx.fault, attack->fault);

		/* It stays condemned, though the peer repents. */
		memcpy(world.memory, good, sizeof(good));
		assert_int_equal(take(&world), -EPROTO);
		assert_false(ring_arm(&world.rx));
		end(&world);
	}
}

/* Here the tail is 144, the head 24, and the producer knows of 8 free bytes. */
static const struct attack attacks_on_producer[] = {
	{"head past tail", SIDE(RING_CONSUMER, cursor), 144 + 8, "cursor out of bounds"},
	{"head a ring behind", SIDE(RING_CONSUMER, cursor), 8, "cursor out of bounds"},
	{"head goes back", SIDE(RING_CONSUMER, cursor), 16, "cursor out of bounds"},
	{"head misaligned", SIDE(RING_CONSUMER, cursor), 28, "cursor out of bounds"},
	{"state unknown", SIDE(RING_CONSUMER, state), 77, "unknown state"},
};

static void a_producer_condemns(void **state)
{
	for (size_t i = 0; i < ARRAY_COUNT(attacks_on_producer); i++) {
		const struct attack *attack = &attacks_on_producer[i];
		struct world world;

		print_message("  %s\n", attack->name);
		begin_open(&world, SMALL);
		for (int n = 0; n < 5; n++)
			deliver(&world, "16 bytes of text");
		expect(&world, "16 bytes of text");
		ring_release(&world.rx);
		deliver(&world, "16 bytes of text");
		assert_int_equal(world.tx.room, 8);
		overwrite(&world, attack, RING_CONSUMER);
		assert_int_equal(ring_put(&world.tx, "12345678", 8), -EPROTO);
		assert_string_equal(world.tx.fault, attack->fault);
		assert_int_equal(ring_put(&world.tx, "", 0), -EPROTO);
		end(&world);
	}
}

/* Overwrites the tail, and words all over the ring, most of them plausible, until killed. */
static _Noreturn void scribble(struct world *world)
{
	_Atomic uint64_t *words = (_Atomic uint64_t *)(void *)world->memory;
	_Atomic uint64_t *tail = &world->memory->side[RING_PRODUCER].cursor;

	for (;;) {
		uint64_t place = test_random_below(world->size_bytes / sizeof(*words));
		uint64_t value = test_random();

		if (value % 8 < 3)
			atomic_store(tail, atomic_load(tail) + value % 40 / 8 * 8);
		else if (value % 8 < 6)
			atomic_store(&words[place], value >> 8 & 0x1000000ff);
		else
			atomic_store(&words[place], value);
	}
}

/* Whatever it writes, and when, the consumer stays inside of its ring and its buffer. */
static void no_scribbler_takes_us_out_of_bounds(void **state)
{
	struct world world;
	unsigned char buf[SMALL + 8];
	pid_t pid;

	begin(&world, SMALL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		scribble(&world);
	}
	for (unsigned i = 0; i < SCRIBBLE_RUNS; i++) {
		struct ring_memory *memory = world.memory;
		size_t len_bytes = 0;
		int err = 0;

		memory->magic = RING_MAGIC;
		memory->version = RING_VERSION;
		memory->capacity = SMALL;
		atomic_store(&memory->side[RING_CONSUMER].state, RING_ABSENT);
		if (ring_open(&world.rx, memory, world.size_bytes, RING_CONSUMER))
			continue;
		memset(buf + SMALL, 0x5a, 8);
		for (unsigned looks = 0; looks < 10 && (err == 0 || err == -EAGAIN); looks++) {
			err = ring_take(&world.rx, buf, SMALL, &len_bytes);
			ring_release(&world.rx);
		}
		assert_memory_equal(buf + SMALL, "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a", 8);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	end(&world);
}

/* ---- stress ---- */

static void *produce_random(void *arg)
{
	struct world *world = arg;
	unsigned char msg[STRESS_MAX];

	for (uint32_t i = 0; i < STRESS_COUNT; i++) {
		size_t len_bytes = (i * 7919u) % STRESS_MAX;

		pattern_fill(msg, len_bytes, i);
		while (ring_put(&world->tx, msg, len_bytes) == -EAGAIN) {
			ring_publish(&world->tx);
			sched_yield();
		}
		if (i % 5 == 0)
			ring_publish(&world->tx);
	}
	ring_close(&world->tx);
	return NULL;
}

static void two_threads_exchange_messages_of_all_sizes(void **state)
{
	struct world world;
	unsigned char msg[STRESS_MAX];
	pthread_t thread;
	uint32_t next = 0;
	int err;

	begin_open(&world, LARGE);
	assert_int_equal(pthread_create(&thread, NULL, produce_random, &world), 0);
	do {
		size_t len_bytes;

		err = ring_take(&world.rx, msg, sizeof(msg), &len_bytes);
		if (err == 0) {
			assert_int_equal(len_bytes, (next * 7919u) % STRESS_MAX);
			assert_true(pattern_holds(msg, len_bytes, next));
			next++;
		} else {
			ring_release(&world.rx);
			sched_yield();
		}
	} while (err == 0 || err == -EAGAIN);
	assert_int_equal(err, -EPIPE);
	assert_int_equal(next, STRESS_COUNT);
	assert_int_equal(pthread_join(thread, NULL), 0);
	end(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(format_refuses_what_is_no_ring),
		cmocka_unit_test(open_refuses_another_ring_than_agreed),
		cmocka_unit_test(a_side_is_taken_once),
		cmocka_unit_test(messages_come_out_as_they_went_in),
		cmocka_unit_test(a_message_is_seen_only_once_published),
		cmocka_unit_test(bytes_are_reused_only_once_released),
		cmocka_unit_test(the_longest_message_fits_exactly),
		cmocka_unit_test(a_short_buffer_leaves_the_message),
		cmocka_unit_test(messages_wrap_around),
		cmocka_unit_test(only_a_sleeper_is_to_be_woken_and_only_once),
		cmocka_unit_test(who_has_a_message_does_not_sleep),
		cmocka_unit_test(no_message_is_slept_through),
		cmocka_unit_test(a_consumer_drains_a_closed_ring),
		cmocka_unit_test(a_consumer_drains_the_ring_of_the_dead),
		cmocka_unit_test(a_last_message_is_not_lost),
		cmocka_unit_test(a_producer_hears_of_a_closed_ring),
		cmocka_unit_test(a_producer_hears_of_a_death),
		cmocka_unit_test(a_consumer_condemns),
		cmocka_unit_test(a_producer_condemns),
		cmocka_unit_test(no_scribbler_takes_us_out_of_bounds),
		cmocka_unit_test(two_threads_exchange_messages_of_all_sizes),
	};

	test_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
