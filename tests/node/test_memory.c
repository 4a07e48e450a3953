/*
 * test_memory.c: real slabs: what they are, how many are made ahead, where they go
 */
#include "base/base.h"
#include "base/env.h"
#include "node/machine.h"
#include "node/node.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SLAB_BYTES  (UINT64_C(2) << 20)
#define PATIENCE_NS (120 * NS_PER_S)

struct slab {
	void *memory;
	int memfd;
};

/* How many slabs this process has, given out or in stock: counted by their descriptors. */
static unsigned slabs_there(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) { /* NOLINT(concurrency-mt-unsafe) */
		char path[300];
		char target[300] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) > 0)
			count += strstr(target, "memfd:afar-slab") != NULL;
	}
	closedir(dir);
	return count;
}

static void wait_for_slabs(unsigned count)
{
	int64_t end_ns = env_now_ns(env_real()) + PATIENCE_NS;

	while (slabs_there() != count) {
		assert_true(env_now_ns(env_real()) < end_ns);
		sched_yield();
	}
}

static struct slab make(const struct node_memory_ops *ops)
{
	int64_t end_ns = env_now_ns(env_real()) + PATIENCE_NS;
	struct slab slab;
	int err;

	while ((err = ops->slab_make(ops->context, SLAB_BYTES, &slab.memory, &slab.memfd)) ==
	       -EAGAIN) {
		assert_true(env_now_ns(env_real()) < end_ns);
		sched_yield();
	}
	assert_int_equal(err, 0);
	return slab;
}

static void destroy(const struct node_memory_ops *ops, const struct slab *slab)
{
	ops->slab_destroy(ops->context, slab->memory, SLAB_BYTES, slab->memfd);
}

static void a_slab_is_zero_aligned_sealed_and_there(void **state)
{
	struct node_memory_ops ops;
	unsigned char resident[SLAB_BYTES / 4096];
	struct slab slab;
	struct stat status;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, 4 * SLAB_BYTES, &ops), 0);
	slab = make(&ops);
	assert_int_equal((uintptr_t)slab.memory % SLAB_BYTES, 0);
	assert_int_equal(fstat(slab.memfd, &status), 0);
	assert_int_equal(status.st_size, SLAB_BYTES);
	/* All of it is there before anybody touches it. */
	assert_int_equal(mincore(slab.memory, SLAB_BYTES, resident), 0);
	for (size_t i = 0; i < sizeof(resident); i++)
		assert_true(resident[i] & 1);
	for (uint64_t i = 0; i < SLAB_BYTES; i++)
		assert_int_equal(((unsigned char *)slab.memory)[i], 0);
	assert_int_equal(ftruncate(slab.memfd, 0), -1);
	assert_int_equal(ftruncate(slab.memfd, 2 * SLAB_BYTES), -1);
	memset(slab.memory, 1, SLAB_BYTES);
	destroy(&ops, &slab);

	/* Nor is any later one what this one was. */
	for (unsigned i = 0; i < 8; i++) {
		slab = make(&ops);
		assert_int_equal(*(unsigned char *)slab.memory, 0);
		memset(slab.memory, 1, SLAB_BYTES);
		destroy(&ops, &slab);
	}
	node_memory_close(&ops);
	assert_int_equal(slabs_there(), 0);
}

static void a_few_are_made_ahead_and_no_more(void **state)
{
	struct node_memory_ops ops;
	struct slab slabs[3];

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, 4 * SLAB_BYTES, &ops), 0);
	wait_for_slabs(2);
	slabs[0] = make(&ops);
	wait_for_slabs(3);
	slabs[1] = make(&ops);
	/* As many as the capacity allows, so the last stock is smaller. */
	wait_for_slabs(4);
	slabs[2] = make(&ops);
	wait_for_slabs(4);
	for (unsigned i = 0; i < 3; i++)
		destroy(&ops, &slabs[i]);
	wait_for_slabs(2);
	node_memory_close(&ops);
	assert_int_equal(slabs_there(), 0);
}

static void a_node_that_may_hold_more_gets_more(void **state)
{
	struct node_memory_ops ops;
	struct slab slabs[5];

	/* The capacity was raised since: who asks for one gets one. */
	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, SLAB_BYTES, &ops), 0);
	for (unsigned i = 0; i < 5; i++)
		slabs[i] = make(&ops);
	for (unsigned i = 0; i < 5; i++)
		destroy(&ops, &slabs[i]);
	node_memory_close(&ops);
}

static void a_dropped_stock_comes_back_when_it_is_wanted(void **state)
{
	struct node_memory_ops ops;
	struct slab slab;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, 4 * SLAB_BYTES, &ops), 0);
	wait_for_slabs(2);
	/* The maker may be at one of the two still: it does not keep that one either. */
	ops.stock_drop(ops.context);
	wait_for_slabs(0);
	slab = make(&ops);
	wait_for_slabs(3);
	destroy(&ops, &slab);
	node_memory_close(&ops);
}

