/*
 * test_histogram.c: histogram.h against the sorted values themselves
 */
#include "base/base.h"
#include "base/histogram.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define VALUES 5000u

static uint64_t seed;

static int by_value(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a;
	uint64_t right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

static void begin(struct histogram *histogram)
{
	memset(histogram, 0, sizeof(*histogram));
}

static void an_empty_histogram_says_zero(void **state)
{
	struct histogram histogram;

	begin(&histogram);
	assert_int_equal(histogram_count(&histogram), 0);
	assert_int_equal(histogram_mean(&histogram), 0);
	assert_int_equal(histogram_max(&histogram), 0);
	assert_int_equal(histogram_percentile(&histogram, 99), 0);
}

static void small_values_are_exact(void **state)
{
	struct histogram histogram;

	begin(&histogram);
	for (uint64_t value = 1; value <= 50; value++)
		histogram_record(&histogram, value);
	assert_int_equal(histogram_percentile(&histogram, 2), 1);
	assert_int_equal(histogram_percentile(&histogram, 50), 25);
	assert_int_equal(histogram_percentile(&histogram, 50.5), 26);
	assert_int_equal(histogram_percentile(&histogram, 100), 50);
	assert_int_equal(histogram_sum(&histogram), 1275);
	assert_int_equal(histogram_mean(&histogram), 25);
}

static void every_value_has_its_bucket(void **state)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t power = UINT64_C(1) << bit;
		uint64_t values[] = {power - 1, power, power + 1};

		for (unsigned i = 0; i < ARRAY_COUNT(values); i++) {
			struct histogram histogram;

			begin(&histogram);
			histogram_record(&histogram, values[i]);
			/* The maximum caps the bucket: of one value, every percentile is exact. */
			assert_true(histogram_percentile(&histogram, 1) == values[i]);
			assert_int_equal(histogram_count_below(&histogram, power),
					 values[i] < power);
		}
	}
}

/* Values of all magnitudes, as latencies are. */
static uint64_t some_value(uint64_t *random)
{
	return seed_next(random) >> seed_below(random, 60);
}

static bool is_close_above(uint64_t reported, uint64_t expected)
{
	return reported >= expected && reported - expected <= expected / 32;
}

static void a_percentile_is_at_most_a_part_in_32_above(void **state)
{
	static const double percents[] = {0.1, 1, 10, 50, 90, 99, 99.9, 100};
	static uint64_t values[VALUES];
	struct histogram histogram;
	uint64_t random = seed;

	begin(&histogram);
	for (unsigned i = 0; i < VALUES; i++) {
		values[i] = some_value(&random);
		histogram_record(&histogram, values[i]);
	}
	qsort(values, VALUES, sizeof(*values), by_value);
	for (unsigned i = 0; i < ARRAY_COUNT(percents); i++) {
		/* VALUES is a multiple of 1000: these ranks are whole. */
		uint64_t rank = (uint64_t)(percents[i] * 10 + 0.5) * VALUES / 1000;
		uint64_t expected = values[rank - 1];
		uint64_t reported = histogram_percentile(&histogram, percents[i]);

		/* A rank computed in floating point may be one too high. */
		assert_true(is_close_above(reported, expected) ||
			    (rank < VALUES && is_close_above(reported, values[rank])));
	}
	assert_true(histogram_max(&histogram) == values[VALUES - 1]);
}

static void two_merged_are_one(void **state)
{
	struct histogram parts[2];
	struct histogram whole;
	uint64_t random = seed;

	begin(&parts[0]);
	begin(&parts[1]);
	begin(&whole);
	for (unsigned i = 0; i < VALUES; i++) {
		uint64_t value = some_value(&random);

		histogram_record(&parts[i % 2], value);
		histogram_record(&whole, value);
	}
	histogram_merge(&parts[0], &parts[1]);
	assert_memory_equal(&parts[0], &whole, sizeof(whole));
	histogram_clear(&whole);
	assert_int_equal(histogram_count(&whole), 0);
	assert_int_equal(histogram_max(&whole), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_histogram_says_zero),
		cmocka_unit_test(small_values_are_exact),
		cmocka_unit_test(every_value_has_its_bucket),
		cmocka_unit_test(a_percentile_is_at_most_a_part_in_32_above),
		cmocka_unit_test(two_merged_are_one),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
