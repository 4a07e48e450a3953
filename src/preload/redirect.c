/* redirect.c: see redirect.h */
#include "preload/redirect.h"

#include "base/kernel_call.h"
#include "base/patch.h"
#include "preload/preload.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* How far from the library the page is looked for, and in what steps. */
#define SEARCH_STEP  ((uintptr_t)1 << 20)
#define SEARCH_STEPS 512u

static unsigned char *page_at(uintptr_t address)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (address ? MAP_FIXED_NOREPLACE : 0);
	long page = kernel_call(SYS_mmap, (long)address, TRAMPOLINE_BYTES, PROT_READ | PROT_WRITE,
				flags, -1, 0);

	if (kernel_failed(page))
		return NULL;
	if (address && (uintptr_t)page != address) {
		kernel_call2(SYS_munmap, page, TRAMPOLINE_BYTES);
		return NULL;
	}
	return (unsigned char *)page;
}

int trampolines_open(struct trampolines *trampolines, uintptr_t around, size_t len)
{
	uintptr_t low = around & ~(SEARCH_STEP - 1);
	uintptr_t high = (around + len + SEARCH_STEP - 1) & ~(SEARCH_STEP - 1);

	*trampolines = (struct trampolines){NULL, 0};
	for (uintptr_t i = 0; !trampolines->page && i < SEARCH_STEPS; i++) {
		if (low > (i + 1) * SEARCH_STEP)
			trampolines->page = page_at(low - (i + 1) * SEARCH_STEP);
		if (!trampolines->page)
			trampolines->page = page_at(high + i * SEARCH_STEP);
	}
	if (!trampolines->page)
		trampolines->page = page_at(0);
	return trampolines->page ? 0 : -ENOMEM;
}

int trampolines_seal(struct trampolines *trampolines)
{
	patch_flush(trampolines->page, trampolines->used);
	return (int)kernel_call3(SYS_mprotect, (long)trampolines->page, TRAMPOLINE_BYTES,
				 PROT_READ | PROT_EXEC);
}

/* Room for so many bytes, aligned for instructions and for the address in a far jump. */
static unsigned char *take(struct trampolines *trampolines, size_t len)
{
	size_t at = (trampolines->used + 15) & ~(size_t)15;

	if (at + len > TRAMPOLINE_BYTES)
		return NULL;
	trampolines->used = at + len;
	return trampolines->page + at;
}

/* A jump to a trampoline, from where another goes to `entry`. */
static int plan_near(struct redirect_plan *plan, struct trampolines *trampolines, uintptr_t entry)
{
	unsigned char *step;

	if (plan->size < PATCH_NEAR_BYTES)
		return -EMSGSIZE;
	step = take(trampolines, PATCH_FAR_BYTES);
	if (!step)
		return -ENOSPC;
	if (patch_near_jump(plan->jump, plan->at, (uintptr_t)step))
		return -EMSGSIZE;
	patch_far_jump(step, entry);
	plan->len = PATCH_NEAR_BYTES;
	return 0;
}

static int plan_far(struct redirect_plan *plan, uintptr_t entry)
{
	if (plan->size < PATCH_FAR_BYTES)
		return -EMSGSIZE;
	patch_far_jump(plan->jump, entry);
	plan->len = PATCH_FAR_BYTES;
	return 0;
}

/* Far, which needs no trampoline; but near where the fewest instructions are to be moved. */
static int plan_jump(struct redirect_plan *plan, struct trampolines *trampolines, uintptr_t entry,
		     bool prefer_near)
{
	int err = prefer_near ? plan_near(plan, trampolines, entry) : plan_far(plan, entry);

	if (err == -EMSGSIZE)
		err = prefer_near ? plan_far(plan, entry) : plan_near(plan, trampolines, entry);
	return err;
}

/* Moves the instructions that the jump will cover, and lets the rest of the function follow. */
static int plan_original(const struct redirect_plan *plan, struct trampolines *trampolines,
			 void (**original)(void))
{
	const unsigned char *code = (const unsigned char *)plan->at;
	size_t moved = patch_movable(code, plan->size, plan->len);
	unsigned char *home;

	if (moved == 0)
		return -ENOTSUP;
	home = take(trampolines, moved + PATCH_FAR_BYTES);
	if (!home)
		return -ENOSPC;
	memcpy(home, code, moved);
	patch_far_jump(home + moved, plan->at + moved);
	*original = (void (*)(void))(uintptr_t)home;
	return 0;
}

int redirect_plan(struct redirect_plan *plan, struct trampolines *trampolines,
		  const struct redirection *redirection)
{
	int err;

	if (plan->at == 0 || plan->at % PATCH_ALIGNMENT != 0)
		return -EINVAL;
	err = plan_jump(plan, trampolines, (uintptr_t)redirection->entry,
			redirection->original != NULL);
	if (err || !redirection->original)
		return err;
	return plan_original(plan, trampolines, redirection->original);
}

int redirect_apply(const struct redirect_plan *plan)
{
	uintptr_t page = plan->at & ~(uintptr_t)(PRELOAD_PAGE_BYTES - 1);
	size_t len = preload_whole_pages(plan->at + plan->len - page);
	/* Executable all the while: the page may hold what we are running. */
	long err = kernel_call3(SYS_mprotect, (long)page, (long)len,
				PROT_READ | PROT_WRITE | PROT_EXEC);

	if (err)
		return (int)err;
	memcpy((void *)plan->at, plan->jump, plan->len);
	patch_flush((void *)plan->at, plan->len);
	return (int)kernel_call3(SYS_mprotect, (long)page, (long)len, PROT_READ | PROT_EXEC);
}

bool redirect_locate(void *library, const char *name, struct redirect_plan *plan)
{
	void *at = dlsym(library, name);
	const ElfW(Sym) *symbol = NULL;
	Dl_info info;

	if (!at || !dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol)
		return false;
	plan->at = (uintptr_t)at;
	plan->size = symbol->st_size;
	return info.dli_saddr == at;
}

static const char *explain(const char *name, int err)
{
	static char text[128];
	const char *why = err == -ENOENT     ? "this C library does not have it"
			  : err == -EMSGSIZE ? "it is too short"
			  : err == -ENOTSUP  ? "its first instructions are not known to us"
					     : strerror(-err);

	(void)snprintf(text, sizeof(text), "%s() of the C library cannot be redirected: %s", name,
		       why);
	return text;
}

int redirect_everything(const char **reason)
{
	struct redirect_plan plans[REDIRECT_MAX] = {0};
	void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	struct trampolines trampolines;
	unsigned count = 0;
	int err;

	*reason = "the program has no C library that we know (libc.so.6)";
	if (!library || !redirect_locate(library, "mmap", &plans[0]))
		return -ENOENT;
	preload.brk.shown = dlsym(library, "__curbrk");
	*reason = "no memory for trampolines";
	err = trampolines_open(&trampolines, plans[0].at, 1);
	if (err)
		return err;
	for (const struct redirection *one = entries; one->name && count < REDIRECT_MAX; one++) {
		err = redirect_locate(library, one->name, &plans[count])
			      ? redirect_plan(&plans[count], &trampolines, one)
			      : -ENOENT;
		if (err == 0) {
			count++;
		} else if (one->required) {
			*reason = explain(one->name, err);
			return err;
		}
	}
	*reason = "the kernel does not let code be made (a security policy?)";
	err = trampolines_seal(&trampolines);
	for (unsigned i = 0; err == 0 && i < count; i++)
		err = redirect_apply(&plans[i]);
	return err;
}
