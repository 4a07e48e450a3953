/*
 * wire.c: heads of frames, encoded and decoded; wire.h says what they mean
 */
#include "fabric/wire.h"

#include "base/bits.h"
#include "fabric/fabric.h"

#include <errno.h>
#include <string.h>

/* Of each kind: how long its head is, and which payloads it may have. */
static const struct {
	uint32_t head_bytes;
	uint32_t len_bytes_min;
	uint32_t len_bytes_max;
} limits[WIRE_KINDS] = {
	[WIRE_READ] = {WIRE_REQUEST_BYTES, 1, FABRIC_IO_BYTES_MAX},
	[WIRE_WRITE] = {WIRE_REQUEST_BYTES, 1, FABRIC_IO_BYTES_MAX},
	[WIRE_CAS] = {WIRE_REQUEST_BYTES, 16, 16},
	[WIRE_FAA] = {WIRE_REQUEST_BYTES, 8, 8},
	[WIRE_REPLY] = {WIRE_REPLY_BYTES, 0, FABRIC_IO_BYTES_MAX},
	[WIRE_MESSAGE] = {WIRE_SHORT_BYTES, 0, FABRIC_MESSAGE_BYTES_MAX},
	[WIRE_PING] = {WIRE_SHORT_BYTES, 0, 0},
};

int wire_decode(const void *bytes, size_t len_bytes, struct wire_frame *frame)
{
	struct wire_short head;

	if (len_bytes < sizeof(head))
		return 0;
	memcpy(&head, bytes, sizeof(head));
	if (head.magic != WIRE_MAGIC || head.reserved != 0)
		return -EPROTO;
	if (head.kind == 0 || head.kind >= WIRE_KINDS)
		return -EPROTO;
	if (head.len_bytes < limits[head.kind].len_bytes_min ||
	    head.len_bytes > limits[head.kind].len_bytes_max)
		return -EPROTO;
	if (len_bytes < limits[head.kind].head_bytes)
		return 0;

	*frame = (struct wire_frame){
		.kind = (enum wire_kind)head.kind,
		.len_bytes = head.len_bytes,
		.payload_bytes = head.kind == WIRE_READ ? 0 : head.len_bytes,
	};
	if (head.kind == WIRE_REPLY) {
		struct wire_reply reply;

		memcpy(&reply, bytes, sizeof(reply));
		frame->status = reply.status;
		frame->sequence = reply.sequence;
		if (reply.status > 0 || (reply.status != 0 && head.len_bytes != 0))
			return -EPROTO;
	} else if (limits[head.kind].head_bytes == WIRE_REQUEST_BYTES) {
		struct wire_request request;

		memcpy(&request, bytes, sizeof(request));
		frame->sequence = request.sequence;
		frame->epoch = request.epoch;
		frame->key = request.key;
		frame->offset = request.offset;
	}
	return (int)limits[head.kind].head_bytes;
}

uint32_t wire_put_short(void *bytes, enum wire_kind kind, uint32_t len_bytes)
{
	struct wire_short head = {
		.magic = WIRE_MAGIC,
		.kind = (uint8_t)kind,
		.len_bytes = len_bytes,
	};

	memcpy(bytes, &head, sizeof(head));
	return sizeof(head);
}

uint32_t wire_put_reply(void *bytes, uint32_t len_bytes, uint32_t sequence, int32_t status)
{
	struct wire_reply reply = {
		.head = {.magic = WIRE_MAGIC, .kind = WIRE_REPLY, .len_bytes = len_bytes},
		.status = status,
		.sequence = sequence,
	};

	memcpy(bytes, &reply, sizeof(reply));
	return sizeof(reply);
}

uint32_t wire_put_request(void *bytes, const struct wire_frame *frame)
{
	struct wire_request request = {
		.head = {.magic = WIRE_MAGIC,
			 .kind = (uint8_t)frame->kind,
			 .len_bytes = frame->len_bytes},
		.sequence = frame->sequence,
		.epoch = frame->epoch,
		.key = frame->key,
		.offset = frame->offset,
	};

	memcpy(bytes, &request, sizeof(request));
	return sizeof(request);
}
