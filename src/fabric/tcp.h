/*
 * tcp.h: the rooms of the tcp transport, for tcp*.c only
 *
 *     tcp.c           the transport: listening, accepting, connecting, epoll, timers
 *     tcp_peer.c      a connection: hello, receiving, sending, its end
 *     tcp_client.c    our operations on the other end's memory, and their replies
 *     tcp_server.c    the other end's operations on our memory
 *     tcp_out.c       what waits to be sent
 *     wire.c          frames
 *
 * The life of a connection
 *
 *     connect() ─► CONNECTING ─┐                     ┌─► LINGERING ─► CLOSED
 *                              ├─► HELLO ─► OPEN ────┤   (disconnected by us: what was sent
 *     accept() ────────────────┘     │       │       │    before is still delivered)
 *                                    └───────┴───────┴─► CLOSED
 *
 *   A connection that we accepted becomes a peer of the fabric when it is proven; until then
 *   nobody above hears of it, and its end is an entry of the statistics.
 *
 * System calls
 *
 *   A round of requests costs one send and one receive at each end. A thread that spins with few
 *   connections receives from them directly (DIRECT_PEERS_MAX) and asks epoll only now and then;
 *   one that slept asks epoll only if no connection had anything.
 *
 * Borrowed memory
 *
 *   A write lends us the caller's bytes until DONE; a read lends us the place where they go. What
 *   is to be sent of an export is lent until fabric_withdraw(), which takes it back (out_detach).
 *   A read's reply may therefore show a write that was requested after it: no FABRIC_CAP_ORDERED.
 */
#ifndef AFAR_FABRIC_TCP_H
#define AFAR_FABRIC_TCP_H

#include "base/list.h"
#include "base/table.h"
#include "fabric/hello.h"
#include "fabric/tcp_out.h"
#include "fabric/transport.h"
#include "fabric/wire.h"

#define TCP_DIRECT_PEERS_MAX 8u
#define TCP_POLLS_PER_EPOLL  32u
#define TCP_EXPORTS_MAX      65536u /* a peer */
#define TCP_PENDING_MAX      128u   /* accepted connections that have not proven themselves */
#define TCP_LISTENERS_MAX    16u

#define TCP_IN_BYTES (256u << 10)
/* Payloads up to this are taken whole or not at all; longer ones go straight to their place. */
#define TCP_WHOLE_BYTES (64u << 10)
/* Payloads up to this are copied next to their head: cheaper than a segment of their own. */
#define TCP_INLINE_BYTES 512u

enum tcp_state { TCP_CONNECTING, TCP_HELLO, TCP_OPEN, TCP_LINGERING, TCP_CLOSED };

/* What an epoll entry belongs to. */
enum tcp_source_kind { TCP_SOURCE_PEER, TCP_SOURCE_LISTENER };
struct tcp_source {
	enum tcp_source_kind kind;
	int fd;
};

/* An operation of ours that waits for its reply. */
struct tcp_op {
	enum fabric_op_kind kind;
	uint32_t len_bytes;
	void *buf;
	uint64_t *previous;
	uint64_t token;
};

/* Memory of ours that the other end may reach. */
struct tcp_export {
	uint64_t key;
	unsigned char *memory;
	uint64_t size_bytes;
	uint32_t epoch;
};

/* What arrived and was not looked at, and the payload in the middle of which it stopped. */
struct tcp_in {
	unsigned char *buffer;
	uint32_t first;
	uint32_t last;
	uint32_t sink_left;  /* bytes of payload that still come */
	unsigned char *sink; /* where they go; NULL: nowhere */
	bool sink_is_write;  /* of a request of theirs; else of a reply to us */
	int write_status;
	uint32_t write_sequence;
};

struct tcp_peer {
	struct fabric_peer peer;
	struct tcp_source source;
	struct tcp *tcp;
	enum tcp_state state;
	bool enrolled;     /* the fabric knows it */
	bool released;     /* peer_free() was called while it lingered */
	bool stalled;      /* a message waits for room among the events */
	bool wants_out;    /* epoll tells when the socket takes more */
	struct list link;  /* of tcp->peers, or tcp->dead */
	struct list dirty; /* of tcp->dirty, if something is queued */

