/*
 * fabric.h: other machines' memory, and messages to them
 *
 * What lives here
 *
 *   One small, verbs-shaped interface and the transports behind it: `shm` between processes of
 *   one host, `tcp` between hosts, `sim` between the machines of the simulator. Floors above see
 *   peers, windows and events, never sockets or rings.
 *
 *   A *peer* is a connection to another process. A *window* is memory that a peer lets us read
 *   and write: the peer exports it under a key and an epoch, we import it. Access to a window is
 *   one-sided: the program at the other end takes no part (on tcp, its fabric does it for it).
 *
 * The life of one read
 *
 *     client                                        owner
 *                                                   fabric_export(peer, key, epoch, memory)
 *                          ◄── message: "key 7" ──  fabric_send(peer, …)
 *     fabric_import(peer, 7, epoch) ─► window
 *     fabric_read(window, offset, buf, len, token)
 *         shm: a memcpy from the mapping            (nothing runs here)
 *         tcp: a request in the next batch      ──► checked against key, epoch and bounds, answered
 *     fabric_flush(fabric)
 *     fabric_poll(fabric) ─► DONE token, status
 *
 * Invariants
 *
 *   F1  Every operation that was accepted ends with exactly one FABRIC_DONE event, whatever
 *       becomes of the peer; after FABRIC_DOWN of a peer none is outstanding on it.
 *   F2  Messages of a peer arrive whole, once and in order, or the peer goes down. A message sent
 *       after an export arrives when the export can be imported.
 *   F3  Operations on one window may overtake each other unless the fabric has FABRIC_CAP_ORDERED;
 *       whoever needs an order waits for DONE. Atomics on one word never tear or get lost, from
 *       however many peers.
 *   F4  An access outside the window, under another epoch or to a withdrawn key never touches
 *       memory: it ends with -ERANGE, AFAR_EFENCED or AFAR_EFENCED.
 *   F5  Nothing calls upwards. Completions and the death of peers are events of fabric_poll().
 *
 * Whom we trust
 *
 *   Nobody. Before anything else both ends prove that they hold the same key (HMAC challenge over
 *   the connection; without a key only unix sockets and loopback are accepted). After that each
 *   length, offset, key and epoch is checked where it arrives; a peer that breaks the protocol
 *   goes down with -EPROTO and is counted.
 *
 * Bounds
 *
 *   Outstanding operations a peer: options.operations_max, then -EAGAIN until some are polled.
 *   Bytes of messages not yet taken by the peer: options.send_bytes_max, then -EAGAIN. Peers:
 *   options.peers_max. On tcp a peer that says nothing, or takes nothing, for options.silence_ns
 *   goes down; on shm one that is stopped stays, and only the end of its process is its end.
 *
 * Who does what
 *
 *   A fabric and all that hangs from it belong to one thread. The caller's buffers must stay
 *   until DONE. tcp's server side may use threads of its own; no caller sees them.
 */
#ifndef AFAR_FABRIC_H
#define AFAR_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct env;
struct log;
struct sim_net;
struct fabric;
struct fabric_peer;
struct fabric_window;

#define FABRIC_MESSAGE_BYTES_MAX 4096u
#define FABRIC_ADDRESS_BYTES     128u
#define FABRIC_IO_BYTES_MAX      (1u << 20) /* one read or write */
#define FABRIC_BOOT_ID_BYTES     37u

struct fabric_options {
	const void *key; /* the shared key, 16 bytes or more; NULL: none, then only this host may
			    talk to us */
	size_t key_len;
	uint64_t id;             /* who we are: told to every peer in the hello; not 0 */
	uint32_t peers_max;      /* 0: 256 */
	uint32_t operations_max; /* a peer; 0: 256 */
	uint32_t send_bytes_max; /* a peer; 0: 256 KiB */
	int64_t heartbeat_ns;    /* 0: 50 ms; a silent connection says something this often */
	int64_t silence_ns;      /* 0: 1 s; a peer that says nothing for so long is down */
	uint32_t spins;          /* looks of a wait before it sleeps; 0: sleep at once */
	struct log *log;         /* NULL: silent */
	struct sim_net *net;     /* the simulator's network: enables sim:// and nothing else */
	uint32_t machine;        /* which machine of `net` this fabric is */
};

