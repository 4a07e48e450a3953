/*
 * world_files.c: sorted paths in memory
 */
#include "base/world_files.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Memory or the end: world.h says why. */
static void *must(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

static void *copy_of(const void *bytes, size_t len_bytes)
{
	void *copy = must(malloc(len_bytes + 1));

	memcpy(copy, bytes, len_bytes);
	((char *)copy)[len_bytes] = '\0';
	return copy;
}

/* The place of `path`, or where it would have to be inserted. */
static uint32_t place_of(const struct world_files *files, const char *path)
{
	uint32_t low = 0, high = files->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (strcmp(files->sorted[middle].path, path) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct world_file *find(const struct world_files *files, const char *path)
{
	uint32_t place = place_of(files, path);

	if (place == files->count || strcmp(files->sorted[place].path, path) != 0)
		return NULL;
	return &files->sorted[place];
}

static struct world_file *insert(struct world_files *files, const char *path)
{
	uint32_t place = place_of(files, path);

	if (files->count == files->room) {
		files->room = files->room ? 2 * files->room : 64;
		files->sorted =
			must(reallocarray(files->sorted, files->room, sizeof(*files->sorted)));
	}
	memmove(&files->sorted[place + 1], &files->sorted[place],
		(files->count - place) * sizeof(*files->sorted));
	files->count++;
	files->sorted[place] = (struct world_file){.path = copy_of(path, strlen(path))};
	return &files->sorted[place];
}

static bool parent_exists(const struct world_files *files, const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash || slash == path)
		return true;

	char *parent = copy_of(path, (size_t)(slash - path));
	const struct world_file *file = find(files, parent);

	free(parent);
	return file && file->is_directory;
}

void world_files_free(struct world_files *files)
{
	for (uint32_t i = 0; i < files->count; i++) {
		free(files->sorted[i].path);
		free(files->sorted[i].bytes);
	}
	for (uint32_t i = 0; i < files->lock_count; i++)
		free(files->locks[i].path);
	free(files->sorted);
	free(files->locks);
	*files = (struct world_files){0};
}

int world_files_read(const struct world_files *files, const char *path, void *buf,
		     size_t size_bytes, size_t *len_bytes)
{
	const struct world_file *file = find(files, path);

	if (!file)
		return -ENOENT;
	if (file->is_directory)
		return -EISDIR;
	if (file->len_bytes > size_bytes)
		return -EMSGSIZE;
	if (file->len_bytes)
		memcpy(buf, file->bytes, file->len_bytes);
	*len_bytes = file->len_bytes;
	return 0;
}

int world_files_write(struct world_files *files, const char *path, const void *bytes,
		      size_t len_bytes, bool must_be_new)
{
	struct world_file *file = find(files, path);

	if (file && file->is_directory)
		return -EISDIR;
	if (file && must_be_new)
		return -EEXIST;
	if (!parent_exists(files, path))
		return -ENOENT;
	if (!file)
		file = insert(files, path);
	free(file->bytes);
	file->bytes = copy_of(bytes, len_bytes);
	file->len_bytes = len_bytes;
	return 0;
}

int world_files_remove(struct world_files *files, const char *path)
{
	struct world_file *file = find(files, path);

	if (!file)
		return -ENOENT;
	if (file->is_directory)
		return -EISDIR;
	free(file->path);
	free(file->bytes);
	files->count--;
	memmove(file, file + 1, (files->count - (uint32_t)(file - files->sorted)) * sizeof(*file));
	return 0;
}

int world_files_dir_make(struct world_files *files, const char *path)
{
	char *prefix = copy_of(path, strlen(path));
	int err = 0;

	for (char *end = prefix; !err && end;) {
		end = strchr(end + 1, '/');
		if (end)
			*end = '\0';

		struct world_file *file = find(files, prefix);

		if (file && !file->is_directory)
			err = -ENOTDIR;
		else if (!file)
			insert(files, prefix)->is_directory = true;
		if (end)
			*end = '/';
	}
	free(prefix);
	return err;
}

int world_files_dir_list(const struct world_files *files, const char *path,
			 void (*each)(void *context, const char *name), void *context)
{
	const struct world_file *directory = find(files, path);
	size_t len = strlen(path);
	uint32_t names_count = 0;

	if (!directory)
		return -ENOENT;
	if (!directory->is_directory)
		return -ENOTDIR;

	/* Copied first: `each` may change the tree. */
	char **names = must(calloc(files->count, sizeof(*names)));

	for (uint32_t i = place_of(files, path); i < files->count; i++) {
		const struct world_file *file = &files->sorted[i];

		if (strncmp(file->path, path, len) != 0)
			break;
		if (file->path[len] == '/' && file->path[len + 1] != '.' &&
		    !strchr(file->path + len + 1, '/'))
			names[names_count++] =
				copy_of(file->path + len + 1, strlen(file->path + len + 1));
	}
	for (uint32_t i = 0; i < names_count; i++) {
		each(context, names[i]);
		free(names[i]);
	}
	free(names);
	return 0;
}

static uint32_t lock_number(struct world_files *files, const char *path)
{
	uint32_t number = 0;

	while (number < files->lock_count && strcmp(files->locks[number].path, path) != 0)
		number++;
	if (number == files->lock_count) {
		files->locks = must(reallocarray(files->locks, number + 1, sizeof(*files->locks)));
		files->locks[number] = (struct world_lock){.path = copy_of(path, strlen(path))};
		files->lock_count++;
	}
	return number;
}

int world_files_lock(struct world_files *files, const char *path, uint32_t machine)
{
	if (!find(files, path)) {
		int err = world_files_write(files, path, "", 0, true);

		if (err)
			return err;
	}

	uint32_t number = lock_number(files, path);

	assert(files->locks[number].holder == 0 && "whoever holds a lock must not wait");
	files->locks[number].holder = machine + 1;
	return (int)number;
}

void world_files_unlock(struct world_files *files, uint32_t lock, uint32_t machine)
{
	if (lock < files->lock_count && files->locks[lock].holder == machine + 1)
		files->locks[lock].holder = 0;
}

void world_files_unlock_all(struct world_files *files, uint32_t machine)
{
	for (uint32_t i = 0; i < files->lock_count; i++)
		world_files_unlock(files, i, machine);
}
