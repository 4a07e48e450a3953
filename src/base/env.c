/*
 * env.c: the real world, as env.h wants it seen
 *
 *   Files are replaced whole: the bytes go to a temporary file in the same directory, are synced,
 *   and take their name by rename(2), or by link(2) where the name must be new; then the directory
 *   is synced, for until then a crash may undo the name. Temporary names begin with a dot, and
 *   listing a directory leaves such names out.
 */
#include "base/env.h"

#include "base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define RANDOM_BUFFERED 32u
#define TEMPORARY_TRIES 100
#define LOCK_TRIES      1000
#define NAMES_MAX       65536u
#define FILE_MODE       0600
#define DIR_MODE        0700

static int64_t real_now_ns(struct env *env)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* ---- randomness ---- */

/*
 * Numbers from the kernel, a few at a time. One buffer a thread needs no lock; a forked child has
 * one thread, the one that forked, and must not draw what its parent will draw.
 */
static _Thread_local struct {
	unsigned left;
	uint64_t numbers[RANDOM_BUFFERED];
} drawn;

static pthread_once_t drawn_once = PTHREAD_ONCE_INIT;

static void forget_drawn(void)
{
	drawn.left = 0;
}

static void watch_forks(void)
{
	/* It fails for want of memory alone, at the first number: say so rather than repeat
	 * numbers. */
	if (pthread_atfork(NULL, NULL, forget_drawn) != 0)
		abort();
}

static uint64_t real_random(struct env *env)
{
	size_t got = 0;

	if (drawn.left > 0)
		return drawn.numbers[--drawn.left];
	pthread_once(&drawn_once, watch_forks);
	while (got < sizeof(drawn.numbers)) {
		ssize_t n = getrandom((char *)drawn.numbers + got, sizeof(drawn.numbers) - got, 0);

		/* Without GRND_NONBLOCK only a signal can come between, and only while booting. */
		assert(n >= 0 || errno == EINTR);
		got += n > 0 ? (size_t)n : 0;
	}
	drawn.left = RANDOM_BUFFERED;
	return drawn.numbers[--drawn.left];
}

/* ---- files ---- */

static int open_retry(const char *path, int flags)
{
	int fd;

	do
		fd = open(path, flags | O_CLOEXEC, FILE_MODE);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

static int real_file_read(struct env *env, const char *path, void *buf, size_t size_bytes,
			  size_t *len_bytes)
{
	int fd = open_retry(path, O_RDONLY);
	size_t len = 0;
	int err = 0;

	if (fd < 0)
		return fd;
	while (err == 0) {
		char beyond;
		bool full = len == size_bytes;
		ssize_t n =
			read(fd, full ? &beyond : (char *)buf + len, full ? 1 : size_bytes - len);

		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			err = -errno;
		else if (n > 0 && full)
			err = -EMSGSIZE;
		else if (n > 0)
			len += (size_t)n;
	}
	close(fd);
	if (err == 0)
		*len_bytes = len;
	return err;
}

static int write_all(int fd, const char *bytes, size_t len_bytes)
{
	while (len_bytes > 0) {
		ssize_t n = write(fd, bytes, len_bytes);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			bytes += n;
			len_bytes -= (size_t)n;
		}
	}
	return 0;
}

