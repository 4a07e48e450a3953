/*
 * slots.h: the table of far slots, shared by the supervisor and every process of a run
 *
 *   A *slot* is one page of the run's volume; its number is the page's number. The table lies in
 *   one sealed memfd that the supervisor makes and every process of the tree maps. It says which
 *   pieces of the volume are open, which slots are taken, how many holders each has, and the hash
 *   of what is in it.
 *
 *       header                    sizes, counters
 *       pieces[]                  state, piece_epoch and free slots of each
 *       bitmap[]                  one bit a slot: taken
 *       entries[]                 refs, hash
 *
 * The life of a slot
 *
 *     free ──slots_claim──► taken, 1 ref ──fork: slots_share──► n refs ──slots_drop──► … ──► free
 *            (its hash is set before the slot is used by another: slots_seal)
 *
 * Invariants
 *
 *   S1  A slot with more than one reference is never written: whoever wants other contents claims
 *       another. (Without the counts a child would see what its parent wrote after the fork.)
 *   S2  The bit of a slot is set from before its first reference until after its last.
 *   S3  Only slots of open pieces are claimed. A piece is closed only by the supervisor, when all
 *       its slots are free and withheld.
 *   S4  Each process records each reference it holds as a bit of its session (session.h `held`),
 *       set after the reference is taken and cleared before it is dropped; so when a process is
 *       killed the supervisor drops what it held, and leaks at most what was in flight.
 *
 *   All words are atomics that any process of the tree may change at any time: the tree is one
 *   program, trusted as much as it trusts itself. The supervisor still checks every index it
 *   reads from here, so that a wild store in the program harms nobody else.
 *
 *   No function here calls the C library, allocates or waits.
 */
#ifndef AFAR_PAGER_SLOTS_H
#define AFAR_PAGER_SLOTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOTS_MAGIC    0x746f6c73u /* "slot" */
#define SLOTS_VERSION  1u
#define SLOT_NONE      UINT32_MAX
#define SLOT_PAGES_MAX (UINT32_C(1) << 30) /* 4 TiB of far memory */

enum piece_state {
	PIECE_CLOSED = 0,   /* not mapped on any node */
	PIECE_OPEN = 1,     /* slots may be claimed, stored and loaded */
	PIECE_WITHHELD = 2, /* being closed: nothing is claimed, what is held stays */
	PIECE_REFUSED = 3,  /* the pool has no room for it now */
	PIECE_LOST = 4,     /* its last copy is gone: loading ends the run */
};

struct slot_piece {
	_Atomic uint32_t state;
	_Atomic uint32_t piece_epoch;
	_Atomic uint32_t taken; /* slots of it that are claimed */
	uint32_t reserved;
};

struct slot_entry {
	_Atomic uint32_t refs;
	_Atomic uint32_t hash;
};

struct slots_header {
	uint32_t magic, version;
	uint32_t slots, pieces,
		piece_slots; /* slots = pieces * piece_slots; piece_slots % 64 == 0 */
	uint32_t reserved;
	_Atomic uint64_t taken; /* of all pieces */
	_Atomic uint64_t open;  /* slots of open pieces */
	uint64_t volume_salt;
	unsigned char pad[16];
};

/* A process's view: private pointers into the shared memory. */
struct slots {
	struct slots_header *header;
	struct slot_piece *pieces;
	_Atomic uint64_t *bitmap;
	struct slot_entry *entries;
	uint32_t slots_count, piece_slots, pieces_count; /* trusted copies */
	uint32_t cursor; /* where this process looks first for free slots */
};

/* Bytes of a table for so many pieces of so many slots; 0: too large. */
size_t slots_bytes(uint32_t pieces, uint32_t piece_slots);
/* Supervisor: writes the header of a zeroed table. Process: checks it. Both: fill *slots. */
int slots_format(struct slots *slots, void *memory, size_t size_bytes, uint32_t pieces,
		 uint32_t piece_slots, uint64_t volume_salt);
int slots_attach(struct slots *slots, void *memory, size_t size_bytes);

/*
 * Claims up to n slots, near each other where it can (contiguous runs make large transfers);
 * each has one reference. Returns how many: fewer when open pieces have no more.
 */
unsigned slots_claim(struct slots *slots, uint32_t *slot, unsigned n);
/* The hash of what is now in the slot; before anybody else may load it. */
void slots_seal(struct slots *slots, uint32_t slot, uint32_t hash);
uint32_t slots_hash(const struct slots *slots, uint32_t slot);
uint32_t slots_refs(const struct slots *slots, uint32_t slot);
/* One reference more (fork), one less; drop returns true when it was the last. */
void slots_share(struct slots *slots, uint32_t slot);
bool slots_drop(struct slots *slots, uint32_t slot);

/* Supervisor: opens a piece under an epoch; withholds it if no slot is taken (-EBUSY). */
void slots_piece_open(struct slots *slots, uint32_t piece, uint32_t piece_epoch);
int slots_piece_withhold(struct slots *slots, uint32_t piece);
void slots_piece_set(struct slots *slots, uint32_t piece, enum piece_state state);

/* The salt of a page's hash: ties it to volume, slot and epoch. */
static inline uint64_t slots_salt(const struct slots *slots, uint32_t slot, uint32_t piece_epoch)
{
	return slots->header->volume_salt ^ ((uint64_t)piece_epoch << 32 | slot);
}

#endif
