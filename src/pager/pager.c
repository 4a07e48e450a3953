/*
 * pager.c: the pager's life and its lock
 */
#include "pager/pager.h"

#include <errno.h>

int pager_start(const struct pager_options *options, struct pager **pager)
{
	return -ENOSYS;
}

void pager_stop(struct pager *pager)
{
}

void pager_lock(struct pager *pager, struct pager_guard *guard)
{
}

void pager_unlock(struct pager *pager, const struct pager_guard *guard)
{
}

int pager_manage(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
	return -ENOSPC;
}

void pager_discard(struct pager *pager, uintptr_t address, size_t len)
{
}

void pager_release(struct pager *pager, uintptr_t address, size_t len)
{
}

void pager_move(struct pager *pager, uintptr_t from, size_t from_len, uintptr_t to, size_t to_len)
{
}

void pager_set_readable(struct pager *pager, uintptr_t address, size_t len, bool readable)
{
}

void pager_set_pinned(struct pager *pager, uintptr_t address, size_t len, bool pinned)
{
}

void pager_count_unmanaged(struct pager *pager, int64_t bytes)
{
}

size_t pager_managed(const struct pager *pager, uintptr_t address, size_t len)
{
	return 0;
}

bool pager_is_far(const struct pager *pager, uintptr_t address)
{
	return false;
}

int pager_fork_prepare(struct pager *pager, struct pager_guard *guard)
{
	return 0;
}

void pager_fork_parent(struct pager *pager, struct pager_guard *guard, bool child_born)
{
}

int pager_fork_child(struct pager *pager, struct pager_guard *guard)
{
	return 0;
}
