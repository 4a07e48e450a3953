/*
 * io.c: how an operation is carried out on the copies of its piece (volume.h)
 *
 *   WRITE   to every copy that takes writes, all at once; it ends when the rule of volume.h holds,
 *           else it waits for the piece to change and goes on with the copies that lack it.
 *   READ    from one LIVE copy; bytes that do not match the checksum, or a peer that went down,
 *           lead to the next. When a good copy was found behind a bad one, the bad one is
 *           mended before the operation ends.
 *   COPY    as READ, then to every FILLING copy.
 *
 *   The buffer belongs to the fabric until each transfer on it is DONE (F1), so an operation ends
 *   only when none is pending: the caller never gets back a buffer that is still in use.
 *
 *   The checksum of a write enters the table when the write is acknowledged. Of a write that
 *   failed half-way, copies may hold either bytes; the old ones alone still match, and a read
 *   puts them back.
 */
#include "pool/volume.h"

#include <string.h>

/* token = volume's slot, operation's index, copy's slot */
static uint64_t token_make(const struct operation *op, unsigned slot)
{
	return (uint64_t)op->volume->slot << 32 | (uint64_t)op->index << 4 | slot;
}

static uint32_t page_in_piece(const struct operation *op)
{
	return (uint32_t)(op->page - (uint64_t)op->piece->number * op->volume->piece_pages);
}

static void transfer_failed(struct piece *piece, unsigned slot, int err)
{
	struct copy *copy = &piece->copies[slot];

	/* Others may do without it and be acknowledged, before its FABRIC_DOWN comes. */
	if (copy->state == COPY_FILLING)
		copy->gone = true;
	if (err != AFAR_EPEER_DOWN)
		copy_refused(piece, slot);
}

/*
 * Begins a transfer between buf and a copy. -EAGAIN: the operation is blocked. Any other error:
 * this copy is not to be had now.
 */
static int transfer(struct operation *op, unsigned slot, bool write)
{
	struct copy *copy = &op->piece->copies[slot];
	uint64_t offset = (uint64_t)page_in_piece(op) * PAGE_BYTES;
	uint64_t token = token_make(op, slot);
	int err = write ? fabric_write(copy->window, offset, op->buf, PAGE_BYTES, token)
			: fabric_read(copy->window, offset, op->buf, PAGE_BYTES, token);

	if (err == 0) {
		op->volume->pool->flush = true;
		op->pending |= (uint8_t)(1u << slot);
		copy->transfers++;
	} else if (err == -EAGAIN) {
		operation_block(op);
	} else {
		op->tried |= (uint8_t)(1u << slot);
		transfer_failed(op->piece, slot, err);
	}
	return err;
}

/* FILLING ones may have the page already: read last, and believed only if the checksum is known. */
static bool takes_reads(const struct copy *copy)
{
	return (copy->state == COPY_LIVE || copy->state == COPY_FILLING) && copy->window;
}

static bool takes_writes(const struct piece *piece, const struct copy *copy)
{
	if (copy->state == COPY_FILLING && pool_mutates(piece->volume->pool, POOL_MUTATE_REBUILD))
		return false;
	return (copy->state == COPY_LIVE || copy->state == COPY_FILLING) && copy->window;
}

/* ---- writes ---- */

/* Whether the write may be acknowledged: the rule of volume.h. */
static bool is_protected(const struct operation *op)
{
	const struct piece *piece = op->piece;
	unsigned listed = 0, stored = 0;

	if (piece->in_doubt)
		return false;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];
		bool has = copy->state != COPY_EMPTY && op->stored[slot] == copy->serial;

		if (copy->listed && !has)
			return false;
		listed += copy->listed;
		if (copy->state == COPY_FILLING && !takes_writes(piece, copy))
			has = true;
		stored += has && (copy->state == COPY_LIVE || copy->state == COPY_FILLING);
	}
	return listed > 0 && stored >= piece_copies_needed(piece);
}

