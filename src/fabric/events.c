/*
 * events.c: the queue of events; events.h says how it is bounded
 */
#include "fabric/events.h"

#include "base/bits.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int events_create(struct events *events)
{
	memset(events, 0, sizeof(*events));
	events->messages = malloc((size_t)EVENTS_MESSAGES_MAX * FABRIC_MESSAGE_BYTES_MAX);
	if (!events->messages)
		return -ENOMEM;
	return events_reserve(events, 0);
}

void events_destroy(struct events *events)
{
	free(events->messages);
	free(events->slots);
}

int events_reserve(struct events *events, uint32_t count)
{
	uint64_t wanted = round_up_power_of_two((uint64_t)count + EVENTS_MESSAGES_MAX);
	uint32_t pending = events->last - events->first;

	if (wanted <= events->capacity)
		return 0;
	if (wanted > UINT32_C(1) << 31)
		return -ENOMEM;
	struct fabric_event *slots = calloc((size_t)wanted, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < pending; i++)
		slots[i] = events->slots[(events->first + i) & (events->capacity - 1)];
	free(events->slots);
	events->slots = slots;
	events->capacity = (uint32_t)wanted;
	events->first = 0;
	events->last = pending;
	return 0;
}

void events_put(struct events *events, const struct fabric_event *event)
{
	struct fabric_event *slot = &events->slots[events->last & (events->capacity - 1)];

	assert(events->last - events->first < events->capacity);
	*slot = *event;
	if (event->kind == FABRIC_MESSAGE) {
		unsigned char *buffer = events_message_buffer(events);

		assert(events_message_room(events) && event->len_bytes <= FABRIC_MESSAGE_BYTES_MAX);
		if (event->message != buffer && event->len_bytes > 0)
			memcpy(buffer, event->message, event->len_bytes);
		slot->message = buffer;
		events->messages_last++;
	}
	events->last++;
}

void events_take(struct events *events, struct fabric_event *event)
{
	assert(!events_is_empty(events));
	*event = events->slots[events->first & (events->capacity - 1)];
	events->first++;
	if (event->kind == FABRIC_MESSAGE)
		events->messages_polled++;
	if (events_is_empty(events)) {
		events->first = 0;
		events->last = 0;
	}
}

void events_release_messages(struct events *events)
{
	events->messages_first = events->messages_polled;
	if (events->messages_first == events->messages_last) {
		events->messages_first = 0;
		events->messages_polled = 0;
		events->messages_last = 0;
	}
}
