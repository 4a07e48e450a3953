/*
 * operation.c: operations on pages, and their order (volume.h)
 *
 *   Operations on one page take effect in the order of their submission (P2). The first is the
 *   page's head and found by its bucket; the others stand behind it and start one by one:
 *
 *       bucket ──► head ──behind──► op ──behind──► op ◄── head->last
 *
 *   A discard is a mark on the last operation of its page: when that one ends, the page is empty,
 *   and whoever came after the discard starts from there. Copying for a fill is an operation as
 *   well, so it never mixes with a write of its page.
 *
 *   An operation that cannot go on stands in one list: `waiting` for its piece to change,
 *   `blocked` for room in the fabric, or `ready` to go on. Going on never recurses: what becomes
 *   ready is started by operations_run().
 */
#include "pool/volume.h"

#include <stdlib.h>
#include <string.h>

int operations_make(struct volume *volume)
{
	volume->operations = calloc(OPERATIONS, sizeof(*volume->operations));
	volume->copy_pages = aligned_alloc(PAGE_BYTES, (size_t)COPY_OPERATIONS * PAGE_BYTES);
	list_init(&volume->free);
	list_init(&volume->copy_free);
	list_init(&volume->waiting);
	if (!volume->operations || !volume->copy_pages)
		return -ENOMEM;
	for (unsigned i = 0; i < OPERATIONS; i++) {
		struct operation *op = &volume->operations[i];

		op->volume = volume;
		op->index = (uint16_t)i;
		if (i < POOL_OPERATIONS_MAX) {
			list_push_first(&volume->free, &op->link);
		} else {
			op->buf = volume->copy_pages + (i - POOL_OPERATIONS_MAX) * PAGE_BYTES;
			list_push_last(&volume->copy_free, &op->link);
		}
	}
	return 0;
}

void operations_free(struct volume *volume)
{
	free(volume->operations);
	free(volume->copy_pages);
}

static struct operation **bucket_of(struct volume *volume, uint64_t page)
{
	static_assert(PAGE_BUCKETS == 1u << 11, "eleven bits choose the bucket");
	return &volume->buckets[page * UINT64_C(0x9e3779b97f4a7c15) >> (64 - 11)];
}

static struct operation *head_of(struct volume *volume, uint64_t page)
{
	struct operation *head = *bucket_of(volume, page);

	while (head && head->page != page)
		head = head->next_in_bucket;
	return head;
}

static void become_head(struct operation *op)
{
	struct operation **bucket = bucket_of(op->volume, op->page);

	op->next_in_bucket = *bucket;
	*bucket = op;
}

static void leave_bucket(struct operation *op)
{
	struct operation **link = bucket_of(op->volume, op->page);

	while (*link != op)
		link = &(*link)->next_in_bucket;
	*link = op->next_in_bucket;
}

bool operation_on_page(struct volume *volume, uint64_t page)
{
	return head_of(volume, page) != NULL;
}

/* Gives a free operation its task. */
static void prepare(struct operation *op, enum operation_kind kind, uint64_t page)
{
	op->kind = (uint8_t)kind;
	op->page = page;
	op->piece = NULL;
	op->behind = NULL;
	op->last = op;
	memset(op->stored, 0, sizeof(op->stored));
	op->deadline_ns = 0;
	op->status = 0;
	op->pending = 0;
	op->tried = 0;
	op->agreed = 0;
	op->loaded = false;
	op->storing = false;
	op->mistrusts = false;
	op->discard = false;
	op->told = false;
	op->done = false;
	op->volume->in_flight++;
}

/* Starts it, or puts it behind those on the same page. */
static void enter(struct operation *op)
{
	struct operation *head = head_of(op->volume, op->page);

	if (head) {
		head->last->behind = op;
		head->last = op;
		return;
	}
	become_head(op);
	io_start(op);
}

unsigned volume_submit(struct volume *volume, const struct volume_io *ios, unsigned n)
{
	unsigned accepted = 0;

	while (accepted < n) {
		const struct volume_io *io = &ios[accepted];
		struct list *link = list_pop_first(&volume->free);

		if (!link)
			break;

		struct operation *op = container_of(link, struct operation, link);

		prepare(op, io->op == VOLUME_WRITE ? OPERATION_WRITE : OPERATION_READ, io->page);
		op->buf = io->buf;
		op->token = io->token;
		volume->outstanding++;
		enter(op);
		accepted++;
	}
	operations_run(volume->pool);
	return accepted;
}

