/*
 * main.c: the simulator's command
 *
 *   Seeds run in child processes, each of which takes the next seed from shared memory and leaves
 *   its verdict there. A child that dies by an assertion or a bad access has found something too:
 *   its seed is known, and another child goes on in its place.
 */
#include "node/node.h"
#include "pool/pool.h"
#include "sim/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX  64u
#define FOUND_MAX 16u /* violations that are told in full */
#define CPU_S_MAX 120 /* of one seed: a loop that never ends is a violation */

static const struct {
	const char *name;
	uint64_t pool, node;
	const char *what;
} mutations[] = {
	{"fencing", 0, NODE_MUTATE_FENCING, "slabs change owners without a fence"},
	{"zeroing", 0, NODE_MUTATE_ZEROING, "slabs are not zeroed for another owner"},
	{"owner-epoch", 0, NODE_MUTATE_OWNER_EPOCH, "nodes serve owners that were taken over"},
	{"epochs", POOL_MUTATE_EPOCHS, 0, "a remapped piece keeps its epoch"},
	{"checksums", POOL_MUTATE_CHECKSUMS, 0, "bytes that come back are not verified"},
	{"acknowledgement-order", POOL_MUTATE_ACK_ORDER, 0,
	 "a write is acknowledged when the first copy is stored"},
	{"rebuild", POOL_MUTATE_REBUILD, 0, "pages written during a rebuild are not copied"},
};

struct found {
	uint64_t seed;
	char what[256];
};

/* What parent and children share. */
struct board {
	_Atomic uint64_t next; /* seeds that were taken */
	_Atomic uint32_t violations;
	struct found found[FOUND_MAX];
	struct {
		_Atomic uint64_t seed; /* at work on it */
		_Atomic bool busy;
		struct sim_counts counts;
		uint64_t hash;
	} child[JOBS_MAX];
};

struct command {
	uint64_t first, seeds;
	uint32_t jobs;
	const char *mutation;
	uint64_t pool_mutations, node_mutations;
	bool json, verbose, keep_going;
};

static void usage(FILE *stream)
{
	fputs("usage: sim pool [--seeds N] [--seed S] [--mutate NAME] [--jobs N] [--keep-going]\n"
	      "                [--json] [-v]\n\n"
	      "Runs the pool on simulated machines that fail, and checks what it promises.\n\n"
	      "  --seed S       the first seed; alone, the only one (default 1)\n"
	      "  --seeds N      so many seeds from there (default 100)\n"
	      "  --mutate NAME  without one safety mechanism: a violation must be found\n"
	      "  --jobs N       processes (default: one a processor)\n"
	      "  --keep-going   do not stop at the first violation\n"
	      "  --json         the result as one JSON object\n"
	      "  -v             tell the story of each run\n\n"
	      "Exit status: 0 all promises held; 1 one was broken; 2 wrong usage.\n\n"
	      "Mutations:\n",
	      stream);
	for (size_t i = 0; i < sizeof(mutations) / sizeof(mutations[0]); i++)
		fprintf(stream, "  %-22s %s\n", mutations[i].name, mutations[i].what);
}

static void note(struct board *board, uint64_t seed, const char *what)
{
	uint32_t place = atomic_fetch_add(&board->violations, 1);

	if (place >= FOUND_MAX)
		return;
	board->found[place].seed = seed;
	snprintf(board->found[place].what, sizeof(board->found[place].what), "%s", what);
}

static void add_counts(struct sim_counts *sum, const struct sim_counts *counts)
{
	uint64_t *to = (uint64_t *)(void *)sum;
	const uint64_t *from = (const uint64_t *)(const void *)counts;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
}

/* By processor time: a machine that is busy with other things proves nothing. 0: no limit. */
static void limit_processor(time_t seconds)
{
	const struct itimerval timer = {.it_value.tv_sec = seconds};

	setitimer(ITIMER_PROF, &timer, NULL);
}

