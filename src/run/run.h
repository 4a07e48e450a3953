/*
 * run.h: `afar run`, an unmodified program whose memory is partly far away
 *
 * What lives here
 *
 *   The *supervisor*: the process that the user started. It owns the run's volume and all that
 *   goes with it (pool, fabric, slot table), starts the program with the preloaded library
 *   (src/preload) and serves the pagers of the whole process tree (src/pager/session.h), each
 *   over its own connection. It shares out the local budget, adds up the statistics, and ends
 *   with the program's exit status.
 *
 *     supervisor.c  the loop: sockets, the pool's events, the clock, the program's end
 *     session.c     one process of the tree: its handshake, its requests, its death
 *     pieces.c      opens pieces of the volume before slots are wanted, closes empty ones
 *     budget.c      who may have how many pages resident
 *     tree.c        the processes of the tree: their anonymous memory, ending them all
 *     program.c     finds the program, and refuses what cannot be run, with the reason
 *     local_node.c  a node of the run's own where no cluster is named
 *     report.c      the statistics, for people and for programs
 *
 * The life of a run
 *
 *     program looked at ─► node or cluster ─► volume, its first piece open ─► slot table
 *       ─► the program starts, its library says HELLO ─► ... ─► it ends
 *       ─► whoever is left of its tree ends ─► volume deleted ─► report
 *
 * Invariants
 *
 *   R1  Whatever ends first (program, supervisor, node; crash or not), nothing stays behind: the
 *       node ends with the supervisor, sessions with their process, the run's directory with the
 *       node.
 *   R2  A slot is free again only when no session holds it and no operation on it is in flight.
 *   R3  A piece is open for claims only while the pool has it mapped: a store to an open piece
 *       never fails for want of room.
 *   R4  The budget is of the whole tree: the sum of the limits and of what is not managed is at
 *       most local_bytes, as long as what is not managed leaves anything to share out.
 *   R5  The loss of the last copy, or of the supervisor's own means, ends the tree with a message:
 *       nobody hangs and nobody reads zeros.
 */
#ifndef AFAR_RUN_H
#define AFAR_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct env;
struct log;

/* Exit statuses of `afar run` beside the program's own. */
enum run_exit {
	RUN_EXIT_LOST = 124,   /* the last copy of some page is gone */
	RUN_EXIT_FAILED = 125, /* afar could not do its part */
	RUN_EXIT_CANNOT_RUN = 126,
	RUN_EXIT_NOT_FOUND = 127,
};

struct run_options {
	uint64_t local_bytes;    /* budget of the tree; 0: half of what is available */
	uint64_t far_bytes;      /* 0: run_far_bytes_default() */
	const char *cluster_uri; /* NULL or "local:": a node of our own */
	uint32_t replicas;       /* 1: protection none */
	const void *key;         /* of the cluster, or NULL */
	size_t key_len;
	const char *library_path; /* libafar-run.so */
	bool prefetch;
	char **argv; /* the program and its arguments, NULL at the end */
	struct log *log;
};

struct run_statistics {
	double seconds;
	uint64_t local_bytes, local_peak_bytes, far_bytes, far_peak_bytes;
	uint64_t processes; /* that had a session */
	uint64_t faults, faults_zero, faults_far, faults_write;
	uint64_t pages_stored, pages_loaded, pages_dropped_clean, pages_zero_dropped;
	uint64_t prefetched, prefetched_used, evict_batches, stalls;
	uint64_t fault_ns_mean, fault_ns_max;
	uint64_t latency[64]; /* faults by log2 of nanoseconds */
	uint64_t unmanaged_bytes;
	bool activated, direct;
	char volume[64];
};

/*
 * Runs the program to its end. *status is what the command shall exit with: the program's own
 * exit status, 128 + signal where a signal ended it, or an enum run_exit. Messages for people go
 * to standard error, each once. Takes over SIGINT, SIGTERM, SIGHUP and SIGCHLD of the process.
 *
 * Returns 0 where a program was run, or a negative error where none was (*status is set too).
 */
int run_program(struct env *env, const struct run_options *options, struct run_statistics *stats,
		int *status);

/* What --far is when it is not given: what this machine or the cluster can be expected to hold. */
uint64_t run_far_bytes_default(bool own_node, uint64_t local_bytes);
uint64_t run_local_bytes_default(void);

/* Writes the statistics: a table for people, or one JSON object. */
void run_report(FILE *to, const struct run_statistics *stats, bool json);

#endif
