/*
 * direct.c: far memory that lies in the same machine: the slab itself is mapped
 *
 *   Storing is copying into the slab and hashing what is there then; loading is hashing, and the
 *   kernel copies from the slab into the new page. Nobody else writes the slot meanwhile: one with
 *   a single holder is ours, and one with several is never written (S1).
 *
 *   A piece is mapped when it is first used, and again under each new epoch: the supervisor has
 *   moved it then to another slab.
 */
#include "pager/state.h"

#include <errno.h>

static size_t slab_bytes(const struct pager *pager)
{
	return (size_t)pager->slots.piece_slots * KERNEL_PAGE_BYTES;
}

static void unmap_piece(struct pager *pager, uint32_t piece)
{
	if (pager->pieces[piece].slab)
		kernel_munmap(pager->pieces[piece].slab, slab_bytes(pager));
	pager->pieces[piece].slab = NULL;
}

static void map_piece(struct pager *pager, uint32_t piece, uint64_t page)
{
	struct session_message message = talk_message_of(SESSION_PIECE_MAP);
	struct stat stat = {0};
	void *slab;
	int fd = -1;
	int err;

	unmap_piece(pager, piece);
	message.value = piece;
	err = talk_call(pager, &message, &fd);
	if (err || fd < 0 || kernel_fstat(fd, &stat) || (uint64_t)stat.st_size < slab_bytes(pager))
		talk_fail(pager, SESSION_FAIL_LOST, page);
	slab = kernel_mmap(slab_bytes(pager), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	kernel_close(fd);
	if (kernel_is_error(slab))
		talk_fail(pager, SESSION_FAIL_KERNEL, page);
	kernel_madvise((uintptr_t)slab, slab_bytes(pager), MADV_DONTFORK);
	kernel_madvise((uintptr_t)slab, slab_bytes(pager), MADV_DONTDUMP);
	pager->pieces[piece].slab = slab;
	pager->pieces[piece].piece_epoch = (uint32_t)message.value;
}

/* Where the slot is, under the epoch that counts now. */
static unsigned char *slab_page(struct pager *pager, uint32_t slot, uint64_t page)
{
	uint32_t piece = slot / pager->slots.piece_slots;
	struct mapped_piece *mapped = &pager->pieces[piece];
	uint32_t piece_epoch = atomic_load(&pager->slots.pieces[piece].piece_epoch);

	if (!mapped->slab || mapped->piece_epoch != piece_epoch)
		map_piece(pager, piece, page);
	return mapped->slab + (size_t)(slot % pager->slots.piece_slots) * KERNEL_PAGE_BYTES;
}

static uint32_t epoch_of(const struct pager *pager, uint32_t slot)
{
	return pager->pieces[slot / pager->slots.piece_slots].piece_epoch;
}

static int direct_store(struct pager *pager)
{
	for (unsigned i = 0; i < pager->stores.count; i++) {
		const struct store *store = &pager->stores.item[i];
		unsigned char *to = slab_page(pager, store->slot, store->page);
		uint64_t salt =
			slots_salt(&pager->slots, store->slot, epoch_of(pager, store->slot));

		raw_copy(to, store->bytes, KERNEL_PAGE_BYTES);
		slots_seal(&pager->slots, store->slot, pager->hash(to, salt));
	}
	return 0;
}

static bool is_right(struct pager *pager, uint32_t slot, const void *bytes)
{
	uint64_t salt = slots_salt(&pager->slots, slot, epoch_of(pager, slot));

	return pager->hash(bytes, salt) == slots_hash(&pager->slots, slot);
}

static void direct_load(struct pager *pager, const uint32_t *slot, unsigned n, const void **bytes,
			uint64_t page)
{
	for (unsigned i = 0; i < n; i++) {
		uint32_t piece = slot[i] / pager->slots.piece_slots;

		bytes[i] = slab_page(pager, slot[i], page);
		if (is_right(pager, slot[i], bytes[i]) ||
		    pager->options.mutations & PAGER_MUTATE_HASH)
			continue;
		/* The piece may just have moved: then it is right where it is now. */
		unmap_piece(pager, piece);
		bytes[i] = slab_page(pager, slot[i], page);
		if (!is_right(pager, slot[i], bytes[i]))
			talk_fail(pager, SESSION_FAIL_CHECKSUM, page);
	}
}

void direct_unmap_stale(struct pager *pager)
{
	pager->slabs_stale = false;
	for (uint32_t piece = 0; piece < pager->slots.pieces_count; piece++) {
		const struct slot_piece *shared = &pager->slots.pieces[piece];
		uint32_t state = atomic_load(&shared->state);

		if ((state != PIECE_OPEN && state != PIECE_WITHHELD) ||
		    atomic_load(&shared->piece_epoch) != pager->pieces[piece].piece_epoch)
			unmap_piece(pager, piece);
	}
}

void direct_unmap_all(struct pager *pager)
{
	for (uint32_t piece = 0; piece < pager->slots.pieces_count; piece++)
		unmap_piece(pager, piece);
}

const struct backend direct_backend = {
	.store = direct_store,
	.load = direct_load,
	.load_max = 1,
};
