#include "base/histogram.h"

#include "base/base.h"
#include "base/bits.h"

#define EXACT_BITS    6u /* values below 64 have buckets of their own */
#define BUCKETS_SPLIT (1u << (EXACT_BITS - 1))

static_assert(HISTOGRAM_BUCKETS == (64 - EXACT_BITS) * BUCKETS_SPLIT + 2 * BUCKETS_SPLIT,
	      "the largest value has the last bucket");

/* How many low bits of the value its bucket forgets. */
static unsigned forgotten_bits(uint64_t value)
{
	return value < 1u << EXACT_BITS ? 0 : log2_floor(value) + 1 - EXACT_BITS;
}

static uint32_t bucket_of(uint64_t value)
{
	unsigned bits = forgotten_bits(value);

	/* What remains of the value is 0..63, or 32..63 where bits are forgotten: no bucket twice.
	 */
	return bits * BUCKETS_SPLIT + (uint32_t)(value >> bits);
}

/* The largest value of a bucket. */
static uint64_t bucket_last(uint32_t bucket)
{
	unsigned bits = bucket < 1u << EXACT_BITS ? 0 : bucket / BUCKETS_SPLIT - 1;
	uint64_t first = (uint64_t)(bucket - bits * BUCKETS_SPLIT) << bits;

	return first + ((UINT64_C(1) << bits) - 1);
}

static uint64_t read_word(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed);
}

static void write_word(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_relaxed);
}

static void add_to_word(_Atomic uint64_t *word, uint64_t amount)
{
	write_word(word, read_word(word) + amount);
}

void histogram_clear(struct histogram *histogram)
{
	write_word(&histogram->sum, 0);
	write_word(&histogram->max, 0);
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		write_word(&histogram->buckets[i], 0);
}

void histogram_record(struct histogram *histogram, uint64_t value)
{
	add_to_word(&histogram->buckets[bucket_of(value)], 1);
	add_to_word(&histogram->sum, value);
	if (value > read_word(&histogram->max))
		write_word(&histogram->max, value);
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	add_to_word(&into->sum, read_word(&from->sum));
	write_word(&into->max, max_u64(read_word(&into->max), read_word(&from->max)));
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		add_to_word(&into->buckets[i], read_word(&from->buckets[i]));
}

uint64_t histogram_count(const struct histogram *histogram)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		count += read_word(&histogram->buckets[i]);
	return count;
}

uint64_t histogram_max(const struct histogram *histogram)
{
	return read_word(&histogram->max);
}

uint64_t histogram_sum(const struct histogram *histogram)
{
	return read_word(&histogram->sum);
}

uint64_t histogram_mean(const struct histogram *histogram)
{
	uint64_t count = histogram_count(histogram);

	return count ? read_word(&histogram->sum) / count : 0;
}

uint64_t histogram_percentile(const struct histogram *histogram, double percent)
{
	uint64_t count = histogram_count(histogram);
	double exact_rank = (double)count * percent / 100;
	uint64_t rank = (uint64_t)exact_rank;
	uint64_t seen = 0;

	assert(percent > 0 && percent <= 100);
	if (count == 0)
		return 0;
	if ((double)rank < exact_rank)
		rank++;
	rank = max_u64(1, min_u64(rank, count));
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += read_word(&histogram->buckets[i]);
		if (seen >= rank)
			return min_u64(bucket_last(i), read_word(&histogram->max));
	}
	return read_word(&histogram->max);
}

uint64_t histogram_count_below(const struct histogram *histogram, uint64_t bound)
{
	uint64_t count = 0;

	assert(is_power_of_two(bound));
	for (uint32_t i = 0; i < bucket_of(bound); i++)
		count += read_word(&histogram->buckets[i]);
	return count;
}
