/*
 * program_break.c: the heap of brk and sbrk, in mappings that the pager can manage
 *
 *   The kernel gives a program one heap behind its data, which grows as brk() asks. What is in it
 *   when we come stays where it is, local. From the next page on it is ours: brk() maps and unmaps
 *   there, at the very addresses that the kernel would have used, so the heap stays in one piece
 *   and malloc() sees nothing unusual.
 *
 *       data │ kernel's heap        │ ours, managed            │ free
 *            │          kernel_end ─┤ base               end ──┤
 *
 *   Nothing is reserved ahead: as with the kernel, growth fails when another mapping is in the
 *   way, and malloc() then asks mmap(). The kernel's own break stays below `base`, so a program
 *   that calls it by number finds our mapping in its way and is refused.
 */
#include "base/kernel_call.h"
#include "preload/preload.h"

#include <errno.h>
#include <sys/mman.h>

void program_break_start(struct program_break *brk)
{
	brk->kernel_end = (uintptr_t)kernel_call1(SYS_brk, 0);
	brk->base = preload_whole_pages(brk->kernel_end);
	brk->end = brk->kernel_end;
}

/* Under the lock: unmaps [start, end) of our part. */
static void give_back(uintptr_t start, uintptr_t end)
{
	pager_release(preload.pager, start, end - start);
	marks_forget(&preload.marks, start, end);
	kernel_call2(SYS_munmap, (long)start, (long)(end - start));
}

/* Under the lock: maps [start, end) of our part. */
static bool extend(uintptr_t start, uintptr_t end)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	long at = kernel_call(SYS_mmap, (long)start, (long)(end - start), PROT_READ | PROT_WRITE,
			      flags, -1, 0);

	if (kernel_failed(at))
		return false;
	/* A kernel that does not know the flag takes the address as a wish. */
	if ((uintptr_t)at != start) {
		kernel_call2(SYS_munmap, at, (long)(end - start));
		return false;
	}
	if (!preload.lock_future)
		(void)pager_manage(preload.pager, start, end - start, true);
	return true;
}

/* Under the lock. */
static void move_break(struct program_break *brk, uintptr_t wanted)
{
	uintptr_t top = preload_whole_pages(brk->end > brk->base ? brk->end : brk->base);
	uintptr_t wanted_top = preload_whole_pages(wanted > brk->base ? wanted : brk->base);

	if (wanted_top < wanted)
		return;
	/* The kernel's part first: it refuses what lies below the program's data. */
	if (wanted < brk->kernel_end || brk->end < brk->kernel_end) {
		uintptr_t share = wanted < brk->kernel_end ? wanted : brk->kernel_end;

		if ((uintptr_t)kernel_call1(SYS_brk, (long)share) != share)
			return;
	}
	if (wanted_top < top)
		give_back(wanted_top, top);
	if (wanted_top <= top || extend(top, wanted_top))
		brk->end = wanted;
	else if (brk->end < brk->kernel_end)
		brk->end = brk->kernel_end;
}

static void show(const struct program_break *brk, uintptr_t end)
{
	if (brk->shown)
		*brk->shown = (void *)end;
}

uintptr_t memory_break(uintptr_t wanted)
{
	struct program_break *brk = &preload.brk;
	struct pager_guard guard;
	uintptr_t end;

	if (!preload.pager) {
		end = (uintptr_t)kernel_call1(SYS_brk, (long)wanted);
		show(brk, end);
		return end;
	}
	pager_lock(preload.pager, &guard);
	if (wanted)
		move_break(brk, wanted);
	end = brk->end;
	show(brk, end);
	pager_unlock(preload.pager, &guard);
	return end;
}

/* Where the break is to go; 0 if the sum wraps around, which the C library refuses, too. */
static uintptr_t moved_by(uintptr_t end, intptr_t increment)
{
	uintptr_t wanted = end + (uintptr_t)increment;

	return (wanted > end) == (increment > 0) ? wanted : 0;
}

long memory_break_by(const long argument[6])
{
	struct program_break *brk = &preload.brk;
	intptr_t increment = argument[0];
	struct pager_guard guard;
	uintptr_t old, wanted;

	if (!preload.pager) {
		old = memory_break(0);
		wanted = moved_by(old, increment);
		if (increment == 0 || (wanted && memory_break(wanted) == wanted))
			return (long)old;
		return -ENOMEM;
	}
	/* One hold of the lock: between two threads the heap must not be given away twice. */
	pager_lock(preload.pager, &guard);
	old = brk->end;
	wanted = moved_by(old, increment);
	if (increment != 0 && wanted)
		move_break(brk, wanted);
	show(brk, brk->end);
	if (increment != 0 && brk->end != wanted)
		old = (uintptr_t)-ENOMEM;
	pager_unlock(preload.pager, &guard);
	return (long)old;
}
