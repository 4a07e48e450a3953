/*
 * fabric_ring.c: whatever another process writes into a ring, its consumer stays inside the ring
 * and its buffer
 */
#include "fabric/ring.h"

#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define CAPACITY   1024u
#define SIZE_BYTES (RING_OVERHEAD_BYTES + CAPACITY)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

/* The input overwrites the producer's cursor and state, then the data. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	/* Exactly so large: the sanitizer sees a byte too far. */
	struct ring_memory *memory = aligned_alloc(RING_LINE_BYTES, SIZE_BYTES);
	unsigned char buf[CAPACITY];
	struct ring ring;
	uint64_t total_bytes = 0;
	size_t taken_bytes;

	if (!memory)
		return 0;
	memset(memory, 0, SIZE_BYTES);
	ring_format(memory, SIZE_BYTES);
	if (len_bytes >= 12) {
		struct ring_side *producer = &memory->side[RING_PRODUCER];
		size_t data_bytes = len_bytes - 12 < CAPACITY ? len_bytes - 12 : CAPACITY;

		memcpy((void *)&producer->cursor, bytes, 8);
		memcpy((void *)&producer->state, bytes + 8, 4);
		memcpy(memory->data, bytes + 12, data_bytes);
	}
	if (ring_open(&ring, memory, SIZE_BYTES, RING_CONSUMER) != 0)
		abort();
	while (ring_take(&ring, buf, sizeof(buf), &taken_bytes) == 0)
		total_bytes += RING_FRAME_BYTES + taken_bytes;
	if (total_bytes > CAPACITY)
		abort();
	free(memory);
	return 0;
}
