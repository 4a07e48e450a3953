/*
 * ring.c: the message ring; ring.h tells its story, and this comment the order of its accesses
 *
 *   Frames are plain memory, handed over by the cursors; for I2, release and acquire would do:
 *
 *     producer: write frame, store tail  ─►  consumer: load tail, read frame
 *     consumer: read frame, store head   ─►  producer: load head, overwrite frame
 *
 *   Sleeping asks for more:
 *
 *     publisher: store cursor, load asleep       sleeper: store asleep, load cursor
 *
 *   Release and acquire let each load overtake the store before it: the publisher sees nobody
 *   asleep, the sleeper sees nothing new, and sleeps beside a message. So every access to
 *   cursor, asleep and state is sequentially consistent, the default. In their single total order
 *   one of the two stores comes first, and the other side's load sees it. The price is one locked
 *   store a publish: the loads are the same instructions as acquire loads.
 */
#include "fabric/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* The capacity of a ring of size_bytes at memory; 0 if there can be none. */
static uint64_t capacity_of(const void *memory, size_t size_bytes)
{
	/* A size below the overhead wraps to a capacity above any bound. */
	uint64_t capacity = size_bytes - RING_OVERHEAD_BYTES;
	bool bounded = capacity >= RING_CAPACITY_MIN && capacity <= RING_CAPACITY_MAX;
	bool power_of_two = (capacity & (capacity - 1)) == 0;
	bool aligned = (uintptr_t)memory % RING_LINE_BYTES == 0;

	return bounded && power_of_two && aligned ? capacity : 0;
}

int ring_format(void *memory, size_t size_bytes)
{
	struct ring_memory *shared = memory;

	if (capacity_of(memory, size_bytes) == 0)
		return -EINVAL;
	memset(shared, 0, RING_OVERHEAD_BYTES);
	shared->magic = RING_MAGIC;
	shared->version = RING_VERSION;
	shared->capacity = capacity_of(memory, size_bytes);
	return 0;
}

int ring_open(struct ring *ring, void *memory, size_t size_bytes, enum ring_role role)
{
	struct ring_memory *shared = memory;
	uint64_t capacity = capacity_of(memory, size_bytes);
	uint32_t absent = RING_ABSENT;

	if (capacity == 0)
		return -EINVAL;
	/* No checksum: who can write the ring can write its checksum. */
	if (shared->magic != RING_MAGIC || shared->version != RING_VERSION ||
	    shared->capacity != capacity)
		return -EPROTO;
	if (!atomic_compare_exchange_strong(&shared->side[role].state, &absent, RING_OPEN))
		return -EBUSY;

	*ring = (struct ring){
		.role = role,
		.capacity = capacity,
		.data = shared->data,
		.self = &shared->side[role],
		.peer = &shared->side[role == RING_PRODUCER ? RING_CONSUMER : RING_PRODUCER],
		.slack = role == RING_PRODUCER ? capacity : 0,
	};
	return 0;
}

/* Ends the ring for the peer's misconduct. No room: each later call comes to peer_verdict(). */
static int condemn(struct ring *ring, const char *fault)
{
	ring->fault = fault;
	ring->room = 0;
	return -EPROTO;
}

/* 0 while the peer may still act, or why it will not. */
static int peer_verdict(struct ring *ring)
{
	if (ring->fault)
		return -EPROTO;
	if (ring->peer_dead)
		return -ECONNRESET;
	switch (atomic_load(&ring->peer->state)) {
	case RING_ABSENT:
	case RING_OPEN:
		return 0;
	case RING_CLOSED:
		return -EPIPE;
	default:
		return condemn(ring, "unknown state");
	}
}

/*
 * Sees to it that this side may move `bytes`. 0: it may; -EAGAIN: not yet; else never.
 *
 * The verdict is taken before the cursor is read: what the peer published before its end is then
 * in the cursor, and the consumer drains it before it hears of the end.
 */
static int look(struct ring *ring, uint64_t bytes)
{
	if (ring->room >= bytes)
		return 0;

	int verdict = peer_verdict(ring);
	uint64_t room = atomic_load(&ring->peer->cursor) + ring->slack - ring->cursor;

	if (verdict == -EPROTO)
		return verdict;
	/* I1 for either side at once: unsigned, a cursor out of order makes a huge room. */
	if (room > ring->capacity || room < ring->room || room % RING_FRAME_BYTES != 0)
		return condemn(ring, "cursor out of bounds");
	ring->room = room;
	if (room >= bytes)
		return 0;
	return verdict ? verdict : -EAGAIN;
}

