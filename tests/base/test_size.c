/*
 * test_size.c: sizes and durations, parsed, refused and printed
 */
#include "base/base.h"
#include "base/env.h"
#include "base/size.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed;

static void sizes_are_powers_of_1024(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0},
		{"4096", 4096},
		{"17B", 17},
		{"512K", 512 * KIB},
		{"64M", 64 * MIB},
		{"4G", 4 * GIB},
		{"4g", 4 * GIB},
		{"4GB", 4 * GIB},
		{"4GiB", 4 * GIB},
		{"2T", 2 * TIB},
		{"1.5G", 3 * GIB / 2},
		{"0.5K", 512},
		{"0.1G", 107374182},
		{"1P", 1024 * TIB},
		{"15E", UINT64_C(15) << 60},
		{"15.999999999999999999E", UINT64_MAX - 1},
		{"18446744073709551615", UINT64_MAX},
		{"0000000000000000000000000000000004K", 4096},
	};

	for (unsigned i = 0; i < ARRAY_COUNT(good); i++) {
		uint64_t bytes = 77;

		print_message("  %s\n", good[i].text);
		assert_int_equal(size_parse(good[i].text, &bytes, NULL), 0);
		assert_true(bytes == good[i].bytes);
	}
}

static void junk_is_no_size(void **state)
{
	static const char *const bad[] = {
		"",    "G",   "-1",   "+1",  " 1",  "1 ",     "1 G",
		"4X",  "4Gi", "4GG",  "1.",  ".5G", "1.5.2G", "0x10",
		"1e3", "1.5", "1.5B", "4iB", "nan", "1,5G",   "1.1234567890123456789G",
	};

	for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
		const char *reason = NULL;
		uint64_t bytes = 77;

		print_message("  '%s'\n", bad[i]);
		assert_int_equal(size_parse(bad[i], &bytes, &reason), -EINVAL);
		assert_int_equal(bytes, 77);
		assert_true(reason && *reason);
	}
}

static void what_overflows_is_refused(void **state)
{
	static const char *const large[] = {
		"18446744073709551616",  "16E",
		"17179869184G",          "99999999999999999999999999999999999999999",
		"18446744073709551615K",
	};

	for (unsigned i = 0; i < ARRAY_COUNT(large); i++) {
		const char *reason = NULL;
		uint64_t bytes = 77;

		print_message("  %s\n", large[i]);
		assert_int_equal(size_parse(large[i], &bytes, &reason), -ERANGE);
		assert_int_equal(bytes, 77);
		assert_string_equal(reason, "too large");
	}
}

static void durations_need_a_unit(void **state)
{
	static const struct {
		const char *text;
		int64_t ns;
		int err;
	} cases[] = {
		{"10ms", 10 * NS_PER_MS, 0},
		{"2s", 2 * NS_PER_S, 0},
		{"1.5s", 1500 * NS_PER_MS, 0},
		{"250us", 250 * NS_PER_US, 0},
		{"100ns", 100, 0},
		{"5m", 300 * NS_PER_S, 0},
		{"1h", 3600 * NS_PER_S, 0},
		{"0s", 0, 0},
		{"9223372036854775807ns", INT64_MAX, 0},
		{"9223372036854775808ns", 77, -ERANGE},
		{"9223372037s", 77, -ERANGE},
		{"10", 77, -EINVAL},
		{"", 77, -EINVAL},
		{"-1s", 77, -EINVAL},
		{"1.5ns", 77, -EINVAL},
		{"1d", 77, -EINVAL},
	};

	for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
		const char *reason = NULL;
		int64_t ns = 77;

		print_message("  '%s'\n", cases[i].text);
		assert_int_equal(duration_parse(cases[i].text, &ns, &reason), cases[i].err);
		assert_true(ns == cases[i].ns);
		assert_true(cases[i].err == 0 || reason);
	}
}

static void sizes_are_printed_for_people(void **state)
{
	char buf[SIZE_TEXT_BYTES];

	assert_string_equal(size_print(buf, 0), "0");
	assert_string_equal(size_print(buf, 1023), "1023");
	assert_string_equal(size_print(buf, 1024), "1K");
	assert_string_equal(size_print(buf, 3 * GIB / 2), "1.5G");
	assert_string_equal(size_print(buf, 64 * MIB), "64M");
	assert_string_equal(size_print(buf, 123456789), "118M");
	assert_string_equal(size_print(buf, GIB - 1), "1024M");
	assert_string_equal(size_print(buf, UINT64_MAX), "16E");
}

static void durations_are_printed_for_people(void **state)
{
	char buf[SIZE_TEXT_BYTES];

	assert_string_equal(duration_print(buf, 0), "0ns");
	assert_string_equal(duration_print(buf, 17), "17ns");
	assert_string_equal(duration_print(buf, 1530), "1.53us");
	assert_string_equal(duration_print(buf, 10 * NS_PER_MS), "10ms");
	assert_string_equal(duration_print(buf, -3 * NS_PER_S), "-3s");
	assert_string_equal(duration_print(buf, 90 * NS_PER_S), "90s");
	assert_string_equal(duration_print(buf, INT64_MIN), "-9223372037s");
}

static void what_is_exact_in_print_parses_back(void **state)
{
	uint64_t random = seed;

	for (int i = 0; i < 1000; i++) {
		uint64_t bytes = seed_below(&random, 1024) << seed_below(&random, 50) / 10 * 10;
		uint64_t parsed;
		char buf[SIZE_TEXT_BYTES];

		assert_int_equal(size_parse(size_print(buf, bytes), &parsed, NULL), 0);
		assert_true(parsed == bytes);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_powers_of_1024),
		cmocka_unit_test(junk_is_no_size),
		cmocka_unit_test(what_overflows_is_refused),
		cmocka_unit_test(durations_need_a_unit),
		cmocka_unit_test(sizes_are_printed_for_people),
		cmocka_unit_test(durations_are_printed_for_people),
		cmocka_unit_test(what_is_exact_in_print_parses_back),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
