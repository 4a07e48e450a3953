/*
 * memory.c: real memory for slabs
 *
 *   A slab is a memfd of its own, sealed against growing and shrinking, so that whoever maps it
 *   cannot be cut short by anybody. It is touched before it is given out, so that no access ever
 *   waits for the machine to find a page; locked if the process may lock that much; and made of
 *   huge pages if the kernel is willing.
 *
 *   All this takes some 40 ms for 64 MiB, which a node's thread cannot spend while peers wait for
 *   their heartbeats. So a thread of its own makes slabs, a few ahead:
 *
 *     node's thread                           maker
 *     slab_make: stock empty? -EAGAIN ──────► makes one, puts it into the stock
 *     slab_make: takes from the stock ──────► makes the next, up to STOCK_SLABS
 *     stock_drop: memory is short     ──────► makes none until the next slab_make
 *
 *   The lock guards the stock and what the threads tell each other; no slab is made under it. A
 *   slab in the stock is nobody's: the node counts it from slab_make on.
 */
#include "node/node.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "node/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STOCK_SLABS 2u
#define HUGE_BYTES  (UINT64_C(2) << 20)
/*
 * How long a slab's pages are collapsed into huge ones. A machine with idle cores needs 30 ms for
 * 64 MiB; on a busy one each 2 MiB wait for a turn on every core, and owners wait for the slab.
 */
#define COLLAPSE_NS (100 * NS_PER_MS)
/* What a slab must leave of the machine: below that, the kernel would start to kill. */
#define RESERVE_BYTES (UINT64_C(64) << 20)

/* Kernel headers of Debian 12 have it, glibc's do not. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct ready_slab {
	void *memory;
	int memfd;
};

struct node_memory {
	struct log *log;
	uint64_t slab_bytes, capacity_bytes;
	pthread_t maker;

	pthread_mutex_t lock;
	pthread_cond_t work; /* for the maker: wanted, or stopping */
	struct ready_slab stock[STOCK_SLABS];
	uint32_t stocked;
	uint64_t live; /* slabs made and not destroyed, those of the stock among them */
	bool wanted;   /* slab_make found the stock empty: make one whatever the capacity says */
	bool paused;   /* stock_drop was called last */
	bool stopping;
	int failure; /* of the last attempt, for the next slab_make */

	_Atomic bool warned_lock;
};

static uint64_t available_bytes(void *context)
{
	return machine_available_bytes(env_real());
}

/* ---- one slab ---- */

