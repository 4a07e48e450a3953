/*
 * zero_data.c: large arrays that a program declares instead of allocating them
 *
 *   Such data (.bss) is private anonymous memory like any other, but nobody calls mmap for it: the
 *   kernel and the loader have mapped it before we come. What of it was not touched yet may be
 *   managed; that is nearly all, as constructors have not run. Touched pages stay local.
 */
#include "base/kernel_call.h"
#include "preload/preload.h"

#include <link.h>

#define PAGES_AT_ONCE 4096u

/* [start, end) that is not touched so far, or empty. */
struct run {
	uintptr_t start, end;
};

static void finish(struct run *run)
{
	struct pager_guard guard;

	if (run->end - run->start >= PRELOAD_MANAGED_MIN) {
		pager_lock(preload.pager, &guard);
		(void)pager_manage(preload.pager, run->start, run->end - run->start, true);
		pager_unlock(preload.pager, &guard);
	}
	run->start = run->end = 0;
}

static void manage_untouched(uintptr_t start, uintptr_t end)
{
	static unsigned char here[PAGES_AT_ONCE];
	struct run run = {0, 0};

	for (uintptr_t at = start; at < end;) {
		size_t left = (end - at) / PRELOAD_PAGE_BYTES;
		size_t pages = left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE;

		if (kernel_call3(SYS_mincore, (long)at, (long)(pages * PRELOAD_PAGE_BYTES),
				 (long)here))
			break;
		for (size_t i = 0; i < pages; i++, at += PRELOAD_PAGE_BYTES) {
			if (here[i] & 1) {
				finish(&run);
				continue;
			}
			run.start = run.start ? run.start : at;
			run.end = at + PRELOAD_PAGE_BYTES;
		}
	}
	finish(&run);
}

static int manage_object(struct dl_phdr_info *info, size_t size, void *context)
{
	uintptr_t ours = (uintptr_t)&preload;

	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		uintptr_t start =
			preload_whole_pages(info->dlpi_addr + part->p_vaddr + part->p_filesz);
		uintptr_t end =
			preload_whole_pages(info->dlpi_addr + part->p_vaddr + part->p_memsz);

		if (part->p_type != PT_LOAD || !(part->p_flags & PF_W) || (part->p_flags & PF_X))
			continue;
		/* Never our own: it is what must be there when nothing else is. */
		if (ours >= info->dlpi_addr + part->p_vaddr && ours < end)
			continue;
		if (end > start && end - start >= PRELOAD_MANAGED_MIN)
			manage_untouched(start, end);
	}
	return 0;
}

void zero_data_manage(void)
{
	dl_iterate_phdr(manage_object, NULL);
}
