/*
 * wire.h: the frames of the tcp transport
 *
 *   After the hello (hello.h) both directions carry frames, one after the other: a head, then
 *   len_bytes of payload where the kind has any.
 *
 *     READ      ──►  request head                       len_bytes: how much is asked for
 *     WRITE     ──►  request head, payload
 *     CAS       ──►  request head, expected, desired    len_bytes: 16
 *     FAA       ──►  request head, delta                len_bytes: 8
 *     REPLY     ◄──  reply head, payload                READ: the bytes; CAS, FAA: what was there
 *     MESSAGE   ◄─►  short head, payload                at most FABRIC_MESSAGE_BYTES_MAX
 *     PING      ◄─►  short head                         says: still here
 *
 *   Requests are served in order, so replies come in the order of the requests, and `sequence`
 *   only proves that both ends count alike. A reply with a status other than 0 has no payload.
 *
 *   Words are little-endian, as the machine's (base/bits.h asserts it). There is no checksum: tcp
 *   has one, and the floors above keep their own over what they store.
 */
#ifndef AFAR_FABRIC_WIRE_H
#define AFAR_FABRIC_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MAGIC          0xafa1u
#define WIRE_SHORT_BYTES    8u
#define WIRE_REPLY_BYTES    16u
#define WIRE_REQUEST_BYTES  32u
#define WIRE_HEAD_BYTES_MAX 32u

enum wire_kind {
	WIRE_READ = 1,
	WIRE_WRITE,
	WIRE_CAS,
	WIRE_FAA,
	WIRE_REPLY,
	WIRE_MESSAGE,
	WIRE_PING,
	WIRE_KINDS,
};

/* Every head begins so. */
struct wire_short {
	uint16_t magic;
	uint8_t kind; /* enum wire_kind */
	uint8_t reserved;
	uint32_t len_bytes;
};

struct wire_reply {
	struct wire_short head;
	int32_t status; /* 0 or a negative error */
	uint32_t sequence;
};

struct wire_request {
	struct wire_short head;
	uint32_t sequence;
	uint32_t epoch;
	uint64_t key;
	uint64_t offset;
};

static_assert(sizeof(struct wire_short) == WIRE_SHORT_BYTES, "version 1");
static_assert(sizeof(struct wire_reply) == WIRE_REPLY_BYTES, "version 1");
static_assert(sizeof(struct wire_request) == WIRE_REQUEST_BYTES, "version 1");
static_assert(offsetof(struct wire_request, key) == 16, "version 1");

/* A head as it was decoded; fields that its kind does not have are 0. */
struct wire_frame {
	enum wire_kind kind;
	uint32_t len_bytes;     /* as on the wire */
	uint32_t payload_bytes; /* what follows the head: 0 for a READ */
	uint32_t sequence;
	int32_t status;
	uint32_t epoch;
	uint64_t key;
	uint64_t offset;
};

/*
 * Decodes the head at `bytes`. Returns its length; 0: it is not all there yet; -EPROTO: no head of
 * ours can begin so. Lengths are within the bounds of their kind afterwards; everything else is
 * the peer's word.
 */
int wire_decode(const void *bytes, size_t len_bytes, struct wire_frame *frame);

/* Write a head to `bytes`, which has room for it; return its length. */
uint32_t wire_put_short(void *bytes, enum wire_kind kind, uint32_t len_bytes);
uint32_t wire_put_reply(void *bytes, uint32_t len_bytes, uint32_t sequence, int32_t status);
uint32_t wire_put_request(void *bytes, const struct wire_frame *frame);

#endif