/* What a transport can do, told of a peer. */
enum fabric_capability {
	FABRIC_CAP_ONE_SIDED = 1u << 0, /* works while the owner is stopped: no remote CPU */
	FABRIC_CAP_ORDERED = 1u << 1,   /* operations on one peer take effect in order */
	FABRIC_CAP_NATIVE_ATOMICS = 1u
				    << 2, /* atomics are the CPU's own, also against local code */
	FABRIC_CAP_DIRECT = 1u << 3,  /* fabric_window_memory() gives a pointer and a descriptor */
	FABRIC_CAP_ABANDON = 1u << 4, /* withdrawn memory may still be written: throw it away */
};

enum fabric_event_kind {
	FABRIC_UP,      /* peer: connected and proven; `accepted` tells which side began */
	FABRIC_MESSAGE, /* peer, message, len: the bytes stay until the next fabric_poll() */
	FABRIC_DONE,    /* peer, token, status: 0, or why the operation did not happen */
	FABRIC_DOWN,    /* peer, status: why. The peer is freed by the next fabric_poll() */
};

struct fabric_event {
	enum fabric_event_kind kind;
	struct fabric_peer *peer;
	int status;
	bool accepted;
	uint64_t token;
	const void *message;
	uint32_t len_bytes;
};

/*
 * Opens a fabric with no listeners and no peers. The key is copied.
 *
 * -EINVAL: an option out of range; -ENOMEM; -EMFILE.
 */
int fabric_open(struct env *env, const struct fabric_options *options, struct fabric **fabric);

/* Closes every peer and listener, withdraws every export. Windows and peers are gone. */
void fabric_close(struct fabric *fabric);

/*
 * Accepts peers at an address: tcp://host:port (port 0: any free one), shm:/path/of.sock, sim://N.
 * `actual` (FABRIC_ADDRESS_BYTES) gets the address that others should use; it may be NULL.
 *
 * -EADDRINUSE; -EACCES: a tcp address beyond loopback needs a key; -EINVAL: not an address.
 */
int fabric_listen(struct fabric *fabric, const char *address, char *actual);

/*
 * Begins to connect. FABRIC_UP or FABRIC_DOWN of *peer follows, always, within silence_ns.
 *
 * -EINVAL; -EMFILE: peers_max reached; -ECONNREFUSED, -ENOENT: known at once that nobody listens.
 */
int fabric_connect(struct fabric *fabric, const char *address, struct fabric_peer **peer);

/*
 * Ends a connection from our side: its operations end with AFAR_EPEER_DOWN, then FABRIC_DOWN of
 * it follows with status 0. What was sent before is still delivered if the other end lives.
 */
void fabric_disconnect(struct fabric_peer *peer);

/* The peer's options.id as it proved it; 0 before FABRIC_UP. */
uint64_t fabric_peer_id(const struct fabric_peer *peer);
/* Bits of enum fabric_capability. */
uint32_t fabric_peer_capabilities(const struct fabric_peer *peer);
/* Whether the peer runs on this host (same boot id); shm can then be used. */
bool fabric_peer_is_local(const struct fabric_peer *peer);
/* The process id of a peer on a unix socket (SO_PEERCRED), else 0. */
int32_t fabric_peer_pid(const struct fabric_peer *peer);
/* One pointer for whoever uses the peer; NULL at first. */
void fabric_peer_set_context(struct fabric_peer *peer, void *context);
void *fabric_peer_context(const struct fabric_peer *peer);

/*
 * Lets the peer read and write size_bytes at `memory` under (key, epoch). The memory stays the
 * caller's and must stay mapped until the withdrawal returned 0, or, where it said -EBUSY, until
 * the fabric let go: it keeps its own mapping of `memfd` if it needs one. `memfd` is a sealed
 * memfd that holds the memory at its offset 0 (needed by shm; -1 where no peer is on shm).
 *
 * -EEXIST: the key is in use with this peer; -ENOTSUP: shm without memfd; -EMFILE: too many;
 * -EINVAL: not aligned to 8; -EAGAIN: the peer takes nothing at the moment; AFAR_EPEER_DOWN.
 */
int fabric_export(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
		  uint64_t size_bytes, int memfd);

