/*
 * shm_window.c: memory that two processes share, and the operations on it
 *
 *   An operation is carried out when it is submitted: a read is a memcpy, an atomic is the CPU's.
 *   Its DONE is queued like any other, so the floors above need not know.
 */
#include "fabric/shm.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FENCES_BYTES (SHM_EXPORTS_MAX * sizeof(uint32_t))
#define SEALS        (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* ---- the session ---- */

static int map_session(struct shm_peer *peer, int fd, size_t ring_bytes)
{
	struct shm_session *session = &peer->session;
	size_t size_bytes = 2 * ring_bytes + 2 * FENCES_BYTES;
	unsigned char *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bool we_connected = !peer->peer.accepted;
	_Atomic uint32_t *fences;

	if (memory == MAP_FAILED)
		return -errno;
	madvise(memory, size_bytes, MADV_DONTFORK);
	fences = (_Atomic uint32_t *)(void *)(memory + 2 * ring_bytes);
	*session = (struct shm_session){
		.memory = memory,
		.size_bytes = size_bytes,
		.ring_bytes = ring_bytes,
		.our_fences = we_connected ? fences : fences + SHM_EXPORTS_MAX,
		.their_fences = we_connected ? fences + SHM_EXPORTS_MAX : fences,
	};
	return 0;
}

static int open_rings(struct shm_peer *peer)
{
	struct shm_session *session = &peer->session;
	bool we_connected = !peer->peer.accepted;
	unsigned char *there = session->memory;
	unsigned char *back = session->memory + session->ring_bytes;
	int err = ring_open(&peer->tx, we_connected ? there : back, session->ring_bytes,
			    RING_PRODUCER);

	if (!err)
		err = ring_open(&peer->rx, we_connected ? back : there, session->ring_bytes,
				RING_CONSUMER);
	return err ? -EPROTO : 0;
}

int shm_session_create(struct shm_peer *peer, uint32_t ring_capacity, int *result)
{
	size_t ring_bytes = RING_OVERHEAD_BYTES + ring_capacity;
	int fd = memfd_create("afar-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int err;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)(2 * ring_bytes + 2 * FENCES_BYTES)) ||
	    fcntl(fd, F_ADD_SEALS, SEALS)) {
		err = -errno;
		goto fail;
	}
	err = map_session(peer, fd, ring_bytes);
	if (err)
		goto fail;
	ring_format(peer->session.memory, ring_bytes);
	ring_format(peer->session.memory + ring_bytes, ring_bytes);
	err = open_rings(peer);
	if (err)
		goto fail;
	*result = fd;
	return 0;

fail:
	close(fd);
	return err;
}

/* Memory that a stranger hands us: it must not shrink under our feet, nor be anything but memory.
 */
static int check_memfd(int fd, uint64_t *size_bytes)
{
	struct stat stat;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &stat) || stat.st_size < 0)
		return -EPROTO;
	*size_bytes = (uint64_t)stat.st_size;
	return 0;
}

int shm_session_map(struct shm_peer *peer, int fd)
{
	uint64_t size_bytes;
	uint64_t ring_bytes;
	int err = fd < 0 ? -EPROTO : check_memfd(fd, &size_bytes);

	if (err)
		return err;
	if (size_bytes < 2 * FENCES_BYTES || size_bytes > 2 * (uint64_t)SHM_RING_MAX)
		return -EPROTO;
	ring_bytes = (size_bytes - 2 * FENCES_BYTES) / 2;
	/* A ring that holds no message would let us send nothing for ever. */
	if (ring_bytes < RING_OVERHEAD_BYTES + 2 * FABRIC_MESSAGE_BYTES_MAX ||
	    !is_aligned(ring_bytes, RING_LINE_BYTES))
		return -EPROTO;
	err = map_session(peer, fd, ring_bytes);
	return err ? err : open_rings(peer);
}

void shm_session_unmap(struct shm_peer *peer)
{
	if (!peer->session.memory)
		return;
	munmap(peer->session.memory, peer->session.size_bytes);
	peer->session.memory = NULL;
}

/* ---- tables ---- */

