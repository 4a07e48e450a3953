/*
 * activity.h: how busy a slab is, smoothed as in Infiniswap (section 4.2)
 *
 *   A(now) = α · pages a second since the last look + (1 − α) · A(before), with α = 1/5. Owners
 *   keep one such number a slab and tell it when they are asked; nodes smooth what memory the
 *   machine has left by the same rule. The published code left out the division, so its sum
 *   overflowed within seconds and idle slabs looked busier than busy ones.
 */
#ifndef AFAR_NODE_ACTIVITY_H
#define AFAR_NODE_ACTIVITY_H

#include <stdint.h>

#define ACTIVITY_ALPHA_DIVISOR 5u

/*
 * Smoothing without overflow for any two numbers: the divisions come first. Rounding loses less
 * than 2 and is never negative; a number that stays the same is reached and kept.
 */
static inline uint64_t activity_smooth(uint64_t before, uint64_t now)
{
	uint64_t apart = now >= before ? now - before : before - now;
	uint64_t step = apart / ACTIVITY_ALPHA_DIVISOR + (apart % ACTIVITY_ALPHA_DIVISOR != 0);

	return now >= before ? before + step : before - step;
}

/*
 * The activity after an interval in which `pages` were read or written; interval_ns is above 0.
 * Saturates at what the protocol's 32 bits hold.
 */
static inline uint32_t activity_update(uint32_t before, uint64_t pages, int64_t interval_ns)
{
	/* 2^32 pages in an interval are beyond any machine: saturate before the product. */
	uint64_t bounded = pages < UINT32_MAX ? pages : UINT32_MAX;
	uint64_t now = bounded * UINT64_C(1000000000) / (uint64_t)interval_ns;

	if (now > UINT32_MAX)
		now = UINT32_MAX;
	return (uint32_t)activity_smooth(before, now);
}

#endif
