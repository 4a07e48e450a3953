/*
 * budget.c: who may have how many pages resident
 *
 *   local_bytes is the budget of the whole tree, in anonymous memory that is in RAM (RssAnon; the
 *   slabs that pagers map are shared memory and do not count). Part of that is not managed: stacks,
 *   small mappings, libraries' data, processes without our library. What is left is shared out:
 *
 *     managed = local - (anonymous of all - resident of all pagers)
 *     limit   = managed * (1/4 in equal parts + 3/4 by how much each faults)
 *
 *   so that a process that sleeps keeps a little, and one that works gets what the sleeping one
 *   does not need. Weights are smoothed, so that limits drift and pages are not thrown to and fro.
 *
 *   Until the tree comes near its budget nothing is managed and nothing costs anything: the
 *   supervisor only looks, the more often the nearer it is.
 */
#include "run/supervisor.h"

#include "base/env.h"
#include "pool/pool.h"

#define ACTIVE_PERIOD_NS (20 * NS_PER_MS)
#define IDLE_PERIOD_NS   (100 * NS_PER_MS)
#define NEAR_PERIOD_NS   (5 * NS_PER_MS)
#define SCAN_PERIOD_NS   (500 * NS_PER_MS)
#define LIMIT_MIN_PAGES  256u /* below a megabyte no program makes progress */

struct totals {
	uint64_t anonymous, resident, managed, weight;
	uint32_t sessions;
};

static void add_stranger(void *context, pid_t pid)
{
	struct supervisor *run = context;

	if (pid == run->node.pid || session_of_process(run, pid))
		return;
	run->budget.strangers += tree_anonymous_bytes(pid);
	run->budget.strangers_count++;
}

/* Faults of the last period, smoothed to a quarter. */
static void weigh(const struct session_view *view)
{
	struct session_counters *counters = &view->memory->counters;
	uint64_t faults = atomic_load_explicit(&counters->faults, memory_order_relaxed);
	uint64_t fresh = faults - *view->faults_seen;

	*view->faults_seen = faults;
	*view->weight = (*view->weight * 3 + fresh * 4) / 4;
}

static struct totals look(struct supervisor *run, bool new_period)
{
	struct totals totals = {0};

	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at)) {
		struct session_view view = session_view(at);

		if (new_period)
			weigh(&view);
		totals.sessions++;
		totals.weight += *view.weight + 1;
		totals.anonymous += tree_anonymous_bytes(view.pid);
		totals.managed += atomic_load(&view.memory->managed_bytes);
		totals.resident += atomic_load(&view.memory->resident_pages) * POOL_PAGE_BYTES;
	}
	totals.anonymous += run->budget.strangers;
	if (totals.anonymous > run->budget.peak_bytes)
		run->budget.peak_bytes = totals.anonymous;
	return totals;
}

static void set_limit(struct session *session, uint64_t pages)
{
	struct session_memory *memory = session_view(session).memory;
	uint64_t resident = atomic_load(&memory->resident_pages);

	atomic_store(&memory->limit_pages, pages);
	if (resident > pages)
		session_nudge(session);
}

static void share(struct supervisor *run, const struct totals *totals)
{
	uint64_t unmanaged =
		totals->anonymous > totals->resident ? totals->anonymous - totals->resident : 0;
	uint64_t left = run->local_bytes > unmanaged ? run->local_bytes - unmanaged : 0;
	uint64_t pages = left / POOL_PAGE_BYTES;

	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at)) {
		uint64_t weight = *session_view(at).weight + 1;
		uint64_t equal = pages / 4 / totals->sessions;
		double part = (double)weight / (double)totals->weight;
		uint64_t earned = (uint64_t)((double)pages * 3 / 4 * part);
		uint64_t limit = equal + earned;

		set_limit(at, limit > LIMIT_MIN_PAGES ? limit : LIMIT_MIN_PAGES);
	}
}

static void activate(struct supervisor *run)
{
	run->budget.activated = run->stats->activated = true;
	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at)) {
		struct session_memory *memory = session_view(at).memory;

		if (!atomic_exchange(&memory->must_activate, 1))
			session_nudge(at);
	}
}

void budget_share(struct supervisor *run)
{
	struct totals totals = look(run, false);

	if (totals.sessions == 0)
		return;
	if (run->budget.activated)
		activate(run); /* newcomers too */
	share(run, &totals);
}

/* A process may find by itself that it is near the limit: the whole tree follows. */
static bool any_active(struct supervisor *run)
{
	for (struct session *at = session_next(run, NULL); at; at = session_next(run, at))
		if (atomic_load(&session_view(at).memory->active))
			return true;
	return false;
}

void budget_tick(struct supervisor *run)
{
	struct budget *budget = &run->budget;
	int64_t now_ns = env_now_ns(run->env);

	if (now_ns < budget->next_ns)
		return;
	if (now_ns >= budget->scan_ns) {
		budget->strangers = 0;
		budget->strangers_count = 0;
		tree_each(add_stranger, run);
		if (budget->strangers_count == 0)
			sessions_forget_unborn(run);
		budget->scan_ns = now_ns + SCAN_PERIOD_NS;
	}

	struct totals totals = look(run, true);
	bool near = totals.managed > run->local_bytes / 2;

	if (!budget->activated && (totals.anonymous >= run->local_bytes / 4 * 3 || any_active(run)))
		activate(run);
	if (totals.sessions)
		share(run, &totals);
	budget->next_ns = now_ns + (budget->activated ? ACTIVE_PERIOD_NS
				    : near            ? NEAR_PERIOD_NS
						      : IDLE_PERIOD_NS);
	run_pieces_tick(run);
}
