/*
 * test_paging.c: what a program has in memory is what it put there
 *
 *   Each test runs over both backends, and with and without UFFDIO_MOVE.
 */
#include "program.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE_BYTES  4096u
#define THREADS_MAX 4u

/* The four ways in which pages go and come. */
struct way {
	bool staged, no_move;
};
static const struct way ways[] = {{false, false}, {false, true}, {true, false}, {true, true}};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static struct program_options options_of(const struct way *way, size_t pages, uint64_t limit)
{
	return (struct program_options){.pages = pages,
					.limit_pages = limit,
					.staged = way->staged,
					.no_move = way->no_move};
}

static void write_all(struct program *program)
{
	for (size_t page = 0; page < program->options.pages; page++)
		oracle_write(&program->oracle, page);
}

static void each_page_comes_back_as_it_was(void **state)
{
	const unsigned local_percent[] = {12, 25, 50};

	for (unsigned i = 0; i < WAYS; i++) {
		for (unsigned j = 0; j < 3; j++) {
			struct program_options options =
				options_of(&ways[i], 512, 512 * local_percent[j] / 100);
			struct program program;

			program_begin(&program, &options);
			write_all(&program);
			oracle_work(&program.oracle, &program.random, 0, 1, 1000);
			oracle_check_all(&program.oracle);
			assert_true(program_counters(&program)->faults_far > 0);
			program_end(&program);
		}
	}
}

struct worker {
	struct program *program;
	size_t first, step, count;
	uint64_t random;
	uint64_t *counts; /* of the words that this thread adds to */
};

static void *work(void *context)
{
	struct worker *worker = context;

	oracle_work(&worker->program->oracle, &worker->random, worker->first, worker->step,
		    worker->count);
	return NULL;
}

static void start_workers(struct program *program, pthread_t *threads, struct worker *workers,
			  unsigned n, size_t count, void *(*run)(void *))
{
	for (unsigned i = 0; i < n; i++) {
		workers[i] = (struct worker){.program = program,
					     .first = i,
					     .step = n,
					     .count = count,
					     .random = oracle_random(&program->random)};
		assert_int_equal(pthread_create(&threads[i], NULL, run, &workers[i]), 0);
	}
}

static void join_workers(pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static void threads_miss_pages_side_by_side(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 400, 80);
		struct worker workers[THREADS_MAX];
		pthread_t threads[THREADS_MAX];
		struct program program;

		program_begin(&program, &options);
		start_workers(&program, threads, workers, 2 + i % 3, 300, work);
		join_workers(threads, 2 + i % 3);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

/* Adds to its own word of random pages, which others write to at the same time. */
static void *count_up(void *context)
{
	struct worker *worker = context;
	size_t pages = worker->program->options.pages;

	worker->counts = calloc(pages, sizeof(uint64_t));
	for (size_t i = 0; i < worker->count; i++) {
		size_t page = (size_t)(oracle_random(&worker->random) % pages);
		volatile uint64_t *words =
			(volatile uint64_t *)(void *)(worker->program->memory + page * PAGE_BYTES);

		/* Often in a row, so that many writes fall where the page just leaves. */
		for (unsigned j = 0; j < 32; j++)
			words[worker->first * 64]++;
		worker->counts[page] += 32;
	}
	return NULL;
}

static void no_write_is_lost_while_its_page_leaves(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		/* So few pages that one of them is written to nearly always when it leaves. */
		struct program_options options = options_of(&ways[i], 12, 4);
		struct worker workers[3];
		pthread_t threads[3];
		struct program program;

		program_begin(&program, &options);
		start_workers(&program, threads, workers, 3, 1000, count_up);
		join_workers(threads, 3);
		for (unsigned j = 0; j < 3; j++) {
			for (size_t page = 0; page < options.pages; page++) {
				const uint64_t *words =
					(const void *)(program.memory + page * PAGE_BYTES);

				assert_int_equal(words[j * 64], workers[j].counts[page]);
			}
			free(workers[j].counts);
		}
		program_end(&program);
	}
}

