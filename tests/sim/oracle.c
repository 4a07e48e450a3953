/*
 * What the oracle believes, and the same story from the same seed.
 */
#include "sim/oracle.h"

#include "base/base.h"
#include "sim/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME 3u
#define PAGE   17u

static enum oracle_verdict judge(struct oracle_page *page, uint32_t low, uint32_t high,
				 const unsigned char *bytes)
{
	const uint32_t bounds[2] = {low, high};

	return oracle_judge(page, VOLUME, PAGE, bounds, bytes);
}

static void a_page_reads_zeros_until_it_is_written(void **state)
{
	struct oracle_page page = {0};
	unsigned char bytes[PAGE_BYTES] = {0};

	assert_int_equal(judge(&page, 0, 0, bytes), ORACLE_GOOD);
	oracle_fill(VOLUME, PAGE, oracle_write(&page), bytes);
	assert_int_equal(judge(&page, 0, 0, bytes), ORACLE_FOREIGN);
	assert_int_equal(judge(&page, 0, 1, bytes), ORACLE_GOOD);
	assert_int_equal(page.floor, 1);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(judge(&page, 1, 1, bytes), ORACLE_ZERO);
}

static void what_was_acknowledged_or_read_is_the_least_that_comes_back(void **state)
{
	struct oracle_page page = {0};
	unsigned char bytes[PAGE_BYTES];

	for (unsigned i = 0; i < 3; i++)
		oracle_write(&page);
	oracle_acknowledge(&page, 2);
	assert_int_equal(oracle_low(&page, 1), 2);
	oracle_fill(VOLUME, PAGE, 1, bytes);
	assert_int_equal(judge(&page, 2, 3, bytes), ORACLE_OLD);
	oracle_fill(VOLUME, PAGE, 3, bytes);
	assert_int_equal(judge(&page, 2, 3, bytes), ORACLE_GOOD);
	assert_int_equal(oracle_low(&page, 1), 3);
}

static void a_discard_binds_the_incarnation_that_made_it(void **state)
{
	struct oracle_page page = {0};
	unsigned char bytes[PAGE_BYTES] = {0};

	oracle_acknowledge(&page, oracle_write(&page));
	assert_int_equal(oracle_discard(&page, 5), 2);
	assert_int_equal(oracle_low(&page, 5), 2);
	assert_int_equal(oracle_low(&page, 6), 1);
	assert_int_equal(judge(&page, 1, 2, bytes), ORACLE_GOOD);
	assert_int_equal(page.floor, 1);
	oracle_take_over(&page);
	assert_true(page.shaky);
	oracle_acknowledge(&page, oracle_write(&page));
	assert_false(page.shaky);
}

static void a_page_of_two_writes_is_torn_and_one_of_another_page_is_foreign(void **state)
{
	struct oracle_page page = {0};
	unsigned char bytes[PAGE_BYTES];
	unsigned char other[PAGE_BYTES];

	oracle_write(&page);
	oracle_write(&page);
	oracle_fill(VOLUME, PAGE, 1, bytes);
	oracle_fill(VOLUME, PAGE, 2, other);
	memcpy(bytes + 640, other + 640, 64);
	assert_int_equal(judge(&page, 0, 2, bytes), ORACLE_TORN);
	assert_int_equal(judge(&page, 2, 2, bytes), ORACLE_OLD);
	bytes[700] ^= 1;
	assert_int_equal(judge(&page, 0, 2, bytes), ORACLE_FOREIGN);
	oracle_fill(VOLUME, PAGE + 1, 2, bytes);
	assert_int_equal(judge(&page, 0, 2, bytes), ORACLE_FOREIGN);
	oracle_fill(VOLUME + 1, PAGE, 2, bytes);
	assert_int_equal(judge(&page, 0, 2, bytes), ORACLE_FOREIGN);
}

static void one_seed_tells_one_story(void **state)
{
	uint64_t hash[2];

	for (uint64_t seed = 1; seed <= 12; seed++) {
		for (unsigned i = 0; i < 2; i++) {
			const struct sim_options options = {.seed = seed};
			struct sim_verdict verdict;

			sim_run(&options, &verdict);
			hash[i] = verdict.hash;
			if (i == 1)
				assert_true(verdict.counts.reads > 0);
		}
		assert_int_equal(hash[0], hash[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_reads_zeros_until_it_is_written),
		cmocka_unit_test(what_was_acknowledged_or_read_is_the_least_that_comes_back),
		cmocka_unit_test(a_discard_binds_the_incarnation_that_made_it),
		cmocka_unit_test(a_page_of_two_writes_is_torn_and_one_of_another_page_is_foreign),
		cmocka_unit_test(one_seed_tells_one_story),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