/* A child's life: seeds until there are none. */
static void work(const struct command *command, struct board *board, uint32_t self)
{
	for (;;) {
		uint64_t place = atomic_fetch_add(&board->next, 1);
		struct sim_options options = {
			.seed = command->first + place,
			.pool_mutations = command->pool_mutations,
			.node_mutations = command->node_mutations,
			.verbose = command->verbose,
		};
		struct sim_verdict verdict;

		if (place >= command->seeds ||
		    (!command->keep_going && atomic_load(&board->violations) > 0))
			return;
		atomic_store(&board->child[self].seed, options.seed);
		atomic_store(&board->child[self].busy, true);
		limit_processor(CPU_S_MAX);
		sim_run(&options, &verdict);
		limit_processor(0);
		add_counts(&board->child[self].counts, &verdict.counts);
		board->child[self].hash ^= verdict.hash;
		if (verdict.violated)
			note(board, options.seed, verdict.what);
		atomic_store(&board->child[self].busy, false);
	}
}

static pid_t start(const struct command *command, struct board *board, uint32_t self)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	work(command, board, self);
	fflush(NULL);
	_exit(0);
}

/* A child ended; true if another one has to go on in its place. */
static bool child_ended(struct board *board, uint32_t self, int status)
{
	char what[64];

	if (!atomic_load(&board->child[self].busy))
		return false;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF)
		snprintf(what, sizeof(what), "the run does not end");
	else if (WIFSIGNALED(status))
		snprintf(what, sizeof(what), "an assertion or a bad access: signal %d",
			 WTERMSIG(status));
	else
		snprintf(what, sizeof(what), "the process ended: status %d", WEXITSTATUS(status));
	note(board, atomic_load(&board->child[self].seed), what);
	atomic_store(&board->child[self].busy, false);
	return true;
}

static int run_children(const struct command *command, struct board *board)
{
	pid_t pids[JOBS_MAX];
	uint32_t running = 0;

	for (uint32_t i = 0; i < command->jobs; i++) {
		pids[i] = start(command, board, i);
		if (pids[i] < 0)
			return -errno;
		running++;
	}
	while (running > 0) {
		int status;
		pid_t pid = wait(&status);

		if (pid < 0 && errno == EINTR)
			continue;
		for (uint32_t i = 0; i < command->jobs; i++) {
			if (pids[i] != pid)
				continue;
			running--;
			if (child_ended(board, i, status) && command->keep_going) {
				pids[i] = start(command, board, i);
				running += pids[i] > 0;
			}
		}
	}
	return 0;
}

static void print_text(const struct command *command, const struct board *board,
		       const struct sim_counts *sum)
{
	uint32_t violations = board->violations;
	uint64_t seeds = board->next < command->seeds ? board->next : command->seeds;

	printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " reads, %" PRIu64 " writes, %" PRIu64
	       " discards, %" PRIu64 " faults, %" PRIu64 " takeovers, %" PRIu64
	       " explained errors, %" PRIu64 " late writes, %" PRIu64 " s of virtual time\n",
	       seeds, command->first, sum->reads, sum->writes, sum->discards, sum->faults,
	       sum->takeovers, sum->lost, sum->late_writes + sum->into_old,
	       sum->virtual_ns / 1000000000);
	for (uint32_t i = 0; i < violations && i < FOUND_MAX; i++)
		printf("seed %" PRIu64 ": %s\n", board->found[i].seed, board->found[i].what);
	printf("%u violations\n", violations);
}

