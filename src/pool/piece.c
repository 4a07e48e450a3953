/*
 * piece.c: what a piece needs next, and the fiber that sees to it (volume.h)
 *
 *   Nothing here remembers a plan. piece_next() looks at the piece as it is and names one step;
 *   the piece's fiber takes it and looks again, until there is nothing to do or only to wait. A
 *   node that dies in the middle of anything just changes what is seen at the next look.
 *
 *     step       when                                          what
 *     LEAVE      a copy is in no map                           wait for its transfers, free it
 *     ATTACH     DETACHED, its node is back                    the same slab on the new connection
 *     FORGET     DETACHED too long, another copy is LIVE       publish the map without it
 *     LOSE       none is LIVE, and none comes back             its pages are LOST
 *     KEEP       the node wants a copy that is held            say so
 *     RETIRE     the node wants a copy, others suffice         publish without it, then LEAVE
 *     RELEASE    no page holds anything                        publish the empty map, then LEAVE
 *     ALLOCATE   fewer copies than replicas                    a slab on another node: FILLING
 *     FOUND      nothing is LIVE yet, and nothing was written  publish: FILLING becomes LIVE
 *     TRIM       more copies than replicas                     the latest leaves
 *     FILL       LIVE and FILLING                              copy some pages; at last, publish
 *     REPEAT     the store's map is in doubt, or out of date   publish what there is
 */
#include "pool/volume.h"

enum piece_action {
	PIECE_REST,
	PIECE_WAIT,
	PIECE_LEAVE,
	PIECE_ATTACH,
	PIECE_FORGET,
	PIECE_LOSE,
	PIECE_KEEP,
	PIECE_RETIRE,
	PIECE_RELEASE,
	PIECE_ALLOCATE,
	PIECE_FOUND,
	PIECE_TRIM,
	PIECE_FILL,
	PIECE_REPEAT,
};

struct piece_step {
	enum piece_action action;
	unsigned slot;
	int64_t until_ns; /* WAIT */
};

/* A step after which a fiber waits before it looks again, because it failed. */
#define BRAKE_NS (20 * NS_PER_MS)

static unsigned count_bits(unsigned mask)
{
	return (unsigned)__builtin_popcount(mask);
}

static unsigned first_bit(unsigned mask)
{
	return (unsigned)__builtin_ctz(mask);
}

static unsigned noticed_copies(const struct piece *piece)
{
	unsigned mask = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		mask |= (piece->copies[slot].noticed ? 1u : 0u) << slot;
	return mask;
}

/* ---- the next step ---- */

/* Whether a copy that went away is to be replaced rather than waited for. */
static bool is_overdue(const struct piece *piece, const struct copy *copy, int64_t now_ns,
		       bool last)
{
	const struct pool_options *options = &piece->volume->pool->options;

	if (copy->gone || !copy->listed)
		return true;
	/* It is there; the end of the greeting, either way, brings us back here. */
	if (copy->node->link == NODE_GREETING)
		return false;
	if (last)
		return now_ns >= copy->detached_ns + options->reattach_ns;
	return !node_may_answer(copy->node) || now_ns >= copy->detached_ns + options->grace_ns;
}

/* DETACHED copies. True if there is a step. */
static bool next_of_detached(const struct piece *piece, int64_t now_ns, struct piece_step *step)
{
	const struct pool_options *options = &piece->volume->pool->options;
	unsigned detached = copies_in(piece, COPY_DETACHED);
	bool last = copies_in(piece, COPY_LIVE) == 0;
	unsigned overdue = 0;

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		const struct copy *copy = &piece->copies[slot];

		if (!(detached & 1u << slot))
			continue;
		if (copy->listed && !copy->gone && copy->node->link == NODE_READY) {
			*step = (struct piece_step){PIECE_ATTACH, slot, 0};
			return true;
		}
		if (is_overdue(piece, copy, now_ns, last)) {
			overdue |= 1u << slot;
		} else if (copy->node->link != NODE_GREETING) {
			int64_t wait_ns = last ? options->reattach_ns : options->grace_ns;

			step->until_ns = min_i64(step->until_ns, copy->detached_ns + wait_ns);
		}
	}
	if (overdue != 0 && !last) {
		*step = (struct piece_step){PIECE_FORGET, first_bit(overdue), 0};
		return true;
	}
	if (overdue != 0 && overdue == detached) {
		*step = (struct piece_step){PIECE_LOSE, 0, 0};
		return true;
	}
	return false;
}

