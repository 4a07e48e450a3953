/*
 * slots.c: the table of far slots; slots.h tells its story
 *
 *   Two orders matter between processes, and both are total (sequentially consistent):
 *
 *     claim:    taken++ of the piece, load state      withhold: store state, load taken
 *               not open: give back                             not 0: open again, -EBUSY
 *
 *   One of the two stores comes first, and the other side's load sees it: a piece is never both
 *   withheld and claimed from (S3).
 *
 *     drop:     refs 1 -> 0, then clear the bit       claim: set the bit, then refs = 1
 *
 *   The bit is the right to touch refs from 0, so claims of one slot exclude each other (S2).
 */
#include "pager/slots.h"

#include <errno.h>

#define WORD_BITS 64u

/* Where the parts of the table lie; all multiples of 64 bytes. */
struct layout {
	size_t pieces, bitmap, entries, bytes;
};

static size_t round_up_line(size_t bytes)
{
	return (bytes + 63) & ~(size_t)63;
}

/* False if there can be no such table. */
static bool layout_of(uint32_t pieces, uint32_t piece_slots, struct layout *layout)
{
	uint64_t slots = (uint64_t)pieces * piece_slots;

	if (slots == 0 || slots > SLOT_PAGES_MAX || piece_slots % WORD_BITS != 0)
		return false;
	layout->pieces = round_up_line(sizeof(struct slots_header));
	layout->bitmap = layout->pieces + round_up_line(pieces * sizeof(struct slot_piece));
	layout->entries = layout->bitmap + round_up_line((size_t)slots / 8);
	layout->bytes = layout->entries + (size_t)slots * sizeof(struct slot_entry);
	return true;
}

size_t slots_bytes(uint32_t pieces, uint32_t piece_slots)
{
	struct layout layout;

	return layout_of(pieces, piece_slots, &layout) ? layout.bytes : 0;
}

static void point_into(struct slots *slots, unsigned char *memory, const struct layout *layout,
		       uint32_t pieces, uint32_t piece_slots)
{
	*slots = (struct slots){
		.header = (struct slots_header *)(void *)memory,
		.pieces = (struct slot_piece *)(void *)(memory + layout->pieces),
		.bitmap = (_Atomic uint64_t *)(void *)(memory + layout->bitmap),
		.entries = (struct slot_entry *)(void *)(memory + layout->entries),
		.slots_count = pieces * piece_slots,
		.piece_slots = piece_slots,
		.pieces_count = pieces,
	};
}

int slots_format(struct slots *slots, void *memory, size_t size_bytes, uint32_t pieces,
		 uint32_t piece_slots, uint64_t volume_salt)
{
	struct layout layout;

	if (!layout_of(pieces, piece_slots, &layout) || size_bytes < layout.bytes)
		return -EINVAL;
	point_into(slots, memory, &layout, pieces, piece_slots);
	slots->header->version = SLOTS_VERSION;
	slots->header->slots = pieces * piece_slots;
	slots->header->pieces = pieces;
	slots->header->piece_slots = piece_slots;
	slots->header->volume_salt = volume_salt;
	slots->header->magic = SLOTS_MAGIC;
	return 0;
}

int slots_attach(struct slots *slots, void *memory, size_t size_bytes)
{
	const struct slots_header *header = memory;
	struct layout layout;

	if (size_bytes < sizeof(*header) || header->magic != SLOTS_MAGIC ||
	    header->version != SLOTS_VERSION)
		return -EPROTO;

	uint32_t pieces = header->pieces;
	uint32_t piece_slots = header->piece_slots;

	if (!layout_of(pieces, piece_slots, &layout) || size_bytes < layout.bytes)
		return -EPROTO;
	point_into(slots, memory, &layout, pieces, piece_slots);
	return 0;
}

/* The lowest n bits set of `bits`, or all if there are fewer. */
static uint64_t lowest_bits(uint64_t bits, unsigned n)
{
	uint64_t kept = 0;

	for (; bits && n > 0; n--) {
		kept |= bits & (~bits + 1);
		bits &= bits - 1;
	}
	return kept;
}

