/*
 * sim_link.h: the parts of the simulated network, shared by sim.c, sim_link.c and sim_access.c
 *
 *     fabric ── sim_transport ── sim_peer ── sim_end ┐
 *                                                    ├ sim_link, seen by both machines
 *     fabric ── sim_transport ── sim_peer ── sim_end ┘
 *
 *   A peer belongs to its fabric and is freed by it. A link has an end for each side and lives as
 *   long as a peer, a packet or an operation refers to it: a late write finds what is left of it.
 *   An end is open from the hello to the first of: disconnect, crash, close from the other end,
 *   silence. A closed end takes nothing, and nothing of its exports can be reached through it.
 */
#ifndef AFAR_FABRIC_SIM_LINK_H
#define AFAR_FABRIC_SIM_LINK_H

#include "base/list.h"
#include "base/table.h"
#include "base/world.h"
#include "fabric/sim.h"
#include "fabric/transport.h"

#define SIM_EXPORTS_MAX  65536u
#define SIM_MACHINES_MAX WORLD_MACHINES_MAX
#define SIM_LINE_BYTES   64u

struct sim_transport;
struct sim_peer;
struct sim_link;

enum sim_packet_kind { SIM_HELLO, SIM_WELCOME, SIM_MESSAGE, SIM_CLOSE };

struct sim_packet {
	struct list link; /* of a peer's outgoing or inbox, an end's incoming */
	enum sim_packet_kind kind;
	int status;  /* SIM_CLOSE */
	uint64_t id; /* SIM_HELLO: the listener's number; SIM_WELCOME: who accepted */
	int64_t due_ns;
	uint32_t len_bytes;
	unsigned char bytes[];
};

struct sim_end {
	struct sim_link *link;
	struct sim_peer *peer; /* NULL: not accepted yet, or freed */
	uint32_t machine;
	bool open;
	int64_t closed_ns;
	struct list incoming;       /* packets on their way to this end */
	struct world_event arrival; /* of the first of them */
	struct world_event silence;
	int64_t heard_ns;      /* when the other end could last be heard */
	uint32_t unread_bytes; /* of messages sent to this end and not taken by its program */
	bool sender_refused;   /* for too many of them */
	struct table exports;  /* key -> struct sim_export */
};

struct sim_link {
	struct sim_net *net;
	struct list of_net;
	struct sim_end end[2]; /* 0: who connected, 1: who accepted */
	uint32_t references;
};

struct sim_peer {
	struct fabric_peer base;
	struct sim_end *end;
	struct list link;       /* of the transport's peers */
	struct list ready_link; /* of the transport's ready peers */
	struct list outgoing;   /* not flushed */
	struct list inbox;      /* arrived, not polled */
	struct list operations; /* accepted, not DONE */
};

struct sim_transport {
	struct transport base;
	struct sim_net *net;
	struct world *world;
	uint32_t machine;
	bool dead;        /* its machine crashed: what it does reaches nobody */
	struct list link; /* of the net */
	struct list peers;
	struct list ready;     /* peers with something in their inbox */
	struct list unflushed; /* operations, in order of their submission */
};

struct sim_listener {
	struct list link;
	uint64_t number;
	uint32_t machine;
	struct sim_transport *transport; /* NULL: a power cut took it */
};

struct sim_net {
	struct world *world;
	struct sim_net_options options;
	struct list transports;
	struct list listeners;
	struct list links;
	struct list operations;                  /* in flight, of all machines */
	int64_t *cut_since_ns[SIM_MACHINES_MAX]; /* [from][to]; -1: carried; NULL: all carried */
	int64_t slow_ns[SIM_MACHINES_MAX];
	struct sim_net_stats stats;
};

/* Memory that can be reached from afar; SIM_LIKE_SHM: our own mapping of the exporter's memfd. */
struct sim_memory {
	unsigned char *bytes;
	uint64_t size_bytes;
	uint32_t references;
	bool is_mapping;
	bool withdrawn;
	int64_t withdrawn_ns;
};

struct sim_export {
	uint64_t key;
	uint32_t epoch;
	struct sim_memory *memory;
};

/* sim_link.c */
struct sim_end *sim_other_end(const struct sim_end *end);
void sim_link_hold(struct sim_link *link);
void sim_link_drop(struct sim_link *link);
/* A link that nobody refers to yet. */
struct sim_link *sim_link_make(struct sim_net *net);
/* Opens an end for a peer, which refers to the link from now on. */
void sim_attach(struct sim_end *end, struct sim_peer *peer);
/* How long a packet takes from one machine to another, if nothing goes wrong. */
int64_t sim_delay_ns(struct sim_net *net, uint32_t from, uint32_t to);
bool sim_is_cut(const struct sim_net *net, uint32_t from, uint32_t to);
/* How long until what was lost is tried again. */
int64_t sim_resend_ns(struct sim_net *net);
struct sim_packet *sim_packet_make(enum sim_packet_kind kind, const void *bytes,
				   uint32_t len_bytes);
void sim_packets_free(struct list *packets);
/* Puts a packet on its way to `end`, behind those that are on theirs. */
void sim_packet_post(struct sim_end *end, struct sim_packet *packet);
/* Tells the other end that this one is gone, behind all that was sent before. */
void sim_close_post(struct sim_end *end, int status);
/*
 * Closes an end at once: nothing comes in any more, nothing of it can be reached. Its peer, if
 * there is one, hears DOWN with `status`.
 */
void sim_end_close(struct sim_end *end, int status);
/* Looks for silence at this end, which was not there at from_ns. */
void sim_silence_watch(struct sim_end *end, int64_t from_ns);
/* The connection is reset: both ends hear of it. */
void sim_link_break(struct sim_link *link);
/* Loses a random part of what is on its way to `end`: buffers that died with a machine. */
void sim_lose_tail(struct sim_end *end);

/* sim.c: what becomes of a packet at its end. */
void sim_arrive(struct sim_end *end, struct sim_packet *packet);

/* sim_access.c: what transport_ops asks for, and what becomes of it. */
int sim_export(struct fabric_peer *peer, uint64_t key, uint32_t epoch, void *memory,
	       uint64_t size_bytes, int memfd);
int sim_withdraw(struct fabric_peer *peer, uint64_t key);
int sim_import(struct fabric_peer *peer, struct fabric_window *window);
void sim_window_close(struct fabric_window *window);
int sim_submit(const struct fabric_op *op);
/* Sends what was submitted, if the machine lives. */
void sim_launch_operations(struct sim_transport *transport);
/* Ends the operations of a peer with DONE; those that travel go on without it. */
void sim_operations_end(struct sim_peer *peer, int status);
/* What the crash of a machine does to the operations that it had sent. */
void sim_operations_crash(struct sim_net *net, uint32_t machine);
void sim_operations_forget(struct sim_net *net);
/* Lets go of all exports of an end. */
void sim_end_release(struct sim_end *end);

#endif
