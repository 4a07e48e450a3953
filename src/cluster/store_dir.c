/*
 * store_dir.c: the configuration store in a directory
 *
 *     DIRECTORY/lock              held while a record is compared and replaced
 *     DIRECTORY/cluster           the record "cluster"
 *     DIRECTORY/members/17        the record "members/17"
 *
 *   A file is a head, then the record's bytes. Files are replaced whole (env_file_write), so a
 *   reader needs no lock: it sees the old file or the new one (S1). Writers take the lock, so
 *   that nobody else replaces the record between their look at its version and their write (S2).
 *   A version begins at a random number, which makes S4 hold without tombstones: 48 random bits.
 */
#include "cluster/store.h"

#include "afar/error.h"
#include "base/env.h"

#include <assert.h>
#include <errno.h>
#include <isa-l/crc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIR_MAGIC      0x74736661u /* "afst" */
#define DIR_FORMAT     1u
#define DIR_PATH_BYTES 1024u
#define LOCK_NAME      "lock"

struct dir_head {
	uint32_t magic;
	uint32_t format;
	uint64_t version;
	uint32_t len_bytes; /* of the record, which follows */
	uint32_t crc;       /* of the head up to here; a record guards its own bytes */
};

static_assert(sizeof(struct dir_head) == 24, "format 1");

#define FILE_BYTES_MAX (sizeof(struct dir_head) + STORE_RECORD_BYTES_MAX)

struct store_dir {
	struct store store;
	struct env *env;
	unsigned char *file; /* FILE_BYTES_MAX: the file at hand */
	char root[DIR_PATH_BYTES];
	char path[DIR_PATH_BYTES + STORE_NAME_BYTES]; /* of the record at hand */
};

static struct store_dir *dir_of(struct store *store)
{
	return (struct store_dir *)store;
}

