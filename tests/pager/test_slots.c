/*
 * test_slots.c: the table of far slots
 */
#include "pager/slots.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PIECES      4u
#define PIECE_SLOTS 128u

static void *table_of(struct slots *slots, uint32_t pieces, uint32_t piece_slots)
{
	size_t bytes = slots_bytes(pieces, piece_slots);
	void *memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

	assert_non_null(memory);
	memset(memory, 0, bytes);
	assert_int_equal(slots_format(slots, memory, bytes, pieces, piece_slots, 7), 0);
	return memory;
}

static void sizes_that_cannot_be_are_refused(void **state)
{
	struct slots slots;
	unsigned char memory[64] = {0};

	assert_int_equal(slots_bytes(0, 64), 0);
	assert_int_equal(slots_bytes(1, 0), 0);
	assert_int_equal(slots_bytes(1, 65), 0);
	assert_int_equal(slots_bytes(1u << 20, 1u << 20), 0);
	assert_true(slots_bytes(1, 64) > 0);
	assert_int_equal(slots_format(&slots, memory, sizeof(memory), 4, 64, 0), -EINVAL);
}

static void a_table_is_attached_only_if_it_is_one(void **state)
{
	struct slots slots;
	struct slots other;
	size_t bytes = slots_bytes(PIECES, PIECE_SLOTS);
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);

	assert_int_equal(slots_attach(&other, memory, bytes), 0);
	assert_int_equal(other.slots_count, PIECES * PIECE_SLOTS);
	assert_int_equal(slots_attach(&other, memory, bytes - 1), -EPROTO);
	assert_int_equal(slots_attach(&other, memory, 8), -EPROTO);
	slots.header->pieces = 1u << 31;
	assert_int_equal(slots_attach(&other, memory, bytes), -EPROTO);
	slots.header->pieces = PIECES;
	slots.header->piece_slots = 63;
	assert_int_equal(slots_attach(&other, memory, bytes), -EPROTO);
	slots.header->piece_slots = PIECE_SLOTS;
	slots.header->version++;
	assert_int_equal(slots_attach(&other, memory, bytes), -EPROTO);
	free(memory);
}

static void slots_come_only_from_open_pieces(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);
	uint32_t slot[PIECES * PIECE_SLOTS];

	assert_int_equal(slots_claim(&slots, slot, 8), 0);
	slots_piece_open(&slots, 2, 5);
	assert_int_equal(slots.header->open, PIECE_SLOTS);
	assert_int_equal(slots_claim(&slots, slot, 200), PIECE_SLOTS);
	for (unsigned i = 0; i < PIECE_SLOTS; i++) {
		assert_int_equal(slot[i], 2 * PIECE_SLOTS + i);
		assert_int_equal(slots_refs(&slots, slot[i]), 1);
	}
	assert_int_equal(slots_claim(&slots, slot, 1), 0);
	assert_int_equal(slots.header->taken, PIECE_SLOTS);
	free(memory);
}

static void claims_run_on_and_come_back_to_what_was_dropped(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);
	uint32_t slot[PIECE_SLOTS];

	slots_piece_open(&slots, 0, 1);
	assert_int_equal(slots_claim(&slots, slot, 3), 3);
	assert_int_equal(slot[2], 2);
	assert_int_equal(slots_claim(&slots, slot, 100), 100);
	assert_int_equal(slot[0], 3);
	assert_int_equal(slot[99], 102);
	assert_true(slots_drop(&slots, 1));
	assert_int_equal(slots_claim(&slots, slot, 100), 26);
	assert_int_equal(slot[25], 1);
	free(memory);
}

static void a_slot_is_free_when_its_last_holder_drops_it(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);
	uint32_t slot;

	slots_piece_open(&slots, 0, 1);
	assert_int_equal(slots_claim(&slots, &slot, 1), 1);
	slots_seal(&slots, slot, 0xabcd);
	slots_share(&slots, slot);
	assert_int_equal(slots_refs(&slots, slot), 2);
	assert_false(slots_drop(&slots, slot));
	assert_int_equal(slots_hash(&slots, slot), 0xabcd);
	assert_int_equal(slots.header->taken, 1);
	assert_true(slots_drop(&slots, slot));
	assert_int_equal(slots.header->taken, 0);
	assert_int_equal(slots.pieces[0].taken, 0);
	free(memory);
}