/* Copies that a node wants back. */
static bool next_of_noticed(const struct piece *piece, struct piece_step *step)
{
	unsigned noticed = noticed_copies(piece);
	unsigned live = copies_in(piece, COPY_LIVE);

	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++) {
		if (!(noticed & 1u << slot))
			continue;
		if (piece->direct || piece->copies[slot].state != COPY_LIVE) {
			*step = (struct piece_step){PIECE_KEEP, slot, 0};
			return true;
		}
		/* What the piece promises (P1) holds without it, before and after. */
		if (count_bits(live & ~(1u << slot)) >= piece_copies_needed(piece)) {
			*step = (struct piece_step){PIECE_RETIRE, slot, 0};
			return true;
		}
	}
	return false;
}

/* Copies to be made, filled and given up. */
static bool next_of_number(const struct piece *piece, int64_t now_ns, struct piece_step *step)
{
	const struct pool *pool = piece->volume->pool;
	uint32_t replicas = piece->volume->record.replicas;
	unsigned live = copies_in(piece, COPY_LIVE), filling = copies_in(piece, COPY_FILLING);
	/* A copy that may come back is not replaced yet. */
	unsigned present =
		live | filling | (piece_complete(piece) & copies_in(piece, COPY_DETACHED));
	unsigned usable = count_bits(present & ~noticed_copies(piece));
	bool asked = (piece->wanted && piece->active > 0) || (piece->direct && !piece->direct_lost);

	if ((live | filling) == 0 && !asked)
		return false;
	if (usable < replicas && now_ns >= piece->retry_ns) {
		*step = (struct piece_step){PIECE_ALLOCATE, 0, 0};
		return true;
	}
	if (usable < replicas)
		step->until_ns = min_i64(step->until_ns, piece->retry_ns);
	if (live == 0 && filling != 0) {
		*step = (struct piece_step){PIECE_FOUND, 0, 0};
		return true;
	}
	if (usable > replicas) {
		unsigned excess = filling != 0 ? filling : live;

		if (count_bits(live) + count_bits(filling) <= replicas)
			return false;

		*step = (struct piece_step){PIECE_TRIM, first_bit(excess), 0};
		return true;
	}
	if (filling == 0)
		return false;
	if (pool->fills < PIECE_FILLS_MAX || piece->pages.held == 0) {
		*step = (struct piece_step){PIECE_FILL, 0, 0};
		return true;
	}
	step->until_ns = min_i64(step->until_ns, now_ns + BRAKE_NS);
	return false;
}

/* The map says that pages were lost, but all of them were written again. */
static bool is_whole_again(const struct piece *piece)
{
	return piece->volume->record.map[piece->number].flags & VOLUME_PIECE_HOLES &&
	       !piece->holes && piece->pages.lost == 0;
}

static struct piece_step piece_next(const struct piece *piece, int64_t now_ns)
{
	struct piece_step step = {.action = PIECE_REST, .until_ns = INT64_MAX};
	unsigned leaving = copies_in(piece, COPY_LEAVING);
	unsigned live = copies_in(piece, COPY_LIVE);

	if (!volume_is_open(piece->volume))
		return step;
	if (leaving != 0)
		return (struct piece_step){PIECE_LEAVE, first_bit(leaving), 0};
	if (next_of_detached(piece, now_ns, &step))
		return step;
	/* While the last copy may come back, nothing else is decided. */
	if (live != 0 || copies_in(piece, COPY_DETACHED) == 0) {
		if (piece->pages.held == 0 && piece->active == 0 && !piece->direct &&
		    (live | copies_in(piece, COPY_FILLING)) != 0)
			return (struct piece_step){PIECE_RELEASE, 0, 0};
		if (next_of_noticed(piece, &step) || next_of_number(piece, now_ns, &step))
			return step;
		if ((piece->in_doubt || is_whole_again(piece)) && piece_complete(piece) != 0)
			return (struct piece_step){PIECE_REPEAT, 0, 0};
	}
	if (step.until_ns != INT64_MAX)
		step.action = PIECE_WAIT;
	return step;
}

/* ---- taking it ---- */

/* A copy is out of the map: nothing new goes there. */
static void set_leaving(struct copy *copy)
{
	copy->state = COPY_LEAVING;
	copy->listed = false;
}

