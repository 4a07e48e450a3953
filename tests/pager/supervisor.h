/*
 * supervisor.h: a small supervisor for tests of the pager
 *
 *   A process of its own that speaks session.h: far memory is a memfd that the test made, mapped
 *   into the pager (direct) or copied for it (staged). Everything it knows lies in memory shared
 *   with the test, which reads counters, sets limits, and has it misbehave.
 *
 *   It ends with the test program, whatever that dies of.
 */
#ifndef AFAR_TESTS_PAGER_SUPERVISOR_H
#define AFAR_TESTS_PAGER_SUPERVISOR_H

#include "pager/session.h"
#include "pager/slots.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SUPERVISOR_SESSIONS_MAX 48u
#define SUPERVISOR_PIECES_MAX   16u
#define SUPERVISOR_TOKEN        UINT64_C(0x1234567)

struct supervisor_options {
	bool staged;
	bool no_prefetch;
	uint32_t pieces, piece_slots;
	uint64_t limit_pages; /* of each session */
};

/* What the test may change while it runs, and read. */
struct supervisor_control {
	_Atomic uint32_t fail_store_every; /* every so manieth STORE is refused; 0: none */
	_Atomic uint32_t hold_stores;      /* a STORE is answered when this is 0 again */
	_Atomic uint32_t end_who_waits;    /* kill a process whose fault waits in our duplicate */

	_Atomic uint32_t sessions, sessions_ended;
	_Atomic uint32_t stores_held;
	_Atomic uint32_t stores, loads, pages_loaded, forks, forks_failed;
	_Atomic uint32_t fails, fail_reason, duplicates;
	_Atomic uint64_t fail_page;
};

struct supervisor {
	pid_t pid;
	char path[108];
	struct supervisor_options options;
	struct supervisor_control *control;
	struct slots slots;
	struct session_memory *session[SUPERVISOR_SESSIONS_MAX];
	unsigned char *slab[SUPERVISOR_PIECES_MAX]; /* one page a slot */

	int listener, bell[2], slots_fd;
	int slab_fd[SUPERVISOR_PIECES_MAX], session_fd[SUPERVISOR_SESSIONS_MAX];
	size_t slots_len, session_len, slab_len;
};

struct supervisor *supervisor_start(const struct supervisor_options *options);
/* Ends it, and gives back all its memory. Nothing of it may be in use any more. */
void supervisor_stop(struct supervisor *supervisor);
/* Where the slot's page is. */
unsigned char *supervisor_far(const struct supervisor *supervisor, uint32_t slot);
/* Sets the limit of a session (by the order of their beginning) and nudges it. */
void supervisor_limit(struct supervisor *supervisor, unsigned session, uint64_t limit_pages);

#endif
