/* test_marks.c: the table of wishes about memory, also against a plain model */
#include "preload/marks.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MODEL_UNITS 64u
#define UNIT        4096u

static void a_range_is_marked_and_cleared(void **state)
{
	struct marks marks = {.count = 0};

	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x10000, 0x20000), 0);
	assert_true(marks_any(&marks, MARK_LOCKED, 0x1f000, 0x30000));
	assert_false(marks_any(&marks, MARK_LOCKED, 0x20000, 0x30000));
	assert_false(marks_any(&marks, MARK_EMPTY_IN_CHILD, 0x10000, 0x20000));
	assert_int_equal(marks_clear(&marks, MARK_LOCKED, 0x14000, 0x18000), 0);
	assert_false(marks_any(&marks, MARK_LOCKED, 0x14000, 0x18000));
	assert_true(marks_any(&marks, MARK_LOCKED, 0x13000, 0x14000));
	assert_true(marks_any(&marks, MARK_LOCKED, 0x18000, 0x19000));
}

static void ranges_that_touch_become_one(void **state)
{
	struct marks marks = {.count = 0};

	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x10000, 0x20000), 0);
	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x30000, 0x40000), 0);
	assert_int_equal(marks_set(&marks, MARK_EMPTY_IN_CHILD, 0x20000, 0x30000), 0);
	assert_int_equal(marks.count, 3);
	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x20000, 0x30000), 0);
	assert_int_equal(marks.count, 2);
}

static void a_full_table_changes_nothing(void **state)
{
	static struct marks marks, before;

	marks.count = 0;
	for (uintptr_t i = 0; i < MARKS_MAX; i++)
		assert_int_equal(marks_set(&marks, MARK_LOCKED, i << 16, (i << 16) + 0x3000), 0);
	before = marks;
	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x8000, 0x9000), -ENOSPC);
	assert_int_equal(marks_clear(&marks, MARK_LOCKED, 0x1000, 0x2000), -ENOSPC);
	assert_memory_equal(&marks, &before, sizeof(marks));
	/* What needs no entry more still works. */
	assert_int_equal(marks_set(&marks, MARK_LOCKED, 0x3000, 0x4000), 0);
	assert_int_equal(marks_clear(&marks, MARK_LOCKED, 0x10000, 0x11000), 0);
	marks_forget(&marks, 0, UINTPTR_MAX);
	assert_int_equal(marks.count, 0);
}

/* ---- against a model: one byte of kinds a unit ---- */

static bool model_is(const unsigned char *model, const struct marks *marks)
{
	for (unsigned i = 0; i < MODEL_UNITS; i++) {
		for (unsigned kind = MARK_ABSENT_IN_CHILD; kind <= MARK_LOCKED; kind++) {
			bool is = marks_any(marks, kind, i * UNIT, (i + 1) * UNIT);

			if (is != ((model[i] >> kind & 1u) != 0))
				return false;
		}
	}
	return true;
}

static void model_move(unsigned char *model, unsigned from, unsigned from_len, unsigned to,
		       unsigned to_len)
{
	unsigned char piece[MODEL_UNITS];

	memcpy(piece, model + from, from_len);
	memset(model + from, 0, from_len);
	memset(model + to, piece[from_len - 1], to_len);
	memcpy(model + to, piece, from_len < to_len ? from_len : to_len);
}

/* Three places that never overlap, so that a move has somewhere to go. */
static void step(struct marks *marks, unsigned char *model)
{
	unsigned from = (unsigned)rand() % 16, len = (unsigned)rand() % 8 + 1;
	unsigned to = 32 + (unsigned)rand() % 16, to_len = (unsigned)rand() % 8 + 1;
	enum mark_kind kind = (enum mark_kind)(rand() % 3 + 1);

	switch (rand() % 5) {
	case 0:
	case 1:
		assert_int_equal(marks_set(marks, kind, from * UNIT, (from + len) * UNIT), 0);
		for (unsigned i = from; i < from + len; i++)
			model[i] |= (unsigned char)(1u << kind);
		break;
	case 2:
		assert_int_equal(marks_clear(marks, kind, from * UNIT, (from + len) * UNIT), 0);
		for (unsigned i = from; i < from + len; i++)
			model[i] &= (unsigned char)~(1u << kind);
		break;
	case 3:
		marks_forget(marks, to * UNIT, (to + len) * UNIT);
		memset(model + to, 0, len);
		break;
	default:
		/* The kernel moves onto free places only. */
		marks_forget(marks, to * UNIT, (to + to_len) * UNIT);
		memset(model + to, 0, to_len);
		marks_move(marks, from * UNIT, len * UNIT, to * UNIT, to_len * UNIT);
		model_move(model, from, len, to, to_len);
		break;
	}
}

static void random_steps_agree_with_a_model(void **state)
{
	const char *wanted = getenv("AFAR_SEED");
	unsigned seed = wanted ? (unsigned)strtoul(wanted, NULL, 0) : (unsigned)time(NULL);

	print_message("AFAR_SEED=%u\n", seed);
	srand(seed);
	for (unsigned run = 0; run < 200; run++) {
		unsigned char *model = calloc(MODEL_UNITS, 1);
		struct marks marks = {.count = 0};

		for (unsigned i = 0; i < 100; i++) {
			step(&marks, model);
			assert_true(model_is(model, &marks));
		}
		free(model);
	}
}

static void growing_and_shrinking_in_place_takes_the_end_along(void **state)
{
	struct marks marks = {.count = 0};

	marks_set(&marks, MARK_LOCKED, 0x12000, 0x14000);
	marks_move(&marks, 0x10000, 0x4000, 0x10000, 0x8000);
	assert_true(marks_any(&marks, MARK_LOCKED, 0x17000, 0x18000));
	assert_false(marks_any(&marks, MARK_LOCKED, 0x10000, 0x12000));
	marks_move(&marks, 0x10000, 0x8000, 0x10000, 0x3000);
	assert_true(marks_any(&marks, MARK_LOCKED, 0x12000, 0x13000));
	assert_false(marks_any(&marks, MARK_LOCKED, 0x13000, 0x20000));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_range_is_marked_and_cleared),
		cmocka_unit_test(ranges_that_touch_become_one),
		cmocka_unit_test(a_full_table_changes_nothing),
		cmocka_unit_test(random_steps_agree_with_a_model),
		cmocka_unit_test(growing_and_shrinking_in_place_takes_the_end_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