int shm_windows_create(struct shm_peer *peer)
{
	struct env *env = peer->shm->self.env;
	int err = table_create(&peer->exports, SHM_EXPORTS_MAX, env_random(env));

	if (!err)
		err = table_create(&peer->imports, SHM_EXPORTS_MAX, env_random(env));
	if (err)
		return err;
	peer->free_slots = calloc(SHM_EXPORTS_MAX, sizeof(*peer->free_slots));
	peer->slots = calloc(SHM_EXPORTS_MAX, sizeof(struct shm_import *));
	if (!peer->free_slots || !peer->slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < SHM_EXPORTS_MAX; i++)
		peer->free_slots[i] = SHM_EXPORTS_MAX - 1 - i;
	peer->free_slot_count = SHM_EXPORTS_MAX;
	return 0;
}

static void drop_reference(struct shm_import *import)
{
	if (--import->references > 0)
		return;
	close(import->memfd);
	free(import);
}

static void empty_slot(struct shm_peer *peer, uint32_t slot)
{
	struct shm_import *import = peer->slots[slot];

	if (!import)
		return;
	peer->slots[slot] = NULL;
	table_remove(&peer->imports, import->key);
	drop_reference(import);
}

void shm_windows_destroy(struct shm_peer *peer)
{
	uint32_t cursor = 0;
	struct shm_export *export;

	while ((export = table_next(&peer->exports, &cursor, NULL)))
		free(export);
	for (uint32_t i = 0; peer->slots && i < SHM_EXPORTS_MAX; i++)
		empty_slot(peer, i);
	table_destroy(&peer->exports);
	table_destroy(&peer->imports);
	free(peer->free_slots);
	free(peer->slots);
}

/* ---- the owner ---- */

int shm_window_export(struct fabric_peer *fabric_peer, uint64_t key, uint32_t epoch, void *memory,
		      uint64_t size_bytes, int memfd)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);
	struct shm_packet packet = {
		.magic = SHM_PACKET_MAGIC,
		.kind = SHM_PACKET_EXPORT,
		.epoch = epoch,
		.key = key,
		.size_bytes = size_bytes,
	};
	struct shm_export *export;
	int err;

	if (memfd < 0)
		return -ENOTSUP;
	if (peer->free_slot_count == 0)
		return -EMFILE;
	export = malloc(sizeof(*export));
	if (!export)
		return -ENOMEM;
	packet.slot = peer->free_slots[peer->free_slot_count - 1];
	packet.generation = atomic_load(&peer->session.our_fences[packet.slot]) + 1;
	*export = (struct shm_export){.key = key, .epoch = epoch, .slot = packet.slot};
	err = table_insert(&peer->exports, key, export);
	if (err)
		goto fail;
	atomic_store(&peer->session.our_fences[packet.slot], packet.generation);
	err = shm_peer_send_packet(peer, &packet, sizeof(packet), memfd);
	if (err)
		goto fail_insert;
	peer->free_slot_count--;
	return 0;

fail_insert:
	table_remove(&peer->exports, key);
fail:
	free(export);
	return err == -ENOSPC ? -EMFILE : err;
}

/* A process that is gone has no mappings; nobody else ever got the descriptor from us. */
static bool process_is_gone(const struct shm_peer *peer)
{
	struct pollfd poll_fd = {.fd = peer->pidfd, .events = POLLIN};

	return peer->pidfd >= 0 && poll(&poll_fd, 1, 0) == 1;
}

int shm_window_withdraw(struct fabric_peer *fabric_peer, uint64_t key)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);
	struct shm_export *export = table_remove(&peer->exports, key);
	struct shm_packet packet = {
		.magic = SHM_PACKET_MAGIC,
		.kind = SHM_PACKET_WITHDRAWN,
	};

	if (!export)
		return -ENOENT;
	if (peer->session.memory)
		atomic_fetch_add(&peer->session.our_fences[export->slot], 1);
	peer->free_slots[peer->free_slot_count++] = export->slot;
	free(export);
	/* Only so that it lets go soon: the fence has fallen, whether the packet gets there or not.
	 */
	if (peer->state == SHM_OPEN)
		shm_peer_send_packet(peer, &packet, sizeof(packet), -1);
	return process_is_gone(peer) ? 0 : -EBUSY;
}

/* ---- the client ---- */

static bool is_fenced(const struct shm_import *import)
{
	return atomic_load_explicit(import->fence, memory_order_acquire) != import->generation;
}