/* A frame is its word, then the message, padded so that the next word is aligned. */
static uint64_t frame_bytes(size_t len_bytes)
{
	return RING_FRAME_BYTES + ((len_bytes + 7) & ~(uint64_t)7);
}

/* The word of the frame at this side's cursor: its length, and its sequence above. */
static _Atomic uint64_t *frame_word(const struct ring *ring)
{
	return (_Atomic uint64_t *)(void *)&ring->data[ring->cursor & (ring->capacity - 1)];
}

/* The message follows its word; so much of it fits before the end, the rest goes to the start. */
static size_t before_end(const struct ring *ring, size_t len_bytes)
{
	size_t left = ring->capacity - RING_FRAME_BYTES - (ring->cursor & (ring->capacity - 1));

	return len_bytes < left ? len_bytes : left;
}

static void advance(struct ring *ring, uint64_t bytes)
{
	assert(bytes <= ring->room);
	ring->cursor += bytes;
	ring->room -= bytes;
	ring->messages++;
}

int ring_put(struct ring *ring, const void *msg, size_t len_bytes)
{
	assert(ring->role == RING_PRODUCER && msg);
	if (len_bytes > ring->capacity - RING_FRAME_BYTES)
		return -EMSGSIZE;

	int err = look(ring, frame_bytes(len_bytes));
	if (err)
		return err;

	_Atomic uint64_t *word = frame_word(ring);
	size_t first = before_end(ring, len_bytes);

	/* Relaxed: show_cursor() hands the word over with the rest of the frame. */
	atomic_store_explicit(word, ring->messages << 32 | len_bytes, memory_order_relaxed);
	memcpy(word + 1, msg, first);
	memcpy(ring->data, (const unsigned char *)msg + first, len_bytes - first);
	advance(ring, frame_bytes(len_bytes));
	return 0;
}

static void show_cursor(struct ring *ring)
{
	if (ring->published == ring->cursor)
		return;
	ring->published = ring->cursor;
	atomic_store(&ring->self->cursor, ring->cursor);
}

bool ring_publish(struct ring *ring)
{
	assert(ring->role == RING_PRODUCER);
	if (ring->published == ring->cursor)
		return false;
	show_cursor(ring);
	/* Cleared by whoever rings, so that one sleep is ended by one bell. */
	if (!atomic_load(&ring->peer->asleep) || !atomic_exchange(&ring->peer->asleep, 0))
		return false;
	ring->bells++;
	return true;
}

int ring_take(struct ring *ring, void *buf, size_t size_bytes, size_t *len_bytes)
{
	assert(ring->role == RING_CONSUMER && buf);

	int err = look(ring, RING_FRAME_BYTES);
	if (err)
		return err;

	/* One atomic load: a plain one may be repeated, and the peer change it after the check. */
	_Atomic uint64_t *word = frame_word(ring);
	uint64_t header = atomic_load_explicit(word, memory_order_relaxed);
	uint32_t length = (uint32_t)header;
	size_t first = before_end(ring, length);

	if (header >> 32 != (uint32_t)ring->messages)
		return condemn(ring, "sequence broken");
	if (frame_bytes(length) > ring->room)
		return condemn(ring, "frame longer than published");
	*len_bytes = length;
	if (length > size_bytes)
		return -EMSGSIZE;
	memcpy(buf, word + 1, first);
	memcpy((unsigned char *)buf + first, ring->data, length - first);
	advance(ring, frame_bytes(length));
	return 0;
}

void ring_release(struct ring *ring)
{
	assert(ring->role == RING_CONSUMER);
	show_cursor(ring);
}

bool ring_arm(struct ring *ring)
{
	assert(ring->role == RING_CONSUMER);
	ring->armed = true;
	atomic_store(&ring->self->asleep, 1);
	if (look(ring, RING_FRAME_BYTES) == -EAGAIN)
		return true;
	ring_disarm(ring);
	return false;
}

void ring_disarm(struct ring *ring)
{
	if (!ring->armed)
		return;
	ring->armed = false;
	atomic_store(&ring->self->asleep, 0);
}

void ring_close(struct ring *ring)
{
	show_cursor(ring);
	atomic_store(&ring->self->state, RING_CLOSED);
}

void ring_declare_dead(struct ring *ring)
{
	ring->peer_dead = true;
}