static void acknowledge(struct operation *op)
{
	struct piece *piece = op->piece;
	struct volume *volume = op->volume;

	if (!piece->direct)
		page_hold(&piece->pages, page_in_piece(op), op->checksum, piece->epoch_salt);
	volume->stats.writes++;
	counter_add_own(&volume->pool->count.writes, 1);
	operation_finish(op, 0);
}

/* What the piece lacks for this write is for its fiber to find. */
static void write_wait(struct operation *op)
{
	op->piece->wanted = true;
	piece_work(op->piece);
	operation_wait(op);
}

static void write_start(struct operation *op)
{
	struct piece *piece = op->piece;

	if (!piece_is_mapped(piece) && op->pending == 0) {
		write_wait(op);
		return;
	}
	if (!op->loaded && !piece->direct)
		op->checksum = page_checksum(op->volume->pool->hash, op->buf, op->volume->record.id,
					     op->page);
	op->loaded = true;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (!takes_writes(piece, copy) || op->stored[slot] == copy->serial ||
		    (op->pending | op->tried) & 1u << slot)
			continue;
		if (transfer(op, slot, true) == -EAGAIN)
			return;
	}
	if (op->pending != 0)
		return;
	if (is_protected(op))
		acknowledge(op);
	else
		write_wait(op);
}

static void write_done(struct operation *op, unsigned slot, int status)
{
	if (status == 0)
		op->stored[slot] = op->piece->copies[slot].serial;
	else
		op->tried |= (uint8_t)(1u << slot);
	if (list_is_linked(&op->link))
		return; /* blocked: it goes on from there */
	if (status == 0 && pool_mutates(op->volume->pool, POOL_MUTATE_ACK_ORDER))
		acknowledge(op);
	else if (op->pending == 0)
		io_start(op);
}

/* ---- reads ---- */

/* Copies that gave wrong bytes to this operation. */
static unsigned bad_copies(const struct operation *op)
{
	unsigned mask = 0;

	for (unsigned slot = 0; op->mistrusts && slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &op->piece->copies[slot];

		if (takes_reads(copy) && op->stored[slot] == copy->serial)
			mask |= 1u << slot;
	}
	return mask;
}

/* One of the copies in the mask, by the page's number: copies far away share the reads. */
static int pick(unsigned mask, uint64_t page)
{
	unsigned count = (unsigned)__builtin_popcount(mask);

	if (count == 0)
		return -1;
	for (unsigned skip = count > 1 ? (unsigned)(page % count) : 0; skip > 0; skip--)
		mask &= mask - 1;
	return __builtin_ctz(mask);
}

/* The copy to read from: one on this host if there is any; -1: none is left. */
static int choose_copy(const struct operation *op)
{
	const struct piece *piece = op->piece;
	unsigned seen = op->tried | op->agreed | bad_copies(op);
	unsigned live = 0, filling = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (!copy->window || seen & 1u << slot)
			continue;
		if (copy->state == COPY_LIVE && copy->near)
			return (int)slot;
		live |= (copy->state == COPY_LIVE ? 1u : 0u) << slot;
		filling |= (copy->state == COPY_FILLING ? 1u : 0u) << slot;
	}
	if (live == 0 && !piece->direct &&
	    page_state(&piece->pages, page_in_piece(op)) == PAGE_HELD)
		return pick(filling, op->page);
	return pick(live, op->page);
}

/* Whether a copy that cannot be read now may be readable later. */
static bool may_come_back(const struct operation *op)
{
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &op->piece->copies[slot];

		if (copy->state == COPY_DETACHED && !copy->gone)
			return true;
		/* Its connection ended, and FABRIC_DOWN is on its way. */
		if (copy->state == COPY_LIVE && (!copy->window || op->tried & 1u << slot))
			return true;
	}
	/* Nothing listed: what was lost is about to be marked so. */
	return !piece_is_mapped(op->piece);
}

