/*
 * supervisor.h: what the files of this folder share: the state of one run
 *
 *   One thread owns all of it. supervisor.c waits and hands out what happened; the other files
 *   react and return. Nothing here blocks but epoll_wait() in the loop.
 */
#ifndef AFAR_RUN_SUPERVISOR_H
#define AFAR_RUN_SUPERVISOR_H

#include "pager/session.h"
#include "run/run.h"

#include <sys/types.h>

struct cluster;
struct fabric;
struct pool;
struct volume;
struct session;

#define RUN_SESSIONS_MAX 4096u
#define RUN_OPENING_MAX  4u /* pieces being mapped at a time */
#define RUN_PATH_BYTES   96u

/* See pieces.c. */
struct pieces {
	uint32_t opening;      /* asked of the pool, no answer yet */
	uint32_t wanted_slots; /* the largest PIECE_MORE that waits */
	bool refused;          /* the pool said that it has no room, until retry_ns */
	int64_t retry_ns;
	uint32_t cursor; /* where to look for the next closed piece */
};

/* See budget.c. */
struct budget {
	int64_t next_ns;    /* when to look again */
	int64_t scan_ns;    /* when to look again for processes without a session */
	uint64_t strangers; /* anonymous bytes of processes of the tree without a session */
	unsigned strangers_count;
	uint64_t peak_bytes;
	bool activated;
};

struct local_node {
	pid_t pid;   /* 0: none */
	int stop_fd; /* closing it ends the node, also when we crash */
};

struct supervisor {
	struct env *env;
	struct log *log;
	const struct run_options *options;
	struct run_statistics *stats;

	char directory[RUN_PATH_BYTES - 16]; /* of the run: sockets */
	char socket_path[RUN_PATH_BYTES];    /* where sessions connect */
	uint64_t token;                      /* what they must know */
	uint64_t local_bytes, far_bytes, slab_bytes;

	struct local_node node;
	struct fabric *fabric;
	struct cluster *cluster;
	struct pool *pool;
	struct volume *volume;
	bool volume_ready;
	bool direct, staged; /* neither until the first piece decides */
	int volume_error;    /* why there is none */

	struct slots slots;
	void *slots_memory;
	size_t slots_bytes;
	int slots_memfd;
	struct pieces pieces;
	struct budget budget;

	struct session *sessions; /* all, linked */
	uint32_t sessions_count, sessions_made;

	int epoll_fd, listen_fd, signal_fd;
	pid_t program; /* 0: ended */
	int program_status;
	bool ending;     /* the tree is being ended by us */
	int exit_status; /* of an ending */
};

/* Ends the run for a reason that is ours: prints it once, kills the tree. Calling it again does
 * nothing more: the first reason is the one that people need. */
void supervisor_fail(struct supervisor *run, int exit_status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* session.c */
int sessions_listen(struct supervisor *run);
void session_accept(struct supervisor *run);
/* The socket of a session turned readable. */
void session_receive(struct session *session);
/* The pool ended an operation that a session began. */
void session_io_done(uint64_t token, int status);
/* Hands to the pool what it had no room for before. */
void sessions_pump(struct supervisor *run);
/* Every process of the tree has a session: ends those of children that were never born. */
void sessions_forget_unborn(struct supervisor *run);
/* Pieces were opened or refused: those who wait may go on. */
void sessions_pieces_changed(struct supervisor *run);
void sessions_nudge(struct supervisor *run);
void sessions_close(struct supervisor *run);

/* One process's side of the budget, for budget.c. */
struct session_view {
	pid_t pid;
	struct session_memory *memory;
	uint64_t *faults_seen;
	uint64_t *weight;
};
struct session *session_next(struct supervisor *run, struct session *after);
struct session_view session_view(struct session *session);
void session_nudge(struct session *session);
bool session_of_process(struct supervisor *run, pid_t pid);

/* pieces.c */
/* Tokens of probes are odd; those of sessions are addresses, and even. */
static inline uint64_t run_probe_token(uint32_t piece)
{
	return (uint64_t)piece << 1 | 1;
}
int run_pieces_first(struct supervisor *run);
void run_pieces_want(struct supervisor *run, uint32_t slots);
/* The pool's answer to a piece that was asked for: 0: it is mapped. */
void run_pieces_answer(struct supervisor *run, uint32_t piece, int status);
/* VOLUME_PIECE of the pool. */
void run_pieces_event(struct supervisor *run, uint32_t piece, int status);
void run_pieces_tick(struct supervisor *run);
uint64_t run_pieces_free_slots(const struct supervisor *run);

/* budget.c */
void budget_tick(struct supervisor *run);
void budget_share(struct supervisor *run);

/* tree.c */
/* Calls `each` for every descendant of this process, at most RUN_SESSIONS_MAX of them. */
unsigned tree_each(void (*each)(void *context, pid_t pid), void *context);
/* Anonymous memory of a process that is in RAM, in bytes; 0 if it is gone. */
uint64_t tree_anonymous_bytes(pid_t pid);
/* Kills every descendant but `spared`. They are reaped by whoever waits for children. */
void tree_kill(pid_t spared);

/* program.c */
/*
 * Finds argv[0] as execvp would and looks whether it can be run. 0, or an enum run_exit with the
 * reason printed.
 */
int program_check(const char *name, char *path, size_t path_size);
/* Starts it with our library and the session's address in its environment. */
int program_start(struct supervisor *run, const char *path);

/* local_node.c */
int local_node_start(struct supervisor *run);
void local_node_stop(struct local_node *node);

#endif
