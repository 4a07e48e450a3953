/*
 * pool.c: a pool and its turn of the wheel: what happened, what is due, what is to be told
 *
 *     pool_poll()   events of the fabric ─► transfers end, nodes answer, peers come and go
 *                   timers               ─► leases, reconnects, operations that waited too long
 *                   ready operations     ─► started
 *                   fibers               ─► control work
 *                   events               ─► the caller
 */
#include "pool/volume.h"

#include <stdlib.h>
#include <string.h>

#define POLLS_WITHOUT_CLOCK 16u
#define FIBER_ROUNDS        8 /* of fibers and operations that wake each other, in one poll */
#define LATE_NS             (500 * NS_PER_MS) /* behind a timer: the process was stopped */
#define CLOSE_ROUNDS        100000u /* of fabric_poll() until every peer is down: F1 promises it */

static void set_defaults(struct pool_options *options)
{
	if (options->rebuild_bytes_per_s == 0)
		options->rebuild_bytes_per_s = REBUILD_BYTES_PER_S_DEFAULT;
	if (options->request_ns == 0)
		options->request_ns = REQUEST_NS_DEFAULT;
	if (options->grace_ns == 0)
		options->grace_ns = GRACE_NS_DEFAULT;
	if (options->reattach_ns == 0)
		options->reattach_ns = REATTACH_NS_DEFAULT;
	if (options->patience_ns == 0)
		options->patience_ns = PATIENCE_NS_DEFAULT;
}

static void register_metrics(struct pool *pool)
{
	const struct {
		const char *name, *help;
		const struct counter *counter;
	} series[] = {
		{"afar_pool_reads_total", "Pages read.", &pool->count.reads},
		{"afar_pool_writes_total", "Pages written.", &pool->count.writes},
		{"afar_pool_read_retries_total", "Reads that went on to another copy.",
		 &pool->count.read_retries},
		{"afar_pool_checksum_failures_total", "Pages that came back wrong.",
		 &pool->count.checksum_failures},
		{"afar_pool_pages_lost_total", "Pages of which no copy was left.",
		 &pool->count.pages_lost},
		{"afar_pool_pieces_mapped_total", "Pieces mapped at their first write.",
		 &pool->count.pieces_mapped},
		{"afar_pool_pieces_remapped_total", "Changes to the map of a piece.",
		 &pool->count.pieces_remapped},
		{"afar_pool_copies_lost_total", "Copies lost with their nodes.",
		 &pool->count.copies_lost},
		{"afar_pool_copies_rebuilt_total", "Copies made for lost or moved ones.",
		 &pool->count.copies_rebuilt},
		{"afar_pool_bytes_rebuilt_total", "Bytes copied for that.",
		 &pool->count.bytes_rebuilt},
		{"afar_pool_evictions_answered_total", "Eviction notices answered.",
		 &pool->count.evictions_answered},
		{"afar_pool_lease_losses_total", "Volumes lost to another owner.",
		 &pool->count.lease_losses},
		{"afar_pool_bad_messages_total", "Messages of nodes that made no sense.",
		 &pool->count.bad_messages},
		{"afar_pool_stray_events_total", "Completions of nothing.",
		 &pool->count.stray_events},
	};

	/* Two pools of one process share a registry: the first is shown. */
	for (size_t i = 0; i < ARRAY_COUNT(series); i++)
		(void)metrics_counter(pool->options.metrics, pool, series[i].name, "",
				      series[i].help, series[i].counter);
}

int pool_open(struct env *env, struct fabric *fabric, struct cluster *cluster,
	      const struct pool_options *options, struct pool **result)
{
	struct sched_options sched_options = {.fibers_max = POOL_FIBERS_MAX};
	struct pool *pool;
	size_t len_bytes = 0;
	int err;

	if (options->owner == 0)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pool->env = env;
	pool->fabric = fabric;
	pool->cluster = cluster;
	pool->options = *options;
	set_defaults(&pool->options);
	pool->log = options->log;
	pool->hash = page_hash_choose();
	list_init(&pool->volume_list);
	list_init(&pool->ready);
	list_init(&pool->blocked);
	list_init(&pool->done);
	list_init(&pool->work);
	list_init(&pool->later);
	list_init(&pool->told);
	pool->members = calloc(CLUSTER_MEMBERS_MAX, sizeof(*pool->members));
	err = pool->members ? sched_create(&pool->sched, env, &sched_options) : -ENOMEM;
	if (err) {
		free(pool->members);
		free(pool);
		return err;
	}
	/* Which host this is; where it cannot be told, addresses are tried as they come. */
	if (env_file_read(env, "/proc/sys/kernel/random/boot_id", pool->boot_id,
			  sizeof(pool->boot_id), &len_bytes) != 0 ||
	    len_bytes < FABRIC_BOOT_ID_BYTES - 1)
		pool->boot_id[0] = '\0';
	pool->boot_id[FABRIC_BOOT_ID_BYTES - 1] = '\0';
	pool->now_ns = env_now_ns(env);
	nodes_refresh(pool);
	register_metrics(pool);
	*result = pool;
	return 0;
}

