/*
 * histogram.h: how values are spread, to one part in 32
 *
 *   Buckets are exact up to 63; above, each power of two is cut into 32 equal ones:
 *
 *       value        0..63   64..127   128..255   …   2^k..2^(k+1)-1
 *       bucket width     1         2          4   …          2^(k-5)
 *
 *   so a reported percentile is never below the true one and at most 1/32 above it. Any 64-bit
 *   value has its bucket; there is nothing to configure, and two histograms can always be added.
 *   Latencies are recorded in nanoseconds.
 *
 *   One thread records; any thread may read meanwhile, and sees each bucket as of some moment
 *   (the words are relaxed atomics, written by plain moves).
 */
#ifndef AFAR_BASE_HISTOGRAM_H
#define AFAR_BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 1920u

/* 15 KiB. Zeroed memory is an empty histogram. */
struct histogram {
	_Atomic uint64_t sum;
	_Atomic uint64_t max;
	_Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_clear(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t value);

/* Adds what `from` holds to `into`. */
void histogram_merge(struct histogram *into, const struct histogram *from);

uint64_t histogram_count(const struct histogram *histogram);
uint64_t histogram_max(const struct histogram *histogram);
uint64_t histogram_sum(const struct histogram *histogram);

/* 0 if nothing was recorded. */
uint64_t histogram_mean(const struct histogram *histogram);

/*
 * The least value that `percent` of the values do not exceed (0 < percent <= 100), rounded up
 * within its bucket, never above the maximum. 0 if nothing was recorded.
 */
uint64_t histogram_percentile(const struct histogram *histogram, double percent);

/* How many recorded values are below `bound`, a power of two, exactly. */
uint64_t histogram_count_below(const struct histogram *histogram, uint64_t bound);

#endif