static void clean_pages_are_dropped_without_writing(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 128, 32);
		struct program program;
		uint64_t stored;

		options.no_prefetch = true;
		program_begin(&program, &options);
		write_all(&program);
		oracle_check_all(&program.oracle);
		stored = program_counters(&program)->pages_stored;
		oracle_check_all(&program.oracle);
		oracle_check_all(&program.oracle);
		assert_int_equal(program_counters(&program)->pages_stored, stored);
		assert_true(program_counters(&program)->pages_dropped_clean >= 2 * 96);
		program_end(&program);
	}
}

static void zero_pages_cost_no_slot(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 200, 32);
		struct program program;

		program_begin(&program, &options);
		oracle_check_all(&program.oracle);
		for (size_t page = 0; page < options.pages; page++)
			((volatile unsigned char *)program.memory)[page * PAGE_BYTES] = 0;
		oracle_check_all(&program.oracle);
		assert_int_equal(program_counters(&program)->pages_stored, 0);
		assert_true(program_counters(&program)->pages_zero_dropped > 0);
		program_end(&program);
	}
}

static void scan(struct program *program, size_t stride)
{
	for (size_t page = 0; page < program->options.pages; page += stride)
		oracle_check(&program->oracle, page);
}

static void scans_are_prefetched_and_random_reads_are_not(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 2048, 256);
		const struct session_counters *counters;
		struct program program;
		uint64_t faults;
		uint64_t prefetched;

		program_begin(&program, &options);
		counters = program_counters(&program);
		write_all(&program);
		faults = counters->faults_far;
		scan(&program, 1);
		assert_true(counters->faults_far - faults < options.pages / 8);
		assert_true(counters->prefetched_used > options.pages / 2);
		faults = counters->faults_far;
		scan(&program, 3);
		assert_true(counters->faults_far - faults < options.pages / 3 / 4);
		prefetched = counters->prefetched;
		faults = counters->faults_far;
		oracle_work(&program.oracle, &program.random, 0, 1, 500);
		assert_true(counters->prefetched - prefetched <
			    (counters->faults_far - faults) / 2);
		program_end(&program);
	}
}

static void system_calls_reach_far_buffers(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 128, 24);
		unsigned char bytes[8 * PAGE_BYTES];
		struct program program;
		int ends[2];

		program_begin(&program, &options);
		assert_int_equal(pipe(ends), 0);
		write_all(&program);
		assert_true(program_is_far(&program, program.memory));
		/* Eight pages out of far memory, and into other far pages. */
		assert_int_equal(write(ends[1], program.memory, sizeof(bytes)), sizeof(bytes));
		assert_int_equal(read(ends[0], bytes, sizeof(bytes)), sizeof(bytes));
		for (size_t page = 0; page < 8; page++)
			oracle_check_bytes(&program.oracle, page, bytes + page * PAGE_BYTES);
		assert_true(program_is_far(&program, program.memory + 60 * PAGE_BYTES));
		memset(bytes, 0x5a, sizeof(bytes));
		assert_int_equal(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
		assert_int_equal(read(ends[0], program.memory + 60 * PAGE_BYTES, sizeof(bytes)),
				 sizeof(bytes));
		oracle_check(&program.oracle, 59);
		assert_memory_equal(program.memory + 60 * PAGE_BYTES, bytes, sizeof(bytes));
		oracle_check(&program.oracle, 68);
		close(ends[0]);
		close(ends[1]);
		program_end(&program);
	}
}

static void a_program_that_fits_is_left_alone(void **state)
{
	struct program_options options = options_of(&ways[0], 4096, 1u << 20);
	struct supervisor *supervisor;
	struct program program;

	options.lazy = true;
	program_begin(&program, &options);
	supervisor = program.supervisor;
	write_all(&program);
	oracle_check_all(&program.oracle);
	assert_int_equal(supervisor->session[0]->active, 0);
	assert_int_equal(program_counters(&program)->faults, 0);
	/* Until the tree nears its budget. */
	supervisor->session[0]->must_activate = 1;
	supervisor_limit(supervisor, 0, 512);
	WAIT_UNTIL(supervisor->session[0]->active && program_resident(&program) <= 512);
	oracle_check_all(&program.oracle);
	assert_true(program_counters(&program)->faults > 0);
	program_end(&program);
}