static int forget(struct piece *piece, unsigned slot)
{
	struct volume *volume = piece->volume;
	int err = piece_publish(piece, piece_complete(piece) & ~(1u << slot));

	if (err)
		return err;
	volume->stats.copies_lost++;
	counter_add_own(&volume->pool->count.copies_lost, 1);
	log_warn(volume->pool->log, "copy_lost", "volume=%s piece=%u node=%llx",
		 volume->record.name, piece->number,
		 (unsigned long long)piece->copies[slot].node->member.id);
	set_leaving(&piece->copies[slot]);
	return 0;
}

/*
 * No copy is left that is known to hold everything. A FILLING one has what was copied and written
 * since: checksums tell which pages these are; without a checksum (UNKNOWN) nothing can.
 */
static int lose(struct piece *piece)
{
	struct volume *volume = piece->volume;
	unsigned filling = copies_in(piece, COPY_FILLING);
	unsigned lost = copies_in(piece, COPY_DETACHED);
	uint32_t pages = page_table_lose(&piece->pages, filling != 0);

	volume->stats.pages_lost += pages;
	counter_add_own(&volume->pool->count.pages_lost, pages);
	piece->direct_lost |= piece->direct;
	/* Of what is HELD the copies that remain may lack some. */
	piece->holes |= filling != 0 && piece->pages.held > 0;

	int err = piece_publish(piece, filling);

	if (err)
		return err;
	volume->stats.copies_lost += count_bits(lost);
	counter_add_own(&volume->pool->count.copies_lost, count_bits(lost));
	log_error(volume->pool->log, "piece_lost", "volume=%s piece=%u pages=%u",
		  volume->record.name, piece->number, pages);
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		if (lost & 1u << slot)
			set_leaving(&piece->copies[slot]);
	piece_tell(piece, AFAR_ELOST);
	return 0;
}

static int retire(struct piece *piece, unsigned slot)
{
	int err = piece_publish(piece, piece_complete(piece) & ~(1u << slot));

	if (err)
		return err;
	set_leaving(&piece->copies[slot]);
	return 0;
}

static int release(struct piece *piece)
{
	int err;

	/* From here on a write waits: acknowledged by the old map, it would be lost with it. */
	piece->in_doubt = true;
	piece->holes = false; /* whatever lacks a page goes; LOST pages are counted themselves */
	err = piece_publish(piece, 0);
	if (err)
		return err;
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		if (piece->copies[slot].state != COPY_EMPTY)
			set_leaving(&piece->copies[slot]);
	if (piece->pages.held == 0 && piece->pages.lost == 0 && piece->active == 0)
		page_table_free(&piece->pages);
	return 0;
}

static int allocate(struct piece *piece)
{
	int err = copy_allocate(piece);

	if (err == 0 || err == -ECANCELED)
		return err;
	/* Nowhere to go: nodes keep what they wanted back. */
	for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
		if (piece->copies[slot].noticed)
			copy_answer_notice(&piece->copies[slot], piece, NODE_EVICT_KEEP);
	piece->retry_ns = env_now_ns(piece->volume->pool->env) + RETRY_NS;
	if (piece_is_mapped(piece) || copies_in(piece, COPY_FILLING) != 0)
		return 0;
	if (err == AFAR_ENOSPACE_FAR || err == -ENOMEM)
		operations_refuse(piece, err);
	if (piece->direct || err == AFAR_ENOSPACE_FAR)
		piece_tell(piece, piece->direct ? AFAR_ENOSPACE_FAR : err);
	piece->direct = false;
	return 0;
}

static int found(struct piece *piece)
{
	int err = piece_publish(piece, copies_in(piece, COPY_FILLING));

	if (err)
		return err;
	piece->wanted = false;
	piece->volume->stats.pieces_mapped++;
	counter_add_own(&piece->volume->pool->count.pieces_mapped, 1);
	return 0;
}

static int trim(struct piece *piece, unsigned slot)
{
	if (piece->copies[slot].state == COPY_LIVE || piece->copies[slot].listed)
		return retire(piece, slot);
	set_leaving(&piece->copies[slot]);
	return 0;
}

static int fill(struct piece *piece)
{
	struct pool *pool = piece->volume->pool;
	unsigned filling = copies_in(piece, COPY_FILLING);

	pool->fills++;

	int err = fill_step(piece);

	pool->fills--;
	if (err)
		return err == -EAGAIN ? 0 : err;
	/* Whoever was filling before the last step and still is has every page. */
	filling &= copies_in(piece, COPY_FILLING);
	err = piece_publish(piece, piece_complete(piece) | filling);
	if (err)
		return err;
	piece->wanted = false;
	piece->volume->stats.copies_rebuilt += count_bits(filling);
	counter_add_own(&pool->count.copies_rebuilt, count_bits(filling));
	return 0;
}

