/*
 * env.h: the world as a component may see it: a clock, randomness, files
 *
 *   Everything above base/ asks here for time, for random numbers and for files, and fabric/ for
 *   other machines. The real environment hands the calls to the kernel. The simulator's gives
 *   virtual time, numbers from one seed and files in memory, so that a run of a hundred machines
 *   happens in one thread and happens again from the same seed.
 *
 *   An env belongs to one simulated or real machine; it is used by one thread at a time, except
 *   that env_now_ns() of the real one may come from any thread.
 */
#ifndef AFAR_BASE_ENV_H
#define AFAR_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

struct env;

/* What an environment must be able to do; see the functions below for the contracts. */
struct env_ops {
	int64_t (*now_ns)(struct env *env);
	uint64_t (*random)(struct env *env);
	int (*file_read)(struct env *env, const char *path, void *buf, size_t size_bytes,
			 size_t *len_bytes);
	int (*file_write)(struct env *env, const char *path, const void *bytes, size_t len_bytes);
	int (*file_create)(struct env *env, const char *path, const void *bytes, size_t len_bytes);
	int (*file_remove)(struct env *env, const char *path);
	int (*dir_make)(struct env *env, const char *path);
	int (*dir_list)(struct env *env, const char *path,
			void (*each)(void *context, const char *name), void *context);
	int (*lock)(struct env *env, const char *path);
	void (*unlock)(struct env *env, int lock);
	bool (*dir_is_remote)(struct env *env, const char *path); /* NULL: none is */
};

struct env {
	const struct env_ops *ops;
};

/* The real world. The pointer is valid for the life of the process; nothing to free. */
struct env *env_real(void);

/* Nanoseconds of a clock that never goes back; its zero means nothing. */
static inline int64_t env_now_ns(struct env *env)
{
	return env->ops->now_ns(env);
}

/* 64 random bits: unguessable in the real world, from the seed in a simulated one. */
static inline uint64_t env_random(struct env *env)
{
	return env->ops->random(env);
}

/* A random number below `bound`, which is not 0. */
static inline uint64_t env_random_below(struct env *env, uint64_t bound)
{
	/* The bias of a 64-bit modulus is below anything that placement or tests could see. */
	return env->ops->random(env) % bound;
}

/*
 * Reads a whole small file. -ENOENT; -EMSGSIZE: longer than the buffer; other errno of read.
 */
static inline int env_file_read(struct env *env, const char *path, void *buf, size_t size_bytes,
				size_t *len_bytes)
{
	return env->ops->file_read(env, path, buf, size_bytes, len_bytes);
}

/*
 * Replaces a file whole: after a crash at any moment the old bytes are there or the new ones,
 * and after success the new ones stay (temporary file, fsync, rename, fsync of the directory).
 */
static inline int env_file_write(struct env *env, const char *path, const void *bytes,
				 size_t len_bytes)
{
	return env->ops->file_write(env, path, bytes, len_bytes);
}

/* As env_file_write, but -EEXIST if the file is there; of two who try at once one succeeds. */
static inline int env_file_create(struct env *env, const char *path, const void *bytes,
				  size_t len_bytes)
{
	return env->ops->file_create(env, path, bytes, len_bytes);
}

/* -ENOENT if it is not there. */
static inline int env_file_remove(struct env *env, const char *path)
{
	return env->ops->file_remove(env, path);
}

/* Makes a directory and those above it; 0 also if it is there. */
static inline int env_dir_make(struct env *env, const char *path)
{
	return env->ops->dir_make(env, path);
}

/* Calls `each` with the name of every file in the directory, in byte order of the names. */
static inline int env_dir_list(struct env *env, const char *path,
			       void (*each)(void *context, const char *name), void *context)
{
	return env->ops->dir_list(env, path, each, context);
}

/*
 * Takes the lock file at `path` (made if absent) exclusively, waiting for whoever has it: only
 * code that never waits inside may hold it. A dead holder's lock is free. Returns a number for
 * env_unlock() or a negative errno.
 */
static inline int env_lock(struct env *env, const char *path)
{
	return env->ops->lock(env, path);
}

/* Whether other machines may serve or change the directory: it lies on a network file system. */
static inline bool env_dir_is_remote(struct env *env, const char *path)
{
	return env->ops->dir_is_remote && env->ops->dir_is_remote(env, path);
}

static inline void env_unlock(struct env *env, int lock)
{
	env->ops->unlock(env, lock);
}

#endif