static bool part_is_valid(const char *part, size_t len_bytes)
{
	if (len_bytes == 0 || part[0] == '.')
		return false;
	for (size_t i = 0; i < len_bytes; i++) {
		char c = part[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

		if (!letter && !(c >= '0' && c <= '9') && c != '-' && c != '_' && c != '.')
			return false;
	}
	return true;
}

bool store_name_is_valid(const char *name)
{
	size_t len_bytes = strnlen(name, STORE_NAME_BYTES);
	const char *slash = memchr(name, '/', len_bytes);

	if (len_bytes == STORE_NAME_BYTES)
		return false;
	if (!slash)
		return part_is_valid(name, len_bytes);

	size_t folder_bytes = (size_t)(slash - name);

	return part_is_valid(name, folder_bytes) &&
	       part_is_valid(slash + 1, len_bytes - folder_bytes - 1);
}

static int set_path(struct store_dir *dir, const char *name)
{
	if (!store_name_is_valid(name) || strcmp(name, LOCK_NAME) == 0)
		return -EINVAL;
	snprintf(dir->path, sizeof(dir->path), "%s/%s", dir->root, name);
	return 0;
}

static int take_lock(struct store_dir *dir)
{
	char path[DIR_PATH_BYTES + STORE_NAME_BYTES];

	snprintf(path, sizeof(path), "%s/" LOCK_NAME, dir->root);
	return env_lock(dir->env, path);
}

static uint32_t head_crc(const struct dir_head *head)
{
	return crc32_iscsi((unsigned char *)head, (int)offsetof(struct dir_head, crc), ~0u);
}

/* Reads the file at dir->path into dir->file, and checks that it is one record. */
static int load(struct store_dir *dir, struct dir_head *head)
{
	size_t len_bytes;
	int err = env_file_read(dir->env, dir->path, dir->file, FILE_BYTES_MAX, &len_bytes);

	if (err == -EMSGSIZE || (!err && len_bytes < sizeof(*head)))
		return AFAR_ECHECKSUM;
	if (err)
		return err;
	memcpy(head, dir->file, sizeof(*head));
	if (head->magic != DIR_MAGIC)
		return AFAR_ECHECKSUM;
	if (head->format != DIR_FORMAT)
		return AFAR_EVERSION;
	if (head->crc != head_crc(head) || head->len_bytes != len_bytes - sizeof(*head))
		return AFAR_ECHECKSUM;
	return 0;
}

/* Puts head and record together in dir->file; returns the length of both. */
static size_t compose(struct store_dir *dir, const void *bytes, size_t len_bytes, uint64_t version)
{
	struct dir_head head = {
		.magic = DIR_MAGIC,
		.format = DIR_FORMAT,
		.version = version,
		.len_bytes = (uint32_t)len_bytes,
	};

	head.crc = head_crc(&head);
	memcpy(dir->file, &head, sizeof(head));
	memcpy(dir->file + sizeof(head), bytes, len_bytes);
	return sizeof(head) + len_bytes;
}

static int dir_get(struct store *store, const char *name, void *buf, size_t size_bytes,
		   size_t *len_bytes, uint64_t *version)
{
	struct store_dir *dir = dir_of(store);
	struct dir_head head;
	int err = set_path(dir, name);

	if (!err)
		err = load(dir, &head);
	if (err)
		return err;
	if (head.len_bytes > size_bytes)
		return -EMSGSIZE;
	memcpy(buf, dir->file + sizeof(head), head.len_bytes);
	*len_bytes = head.len_bytes;
	*version = head.version;
	return 0;
}

static int make_folder(struct store_dir *dir, const char *name)
{
	char path[DIR_PATH_BYTES + STORE_NAME_BYTES];
	const char *slash = strchr(name, '/');

	if (!slash)
		return 0;
	snprintf(path, sizeof(path), "%s/%.*s", dir->root, (int)(slash - name), name);
	return env_dir_make(dir->env, path);
}

static int dir_create(struct store *store, const char *name, const void *bytes, size_t len_bytes,
		      uint64_t *version)
{
	struct store_dir *dir = dir_of(store);
	/* Never 0, and far from where its increments could overflow. */
	uint64_t first = (env_random(dir->env) >> 16) + 1;
	int err = set_path(dir, name);

	if (!err && len_bytes > STORE_RECORD_BYTES_MAX)
		err = -EMSGSIZE;
	if (!err)
		err = make_folder(dir, name);
	if (err)
		return err;

	/* The lock is for S4: without it a put that lost a race with a removal could land on us. */
	int lock = take_lock(dir);
	if (lock < 0)
		return lock;
	err = env_file_create(dir->env, dir->path, dir->file,
			      compose(dir, bytes, len_bytes, first));
	env_unlock(dir->env, lock);
	if (!err)
		*version = first;
	return err;
}

static int dir_put(struct store *store, const char *name, const void *bytes, size_t len_bytes,
		   uint64_t *version)
{
	struct store_dir *dir = dir_of(store);
	struct dir_head head;
	int err = set_path(dir, name);

	if (!err && len_bytes > STORE_RECORD_BYTES_MAX)
		err = -EMSGSIZE;
	if (err)
		return err;

	int lock = take_lock(dir);
	if (lock < 0)
		return lock;
	err = load(dir, &head);
	if (!err && head.version != *version)
		err = AFAR_ECONFLICT;
	if (!err)
		err = env_file_write(dir->env, dir->path, dir->file,
				     compose(dir, bytes, len_bytes, head.version + 1));
	env_unlock(dir->env, lock);
	if (!err)
		*version = head.version + 1;
	return err;
}

static int dir_remove(struct store *store, const char *name, uint64_t version)
{
	struct store_dir *dir = dir_of(store);
	struct dir_head head;
	int err = set_path(dir, name);

	if (err)
		return err;

	int lock = take_lock(dir);
	if (lock < 0)
		return lock;
	err = load(dir, &head);
	if (!err && head.version != version)
		err = AFAR_ECONFLICT;
	if (!err)
		err = env_file_remove(dir->env, dir->path);
	env_unlock(dir->env, lock);
	return err;
}

struct listing {
	void (*each)(void *context, const char *name);
	void *context;
	uint32_t count;
};

/* Passes on what can be a record: not the temporary files of a write, which begin with a point. */
static void list_one(void *context, const char *name)
{
	struct listing *listing = context;

	if (strchr(name, '/') || !store_name_is_valid(name) || listing->count == STORE_LIST_MAX)
		return;
	listing->count++;
	listing->each(listing->context, name);
}

static int dir_list(struct store *store, const char *folder,
		    void (*each)(void *context, const char *name), void *context)
{
	struct store_dir *dir = dir_of(store);
	struct listing listing = {.each = each, .context = context};
	int err = set_path(dir, folder);

	if (!err)
		err = env_dir_list(dir->env, dir->path, list_one, &listing);
	return err == -ENOENT ? 0 : err;
}

static void dir_close(struct store *store)
{
	struct store_dir *dir = dir_of(store);

	free(dir->file);
	free(dir);
}

static const struct store_ops dir_ops = {
	.get = dir_get,
	.create = dir_create,
	.put = dir_put,
	.remove = dir_remove,
	.list = dir_list,
	.close = dir_close,
};

/* What a directory may hold before it has its root record: the lock, and points (hidden files). */
static void note_stranger(void *context, const char *name)
{
	if (name[0] != '.' && strcmp(name, LOCK_NAME) != 0)
		*(bool *)context = true;
}

/*
 * Refuses a directory that is not ours, before anything is written to it. What others who open
 * the same new directory may have made by now is the lock file, hidden temporary files and the
 * root record, in this order; so a stranger that is seen while the root record is not there was
 * not made by one of them, unless the record came between the two looks: then a third look at
 * the record finds it.
 */
static int check_ours(struct store_dir *dir, const char *root_name)
{
	struct dir_head head;
	bool strange = false;
	int err = set_path(dir, root_name);

	if (!err)
		err = load(dir, &head);
	if (err != -ENOENT)
		return err;
	err = env_dir_list(dir->env, dir->root, note_stranger, &strange);
	if (err || !strange)
		return err;
	err = load(dir, &head);
	return err == -ENOENT ? -ENOTEMPTY : err;
}

int store_dir_open(struct env *env, const char *path, const char *root_name, struct store **store)
{
	struct store_dir *dir = calloc(1, sizeof(*dir));
	int err = 0;

	if (!dir)
		return -ENOMEM;
	dir->store.ops = &dir_ops;
	dir->env = env;
	dir->file = malloc(FILE_BYTES_MAX);
	if (!dir->file)
		err = -ENOMEM;
	else if (snprintf(dir->root, sizeof(dir->root), "%s", path) >= (int)sizeof(dir->root))
		err = -EINVAL;
	if (!err)
		err = env_dir_make(env, dir->root);
	if (!err)
		err = check_ours(dir, root_name);
	if (err) {
		dir_close(&dir->store);
		return err;
	}
	*store = &dir->store;
	return 0;
}