/* Maps the memfd at a multiple of the size of huge pages, so that they can be used. */
static void *map_aligned(int memfd, uint64_t size_bytes)
{
	uint64_t room_bytes = size_bytes + HUGE_BYTES;
	char *room = mmap(NULL, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (room == MAP_FAILED)
		return NULL;

	char *memory = (char *)align_up((uintptr_t)room, HUGE_BYTES);
	uint64_t before_bytes = (uint64_t)(memory - room);

	if (before_bytes > 0)
		munmap(room, before_bytes);
	munmap(memory + size_bytes, HUGE_BYTES - before_bytes);
	if (mmap(memory, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0) ==
	    MAP_FAILED) {
		munmap(memory, size_bytes);
		return NULL;
	}
	return memory;
}

static int make_memfd(uint64_t size_bytes)
{
	int memfd = memfd_create("afar-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (memfd < 0)
		return -errno;
	if (ftruncate(memfd, (off_t)size_bytes) < 0 ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		int err = -errno;

		close(memfd);
		return err;
	}
	return memfd;
}

/* Touches every page now; kernels before 5.14 do not know how, so we do. */
static int populate(void *memory, uint64_t size_bytes)
{
	if (madvise(memory, size_bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	memset(memory, 0, size_bytes);
	return 0;
}

static void collapse(char *slab, uint64_t size_bytes)
{
	int64_t end_ns = env_now_ns(env_real()) + COLLAPSE_NS;

	for (uint64_t offset = 0; offset < size_bytes; offset += HUGE_BYTES) {
		/* EAGAIN concerns these 2 MiB alone; the others would say the same of the next. */
		if (madvise(slab + offset, HUGE_BYTES, MADV_COLLAPSE) < 0 && errno != EAGAIN)
			return;
		if (env_now_ns(env_real()) > end_ns)
			return;
	}
}

/* What makes a slab better, and is no reason to go without it. */
static void improve(struct node_memory *memory, void *slab, uint64_t size_bytes)
{
	collapse(slab, size_bytes);
	madvise(slab, size_bytes, MADV_DONTDUMP);
	/* A fork of this process has no business with it, and would copy its page tables. */
	madvise(slab, size_bytes, MADV_DONTFORK);
	if (mlock(slab, size_bytes) < 0 && !atomic_exchange(&memory->warned_lock, true))
		log_warn(memory->log, "slabs_not_locked",
			 "reason=%s hint=\"raise the limit of locked memory (LimitMEMLOCK)\"",
			 afar_strerror(-errno));
}

static int make_slab(struct node_memory *memory, struct ready_slab *slab)
{
	uint64_t size_bytes = memory->slab_bytes;

	/* The kernel grants memory that it does not have and kills when it is touched: ask first.
	 */
	if (available_bytes(NULL) < size_bytes + RESERVE_BYTES)
		return -ENOMEM;

	int memfd = make_memfd(size_bytes);

	if (memfd < 0)
		return memfd;
	slab->memfd = memfd;
	slab->memory = map_aligned(memfd, size_bytes);
	if (!slab->memory) {
		close(memfd);
		return -ENOMEM;
	}
	madvise(slab->memory, size_bytes, MADV_HUGEPAGE);

	int err = populate(slab->memory, size_bytes);

	if (err) {
		munmap(slab->memory, size_bytes);
		close(memfd);
		return err;
	}
	improve(memory, slab->memory, size_bytes);
	return 0;
}

/*
 * A peer may keep its mapping for ever, and with it the pages. The hole that is punched gives
 * them back to the machine now; whatever the peer writes later is memory of its own doing.
 */
static void destroy_slab(const struct ready_slab *slab, uint64_t size_bytes)
{
	munmap(slab->memory, size_bytes);
	(void)fallocate(slab->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			(off_t)size_bytes);
	close(slab->memfd);
}

/* ---- the stock, and its maker ---- */

static bool should_make(const struct node_memory *memory)
{
	if (memory->wanted)
		return memory->stocked == 0;
	return !memory->paused && memory->failure == 0 && memory->stocked < STOCK_SLABS &&
	       (memory->live + 1) * memory->slab_bytes <= memory->capacity_bytes;
}

/* Under the lock: destroying two slabs takes no longer than the other side can wait. */
static void empty_stock(struct node_memory *memory)
{
	while (memory->stocked > 0) {
		destroy_slab(&memory->stock[--memory->stocked], memory->slab_bytes);
		memory->live--;
	}
}

static void *run_maker(void *context)
{
	struct node_memory *memory = context;

	pthread_mutex_lock(&memory->lock);
	for (;;) {
		struct ready_slab slab;

		while (!memory->stopping && !should_make(memory))
			pthread_cond_wait(&memory->work, &memory->lock);
		if (memory->stopping)
			break;
		pthread_mutex_unlock(&memory->lock);

		int err = make_slab(memory, &slab);

		pthread_mutex_lock(&memory->lock);
		memory->failure = err;
		if (!err) {
			memory->stock[memory->stocked++] = slab;
			memory->live++;
		}
		/* Memory ran short while this one was made, and nobody waits for it. */
		if (memory->paused && !memory->wanted)
			empty_stock(memory);
		memory->wanted = false;
	}
	pthread_mutex_unlock(&memory->lock);
	return NULL;
}

static int slab_make(void *context, uint64_t size_bytes, void **slab, int *memfd)
{
	struct node_memory *memory = context;
	int err = -EAGAIN;

	if (size_bytes != memory->slab_bytes)
		return -EINVAL;
	pthread_mutex_lock(&memory->lock);
	memory->paused = false;
	if (memory->stocked > 0) {
		const struct ready_slab *ready = &memory->stock[--memory->stocked];

		*slab = ready->memory;
		*memfd = ready->memfd;
		err = 0;
	} else if (memory->failure) {
		/* Told once; whoever asks again has it tried again. */
		err = memory->failure;
		memory->failure = 0;
	} else {
		memory->wanted = true;
	}
	pthread_cond_signal(&memory->work);
	pthread_mutex_unlock(&memory->lock);
	return err;
}

static void slab_destroy(void *context, void *slab, uint64_t size_bytes, int memfd)
{
	struct node_memory *memory = context;
	const struct ready_slab gone = {.memory = slab, .memfd = memfd};

	destroy_slab(&gone, size_bytes);
	pthread_mutex_lock(&memory->lock);
	memory->live--;
	pthread_cond_signal(&memory->work);
	pthread_mutex_unlock(&memory->lock);
}

static void stock_drop(void *context)
{
	struct node_memory *memory = context;

	pthread_mutex_lock(&memory->lock);
	memory->paused = true;
	empty_stock(memory);
	pthread_mutex_unlock(&memory->lock);
}

int node_memory_open(struct log *log, uint64_t slab_bytes, uint64_t capacity_bytes,
		     struct node_memory_ops *ops)
{
	struct node_memory *memory;
	int err;

	if (slab_bytes == 0)
		slab_bytes = NODE_SLAB_BYTES_DEFAULT;
	if (slab_bytes % HUGE_BYTES != 0)
		return -EINVAL;
	memory = calloc(1, sizeof(*memory));
	if (!memory)
		return -ENOMEM;
	memory->log = log;
	memory->slab_bytes = slab_bytes;
	memory->capacity_bytes = capacity_bytes;
	pthread_mutex_init(&memory->lock, NULL);
	pthread_cond_init(&memory->work, NULL);
	err = pthread_create(&memory->maker, NULL, run_maker, memory);
	if (err) {
		pthread_cond_destroy(&memory->work);
		pthread_mutex_destroy(&memory->lock);
		free(memory);
		return -err;
	}
	*ops = (struct node_memory_ops){
		.slab_make = slab_make,
		.slab_destroy = slab_destroy,
		.stock_drop = stock_drop,
		.available_bytes = available_bytes,
		.context = memory,
	};
	return 0;
}

void node_memory_close(struct node_memory_ops *ops)
{
	struct node_memory *memory = ops->context;

	pthread_mutex_lock(&memory->lock);
	memory->stopping = true;
	pthread_cond_signal(&memory->work);
	pthread_mutex_unlock(&memory->lock);
	pthread_join(memory->maker, NULL);
	stock_drop(memory);
	pthread_cond_destroy(&memory->work);
	pthread_mutex_destroy(&memory->lock);
	free(memory);
	ops->context = NULL;
}
