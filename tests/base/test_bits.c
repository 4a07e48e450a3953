/*
 * test_bits.c: base.h, bits.h and list.h: the small things
 */
#include "base/base.h"
#include "base/bits.h"
#include "base/list.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void alignment_goes_to_the_nearest_multiple(void **state)
{
	assert_int_equal(align_down(4097, 4096), 4096);
	assert_int_equal(align_down(4096, 4096), 4096);
	assert_int_equal(align_up(4097, 4096), 8192);
	assert_int_equal(align_up(4096, 4096), 4096);
	assert_int_equal(align_up(0, 4096), 0);
	assert_int_equal(align_down(UINT64_MAX, 4096), UINT64_MAX - 4095);
	assert_true(is_aligned(8192, 4096));
	assert_false(is_aligned(8193, 4096));
}

static void an_array_has_a_count(void **state)
{
	static const char *const names[] = {"a", "b", "c"};

	assert_int_equal(ARRAY_COUNT(names), 3);
	assert_int_equal(ARRAY_COUNT("four"), 5);
}

static void powers_of_two_are_known(void **state)
{
	assert_false(is_power_of_two(0));
	assert_true(is_power_of_two(1));
	assert_false(is_power_of_two(6));
	assert_true(is_power_of_two(UINT64_C(1) << 63));
	assert_int_equal(log2_floor(1), 0);
	assert_int_equal(log2_floor(UINT64_MAX), 63);
	assert_int_equal(round_up_power_of_two(0), 1);
	assert_int_equal(round_up_power_of_two(1), 1);
	assert_int_equal(round_up_power_of_two(2), 2);
	assert_int_equal(round_up_power_of_two(3), 4);
	assert_int_equal(round_up_power_of_two((UINT64_C(1) << 62) + 1), UINT64_C(1) << 63);
	assert_int_equal(round_up_power_of_two(UINT64_C(1) << 63), UINT64_C(1) << 63);
}

static void words_of_the_wire_are_little_endian_at_any_address(void **state)
{
	unsigned char bytes[16] = {0};

	put_le16(bytes + 1, 0x0201);
	put_le32(bytes + 3, 0x06050403);
	put_le64(bytes + 7, UINT64_C(0x0e0d0c0b0a090807));
	for (unsigned i = 1; i < 15; i++)
		assert_int_equal(bytes[i], i);
	assert_int_equal(get_le16(bytes + 1), 0x0201);
	assert_int_equal(get_le32(bytes + 3), 0x06050403);
	assert_int_equal(get_le64(bytes + 7), UINT64_C(0x0e0d0c0b0a090807));
}

struct item {
	int number;
	struct list link;
};

static int number_of(struct list *link)
{
	return link ? container_of(link, struct item, link)->number : -1;
}

static void a_list_keeps_its_order(void **state)
{
	struct list list;
	struct item items[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};

	list_init(&list);
	assert_true(list_is_empty(&list));
	assert_null(list_pop_first(&list));
	list_push_last(&list, &items[1].link);
	list_push_last(&list, &items[2].link);
	list_push_last(&list, &items[3].link);
	list_push_first(&list, &items[0].link);
	list_remove(&items[2].link);
	assert_false(list_is_linked(&items[2].link));
	assert_true(list_is_linked(&items[3].link));
	list_remove(&items[2].link);
	assert_int_equal(number_of(list_pop_first(&list)), 0);
	assert_int_equal(number_of(list_pop_first(&list)), 1);
	assert_int_equal(number_of(list_pop_first(&list)), 3);
	assert_true(list_is_empty(&list));
}

static void a_visited_member_may_be_removed(void **state)
{
	struct list list;
	struct item items[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};
	int sum = 0;

	list_init(&list);
	for (unsigned i = 0; i < ARRAY_COUNT(items); i++)
		list_push_last(&list, &items[i].link);
	list_each(link, &list)
	{
		sum += number_of(link);
		if (number_of(link) % 2 == 1)
			list_remove(link);
	}
	assert_int_equal(sum, 6);
	assert_int_equal(number_of(list_pop_first(&list)), 0);
	assert_int_equal(number_of(list_pop_first(&list)), 2);
	assert_true(list_is_empty(&list));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(alignment_goes_to_the_nearest_multiple),
		cmocka_unit_test(an_array_has_a_count),
		cmocka_unit_test(powers_of_two_are_known),
		cmocka_unit_test(words_of_the_wire_are_little_endian_at_any_address),
		cmocka_unit_test(a_list_keeps_its_order),
		cmocka_unit_test(a_visited_member_may_be_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
