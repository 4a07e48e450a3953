/*
 * test_queue.c: queue.h against a counter
 */
#include "base/base.h"
#include "base/queue.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed;

/* Of a size that no alignment helps. */
struct element {
	char bytes[13];
};

static struct element element_of(uint64_t number)
{
	struct element element = {0};

	memcpy(element.bytes, &number, sizeof(number));
	return element;
}

static void sizes_of_nothing_are_refused(void **state)
{
	struct queue queue;

	assert_int_equal(queue_create(&queue, 0, 4), -EINVAL);
	assert_int_equal(queue_create(&queue, 8, 0), -EINVAL);
	assert_int_equal(queue_create(&queue, SIZE_MAX / 2, 4), -EINVAL);
	queue_destroy(&queue);
}

static void a_full_queue_refuses_and_counts(void **state)
{
	struct queue queue;
	int number = 1;

	assert_int_equal(queue_create(&queue, sizeof(number), 2), 0);
	assert_int_equal(queue_pop(&queue, &number), -EAGAIN);
	assert_int_equal(queue_push(&queue, &number), 0);
	assert_int_equal(queue_push(&queue, &number), 0);
	assert_true(queue_is_full(&queue));
	assert_int_equal(queue_push(&queue, &number), -ENOBUFS);
	assert_int_equal(queue.rejected, 1);
	assert_int_equal(queue.pushed, 2);
	assert_int_equal(queue_pop(&queue, &number), 0);
	assert_int_equal(queue_push(&queue, &number), 0);
	queue_destroy(&queue);
}

static void what_goes_in_comes_out_in_order(void **state)
{
	struct queue queue;
	uint64_t random = seed;
	uint64_t pushed = 0;
	uint64_t popped = 0;

	assert_int_equal(queue_create(&queue, sizeof(struct element), 7), 0);
	for (int i = 0; i < 20000; i++) {
		struct element element = element_of(pushed);
		struct element expected = element_of(popped);
		uint32_t place = (uint32_t)seed_below(&random, 9);
		struct element *seen = queue_at(&queue, place);

		assert_int_equal(queue.count, pushed - popped);
		assert_true((seen == NULL) == (place >= queue.count));
		if (seen) {
			struct element there = element_of(popped + place);

			assert_memory_equal(seen, &there, sizeof(there));
		}
		if (seed_below(&random, 2) == 0) {
			pushed += queue_push(&queue, &element) == 0;
		} else if (queue_pop(&queue, &element) == 0) {
			assert_memory_equal(&element, &expected, sizeof(element));
			popped++;
		}
	}
	assert_true(queue.rejected > 0);
	queue_destroy(&queue);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_of_nothing_are_refused),
		cmocka_unit_test(a_full_queue_refuses_and_counts),
		cmocka_unit_test(what_goes_in_comes_out_in_order),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
