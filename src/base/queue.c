#include "base/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int queue_create(struct queue *queue, size_t element_bytes, uint32_t capacity)
{
	size_t total_bytes;
	unsigned char *slots;

	*queue = (struct queue){0};
	if (element_bytes == 0 || capacity == 0 ||
	    __builtin_mul_overflow(element_bytes, (size_t)capacity, &total_bytes))
		return -EINVAL;
	slots = malloc(total_bytes);
	if (!slots)
		return -ENOMEM;
	queue->slots = slots;
	queue->element_bytes = element_bytes;
	queue->capacity = capacity;
	return 0;
}

void queue_destroy(struct queue *queue)
{
	free(queue->slots);
	*queue = (struct queue){0};
}

/* The slot `place` behind the oldest; place is below capacity. */
static unsigned char *slot_at(const struct queue *queue, uint32_t place)
{
	uint64_t slot = (uint64_t)queue->head + place;

	if (slot >= queue->capacity)
		slot -= queue->capacity;
	return &queue->slots[slot * queue->element_bytes];
}

int queue_push(struct queue *queue, const void *element)
{
	if (queue_is_full(queue)) {
		queue->rejected++;
		return -ENOBUFS;
	}
	memcpy(slot_at(queue, queue->count), element, queue->element_bytes);
	queue->count++;
	queue->pushed++;
	return 0;
}

int queue_pop(struct queue *queue, void *element)
{
	if (queue_is_empty(queue))
		return -EAGAIN;
	memcpy(element, slot_at(queue, 0), queue->element_bytes);
	queue->head = queue->head + 1 == queue->capacity ? 0 : queue->head + 1;
	queue->count--;
	return 0;
}

void *queue_at(const struct queue *queue, uint32_t place)
{
	return place < queue->count ? slot_at(queue, place) : NULL;
}
