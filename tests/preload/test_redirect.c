/*
 * test_redirect.c: jumps over the entries of functions, of our own and of this machine's C library
 */
#include "base/patch.h"
#include "preload/preload.h"
#include "preload/redirect.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static volatile int calls;

#define VICTIM __attribute__((noinline, aligned(64)))

/* Each long enough for the longest jump, whatever the compiler makes of it. */
VICTIM static int victim_far(int x)
{
	for (int i = 0; i < x; i++)
		calls += i * x;
	return calls + 1;
}

VICTIM static int victim_near(int x)
{
	for (int i = 0; i < x; i++)
		calls += i * x;
	return calls + 2;
}

/* Calls what stands at the address: through a name the compiler may call a copy of its own. */
static int call(int (*function)(int x), int x)
{
	int (*volatile address)(int x) = function;

	return address(x);
}

static int answer(int x)
{
	return 4000 + x;
}

static void prepare(struct trampolines *trampolines, struct redirect_plan *plan, void *function,
		    size_t size)
{
	*plan = (struct redirect_plan){.at = (uintptr_t)function, .size = size};
	assert_int_equal(trampolines_open(trampolines, plan->at, 1), 0);
}

static const struct redirection to_answer = {"", (void (*)(void))answer, NULL, true};

static void a_long_function_jumps_far(void **state)
{
	struct trampolines trampolines;
	struct redirect_plan plan;

	prepare(&trampolines, &plan, (void *)victim_far, PATCH_FAR_BYTES);
	assert_int_equal(redirect_plan(&plan, &trampolines, &to_answer), 0);
	assert_int_equal(plan.len, PATCH_FAR_BYTES);
	assert_int_equal(trampolines.used, 0);
	assert_int_equal(trampolines_seal(&trampolines), 0);
	assert_int_equal(redirect_apply(&plan), 0);
	assert_int_equal(call(victim_far, 7), 4007);
}

static void a_short_function_jumps_near(void **state)
{
	struct trampolines trampolines;
	struct redirect_plan plan;

	prepare(&trampolines, &plan, (void *)victim_near, PATCH_FAR_BYTES - 1);
	assert_int_equal(redirect_plan(&plan, &trampolines, &to_answer), 0);
	assert_int_equal(plan.len, PATCH_NEAR_BYTES);
	assert_int_equal(trampolines_seal(&trampolines), 0);
	assert_int_equal(redirect_apply(&plan), 0);
	assert_int_equal(call(victim_near, 8), 4008);
}

static void what_has_no_room_is_refused(void **state)
{
	struct trampolines trampolines;
	struct redirect_plan plan;

	prepare(&trampolines, &plan, (void *)answer, PATCH_NEAR_BYTES - 1);
	assert_int_equal(redirect_plan(&plan, &trampolines, &to_answer), -EMSGSIZE);
	plan.at = 0;
	assert_int_equal(redirect_plan(&plan, &trampolines, &to_answer), -EINVAL);
	plan = (struct redirect_plan){.at = (uintptr_t)answer, .size = PATCH_NEAR_BYTES};
	trampolines.used = TRAMPOLINE_BYTES - 1;
	assert_int_equal(redirect_plan(&plan, &trampolines, &to_answer), -ENOSPC);
}

static void every_entry_fits_this_c_library(void **state)
{
	void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	struct trampolines trampolines;

	assert_non_null(library);
	assert_int_equal(trampolines_open(&trampolines, (uintptr_t)dlsym(library, "mmap"), 1), 0);
	for (const struct redirection *one = entries; one->name; one++) {
		struct redirect_plan plan = {0};
		int err;

		assert_true(redirect_locate(library, one->name, &plan));
		err = redirect_plan(&plan, &trampolines, one);
		print_message("  %-14s %4zu bytes, jump of %zu\n", one->name, plan.size, plan.len);
		assert_int_equal(err, 0);
	}
	/* open64 and its kind are other names of the same code, not code of their own. */
	assert_ptr_equal(dlsym(library, "mmap64"), dlsym(library, "mmap"));
	assert_ptr_equal(dlsym(library, "open64"), dlsym(library, "open"));
	assert_ptr_equal(dlsym(library, "openat64"), dlsym(library, "openat"));
	assert_ptr_equal(dlsym(library, "fcntl64"), dlsym(library, "fcntl"));
	assert_int_equal(dlclose(library), 0);
}

static pid_t (*way_to_fork)(void);
static volatile int forks;

static pid_t count_forks(void)
{
	forks++;
	return way_to_fork();
}

/* The C library calls its _Fork from within: this is what a symbol of ours could not catch. */
static void fork_inside_the_c_library_comes_to_us(void **state)
{
	const struct redirection fork_entry = {"_Fork", (void (*)(void))count_forks,
					       (void (**)(void)) & way_to_fork, true};
	void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	struct trampolines trampolines;
	struct redirect_plan plan;
	int status;

	assert_true(redirect_locate(library, "_Fork", &plan));
	assert_int_equal(trampolines_open(&trampolines, plan.at, 1), 0);
	assert_int_equal(redirect_plan(&plan, &trampolines, &fork_entry), 0);
	assert_int_equal(trampolines_seal(&trampolines), 0);
	assert_int_equal(redirect_apply(&plan), 0);

	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0)
		_exit(forks == 1 ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(forks, 1);
	assert_int_equal(dlclose(library), 0);
}

