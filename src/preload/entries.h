/*
 * entries.h: what stands in the place of the C library's functions
 *
 *   Each has the signature and the manners of the function it replaces: results, errno, and no
 *   other state. The work is done by the functions of preload.h. Those that end in `original` are
 *   the C library's own code, reached around the jump, where we add to a function instead of
 *   replacing it.
 */
#ifndef AFAR_PRELOAD_ENTRIES_H
#define AFAR_PRELOAD_ENTRIES_H

#include <stdbool.h>

struct redirection {
	const char *name;    /* of the C library's function */
	void (*entry)(void); /* ours */
	/* Where to leave a way to the C library's own code; NULL: it is not needed any more. */
	void (**original)(void);
	bool required; /* without it the program cannot be run */
};

/* Ends with a name of NULL. */
extern const struct redirection entries[];

#endif