static void a_piece_with_slots_taken_is_not_withheld(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);
	uint32_t slot;

	slots_piece_open(&slots, 1, 1);
	assert_int_equal(slots_claim(&slots, &slot, 1), 1);
	assert_int_equal(slots_piece_withhold(&slots, 1), -EBUSY);
	assert_int_equal(slots.pieces[1].state, PIECE_OPEN);
	slots_drop(&slots, slot);
	assert_int_equal(slots_piece_withhold(&slots, 1), 0);
	assert_int_equal(slots_claim(&slots, &slot, 1), 0);
	slots_piece_set(&slots, 1, PIECE_CLOSED);
	assert_int_equal(slots.header->open, 0);
	free(memory);
}

static void the_salt_tells_slots_and_epochs_apart(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);

	assert_int_not_equal(slots_salt(&slots, 1, 1), slots_salt(&slots, 2, 1));
	assert_int_not_equal(slots_salt(&slots, 1, 1), slots_salt(&slots, 1, 2));
	free(memory);
}

struct claimer {
	struct slots slots;
	uint32_t *owner; /* of each slot; 0: nobody */
	uint32_t id;
	unsigned rounds;
};

static void *claim_and_drop(void *context)
{
	struct claimer *claimer = context;
	uint32_t slot[16];

	for (unsigned round = 0; round < claimer->rounds; round++) {
		unsigned n = slots_claim(&claimer->slots, slot, 1 + round % 16);

		for (unsigned i = 0; i < n; i++) {
			uint32_t nobody = 0;

			if (!__atomic_compare_exchange_n(&claimer->owner[slot[i]], &nobody,
							 claimer->id, false, __ATOMIC_SEQ_CST,
							 __ATOMIC_SEQ_CST))
				abort();
		}
		for (unsigned i = 0; i < n; i++) {
			__atomic_store_n(&claimer->owner[slot[i]], 0, __ATOMIC_SEQ_CST);
			slots_drop(&claimer->slots, slot[i]);
		}
	}
	return NULL;
}

static void no_slot_is_claimed_by_two(void **state)
{
	struct slots slots;
	void *memory = table_of(&slots, PIECES, PIECE_SLOTS);
	uint32_t owner[PIECES * PIECE_SLOTS] = {0};
	struct claimer claimer[3];
	pthread_t thread[3];
	unsigned withheld = 0;

	slots_piece_open(&slots, 0, 1);
	for (uint32_t i = 0; i < 3; i++) {
		claimer[i] = (struct claimer){slots, owner, i + 1, 3000};
		assert_int_equal(pthread_create(&thread[i], NULL, claim_and_drop, &claimer[i]), 0);
	}
	/* A piece that comes and goes beside them: nobody is left holding part of it. */
	for (unsigned i = 0; i < 300; i++) {
		if (slots_piece_withhold(&slots, 0) == 0) {
			withheld++;
			slots_piece_set(&slots, 0, PIECE_OPEN);
		}
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(slots.header->taken, 0);
	assert_int_equal(slots.pieces[0].taken, 0);
	for (uint32_t i = 0; i < PIECE_SLOTS / 64; i++)
		assert_int_equal(slots.bitmap[i], 0);
	free(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_that_cannot_be_are_refused),
		cmocka_unit_test(a_table_is_attached_only_if_it_is_one),
		cmocka_unit_test(slots_come_only_from_open_pieces),
		cmocka_unit_test(claims_run_on_and_come_back_to_what_was_dropped),
		cmocka_unit_test(a_slot_is_free_when_its_last_holder_drops_it),
		cmocka_unit_test(a_piece_with_slots_taken_is_not_withheld),
		cmocka_unit_test(the_salt_tells_slots_and_epochs_apart),
		cmocka_unit_test(no_slot_is_claimed_by_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
