/*
 * test_calls.c: memory calls of the program beside paging
 */
#include "program.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE_BYTES  4096u
#define STACK_BYTES (4u << 20) /* of which little is used, but sanitizers want much */

static void write_all(struct program *program)
{
	for (size_t page = 0; page < program->options.pages; page++)
		oracle_write(&program->oracle, page);
}

static struct program_options options_of(bool staged, bool no_move)
{
	return (struct program_options){
		.pages = 128, .limit_pages = 32, .staged = staged, .no_move = no_move};
}

static unsigned char *page_of(const struct program *program, size_t page)
{
	return program->memory + page * PAGE_BYTES;
}

static void discarded_pages_are_zeros_and_hold_no_slot(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct program_options options = options_of(i == 1, false);
		struct program program;
		uint64_t taken;

		program_begin(&program, &options);
		write_all(&program);
		taken = program.supervisor->slots.header->taken;
		program_discard(&program, page_of(&program, 10), 60 * PAGE_BYTES);
		oracle_clear(&program.oracle, 10, 60);
		assert_true(program.supervisor->slots.header->taken <= taken - 40);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void moved_pages_are_where_they_were_moved_to(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct program_options options = options_of(i / 2 == 1, i % 2 == 1);
		struct program program;

		program_begin(&program, &options);
		write_all(&program);
		oracle_check_all(&program.oracle);
		/* Elsewhere and larger, then elsewhere and smaller. */
		program.memory = program_move(&program, program.memory, 128 * PAGE_BYTES,
					      200 * PAGE_BYTES, true);
		program.oracle.memory = program.memory;
		oracle_check_all(&program.oracle);
		for (size_t page = 128; page < 200; page++)
			assert_int_equal(page_of(&program, page)[5], 0);
		program.memory = program_move(&program, program.memory, 200 * PAGE_BYTES,
					      128 * PAGE_BYTES, true);
		program.oracle.memory = program.memory;
		oracle_work(&program.oracle, &program.random, 0, 1, 300);
		oracle_check_all(&program.oracle);
		assert_int_equal(program.supervisor->session[0]->managed_bytes, 128 * PAGE_BYTES);
		program_end(&program);
	}
}

static void mappings_shrink_and_grow_in_place(void **state)
{
	struct program_options options = options_of(false, false);
	struct program program;

	program_begin(&program, &options);
	write_all(&program);
	assert_ptr_equal(
		program_move(&program, program.memory, 128 * PAGE_BYTES, 64 * PAGE_BYTES, false),
		program.memory);
	assert_int_equal(pager_managed(program.pager, (uintptr_t)program.memory, 128 * PAGE_BYTES),
			 64 * PAGE_BYTES);
	program.memory =
		program_move(&program, program.memory, 64 * PAGE_BYTES, 128 * PAGE_BYTES, false);
	program.oracle.memory = program.memory;
	oracle_clear(&program.oracle, 64, 64);
	oracle_check_all(&program.oracle);
	write_all(&program);
	oracle_check_all(&program.oracle);
	program_end(&program);
}

