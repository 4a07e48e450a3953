/*
 * queue.h: a bounded queue of fixed-size elements, first in first out
 *
 *   Elements are copied in and out of a ring that is allocated once. What does not fit is refused
 *   and counted; nothing waits. One thread at a time.
 */
#ifndef AFAR_BASE_QUEUE_H
#define AFAR_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Read the counters freely; write nothing. */
struct queue {
	unsigned char *slots;
	size_t element_bytes;
	uint32_t capacity;
	uint32_t head; /* slot of the oldest element */
	uint32_t count;
	uint64_t pushed;
	uint64_t rejected;
};

/* Room for `capacity` elements. -EINVAL: either number is 0, or the product overflows. -ENOMEM. */
int queue_create(struct queue *queue, size_t element_bytes, uint32_t capacity);

/* Frees the slots, whatever they hold. A zeroed queue is fine. */
void queue_destroy(struct queue *queue);

/* Copies the element in, last. -ENOBUFS: full; counted. */
int queue_push(struct queue *queue, const void *element);

/* Moves the oldest element to *element. -EAGAIN: empty. */
int queue_pop(struct queue *queue, void *element);

/* The element that is `place` behind the oldest, in the queue's own memory; NULL if none is there.
 * Valid until the next push or pop. */
void *queue_at(const struct queue *queue, uint32_t place);

static inline bool queue_is_empty(const struct queue *queue)
{
	return queue->count == 0;
}

static inline bool queue_is_full(const struct queue *queue)
{
	return queue->count == queue->capacity;
}

#endif
