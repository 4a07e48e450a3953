/*
 * prefetch.c: which pages come next
 *
 *   The majority trend of Leap (ATC'20): of the distances between a thread's last faults the one
 *   that makes up more than half, first of a few, then of more, so that a new trend is seen soon
 *   and an old one survives noise. Without a majority nothing is brought.
 *
 *   Pages that were brought are not missed any more, so their use does not show. But the thread
 *   that used all of them misses exactly the one behind them: then the window doubles. A miss
 *   anywhere else halves it.
 */
#include "pager/state.h"

#define WINDOW_FIRST 4u
#define LOOK_FIRST   4u /* distances looked at before more are */

static struct history *history_of(struct pager *pager, int tid)
{
	return &pager->history[(unsigned)tid % HISTORIES];
}

/* The distance between faults, i steps back from the last. */
static int64_t distance(const struct history *history, unsigned back)
{
	unsigned i = history->next + 2 * HISTORY_FAULTS - 1 - back;

	return history->distance[i % HISTORY_FAULTS];
}

/* Boyer and Moore's vote over the last n distances. 0: none has more than half. */
static int64_t majority(const struct history *history, unsigned n)
{
	int64_t candidate = 0;
	unsigned votes = 0;
	unsigned count = 0;

	for (unsigned i = 0; i < n; i++) {
		int64_t here = distance(history, i);

		if (votes == 0)
			candidate = here;
		votes = candidate == here ? votes + 1 : votes - 1;
	}
	for (unsigned i = 0; i < n; i++)
		count += distance(history, i) == candidate;
	return count * 2 > n ? candidate : 0;
}

static int64_t trend(const struct history *history)
{
	for (unsigned n = LOOK_FIRST; n <= history->count; n *= 2) {
		int64_t found = majority(history, n);

		if (found)
			return found;
	}
	return 0;
}

static void note(struct pager *pager, struct history *history, uint64_t page)
{
	int64_t here = (int64_t)(page - history->last);

	if (history->brought > 0 && page == history->expected) {
		COUNT(pager, prefetched_used, history->brought);
		history->window *= 2;
		here = history->stride;
	} else {
		history->window /= 2;
	}
	history->brought = 0;
	history->last = page;
	history->distance[history->next] = here;
	history->next = (history->next + 1) % HISTORY_FAULTS;
	if (history->count < HISTORY_FAULTS)
		history->count++;
}

static unsigned window_max(const struct pager *pager)
{
	uint64_t share = evict_limit(pager) / 8;

	return share < PREFETCH_MAX ? (unsigned)share : PREFETCH_MAX;
}

unsigned prefetch_plan(struct pager *pager, uint64_t page, int tid, uint64_t *pages)
{
	struct history *history = history_of(pager, tid);
	const struct range *range = ranges_find(pager, address_of(page));
	unsigned most = window_max(pager);
	unsigned n = 0;

	note(pager, history, page);
	history->stride = trend(history);
	if (history->stride == 0 || pager->session_flags & SESSION_NO_PREFETCH || !range)
		return 0;
	if (history->window < WINDOW_FIRST)
		history->window = WINDOW_FIRST;
	if (history->window > most)
		history->window = most;
	for (unsigned i = 1; i <= history->window; i++) {
		uint64_t next = page + (uint64_t)history->stride * i;

		if (next >= TABLE_PAGES || address_of(next) < range->start ||
		    address_of(next) >= range->end)
			break;
		history->expected = next + (uint64_t)history->stride;
		if (entry_state(page_table_get(pager, next)) == PAGE_FAR ||
		    entry_state(page_table_get(pager, next)) == PAGE_NONE)
			pages[n++] = next;
	}
	history->brought = n;
	return n;
}
