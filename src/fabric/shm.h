/*
 * shm.h: the rooms of the shm transport, for shm*.c only
 *
 *     shm.c           the transport: listening, connecting, polling
 *     shm_peer.c      a connection: hello, packets, messages, its end
 *     shm_window.c    exports, windows and the operations on them
 *     ring.c          messages through shared memory
 *
 * A connection
 *
 *   A unix socket of packets carries what is rare: the hello, descriptors, bells. The kernel
 *   closes it when a process dies, which is how the other one learns of it at once. Messages go
 *   through one sealed memfd, the *session*, that the connector makes and hands over with its
 *   proof:
 *
 *     0        ring, connector to acceptor
 *     R        ring, acceptor to connector
 *     2R       fences of the connector's exports: one word each
 *     2R + F   fences of the acceptor's exports
 *
 * The life of one message
 *
 *     fabric_send ─► ring_put ─► flush: ring_publish ─► peer's poll: ring_take ─► FABRIC_MESSAGE
 *                                  └─ it sleeps: a packet BELL ─► its epoll descriptor is ready
 *
 * The life of one export
 *
 *     owner                                           client
 *     fence[slot] = generation
 *     packet EXPORT slot, generation, key, memfd ──►  kept until it is imported or withdrawn
 *                                                     import: mapped, MADV_DONTFORK
 *                                                     each operation: fence[slot] == generation?
 *     withdraw: fence[slot]++, packet WITHDRAWN ──►   AFAR_EFENCED from now on; lets go
 *
 *   A packet is written by the kernel before the call returns, a message is shown later: whoever
 *   has the message finds the packet in its socket, so import looks there before it says ENOENT.
 *
 *   The fence word keeps honest clients away from memory that was withdrawn. It does not bind a
 *   client that is stopped between its look and its store: hence FABRIC_CAP_ABANDON, and -EBUSY
 *   from fabric_withdraw() while the client's process exists.
 *
 * Silence
 *
 *   A peer that is stopped stays a peer, and its memory can be read: only the end of its socket
 *   ends the connection. There are no heartbeats.
 */
#ifndef AFAR_FABRIC_SHM_H
#define AFAR_FABRIC_SHM_H

#include "base/list.h"
#include "base/table.h"
#include "fabric/hello.h"
#include "fabric/ring.h"
#include "fabric/transport.h"

#include <stdatomic.h>
#include <sys/types.h>

#define SHM_EXPORTS_MAX   4096u /* of one side */
#define SHM_PENDING_MAX   128u
#define SHM_LISTENERS_MAX 16u
#define SHM_SOCKETS_NS    INT64_C(1000000)      /* a busy thread looks at its sockets this often */
#define SHM_PACKETS_MAX   (2 * SHM_EXPORTS_MAX) /* taken from a socket at one look */
#define SHM_RING_MAX      (64u << 20)

#define SHM_PACKET_MAGIC 0x7061u

enum shm_packet_kind {
	SHM_PACKET_BELL = 1,
	SHM_PACKET_EXPORT,    /* with a descriptor */
	SHM_PACKET_WITHDRAWN, /* some export of ours was: look at the fences */
};

struct shm_packet {
	uint16_t magic;
	uint16_t kind; /* enum shm_packet_kind */
	uint32_t slot;
	uint32_t generation;
	uint32_t epoch;
	uint64_t key;
	uint64_t size_bytes;
};

static_assert(sizeof(struct shm_packet) == 32, "version 1");
static_assert(offsetof(struct shm_packet, key) == 16, "version 1");

enum shm_state {
	SHM_CONNECTING, /* the listener's backlog is full: to be tried again */
	SHM_HELLO,
	SHM_OPEN,
	SHM_DRAINING, /* the socket ended; messages that were sent before are still taken */
	SHM_CLOSED,
};

enum shm_source_kind { SHM_SOURCE_PEER, SHM_SOURCE_LISTENER };
struct shm_source {
	enum shm_source_kind kind;
	int fd;
};

/* Memory of ours that the other end may have mapped. */
struct shm_export {
	uint64_t key;
	uint32_t epoch;
	uint32_t slot;
};

/* What the other end exported. Lives while its slot or a window holds it. */
struct shm_import {
	uint64_t key;
	uint64_t size_bytes;
	uint32_t epoch;
	uint32_t generation;
	uint32_t slot;
	uint32_t references;
	int memfd;
	const _Atomic uint32_t *fence;
};

