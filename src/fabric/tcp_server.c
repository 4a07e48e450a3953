/*
 * tcp_server.c: the other end's operations on our memory
 *
 *   The owner's polling thread serves them, between two events of its own. Each request is held
 *   against key, epoch and bounds at the moment in which it is carried out; a withdrawal falls
 *   between two requests, or ends one in the middle of its payload. So after it nothing of that
 *   peer's reaches the memory, and nothing of the memory waits to be sent.
 */
#include "fabric/tcp.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int tcp_server_export(struct fabric_peer *fabric_peer, uint64_t key, uint32_t epoch, void *memory,
		      uint64_t size_bytes, int memfd)
{
	struct tcp_peer *peer = tcp_peer_of(fabric_peer);
	struct tcp_export *export = malloc(sizeof(*export));
	int err;

	if (!export)
		return -ENOMEM;
	*export = (struct tcp_export){
		.key = key,
		.memory = memory,
		.size_bytes = size_bytes,
		.epoch = epoch,
	};
	err = (uintptr_t)memory % sizeof(uint64_t) ? -EINVAL
						   : table_insert(&peer->exports, key, export);
	if (err)
		free(export);
	return err == -ENOSPC ? -EMFILE : err;
}

/* The payload that is on its way to the export is read and dropped, and the write refused. */
static void divert_write(struct tcp_peer *peer, const struct tcp_export *export)
{
	struct tcp_in *in = &peer->in;
	uintptr_t place = (uintptr_t)in->sink - (uintptr_t) export->memory;

	if (in->sink_left > 0 && in->sink_is_write && in->sink && place < export->size_bytes) {
		in->sink = NULL;
		in->write_status = AFAR_EFENCED;
	}
}

int tcp_server_withdraw(struct fabric_peer *fabric_peer, uint64_t key)
{
	struct tcp_peer *peer = tcp_peer_of(fabric_peer);
	struct tcp_export *export = table_remove(&peer->exports, key);

	if (!export)
		return -ENOENT;
	peer->last_export = NULL;
	divert_write(peer, export);
	/* Somebody who asks for so much and takes none of it is cut off: the fence comes first. */
	if (out_detach(&peer->out, export->memory, export->size_bytes) != 0)
		tcp_peer_lost(peer, AFAR_EPEER_DOWN);
	free(export);
	return 0;
}

void tcp_server_forget(struct tcp_peer *peer)
{
	uint32_t cursor = 0;
	struct tcp_export *export;

	while ((export = table_next(&peer->exports, &cursor, NULL)))
		free(export);
	table_destroy(&peer->exports);
	memset(&peer->exports, 0, sizeof(peer->exports));
	peer->last_export = NULL;
}

/* Where the request's bytes are, or why it may not have them. */
static int find(struct tcp_peer *peer, const struct wire_frame *frame, uint64_t len_bytes,
		unsigned char **memory)
{
	struct tcp_export *export = peer->last_export;

	if (!export || export->key != frame->key)
		export = table_get(&peer->exports, frame->key);
	if (!export || export->epoch != frame->epoch) {
		fabric_counters(peer->peer.fabric)->fenced++;
		return AFAR_EFENCED;
	}
	peer->last_export = export;
	if (frame->offset > export->size_bytes || len_bytes > export->size_bytes - frame->offset) {
		fabric_counters(peer->peer.fabric)->out_of_range++;
		return -ERANGE;
	}
	*memory = export->memory + frame->offset;
	return 0;
}

/* Queues a reply, with up to TCP_INLINE_BYTES of payload copied behind its head. */
static void reply(struct tcp_peer *peer, uint32_t sequence, int status, const void *payload,
		  uint32_t len_bytes)
{
	uint32_t beside_bytes = len_bytes <= TCP_INLINE_BYTES ? len_bytes : 0;
	unsigned char *bytes = out_reserve(&peer->out, WIRE_REPLY_BYTES + beside_bytes);

	/* There is room for as many replies as an honest peer has requests in flight. */
	if (!bytes) {
		tcp_peer_broke_protocol(peer);
		return;
	}
	wire_put_reply(bytes, len_bytes, sequence, status);
	if (beside_bytes > 0)
		memcpy(bytes + WIRE_REPLY_BYTES, payload, beside_bytes);
	out_commit(&peer->out, bytes, WIRE_REPLY_BYTES + beside_bytes);
	if (len_bytes > beside_bytes && !out_borrow(&peer->out, payload, len_bytes, OUT_EXPORT)) {
		tcp_peer_broke_protocol(peer);
		return;
	}
	tcp_peer_mark_dirty(peer);
}

/* The word as it was before. */
static uint64_t carry_out_atomic(const struct wire_frame *frame, _Atomic uint64_t *word,
				 const unsigned char *operands)
{
	uint64_t first = get_le64(operands);

	if (frame->kind == WIRE_FAA)
		return atomic_fetch_add(word, first);
	atomic_compare_exchange_strong(word, &first, get_le64(operands + sizeof(uint64_t)));
	return first;
}

void tcp_server_request(struct tcp_peer *peer, const struct wire_frame *frame,
			const unsigned char *payload)
{
	bool is_atomic = frame->kind == WIRE_CAS || frame->kind == WIRE_FAA;
	unsigned char *memory = NULL;
	uint64_t previous;
	int status = find(peer, frame, is_atomic ? sizeof(uint64_t) : frame->len_bytes, &memory);

	if (!status && is_atomic && frame->offset % sizeof(uint64_t) != 0)
		status = -EINVAL;
	if (status) {
		reply(peer, frame->sequence, status, NULL, 0);
		return;
	}
	switch (frame->kind) {
	case WIRE_READ:
		reply(peer, frame->sequence, 0, memory, frame->len_bytes);
		break;
	case WIRE_WRITE:
		memcpy(memory, payload, frame->len_bytes);
		reply(peer, frame->sequence, 0, NULL, 0);
		break;
	default:
		previous = carry_out_atomic(frame, (_Atomic uint64_t *)(void *)memory, payload);
		reply(peer, frame->sequence, 0, &previous, sizeof(previous));
		break;
	}
}

void tcp_server_write_begin(struct tcp_peer *peer, const struct wire_frame *frame)
{
	struct tcp_in *in = &peer->in;

	in->sink = NULL;
	in->write_status = find(peer, frame, frame->len_bytes, &in->sink);
	in->write_sequence = frame->sequence;
	in->sink_left = frame->len_bytes;
	in->sink_is_write = true;
}

void tcp_server_write_done(struct tcp_peer *peer)
{
	reply(peer, peer->in.write_sequence, peer->in.write_status, NULL, 0);
}
