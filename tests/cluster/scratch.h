/*
 * scratch.h: a directory for one test, which removes it with all that is in it
 */
#ifndef AFAR_TESTS_CLUSTER_SCRATCH_H
#define AFAR_TESTS_CLUSTER_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRATCH_BYTES 64

/* Makes it below $TMPDIR or /tmp. Returns 0, or -1. */
static inline int scratch_make(char path[SCRATCH_BYTES])
{
	const char *parent = getenv("TMPDIR"); /* NOLINT(concurrency-mt-unsafe): one thread */

	if (!parent || strlen(parent) > SCRATCH_BYTES - 24)
		parent = "/tmp";
	snprintf(path, SCRATCH_BYTES, "%s/afar-test-XXXXXX", parent);
	return mkdtemp(path) ? 0 : -1;
}

static inline int scratch_remove_one(const char *path, const struct stat *status, int flag,
				     struct FTW *where)
{
	return remove(path);
}

static inline void scratch_remove(const char *path)
{
	nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
