/*
 * transport.h: what a transport gives the fabric, and gets from it
 *
 *   fabric.c holds what is the same everywhere: the table of peers, bounds, the queue of events,
 *   the statistics. A transport holds connections. Each embeds the structs below at the start of
 *   its own; only the transport that made one looks beyond.
 *
 *   A transport never calls the user of the fabric. It puts events with fabric_event_put(), which
 *   cannot fail: room for the DONE of an operation is set aside when the operation is accepted,
 *   and a peer has room for one UP and one DOWN from its birth. For messages a transport asks
 *   fabric_event_room() first and leaves them where they are when there is none; the message of an
 *   event is copied, unless it was received into fabric_message_buffer() in the first place.
 */
#ifndef AFAR_FABRIC_TRANSPORT_H
#define AFAR_FABRIC_TRANSPORT_H

#include "fabric/fabric.h"

struct pollfd;
struct secret;
struct transport;

struct fabric_peer {
	struct transport *transport;
	struct fabric *fabric;
	struct fabric_peer *next, *previous; /* of the fabric's list */
	struct fabric_window *windows;
	void *context;
	uint64_t id; /* the other end's, once proven */
	uint32_t capabilities;
	uint32_t in_flight;      /* operations accepted whose DONE was not put */
	uint32_t outstanding;    /* operations accepted whose DONE was not polled */
	uint32_t operations_max; /* bound of `outstanding`; a transport may lower it at UP */
	int32_t pid;
	bool is_local;
	bool up;   /* FABRIC_UP was put */
	bool down; /* FABRIC_DOWN was put: accept nothing more */
	bool accepted;
};

struct fabric_window {
	struct fabric_peer *peer;
	struct fabric_window *next, *previous; /* of the peer's list */
	void *transport_data;                  /* the transport's own */
	uint64_t key;
	uint64_t size_bytes;
	uint32_t epoch;
	bool fenced;  /* the owner told us that it withdrew: operations end with AFAR_EFENCED */
	void *memory; /* mapped here, or NULL */
	int memfd;    /* or -1 */
};

enum fabric_op_kind { FABRIC_OP_READ, FABRIC_OP_WRITE, FABRIC_OP_CAS, FABRIC_OP_FAA };

struct fabric_op {
	enum fabric_op_kind kind;
	uint32_t len_bytes;
	struct fabric_window *window;
	uint64_t offset;
	void *buf;           /* READ: to; WRITE: from (not written) */
	uint64_t operand[2]; /* CAS: expected, desired; FAA: delta */
	uint64_t *previous;
	uint64_t token;
};

struct transport_ops {
	const char *scheme; /* "tcp", "shm", "sim" */
	int (*listen)(struct transport *transport, const char *address, char *actual);
	int (*connect)(struct transport *transport, const char *address, struct fabric_peer **peer);
	void (*disconnect)(struct fabric_peer *peer);
	void (*peer_free)(struct fabric_peer *peer);
	int (*export)(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
		      uint64_t size_bytes, int memfd);
	int (*withdraw)(struct fabric_peer *peer, uint64_t key);
	int (*import)(struct fabric_peer *peer, struct fabric_window *window);
	void (*window_close)(struct fabric_window *window);
	int (*submit)(const struct fabric_op *op); /* bounds and room were checked */
	int (*send)(struct fabric_peer *peer, const void *message, uint32_t len_bytes);
	void (*flush)(struct transport *transport);
	void (*poll)(struct transport *transport); /* puts events */
	int (*fd)(struct transport *transport);    /* -1: never to be waited for */
	/*
	 * For a short wait: the descriptors behind fd(), if there are no more than `max`: sleeping
	 * on them is cheaper. Returns how many; 0: sleep on fd(). NULL: always.
	 */
	unsigned (*descriptors)(struct transport *transport, struct pollfd *fds, unsigned max);
	bool (*arm)(struct transport *transport);
	int64_t (*deadline_ns)(struct transport *transport);
	void (*close)(struct transport *transport);
};

struct transport {
	const struct transport_ops *ops;
	struct fabric *fabric;
};

/* Makers, one a transport. */
int transport_shm_open(struct fabric *fabric, struct transport **transport);
int transport_tcp_open(struct fabric *fabric, struct transport **transport);
int transport_sim_open(struct fabric *fabric, struct transport **transport);

/* What fabric.c offers to transports. */
const struct fabric_options *fabric_options_of(const struct fabric *fabric);
struct env *fabric_env(const struct fabric *fabric);
struct fabric_stats *fabric_counters(struct fabric *fabric);
const struct secret *fabric_secret(const struct fabric *fabric);
const char *fabric_boot_id(const struct fabric *fabric);
/* Whether there is room for one more message of any length. */
bool fabric_event_room(const struct fabric *fabric);
/* Where the next message may be received: FABRIC_MESSAGE_BYTES_MAX of room. Ask for room first. */
void *fabric_message_buffer(struct fabric *fabric);
void fabric_event_put(struct fabric *fabric, const struct fabric_event *event);
/* Enrolls a new peer (zeroed but for transport, accepted). -EMFILE: peers_max. -ENOMEM. */
int fabric_peer_enroll(struct fabric_peer *peer);
/*
 * Puts FABRIC_UP, FABRIC_DOWN once; DOWN marks the peer and has peer_free() called after it was
 * polled. Before DOWN the transport completes what is outstanding. Exports can be withdrawn until
 * peer_free(). Windows that are still open are closed just before it.
 */
void fabric_peer_up(struct fabric_peer *peer);
void fabric_peer_down(struct fabric_peer *peer, int status);
/* Puts FABRIC_DONE and takes one from peer->in_flight. */
void fabric_op_done(struct fabric_peer *peer, uint64_t token, int status);

#endif