bool operation_copy(struct piece *piece, uint32_t page)
{
	struct volume *volume = piece->volume;
	struct list *link = list_pop_first(&volume->copy_free);

	if (!link)
		return false;

	struct operation *op = container_of(link, struct operation, link);

	prepare(op, OPERATION_COPY, (uint64_t)piece->number * volume->piece_pages + page);
	piece->filling++;
	/* Known at once, so that its end finds the fill even if it never starts. */
	op->piece = piece;
	piece->active++;
	enter(op);
	return true;
}

void operation_wait(struct operation *op)
{
	struct pool *pool = op->volume->pool;

	assert(op->kind != OPERATION_COPY && op->pending == 0 && !list_is_linked(&op->link));
	if (op->deadline_ns == 0 && op->volume->phase != VOLUME_OPENING)
		op->deadline_ns = env_now_ns(pool->env) + pool->options.patience_ns;
	if (op->deadline_ns != 0)
		pool_timer(pool, op->deadline_ns);
	list_push_last(&op->volume->waiting, &op->link);
}

void operation_block(struct operation *op)
{
	assert(!list_is_linked(&op->link));
	list_push_last(&op->volume->pool->blocked, &op->link);
}

static void make_ready(struct operation *op)
{
	list_remove(&op->link);
	list_push_last(&op->volume->pool->ready, &op->link);
}

void operations_unblock(struct pool *pool)
{
	list_each(link, &pool->blocked) make_ready(container_of(link, struct operation, link));
}

void operations_of_piece(struct piece *piece)
{
	if (list_is_empty(&piece->volume->waiting))
		return;
	list_each(link, &piece->volume->waiting)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (op->piece == piece)
			make_ready(op);
	}
}

void operations_of_volume(struct volume *volume)
{
	list_each(link, &volume->waiting) make_ready(container_of(link, struct operation, link));
}

void operations_run(struct pool *pool)
{
	struct list *link;

	while ((link = list_pop_first(&pool->ready))) {
		struct operation *op = container_of(link, struct operation, link);

		op->tried = 0;
		if (!op->storing)
			op->agreed = 0;
		io_start(op);
	}
}

void operations_expire(struct volume *volume, int64_t now_ns, int64_t *timer_ns)
{
	list_each(link, &volume->waiting)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (op->deadline_ns == 0)
			continue;
		if (now_ns < op->deadline_ns) {
			*timer_ns = min_i64(*timer_ns, op->deadline_ns);
			continue;
		}
		list_remove(&op->link);
		operation_finish(op, op->kind == OPERATION_WRITE ? AFAR_ENOSPACE_FAR : AFAR_ELOST);
	}
}

void operations_refuse(struct piece *piece, int status)
{
	list_each(link, &piece->volume->waiting)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (op->piece != piece || op->kind != OPERATION_WRITE)
			continue;
		list_remove(&op->link);
		operation_finish(op, status);
	}
}

static void discard_page(struct piece *piece, uint64_t page)
{
	uint64_t first = (uint64_t)piece->number * piece->volume->piece_pages;

	page_set_state(&piece->pages, (uint32_t)(page - first), PAGE_EMPTY);
}

void operation_discard(struct volume *volume, struct piece *piece, uint64_t page)
{
	struct operation *head = head_of(volume, page);

	if (head)
		head->last->discard = true;
	else if (piece)
		discard_page(piece, page);
}

void operations_discard_waiting(struct volume *volume, uint64_t page, uint64_t end)
{
	list_each(link, &volume->waiting)
	{
		struct operation *op = container_of(link, struct operation, link);

		if (op->page >= page && op->page < end)
			op->last->discard = true;
	}
}

/* A copying operation ends: its fill goes on, from this page again if it failed. */
static void end_copy(struct operation *op)
{
	struct piece *piece = op->piece;
	uint64_t first = (uint64_t)piece->number * op->volume->piece_pages;

	if (op->status != 0 && op->page - first < piece->fill_page)
		piece->fill_page = (uint32_t)(op->page - first);
	piece->filling--;
	list_push_last(&op->volume->copy_free, &op->link);
	fiber_line_wake_all(&piece->line);
}

void operation_finish(struct operation *op, int status)
{
	struct volume *volume = op->volume;
	struct piece *piece = op->piece;
	struct operation *next = op->behind;

	assert(!op->done && !list_is_linked(&op->link));
	op->done = true;
	op->status = status;
	if (op->discard && piece)
		discard_page(piece, op->page);
	leave_bucket(op);
	if (next) {
		next->last = op->last;
		become_head(next);
		list_push_last(&volume->pool->ready, &next->link);
	}
	volume->in_flight--;
	if (op->kind == OPERATION_COPY)
		end_copy(op);
	else
		list_push_last(&volume->pool->done, &op->link);
	if (piece) {
		piece->active--;
		if (piece->active == 0 && piece->pages.held == 0 && !piece->direct)
			piece_work(piece);
	}
}