static void a_hole_is_not_managed_and_may_be_mapped_again(void **state)
{
	struct program_options options = options_of(false, false);
	struct pager_guard guard;
	struct program program;
	void *again;

	program_begin(&program, &options);
	write_all(&program);
	program_unmap(&program, page_of(&program, 40), 20 * PAGE_BYTES);
	assert_int_equal(pager_managed(program.pager, (uintptr_t)program.memory, 128 * PAGE_BYTES),
			 108 * PAGE_BYTES);
	pager_lock(program.pager, &guard);
	again = mmap(page_of(&program, 40), 20 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(again, page_of(&program, 40));
	assert_int_equal(pager_manage(program.pager, (uintptr_t)again, 20 * PAGE_BYTES, true), 0);
	pager_unlock(program.pager, &guard);
	oracle_clear(&program.oracle, 40, 20);
	oracle_check_all(&program.oracle);
	program_end(&program);
}

static void unreadable_pages_stay_and_come_back_readable(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct program_options options = options_of(i / 2 == 1, i % 2 == 1);
		struct program program;

		program_begin(&program, &options);
		write_all(&program);
		for (size_t page = 50; page < 60; page++)
			oracle_check(&program.oracle, page);
		program_protect(&program, page_of(&program, 50), 10 * PAGE_BYTES, PROT_NONE);
		/* All others pass through memory, twice. */
		for (unsigned round = 0; round < 2; round++) {
			for (size_t page = 0; page < 128; page++) {
				if (page < 50 || page >= 60)
					oracle_check(&program.oracle, page);
			}
		}
		for (size_t page = 50; page < 60; page++)
			assert_false(program_is_far(&program, page_of(&program, page)));
		program_protect(&program, page_of(&program, 50), 10 * PAGE_BYTES,
				PROT_READ | PROT_WRITE);
		oracle_work(&program.oracle, &program.random, 0, 1, 300);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void read_only_pages_leave_and_come_back(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct program_options options = options_of(i / 2 == 1, i % 2 == 1);
		struct program program;

		program_begin(&program, &options);
		write_all(&program);
		program_protect(&program, page_of(&program, 100), 28 * PAGE_BYTES, PROT_READ);
		for (unsigned round = 0; round < 3; round++)
			oracle_check_all(&program.oracle);
		assert_true(program_resident(&program) <= 32 + PAGER_BATCH);
		program_protect(&program, page_of(&program, 100), 28 * PAGE_BYTES,
				PROT_READ | PROT_WRITE);
		oracle_work(&program.oracle, &program.random, 0, 1, 300);
		program_end(&program);
	}
}

static void pinned_pages_stay(void **state)
{
	struct program_options options = options_of(false, false);
	struct pager_guard guard;
	struct program program;

	program_begin(&program, &options);
	write_all(&program);
	for (size_t page = 0; page < 16; page++)
		oracle_check(&program.oracle, page);
	pager_lock(program.pager, &guard);
	pager_set_pinned(program.pager, (uintptr_t)program.memory, 16 * PAGE_BYTES, true);
	pager_unlock(program.pager, &guard);
	/* Those that had left meanwhile are brought by mlock's touch. */
	for (size_t page = 0; page < 16; page++)
		oracle_check(&program.oracle, page);
	oracle_check_all(&program.oracle);
	for (size_t page = 0; page < 16; page++)
		assert_false(program_is_far(&program, page_of(&program, page)));
	pager_lock(program.pager, &guard);
	pager_set_pinned(program.pager, (uintptr_t)program.memory, 16 * PAGE_BYTES, false);
	pager_unlock(program.pager, &guard);
	oracle_check_all(&program.oracle);
	oracle_check_all(&program.oracle);
	assert_true(program_is_far(&program, program.memory));
	program_end(&program);
}

/* Paging that never stops, on a part of the memory of its own. */
struct noise {
	struct program *program;
	struct oracle oracle;
	uint64_t random;
	_Atomic bool stop;
};

static void *make_noise(void *context)
{
	struct noise *noise = context;

	do {
		oracle_work(&noise->oracle, &noise->random, 0, 1, 20);
	} while (!noise->stop);
	return NULL;
}

/* One random memory call on a mapping of `pages`, whose oracle follows. */
static void change_memory(struct program *program, struct oracle *oracle, uint64_t *random)
{
	size_t pages = oracle->pages;
	size_t first = (size_t)(oracle_random(random) % pages);
	size_t n = 1 + (size_t)(oracle_random(random) % (pages - first));
	unsigned char *at = oracle->memory + first * PAGE_BYTES;

	switch (oracle_random(random) % 4) {
	case 0:
		program_discard(program, at, n * PAGE_BYTES);
		oracle_clear(oracle, first, n);
		break;
	case 1:
		oracle->memory = program_move(program, oracle->memory, pages * PAGE_BYTES,
					      pages * PAGE_BYTES, true);
		break;
	case 2:
		program_unmap(program, oracle->memory, pages * PAGE_BYTES);
		oracle->memory = program_map(program, pages * PAGE_BYTES);
		oracle_clear(oracle, 0, pages);
		break;
	default:
		program_protect(program, at, n * PAGE_BYTES, PROT_READ);
		program_protect(program, at, n * PAGE_BYTES, PROT_READ | PROT_WRITE);
		break;
	}
}

static void memory_calls_race_with_paging(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct program_options options = options_of(i / 2 == 1, i % 2 == 1);
		struct program program;
		struct noise noise;
		struct oracle changing;
		pthread_t thread;

		program_begin(&program, &options);
		noise = (struct noise){.program = &program,
				       .oracle = program.oracle,
				       .random = program.random + 1};
		oracle_init(&changing, program_map(&program, 40 * PAGE_BYTES), 40,
			    program.oracle.seed + 1);
		assert_int_equal(pthread_create(&thread, NULL, make_noise, &noise), 0);
		for (unsigned call = 0; call < 60; call++) {
			oracle_work(&changing, &program.random, 0, 1, 20);
			change_memory(&program, &changing, &program.random);
			oracle_check_all(&changing);
		}
		noise.stop = true;
		pthread_join(thread, NULL);
		oracle_check_all(&program.oracle);
		program_unmap(&program, changing.memory, 40 * PAGE_BYTES);
		oracle_destroy(&changing);
		program_end(&program);
	}
}

