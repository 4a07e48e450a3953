/*
 * store.h: the configuration store: small records, changed by compare-and-swap
 *
 *   A store is a tree of two levels: records in folders, "members/17". A record is some bytes and
 *   a version. Whoever wants to change a record says which version it has read; if the record has
 *   another one by now, nothing changes, and the caller reads again. Watching is polling: get,
 *   and compare the versions.
 *
 *   Promises, which tests/cluster/store_conformance.c checks of every store:
 *
 *   S1  A record is seen whole: the bytes of one put, never parts of two.
 *   S2  Of those who change one version at the same time, one succeeds.
 *   S3  What was acknowledged stays, over the death of any process at any moment.
 *   S4  No version of a name comes twice, also if the record was removed and made again.
 *   S5  Bytes that are not a record (torn, of somebody else) are an error, never a record.
 *
 *   Calls are short and block for as long as the engine takes: nothing on a data path comes here.
 */
#ifndef AFAR_CLUSTER_STORE_H
#define AFAR_CLUSTER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct env;
struct store;

#define STORE_RECORD_BYTES_MAX (4u << 20)
#define STORE_NAME_BYTES       96u   /* folder, slash, name, NUL */
#define STORE_LIST_MAX         4096u /* names that a folder may hold */

struct store_ops {
	int (*get)(struct store *store, const char *name, void *buf, size_t size_bytes,
		   size_t *len_bytes, uint64_t *version);
	int (*create)(struct store *store, const char *name, const void *bytes, size_t len_bytes,
		      uint64_t *version);
	int (*put)(struct store *store, const char *name, const void *bytes, size_t len_bytes,
		   uint64_t *version);
	int (*remove)(struct store *store, const char *name, uint64_t version);
	int (*list)(struct store *store, const char *folder,
		    void (*each)(void *context, const char *name), void *context);
	void (*close)(struct store *store);
};

struct store {
	const struct store_ops *ops;
};

/*
 * Reads a record. -ENOENT; -EMSGSIZE: longer than the buffer; AFAR_ECHECKSUM, AFAR_EVERSION: what
 * is there is no record of ours; -EINVAL: no name; errno of the engine.
 */
static inline int store_get(struct store *store, const char *name, void *buf, size_t size_bytes,
			    size_t *len_bytes, uint64_t *version)
{
	return store->ops->get(store, name, buf, size_bytes, len_bytes, version);
}

/* Makes a record; *version is its first one. -EEXIST: there is one. */
static inline int store_create(struct store *store, const char *name, const void *bytes,
			       size_t len_bytes, uint64_t *version)
{
	return store->ops->create(store, name, bytes, len_bytes, version);
}

/*
 * Replaces the record if it still has *version, and sets *version to the new one.
 * AFAR_ECONFLICT: it has another; -ENOENT. An errno of the engine leaves open which of both the
 * record is: read it again.
 */
static inline int store_put(struct store *store, const char *name, const void *bytes,
			    size_t len_bytes, uint64_t *version)
{
	return store->ops->put(store, name, bytes, len_bytes, version);
}

/* Removes the record if it still has the version. AFAR_ECONFLICT; -ENOENT. */
static inline int store_remove(struct store *store, const char *name, uint64_t version)
{
	return store->ops->remove(store, name, version);
}

/* Calls `each` with the names in a folder, without the folder; none if there is no such folder. */
static inline int store_list(struct store *store, const char *folder,
			     void (*each)(void *context, const char *name), void *context)
{
	return store->ops->list(store, folder, each, context);
}

static inline void store_close(struct store *store)
{
	store->ops->close(store);
}

/*
 * Whether a name may be a record's: at most one slash, with letters, digits, '-', '_' and '.'
 * around it, and neither part begins with a point.
 */
bool store_name_is_valid(const char *name);

/*
 * The directory store: a record is a file, a folder a directory below `path`; a lock file makes
 * compare and swap one step. The directory is made if it is missing. `root_name` is the record
 * that marks a directory as ours: a directory that has none of it must hold nothing else.
 *
 * -ENOTEMPTY: the directory holds something else. -EINVAL: the path is too long. -ENOMEM.
 * Two who open the same new directory at once both succeed.
 */
int store_dir_open(struct env *env, const char *path, const char *root_name, struct store **store);

#endif