/* Somebody keeps a mapping: the machine gets the pages back all the same. */
static void a_destroyed_slab_is_empty_for_whoever_kept_it(void **state)
{
	struct node_memory_ops ops;
	struct slab slab;
	struct stat status;
	unsigned char *kept;
	int memfd;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, 4 * SLAB_BYTES, &ops), 0);
	slab = make(&ops);
	memfd = dup(slab.memfd);
	kept = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_ptr_not_equal(kept, MAP_FAILED);
	memset(kept, 7, SLAB_BYTES);
	destroy(&ops, &slab);
	assert_int_equal(fstat(memfd, &status), 0);
	assert_int_equal(status.st_blocks, 0);
	assert_int_equal(kept[0], 0);
	munmap(kept, SLAB_BYTES);
	close(memfd);
	node_memory_close(&ops);
}

static void a_forked_child_has_no_slabs(void **state)
{
	struct node_memory_ops ops;
	struct slab slab;
	int status;
	pid_t pid;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, 4 * SLAB_BYTES, &ops), 0);
	slab = make(&ops);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		unsigned char resident;

		_exit(mincore(slab.memory, 4096, &resident) < 0 && errno == ENOMEM ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	destroy(&ops, &slab);
	node_memory_close(&ops);
}

static void sizes_that_are_none_are_refused(void **state)
{
	struct node_memory_ops ops;
	struct slab slab;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES + 4096, SLAB_BYTES, &ops), -EINVAL);
	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, SLAB_BYTES, &ops), 0);
	assert_int_equal(ops.slab_make(ops.context, 4096, &slab.memory, &slab.memfd), -EINVAL);
	node_memory_close(&ops);
}

/* A machine at work has next to nothing free, and much that is available (defect 7). */
static void what_is_available_counts_and_not_what_is_free(void **state)
{
	static const char meminfo[] = "MemTotal:       24655340 kB\n"
				      "MemFree:            1024 kB\n"
				      "MemAvailable:   12345678 kB\n"
				      "Buffers:           10000 kB\n";

	assert_int_equal(machine_parse_available(meminfo), UINT64_C(12345678) * 1024);
	assert_true(machine_parse_available("MemFree: 5 kB\n") == UINT64_MAX);
	assert_true(machine_parse_available("") == UINT64_MAX);
}

static void a_groups_limit_counts_without_its_page_cache(void **state)
{
	static const char stat[] = "anon 500\nactive_file 70\ninactive_file 300\n";

	assert_int_equal(machine_parse_group("1000\n", "900\n", stat), 400);
	assert_int_equal(machine_parse_group("1000\n", "900\n", ""), 100);
	assert_int_equal(machine_parse_group("1000\n", "1200\n", ""), 0);
	assert_int_equal(machine_parse_group("1000\n", "100\n", stat), 1000);
	assert_true(machine_parse_group("max\n", "900\n", stat) == UINT64_MAX);
	assert_true(machine_parse_group("", "", "") == UINT64_MAX);
}

static void pressure_is_what_everybody_waited(void **state)
{
	static const char pressure[] = "some avg10=90.12 avg60=1.00 avg300=0.50 total=7\n"
				       "full avg10=12.34 avg60=0.10 avg300=0.00 total=5\n";

	assert_int_equal(machine_parse_pressure(pressure), 1234);
	assert_int_equal(machine_parse_pressure("full avg10=100.00 avg60=1.00\n"), 10000);
	assert_int_equal(machine_parse_pressure("full avg10=999.99 avg60=1.00\n"), 10000);
	assert_int_equal(machine_parse_pressure("full avg10=-1.00\n"), 0);
	assert_int_equal(machine_parse_pressure(""), 0);
}

static void this_machine_tells_what_is_available(void **state)
{
	struct node_memory_ops ops;
	uint64_t bytes;

	assert_int_equal(node_memory_open(NULL, SLAB_BYTES, SLAB_BYTES, &ops), 0);
	bytes = ops.available_bytes(ops.context);
	assert_true(bytes > 0);
	assert_true(bytes <= (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
	node_memory_close(&ops);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slab_is_zero_aligned_sealed_and_there),
		cmocka_unit_test(a_few_are_made_ahead_and_no_more),
		cmocka_unit_test(a_node_that_may_hold_more_gets_more),
		cmocka_unit_test(a_dropped_stock_comes_back_when_it_is_wanted),
		cmocka_unit_test(a_destroyed_slab_is_empty_for_whoever_kept_it),
		cmocka_unit_test(a_forked_child_has_no_slabs),
		cmocka_unit_test(sizes_that_are_none_are_refused),
		cmocka_unit_test(what_is_available_counts_and_not_what_is_free),
		cmocka_unit_test(a_groups_limit_counts_without_its_page_cache),
		cmocka_unit_test(pressure_is_what_everybody_waited),
		cmocka_unit_test(this_machine_tells_what_is_available),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
