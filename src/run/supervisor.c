/*
 * supervisor.c: the loop of `afar run`
 *
 *   Set up in the order of the life of a run (run.h), one loop, taken down in reverse. The loop
 *   hands out: events of the pool (operations, pieces), messages of sessions, signals, the tick of
 *   the budget. It sleeps in one epoll_wait(), which the fabric's descriptor ends too.
 */
#include "run/supervisor.h"

#include "afar/error.h"
#include "base/env.h"
#include "base/log.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "pool/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define POOL_EVENTS_MAX 64
#define SETUP_NS        (30 * NS_PER_S) /* for the volume and its first piece */
#define SLAB_BYTES_MIN  (UINT64_C(2) << 20)
#define FAR_BYTES_MAX   (UINT64_C(1) << 40)
#define FAR_CLUSTER     (UINT64_C(64) << 30)
#define LOCAL_BYTES_MIN (UINT64_C(4) << 20)
#define EPOLL_LISTEN    ((void *)1)
#define EPOLL_SIGNAL    ((void *)2)
#define EPOLL_FABRIC    ((void *)3)

static uint64_t available_bytes(void)
{
	static const char name[] = "MemAvailable:";
	FILE *file = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	while (file && kib == 0 && fgets(line, sizeof(line), file))
		if (strncmp(line, name, sizeof(name) - 1) == 0)
			kib = strtoull(line + sizeof(name) - 1, NULL, 10);
	if (file)
		fclose(file);
	return kib ? kib * 1024 : UINT64_C(1) << 30;
}

uint64_t run_local_bytes_default(void)
{
	return available_bytes() / 2;
}

uint64_t run_far_bytes_default(bool own_node, uint64_t local_bytes)
{
	uint64_t available = available_bytes();

	if (!own_node)
		return FAR_CLUSTER;
	/* The node lives on this machine too: what the program may have here is not there. */
	uint64_t left = available > local_bytes ? available - local_bytes : 0;
	return left / 4 * 3 > (UINT64_C(64) << 20) ? left / 4 * 3 : UINT64_C(64) << 20;
}

void supervisor_fail(struct supervisor *run, int exit_status, const char *format, ...)
{
	va_list arguments;

	if (run->ending)
		return;
	run->ending = true;
	run->exit_status = exit_status;
	fflush(stdout);
	fprintf(stderr, "afar run: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at))
		atomic_store(&session_view(at).memory->ended, 1);
	tree_kill(run->node.pid);
}

static void on_pool_event(struct supervisor *run, const struct pool_event *event)
{
	switch (event->kind) {
	case VOLUME_DONE:
		if (event->token & 1)
			run_pieces_answer(run, (uint32_t)(event->token >> 1), event->status);
		else
			session_io_done(event->token, event->status);
		break;
	case VOLUME_READY:
		run->volume_ready = true;
		break;
	case VOLUME_FAILED:
		run->volume_error = event->status;
		if (run->program)
			supervisor_fail(run, RUN_EXIT_LOST, "the volume is lost: %s",
					afar_strerror(event->status));
		break;
	case VOLUME_PIECE:
		run_pieces_event(run, (uint32_t)event->token, event->status);
		break;
	}
}

static unsigned take_pool_events(struct supervisor *run)
{
	struct pool_event events[POOL_EVENTS_MAX];
	unsigned n = pool_poll(run->pool, events, POOL_EVENTS_MAX);

	for (unsigned i = 0; i < n; i++)
		on_pool_event(run, &events[i]);
	return n;
}

/* Children: the program, the node, and orphans of the tree that came to us. */
static void reap(struct supervisor *run)
{
	int status;

	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
		if (pid == run->program) {
			run->program = 0;
			run->program_status =
				WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		} else if (pid == run->node.pid) {
			close(run->node.stop_fd);
			run->node.pid = 0;
			supervisor_fail(run, RUN_EXIT_LOST,
					"the node of this run ended, and with it the only copy of "
					"volume %s",
					run->volume ? volume_name(run->volume) : "");
		}
	}
}

static void on_signal(struct supervisor *run)
{
	struct signalfd_siginfo info;

	while (read(run->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			continue; /* several may have come as one: always reap */
		/* The terminal sends its signals to the program too; others send to us alone. */
		if (run->program && info.ssi_code != SI_KERNEL)
			kill(run->program, (int)info.ssi_signo);
	}
	reap(run);
}

static void sleep_and_dispatch(struct supervisor *run, int64_t until_ns)
{
	struct epoll_event events[16];
	int64_t wait_ns = until_ns - env_now_ns(run->env);
	int timeout_ms = wait_ns <= 0 ? 0 : (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS);
	int n = epoll_wait(run->epoll_fd, events, 16, timeout_ms);

	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == EPOLL_LISTEN)
			session_accept(run);
		else if (events[i].data.ptr == EPOLL_SIGNAL)
			on_signal(run);
		else if (events[i].data.ptr != EPOLL_FABRIC)
			session_receive(events[i].data.ptr);
	}
}

