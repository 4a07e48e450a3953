/*
 * fork.c: two processes, each with its memory as of that moment
 *
 *     prepare    nothing under way; every slot gets one more holder; the ranges may be inherited;
 *                a window is open in which the forking thread alone is served, and nothing leaves
 *     fork       pages and the table of pages are copied by the kernel, at one moment: no thread
 *                changes either (G6)
 *     parent     ranges are not inherited any more; the window closes
 *     child      the kernel has forgotten the userfaultfd, and with it all protection: clean pages
 *                may be written to without a word, so they give up their slots; a userfaultfd of
 *                its own, a session of its own, every range registered; then a thread may run
 *
 *   What a raw fork, past all this, leaves in the child is a hole where the ranges were: it traps
 *   there instead of reading zeros.
 */
#include "pager/state.h"

#include <errno.h>

/* Every slot that this process holds gets one holder more, or one less. */
static void share_held(struct pager *pager, bool more)
{
	uint32_t words = pager->slots.slots_count / 64;

	if (pager->options.mutations & PAGER_MUTATE_SLOT_REFERENCES)
		return;
	for (uint32_t i = 0; i < words; i++) {
		uint64_t word = atomic_load_explicit(&pager->held[i], memory_order_relaxed);

		for (; word; word &= word - 1) {
			uint32_t slot = i * 64 + (uint32_t)__builtin_ctzll(word);

			if (more)
				slots_share(&pager->slots, slot);
			else
				slots_drop(&pager->slots, slot);
		}
	}
}

int fork_begin(struct pager *pager)
{
	struct session_message message = talk_message_of(SESSION_FORK);
	int err;

	evict_settle(pager);
	evict_empty_limbo(pager);
	talk_magazine_empty(pager);
	/* The counts first: what the supervisor notes as the child's is the child's already. */
	share_held(pager, true);
	err = talk_call(pager, &message, NULL);
	if (err) {
		share_held(pager, false);
		return err;
	}
	pager->mail.token = message.token;
	return 0;
}

void fork_failed(struct pager *pager)
{
	struct session_message message = talk_message_of(SESSION_FORK_FAILED);

	/* The child's slots are the supervisor's to drop: it knows which they were. */
	message.token = pager->mail.token;
	talk_call(pager, &message, NULL);
}

int fork_adopt(struct pager *pager)
{
	int err = 0;

	for (unsigned i = 0; !err && i < pager->ranges_count; i++)
		err = activate_register(pager, pager->ranges[i].start, pager->ranges[i].end);
	if (err)
		return err;
	activate_inherit(pager, false);
	for (unsigned kind = 0; kind < QUEUES; kind++) {
		uint32_t frame = pager->queue[kind].head;

		for (; frame != NO_FRAME; frame = pager->frames[frame].next) {
			uint64_t page = queues_page(pager, frame);
			entry_t entry = page_table_get(pager, page);

			if (entry_state(entry) != PAGE_CLEAN)
				continue;
			talk_drop_slot(pager, entry_slot(entry));
			page_table_set(pager, page, entry_make(PAGE_RESIDENT, 0, frame));
		}
	}
	queues_publish(pager);
	atomic_store(&pager->session->active, 1);
	return 0;
}

int pager_fork_prepare(struct pager *pager, struct pager_guard *guard)
{
	int err;

	pager_lock(pager, guard);
	if (pager->active)
		activate_inherit(pager, true);
	pager->forking = true;
	err = pager_mail(pager, MAIL_FORK, 0, 0);
	if (err) {
		if (pager->active)
			activate_inherit(pager, false);
		pager_unlock(pager, guard);
	}
	return err;
}

void pager_fork_parent(struct pager *pager, struct pager_guard *guard, bool child_born)
{
	if (pager->active)
		activate_inherit(pager, false);
	pager_mail(pager, child_born ? MAIL_FORK_DONE : MAIL_FORK_FAILED, 0, 0);
	pager_unlock(pager, guard);
}

/* What the parent's pager thread had does not exist here. */
static void forget_thread(struct pager *pager)
{
	if (thread_shares_descriptors()) {
		kernel_close(pager->fd_uffd);
		kernel_close(pager->fd_socket);
		kernel_close(pager->fd_statm);
		kernel_close(pager->fd_pagemap);
		kernel_close(pager->fd_task);
	}
	pager->session = NULL; /* not inherited, as are all that follow */
	pager->slots_memory = NULL;
	pager->pieces = NULL;
	pager->held = NULL;
	pager->staging = NULL;
	pager->watching = false;
	pager->messages = 0;
	pager->dropped_messages = false;
	pager->forking = false;
	pager->slabs_stale = false;
	pager->no_space = false;
	atomic_store(&pager->callers, 0);
	pager_window_close(pager);
	atomic_store(&pager->started, 0);
}

int pager_fork_child(struct pager *pager, struct pager_guard *guard)
{
	int err;

	pager->child_token = pager->mail.token;
	pager->is_child = true;
	pager->mail.kind = MAIL_NONE;
	forget_thread(pager);
	err = thread_start(pager);
	pager_unlock(pager, guard);
	return err;
}
