/*
 * fabric_wire.c: whatever a tcp peer sends, a head that is accepted keeps the bounds of its kind,
 * and says what it said when it is written again
 */
#include "fabric/fabric.h"
#include "fabric/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static uint32_t write_again(unsigned char *bytes, const struct wire_frame *frame)
{
	switch (frame->kind) {
	case WIRE_REPLY:
		return wire_put_reply(bytes, frame->len_bytes, frame->sequence, frame->status);
	case WIRE_MESSAGE:
	case WIRE_PING:
		return wire_put_short(bytes, frame->kind, frame->len_bytes);
	default:
		return wire_put_request(bytes, frame);
	}
}

static void check(const struct wire_frame *frame, const uint8_t *bytes, int head_bytes)
{
	unsigned char again[WIRE_HEAD_BYTES_MAX];

	if (frame->payload_bytes > FABRIC_IO_BYTES_MAX || frame->len_bytes > FABRIC_IO_BYTES_MAX)
		abort();
	if (frame->kind == WIRE_MESSAGE && frame->len_bytes > FABRIC_MESSAGE_BYTES_MAX)
		abort();
	if (frame->status > 0 || (frame->status && frame->payload_bytes))
		abort();
	if (write_again(again, frame) != (uint32_t)head_bytes ||
	    memcmp(again, bytes, (size_t)head_bytes) != 0)
		abort();
}

/* As a connection would: head after head, over the payloads. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	size_t place = 0;

	while (place < len_bytes) {
		struct wire_frame frame;
		int head_bytes = wire_decode(bytes + place, len_bytes - place, &frame);

		if (head_bytes <= 0)
			break;
		if ((size_t)head_bytes > len_bytes - place)
			abort();
		check(&frame, bytes + place, head_bytes);
		place += (size_t)head_bytes + frame.payload_bytes;
	}
	return 0;
}