static int64_t earliest(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* One turn: everything that can be done, then one sleep. */
static void turn(struct supervisor *run)
{
	int64_t until_ns = earliest(pool_deadline_ns(run->pool), fabric_deadline_ns(run->fabric));

	if (run->program || run->sessions_count) {
		budget_tick(run);
		until_ns = earliest(until_ns, run->budget.next_ns);
	}
	unsigned taken = take_pool_events(run);
	sessions_pump(run);
	cluster_poll(run->cluster);
	until_ns = earliest(until_ns, cluster_deadline_ns(run->cluster));
	sleep_and_dispatch(run, taken || fabric_arm(run->fabric) ? 0 : until_ns);
}

/* Turns until `*ready`, or an error of the volume, or the end of patience. */
static int turn_until(struct supervisor *run, bool (*ready)(const struct supervisor *run))
{
	int64_t deadline_ns = env_now_ns(run->env) + SETUP_NS;

	while (!ready(run)) {
		if (run->volume_error)
			return run->volume_error;
		if (run->ending)
			return AFAR_ELOST;
		if (env_now_ns(run->env) > deadline_ns)
			return -ETIMEDOUT;
		turn(run);
	}
	return 0;
}

static bool volume_is_ready(const struct supervisor *run)
{
	return run->volume_ready;
}

static bool first_piece_is_decided(const struct supervisor *run)
{
	return run->pieces.opening == 0;
}

/* --- setting up ---------------------------------------------------------------------------- */

static int watch(struct supervisor *run, int fd, void *who)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = who};

	return epoll_ctl(run->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int open_directory(struct supervisor *run)
{
	const char *tmp = getenv("TMPDIR");

	/* A socket's path is short: a long TMPDIR is no place for one. */
	if (!tmp || !*tmp || strlen(tmp) > 48)
		tmp = "/tmp";
	snprintf(run->directory, sizeof(run->directory), "%s/afar-run-XXXXXX", tmp);
	if (!mkdtemp(run->directory)) {
		run->directory[0] = '\0';
		return -errno;
	}
	snprintf(run->socket_path, sizeof(run->socket_path), "%s/session", run->directory);
	return 0;
}

static int open_signals(struct supervisor *run)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGQUIT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	run->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	return run->signal_fd < 0 ? -errno : watch(run, run->signal_fd, EPOLL_SIGNAL);
}

static int open_volume(struct supervisor *run, const char *uri)
{
	const struct run_options *options = run->options;
	struct fabric_options fabric_options = {
		.id = env_random(run->env) | 1,
		.key = options->key,
		.key_len = options->key_len,
		.log = run->log,
	};
	struct pool_options pool_options = {.owner = fabric_options.id, .log = run->log};
	struct volume_options volume_options = {
		.size_bytes = run->far_bytes,
		.replicas = options->replicas,
	};
	int err = fabric_open(run->env, &fabric_options, &run->fabric);

	if (!err)
		err = cluster_open(run->env, uri, run->log, &run->cluster);
	if (!err)
		err = pool_open(run->env, run->fabric, run->cluster, &pool_options, &run->pool);
	if (!err)
		err = watch(run, fabric_fd(run->fabric), EPOLL_FABRIC);
	if (!err)
		err = volume_open(run->pool, &volume_options, &run->volume);
	if (!err)
		err = turn_until(run, volume_is_ready);
	return err;
}

