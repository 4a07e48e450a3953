/*
 * tree.c: the processes of a run as /proc tells of them
 *
 *   The supervisor is a subreaper, so whatever the program starts stays below it, however often
 *   it forks and lets go. The walk reads /proc once and follows parents; a process that is born or
 *   dies meanwhile is missed or seen once too often, and the next look mends it.
 */
#include "run/supervisor.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROCESSES_MAX 65536u
#define KILL_ROUNDS   20000u /* the kernel needs a while to take a large process apart */

struct process {
	pid_t pid, parent;
	bool ours;
};

/* Reads a small file of /proc/PID; the bytes read, terminated; 0 if the process is gone. */
static size_t read_proc(pid_t pid, const char *file, char *buf, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, buf, size - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static pid_t parent_of(pid_t pid)
{
	char stat[512];

	if (read_proc(pid, "stat", stat, sizeof(stat)) == 0)
		return 0;
	/* The name in parentheses may hold anything: the fields begin after the last one. */
	const char *fields = strrchr(stat, ')');

	/* ") S PARENT …" */
	if (!fields || strlen(fields) < 5 || fields[2] == 'Z')
		return 0;
	return (pid_t)strtol(fields + 4, NULL, 10);
}

static unsigned read_processes(struct process *processes, unsigned max)
{
	DIR *proc = opendir("/proc");
	unsigned n = 0;

	if (!proc)
		return 0;
	for (struct dirent *entry; n < max && (entry = readdir(proc));) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		pid_t parent = parent_of(pid);
		if (parent)
			processes[n++] = (struct process){.pid = pid, .parent = parent};
	}
	closedir(proc);
	return n;
}

/* One round marks the children of those marked before; depth is bounded by their number. */
static bool mark_children(struct process *processes, unsigned n, pid_t root)
{
	bool more = false;

	for (unsigned i = 0; i < n; i++) {
		if (processes[i].ours)
			continue;
		bool ours = processes[i].parent == root;
		for (unsigned j = 0; j < n && !ours; j++)
			ours = processes[j].ours && processes[j].pid == processes[i].parent;
		if (ours)
			more = processes[i].ours = true;
	}
	return more;
}

unsigned tree_each(void (*each)(void *context, pid_t pid), void *context)
{
	struct process *processes = calloc(PROCESSES_MAX, sizeof(*processes));
	unsigned found = 0;

	if (!processes)
		return 0;
	unsigned n = read_processes(processes, PROCESSES_MAX);
	while (mark_children(processes, n, getpid()))
		;
	for (unsigned i = 0; i < n && found < RUN_SESSIONS_MAX; i++) {
		if (!processes[i].ours)
			continue;
		found++;
		each(context, processes[i].pid);
	}
	free(processes);
	return found;
}

uint64_t tree_anonymous_bytes(pid_t pid)
{
	char statm[128];
	char *at = statm;

	if (read_proc(pid, "statm", statm, sizeof(statm)) == 0)
		return 0;
	/* "size resident shared …", in pages */
	strtoull(at, &at, 10);
	uint64_t resident = strtoull(at, &at, 10);
	uint64_t shared = strtoull(at, NULL, 10);
	return resident > shared ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

struct killing {
	pid_t spared;
	unsigned killed;
};

static void kill_one(void *context, pid_t pid)
{
	struct killing *killing = context;

	if (pid == killing->spared)
		return;
	kill(pid, SIGKILL);
	killing->killed++;
}

void tree_kill(pid_t spared)
{
	/* Killed parents leave their children to us; the rounds end when nobody is left. */
	for (unsigned round = 0; round < KILL_ROUNDS; round++) {
		struct killing killing = {.spared = spared};

		tree_each(kill_one, &killing);
		if (killing.killed == 0)
			return;
	}
}
