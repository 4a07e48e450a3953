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
 *   (R3). Direct pieces are asked for as such. Where the data is staged, a probe is written to the
 *   piece's first page: when it is acknowledged all copies have room, and the page, which then
 *   holds something, keeps the piece mapped. The first piece decides which of the two a run is:
 *   direct if a node of this host has room for it. One spare piece is kept open, so that PIECE_MORE
 * seldom waits for a node; two empty pieces are one too many, and the second goes back to its node:
 * far memory that the program freed is free for others.
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

static uint64_t first_page(const struct supervisor *run, uint32_t piece)
{
	return (uint64_t)piece * run->slots.piece_slots;
}

static int probe(struct supervisor *run, uint32_t piece)
{
	static unsigned char zeros[POOL_PAGE_BYTES]; /* only read */
	struct volume_io io = {
		.op = VOLUME_WRITE,
		.page = first_page(run, piece),
		.buf = zeros,
		.token = run_probe_token(piece),
	};

	return volume_submit(run->volume, &io, 1) == 1 ? 0 : -EAGAIN;
}

/* Asks the pool for a piece, the way that this run's data goes. */
static int ask(struct supervisor *run, uint32_t piece)
{
	int err = run->staged ? -ENOTSUP : volume_piece_open(run->volume, piece);

	if (err == -ENOTSUP && !run->direct) {
		run->staged = true;
		err = probe(run, piece);
	}
	run->pieces.opening += err == 0;
	return err;
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
		return ask(run, piece) == 0;
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
	run->pieces.cursor = 1;
	return ask(run, 0);
}

/* A mapped piece joins the table. */
static int admit(struct supervisor *run, uint32_t piece)
{
	struct volume_piece_direct direct = {.piece_epoch = 1};

	if (!run->staged) {
		int err = volume_piece_direct(run->volume, piece, true, &direct);

		if (err)
			return err;
		run->direct = true;
	}
	slots_piece_open(&run->slots, piece, direct.piece_epoch);
	return 0;
}

static void piece_lost(struct supervisor *run, uint32_t piece)
{
	slots_piece_set(&run->slots, piece, PIECE_LOST);
	supervisor_fail(
		run, RUN_EXIT_LOST,
		"volume %s: the last copy of piece %" PRIu32
		" is gone: its node died or left. Use --protect replicas=2 to survive that.",
		volume_name(run->volume), piece);
}

static void give_back(struct supervisor *run, uint32_t piece)
{
	if (run->direct)
		volume_piece_free(run->volume, piece);
	else
		volume_discard(run->volume, first_page(run, piece), run->slots.piece_slots);
}

static void piece_refused(struct supervisor *run, uint32_t piece, int status)
{
	run->pieces.refused = true;
	run->pieces.retry_ns = env_now_ns(run->env) + RETRY_NS;
	log_info(run->log, "piece_refused", "piece=%" PRIu32 " reason=%s", piece,
		 afar_strerror(status));
}

void run_pieces_answer(struct supervisor *run, uint32_t piece, int status)
{
	run->pieces.opening--;
	if (status == 0 && (status = admit(run, piece)) != 0)
		give_back(run, piece);
	if (status && !run->direct && !run->staged) {
		/* No node of this host has room: perhaps one elsewhere. */
		run->staged = true;
		if (ask(run, piece) == 0)
			return;
	}
	if (status)
		piece_refused(run, piece, status);
	sessions_pieces_changed(run);
}

void run_pieces_event(struct supervisor *run, uint32_t piece, int status)
{
	if (status == AFAR_ELOST && piece_state_of(run, piece) != PIECE_CLOSED)
		piece_lost(run, piece);
	else if (!run->staged && piece_state_of(run, piece) == PIECE_CLOSED && run->pieces.opening)
		run_pieces_answer(run, piece, status);
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
		give_back(run, piece);
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
