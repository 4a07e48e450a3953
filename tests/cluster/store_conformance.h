/*
 * store_conformance.h: what every configuration store must do (S1 to S5 of cluster/store.h)
 *
 *   A store joins by a maker: where its records are, and how one opens it. Each test begins with
 *   an empty store.
 */
#ifndef AFAR_TESTS_CLUSTER_STORE_CONFORMANCE_H
#define AFAR_TESTS_CLUSTER_STORE_CONFORMANCE_H

#include "cluster/store.h"

struct store_maker {
	const char *name;
	/* A place without records. */
	void *(*begin)(void);
	/* One more handle of the store there; as another process would have it. */
	struct store *(*open)(void *place);
	void (*end)(void *place);
	bool processes; /* forked children may open it too */
};

/* Runs all tests; returns how many failed. */
int store_conformance(const struct store_maker *maker);

#endif
