/*
 * bits.h: powers of two, words of the wire, and mixing
 *
 *   Wire and disk are little-endian. The readers and writers below take any alignment, so a
 *   decoder needs no casts; checking that the bytes are there is the decoder's work.
 */
#ifndef AFAR_BASE_BITS_H
#define AFAR_BASE_BITS_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire's order is the machine's");

static inline bool is_power_of_two(uint64_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

/* The position of the highest bit set; value is not 0. */
static inline unsigned log2_floor(uint64_t value)
{
	return 63u - (unsigned)__builtin_clzll(value);
}

/* The least power of two not below value, which is 1 to 2^63. */
static inline uint64_t round_up_power_of_two(uint64_t value)
{
	return value <= 1 ? 1 : UINT64_C(2) << log2_floor(value - 1);
}

/* Spreads every bit of the input over the whole output; one to one (splitmix64's last step). */
static inline uint64_t mix_u64(uint64_t value)
{
	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
	return value ^ value >> 31;
}

static inline uint16_t get_le16(const void *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static inline uint32_t get_le32(const void *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static inline uint64_t get_le64(const void *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static inline void put_le16(void *bytes, uint16_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

static inline void put_le32(void *bytes, uint32_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

static inline void put_le64(void *bytes, uint64_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

#endif
