/*
 * ring.h: messages from one process to another through memory they share
 *
 * What lives here
 *
 *   A ring carries messages one way, from one producer to one consumer; a connection of the shm
 *   transport is two rings. A message has 0 to capacity - RING_FRAME_BYTES bytes. It is copied
 *   in, copied out, and arrives whole, once and in order, or the ring says why no more will come.
 *
 * The life of one message
 *
 *     producer                                      consumer
 *     ring_put        copy it in
 *     ring_publish    show it, all at once; if  ──► ring_take      copy it out
 *                     the consumer sleeps, the      ring_release   give back its bytes
 *                     caller rings its bell         ring_arm       nothing there: sleep is safe
 *
 *   Only publish and release write a word that the other side reads, so a batch of puts or takes
 *   costs one exchange of cache lines. What the bell is and where the consumer sleeps is the
 *   caller's affair: one thread sleeps on many rings and on sockets beside them.
 *
 * The memory
 *
 *        0  magic, version, capacity    written once, by ring_format
 *      128  producer's cursor ("tail")  hot: the consumer looks at it
 *      256  producer's state            cold: changes when someone sleeps or ends, so publish
 *      384  consumer's cursor ("head")  and release find the peer's in their own cache
 *      512  consumer's asleep, state
 *      640  data: capacity bytes, a power of two
 *
 *           ┌──────────┬─────────────────┬─────────────────┬──────────┐
 *           │   free   │ frame           │ frame           │   free   │
 *           └──────────┴─────────────────┴─────────────────┴──────────┘
 *                      head % capacity ──► published ──►   tail % capacity
 *
 *           frame = length u32, sequence u32, then the message, padded to a multiple of 8.
 *
 *   A cursor counts bytes since the ring was made and never wraps in practice (58 years at
 *   10 GB/s). Frame words are 8-aligned and so never split; a message that meets the end of the
 *   data goes on at its start.
 *
 * Invariants
 *
 *   I1  head <= tail <= head + capacity, both multiples of 8, and neither ever falls.
 *   I2  Bytes in [head, tail) are the consumer's to read; all others are the producer's to write.
 *   I3  Frames lie end to end from head to tail; the nth carries sequence n mod 2^32.
 *
 * Whom we trust
 *
 *   Nobody. The peer is another program: it may die between any two instructions, and it may
 *   write anything anywhere in the memory at any time. So each side steers by its private
 *   `struct ring` alone and never reads back what it wrote. A shared word is loaded once, into a
 *   local; the local is checked against I1 to I3, then used. The first violation ends the ring:
 *   this call and every later one returns -EPROTO, and `fault` names the check.
 *
 *   Two things remain with the caller. A message's content is the peer's word: decode it as
 *   hostile. And the memory must be a memfd with F_SEAL_SHRINK, or the peer can cut it short and
 *   turn our next load into SIGBUS.
 *
 * How a side ends
 *
 *     absent ──ring_open──► open ──ring_close──► closed      (its state word, by its own hand)
 *                             └──── killed ────► dead        (the survivor's ring_declare_dead)
 *
 *   The dead write no state word, but the kernel closes their unix socket: whoever polls that
 *   socket calls ring_declare_dead(). A consumer first gets all that was published, then the
 *   reason why no more comes. A ring serves one connection and is not opened again.
 *
 * Who does what
 *
 *   The caller owns the memory and the handle; this file allocates nothing and reads no clock. A
 *   handle is used by one thread at a time.
 */
#ifndef AFAR_FABRIC_RING_H
#define AFAR_FABRIC_RING_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_MAGIC          0x676e6972u /* "ring" */
#define RING_VERSION        1u
#define RING_OVERHEAD_BYTES 640u
#define RING_FRAME_BYTES    8u /* what a message takes beside its length, rounded up to 8 */
#define RING_CAPACITY_MIN   64u
#define RING_CAPACITY_MAX   (1u << 30)

/* Two cache lines, because processors prefetch them in pairs. */
#define RING_LINE_BYTES 128

enum ring_role {
	RING_PRODUCER = 0,
	RING_CONSUMER = 1,
};

enum ring_state {
	RING_ABSENT = 0,
	RING_OPEN = 1,
	RING_CLOSED = 2,
};

/* What one side tells the other. Its owner writes all of it; the peer may clear `asleep`. */
struct ring_side {
	alignas(RING_LINE_BYTES) _Atomic uint64_t cursor;
	alignas(RING_LINE_BYTES) _Atomic uint32_t asleep; /* consumer: 1: ring my bell */
	_Atomic uint32_t state;                           /* enum ring_state */
};

struct ring_memory {
	uint32_t magic;
	uint32_t version;
	uint64_t capacity;
	struct ring_side side[2]; /* by enum ring_role */
	alignas(RING_LINE_BYTES) unsigned char data[];
};