/* Puts the page where it is missing: a READ into bad copies, a COPY into FILLING ones too. */
static void store(struct operation *op)
{
	struct piece *piece = op->piece;
	unsigned targets = bad_copies(op);

	if (op->kind == OPERATION_COPY)
		targets |= copies_in(piece, COPY_FILLING);
	op->storing = true;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		if (!(targets & ~(unsigned)op->agreed & 1u << slot) || !piece->copies[slot].window)
			continue;
		if (transfer(op, slot, true) == -EAGAIN)
			return;
		op->agreed |= (uint8_t)(1u << slot);
	}
	if (op->pending == 0)
		operation_finish(op, 0);
}

static void count_read(struct operation *op)
{
	if (op->kind != OPERATION_READ)
		return;
	op->volume->stats.reads++;
	counter_add_own(&op->volume->pool->count.reads, 1);
}

/* buf holds the page. */
static void loaded(struct operation *op)
{
	op->loaded = true;
	op->agreed = 0;
	count_read(op);
	if (op->kind == OPERATION_COPY || bad_copies(op) != 0)
		store(op);
	else
		operation_finish(op, 0);
}

static void lose_page(struct operation *op)
{
	page_set_state(&op->piece->pages, page_in_piece(op), PAGE_LOST);
	op->volume->stats.pages_lost++;
	counter_add_own(&op->volume->pool->count.pages_lost, 1);
}

/* Every copy gave other bytes than were written. */
static void all_bad(struct operation *op)
{
	if (op->kind == OPERATION_COPY && copies_in(op->piece, COPY_LIVE) == 0) {
		operation_finish(op, -EAGAIN);
	} else if (op->kind == OPERATION_COPY) {
		/* The copies that have it leave sooner or later: nobody will ever have it again. */
		lose_page(op);
		operation_finish(op, 0);
	} else {
		operation_finish(op, AFAR_ELOST);
	}
}

static void read_next(struct operation *op)
{
	struct piece *piece = op->piece;
	int slot;

	while ((slot = choose_copy(op)) >= 0) {
		int err = transfer(op, (unsigned)slot, false);

		if (err == 0 || err == -EAGAIN)
			return;
	}
	if (may_come_back(op)) {
		if (op->kind == OPERATION_COPY)
			operation_finish(op, -EAGAIN);
		else
			operation_wait(op);
	} else if (op->agreed != 0) {
		/* UNKNOWN, and all copies that there are agree on it. */
		page_hold(&piece->pages, page_in_piece(op), op->checksum, piece->epoch_salt);
		loaded(op);
	} else {
		all_bad(op);
	}
}

/* Of a direct piece nobody knows which pages were written: it is there as a whole or not. */
static enum page_state state_of(const struct operation *op)
{
	const struct piece *piece = op->piece;

	if (!piece->direct)
		return page_state(&piece->pages, page_in_piece(op));
	if (piece->direct_lost)
		return PAGE_LOST;
	return piece_is_mapped(piece) ? PAGE_HELD : PAGE_EMPTY;
}

static void read_start(struct operation *op)
{
	if (op->storing) {
		store(op);
		return;
	}
	switch (state_of(op)) {
	case PAGE_EMPTY:
		if (op->kind == OPERATION_READ)
			memset(op->buf, 0, PAGE_BYTES);
		count_read(op);
		operation_finish(op, 0);
		break;
	case PAGE_LOST:
		operation_finish(op, op->kind == OPERATION_READ ? AFAR_ELOST : 0);
		break;
	case PAGE_HELD:
	case PAGE_UNKNOWN:
		read_next(op);
		break;
	}
}

