/*
 * tcp_out.c: the queue of a connection; tcp_out.h says what is in it
 */
#include "fabric/tcp_out.h"

#include "base/base.h"
#include "base/bits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Segments of one sendmsg(). */
#define IOV_MAX_ONCE 128u

struct out_block {
	struct out_block *next;
	unsigned char bytes[];
};

int out_create(struct out *out, uint32_t ring_bytes, uint32_t segments_max)
{
	memset(out, 0, sizeof(*out));
	out->ring_bytes = (uint32_t)round_up_power_of_two(ring_bytes);
	out->segments_max = (uint32_t)round_up_power_of_two(segments_max);
	out->ring = malloc(out->ring_bytes);
	out->segments = malloc(out->segments_max * sizeof(*out->segments));
	if (out->ring && out->segments)
		return 0;
	out_destroy(out);
	return -ENOMEM;
}

static void free_blocks(struct out *out)
{
	while (out->blocks) {
		struct out_block *block = out->blocks;

		out->blocks = block->next;
		free(block);
	}
}

void out_destroy(struct out *out)
{
	free_blocks(out);
	free(out->ring);
	free(out->segments);
	memset(out, 0, sizeof(*out));
}

static struct out_segment *segment_at(const struct out *out, uint32_t place)
{
	return &out->segments[place & (out->segments_max - 1)];
}

unsigned char *out_reserve(struct out *out, uint32_t len_bytes)
{
	uint64_t place = out->tail & (out->ring_bytes - 1);
	uint64_t skip = place + len_bytes > out->ring_bytes ? out->ring_bytes - place : 0;

	/* One segment in hand: commit may need it. */
	if (out->last - out->first == out->segments_max ||
	    out->tail - out->head + skip + len_bytes > out->ring_bytes)
		return NULL;
	out->tail += skip;
	return &out->ring[out->tail & (out->ring_bytes - 1)];
}

void out_commit(struct out *out, const unsigned char *bytes, uint32_t len_bytes)
{
	struct out_segment *newest = segment_at(out, out->last - 1);

	out->tail += len_bytes;
	if (!out_is_empty(out) && newest->origin == OUT_COPIED &&
	    newest->bytes + newest->left_bytes == bytes) {
		newest->left_bytes += len_bytes;
		newest->ring_end = out->tail;
		return;
	}
	*segment_at(out, out->last++) = (struct out_segment){
		.bytes = bytes,
		.left_bytes = len_bytes,
		.origin = OUT_COPIED,
		.ring_end = out->tail,
	};
}

bool out_borrow(struct out *out, const void *bytes, uint32_t len_bytes, enum out_origin origin)
{
	if (out->last - out->first == out->segments_max)
		return false;
	*segment_at(out, out->last++) = (struct out_segment){
		.bytes = bytes,
		.left_bytes = len_bytes,
		.origin = origin,
	};
	return true;
}

/* Empty: the next bytes go to the ring's start, which is in the cache. */
static void start_over(struct out *out)
{
	out->head = 0;
	out->tail = 0;
	out->first = 0;
	out->last = 0;
	free_blocks(out);
}

static void consume(struct out *out, size_t sent_bytes)
{
	while (sent_bytes > 0) {
		struct out_segment *segment = segment_at(out, out->first);
		uint32_t taken = (uint32_t)min_size(sent_bytes, segment->left_bytes);

		assert(!out_is_empty(out));
		segment->bytes += taken;
		segment->left_bytes -= taken;
		sent_bytes -= taken;
		/* Also what is sent of a segment that goes on growing is free again. */
		if (segment->origin == OUT_COPIED)
			out->head = segment->ring_end - segment->left_bytes;
		if (segment->left_bytes == 0)
			out->first++;
	}
	if (out_is_empty(out))
		start_over(out);
}

/* One system call. Returns what it took, or a negative errno; *wanted is what it was offered. */
static ssize_t send_some(const struct out *out, int fd, size_t *wanted)
{
	struct iovec iov[IOV_MAX_ONCE];
	struct msghdr message = {.msg_iov = iov};
	ssize_t sent;

	*wanted = 0;
	for (uint32_t i = out->first; i != out->last && message.msg_iovlen < IOV_MAX_ONCE; i++) {
		struct out_segment *segment = segment_at(out, i);

		iov[message.msg_iovlen++] = (struct iovec){
			.iov_base = (void *)(uintptr_t)segment->bytes,
			.iov_len = segment->left_bytes,
		};
		*wanted += segment->left_bytes;
	}
	if (message.msg_iovlen == 1)
		sent = send(fd, iov[0].iov_base, iov[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
		sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent >= 0)
		return sent;
	return errno == EINTR || errno == ENOBUFS || errno == ENOMEM ? -EAGAIN : -errno;
}

int out_send(struct out *out, int fd, size_t *sent_bytes)
{
	*sent_bytes = 0;
	while (!out_is_empty(out)) {
		size_t wanted;
		ssize_t sent = send_some(out, fd, &wanted);

		if (sent < 0)
			return (int)sent;
		consume(out, (size_t)sent);
		*sent_bytes += (size_t)sent;
		if ((size_t)sent < wanted)
			return -EAGAIN;
	}
	return 0;
}

static bool is_within(const struct out_segment *segment, const void *memory, uint64_t size_bytes)
{
	uintptr_t place = (uintptr_t)segment->bytes - (uintptr_t)memory;

	bool borrowed = segment->origin == OUT_CALLER || segment->origin == OUT_EXPORT;

	return borrowed && (!memory || place < size_bytes);
}

int out_detach(struct out *out, const void *memory, uint64_t size_bytes)
{
	struct out_block *block;
	size_t total = 0;
	size_t place = 0;

	for (uint32_t i = out->first; i != out->last; i++)
		if (is_within(segment_at(out, i), memory, size_bytes))
			total += segment_at(out, i)->left_bytes;
	if (total == 0)
		return 0;
	if (total > OUT_DETACH_BYTES_MAX)
		return -EMSGSIZE;
	block = malloc(sizeof(*block) + total);
	if (!block)
		return -ENOMEM;
	for (uint32_t i = out->first; i != out->last; i++) {
		struct out_segment *segment = segment_at(out, i);

		if (!is_within(segment, memory, size_bytes))
			continue;
		memcpy(block->bytes + place, segment->bytes, segment->left_bytes);
		segment->bytes = block->bytes + place;
		segment->origin = OUT_DETACHED;
		place += segment->left_bytes;
	}
	block->next = out->blocks;
	out->blocks = block;
	return 0;
}