static void take_event(struct pool *pool, const struct fabric_event *event)
{
	if (event->kind == FABRIC_DONE)
		io_done(pool, event->token, event->status);
	else
		nodes_event(pool, event);
}

/* Returns whether there was any event. */
static bool poll_fabric(struct pool *pool)
{
	for (unsigned round = 0; round < POOL_EVENT_ROUNDS; round++) {
		unsigned n = fabric_poll(pool->fabric, pool->events, POOL_EVENTS);

		pool->flush = false;
		for (unsigned i = 0; i < n; i++)
			take_event(pool, &pool->events[i]);
		if (n < POOL_EVENTS)
			return round > 0 || n > 0;
	}
	pool_timer(pool, 0);
	return true;
}

/*
 * Reading the clock costs as much as reading a page by shm. While completions come one after the
 * other and no lease hangs on the time, it is read now and then.
 */
static void read_clock(struct pool *pool, bool busy)
{
	if (busy && pool->leased == 0 && ++pool->polls_without_clock < POLLS_WITHOUT_CLOCK)
		return;
	pool->polls_without_clock = 0;
	pool->now_ns = env_now_ns(pool->env);
}

/* A process that was stopped heard from nobody: its waits go on where they were. */
static void excuse(struct pool *pool, int64_t due_ns, int64_t now_ns)
{
	if (now_ns - due_ns < LATE_NS)
		return;
	list_each(link, &pool->volume_list)
		volume_excuse(container_of(link, struct volume, link), now_ns - due_ns);
}

/* Everything that goes by the clock. */
static void tick(struct pool *pool, int64_t now_ns)
{
	int64_t timer_ns;

	pool->timer_ns = INT64_MAX;
	if (now_ns >= cluster_deadline_ns(pool->cluster) && cluster_poll(pool->cluster))
		nodes_refresh(pool);
	timer_ns = cluster_deadline_ns(pool->cluster);
	nodes_tick(pool, now_ns, &timer_ns);
	pieces_tick(pool, now_ns, &timer_ns);
	list_each(link, &pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		volume_renew(volume, now_ns);
		operations_expire(volume, now_ns, &timer_ns);
		if (volume_renews(volume))
			timer_ns = min_i64(timer_ns, volume->renew_ns);
		volume_reap(volume);
	}
	pool_timer(pool, timer_ns);
}

static void run_fibers(struct pool *pool)
{
	for (int round = 0; round < FIBER_ROUNDS; round++) {
		pieces_spawn(pool);
		if (sched_deadline_ns(pool->sched) > env_now_ns(pool->env))
			break;
		sched_run(pool->sched);
		operations_run(pool);
	}
	/* What is left for want of a fiber begins when one ends, and a round left over at once. */
	if (!list_is_empty(&pool->work) && pool->workers < PIECE_WORKERS_MAX)
		pool_timer(pool, 0);
}

/* ---- telling ---- */

/*
 * Whether an operation that succeeded was not told before the lease was lost, or before it ran out
 * while the volume was let go of: nobody knows what others did to its page meanwhile.
 */
static bool is_doubtful(const struct operation *op)
{
	const struct volume *volume = op->volume;

	if (op->status != 0 || volume->phase == VOLUME_OPENING || volume->phase == VOLUME_OPEN)
		return false;
	if (volume->status != -ECANCELED)
		return true;
	return volume->leased &&
	       volume->pool->now_ns - volume->renewed_ns >= volume->record.lease_ns;
}

