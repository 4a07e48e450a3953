/*
 * inherited.h: the environment that a new program must get from us
 *
 *   A program may build the environment of the next one itself (env -i, sudo, a daemon that
 *   cleans up). Three entries must be in it whatever it says: our library, and where and how to
 *   join the run. Anything else of LD_PRELOAD is kept behind ours.
 *
 *   The new list is built in memory that the caller brings, because the caller may be the child of
 *   a vfork, on a small stack, in the memory of its parent: it must neither allocate nor leak.
 */
#ifndef AFAR_PRELOAD_INHERITED_H
#define AFAR_PRELOAD_INHERITED_H

#include <stdbool.h>
#include <stddef.h>

#define INHERITED_ENTRY_BYTES 4200u /* a path of PATH_MAX, and its name */

struct inherited {
	char preload[INHERITED_ENTRY_BYTES]; /* "LD_PRELOAD=" and our library's path */
	char socket[INHERITED_ENTRY_BYTES];  /* "AFAR_RUN_SOCKET=…" */
	char token[64];                      /* "AFAR_RUN_TOKEN=…" */
};

/* What it takes to build the list for `environment`. 0: it is right as it is. */
size_t inherited_bytes(const struct inherited *inherited, char *const *environment);
/* Builds it in `memory`, of so many bytes and aligned to a pointer. */
char *const *inherited_merge(const struct inherited *inherited, char *const *environment,
			     void *memory);
/* Whether the library at `path` is one of the colon or space separated names. */
bool inherited_lists(const char *names, const char *path);

#endif
