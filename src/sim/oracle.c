/*
 * oracle.c: versions of pages, and their bytes
 */
#include "sim/oracle.h"

#include "base/base.h"
#include "base/bits.h"

#include <string.h>

#define LINE_BYTES 64u
#define LINE_WORDS (LINE_BYTES / sizeof(uint64_t))
#define LINES      (PAGE_BYTES / LINE_BYTES)

bool oracle_has_room(const struct oracle_page *page)
{
	return page->next - page->floor < ORACLE_OPEN_MAX;
}

static uint32_t next_version(struct oracle_page *page, bool zero)
{
	uint64_t bit = UINT64_C(1) << (++page->next % 64);

	page->zeros = zero ? page->zeros | bit : page->zeros & ~bit;
	return page->next;
}

uint32_t oracle_write(struct oracle_page *page)
{
	return next_version(page, false);
}

uint32_t oracle_discard(struct oracle_page *page, uint32_t incarnation)
{
	page->discard = next_version(page, true);
	page->discard_by = incarnation;
	return page->discard;
}

void oracle_acknowledge(struct oracle_page *page, uint32_t version)
{
	if (version > page->floor)
		page->floor = version;
	if (page->shaky && version > page->shaky_below)
		page->shaky = false;
}

void oracle_take_over(struct oracle_page *page)
{
	if (page->next > page->floor) {
		page->shaky = true;
		page->shaky_below = page->next;
	}
}

uint32_t oracle_low(const struct oracle_page *page, uint32_t incarnation)
{
	if (page->discard_by == incarnation && page->discard > page->floor)
		return page->discard;
	return page->floor;
}

/* A line's first word; the others follow from it, so that one comparison tells most lines apart. */
static uint64_t line_seed(uint32_t volume, uint64_t page, uint32_t version, uint32_t line)
{
	return mix_u64(mix_u64((uint64_t)volume << 32 | version) + page * LINES + line) | 1;
}

static void fill_line(uint64_t seed, uint64_t words[LINE_WORDS])
{
	for (unsigned i = 0; i < LINE_WORDS; i++)
		words[i] = seed * (2 * i + 1);
}

void oracle_fill(uint32_t volume, uint64_t page, uint32_t version, unsigned char *bytes)
{
	uint64_t words[LINE_WORDS];

	for (uint32_t line = 0; line < LINES; line++) {
		fill_line(line_seed(volume, page, version, line), words);
		memcpy(bytes + (size_t)line * LINE_BYTES, words, LINE_BYTES);
	}
}

static bool is_zero(const unsigned char *bytes, size_t len_bytes)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len_bytes - 1) == 0;
}

static bool is_zero_version(const struct oracle_page *state, uint32_t version)
{
	return version == 0 || (state->zeros >> version % 64 & 1);
}

static bool line_is(const unsigned char *bytes, uint64_t seed)
{
	uint64_t words[LINE_WORDS];

	fill_line(seed, words);
	return memcmp(bytes, words, LINE_BYTES) == 0;
}

/* The page that is being judged. */
struct judged {
	const struct oracle_page *state;
	uint32_t volume;
	uint64_t page;
	const unsigned char *bytes;
};

static bool line_has_version(const struct judged *judged, uint32_t line, uint32_t version)
{
	const unsigned char *bytes = judged->bytes + (size_t)line * LINE_BYTES;

	if (is_zero_version(judged->state, version))
		return is_zero(bytes, LINE_BYTES);
	return line_is(bytes, line_seed(judged->volume, judged->page, version, line));
}

static bool is_version(const struct judged *judged, uint32_t version)
{
	for (uint32_t line = 0; line < LINES; line++)
		if (!line_has_version(judged, line, version))
			return false;
	return true;
}

static bool is_mixture(const struct judged *judged, uint32_t low, uint32_t high)
{
	for (uint32_t line = 0; line < LINES; line++) {
		uint32_t version = low;

		while (version <= high && !line_has_version(judged, line, version))
			version++;
		if (version > high)
			return false;
	}
	return true;
}

static bool is_older(const struct judged *judged, uint32_t low)
{
	for (uint32_t version = low; version-- > 0;)
		if (line_is(judged->bytes, line_seed(judged->volume, judged->page, version, 0)))
			return true;
	return false;
}

enum oracle_verdict oracle_judge(struct oracle_page *state, uint32_t volume, uint64_t page,
				 const uint32_t bounds[2], const unsigned char *bytes)
{
	const struct judged judged = {state, volume, page, bytes};

	if (state->next - bounds[0] >= 64)
		return ORACLE_GOOD;
	/* From above: of several discards the last one is the likely one, and errs on no side. */
	for (uint32_t version = bounds[1] + 1; version-- > bounds[0];) {
		if (!is_version(&judged, version))
			continue;
		/* Zeros do not say which discard they came from, nor whether it lasts. */
		if (!is_zero_version(state, version) && version > state->floor)
			state->floor = version;
		return ORACLE_GOOD;
	}
	if (is_mixture(&judged, bounds[0], bounds[1]))
		return ORACLE_TORN;
	if (is_zero(bytes, PAGE_BYTES))
		return ORACLE_ZERO;
	return is_older(&judged, bounds[0]) ? ORACLE_OLD : ORACLE_FOREIGN;
}
