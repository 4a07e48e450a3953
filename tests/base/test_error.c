/*
 * test_error.c: every code has a sentence
 */
#include "afar/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void codes_of_our_own_have_sentences_of_their_own(void **state)
{
	for (int code = AFAR_EQUOTA; code <= AFAR_ENOSPACE_FAR; code++) {
		const char *sentence = afar_strerror(code);

		assert_null(strstr(sentence, "unknown"));
		assert_int_not_equal(sentence[strlen(sentence) - 1], '.');
		for (int other = AFAR_EQUOTA; other < code; other++)
			assert_string_not_equal(sentence, afar_strerror(other));
	}
}

static void errnos_have_the_words_of_the_c_library(void **state)
{
	assert_string_equal(afar_strerror(-ENOENT), "No such file or directory");
	assert_string_equal(afar_strerror(0), "success");
}

static void what_is_no_code_says_so(void **state)
{
	assert_string_equal(afar_strerror(-1999), "unknown error -1999");
	assert_string_equal(afar_strerror(-2099), "unknown error -2099");
	assert_string_equal(afar_strerror(7), "unknown error 7");
	assert_string_equal(afar_strerror(INT32_MIN), "unknown error -2147483648");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_of_our_own_have_sentences_of_their_own),
		cmocka_unit_test(errnos_have_the_words_of_the_c_library),
		cmocka_unit_test(what_is_no_code_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