/*
 * Fences: takes the key back.
 *
 * 0: no later access of that peer can reach the memory: it may have other contents.
 * -EBUSY: the peer may hold a mapping and write for ever: the memory must be abandoned. (shm, as
 *   long as the process to which the memory was given exists.)
 * -ENOENT: no such export.
 */
int fabric_withdraw(struct fabric_peer *peer, uint64_t key);

/*
 * Makes a window of what the peer exported. The window lives until fabric_window_close() or the
 * peer's FABRIC_DOWN, whichever comes first; the latter closes it, but on FABRIC_CAP_DIRECT
 * transports memory and descriptor that were handed out before stay with whoever duplicated them.
 *
 * -ENOENT: shm knows of no such export; AFAR_EFENCED: it has another epoch, or was withdrawn;
 * -EPROTO: the size is not what was exported. tcp does not look: the operations will tell.
 */
int fabric_import(struct fabric_peer *peer, uint64_t key, uint32_t epoch, uint64_t size_bytes,
		  struct fabric_window **window);
void fabric_window_close(struct fabric_window *window);

/* FABRIC_CAP_DIRECT: where the window is mapped here, else NULL. */
void *fabric_window_memory(const struct fabric_window *window);
/* FABRIC_CAP_DIRECT: the memfd behind it (the fabric's: duplicate it to keep it), else -1. */
int fabric_window_memfd(const struct fabric_window *window);

/*
 * One-sided operations. They are queued and begin at the latest with fabric_flush(); DONE with
 * `token` follows. `buf`, `bytes` and `previous` belong to the fabric until then. Offsets and
 * lengths in bytes; atomics on 8-byte words at offsets that are multiples of 8.
 *
 * -EAGAIN: operations_max are outstanding: poll first. -ERANGE: outside of the window.
 * -EINVAL: len_bytes is 0 or above FABRIC_IO_BYTES_MAX. AFAR_EPEER_DOWN.
 */
int fabric_read(struct fabric_window *window, uint64_t offset, void *buf, uint32_t len_bytes,
		uint64_t token);
int fabric_write(struct fabric_window *window, uint64_t offset, const void *bytes,
		 uint32_t len_bytes, uint64_t token);
/* *previous is what was there; the swap took place if it equals `expected`. */
int fabric_compare_and_swap(struct fabric_window *window, uint64_t offset,
			    const uint64_t *expected_desired, uint64_t *previous, uint64_t token);
int fabric_fetch_and_add(struct fabric_window *window, uint64_t offset, uint64_t delta,
			 uint64_t *previous, uint64_t token);

/*
 * Sends a message of at most FABRIC_MESSAGE_BYTES_MAX; it is copied. There is no DONE.
 *
 * -EAGAIN: the peer takes nothing at the moment. -EMSGSIZE. AFAR_EPEER_DOWN.
 */
int fabric_send(struct fabric_peer *peer, const void *message, uint32_t len_bytes);

/* Begins everything that is queued: on tcp one system call a peer. */
void fabric_flush(struct fabric *fabric);

/*
 * Takes up to `max` events, never waits; flushes too. Returns how many. Events of one peer come
 * in order.
 */
unsigned fabric_poll(struct fabric *fabric, struct fabric_event *events, unsigned max);

/*
 * For those who wait on several things: the descriptor turns readable when fabric_poll() may have
 * something, provided that fabric_arm() said false since the last poll. true: poll at once.
 * fabric_deadline_ns() is the latest time at which fabric_poll() must be called again.
 */
int fabric_fd(struct fabric *fabric);
bool fabric_arm(struct fabric *fabric);
int64_t fabric_deadline_ns(struct fabric *fabric);

/*
 * Waits until there is something to poll or until deadline_ns: spins options.spins times, then
 * sleeps. 0, or -ETIMEDOUT, or -EINTR.
 */
int fabric_wait(struct fabric *fabric, int64_t deadline_ns);

/* What a fabric counted since it was opened. */
struct fabric_stats {
	uint64_t reads, writes, atomics, messages_sent, messages_received;
	uint64_t bytes_read, bytes_written;
	uint64_t peers_up, peers_down, auth_failures, protocol_errors, fenced, out_of_range;
	uint64_t sleeps;
};
void fabric_stats(const struct fabric *fabric, struct fabric_stats *stats);

#endif