/* The directory of path, "." if it names none, into `dir`. */
static int directory_of(const char *path, char dir[PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	size_t len = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;

	if (len >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(dir, slash ? path : ".", slash ? len : 1);
	dir[slash ? len : 1] = '\0';
	return 0;
}

static int sync_directory_of(const char *path)
{
	char dir[PATH_MAX];
	int fd;
	int err = directory_of(path, dir);

	if (err)
		return err;
	fd = open_retry(dir, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	/* Some file systems cannot sync a directory and say EINVAL: they promise the order itself.
	 */
	if (fsync(fd) < 0 && errno != EINVAL)
		err = -errno;
	close(fd);
	return err;
}

/* Makes a file of a new name beside `path`; returns its descriptor and its name. */
static int open_temporary(const char *path, char name[PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	int dir_len = slash ? (int)(slash + 1 - path) : 0;

	for (int try = 0; try < TEMPORARY_TRIES; try++) {
		int len = snprintf(name, PATH_MAX, "%.*s.tmp-%016llx", dir_len, path,
				   (unsigned long long)real_random(NULL));
		int fd;

		if (len < 0 || len >= PATH_MAX)
			return -ENAMETOOLONG;
		fd = open_retry(name, O_WRONLY | O_CREAT | O_EXCL);
		if (fd != -EEXIST)
			return fd;
	}
	return -EEXIST;
}

static int take_name(const char *temporary, const char *path, bool must_be_new)
{
	if (!must_be_new)
		return rename(temporary, path) < 0 ? -errno : 0;
	/* Of two links to one name the kernel refuses the second; rename would replace. */
	if (link(temporary, path) < 0)
		return -errno;
	/* A name too many does no harm, and path is there: no reason to fail. */
	(void)unlink(temporary);
	return 0;
}

static int put_file(const char *path, const void *bytes, size_t len_bytes, bool must_be_new)
{
	char temporary[PATH_MAX];
	int err;
	int fd;

	fd = open_temporary(path, temporary);
	if (fd < 0)
		return fd;
	err = write_all(fd, bytes, len_bytes);
	if (err == 0 && fsync(fd) < 0)
		err = -errno;
	close(fd);
	if (err == 0)
		err = take_name(temporary, path, must_be_new);
	if (err) {
		(void)unlink(temporary);
		return err;
	}
	return sync_directory_of(path);
}

static int real_file_write(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return put_file(path, bytes, len_bytes, false);
}

static int real_file_create(struct env *env, const char *path, const void *bytes, size_t len_bytes)
{
	return put_file(path, bytes, len_bytes, true);
}

static int real_file_remove(struct env *env, const char *path)
{
	if (unlink(path) < 0)
		return -errno;
	return sync_directory_of(path);
}

/* ---- directories ---- */

static int make_one_directory(const char *path)
{
	struct stat status;

	if (mkdir(path, DIR_MODE) == 0)
		return sync_directory_of(path);
	if (errno != EEXIST)
		return -errno;
	if (stat(path, &status) < 0)
		return -errno;
	return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

static int real_dir_make(struct env *env, const char *path)
{
	char prefix[PATH_MAX];
	size_t len = strlen(path);

	if (len == 0)
		return -ENOENT;
	if (len >= sizeof(prefix))
		return -ENAMETOOLONG;
	memcpy(prefix, path, len + 1);
	/* From the top down; the first character is either the root's slash or no slash. */
	for (size_t i = 1; i < len; i++) {
		int err;

		if (prefix[i] != '/')
			continue;
		prefix[i] = '\0';
		err = make_one_directory(prefix);
		prefix[i] = '/';
		if (err)
			return err;
	}
	return make_one_directory(prefix);
}

struct names {
	char **names;
	size_t count;
	size_t capacity;
};

static int names_add(struct names *names, const char *name)
{
	char *copy;

	if (names->count == NAMES_MAX)
		return -E2BIG;
	if (names->count == names->capacity) {
		size_t capacity = names->capacity ? names->capacity * 2 : 64;
		char **grown = realloc(names->names, capacity * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		names->names = grown;
		names->capacity = capacity;
	}
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	names->names[names->count++] = copy;
	return 0;
}

static int read_names(DIR *dir, struct names *names)
{
	for (;;) {
		struct dirent *entry;
		int err = 0;

		errno = 0;
		entry = readdir(
			dir); /* NOLINT(concurrency-mt-unsafe): safe on a DIR of one's own */
		if (!entry)
			return -errno;
		if (entry->d_name[0] != '.')
			err = names_add(names, entry->d_name);
		if (err)
			return err;
	}
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Reads all names before it calls: what `each` does to the directory does not show. */
static int real_dir_list(struct env *env, const char *path,
			 void (*each)(void *context, const char *name), void *context)
{
	struct names names = {0};
	DIR *dir = opendir(path);
	int err;

	if (!dir)
		return -errno;
	err = read_names(dir, &names);
	closedir(dir);
	if (err == 0 && names.count > 0)
		qsort(names.names, names.count, sizeof(*names.names), by_bytes);
	for (size_t i = 0; i < names.count; i++) {
		if (err == 0)
			each(context, names.names[i]);
		free(names.names[i]);
	}
	free(names.names);
	return err;
}

/* By the magic numbers of statfs(2); a file system in user space may be anything, so it is one. */
static bool real_dir_is_remote(struct env *env, const char *path)
{
	static const uint32_t magics[] = {
		0x6969 /* NFS */,      0x517b /* SMB */,       0xff534d42 /* CIFS */,
		0xfe534d42 /* SMB2 */, 0x65735546 /* FUSE */,  0x01021997 /* 9P */,
		0x00c36400 /* Ceph */, 0x5346414f /* AFS */,   0x0bd00bd0 /* Lustre */,
		0x01161970 /* GFS2 */, 0x7461636f /* OCFS2 */,
	};
	struct statfs status;

	if (statfs(path, &status) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_COUNT(magics); i++) {
		if ((uint32_t)status.f_type == magics[i])
			return true;
	}
	return false;
}

/* ---- locks ---- */

/*
 * flock(2), not fcntl: the lock belongs to this open file, so two users in one process exclude
 * each other too, and the kernel drops it with the last descriptor.
 */
static int real_lock(struct env *env, const char *path)
{
	for (int try = 0; try < LOCK_TRIES; try++) {
		struct stat held;
		struct stat named;
		int fd = open_retry(path, O_RDWR | O_CREAT);
		int err = 0;

		if (fd < 0)
			return fd;
		while (flock(fd, LOCK_EX) < 0 && err == 0)
			err = errno == EINTR ? 0 : -errno;
		if (err == 0 && fstat(fd, &held) < 0)
			err = -errno;
		if (err) {
			close(fd);
			return err;
		}
		/* Somebody may have removed the file while we waited: then lock the one there now.
		 */
		if (stat(path, &named) == 0 && held.st_dev == named.st_dev &&
		    held.st_ino == named.st_ino)
			return fd;
		close(fd);
	}
	return -EBUSY;
}

static void real_unlock(struct env *env, int lock)
{
	close(lock);
}

struct env *env_real(void)
{
	static const struct env_ops ops = {
		.now_ns = real_now_ns,
		.random = real_random,
		.file_read = real_file_read,
		.file_write = real_file_write,
		.file_create = real_file_create,
		.file_remove = real_file_remove,
		.dir_make = real_dir_make,
		.dir_list = real_dir_list,
		.lock = real_lock,
		.unlock = real_unlock,
		.dir_is_remote = real_dir_is_remote,
	};
	static struct env real = {.ops = &ops};

	return &real;
}
