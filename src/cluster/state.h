/*
 * state.h: what a cluster's handle holds; for the files of this folder alone
 */
#ifndef AFAR_CLUSTER_STATE_H
#define AFAR_CLUSTER_STATE_H

#include "cluster/cluster.h"
#include "cluster/record.h"
#include "cluster/store.h"

#define CLUSTER_LOOK_NS         (INT64_C(100) * 1000 * 1000)
#define CLUSTER_WATCHES_MAX     256u /* volumes whose owner's lease is watched at a time */
#define CLUSTER_LEASE_NS_REMOTE (INT64_C(1000) * 1000 * 1000)
#define CLUSTER_ROOT_NAME       "cluster"
#define CLUSTER_BURY_LEASES     64 /* a member that is dead for so many intervals is forgotten */

/* A member as it is seen from here. */
struct member_watch {
	struct cluster_member member;
	uint64_t version;   /* of its record, when it was last seen to change */
	int64_t changed_ns; /* when that was, by our clock */
	int64_t lease_ns;
	bool listed; /* seen in the look at hand */
};

/* The lease of a volume that we would like to own. */
struct lease_watch {
	char name[CLUSTER_VOLUME_NAME_BYTES]; /* "": a free place */
	uint64_t version;
	int64_t changed_ns;
};

struct cluster {
	struct env *env;
	struct log *log;
	struct store *store;  /* NULL: a list */
	int64_t lease_ns_min; /* of ours: of a folder that others serve, CLUSTER_LEASE_NS_REMOTE */
	uint64_t id;

	uint32_t members;
	struct member_watch member[CLUSTER_MEMBERS_MAX];
	int64_t next_look_ns;

	bool joined;
	struct record_member self;
	uint64_t self_version;
	int64_t next_renewal_ns;

	struct lease_watch watch[CLUSTER_WATCHES_MAX];
	unsigned char *record; /* RECORD_VOLUME_BYTES_MAX: the record at hand; NULL without store */
};

/* The interval of a lease, plus a quarter: how long it must stand still before it has ended. */
static inline int64_t lease_end_ns(int64_t lease_ns)
{
	return lease_ns + lease_ns / 4;
}

#endif
