/*
 * queues.c: resident pages in order of age
 *
 *   Two queues, after 2Q (VLDB'94): pages come in at the end of the first. One that comes back
 *   within a short time of its eviction has shown that the first was too short for it, and goes
 *   to the second. Victims are taken from the first while it holds more than a quarter of all,
 *   so that a scan over much memory passes through it and leaves the second alone.
 *
 *   Each resident page has a frame: its links and its number. Frames are an array in which fork
 *   needs no translation, for links are indices.
 */
#include "pager/state.h"

#define FIRST_SHARE 4u /* the first queue's part of all resident pages: one in so many */
#define PAGE_MASK   (UINT64_MAX >> 2)
#define QUEUE_SHIFT 62u

static enum queue_kind queue_of(const struct frame *frame)
{
	return (enum queue_kind)(frame->page >> QUEUE_SHIFT);
}

static void append(struct pager *pager, uint32_t index, enum queue_kind kind)
{
	struct queue *queue = &pager->queue[kind];
	struct frame *frame = &pager->frames[index];

	frame->page = (frame->page & PAGE_MASK) | (uint64_t)kind << QUEUE_SHIFT;
	frame->next = NO_FRAME;
	frame->prev = queue->tail;
	if (queue->tail != NO_FRAME)
		pager->frames[queue->tail].next = index;
	else
		queue->head = index;
	queue->tail = index;
	queue->count++;
}

static void unlink_frame(struct pager *pager, uint32_t index)
{
	struct frame *frame = &pager->frames[index];
	struct queue *queue = &pager->queue[queue_of(frame)];

	if (frame->prev != NO_FRAME)
		pager->frames[frame->prev].next = frame->next;
	else
		queue->head = frame->next;
	if (frame->next != NO_FRAME)
		pager->frames[frame->next].prev = frame->prev;
	else
		queue->tail = frame->prev;
	queue->count--;
}

uint32_t queues_add(struct pager *pager, uint64_t page, enum queue_kind kind)
{
	uint32_t index = pager->frames_free;

	if (index != NO_FRAME)
		pager->frames_free = pager->frames[index].next;
	else if (pager->frames_used < FRAMES_MAX)
		index = pager->frames_used++;
	else
		return NO_FRAME;
	pager->frames[index].page = page;
	append(pager, index, kind);
	return index;
}

void queues_remove(struct pager *pager, uint32_t frame)
{
	unlink_frame(pager, frame);
	pager->frames[frame].next = pager->frames_free;
	pager->frames_free = frame;
}

void queues_move(struct pager *pager, uint32_t frame, enum queue_kind kind)
{
	unlink_frame(pager, frame);
	append(pager, frame, kind);
}

void queues_rename(struct pager *pager, uint32_t frame, uint64_t page)
{
	pager->frames[frame].page = (pager->frames[frame].page & ~PAGE_MASK) | page;
}

uint64_t queues_page(const struct pager *pager, uint32_t frame)
{
	return pager->frames[frame].page & PAGE_MASK;
}

uint32_t queues_victim(const struct pager *pager)
{
	const struct queue *first = &pager->queue[QUEUE_FIRST];
	const struct queue *second = &pager->queue[QUEUE_SECOND];

	if (first->count * FIRST_SHARE > first->count + second->count || second->count == 0)
		return first->head;
	return second->head;
}

uint64_t queues_resident(const struct pager *pager)
{
	return (uint64_t)pager->queue[QUEUE_FIRST].count + pager->queue[QUEUE_SECOND].count +
	       pager->queue[QUEUE_PINNED].count;
}

void queues_publish(struct pager *pager)
{
	atomic_store_explicit(&pager->session->resident_pages, queues_resident(pager),
			      memory_order_relaxed);
}
