/*
 * start.c: the constructor: joins the run that the environment names, or leaves the program alone
 *
 *   Without AFAR_RUN_SOCKET the library does nothing at all. With it, the program runs managed or
 *   not at all: whatever fails here ends the process with status 125 and one line that says why.
 */
#include "base/kernel_call.h"
#include "pager/session.h"
#include "preload/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct preload preload;

static void refuse(const char *what, const char *why)
{
	/* The program's descriptors are as it found them: 2 may be closed, and then nobody reads.
	 */
	(void)dprintf(STDERR_FILENO, "afar run: %s: %s\n", what, why);
	kernel_call1(SYS_exit_group, PRELOAD_EXIT_OURS);
}

static const char *reason_of(int err)
{
	switch (err) {
	case -ECONNREFUSED:
	case -ENOENT:
		return "the supervisor of this run is gone";
	case -EPERM:
		return "userfaultfd is not permitted (root, or access to /dev/userfaultfd)";
	case -ENOMEM:
		return "no room for the page table: is virtual memory limited (ulimit -v, strict "
		       "overcommit)?";
	case -ENOSYS:
		return "this kernel has no userfaultfd that can do what is needed";
	case -EPROTO:
		return "the supervisor speaks another version, or this is not its run";
	default:
		return strerror(-err);
	}
}

/* Our own file, by its full name: a new program may start in another directory. */
static int own_path(char *path, size_t size)
{
	char *real;
	Dl_info info;

	if (!dladdr((void *)&preload, &info) || !info.dli_fname)
		return -ENOENT;
	real = realpath(info.dli_fname, NULL);
	if (!real)
		return -errno;
	int n = snprintf(path, size, "%s", real);

	free(real);
	return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

/* What exec will put into the environments of new programs. */
static int remember(struct inherited *inherited, const char *socket, const char *token)
{
	static const char name[] = "LD_PRELOAD=";
	size_t name_len = sizeof(name) - 1;
	int err, n;

	memcpy(inherited->preload, name, name_len);
	err = own_path(inherited->preload + name_len, sizeof(inherited->preload) - name_len);
	if (err)
		return err;
	n = snprintf(inherited->socket, sizeof(inherited->socket), SESSION_SOCKET_ENV "=%s",
		     socket);
	if (n < 0 || (size_t)n >= sizeof(inherited->socket))
		return -ENAMETOOLONG;
	n = snprintf(inherited->token, sizeof(inherited->token), SESSION_TOKEN_ENV "=%s", token);
	return n < 0 || (size_t)n >= sizeof(inherited->token) ? -EINVAL : 0;
}

__attribute__((constructor)) static void start(void)
{
	const char *socket = getenv(SESSION_SOCKET_ENV);
	const char *token = getenv(SESSION_TOKEN_ENV);
	struct pager_options options = {.socket_path = socket};
	struct pager *pager = NULL;
	const char *reason = NULL;
	char *end = NULL;
	int err;

	if (!socket || !*socket)
		return;
	errno = 0;
	options.token = token ? strtoull(token, &end, 16) : 0;
	if (!token || !*token || *end || errno)
		refuse("the environment is damaged", SESSION_TOKEN_ENV " is no number");
	err = remember(&preload.inherited, socket, token);
	if (err)
		refuse("the environment is damaged", strerror(-err));
	err = redirect_everything(&reason);
	if (err)
		refuse("this program cannot be run with far memory", reason);
	err = pager_start(&options, &pager);
	if (err)
		refuse("cannot join the run", reason_of(err));
	/* From here on our calls act; the heap begins to be ours where it ends now. */
	program_break_start(&preload.brk);
	preload.pager = pager;
	zero_data_manage();
}