static int open_slots(struct supervisor *run)
{
	uint64_t piece_slots = volume_piece_pages(run->volume);
	uint64_t pieces = volume_pages(run->volume) / piece_slots;
	size_t bytes = pieces <= UINT32_MAX && piece_slots <= UINT32_MAX
			       ? slots_bytes((uint32_t)pieces, (uint32_t)piece_slots)
			       : 0;

	if (bytes == 0)
		return -EFBIG;
	run->slots_memfd = memfd_create("afar-slots", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (run->slots_memfd < 0)
		return -errno;
	if (ftruncate(run->slots_memfd, (off_t)bytes) ||
	    fcntl(run->slots_memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, run->slots_memfd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	run->slots_memory = memory;
	run->slots_bytes = bytes;
	return slots_format(&run->slots, memory, bytes, (uint32_t)pieces, (uint32_t)piece_slots,
			    env_random(run->env));
}

static int open_far_memory(struct supervisor *run)
{
	char uri[FABRIC_ADDRESS_BYTES];
	const char *named = run->options->cluster_uri;
	bool own = !named || strcmp(named, "local:") == 0;
	int err = 0;

	if (own) {
		err = local_node_start(run);
		if (err)
			return err;
		snprintf(uri, sizeof(uri), "shm:%s/node", run->directory);
	}
	err = open_volume(run, own ? uri : named);
	if (!err)
		err = open_slots(run);
	if (!err)
		err = run_pieces_first(run);
	if (!err)
		err = turn_until(run, first_piece_is_decided);
	if (!err && run_pieces_free_slots(run) == 0)
		err = AFAR_ENOSPACE_FAR;
	return err;
}

/* Sizes that were left to us, and what they must be multiples of. */
static void settle_sizes(struct supervisor *run)
{
	const struct run_options *options = run->options;
	bool own = !options->cluster_uri || strcmp(options->cluster_uri, "local:") == 0;
	uint64_t local = options->local_bytes ? options->local_bytes : run_local_bytes_default();
	uint64_t far = options->far_bytes ? options->far_bytes : run_far_bytes_default(own, local);
	uint64_t slab = NODE_SLAB_BYTES_DEFAULT;

	/* A small volume in large slabs would be all or nothing. */
	while (own && slab > SLAB_BYTES_MIN && slab > far / 8)
		slab /= 2;
	if (far > FAR_BYTES_MAX)
		far = FAR_BYTES_MAX;
	run->slab_bytes = slab;
	run->far_bytes = (far + slab - 1) / slab * slab;
	run->local_bytes = local > LOCAL_BYTES_MIN ? local : LOCAL_BYTES_MIN;
	run->stats->local_bytes = run->local_bytes;
	run->stats->far_bytes = run->far_bytes;
}

/* --- the end ------------------------------------------------------------------------------- */

/* What the sessions counted is all in; the rest is known to the supervisor. */
static void finish_statistics(struct supervisor *run, int64_t begin_ns)
{
	struct run_statistics *stats = run->stats;

	stats->seconds = (double)(env_now_ns(run->env) - begin_ns) / NS_PER_S;
	stats->local_peak_bytes = run->budget.peak_bytes;
	stats->direct = run->direct;
	if (stats->faults)
		stats->fault_ns_mean /= stats->faults;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* A node that was killed has left its socket. */
static void remove_directory(struct supervisor *run)
{
	char node[RUN_PATH_BYTES];

	snprintf(node, sizeof(node), "%s/node", run->directory);
	unlink(node);
	unlink(run->socket_path);
	rmdir(run->directory);
}

static void take_down(struct supervisor *run, int64_t begin_ns)
{
	if (run->volume) {
		snprintf(run->stats->volume, sizeof(run->stats->volume), "%s",
			 volume_name(run->volume));
		volume_delete(run->volume);
	}
	if (run->pool)
		pool_close(run->pool);
	sessions_close(run);
	finish_statistics(run, begin_ns);
	if (run->cluster)
		cluster_close(run->cluster);
	if (run->fabric)
		fabric_close(run->fabric);
	local_node_stop(&run->node);
	if (run->slots_memory)
		munmap(run->slots_memory, run->slots_bytes);
	close_fd(run->slots_memfd);
	close_fd(run->listen_fd);
	close_fd(run->signal_fd);
	close_fd(run->epoll_fd);
	if (run->directory[0])
		remove_directory(run);
}

int run_program(struct env *env, const struct run_options *options, struct run_statistics *stats,
		int *status)
{
	struct supervisor run = {
		.env = env,
		.log = options->log,
		.options = options,
		.stats = stats,
		.token = env_random(env) | 1,
		.slots_memfd = -1,
		.listen_fd = -1,
		.signal_fd = -1,
	};
	int64_t begin_ns = env_now_ns(env);
	char path[4096];

	*stats = (struct run_statistics){0};
	*status = program_check(options->argv[0], path, sizeof(path));
	if (*status)
		return -ENOEXEC;
	settle_sizes(&run);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	run.epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	int err = run.epoll_fd < 0 ? -errno : open_directory(&run);
	if (!err)
		err = open_far_memory(&run);
	if (!err)
		err = open_signals(&run);
	if (!err)
		err = sessions_listen(&run);
	if (!err)
		err = watch(&run, run.listen_fd, EPOLL_LISTEN);
	if (!err)
		err = program_start(&run, path);
	*status = RUN_EXIT_FAILED;
	if (err) {
		supervisor_fail(&run, RUN_EXIT_FAILED, "no far memory: %s", afar_strerror(err));
	} else {
		while (run.program || (run.sessions_count && !run.ending))
			turn(&run);
		*status = run.ending ? run.exit_status : run.program_status;
	}
	if (run.ending)
		*status = run.exit_status;
	take_down(&run, begin_ns);
	return err;
}