static int take(struct piece *piece, const struct piece_step *step)
{
	switch (step->action) {
	case PIECE_LEAVE:
		copy_leave(piece, step->slot);
		return 0;
	case PIECE_ATTACH:
		return copy_attach(piece, step->slot);
	case PIECE_FORGET:
		return forget(piece, step->slot);
	case PIECE_LOSE:
		return lose(piece);
	case PIECE_KEEP:
		copy_answer_notice(&piece->copies[step->slot], piece, NODE_EVICT_KEEP);
		return 0;
	case PIECE_RETIRE:
		return retire(piece, step->slot);
	case PIECE_RELEASE:
		return release(piece);
	case PIECE_ALLOCATE:
		return allocate(piece);
	case PIECE_FOUND:
		return found(piece);
	case PIECE_TRIM:
		return trim(piece, step->slot);
	case PIECE_FILL:
		return fill(piece);
	case PIECE_REPEAT:
		return piece_publish(piece, piece_complete(piece));
	case PIECE_REST:
	case PIECE_WAIT:
		break;
	}
	return 0;
}

/* ---- the fiber ---- */

static void wait_until(struct piece *piece, int64_t due_ns)
{
	struct pool *pool = piece->volume->pool;

	piece->due_ns = due_ns;
	list_push_last(&pool->later, &piece->link);
	pool_timer(pool, due_ns);
}

static void piece_fiber(void *arg)
{
	struct piece *piece = arg;
	struct volume *volume = piece->volume;
	struct pool *pool = volume->pool;

	while (!sched_is_cancelled(pool->sched)) {
		struct piece_step step = piece_next(piece, env_now_ns(pool->env));

		if (step.action == PIECE_WAIT)
			wait_until(piece, step.until_ns);
		if (step.action == PIECE_WAIT || step.action == PIECE_REST)
			break;
		if (take(piece, &step) != 0)
			fiber_sleep_until(pool->sched, env_now_ns(pool->env) + BRAKE_NS);
	}
	piece->busy = false;
	volume->workers--;
	pool->workers--;
}

void pieces_spawn(struct pool *pool)
{
	while (pool->workers < PIECE_WORKERS_MAX) {
		struct list *link = list_pop_first(&pool->work);

		if (!link)
			return;

		struct piece *piece = container_of(link, struct piece, link);
		struct piece_step step = piece_next(piece, env_now_ns(pool->env));

		if (step.action == PIECE_REST)
			continue;
		if (step.action == PIECE_WAIT) {
			wait_until(piece, step.until_ns);
			continue;
		}
		if (sched_spawn(pool->sched, piece_fiber, piece, "piece") != 0) {
			wait_until(piece, env_now_ns(pool->env) + BRAKE_NS);
			return;
		}
		piece->busy = true;
		piece->volume->workers++;
		pool->workers++;
	}
}

void piece_work(struct piece *piece)
{
	if (piece->busy) {
		fiber_line_wake_all(&piece->line);
		return;
	}
	if (!volume_is_open(piece->volume))
		return;
	list_remove(&piece->link);
	list_push_last(&piece->volume->pool->work, &piece->link);
}

void pieces_tick(struct pool *pool, int64_t now_ns, int64_t *timer_ns)
{
	list_each(link, &pool->later)
	{
		struct piece *piece = container_of(link, struct piece, link);

		if (piece->due_ns <= now_ns)
			piece_work(piece);
		else
			*timer_ns = min_i64(*timer_ns, piece->due_ns);
	}
}

void pieces_of_node(struct pool_node *node)
{
	if (node->copies == 0)
		return;
	list_each(link, &node->pool->volume_list)
	{
		struct volume *volume = container_of(link, struct volume, link);

		for (uint64_t i = 0; volume->pieces && i < volume->record.pieces; i++)
			for (unsigned slot = 0; slot < PIECE_COPIES_MAX; slot++)
				if (volume->pieces[i].copies[slot].node == node)
					piece_work(&volume->pieces[i]);
	}
}

int piece_wait(struct piece *piece, int64_t deadline_ns)
{
	return fiber_line_wait(&piece->line, piece->volume->pool->sched, deadline_ns);
}

void piece_tell(struct piece *piece, int status)
{
	piece->told_status = status;
	list_remove(&piece->told);
	list_push_last(&piece->volume->pool->told, &piece->told);
}