/* A thread whose stack is managed memory makes memory calls while its stack is paged out. */
static void *call_on_far_stack(void *context)
{
	struct program *program = context;
	volatile unsigned char local[3 * PAGE_BYTES];

	for (unsigned i = 0; i < 30; i++) {
		void *memory;

		local[i * 100] = (unsigned char)i;
		for (size_t page = 0; page < 128; page++)
			oracle_check(&program->oracle, page);
		memory = program_map(program, 16 * PAGE_BYTES);
		memset(memory, 1, 16 * PAGE_BYTES);
		program_unmap(program, memory, 16 * PAGE_BYTES);
		if (local[i * 100] != i)
			abort();
	}
	return NULL;
}

static void a_stack_may_be_far_when_a_memory_call_is_made(void **state)
{
	struct program_options options = options_of(false, false);
	struct program program;
	pthread_attr_t attributes;
	pthread_t thread;
	void *stack;

	options.limit_pages = 24;
	program_begin(&program, &options);
	write_all(&program);
	stack = program_map(&program, STACK_BYTES);
	pthread_attr_init(&attributes);
	assert_int_equal(pthread_attr_setstack(&attributes, stack, STACK_BYTES), 0);
	assert_int_equal(pthread_create(&thread, &attributes, call_on_far_stack, &program), 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attributes);
	program_unmap(&program, stack, STACK_BYTES);
	program_end(&program);
}

static void memory_that_went_behind_our_back_reads_as_zeros(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct program_options options = options_of(false, i == 1);
		struct program program;

		program_begin(&program, &options);
		for (size_t page = 0; page < 16; page++)
			oracle_write(&program.oracle, page);
		/* Without a word to the pager: no hang, and what the kernel promises. */
		assert_int_equal(madvise(program.memory, 16 * PAGE_BYTES, MADV_DONTNEED), 0);
		oracle_clear(&program.oracle, 0, 8);
		for (size_t page = 0; page < 8; page++)
			oracle_check(&program.oracle, page);
		/* The other eight are found to be gone when they should leave. */
		oracle_clear(&program.oracle, 8, 8);
		for (size_t page = 16; page < 128; page++)
			oracle_write(&program.oracle, page);
		oracle_check_all(&program.oracle);
		program_end(&program);
	}
}

static void what_is_not_managed_is_counted(void **state)
{
	struct program_options options = options_of(false, false);
	struct program program;

	program_begin(&program, &options);
	pager_count_unmanaged(program.pager, 5000);
	pager_count_unmanaged(program.pager, -2000);
	assert_int_equal(program_counters(&program)->unmanaged_bytes, 3000);
	program_end(&program);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(discarded_pages_are_zeros_and_hold_no_slot),
		cmocka_unit_test(moved_pages_are_where_they_were_moved_to),
		cmocka_unit_test(mappings_shrink_and_grow_in_place),
		cmocka_unit_test(a_hole_is_not_managed_and_may_be_mapped_again),
		cmocka_unit_test(unreadable_pages_stay_and_come_back_readable),
		cmocka_unit_test(read_only_pages_leave_and_come_back),
		cmocka_unit_test(pinned_pages_stay),
		cmocka_unit_test(memory_calls_race_with_paging),
		cmocka_unit_test(a_stack_may_be_far_when_a_memory_call_is_made),
		cmocka_unit_test(memory_that_went_behind_our_back_reads_as_zeros),
		cmocka_unit_test(what_is_not_managed_is_counted),
	};

	cmocka_set_test_filter(getenv("TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
