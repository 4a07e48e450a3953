/*
 * access.c: one-sided operations and messages, on their way down
 *
 *   Here is what every transport may rely on: lengths and offsets are within the window, the peer
 *   is not down, and no more operations are outstanding than their DONEs have room for.
 */
#include "fabric/fabric_state.h"

#include "afar/error.h"

#include <errno.h>

static int submit(const struct fabric_op *op)
{
	struct fabric_peer *peer = op->window->peer;
	uint64_t size_bytes = op->window->size_bytes;
	int err;

	if (op->len_bytes == 0 || op->len_bytes > FABRIC_IO_BYTES_MAX)
		return -EINVAL;
	if (op->offset > size_bytes || op->len_bytes > size_bytes - op->offset)
		return -ERANGE;
	if (peer->down)
		return AFAR_EPEER_DOWN;
	if (peer->outstanding >= peer->operations_max)
		return -EAGAIN;
	peer->outstanding++;
	peer->in_flight++;
	err = peer->transport->ops->submit(op);
	if (err) {
		peer->outstanding--;
		peer->in_flight--;
	}
	return err;
}

int fabric_read(struct fabric_window *window, uint64_t offset, void *buf, uint32_t len_bytes,
		uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_READ,
		.len_bytes = len_bytes,
		.window = window,
		.offset = offset,
		.buf = buf,
		.token = token,
	};
	int err = submit(&op);

	if (!err) {
		window->peer->fabric->stats.reads++;
		window->peer->fabric->stats.bytes_read += len_bytes;
	}
	return err;
}

int fabric_write(struct fabric_window *window, uint64_t offset, const void *bytes,
		 uint32_t len_bytes, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_WRITE,
		.len_bytes = len_bytes,
		.window = window,
		.offset = offset,
		.buf = (void *)(uintptr_t)bytes,
		.token = token,
	};
	int err = submit(&op);

	if (!err) {
		window->peer->fabric->stats.writes++;
		window->peer->fabric->stats.bytes_written += len_bytes;
	}
	return err;
}

static int submit_atomic(const struct fabric_op *op)
{
	int err;

	if (op->offset % sizeof(uint64_t) != 0)
		return -EINVAL;
	err = submit(op);
	if (!err)
		op->window->peer->fabric->stats.atomics++;
	return err;
}

int fabric_compare_and_swap(struct fabric_window *window, uint64_t offset,
			    const uint64_t *expected_desired, uint64_t *previous, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_CAS,
		.len_bytes = sizeof(uint64_t),
		.window = window,
		.offset = offset,
		.operand = {expected_desired[0], expected_desired[1]},
		.previous = previous,
		.token = token,
	};

	return submit_atomic(&op);
}

int fabric_fetch_and_add(struct fabric_window *window, uint64_t offset, uint64_t delta,
			 uint64_t *previous, uint64_t token)
{
	struct fabric_op op = {
		.kind = FABRIC_OP_FAA,
		.len_bytes = sizeof(uint64_t),
		.window = window,
		.offset = offset,
		.operand = {delta},
		.previous = previous,
		.token = token,
	};

	return submit_atomic(&op);
}

int fabric_send(struct fabric_peer *peer, const void *message, uint32_t len_bytes)
{
	int err;

	if (len_bytes > FABRIC_MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	if (peer->down || !peer->up)
		return AFAR_EPEER_DOWN;
	err = peer->transport->ops->send(peer, message, len_bytes);
	if (!err)
		peer->fabric->stats.messages_sent++;
	return err;
}

void fabric_flush(struct fabric *fabric)
{
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fabric->transports[i]->ops->flush(fabric->transports[i]);
}