static_assert(sizeof(struct ring_side) / RING_LINE_BYTES == 2, "one hot line, one cold");
static_assert(offsetof(struct ring_side, asleep) == RING_LINE_BYTES, "asleep is cold");
static_assert(offsetof(struct ring_memory, capacity) == 8, "layout of version 1");
static_assert(offsetof(struct ring_memory, side) == RING_LINE_BYTES, "layout of version 1");
static_assert(offsetof(struct ring_memory, data) == RING_OVERHEAD_BYTES, "layout of version 1");
static_assert(RING_CAPACITY_MAX <= UINT32_MAX, "a frame's length is a u32");
static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LONG_LOCK_FREE == 2, "no lock but the word");

/* One side's handle: private memory, zero shared. Read the counters freely; write nothing. */
struct ring {
	enum ring_role role;
	uint64_t capacity;
	unsigned char *data;
	struct ring_side *self;
	struct ring_side *peer;

	uint64_t cursor;    /* how far this side has come: the tail, or the head */
	uint64_t published; /* how much of that the peer was shown */
	uint64_t room;      /* bytes this side may still move, by the peer's last good cursor */
	uint64_t slack;     /* room = peer's cursor + slack - cursor (I1) */

	const char *fault; /* NULL, or the check that the peer failed */
	bool armed;        /* our asleep word may be 1 */
	bool peer_dead;    /* ring_declare_dead() was called */

	uint64_t messages; /* put, or taken */
	uint64_t bells;    /* times the peer was found asleep */
};

/*
 * Makes an empty ring in `memory`, before the memory is shared.
 *
 * size_bytes is RING_OVERHEAD_BYTES plus the capacity: a power of two from RING_CAPACITY_MIN to
 * RING_CAPACITY_MAX. The memory is aligned to RING_LINE_BYTES, as mmap's always is.
 *
 * -EINVAL: the size or the alignment is not so.
 */
int ring_format(void *memory, size_t size_bytes);

/*
 * Takes one side of the ring in `memory`, which must stay mapped until ring_close().
 *
 * size_bytes comes from a trusted place (the agreement on the connection, or fstat of the sealed
 * memfd), never from the memory.
 *
 * -EINVAL: size or alignment, as for ring_format.
 * -EPROTO: no ring of this version and size is there.
 * -EBUSY: this side was taken before.
 */
int ring_open(struct ring *ring, void *memory, size_t size_bytes, enum ring_role role);

/*
 * Shows the peer what is pending, and that this side is gone. The handle is then done with; the
 * memory is the caller's to unmap. A peer that sleeps hears of it by other means (the socket).
 */
void ring_close(struct ring *ring);

/* Records that the peer is gone without a word. Calling it again does nothing more. */
void ring_declare_dead(struct ring *ring);

/*
 * Producer: copies a message in. The peer sees it after ring_publish(). `msg` is not NULL, and is
 * the caller's again on return. Success is no promise of delivery: the peer may end first.
 *
 * Cost: one copy; no shared cache line is read while there is known room.
 *
 * -EMSGSIZE: longer than capacity - RING_FRAME_BYTES; it never fits.
 * -EAGAIN: no room now.
 * -EPIPE, -ECONNRESET, -EPROTO: no room, and none will come: the peer closed, died, or broke I1.
 */
int ring_put(struct ring *ring, const void *msg, size_t len_bytes);

/*
 * Producer: shows the consumer all that was put. true: the consumer sleeps, and it is now the
 * caller's duty to ring its bell.
 *
 * Cost: one locked store.
 */
bool ring_publish(struct ring *ring);

/*
 * Consumer: copies the next message out, and sets *len_bytes to its length. Its bytes in the ring
 * stay taken until ring_release(). `buf` has size_bytes and is not NULL.
 *
 * Cost: one copy; the producer's line is read once a batch.
 *
 * -EAGAIN: no message now.
 * -EMSGSIZE: longer than buf; *len_bytes says how long, and the message stays.
 * -EPIPE, -ECONNRESET: all messages were taken, and the peer closed or died.
 * -EPROTO: the peer wrote something that no ring can hold.
 */
int ring_take(struct ring *ring, void *buf, size_t size_bytes, size_t *len_bytes);

/* Consumer: gives the bytes of all taken messages back. */
void ring_release(struct ring *ring);

/*
 * Consumer: announces that it will sleep. true: it may: whoever publishes from now on rings the
 * bell. false: there is something to take, or to hear of, already.
 */
bool ring_arm(struct ring *ring);

/* Consumer: awake again. Costs nothing if it was not armed. */
void ring_disarm(struct ring *ring);

#endif
