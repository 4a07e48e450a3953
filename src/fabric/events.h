/*
 * events.h: what fabric_poll() will return, in order, and the bytes of messages until then
 *
 *   A queue with room for everything that may happen: it grows when a peer is enrolled, by what
 *   that peer may cause at once, so putting an event cannot fail. Only messages are not bounded by
 *   us; they have MESSAGES_MAX slots of their own, and a transport that finds none free leaves
 *   the message where it is.
 *
 *   Both start over at their first slot whenever they run empty: a thread that takes what it gets
 *   one by one always meets the same few cache lines.
 */
#ifndef AFAR_FABRIC_EVENTS_H
#define AFAR_FABRIC_EVENTS_H

#include "fabric/fabric.h"

#include <stdbool.h>
#include <stdint.h>

#define EVENTS_MESSAGES_MAX 64u

struct events {
	struct fabric_event *slots;
	uint32_t capacity; /* a power of two */
	uint32_t first;    /* of the next event to take; counts up, as `last` does */
	uint32_t last;     /* behind the newest */

	unsigned char *messages;  /* EVENTS_MESSAGES_MAX times FABRIC_MESSAGE_BYTES_MAX */
	uint32_t messages_first;  /* the oldest whose bytes must stay */
	uint32_t messages_polled; /* the oldest that was not handed to the caller */
	uint32_t messages_last;
};

int events_create(struct events *events);
void events_destroy(struct events *events);

/* Makes room for so many events beside those of messages. -ENOMEM. */
int events_reserve(struct events *events, uint32_t count);

static inline bool events_is_empty(const struct events *events)
{
	return events->first == events->last;
}

static inline bool events_message_room(const struct events *events)
{
	return events->messages_last - events->messages_first < EVENTS_MESSAGES_MAX;
}

/* Where the next message goes; there is room for it. */
static inline unsigned char *events_message_buffer(struct events *events)
{
	return events->messages +
	       (size_t)(events->messages_last % EVENTS_MESSAGES_MAX) * FABRIC_MESSAGE_BYTES_MAX;
}

/* Copies the event in, and a message that is not yet in events_message_buffer(). */
void events_put(struct events *events, const struct fabric_event *event);

/* Takes the oldest event; there is one. */
void events_take(struct events *events, struct fabric_event *event);

/* The caller is done with the messages of its last poll. */
void events_release_messages(struct events *events);

#endif
