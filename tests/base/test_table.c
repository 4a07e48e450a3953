/*
 * test_table.c: table.h against an array that is searched from end to end
 */
#include "base/base.h"
#include "base/table.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define KEYS 300u

static uint64_t seed;

static void limits_out_of_bounds_are_refused(void **state)
{
	struct table table;

	assert_int_equal(table_create(&table, 0, 0), -EINVAL);
	assert_int_equal(table_create(&table, (1u << 30) + 1, 0), -EINVAL);
	table_destroy(&table);
}

static void a_key_is_inserted_once(void **state)
{
	struct table table;
	int first;
	int second;

	assert_int_equal(table_create(&table, 10, seed), 0);
	assert_null(table_get(&table, 5));
	assert_int_equal(table_insert(&table, 5, &first), 0);
	assert_int_equal(table_insert(&table, 5, &second), -EEXIST);
	assert_ptr_equal(table_get(&table, 5), &first);
	assert_ptr_equal(table_remove(&table, 5), &first);
	assert_null(table_remove(&table, 5));
	assert_int_equal(table_insert(&table, 5, &second), 0);
	assert_ptr_equal(table_get(&table, 5), &second);
	table_destroy(&table);
}

static void any_key_will_do(void **state)
{
	static const uint64_t keys[] = {0, 1, UINT64_MAX, UINT64_C(1) << 63};
	static char values[ARRAY_COUNT(keys)];
	struct table table;

	assert_int_equal(table_create(&table, 10, seed), 0);
	for (unsigned i = 0; i < ARRAY_COUNT(keys); i++)
		assert_int_equal(table_insert(&table, keys[i], &values[i]), 0);
	for (unsigned i = 0; i < ARRAY_COUNT(keys); i++)
		assert_ptr_equal(table_get(&table, keys[i]), &values[i]);
	table_destroy(&table);
}

static void a_full_table_refuses_and_counts(void **state)
{
	struct table table;
	int value;

	assert_int_equal(table_create(&table, 100, seed), 0);
	for (uint64_t key = 0; key < 100; key++)
		assert_int_equal(table_insert(&table, key << 32, &value), 0);
	assert_int_equal(table_insert(&table, 7, &value), -ENOSPC);
	assert_int_equal(table.rejected, 1);
	assert_ptr_equal(table_remove(&table, 0), &value);
	assert_int_equal(table_insert(&table, 7, &value), 0);
	table_destroy(&table);
}

/* The table's own walk must meet each entry of the model once. */
static void check_walk(const struct table *table, char *const *model)
{
	char met[KEYS] = {0};
	uint32_t cursor = 0;
	uint64_t key;
	void *value;

	while ((value = table_next(table, &cursor, &key))) {
		assert_true(key < KEYS && !met[key]);
		assert_ptr_equal(value, model[key]);
		met[key] = 1;
	}
	for (uint32_t i = 0; i < KEYS; i++)
		assert_true(met[i] == (model[i] != NULL));
	assert_null(table_next(table, &cursor, NULL));
}

static void it_does_what_an_array_does(void **state)
{
	static char values[KEYS];
	char *model[KEYS] = {0};
	struct table table;
	uint64_t random = seed;
	uint32_t entries = 0;

	assert_int_equal(table_create(&table, KEYS, seed), 0);
	for (int i = 0; i < 50000; i++) {
		uint64_t key = seed_below(&random, KEYS);
		char *value = &values[seed_below(&random, KEYS)];
		/* Fills up and empties by turns. */
		bool growing = i / 2000 % 2 == 0;

		assert_ptr_equal(table_get(&table, key), model[key]);
		if (seed_below(&random, 3) < (growing ? 2 : 1)) {
			int err = table_insert(&table, key, value);

			assert_int_equal(err, model[key] ? -EEXIST : 0);
			if (err == 0)
				model[key] = value;
			entries += err == 0;
		} else {
			assert_ptr_equal(table_remove(&table, key), model[key]);
			entries -= model[key] != NULL;
			model[key] = NULL;
		}
		assert_int_equal(table.entries, entries);
		if (i % 1000 == 0)
			check_walk(&table, model);
	}
	table_destroy(&table);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_out_of_bounds_are_refused),
		cmocka_unit_test(a_key_is_inserted_once),
		cmocka_unit_test(any_key_will_do),
		cmocka_unit_test(a_full_table_refuses_and_counts),
		cmocka_unit_test(it_does_what_an_array_does),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