/* The bytes of one copy are in buf. */
static void verify(struct operation *op, unsigned slot)
{
	struct pool *pool = op->volume->pool;
	struct piece *piece = op->piece;
	uint32_t page = page_in_piece(op);
	uint32_t checksum;

	if (piece->direct || pool_mutates(pool, POOL_MUTATE_CHECKSUMS)) {
		loaded(op);
		return;
	}
	checksum = page_checksum(pool->hash, op->buf, op->volume->record.id, op->page);
	if (page_state(&piece->pages, page) == PAGE_UNKNOWN) {
		if ((op->agreed != 0 && checksum != op->checksum) ||
		    (piece->holes && page_is_zero(op->buf))) {
			lose_page(op);
			read_start(op);
			return;
		}
		op->checksum = checksum;
		op->agreed |= (uint8_t)(1u << slot);
		read_next(op);
		return;
	}
	if (page_matches(&piece->pages, page, checksum, piece->epoch_salt)) {
		loaded(op);
		return;
	}
	op->stored[slot] = piece->copies[slot].serial;
	op->mistrusts = true;
	if (piece->copies[slot].state != COPY_LIVE) {
		read_next(op);
		return;
	}
	op->volume->stats.checksum_failures++;
	counter_add_own(&pool->count.checksum_failures, 1);
	log_warn(pool->log, "checksum_failed", "volume=%s page=%llu node=%llx",
		 op->volume->record.name, (unsigned long long)op->page,
		 (unsigned long long)(piece->copies[slot].node ? piece->copies[slot].node->member.id
							       : 0));
	read_next(op);
}

static void read_done(struct operation *op, unsigned slot, int status)
{
	if (op->storing) {
		if (op->pending == 0 && !list_is_linked(&op->link))
			operation_finish(op, 0);
		return;
	}
	/* The volume broke, or the page was given up, while the bytes were on their way. */
	if (!volume_is_open(op->volume)) {
		io_start(op);
		return;
	}
	if (status == 0) {
		verify(op, slot);
		return;
	}
	op->tried |= (uint8_t)(1u << slot);
	op->volume->stats.read_retries++;
	counter_add_own(&op->volume->pool->count.read_retries, 1);
	read_next(op);
}

/* ---- both ---- */

static struct piece *piece_of(struct volume *volume, uint64_t page)
{
	if (volume->piece_shift != 0)
		return &volume->pieces[page >> volume->piece_shift];
	return &volume->pieces[page / volume->piece_pages];
}

void io_start(struct operation *op)
{
	struct volume *volume = op->volume;

	switch (volume->phase) {
	case VOLUME_OPENING:
		operation_wait(op);
		return;
	case VOLUME_OPEN:
		break;
	case VOLUME_BROKEN:
	case VOLUME_ENDING:
		if (op->pending == 0)
			operation_finish(op, volume->status);
		return;
	}
	if (op->page >= volume->pages) {
		operation_finish(op, -ERANGE);
		return;
	}
	if (!op->piece) {
		op->piece = piece_of(volume, op->page);
		op->piece->active++;
		op->piece->accesses++;
	}
	if (op->kind == OPERATION_WRITE)
		write_start(op);
	else
		read_start(op);
}

void io_done(struct pool *pool, uint64_t token, int status)
{
	uint64_t volume_slot = token >> 32, index = token >> 4 & 0xffff, slot = token & 15;
	struct volume *volume = volume_slot < POOL_VOLUMES_MAX ? pool->volumes[volume_slot] : NULL;
	struct operation *op = volume && index < OPERATIONS ? &volume->operations[index] : NULL;

	if (!op || slot >= PIECE_COPIES_MAX || !(op->pending & 1u << slot)) {
		counter_add_own(&pool->count.stray_events, 1);
		return;
	}

	struct piece *piece = op->piece;
	struct copy *copy = &piece->copies[slot];

	assert(copy->transfers > 0);
	op->pending &= (uint8_t) ~(1u << slot);
	copy->transfers--;
	if (copy->transfers == 0 && (copy->state == COPY_LEAVING || copy->state == COPY_DETACHED))
		fiber_line_wake_all(&piece->line);
	if (status != 0)
		transfer_failed(piece, (unsigned)slot, status);
	if (op->done) {
		/* Only POOL_MUTATE_ACK_ORDER lets an operation end before its transfers. */
		if (op->pending == 0 && op->told)
			list_push_first(&volume->free, &op->link);
		return;
	}
	if (op->kind == OPERATION_WRITE)
		write_done(op, (unsigned)slot, status);
	else
		read_done(op, (unsigned)slot, status);
}
