/* test_inherited.c: the environment that a new program gets */
#include "preload/inherited.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct inherited ours = {
	.preload = "LD_PRELOAD=/lib/ours.so",
	.socket = "AFAR_RUN_SOCKET=/run/s",
	.token = "AFAR_RUN_TOKEN=7f",
};

static const char *value_of(char *const *environment, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; environment[i]; i++) {
		if (strncmp(environment[i], name, len) == 0 && environment[i][len] == '=')
			return environment[i] + len + 1;
	}
	return NULL;
}

static unsigned count_of(char *const *environment, const char *name)
{
	size_t len = strlen(name);
	unsigned count = 0;

	for (size_t i = 0; environment[i]; i++)
		count += strncmp(environment[i], name, len) == 0 && environment[i][len] == '=';
	return count;
}

/* Merges in a block of exactly the size that was asked for, so that sanitizers see any excess. */
static char *const *merge(char *const *environment, void **memory)
{
	size_t bytes = inherited_bytes(&ours, environment);

	assert_true(bytes > 0);
	*memory = malloc(bytes);
	return inherited_merge(&ours, environment, *memory);
}

static void expect_ours(char *const *environment)
{
	assert_int_equal(count_of(environment, "LD_PRELOAD"), 1);
	assert_int_equal(count_of(environment, "AFAR_RUN_SOCKET"), 1);
	assert_int_equal(count_of(environment, "AFAR_RUN_TOKEN"), 1);
	assert_string_equal(value_of(environment, "AFAR_RUN_SOCKET"), "/run/s");
	assert_string_equal(value_of(environment, "AFAR_RUN_TOKEN"), "7f");
	assert_true(inherited_lists(value_of(environment, "LD_PRELOAD"), "/lib/ours.so"));
	/* What was merged is right, so a second merge has nothing to do. */
	assert_int_equal(inherited_bytes(&ours, environment), 0);
}

static void an_empty_environment_gets_ours(void **state)
{
	char *nothing[] = {NULL};
	void *memory;

	expect_ours(merge(nothing, &memory));
	free(memory);
	expect_ours(merge(NULL, &memory));
	free(memory);
}

static void other_entries_stay_in_their_order(void **state)
{
	char *environment[] = {"A=1", "AFAR_RUN_TOKEN=other", "B=2", "LD_PRELOAD=", "A=3", NULL};
	void *memory;
	char *const *merged = merge(environment, &memory);

	expect_ours(merged);
	assert_string_equal(merged[0], "A=1");
	assert_string_equal(merged[1], "B=2");
	assert_string_equal(merged[2], "A=3");
	assert_string_equal(value_of(merged, "LD_PRELOAD"), "/lib/ours.so");
	free(memory);
}

static void other_libraries_come_behind_ours(void **state)
{
	char *environment[] = {"LD_PRELOAD=/lib/x.so /lib/y.so", NULL};
	void *memory;
	char *const *merged = merge(environment, &memory);

	expect_ours(merged);
	assert_string_equal(value_of(merged, "LD_PRELOAD"), "/lib/ours.so:/lib/x.so /lib/y.so");
	free(memory);
}

static void ours_is_not_listed_twice(void **state)
{
	char *environment[] = {"LD_PRELOAD=/lib/x.so:/lib/ours.so", NULL};
	void *memory;
	char *const *merged = merge(environment, &memory);

	expect_ours(merged);
	assert_string_equal(value_of(merged, "LD_PRELOAD"), "/lib/x.so:/lib/ours.so");
	free(memory);
}

static void what_is_right_is_left_alone(void **state)
{
	char *environment[] = {"AFAR_RUN_SOCKET=/run/s", "PATH=/bin", "AFAR_RUN_TOKEN=7f",
			       "LD_PRELOAD=/lib/ours.so", NULL};

	assert_int_equal(inherited_bytes(&ours, environment), 0);
	environment[0] = "AFAR_RUN_SOCKET=/run/t";
	assert_true(inherited_bytes(&ours, environment) > 0);
}

static void names_are_compared_whole(void **state)
{
	assert_true(inherited_lists("/a:/lib/ours.so", "/lib/ours.so"));
	assert_true(inherited_lists("/lib/ours.so  /a", "/lib/ours.so"));
	assert_false(inherited_lists("/lib/ours.so.1", "/lib/ours.so"));
	assert_false(inherited_lists("/usr/lib/ours.so", "/lib/ours.so"));
	assert_false(inherited_lists("", "/lib/ours.so"));
	assert_false(inherited_lists(":::", "/lib/ours.so"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_environment_gets_ours),
		cmocka_unit_test(other_entries_stay_in_their_order),
		cmocka_unit_test(other_libraries_come_behind_ours),
		cmocka_unit_test(ours_is_not_listed_twice),
		cmocka_unit_test(what_is_right_is_left_alone),
		cmocka_unit_test(names_are_compared_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