	struct hello hello;
	struct hello_frame hello_in;
	uint32_t hello_in_bytes;

	int64_t heard_ns; /* when they last said something */
	int64_t said_ns;  /* when we last did, or they last took something */
	int64_t began_ns; /* of this state, where it has a time-out */

	struct tcp_in in;
	struct out out;
	struct tcp_op *ops; /* in the order of their requests */
	uint32_t ops_mask;
	uint32_t ops_first; /* count up; the nth request carries sequence n */
	uint32_t ops_last;
	struct table exports;
	struct tcp_export *last_export; /* the one that the last request was for */
};

struct tcp_listener {
	struct tcp_source source;
	int64_t muted_until_ns; /* not 0: out of descriptors, not in epoll meanwhile */
};

struct tcp {
	struct transport transport;
	int epoll_fd;
	struct list peers; /* all that have a socket */
	struct list dirty;
	struct list dead; /* to be freed at the end of a poll */
	uint32_t open_count;
	uint32_t unsettled_count; /* connecting, in the hello, lingering */
	uint32_t blocked_count;   /* wants_out */
	uint32_t pending_count;   /* accepted, and not proven */
	uint32_t polls;           /* since epoll was asked */
	bool armed;
	int64_t now_ns; /* of this poll */
	int64_t timer_ns;
	struct hello_self self;
	struct tcp_listener listeners[TCP_LISTENERS_MAX];
	uint32_t listener_count;
};

static inline struct tcp_peer *tcp_peer_of(struct fabric_peer *peer)
{
	return (struct tcp_peer *)peer; /* its first member */
}

/* ---- tcp_peer.c ---- */

/* Takes over the socket, in state CONNECTING or HELLO. -ENOMEM, or an errno of epoll_ctl. */
int tcp_peer_create(struct tcp *tcp, int fd, bool accepted, struct tcp_peer **peer);
void tcp_peer_free(struct tcp_peer *peer);
/* The socket is connected: says hello. */
void tcp_peer_connected(struct tcp_peer *peer);
/* Takes what there is. true: there was something. */
bool tcp_peer_receive(struct tcp_peer *peer);
/* Sends what is queued. */
void tcp_peer_flush(struct tcp_peer *peer);
void tcp_peer_mark_dirty(struct tcp_peer *peer);
/* Ends the connection: outstanding operations, then DOWN with `status` if the fabric knows it. */
void tcp_peer_lost(struct tcp_peer *peer, int status);
/* Closes the socket and tells nobody: the fabric itself goes. The peer is freed later. */
void tcp_peer_drop(struct tcp_peer *peer);
/* A frame that no honest peer sends. */
void tcp_peer_broke_protocol(struct tcp_peer *peer);
void tcp_peer_disconnect(struct fabric_peer *peer);
int tcp_peer_send(struct fabric_peer *peer, const void *message, uint32_t len_bytes);
void tcp_peer_ping(struct tcp_peer *peer);

/* ---- tcp_client.c ---- */

int tcp_client_submit(const struct fabric_op *op);
/* A reply's head; its payload is whole in the buffer at `payload`, but for a READ's. */
void tcp_client_reply(struct tcp_peer *peer, const struct wire_frame *frame,
		      const unsigned char *payload);
/* Whether the reply that is due next is a READ's. */
bool tcp_client_reads_next(const struct tcp_peer *peer);
/* The last byte of a READ's payload has come. */
void tcp_client_read_done(struct tcp_peer *peer);
void tcp_client_fail_all(struct tcp_peer *peer);

/* ---- tcp_server.c ---- */

int tcp_server_export(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
		      uint64_t size_bytes, int memfd);
int tcp_server_withdraw(struct fabric_peer *peer, uint64_t key);
/* A request whose payload is whole in the buffer at `payload`, or a READ. */
void tcp_server_request(struct tcp_peer *peer, const struct wire_frame *frame,
			const unsigned char *payload);
/* A WRITE whose payload is still to come: says where to. */
void tcp_server_write_begin(struct tcp_peer *peer, const struct wire_frame *frame);
void tcp_server_write_done(struct tcp_peer *peer);
void tcp_server_forget(struct tcp_peer *peer);

#endif
