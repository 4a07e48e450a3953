/*
 * tcp_client.c: our operations on the other end's memory
 *
 *   The other end serves in order, so the operations in flight are a queue: each reply belongs to
 *   the oldest. What a reply claims is held against what was asked.
 */
#include "fabric/tcp.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"

#include <string.h>

static struct tcp_op *oldest(const struct tcp_peer *peer)
{
	return &peer->ops[peer->ops_first & peer->ops_mask];
}

static const enum wire_kind wire_kinds[] = {
	[FABRIC_OP_READ] = WIRE_READ,
	[FABRIC_OP_WRITE] = WIRE_WRITE,
	[FABRIC_OP_CAS] = WIRE_CAS,
	[FABRIC_OP_FAA] = WIRE_FAA,
};

/* What of the payload travels next to the head. */
static uint32_t inline_bytes(const struct fabric_op *op)
{
	switch (op->kind) {
	case FABRIC_OP_READ:
		return 0;
	case FABRIC_OP_WRITE:
		return op->len_bytes <= TCP_INLINE_BYTES ? op->len_bytes : 0;
	case FABRIC_OP_CAS:
		return 2 * sizeof(uint64_t);
	case FABRIC_OP_FAA:
		return sizeof(uint64_t);
	}
	return 0;
}

int tcp_client_submit(const struct fabric_op *op)
{
	struct tcp_peer *peer = tcp_peer_of(op->window->peer);
	bool is_atomic = op->kind == FABRIC_OP_CAS || op->kind == FABRIC_OP_FAA;
	uint32_t beside_bytes = inline_bytes(op);
	struct wire_frame frame = {
		.kind = wire_kinds[op->kind],
		.len_bytes = is_atomic ? beside_bytes : op->len_bytes,
		.sequence = peer->ops_last,
		.epoch = op->window->epoch,
		.key = op->window->key,
		.offset = op->offset,
	};
	unsigned char *bytes = out_reserve(&peer->out, WIRE_REQUEST_BYTES + beside_bytes);

	if (!bytes)
		return -EAGAIN;
	wire_put_request(bytes, &frame);
	if (beside_bytes > 0)
		memcpy(bytes + WIRE_REQUEST_BYTES, is_atomic ? op->operand : op->buf, beside_bytes);
	out_commit(&peer->out, bytes, WIRE_REQUEST_BYTES + beside_bytes);
	/* The queue holds two segments for each operation that the bounds allow. */
	if (op->kind == FABRIC_OP_WRITE && beside_bytes == 0 &&
	    !out_borrow(&peer->out, op->buf, op->len_bytes, OUT_CALLER))
		assert(!"a segment for each write");
	peer->ops[peer->ops_last++ & peer->ops_mask] = (struct tcp_op){
		.kind = op->kind,
		.len_bytes = op->len_bytes,
		.buf = op->buf,
		.previous = op->previous,
		.token = op->token,
	};
	tcp_peer_mark_dirty(peer);
	return 0;
}

static void complete(struct tcp_peer *peer, int status)
{
	uint64_t token = oldest(peer)->token;

	peer->ops_first++;
	fabric_op_done(&peer->peer, token, status);
}

bool tcp_client_reads_next(const struct tcp_peer *peer)
{
	return peer->ops_first != peer->ops_last && oldest(peer)->kind == FABRIC_OP_READ;
}

void tcp_client_reply(struct tcp_peer *peer, const struct wire_frame *frame,
		      const unsigned char *payload)
{
	struct tcp_op *op = oldest(peer);

	if (peer->ops_first == peer->ops_last || frame->sequence != peer->ops_first) {
		tcp_peer_broke_protocol(peer);
		return;
	}
	if (frame->status != 0) {
		if (frame->status == AFAR_EFENCED)
			fabric_counters(peer->peer.fabric)->fenced++;
		complete(peer, frame->status);
		return;
	}
	if (frame->payload_bytes != (op->kind == FABRIC_OP_WRITE ? 0 : op->len_bytes)) {
		tcp_peer_broke_protocol(peer);
		return;
	}
	switch (op->kind) {
	case FABRIC_OP_READ:
		peer->in.sink = op->buf;
		peer->in.sink_left = op->len_bytes;
		peer->in.sink_is_write = false;
		return;
	case FABRIC_OP_WRITE:
		break;
	case FABRIC_OP_CAS:
	case FABRIC_OP_FAA:
		*op->previous = get_le64(payload);
		break;
	}
	complete(peer, 0);
}

void tcp_client_read_done(struct tcp_peer *peer)
{
	complete(peer, 0);
}

void tcp_client_fail_all(struct tcp_peer *peer)
{
	while (peer->ops_first != peer->ops_last)
		complete(peer, AFAR_EPEER_DOWN);
}
