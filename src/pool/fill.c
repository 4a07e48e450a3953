/*
 * fill.c: copying a piece to a new slab, paced, while it is in use (P5)
 *
 *   Page by page, in order, up to COPY_OPERATIONS at a time. Each page is an operation like any
 *   other: it stands in line with the reads and writes of its page, so no write falls between the
 *   loading and the storing of the page. Writes that begin after the new slab came go there
 *   themselves. A page that holds nothing is passed by, unless an operation is on its way: a write
 *   that began before the slab came is followed by a copy.
 *
 *   The pace is one number for the whole pool: the next batch may start at fill_next_ns.
 */
#include "pool/volume.h"

/* Whether the page needs no copy: nothing is there, and nothing is coming. */
static bool is_passed_by(struct piece *piece, uint32_t page)
{
	enum page_state state = page_state(&piece->pages, page);
	uint64_t first = (uint64_t)piece->number * piece->volume->piece_pages;
	bool on_page = operation_on_page(piece->volume, first + page);

	if (pool_mutates(piece->volume->pool, POOL_MUTATE_REBUILD) && on_page)
		return true;
	return (state == PAGE_EMPTY || state == PAGE_LOST) && !on_page;
}

int fill_step(struct piece *piece)
{
	struct volume *volume = piece->volume;
	struct pool *pool = volume->pool;
	int64_t now_ns = env_now_ns(pool->env);
	uint64_t bytes = 0;

	while (piece->fill_page < volume->piece_pages) {
		if (is_passed_by(piece, piece->fill_page)) {
			piece->fill_page++;
			continue;
		}
		if (now_ns < pool->fill_next_ns || bytes >= COPY_OPERATIONS * PAGE_BYTES)
			break;
		/* Moved on first: an operation that fails at once moves it back. */
		piece->fill_page++;
		if (!operation_copy(piece, piece->fill_page - 1)) {
			piece->fill_page--;
			break;
		}
		bytes += PAGE_BYTES;
	}
	operations_run(pool);
	if (bytes > 0) {
		volume->stats.bytes_rebuilt += bytes;
		counter_add_own(&pool->count.bytes_rebuilt, bytes);
		pool->fill_next_ns =
			max_i64(now_ns, pool->fill_next_ns) +
			(int64_t)(bytes * (uint64_t)NS_PER_S / pool->options.rebuild_bytes_per_s);
	}
	if (piece->fill_page >= volume->piece_pages && piece->filling == 0)
		return 0;

	/* Until a copy ends, the piece changes, or the pace allows more. */
	int64_t until_ns = piece->filling > 0 && now_ns >= pool->fill_next_ns
				   ? now_ns + 10 * NS_PER_MS
				   : max_i64(pool->fill_next_ns, now_ns + NS_PER_MS);

	return piece_wait(piece, until_ns) == -ECANCELED ? -ECANCELED : -EAGAIN;
}