static void print_json(const struct command *command, const struct board *board,
		       const struct sim_counts *sum)
{
	uint32_t violations = board->violations;
	uint64_t hash = 0;

	for (uint32_t i = 0; i < command->jobs; i++)
		hash ^= board->child[i].hash;
	printf("{\"first_seed\":%" PRIu64 ",\"seeds\":%" PRIu64
	       ",\"mutation\":\"%s\",\"reads\":%" PRIu64 ",\"writes\":%" PRIu64
	       ",\"discards\":%" PRIu64 ",\"faults\":%" PRIu64 ",\"takeovers\":%" PRIu64
	       ",\"explained_errors\":%" PRIu64 ",\"late_writes\":%" PRIu64
	       ",\"virtual_ns\":%" PRIu64 ",\"events\":%" PRIu64 ",\"trace\":\"%016" PRIx64
	       "\",\"violations\":%u,\"found\":[",
	       command->first, command->seeds, command->mutation ? command->mutation : "",
	       sum->reads, sum->writes, sum->discards, sum->faults, sum->takeovers, sum->lost,
	       sum->late_writes + sum->into_old, sum->virtual_ns, sum->events, hash, violations);
	/* The texts are ours, and need no escapes. */
	for (uint32_t i = 0; i < violations && i < FOUND_MAX; i++)
		printf("%s{\"seed\":%" PRIu64 ",\"what\":\"%s\"}", i ? "," : "",
		       board->found[i].seed, board->found[i].what);
	printf("]}\n");
}

static int run_pool(const struct command *command)
{
	struct board *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sim_counts sum = {0};
	struct rlimit files;
	int err;

	if (board == MAP_FAILED)
		return 2;
	/* Each slab of a shm-like run is a descriptor. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	err = run_children(command, board);
	if (err) {
		fprintf(stderr, "sim: cannot start: %s\n", strerror(-err));
		return 2;
	}
	for (uint32_t i = 0; i < command->jobs; i++)
		add_counts(&sum, &board->child[i].counts);
	if (command->json)
		print_json(command, board, &sum);
	else
		print_text(command, board, &sum);
	return board->violations > 0;
}

/* ---- arguments ---- */

static bool parse_number(const char *text, uint64_t *number)
{
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*number = strtoull(text, &end, 0);
	return errno == 0 && *end == '\0';
}

static bool parse_mutation(const char *name, struct command *command)
{
	for (size_t i = 0; name && i < sizeof(mutations) / sizeof(mutations[0]); i++) {
		if (strcmp(mutations[i].name, name) != 0)
			continue;
		command->mutation = name;
		command->pool_mutations = mutations[i].pool;
		command->node_mutations = mutations[i].node;
		return true;
	}
	return false;
}

static bool parse(int argc, char **argv, struct command *command)
{
	bool seed_given = false, seeds_given = false;
	uint64_t jobs = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);

	for (int i = 2; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--json") == 0) {
			command->json = true;
		} else if (strcmp(argv[i], "-v") == 0) {
			command->verbose = true;
		} else if (strcmp(argv[i], "--keep-going") == 0) {
			command->keep_going = true;
		} else if (strcmp(argv[i], "--seed") == 0) {
			seed_given = parse_number(value, &command->first);
			if (!seed_given)
				return false;
			i++;
		} else if (strcmp(argv[i], "--seeds") == 0) {
			seeds_given = parse_number(value, &command->seeds);
			if (!seeds_given)
				return false;
			i++;
		} else if (strcmp(argv[i], "--jobs") == 0) {
			if (!parse_number(value, &jobs))
				return false;
			i++;
		} else if (strcmp(argv[i], "--mutate") == 0) {
			if (!parse_mutation(value, command))
				return false;
			i++;
		} else {
			return false;
		}
	}
	if (seed_given && !seeds_given)
		command->seeds = 1;
	command->jobs = (uint32_t)(jobs < 1 ? 1 : jobs > JOBS_MAX ? JOBS_MAX : jobs);
	return true;
}

int main(int argc, char **argv)
{
	struct command command = {.first = 1, .seeds = 100};

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) {
		usage(stdout);
		return 0;
	}
	if (argc < 2 || strcmp(argv[1], "pool") != 0 || !parse(argc, argv, &command)) {
		usage(stderr);
		return 2;
	}
	return run_pool(&command);
}
