/*
 * redirect.h: overwriting the entries of functions in a loaded library
 *
 *   Per function one of two ways, by how much room it has:
 *
 *       far     entry: jump anywhere                                    needs PATCH_FAR_BYTES
 *       near    entry: jump ──► trampoline: jump anywhere               needs PATCH_NEAR_BYTES
 *
 *   A function whose own code is still wanted loses only as many instructions as the jump covers;
 *   they move to the trampoline page, followed by a jump to the rest.
 *
 *   First everything is planned, and nothing is changed unless all of it can be; then the plans
 *   are carried out. That happens in the constructor, before there are threads that could be
 *   inside one of the functions.
 */
#ifndef AFAR_PRELOAD_REDIRECT_H
#define AFAR_PRELOAD_REDIRECT_H

#include "preload/entries.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REDIRECT_MAX     32u /* functions */
#define TRAMPOLINE_BYTES 4096u

/* One page of jumps and moved instructions, near the library where there was room. */
struct trampolines {
	unsigned char *page;
	size_t used;
};

/* One function: where it is, how long, and what is to be written over its start. */
struct redirect_plan {
	uintptr_t at;
	size_t size;
	size_t len; /* bytes of `jump` that are written */
	unsigned char jump[32];
};

/* A page within reach of near jumps from [around, around + len); anywhere if there is none. */
int trampolines_open(struct trampolines *trampolines, uintptr_t around, size_t len);
/* Makes it executable, and no longer writable. */
int trampolines_seal(struct trampolines *trampolines);

/*
 * Fills in where a loaded library has the function, and how long it is by its symbol. `library` is
 * of dlopen(). False: it has no such function.
 */
bool redirect_locate(void *library, const char *name, struct redirect_plan *plan);
/*
 * Plans the redirection of the function at plan->at, plan->size bytes long, to `entry`; if
 * `original` is not NULL the way to the old code is stored there.
 *
 * -EINVAL: no address, or not where functions can begin. -EMSGSIZE: too short for any jump.
 * -ENOTSUP: its first instructions cannot be moved. -ENOSPC: the trampolines are full.
 */
int redirect_plan(struct redirect_plan *plan, struct trampolines *trampolines,
		  const struct redirection *redirection);
/* Carries it out. A negative errno: the code cannot be made writable. */
int redirect_apply(const struct redirect_plan *plan);

#endif
