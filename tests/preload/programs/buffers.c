/* buffers.c: the kernel reads from far memory and writes into it: read, write, readv, sockets */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

static char *source, *target;
static size_t len;

static void write_all(int fd, const char *bytes, size_t count)
{
	while (count > 0) {
		ssize_t n = write(fd, bytes, count);

		check(n > 0);
		bytes += n;
		count -= (size_t)n;
	}
}

static void read_all(int fd, char *bytes, size_t count)
{
	while (count > 0) {
		ssize_t n = read(fd, bytes, count);

		check(n > 0);
		bytes += n;
		count -= (size_t)n;
	}
}

static void *send_all(void *arg)
{
	write_all(*(int *)arg, source, len);
	return NULL;
}

static void through(int in, int out, uint64_t owner)
{
	pthread_t thread;

	pattern_write(source, len, owner);
	memset(target, 0xee, len);
	check(pthread_create(&thread, NULL, send_all, &in) == 0);
	read_all(out, target, len);
	check(pthread_join(thread, NULL) == 0);
	check(pattern_is(target, len, owner));
}

/* Pieces from all over the memory in one call. */
static void scattered(int fd)
{
	struct iovec piece[64];
	size_t size = len / 128 & ~(PAGE - 1);

	size = size ? size : PAGE;
	pattern_write(source, len, 30);
	memset(target, 0, len);
	for (unsigned i = 0; i < 64; i++)
		piece[i] = (struct iovec){source + (63 - i) * size, size};
	check(pwritev(fd, piece, 64, 0) == (ssize_t)(64 * size));
	for (unsigned i = 0; i < 64; i++)
		piece[i].iov_base = target + (63 - i) * size;
	check(preadv(fd, piece, 64, 0) == (ssize_t)(64 * size));
	check(pattern_is(target, 64 * size, 30));
}

/* Past the page cache if the file system allows it, otherwise as any other file. */
static void direct(const char *path)
{
	int fd = open(path, O_RDWR | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, O_RDWR);
	check(fd >= 0);
	pattern_write(source, len, 40);
	check(pwrite(fd, source, len, 0) == (ssize_t)len);
	memset(target, 0, len);
	check(pread(fd, target, len, 0) == (ssize_t)len);
	check(pattern_is(target, len, 40));
	close(fd);
}

int main(int argc, char **argv)
{
	char directory[] = "/tmp/buffers-XXXXXX", path[64];
	int ends[2], fd;
	struct stat st;

	len = program_bytes(argc, argv) / 4;
	source = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	target = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(source != MAP_FAILED && target != MAP_FAILED);
	check(pipe(ends) == 0);
	through(ends[1], ends[0], 10);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	through(ends[0], ends[1], 20);
	check(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/file", directory);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	check(fd >= 0);
	write_all(fd, source, len);
	scattered(fd);
	direct(path);
	check(unlink(path) == 0 && rmdir(directory) == 0);
	/* Results of system calls in a page that was never touched. */
	check(madvise(target, len, MADV_DONTNEED) == 0);
	check(fstat(fd, (struct stat *)(void *)(target + len / 2)) == 0 && fstat(fd, &st) == 0);
	check(((struct stat *)(void *)(target + len / 2))->st_ino == st.st_ino);
	puts("what the kernel was given came back");
	return 0;
}