int shm_window_exported(struct shm_peer *peer, const struct shm_packet *packet, int fd)
{
	struct shm_import *import = NULL;
	struct shm_import *former;
	uint64_t size_bytes = 0;
	int err = -EPROTO;

	if (fd < 0 || packet->slot >= SHM_EXPORTS_MAX || packet->size_bytes == 0 ||
	    check_memfd(fd, &size_bytes) || packet->size_bytes > size_bytes)
		goto fail;
	import = malloc(sizeof(*import));
	err = -ENOMEM;
	if (!import)
		goto fail;
	*import = (struct shm_import){
		.key = packet->key,
		.size_bytes = packet->size_bytes,
		.epoch = packet->epoch,
		.generation = packet->generation,
		.slot = packet->slot,
		.references = 1,
		.memfd = fd,
		.fence = &peer->session.their_fences[packet->slot],
	};
	/* The owner gives a slot or a key to another export only after it withdrew the former. */
	empty_slot(peer, packet->slot);
	former = table_get(&peer->imports, packet->key);
	if (former && is_fenced(former))
		empty_slot(peer, former->slot);
	err = table_insert(&peer->imports, packet->key, import);
	if (err) {
		err = err == -ENOMEM ? err : -EPROTO;
		goto fail;
	}
	peer->slots[packet->slot] = import;
	return 0;

fail:
	free(import);
	if (fd >= 0)
		close(fd);
	return err;
}

void shm_window_sweep(struct shm_peer *peer)
{
	for (uint32_t i = 0; i < SHM_EXPORTS_MAX; i++)
		if (peer->slots[i] && is_fenced(peer->slots[i]))
			empty_slot(peer, i);
}

int shm_window_import(struct fabric_peer *fabric_peer, struct fabric_window *window)
{
	struct shm_peer *peer = shm_peer_of(fabric_peer);
	struct shm_import *import = table_get(&peer->imports, window->key);
	void *memory;

	/* Its packet may still lie in the socket, and this one may have been withdrawn. */
	if (!import || import->epoch != window->epoch || is_fenced(import)) {
		shm_peer_take_packets(peer);
		if (fabric_peer->down || peer->state != SHM_OPEN)
			return AFAR_EPEER_DOWN;
		import = table_get(&peer->imports, window->key);
	}
	if (!import)
		return -ENOENT;
	if (import->epoch != window->epoch || is_fenced(import))
		return AFAR_EFENCED;
	if (import->size_bytes != window->size_bytes)
		return -EPROTO;
	memory = mmap(NULL, window->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, import->memfd,
		      0);
	if (memory == MAP_FAILED)
		return -errno;
	/* A child of ours is another process: it may outlive us, and our word to the owner. */
	madvise(memory, window->size_bytes, MADV_DONTFORK);
	import->references++;
	window->memory = memory;
	window->memfd = import->memfd;
	window->transport_data = import;
	return 0;
}

void shm_window_close(struct fabric_window *window)
{
	munmap(window->memory, window->size_bytes);
	drop_reference(window->transport_data);
}

static void carry_out(const struct fabric_op *op)
{
	unsigned char *memory = (unsigned char *)op->window->memory + op->offset;
	_Atomic uint64_t *word = (_Atomic uint64_t *)(void *)memory;
	uint64_t previous;

	switch (op->kind) {
	case FABRIC_OP_READ:
		memcpy(op->buf, memory, op->len_bytes);
		break;
	case FABRIC_OP_WRITE:
		memcpy(memory, op->buf, op->len_bytes);
		break;
	case FABRIC_OP_CAS:
		previous = op->operand[0];
		atomic_compare_exchange_strong(word, &previous, op->operand[1]);
		*op->previous = previous;
		break;
	case FABRIC_OP_FAA:
		*op->previous = atomic_fetch_add(word, op->operand[0]);
		break;
	}
}

int shm_window_submit(const struct fabric_op *op)
{
	struct fabric_peer *peer = op->window->peer;

	if (is_fenced(op->window->transport_data)) {
		fabric_counters(peer->fabric)->fenced++;
		fabric_op_done(peer, op->token, AFAR_EFENCED);
		return 0;
	}
	carry_out(op);
	fabric_op_done(peer, op->token, 0);
	return 0;
}
