/*
 * test_page_hash.c: what the checksum of a page must notice, and that both codes agree
 */
#include "base/base.h"
#include "base/page_hash.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define WORDS (PAGE_HASH_BYTES / 8u)

static uint64_t seed;

static void fill(uint64_t *page, uint64_t *random)
{
	for (unsigned i = 0; i < WORDS; i++)
		page[i] = seed_next(random);
}

/* These values are stored beside pages: they may never change. */
static void the_value_is_the_same_in_every_version(void **state)
{
	static unsigned char page[PAGE_HASH_BYTES];

	assert_int_equal(page_hash(page, 0), 0x886d0591u);
	for (unsigned i = 0; i < PAGE_HASH_BYTES; i++)
		page[i] = (unsigned char)(i * 7 + i / 256);
	assert_int_equal(page_hash(page, 0), 0x63dc96a8u);
	assert_int_equal(page_hash(page, UINT64_C(0x0123456789abcdef)), 0xb4eb626fu);
}

static void every_code_gives_the_same_value(void **state)
{
	/* At an odd address, and so that one byte too far is a fault. */
	unsigned char *pages = mmap(NULL, 3 * (size_t)PAGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *last = pages + PAGE_BYTES;
	page_hash_fn *fastest = page_hash_choose();
	uint64_t random = seed;

	assert_ptr_not_equal(pages, MAP_FAILED);
	assert_int_equal(mprotect(pages + 2 * (size_t)PAGE_BYTES, PAGE_BYTES, PROT_NONE), 0);
	for (int i = 0; i < 2000; i++) {
		unsigned char *page = last - seed_below(&random, 64);
		uint64_t salt = seed_next(&random);

		for (int change = 0; change < 8; change++) {
			uint64_t word = seed_next(&random);

			memcpy(page + seed_below(&random, WORDS) * 8, &word, sizeof(word));
		}
		assert_int_equal(fastest(page, salt), page_hash(page, salt));
	}
	munmap(pages, 3 * (size_t)PAGE_BYTES);
}

static void check_every_flip(uint64_t *page, uint64_t salt)
{
	page_hash_fn *hash = page_hash_choose();
	uint32_t before = hash(page, salt);

	for (unsigned word = 0; word < WORDS; word++) {
		for (unsigned bit = 0; bit < 64; bit++) {
			page[word] ^= UINT64_C(1) << bit;
			assert_true(hash(page, salt) != before);
			page[word] ^= UINT64_C(1) << bit;
		}
	}
	assert_true(hash(page, salt) == before);
}

static void every_flipped_bit_is_noticed(void **state)
{
	static uint64_t page[WORDS];
	uint64_t random = seed;

	memset(page, 0, sizeof(page));
	check_every_flip(page, 0);
	memset(page, 0xff, sizeof(page));
	check_every_flip(page, 0);
	fill(page, &random);
	check_every_flip(page, seed_next(&random));
}

/*
 * The promise is about every change within a word; a missed one in so many other changes would
 * be a chance of one in some thousand million, so one in a run is allowed.
 */
static void swapped_words_are_noticed(void **state)
{
	static uint64_t page[WORDS];
	page_hash_fn *hash = page_hash_choose();
	uint64_t random = seed;
	uint32_t before;
	int missed = 0;

	fill(page, &random);
	before = hash(page, 1);
	for (unsigned first = 0; first < WORDS; first++) {
		for (unsigned second = first + 1; second < WORDS; second++) {
			uint64_t word = page[first];

			page[first] = page[second];
			page[second] = word;
			missed += hash(page, 1) == before;
			page[second] = page[first];
			page[first] = word;
		}
	}
	assert_true(missed <= 1);
}

/* Low-entropy words are where weak mixing shows. */
static void swapped_small_words_are_noticed(void **state)
{
	static uint64_t page[WORDS];
	page_hash_fn *hash = page_hash_choose();
	uint32_t before;
	int missed = 0;

	for (unsigned i = 0; i < WORDS; i++)
		page[i] = i;
	before = hash(page, 1);
	for (unsigned first = 0; first < WORDS; first++) {
		for (unsigned second = first + 1; second < WORDS; second++) {
			page[first] = second;
			page[second] = first;
			missed += hash(page, 1) == before;
			page[first] = first;
			page[second] = second;
		}
	}
	assert_true(missed <= 1);
}

/* Two bits in words of one lane must not undo each other, whatever the page holds. */
static void two_flips_below_each_other_are_noticed(void **state)
{
	static uint64_t page[WORDS];
	page_hash_fn *hash = page_hash_choose();
	uint64_t random = seed;
	int missed = 0;

	fill(page, &random);
	for (unsigned above = 0; above < 64; above++) {
		for (unsigned below = 0; below < 64; below++) {
			uint32_t before = hash(page, above);

			page[40] ^= UINT64_C(1) << above;
			page[40 + 32] ^= UINT64_C(1) << below;
			missed += hash(page, above) == before;
			page[40] ^= UINT64_C(1) << above;
			page[40 + 32] ^= UINT64_C(1) << below;
		}
	}
	assert_true(missed <= 1);
}

static void another_salt_is_another_hash(void **state)
{
	enum { SALTS = 2000 };
	static uint64_t page[WORDS];
	static uint32_t hashes[SALTS];
	page_hash_fn *hash = page_hash_choose();
	int equal = 0;

	memset(page, 0, sizeof(page));
	for (uint64_t i = 0; i < SALTS; i++) {
		/* Salts as callers make them: small numbers in the low or in the high half. */
		hashes[i] = hash(page, i % 2 == 0 ? i : i << 32);
		for (uint64_t j = 0; j < i; j++)
			equal += hashes[i] == hashes[j];
	}
	/* Of two million pairs one in 2000 runs has an equal one: deterministic here, and none. */
	assert_int_equal(equal, 0);
}

static void half_of_the_bits_change(void **state)
{
	static uint64_t page[WORDS];
	page_hash_fn *hash = page_hash_choose();
	uint64_t random = seed;
	uint64_t changed = 0;
	enum { TRIES = 20000 };

	fill(page, &random);
	for (int i = 0; i < TRIES; i++) {
		uint32_t before = hash(page, 9);

		page[seed_below(&random, WORDS)] ^= UINT64_C(1) << seed_below(&random, 64);
		changed += (uint64_t)__builtin_popcount(before ^ hash(page, 9));
	}
	/* 16 expected a flip; the mean of so many strays by 0.02. */
	assert_in_range(changed / TRIES, 15, 16);
}

static void a_page_of_zeroes_is_told_from_any_other(void **state)
{
	static unsigned char bytes[PAGE_HASH_BYTES + 2];
	unsigned char *page = bytes + 1;

	memset(bytes, 0, sizeof(bytes));
	bytes[0] = 1;
	bytes[PAGE_HASH_BYTES + 1] = 1;
	assert_true(page_is_zero(page));
	for (unsigned i = 0; i < PAGE_HASH_BYTES * 8; i++) {
		page[i / 8] = (unsigned char)(1u << i % 8);
		assert_false(page_is_zero(page));
		page[i / 8] = 0;
	}
	assert_true(page_is_zero(page));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_value_is_the_same_in_every_version),
		cmocka_unit_test(every_code_gives_the_same_value),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(swapped_words_are_noticed),
		cmocka_unit_test(swapped_small_words_are_noticed),
		cmocka_unit_test(two_flips_below_each_other_are_noticed),
		cmocka_unit_test(another_salt_is_another_hash),
		cmocka_unit_test(half_of_the_bits_change),
		cmocka_unit_test(a_page_of_zeroes_is_told_from_any_other),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