/* Claims up to n slots of one word of the bitmap. */
static unsigned claim_word(struct slots *slots, uint32_t word, uint32_t *slot, unsigned n)
{
	struct slot_piece *piece = &slots->pieces[word * WORD_BITS / slots->piece_slots];
	uint64_t wanted = lowest_bits(~atomic_load(&slots->bitmap[word]), n);
	uint64_t got = wanted ? wanted & ~atomic_fetch_or(&slots->bitmap[word], wanted) : 0;
	unsigned count = (unsigned)__builtin_popcountll(got);

	if (count == 0)
		return 0;
	atomic_fetch_add(&piece->taken, count);
	if (atomic_load(&piece->state) != PIECE_OPEN) {
		atomic_fetch_and(&slots->bitmap[word], ~got);
		atomic_fetch_sub(&piece->taken, count);
		return 0;
	}
	atomic_fetch_add_explicit(&slots->header->taken, count, memory_order_relaxed);
	for (unsigned i = 0; i < count; i++, got &= got - 1) {
		slot[i] = word * WORD_BITS + (uint32_t)__builtin_ctzll(got);
		atomic_store_explicit(&slots->entries[slot[i]].refs, 1, memory_order_relaxed);
	}
	return count;
}

unsigned slots_claim(struct slots *slots, uint32_t *slot, unsigned n)
{
	uint32_t words = slots->slots_count / WORD_BITS;
	uint32_t piece_words = slots->piece_slots / WORD_BITS;
	uint32_t word = slots->cursor < words ? slots->cursor : 0;
	unsigned claimed = 0;

	for (uint32_t seen = 0; seen < words && claimed < n;) {
		const struct slot_piece *piece = &slots->pieces[word / piece_words];
		uint32_t step = piece_words - word % piece_words;

		/* A piece without a free slot is stepped over whole. */
		if (atomic_load(&piece->state) == PIECE_OPEN &&
		    atomic_load_explicit(&piece->taken, memory_order_relaxed) <
			    slots->piece_slots) {
			claimed += claim_word(slots, word, slot + claimed, n - claimed);
			step = 1;
		}
		if (claimed == n)
			break; /* the word may have more */
		seen += step;
		word = word + step < words ? word + step : 0;
	}
	slots->cursor = word;
	return claimed;
}

void slots_seal(struct slots *slots, uint32_t slot, uint32_t hash)
{
	atomic_store_explicit(&slots->entries[slot].hash, hash, memory_order_release);
}

uint32_t slots_hash(const struct slots *slots, uint32_t slot)
{
	return atomic_load_explicit(&slots->entries[slot].hash, memory_order_acquire);
}

uint32_t slots_refs(const struct slots *slots, uint32_t slot)
{
	return atomic_load(&slots->entries[slot].refs);
}

void slots_share(struct slots *slots, uint32_t slot)
{
	/* Who shares holds a reference already: nothing is ordered by this one. */
	atomic_fetch_add_explicit(&slots->entries[slot].refs, 1, memory_order_relaxed);
}

bool slots_drop(struct slots *slots, uint32_t slot)
{
	uint32_t word = slot / WORD_BITS;
	/* Release: our reads of the slot are over. Acquire: so are those of all other holders. */
	uint32_t refs =
		atomic_fetch_sub_explicit(&slots->entries[slot].refs, 1, memory_order_acq_rel);

	if (refs != 1)
		return false;
	atomic_fetch_and(&slots->bitmap[word], ~(UINT64_C(1) << slot % WORD_BITS));
	atomic_fetch_sub_explicit(&slots->header->taken, 1, memory_order_relaxed);
	/* Last: a piece whose count is 0 has no bit set and nobody who will clear one. */
	atomic_fetch_sub(&slots->pieces[slot / slots->piece_slots].taken, 1);
	return true;
}

static bool counts_as_open(uint32_t state)
{
	return state == PIECE_OPEN || state == PIECE_WITHHELD;
}

void slots_piece_open(struct slots *slots, uint32_t piece, uint32_t piece_epoch)
{
	atomic_store(&slots->pieces[piece].piece_epoch, piece_epoch);
	slots_piece_set(slots, piece, PIECE_OPEN);
}

int slots_piece_withhold(struct slots *slots, uint32_t piece)
{
	atomic_store(&slots->pieces[piece].state, PIECE_WITHHELD);
	if (atomic_load(&slots->pieces[piece].taken) == 0)
		return 0;
	atomic_store(&slots->pieces[piece].state, PIECE_OPEN);
	return -EBUSY;
}

void slots_piece_set(struct slots *slots, uint32_t piece, enum piece_state state)
{
	uint32_t before = atomic_exchange(&slots->pieces[piece].state, state);

	if (counts_as_open(state) && !counts_as_open(before))
		atomic_fetch_add(&slots->header->open, slots->piece_slots);
	if (!counts_as_open(state) && counts_as_open(before))
		atomic_fetch_sub(&slots->header->open, slots->piece_slots);
}