/* The session as it is mapped here. */
struct shm_session {
	unsigned char *memory;
	size_t size_bytes;
	size_t ring_bytes;
	_Atomic uint32_t *our_fences;
	const _Atomic uint32_t *their_fences;
};

struct shm_peer {
	struct fabric_peer peer;
	struct shm_source source;
	struct shm *shm;
	enum shm_state state;
	bool enrolled;
	struct list link;  /* of shm->peers, or shm->dead */
	struct list dirty; /* of shm->dirty, if messages are to be published */

	struct hello hello;
	int session_fd; /* made by us, or received and not yet mapped; -1 */
	struct shm_session session;
	struct ring tx;
	struct ring rx;
	int pidfd;        /* of the other end's process; -1 */
	int64_t began_ns; /* of connecting */

	struct table exports; /* key to struct shm_export */
	uint32_t *free_slots; /* of our exports: a stack */
	uint32_t free_slot_count;
	struct table imports;               /* key to struct shm_import */
	struct shm_import **slots;          /* of their exports */
	char address[FABRIC_ADDRESS_BYTES]; /* CONNECTING: where to */
};

struct shm_listener {
	struct shm_source source;
	int64_t muted_until_ns;
	char path[FABRIC_ADDRESS_BYTES];
	dev_t device; /* of the socket file, to unlink only our own */
	ino_t inode;
};

struct shm {
	struct transport transport;
	int epoll_fd;
	struct list peers;
	struct list dirty;
	struct list dead;
	uint32_t unsettled_count; /* connecting, or in the hello */
	uint32_t pending_count;
	bool armed;
	int64_t now_ns;
	int64_t sockets_ns; /* when the sockets were last looked at */
	int64_t timer_ns;
	struct hello_self self;
	struct shm_listener listeners[SHM_LISTENERS_MAX];
	uint32_t listener_count;
};

static inline struct shm_peer *shm_peer_of(struct fabric_peer *peer)
{
	return (struct shm_peer *)peer; /* its first member */
}

/* ---- shm_peer.c ---- */

int shm_peer_create(struct shm *shm, int fd, bool accepted, struct shm_peer **peer);
void shm_peer_free(struct shm_peer *peer);
/* The socket is connected: says hello. */
void shm_peer_connected(struct shm_peer *peer);
/* Takes what the socket has. */
void shm_peer_take_packets(struct shm_peer *peer);
/* Takes messages while there is room for them. */
void shm_peer_take_messages(struct shm_peer *peer);
void shm_peer_publish(struct shm_peer *peer);
int shm_peer_send(struct fabric_peer *peer, const void *message, uint32_t len_bytes);
void shm_peer_disconnect(struct fabric_peer *peer);
void shm_peer_lost(struct shm_peer *peer, int status);
void shm_peer_broke_protocol(struct shm_peer *peer);
/* Closes and tells nobody. */
void shm_peer_drop(struct shm_peer *peer);
/* Sends a packet with a descriptor, if it is not -1. -EAGAIN: the socket is full. */
int shm_peer_send_packet(struct shm_peer *peer, const void *packet, size_t len_bytes, int fd);

/* ---- shm_window.c ---- */

/* Makes a session, sealed; *fd is its memfd. */
int shm_session_create(struct shm_peer *peer, uint32_t ring_capacity, int *fd);
/* Maps the session that the other end made. -EPROTO: it is none. */
int shm_session_map(struct shm_peer *peer, int fd);
void shm_session_unmap(struct shm_peer *peer);
/* Tables for exports and imports. */
int shm_windows_create(struct shm_peer *peer);
void shm_windows_destroy(struct shm_peer *peer);
/* Takes over fd. -EPROTO: the packet makes no sense. */
int shm_window_exported(struct shm_peer *peer, const struct shm_packet *packet, int fd);
/* Lets go of everything whose fence fell. */
void shm_window_sweep(struct shm_peer *peer);
int shm_window_export(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
		      uint64_t size_bytes, int memfd);
int shm_window_withdraw(struct fabric_peer *peer, uint64_t key);
int shm_window_import(struct fabric_peer *peer, struct fabric_window *window);
void shm_window_close(struct fabric_window *window);
int shm_window_submit(const struct fabric_op *op);

#endif
