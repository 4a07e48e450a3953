/*
 * pieces.c: opens pieces of the volume before slots are wanted, closes empty ones
 *
 *     CLOSED ──want──► (asked of the pool) ──mapped──► OPEN ──no slot taken, and enough others──►
 *       ▲                    │ no room                                              WITHHELD
 *       │                    ▼                                                         │
 *       ├── retry ◄──── REFUSED                                                        │
 *       └───────────────────────────────── slab given back ◄──────────────────────────┘
 *
 *   A piece that the pool is asked for stays CLOSED in the table, so nothing is claimed from it
 *   (R3); `asked` is a bit of ours. One spare piece is kept open, so that PIECE_MORE seldom waits
 *   for a node; two empty pieces are one too many, and the second goes back to its node: far
 *   memory that the program freed is free for others.
 */
#include "run/supervisor.h"

#include "afar/error.h"
#include "base/env.h"
#include "base/log.h"
#include "pool/pool.h"

#include <errno.h>
#include <inttypes.h>

#define RETRY_NS NS_PER_S

static uint32_t piece_state_of(const struct supervisor *run, uint32_t piece)
{
	return atomic_load(&run->slots.pieces[piece].state);
}

uint64_t run_pieces_free_slots(const struct supervisor *run)
{
	uint64_t open = atomic_load(&run->slots.header->open);
	uint64_t taken = atomic_load(&run->slots.header->taken);

	return open > taken ? open - taken : 0;
}

/* Asks the pool for one more closed piece; false if there is none, or no room for it. */
static bool open_another(struct supervisor *run)
{
	struct pieces *pieces = &run->pieces;
	uint32_t count = run->slots.pieces_count;

	if (pieces->refused || pieces->opening >= RUN_OPENING_MAX)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t piece = (pieces->cursor + i) % count;

		if (piece_state_of(run, piece) != PIECE_CLOSED)
			continue;
		pieces->cursor = (piece + 1) % count;
		if (volume_piece_open(run->volume, piece))
			return false;
		pieces->opening++;
		return true;
	}
	return false;
}

/* Opens until `slots` are free, or will be when what was asked for has come. */
static void open_for(struct supervisor *run, uint64_t slots)
{
	uint64_t piece_slots = run->slots.piece_slots;

	while (run_pieces_free_slots(run) + run->pieces.opening * piece_slots < slots)
		if (!open_another(run))
			return;
}

void run_pieces_want(struct supervisor *run, uint32_t slots)
{
	if (slots > run->pieces.wanted_slots)
		run->pieces.wanted_slots = slots;
	open_for(run, slots);
}

int run_pieces_first(struct supervisor *run)
{
	int err = volume_piece_open(run->volume, 0);

	if (err)
		return err;
	run->pieces.opening = 1;
	run->pieces.cursor = 1;
	return 0;
}

/* A mapped piece joins the table if its data can go the way that this run's data goes. */
static int admit(struct supervisor *run, uint32_t piece)
{
	struct volume_piece_direct direct = {.piece_epoch = 1};
	uint64_t open = atomic_load(&run->slots.header->open);

	if (run->options->replicas == 1 && (run->direct || open == 0)) {
		int err = volume_piece_direct(run->volume, piece, true, &direct);

		/* The first piece decides: what nodes of this host hold is copied by the pagers
		 * themselves. A later piece that cannot be goes back. */
		if (err && run->direct)
			return err;
		run->direct = err == 0;
	}
	slots_piece_open(&run->slots, piece, direct.piece_epoch);
	return 0;
}

void run_pieces_event(struct supervisor *run, uint32_t piece, int status)
{
	struct pieces *pieces = &run->pieces;
	bool asked = piece_state_of(run, piece) == PIECE_CLOSED;

	if (asked && pieces->opening > 0)
		pieces->opening--;
	if (status == AFAR_ELOST) {
		slots_piece_set(&run->slots, piece, PIECE_LOST);
		supervisor_fail(
			run, RUN_EXIT_LOST,
			"volume %s: the last copy of piece %" PRIu32
			" is gone: its node died or left. Use --protect replicas=2 to survive "
			"that.",
			volume_name(run->volume), piece);
		return;
	}
	if (asked && status == 0 && (status = admit(run, piece)) != 0)
		volume_piece_free(run->volume, piece);
	if (asked && status) {
		pieces->refused = true;
		pieces->retry_ns = env_now_ns(run->env) + RETRY_NS;
		log_info(run->log, "piece_refused", "piece=%" PRIu32 " reason=%s", piece,
			 afar_strerror(status));
	}
	sessions_pieces_changed(run);
}

/* The second empty piece goes back. */
static void close_spare(struct supervisor *run)
{
	uint32_t empty = 0;

	for (uint32_t piece = 0; piece < run->slots.pieces_count; piece++) {
		if (piece_state_of(run, piece) != PIECE_OPEN ||
		    atomic_load(&run->slots.pieces[piece].taken) != 0)
			continue;
		if (++empty < 3 || slots_piece_withhold(&run->slots, piece))
			continue;
		/* Pagers let go of their mappings of it before it can be opened again: they
		 * compare epochs, and the next opening has a new one. */
		volume_piece_free(run->volume, piece);
		slots_piece_set(&run->slots, piece, PIECE_CLOSED);
		sessions_nudge(run);
		return; /* one a tick: slowly is soon enough */
	}
}

void run_pieces_tick(struct supervisor *run)
{
	struct pieces *pieces = &run->pieces;

	if (pieces->refused && env_now_ns(run->env) >= pieces->retry_ns)
		pieces->refused = false;
	if (!run->budget.activated)
		return;
	open_for(run, run->slots.piece_slots / 2);
	close_spare(run);
	uint64_t taken = atomic_load(&run->slots.header->taken) * POOL_PAGE_BYTES;
	if (taken > run->stats->far_peak_bytes)
		run->stats->far_peak_bytes = taken;
}
