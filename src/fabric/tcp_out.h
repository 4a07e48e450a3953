/*
 * tcp_out.h: what is to be sent on one connection, in order
 *
 *   The queue is a list of segments over three kinds of memory:
 *
 *     copied      heads, messages and small payloads, in a ring of bytes of the queue's own
 *     caller's    payloads of our writes: the caller keeps them until DONE
 *     exported    payloads of replies to reads: the exporter keeps them until the withdrawal
 *
 *   Large payloads are therefore never copied; one sendmsg() takes as many segments as the kernel
 *   allows. Neighbours in the ring grow into one segment, so a batch of small requests is one
 *   piece of memory.
 *
 *   Borrowed memory may be asked back before it was sent (a fence, a disconnection): detach copies
 *   what is left of it, up to OUT_DETACH_BYTES_MAX.
 *
 *   Bounds: the ring and the number of segments are set at creation. The caller of reserve and
 *   borrow sizes them so that they never run out for those who keep to the protocol.
 */
#ifndef AFAR_FABRIC_TCP_OUT_H
#define AFAR_FABRIC_TCP_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUT_DETACH_BYTES_MAX (4u << 20)

enum out_origin { OUT_COPIED, OUT_CALLER, OUT_EXPORT, OUT_DETACHED };

struct out_segment {
	const unsigned char *bytes; /* what is left to send */
	uint32_t left_bytes;
	enum out_origin origin;
	uint64_t ring_end; /* copied: the cursor behind its last byte */
};

struct out_block; /* bytes that a detach copied */

struct out {
	unsigned char *ring;
	uint32_t ring_bytes; /* a power of two */
	uint64_t head;       /* cursors of the ring: bytes in [head, tail) are taken */
	uint64_t tail;
	struct out_segment *segments;
	uint32_t segments_max; /* a power of two */
	uint32_t first;        /* count up */
	uint32_t last;
	struct out_block *blocks;
};

/* -ENOMEM. Numbers are rounded up to powers of two. */
int out_create(struct out *out, uint32_t ring_bytes, uint32_t segments_max);
/* A zeroed queue is fine. */
void out_destroy(struct out *out);

static inline bool out_is_empty(const struct out *out)
{
	return out->first == out->last;
}

/* Bytes of the ring that wait to be sent. */
static inline uint64_t out_copied_bytes(const struct out *out)
{
	return out->tail - out->head;
}

/* Room for len_bytes in one piece, to be filled at once and committed; NULL: no room. */
unsigned char *out_reserve(struct out *out, uint32_t len_bytes);
void out_commit(struct out *out, const unsigned char *bytes, uint32_t len_bytes);

/* Queues memory of somebody else. false: no room for another segment. */
bool out_borrow(struct out *out, const void *bytes, uint32_t len_bytes, enum out_origin origin);

/*
 * One sendmsg(), or several if one cannot hold it all. 0: all is sent. -EAGAIN: the socket takes no
 * more now. Other errnos: the connection is over. *sent_bytes says how much went.
 */
int out_send(struct out *out, int fd, size_t *sent_bytes);

/*
 * Copies what is queued of [memory, memory + size_bytes), of all borrowed memory if `memory` is
 * NULL. -EMSGSIZE: more than OUT_DETACH_BYTES_MAX. -ENOMEM. Nothing has changed then.
 */
int out_detach(struct out *out, const void *memory, uint64_t size_bytes);

#endif
