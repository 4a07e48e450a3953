/*
 * program.c: see program.h
 */
#include "program.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES     4096u
#define CHILD_SECONDS  600u
#define DEFAULT_PIECES 8u
#define DEFAULT_SLOTS  1024u

/* Threads are started in children of processes with threads: gcc's runtime asks to be told. */
const char *__tsan_default_options(void); /* NOLINT(bugprone-reserved-identifier,cert-*) */
const char *__tsan_default_options(void)  /* NOLINT(bugprone-reserved-identifier,cert-*) */
{
	return "die_after_fork=0";
}

void program_begin(struct program *program, const struct program_options *options)
{
	const char *mutations = getenv("AFAR_PAGER_MUTATIONS");
	struct supervisor_options supervisor = {
		.staged = options->staged,
		.no_prefetch = options->no_prefetch,
		.pieces = options->pieces ? options->pieces : DEFAULT_PIECES,
		.piece_slots = options->piece_slots ? options->piece_slots : DEFAULT_SLOTS,
		.limit_pages = options->limit_pages};
	struct pager_options pager = {.token = SUPERVISOR_TOKEN,
				      .mutations = mutations ? strtoull(mutations, NULL, 0) : 0,
				      .eager = !options->lazy,
				      .no_move = options->no_move};
	int err;

	*program = (struct program){.options = *options};
	program->random = oracle_seed();
	program->supervisor = supervisor_start(&supervisor);
	pager.socket_path = program->supervisor->path;
	err = pager_start(&pager, &program->pager);
	if (err) {
		fprintf(stderr, "pager_start: %d\n", err);
		abort();
	}
	program->memory = program_map(program, options->pages * PAGE_BYTES);
	oracle_init(&program->oracle, program->memory, options->pages, program->random);
}

void program_end(struct program *program)
{
	struct supervisor *supervisor = program->supervisor;

	program_unmap(program, program->memory, program->options.pages * PAGE_BYTES);
	pager_stop(program->pager);
	WAIT_UNTIL(supervisor->control->sessions == supervisor->control->sessions_ended);
	assert(atomic_load(&supervisor->slots.header->taken) == 0);
	for (uint32_t slot = 0; slot < supervisor->slots.slots_count; slot++)
		assert(slots_refs(&supervisor->slots, slot) == 0);
	supervisor_stop(supervisor);
	oracle_destroy(&program->oracle);
}

struct session_counters *program_counters(const struct program *program)
{
	return &program->supervisor->session[0]->counters;
}

uint64_t program_resident(const struct program *program)
{
	return atomic_load(&program->supervisor->session[0]->resident_pages);
}

void *program_map(struct program *program, size_t len)
{
	struct pager_guard guard;
	void *memory;
	int err;

	pager_lock(program->pager, &guard);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert(memory != MAP_FAILED);
	err = pager_manage(program->pager, (uintptr_t)memory, len, true);
	pager_unlock(program->pager, &guard);
	assert(err == 0);
	return memory;
}

void program_unmap(struct program *program, void *address, size_t len)
{
	struct pager_guard guard;

	pager_lock(program->pager, &guard);
	pager_release(program->pager, (uintptr_t)address, len);
	munmap(address, len);
	pager_unlock(program->pager, &guard);
}

void program_discard(struct program *program, void *address, size_t len)
{
	struct pager_guard guard;

	pager_lock(program->pager, &guard);
	pager_discard(program->pager, (uintptr_t)address, len);
	madvise(address, len, MADV_DONTNEED);
	pager_unlock(program->pager, &guard);
}

void *program_move(struct program *program, void *from, size_t from_len, size_t to_len, bool move)
{
	struct pager_guard guard;
	void *to;

	pager_lock(program->pager, &guard);
	pager_before_move(program->pager, (uintptr_t)from, from_len);
	if (move) {
		/* A free place, so that the kernel does not find that it can stay. */
		to = mmap(NULL, to_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert(to != MAP_FAILED);
		to = mremap(from, from_len, to_len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	} else {
		to = mremap(from, from_len, to_len, MREMAP_MAYMOVE);
	}
	assert(to != MAP_FAILED);
	pager_move(program->pager, (uintptr_t)from, from_len, (uintptr_t)to, to_len);
	pager_unlock(program->pager, &guard);
	return to;
}

void program_protect(struct program *program, void *address, size_t len, int prot)
{
	bool readable = (prot & PROT_READ) != 0;
	struct pager_guard guard;

	pager_lock(program->pager, &guard);
	if (!readable)
		pager_set_readable(program->pager, (uintptr_t)address, len, false);
	assert(mprotect(address, len, prot) == 0);
	if (readable)
		pager_set_readable(program->pager, (uintptr_t)address, len, true);
	pager_unlock(program->pager, &guard);
}

bool program_is_far(struct program *program, const void *address)
{
	struct pager_guard guard;
	bool is_far;

	pager_lock(program->pager, &guard);
	is_far = pager_is_far(program->pager, (uintptr_t)address);
	pager_unlock(program->pager, &guard);
	return is_far;
}

/* No child may outlive its test, not even one that hangs in the runtime of a sanitizer. */
static void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(CHILD_SECONDS);
}

pid_t program_fork(struct program *program)
{
	struct pager_guard guard;
	pid_t child;

	if (pager_fork_prepare(program->pager, &guard))
		return -1;
	child = fork();
	if (child != 0) {
		pager_fork_parent(program->pager, &guard, child > 0);
		return child;
	}
	die_with_parent();
	if (pager_fork_child(program->pager, &guard))
		_exit(125);
	return 0;
}

void program_breathe(void)
{
	poll(NULL, 0, 1);
}

int in_child(void (*run)(void *context), void *context)
{
	pid_t child = fork();
	int status;

	assert(child >= 0);
	if (child == 0) {
		die_with_parent();
		run(context);
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0)
		assert(errno == EINTR);
	return status;
}

void expect_success(pid_t child)
{
	int status;

	assert(child > 0);
	assert(waitpid(child, &status, 0) == child);
	if (status != 0)
		fprintf(stderr, "child ended with status %#x\n", (unsigned)status);
	assert(status == 0);
}