/* The operation's place is free again, unless a transfer still uses it. */
static void hand_out(struct operation *op, struct pool_event *event)
{
	struct volume *volume = op->volume;

	*event = (struct pool_event){
		.kind = VOLUME_DONE,
		.volume = volume,
		.token = op->token,
		.status = is_doubtful(op) ? volume->status : op->status,
	};
	list_remove(&op->link);
	volume->outstanding--;
	op->told = true;
	if (op->pending == 0)
		list_push_first(&volume->free, &op->link); /* used last: still in the cache */
	if (volume->phase == VOLUME_ENDING)
		pool_timer(volume->pool, 0);
}

static unsigned tell_done(struct pool *pool, struct pool_event *events, unsigned max)
{
	unsigned n = 0;

	pool->paused = false;
	list_each(link, &pool->done)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (n == max)
			break;
		if (!volume_may_tell(op->volume)) {
			pool->paused = true;
			continue;
		}
		hand_out(op, &events[n++]);
	}
	return n;
}

static unsigned tell_volumes(struct pool *pool, struct pool_event *events, unsigned max)
{
	unsigned n = 0;

	list_each(link, &pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		if (n == max)
			break;
		if (!volume->tell)
			continue;
		volume->tell = false;
		pool->tells--;
		events[n++] = (struct pool_event){
			.kind = volume->phase == VOLUME_OPEN ? VOLUME_READY : VOLUME_FAILED,
			.volume = volume,
			.status = volume->status,
		};
	}
	return n;
}

static unsigned tell_pieces(struct pool *pool, struct pool_event *events, unsigned max)
{
	unsigned n = 0;
	struct list *link;

	while (n < max && (link = list_pop_first(&pool->told))) {
		struct piece *piece = container_of(link, struct piece, told);

		events[n++] = (struct pool_event){
			.kind = VOLUME_PIECE,
			.volume = piece->volume,
			.token = piece->number,
			.status = piece->told_status,
		};
	}
	return n;
}

unsigned pool_poll(struct pool *pool, struct pool_event *events, unsigned max)
{
	unsigned n = 0;
	int64_t last_ns = pool->now_ns;

	/* After the transfers that ended: what is told is judged by a clock read after them. */
	read_clock(pool, poll_fabric(pool));
	if (pool->now_ns >= pool->timer_ns) {
		excuse(pool, max_i64(last_ns, pool->timer_ns), pool->now_ns);
		tick(pool, pool->now_ns);
	}
	if (!list_is_empty(&pool->blocked))
		operations_unblock(pool);
	if (!list_is_empty(&pool->ready))
		operations_run(pool);
	if (!list_is_empty(&pool->work) || sched_deadline_ns(pool->sched) <= pool->now_ns)
		run_fibers(pool);
	if (pool->flush) {
		pool->flush = false;
		fabric_flush(pool->fabric);
	}
	if (pool->tells > 0)
		n += tell_volumes(pool, events, max);
	if (!list_is_empty(&pool->told))
		n += tell_pieces(pool, events + n, max - n);
	return n + tell_done(pool, events + n, max - n);
}

int64_t pool_deadline_ns(const struct pool *pool)
{
	if (!list_is_empty(&pool->ready) || !list_is_empty(&pool->told) || pool->tells > 0 ||
	    (!list_is_empty(&pool->done) && !pool->paused))
		return 0;
	return min_i64(pool->timer_ns, sched_deadline_ns(pool->sched));
}

void pool_close(struct pool *pool)
{
	bool peers = true;

	list_each(link, &pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		if (volume->phase != VOLUME_ENDING)
			volume_close(volume);
	}
	sched_destroy(pool->sched);
	list_each(link, &pool->volume_list) volume_end_now(container_of(link, struct volume, link));
	fabric_flush(pool->fabric);
	nodes_disconnect(pool);
	/* No transfer may touch a caller's buffer afterwards. */
	for (unsigned round = 0; peers && round < CLOSE_ROUNDS; round++) {
		unsigned n = fabric_poll(pool->fabric, pool->events, POOL_EVENTS);

		for (unsigned i = 0; i < n; i++) {
			if (pool->events[i].kind == FABRIC_DONE)
				io_done(pool, pool->events[i].token, pool->events[i].status);
			else if (pool->events[i].kind == FABRIC_DOWN)
				node_forget_peer(pool, pool->events[i].peer);
		}
		peers = nodes_connected(pool);
	}
	list_each(link, &pool->volume_list) volume_free(container_of(link, struct volume, link));
	metrics_remove(pool->options.metrics, pool);
	nodes_free(pool);
	free(pool->members);
	free(pool);
}
