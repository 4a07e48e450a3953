#include "base/size.h"

#include "base/base.h"
#include "base/env.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define FRACTION_DIGITS_MAX 18u /* 10^18 is below 2^64 */

/* More than any product of two 64-bit numbers. */
__extension__ typedef unsigned __int128 wide;

struct unit {
	const char *name;
	uint64_t times;
};

/* whole + fraction / 10^digits, and the text that follows */
struct number {
	uint64_t whole;
	uint64_t fraction;
	uint64_t fraction_of; /* 10^digits; 1 without a fraction */
	const char *rest;
};

static int refuse(const char **reason, const char *text, int err)
{
	if (reason)
		*reason = text;
	return err;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int parse_number(const char *text, struct number *number, const char **reason)
{
	unsigned digits = 0;

	*number = (struct number){.fraction_of = 1};
	if (!is_digit(*text))
		return refuse(reason, "it must begin with a digit", -EINVAL);
	for (; is_digit(*text); text++) {
		if (__builtin_mul_overflow(number->whole, UINT64_C(10), &number->whole) ||
		    __builtin_add_overflow(number->whole, (uint64_t)(*text - '0'), &number->whole))
			return refuse(reason, "too large", -ERANGE);
	}
	if (*text == '.') {
		for (text++; is_digit(*text); text++) {
			if (++digits > FRACTION_DIGITS_MAX)
				return refuse(reason, "too many digits after the point", -EINVAL);
			number->fraction = number->fraction * 10 + (uint64_t)(*text - '0');
			number->fraction_of *= 10;
		}
		if (digits == 0)
			return refuse(reason, "no digit follows the point", -EINVAL);
	}
	number->rest = text;
	return 0;
}

/* number * times, cut down to a whole number not above `most`. */
static int scale(const struct number *number, uint64_t times, uint64_t most, uint64_t *value,
		 const char **reason)
{
	wide product =
		(wide)number->whole * times + (wide)number->fraction * times / number->fraction_of;

	if (times == 1 && number->fraction_of > 1)
		return refuse(reason, "a fraction of the smallest unit", -EINVAL);
	if (product > most)
		return refuse(reason, "too large", -ERANGE);
	*value = (uint64_t)product;
	return 0;
}

static const struct unit *find_unit(const struct unit *units, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++) {
		if (strcasecmp(units[i].name, name) == 0)
			return &units[i];
	}
	return NULL;
}

int size_parse(const char *text, uint64_t *bytes, const char **reason)
{
	static const struct unit units[] = {
		{"", 1},           {"B", 1},           {"K", KIB},
		{"KB", KIB},       {"KiB", KIB},       {"M", MIB},
		{"MB", MIB},       {"MiB", MIB},       {"G", GIB},
		{"GB", GIB},       {"GiB", GIB},       {"T", TIB},
		{"TB", TIB},       {"TiB", TIB},       {"P", TIB * KIB},
		{"PB", TIB * KIB}, {"PiB", TIB * KIB}, {"E", TIB * MIB},
		{"EB", TIB * MIB}, {"EiB", TIB * MIB},
	};
	const struct unit *unit;
	struct number number;
	int err = parse_number(text, &number, reason);

	if (err)
		return err;
	unit = find_unit(units, ARRAY_COUNT(units), number.rest);
	if (!unit)
		return refuse(reason, "unknown unit: K, M, G, T, P or E is known", -EINVAL);
	return scale(&number, unit->times, UINT64_MAX, bytes, reason);
}

int duration_parse(const char *text, int64_t *ns, const char **reason)
{
	static const struct unit units[] = {
		{"ns", 1},
		{"us", (uint64_t)NS_PER_US},
		{"ms", (uint64_t)NS_PER_MS},
		{"s", (uint64_t)NS_PER_S},
		{"m", (uint64_t)NS_PER_S * 60},
		{"h", (uint64_t)NS_PER_S * 3600},
	};
	const struct unit *unit;
	struct number number;
	uint64_t value;
	int err = parse_number(text, &number, reason);

	if (err)
		return err;
	unit = find_unit(units, ARRAY_COUNT(units), number.rest);
	if (!unit)
		return refuse(reason, "it needs a unit: ns, us, ms, s, m or h", -EINVAL);
	err = scale(&number, unit->times, INT64_MAX, &value, reason);
	if (err == 0)
		*ns = (int64_t)value;
	return err;
}

/* The value in the largest unit that it reaches: exact if it divides, else three digits. */
static void print_in(char buf[SIZE_TEXT_BYTES], const struct unit *units, size_t count,
		     uint64_t value)
{
	const struct unit *unit = units;
	double scaled;

	for (size_t i = 1; i < count && value >= units[i].times; i++)
		unit = &units[i];
	if (value % unit->times == 0) {
		(void)snprintf(buf, SIZE_TEXT_BYTES, "%" PRIu64 "%s", value / unit->times,
			       unit->name);
		return;
	}
	scaled = (double)value / (double)unit->times;
	/* From four digits on, %g would choose an exponent. */
	(void)snprintf(buf, SIZE_TEXT_BYTES, scaled >= 999.5 ? "%.0f%s" : "%.3g%s", scaled,
		       unit->name);
}

char *size_print(char buf[SIZE_TEXT_BYTES], uint64_t bytes)
{
	static const struct unit units[] = {
		{"", 1},    {"K", KIB},       {"M", MIB},       {"G", GIB},
		{"T", TIB}, {"P", TIB * KIB}, {"E", TIB * MIB},
	};

	print_in(buf, units, ARRAY_COUNT(units), bytes);
	return buf;
}

char *duration_print(char buf[SIZE_TEXT_BYTES], int64_t ns)
{
	static const struct unit units[] = {
		{"ns", 1},
		{"us", (uint64_t)NS_PER_US},
		{"ms", (uint64_t)NS_PER_MS},
		{"s", (uint64_t)NS_PER_S},
	};
	char digits[SIZE_TEXT_BYTES - 1];

	/* Negated as unsigned: the least int64_t has no positive twin. */
	print_in(buf, units, ARRAY_COUNT(units), ns < 0 ? -(uint64_t)ns : (uint64_t)ns);
	if (ns < 0) {
		(void)snprintf(digits, sizeof(digits), "%.*s", (int)sizeof(digits) - 1, buf);
		(void)snprintf(buf, SIZE_TEXT_BYTES, "-%s", digits);
	}
	return buf;
}