static void a_program_that_grows_is_watched(void **state)
{
	/* Other memory of this process counts as well: it needs no more than a part of this. */
	struct program_options options = options_of(&ways[0], 8192, 16384);
	struct program program;

	options.lazy = true;
	options.pages = 24576;
	options.pieces = 12;
	options.piece_slots = 2048;
	if (UNDER_SANITIZER)
		skip(); /* the shadow memory counts too, and is anybody's guess */
	program_begin(&program, &options);
	for (size_t page = 0; page < 4096; page++)
		oracle_write(&program.oracle, page);
	assert_int_equal(program.supervisor->session[0]->active, 0);
	for (size_t page = 4096; page < options.pages; page++)
		oracle_write(&program.oracle, page);
	WAIT_UNTIL(program.supervisor->session[0]->active);
	WAIT_UNTIL(program_resident(&program) <= options.limit_pages);
	oracle_check_all(&program.oracle);
	program_end(&program);
}

static void a_lower_limit_is_kept_though_nobody_faults(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 600, 1000);
		struct program program;

		program_begin(&program, &options);
		write_all(&program);
		assert_int_equal(program_resident(&program), 600);
		supervisor_limit(program.supervisor, 0, 100);
		WAIT_UNTIL(program_resident(&program) <= 100);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void a_page_under_way_comes_back_at_once(void **state)
{
	struct program_options options = options_of(&ways[2], 64, 1000);
	struct supervisor_control *control;
	struct program program;

	program_begin(&program, &options);
	control = program.supervisor->control;
	write_all(&program);
	control->hold_stores = 1;
	supervisor_limit(program.supervisor, 0, 40);
	WAIT_UNTIL(control->stores_held == 1);
	/* Nothing was stored: all pages are read, and every second is written, meanwhile. */
	program.supervisor->session[0]->limit_pages = 1000;
	for (size_t page = 0; page < options.pages; page++) {
		oracle_check(&program.oracle, page);
		if (page % 2)
			oracle_write(&program.oracle, page);
	}
	assert_int_equal(control->stores_held, 1);
	assert_int_equal(control->stores, 0);
	control->hold_stores = 0;
	WAIT_UNTIL(control->stores == 1);
	supervisor_limit(program.supervisor, 0, 16);
	WAIT_UNTIL(program_resident(&program) <= 16);
	oracle_check_all(&program.oracle);
	program_end(&program);
}

static void a_refused_store_leaves_the_page_here(void **state)
{
	for (unsigned i = 2; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 256, 48);
		struct program program;

		program_begin(&program, &options);
		program.supervisor->control->fail_store_every = 3;
		write_all(&program);
		oracle_work(&program.oracle, &program.random, 0, 1, 500);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void pieces_are_opened_as_they_are_needed(void **state)
{
	for (unsigned i = 0; i < WAYS; i++) {
		struct program_options options = options_of(&ways[i], 600, 32);
		struct program program;

		options.pieces = 12;
		options.piece_slots = 64;
		program_begin(&program, &options);
		write_all(&program);
		oracle_check_all(&program.oracle);
		assert_true(program.supervisor->slots.header->open >= 568);
		program_end(&program);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_page_comes_back_as_it_was),
		cmocka_unit_test(threads_miss_pages_side_by_side),
		cmocka_unit_test(no_write_is_lost_while_its_page_leaves),
		cmocka_unit_test(clean_pages_are_dropped_without_writing),
		cmocka_unit_test(zero_pages_cost_no_slot),
		cmocka_unit_test(scans_are_prefetched_and_random_reads_are_not),
		cmocka_unit_test(system_calls_reach_far_buffers),
		cmocka_unit_test(a_program_that_fits_is_left_alone),
		cmocka_unit_test(a_program_that_grows_is_watched),
		cmocka_unit_test(a_lower_limit_is_kept_though_nobody_faults),
		cmocka_unit_test(a_page_under_way_comes_back_at_once),
		cmocka_unit_test(a_refused_store_leaves_the_page_here),
		cmocka_unit_test(pieces_are_opened_as_they_are_needed),
	};

	cmocka_set_test_filter(getenv("TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