/* ---- which instructions may be moved ---- */

struct instruction {
	const char *text;
	size_t len; /* 0: must not be moved */
	unsigned char code[12];
};

#if defined(__x86_64__)
static const struct instruction instructions[] = {
	{"endbr64", 4, {0xf3, 0x0f, 0x1e, 0xfa}},
	{"push %rbp", 1, {0x55}},
	{"push %r15", 2, {0x41, 0x57}},
	{"mov %rsp,%rbp", 3, {0x48, 0x89, 0xe5}},
	{"mov %fs:0x10,%rax", 9, {0x64, 0x48, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0}},
	{"xor %r8d,%r8d", 3, {0x45, 0x31, 0xc0}},
	{"mov $0x1200011,%edi", 5, {0xbf, 0x11, 0x00, 0x20, 0x01}},
	{"movabs $1,%rax", 10, {0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0}},
	{"sub $0x68,%rsp", 4, {0x48, 0x83, 0xec, 0x68}},
	{"sub $0x168,%rsp", 7, {0x48, 0x81, 0xec, 0x68, 0x01, 0, 0}},
	{"mov %rdx,0x40(%rsp)", 5, {0x48, 0x89, 0x54, 0x24, 0x40}},
	{"lea 0x2d0(%rax),%r10", 7, {0x4c, 0x8d, 0x90, 0xd0, 0x02, 0, 0}},
	{"movl $0x10,0x10(%rsp)", 8, {0xc7, 0x44, 0x24, 0x10, 0x10, 0, 0, 0}},
	{"mov 0x10(%rip),%rax", 0, {0x48, 0x8b, 0x05, 0x10, 0, 0, 0}},
	{"lea 0x10(%rip),%rax", 0, {0x48, 0x8d, 0x05, 0x10, 0, 0, 0}},
	{"call", 0, {0xe8, 0, 0, 0, 0}},
	{"jmp", 0, {0xe9, 0, 0, 0, 0}},
	{"jmp short", 0, {0xeb, 0}},
	{"je", 0, {0x74, 0x10}},
	{"je near", 0, {0x0f, 0x84, 0, 0, 0, 0}},
	{"ret", 0, {0xc3}},
	{"loop", 0, {0xe2, 0x10}},
	{"jmp *0x10(%rip)", 0, {0xff, 0x25, 0x10, 0, 0, 0}},
	{"unknown", 0, {0x0f, 0x0b}},
};
#else
static const struct instruction instructions[] = {
	{"stp x29, x30, [sp, #-16]!", 4, {0xfd, 0x7b, 0xbf, 0xa9}},
	{"mov x29, sp", 4, {0xfd, 0x03, 0x00, 0x91}},
	{"mrs x0, tpidr_el0", 4, {0x40, 0xd0, 0x3b, 0xd5}},
	{"paciasp", 4, {0x3f, 0x23, 0x03, 0xd5}},
	{"bl", 0, {0x01, 0x00, 0x00, 0x94}},
	{"b", 0, {0x01, 0x00, 0x00, 0x14}},
	{"cbz x0", 0, {0x20, 0x00, 0x00, 0xb4}},
	{"tbz x0, #0", 0, {0x20, 0x00, 0x00, 0x36}},
	{"adrp x0", 0, {0x00, 0x00, 0x00, 0x90}},
	{"adr x0", 0, {0x20, 0x00, 0x00, 0x10}},
	{"ldr x0, literal", 0, {0x40, 0x00, 0x00, 0x58}},
	{"ret", 0, {0xc0, 0x03, 0x5f, 0xd6}},
};
#endif

static void instructions_that_mean_the_same_elsewhere_are_known(void **state)
{
	for (size_t i = 0; i < sizeof(instructions) / sizeof(*instructions); i++) {
		const struct instruction *one = &instructions[i];

		print_message("  %s\n", one->text);
		assert_int_equal(patch_instruction_bytes(one->code, sizeof(one->code)), one->len);
		/* Cut short it is not taken for whole, and nothing behind the end is read. */
		for (size_t left = 0; left < one->len; left++) {
			unsigned char *part = malloc(left + 1);

			memcpy(part, one->code, left);
			assert_int_equal(patch_instruction_bytes(part, left), 0);
			free(part);
		}
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_long_function_jumps_far),
		cmocka_unit_test(a_short_function_jumps_near),
		cmocka_unit_test(what_has_no_room_is_refused),
		cmocka_unit_test(every_entry_fits_this_c_library),
		cmocka_unit_test(fork_inside_the_c_library_comes_to_us),
		cmocka_unit_test(instructions_that_mean_the_same_elsewhere_are_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
