/*
 * session.h: what a process of a run and its supervisor share and say to each other
 *
 *   Each process of the tree has a *session*: a SOCK_SEQPACKET connection to the supervisor, held
 *   by the pager's thread alone (its descriptor table is its own), and one memfd that both map.
 *   The connection's end is the session's end: the supervisor then drops every slot it held.
 *
 *   At most one request of each kind is under way. STORE and LOAD may overlap each other, so that
 *   a fault need not wait for an eviction: the supervisor answers in the order it gets done. In
 *   answers to STORE and LOAD `slot` and `staging` are as in the request; a status other than 0
 *   says that of all its pages, and the process keeps what it wanted to store.
 *
 *     process (pager thread)                       supervisor
 *     connect $AFAR_RUN_SOCKET
 *     HELLO pid, child token + its userfaultfd ──► keeps the descriptor: if all were closed,
 *                                                  absent pages would silently read as zeros
 *                                              ◄── WELCOME + session memfd, slots memfd, in one
 *                                                  control message, in this order
 *     then requests, one at a time, each answered with the same kind:
 *     PIECE_MORE                                   opens further pieces: slots may be claimed
 *     PIECE_MAP piece                              + the slab's memfd          (direct)
 *     STORE n   staging → slots                    when protected: P1 of pool.h (staged)
 *     LOAD n    slots → staging                    checked by the pool          (staged)
 *     FORK                                         a child session whose `held` is a copy of ours;
 *                                                  answer: its token, for the child's HELLO. The
 *                                                  process has raised the counts before it asks
 *     FORK_FAILED token                            the child was not born
 *     FAIL reason, page                            never answered: the run ends
 *   and from the supervisor, unasked:
 *     NUDGE                                        look at limit_pages and evict; unmap the slabs
 *                                                  of pieces that are open no more, or under
 *                                                  another epoch
 *
 *   Two ways for data, told in WELCOME: *direct*, the pager copies to and from the slab, mapped
 *   from its memfd, and hashes the page itself; *staged*, it copies to and from the staging pages
 *   of the session's memfd and the supervisor's pool does the rest.
 */
#ifndef AFAR_PAGER_SESSION_H
#define AFAR_PAGER_SESSION_H

#include "pager/slots.h"

#include <assert.h>

#define SESSION_VERSION       1u
#define SESSION_MAGIC         0x73657373u
#define SESSION_STAGING_PAGES 128u /* first half: stores; second half: loads */
#define SESSION_BATCH_MAX     64u
#define SESSION_SOCKET_ENV    "AFAR_RUN_SOCKET"
#define SESSION_TOKEN_ENV     "AFAR_RUN_TOKEN" /* proves that the process belongs to this run */

enum session_message_kind {
	SESSION_HELLO = 1,
	SESSION_WELCOME,
	SESSION_PIECE_MORE,
	SESSION_PIECE_MAP,
	SESSION_STORE,
	SESSION_LOAD,
	SESSION_FORK,
	SESSION_FORK_FAILED,
	SESSION_FAIL,
	SESSION_NUDGE,
};

/* Why a process gives up (FAIL.reason); the supervisor prints it and ends the tree. */
enum session_failure {
	SESSION_FAIL_LOST = 1,    /* the last copy of a page is gone: exit status 124 */
	SESSION_FAIL_CHECKSUM,    /* what came back is not what was stored: 124 */
	SESSION_FAIL_NO_SPACE,    /* no node has room and the budget is full: 125 */
	SESSION_FAIL_KERNEL,      /* the kernel refused something it must not: 125 */
	SESSION_FAIL_UNSUPPORTED, /* the program did what cannot be served: 125 */
};

/* Every message is this struct, whole. */
struct session_message {
	uint32_t magic;
	uint16_t version, kind;
	int32_t status; /* answers: 0 or a negative error */
	uint32_t count; /* STORE, LOAD: slots; FAIL: reason; PIECE_MORE: slots wanted */
	uint64_t token; /* HELLO: the run's; FORK, FORK_FAILED: the child's */
	uint64_t value; /* PIECE_MAP: piece, answer: its epoch; FAIL: address of the page */
	uint64_t session_bytes, slots_bytes; /* WELCOME */
	uint64_t child; /* HELLO: token from FORK, 0 for a process that was not forked here */
	int32_t pid;
	uint32_t flags; /* WELCOME: enum session_flag */
	uint32_t slot[SESSION_BATCH_MAX];
	uint16_t staging[SESSION_BATCH_MAX]; /* staging page of each */
};

enum session_flag {
	SESSION_DIRECT = 1u << 0,
	SESSION_NO_PREFETCH = 1u << 1,
	SESSION_SPIN = 1u << 2, /* the pager may spin a little before it sleeps */
};

static_assert(sizeof(struct session_message) == 64 + 6 * SESSION_BATCH_MAX, "version 1");

/* What the pager counts; the supervisor reads it at any time and adds up the tree. */
struct session_counters {
	_Atomic uint64_t faults, faults_zero, faults_far, faults_write; /* write: of a clean page */
	_Atomic uint64_t pages_stored, pages_dropped_clean, pages_zero_dropped, pages_loaded;
	_Atomic uint64_t prefetched, prefetched_used;
	_Atomic uint64_t evict_batches, stalls; /* stall: a fault that had to evict first */
	_Atomic uint64_t fault_ns_sum, fault_ns_max;
	_Atomic uint64_t unmanaged_bytes; /* mapped but not managed: huge, locked, stacks */
	_Atomic uint64_t latency[64];     /* faults by log2 of their nanoseconds */
};

struct session_memory {
	uint32_t magic, version;
	uint32_t id, reserved;
	/* Written by the supervisor. */
	_Atomic uint64_t limit_pages;   /* managed pages that this process may have resident */
	_Atomic uint32_t must_activate; /* the tree nears its budget: register the ranges now */
	_Atomic uint32_t ended;         /* the run is ending */
	/* Written by the process. */
	_Atomic uint64_t resident_pages; /* managed and present, once active */
	_Atomic uint64_t managed_bytes;
	_Atomic uint32_t active; /* ranges are registered */
	_Atomic uint32_t pager_tid;
	struct session_counters counters;
	/* held: one bit a slot, right behind, at SESSION_HELD_OFFSET; then the staging pages. */
};

#define SESSION_HELD_OFFSET 4096u

static_assert(sizeof(struct session_memory) <= SESSION_HELD_OFFSET, "held begins behind it");

/* Where the staging pages of a session begin, and how large its memory is. */
static inline uint64_t session_staging_offset(uint32_t slots)
{
	return SESSION_HELD_OFFSET + (((uint64_t)slots / 8 + 4095) & ~UINT64_C(4095));
}

static inline uint64_t session_bytes(uint32_t slots)
{
	return session_staging_offset(slots) + (uint64_t)SESSION_STAGING_PAGES * 4096;
}

#endif
