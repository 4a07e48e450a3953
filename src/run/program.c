/*
 * program.c: finds the program, and refuses what cannot be run, with the reason
 *
 *   The preloaded library comes in through the dynamic loader. Where the loader does not run (a
 *   static program) or does not listen (set-uid, set-gid, file capabilities), the program would
 *   run with all its memory local and nobody would notice: it is refused instead.
 */
#include "run/supervisor.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define INTERPRETERS_MAX    4u /* a script whose interpreter is a script, as the kernel allows */
#define PROGRAM_HEADERS_MAX 128u

enum program_kind {
	PROGRAM_DYNAMIC,
	PROGRAM_STATIC,
	PROGRAM_FOREIGN, /* another word size, another machine, no program at all */
	PROGRAM_SCRIPT,
};

/* Looks for PT_INTERP in the program headers. */
static enum program_kind elf_kind(int fd, const Elf64_Ehdr *head)
{
	Elf64_Ehdr self;
	int own = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	bool known = own >= 0 && pread(own, &self, sizeof(self), 0) == sizeof(self);

	if (own >= 0)
		close(own);
	if (head->e_ident[EI_CLASS] != ELFCLASS64 || (known && head->e_machine != self.e_machine))
		return PROGRAM_FOREIGN;
	for (unsigned i = 0; i < head->e_phnum && i < PROGRAM_HEADERS_MAX; i++) {
		Elf64_Phdr part;
		off_t at = (off_t)(head->e_phoff + (uint64_t)i * head->e_phentsize);

		if (pread(fd, &part, sizeof(part), at) != sizeof(part))
			return PROGRAM_FOREIGN;
		if (part.p_type == PT_INTERP)
			return PROGRAM_DYNAMIC;
	}
	return PROGRAM_STATIC;
}

/* What a file is; of a script the interpreter's path goes to `interpreter` (PATH_MAX). */
static enum program_kind file_kind(const char *path, char *interpreter)
{
	union {
		Elf64_Ehdr elf;
		char text[256];
	} head = {0};
	enum program_kind kind = PROGRAM_FOREIGN;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return PROGRAM_DYNAMIC; /* executable but not readable: let exec and the loader
					   judge */
	ssize_t n = pread(fd, &head, sizeof(head) - 1, 0);
	if (n >= (ssize_t)sizeof(head.elf) && memcmp(head.elf.e_ident, ELFMAG, SELFMAG) == 0) {
		kind = elf_kind(fd, &head.elf);
	} else if (n > 2 && head.text[0] == '#' && head.text[1] == '!') {
		size_t skip = 2 + strspn(head.text + 2, " \t");
		size_t len = strcspn(head.text + skip, " \t\n");

		memcpy(interpreter, head.text + skip, len);
		interpreter[len] = '\0';
		kind = PROGRAM_SCRIPT;
	}
	close(fd);
	return kind;
}

/* Whether the loader would ignore LD_PRELOAD for this file. */
static bool is_privileged(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return false;
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return true;
	if ((st.st_mode & S_ISGID) && st.st_gid != getgid())
		return true;
	return getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0;
}

static int find(const char *name, char *path, size_t path_size)
{
	const char *search = getenv("PATH");
	struct stat st;
	int err = ENOENT;

	if (strchr(name, '/')) {
		if ((size_t)snprintf(path, path_size, "%s", name) >= path_size)
			return -ENAMETOOLONG;
		if (stat(path, &st))
			return -errno;
		if (!S_ISREG(st.st_mode) || access(path, X_OK))
			return -EACCES;
		return 0;
	}
	for (const char *at = search ? search : "/usr/local/bin:/usr/bin:/bin"; at;) {
		size_t len = strcspn(at, ":");
		int n = len ? snprintf(path, path_size, "%.*s/%s", (int)len, at, name)
			    : snprintf(path, path_size, "./%s", name);

		if (n > 0 && (size_t)n < path_size && stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
			if (access(path, X_OK) == 0)
				return 0;
			err = EACCES;
		}
		at = at[len] ? at + len + 1 : NULL;
	}
	return -err;
}

int program_check(const char *name, char *path, size_t path_size)
{
	char at[4096], interpreter[256];
	int err = find(name, path, path_size);

	if (err) {
		fprintf(stderr, "afar run: %s: %s\n", name, strerror(-err));
		return err == -ENOENT ? RUN_EXIT_NOT_FOUND : RUN_EXIT_CANNOT_RUN;
	}
	snprintf(at, sizeof(at), "%s", path);
	for (unsigned depth = 0; depth < INTERPRETERS_MAX; depth++) {
		if (is_privileged(at)) {
			fprintf(stderr,
				"afar run: %s is set-uid, set-gid or has file capabilities: the "
				"loader keeps our library out of it. Run it as its owner, or put "
				"the machine's swap on far memory.\n",
				at);
			return RUN_EXIT_CANNOT_RUN;
		}
		switch (file_kind(at, interpreter)) {
		case PROGRAM_DYNAMIC:
			return 0;
		case PROGRAM_STATIC:
			fprintf(stderr,
				"afar run: %s is statically linked: our library cannot enter it. "
				"Use a dynamically linked build, or, as root, kernel swap under a "
				"memory cgroup.\n",
				at);
			return RUN_EXIT_CANNOT_RUN;
		case PROGRAM_FOREIGN:
			fprintf(stderr, "afar run: %s is no program of this machine's word size\n",
				at);
			return RUN_EXIT_CANNOT_RUN;
		case PROGRAM_SCRIPT:
			snprintf(at, sizeof(at), "%s", interpreter);
			break;
		}
	}
	fprintf(stderr, "afar run: %s: too many interpreters in a row\n", name);
	return RUN_EXIT_CANNOT_RUN;
}

/* The child's half of program_start(); never returns. */
static void __attribute__((noreturn)) become_program(struct supervisor *run, const char *path)
{
	const char *preload = getenv("LD_PRELOAD");
	char libraries[8192], token[32];
	sigset_t none;

	if (preload && *preload)
		snprintf(libraries, sizeof(libraries), "%s:%s", run->options->library_path,
			 preload);
	else
		snprintf(libraries, sizeof(libraries), "%s", run->options->library_path);
	snprintf(token, sizeof(token), "%" PRIx64, run->token);
	setenv("LD_PRELOAD", libraries, 1);
	setenv(SESSION_SOCKET_ENV, run->socket_path, 1);
	setenv(SESSION_TOKEN_ENV, token, 1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(path, run->options->argv);
	fprintf(stderr, "afar run: %s: %s\n", path, strerror(errno));
	_exit(errno == ENOENT ? RUN_EXIT_NOT_FOUND : RUN_EXIT_CANNOT_RUN);
}

int program_start(struct supervisor *run, const char *path)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0)
		become_program(run, path);
	run->program = pid;
	return 0;
}
