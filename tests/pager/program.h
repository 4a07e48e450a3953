/*
 * program.h: a program under the pager, as a test sees it
 *
 *   A supervisor, a pager in this process, and one managed range with its oracle; and the memory
 *   calls as the preloaded library makes them, each in its bracket. AFAR_PAGER_MUTATIONS takes
 *   mechanisms out of the pager (enum pager_mutation), to show that the tests notice.
 */
#ifndef AFAR_TESTS_PAGER_PROGRAM_H
#define AFAR_TESTS_PAGER_PROGRAM_H

#include "oracle.h"
#include "pager/pager.h"
#include "supervisor.h"

#include <sys/mman.h>
#include <sys/types.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif
#ifndef UNDER_SANITIZER
#define UNDER_SANITIZER 0
#endif

struct program_options {
	size_t pages;
	uint64_t limit_pages;
	bool staged, no_move, no_prefetch, lazy;
	uint32_t pieces, piece_slots; /* 0: enough */
};

struct program {
	struct program_options options;
	struct supervisor *supervisor;
	struct pager *pager;
	unsigned char *memory;
	struct oracle oracle;
	uint64_t random;
};

void program_begin(struct program *program, const struct program_options *options);
/* Releases all, and checks that no slot is held by anybody. */
void program_end(struct program *program);
struct session_counters *program_counters(const struct program *program);
uint64_t program_resident(const struct program *program);

/* Memory calls in their brackets. */
void *program_map(struct program *program, size_t len);
void program_unmap(struct program *program, void *address, size_t len);
void program_discard(struct program *program, void *address, size_t len);
void *program_move(struct program *program, void *from, size_t from_len, size_t to_len, bool move);
void program_protect(struct program *program, void *address, size_t len, int prot);
bool program_is_far(struct program *program, const void *address);
/* fork() in its bracket; the child dies with its parent, and of a clock. -1: it failed. */
pid_t program_fork(struct program *program);

/* Waits until the condition holds; a test that waits for ever is ended by its time limit. */
#define WAIT_UNTIL(condition)              \
	do {                               \
		while (!(condition))       \
			program_breathe(); \
	} while (0)
void program_breathe(void);

/* Runs the test in a child process; returns its wait status. */
int in_child(void (*run)(void *context), void *context);
/* Waits for a child that must have ended well. */
void expect_success(pid_t child);

#endif
