/*
 * world_files.h: the files of the simulated world, in memory (see world.h, W5 and W6)
 *
 *   A tree is a sorted array of paths: a simulation has some hundred files, and a directory is
 *   then a run of neighbours in byte order. Contents are replaced whole, as env.h promises.
 */
#ifndef AFAR_BASE_WORLD_FILES_H
#define AFAR_BASE_WORLD_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct world_file {
	char *path;
	unsigned char *bytes;
	size_t len_bytes;
	bool is_directory;
};

struct world_lock {
	char *path;
	uint32_t holder; /* the machine, plus one; 0: nobody */
};

/* Zeroed: an empty tree, with the directory "/". */
struct world_files {
	struct world_file *sorted;
	uint32_t count, room;
	struct world_lock *locks; /* every path that ever was locked: a place is a lock's number */
	uint32_t lock_count;
};

void world_files_free(struct world_files *files);

/* As the functions of env.h that have these names. */
int world_files_read(const struct world_files *files, const char *path, void *buf,
		     size_t size_bytes, size_t *len_bytes);
int world_files_write(struct world_files *files, const char *path, const void *bytes,
		      size_t len_bytes, bool must_be_new);
int world_files_remove(struct world_files *files, const char *path);
int world_files_dir_make(struct world_files *files, const char *path);
int world_files_dir_list(const struct world_files *files, const char *path,
			 void (*each)(void *context, const char *name), void *context);

/* Takes the lock at `path` for a machine; its number, or -ENOENT. */
int world_files_lock(struct world_files *files, const char *path, uint32_t machine);
/* Gives the lock back, if the machine still has it. */
void world_files_unlock(struct world_files *files, uint32_t lock, uint32_t machine);
void world_files_unlock_all(struct world_files *files, uint32_t machine);

#endif
