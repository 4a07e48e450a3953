/*
 * state.h: what the pager knows, and which file looks after which part of it
 *
 *   One struct, in private memory that is mapped at start and that fork copies. Unless a part says
 *   otherwise it belongs to whoever holds the lock; what is marked `thread` belongs to the pager
 *   thread, which may use it without the lock.
 *
 * The files
 *
 *   pager.c    start and stop, the lock, the mailbox
 *   calls.c    what the program's threads call when their memory changes
 *   thread.c   the pager thread: its birth, its loop
 *   watch.c    a second thread, that waits for the supervisor
 *   ranges.c   which memory is managed            table.c    the state of each page of it
 *   queues.c   resident pages in order of age     activate.c lazily registering what is managed
 *   fault.c    a page is missed, or written to    prefetch.c which pages come next
 *   evict.c    pages go, in batches               placement.c who wakes on which processor
 *   talk.c     talking to the supervisor, slots held
 *   direct.c, staged.c   where the bytes go: two backends
 *   fork.c     the two processes after a fork
 *
 * Stacks in managed memory
 *
 *   A program may run on a stack that it took from malloc. Its thread must not miss a page of it
 *   while it holds the lock, for the pager could not serve it: pager_lock() therefore makes sure,
 *   under the lock, that the pages around the stack pointer are there and writable, and under the
 *   lock they stay.
 */
#ifndef AFAR_PAGER_STATE_H
#define AFAR_PAGER_STATE_H

#include "base/page_hash.h"
#include "pager/kernel.h"
#include "pager/pager.h"
#include "pager/session.h"
#include "pager/slots.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT      12u
#define ADDRESS_BITS    48u
#define TABLE_PAGES     (UINT64_C(1) << (ADDRESS_BITS - PAGE_SHIFT))
#define FRAMES_MAX      (UINT32_C(1) << 28) /* 1 TiB resident */
#define RANGES_MAX      65536u              /* that may be added */
#define RANGES_ROOM     (UINT32_C(1) << 20) /* for what holes make of them */
#define MESSAGES_MAX    16u
#define MAGAZINE_MAX    64u
#define LIMBO_PAGES     32u
#define PREFETCH_MAX    32u
#define HISTORIES       8u /* threads are told apart by their id, modulo this */
#define HISTORY_FAULTS  32u
#define STORES_MAX      (SESSION_STAGING_PAGES / 2)
#define LOADS_MAX       (SESSION_STAGING_PAGES / 2)
#define MASK_WORDS      16u                 /* of a set of processors: 1024 */
#define PAGER_IDLE_NS   INT64_C(1000000000) /* looks around this often although nothing happens */
#define DIRECTORY_LINKS 2u /* of a directory without any; /proc/self/task has one a thread more */
#define FAIL_WAIT_NS    INT64_C(5000000000)
#define STATUS_FAILURE  125
#define NO_FRAME        0u

/* Ends the process if one of our own promises is broken. */
#define PAGER_CHECK(promise)                                          \
	do {                                                          \
		if (!(promise))                                       \
			pager_broken(__FILE__ ": not so: " #promise); \
	} while (0)

enum page_state {
	PAGE_NONE = 0,
	PAGE_RESIDENT,
	PAGE_CLEAN,
	PAGE_FAR,
	PAGE_EVICTING, /* staged: its bytes are in the staging memory, on their way out */
};

/*
 * One page of managed memory: state in bits 0-2, slot in bits 4-33, and in bits 34-61 the frame
 * of a resident page, the time a far one was evicted, or its place in the batch that is under way.
 */
typedef uint64_t entry_t;

static inline entry_t entry_make(enum page_state state, uint32_t slot, uint32_t index)
{
	return (entry_t)state | (entry_t)(slot & (SLOT_PAGES_MAX - 1)) << 4 |
	       (entry_t)(index & (FRAMES_MAX - 1)) << 34;
}

static inline enum page_state entry_state(entry_t entry)
{
	return (enum page_state)(entry & 7);
}

static inline uint32_t entry_slot(entry_t entry)
{
	return (uint32_t)(entry >> 4) & (SLOT_PAGES_MAX - 1);
}

static inline uint32_t entry_index(entry_t entry)
{
	return (uint32_t)(entry >> 34) & (FRAMES_MAX - 1);
}

enum range_flag {
	RANGE_UNREADABLE = 1u << 0,
	RANGE_PINNED = 1u << 1,
};

struct range {
	uintptr_t start, end;
	uint32_t flags;
};

/* Where a resident page stands in its queue. */
enum queue_kind { QUEUE_FIRST = 0, QUEUE_SECOND, QUEUE_PINNED, QUEUES };

struct frame {
	uint32_t next, prev; /* NO_FRAME: none; of a free frame: next is the next free one */
	uint64_t page;       /* number; its queue in the top two bits */
};

struct queue {
	uint32_t head, tail, count; /* taken from the head */
};

/* Pages on their way out, of which the backend may still hold the only bytes. */
struct store {
	uint64_t page;
	const void *bytes;
	uint32_t slot;
	bool cancelled; /* came back, or was released: drop the slot when it is done */
};

struct stores {
	unsigned count;
	struct store item[STORES_MAX];
};

struct mapped_piece {
	unsigned char *slab; /* NULL: not mapped */
	uint32_t piece_epoch;
};

struct backend {
	/* Takes the bytes of all of `pager->stores`. 0: all are stored; 1: under way. */
	int (*store)(struct pager *pager);
	/* Finds the bytes of n slots; they stay valid until the next call. Ends the process else.
	 */
	void (*load)(struct pager *pager, const uint32_t *slot, unsigned n, const void **bytes,
		     uint64_t page);
	unsigned load_max; /* slots of one call that cost about as much as one */
};

extern const struct backend direct_backend, staged_backend;

/* What a program's thread asks of the pager thread. */
enum mail { MAIL_NONE = 0, MAIL_REGISTER, MAIL_FORK, MAIL_FORK_DONE, MAIL_FORK_FAILED, MAIL_STOP };

struct mailbox {
	enum mail kind;
	uintptr_t address;
	size_t len;
	int result;
	uint64_t token;
	_Atomic uint32_t done; /* errands; what the thread did for them happened before */
};

struct history {
	int64_t distance[HISTORY_FAULTS]; /* from each fault to the next, a ring */
	unsigned next, count;
	uint64_t last;     /* the last fault */
	uint64_t expected; /* the fault that shows that all that was brought was used */
	int64_t stride;
	unsigned window;  /* pages to bring beside the one asked for */
	unsigned brought; /* so many were, last */
};

struct placement {
	int lone_tid;                     /* the one thread of the program; 0: there are several */
	int last_tid;                     /* of the last fault */
	bool several;                     /* threads faulted since the last look */
	bool tied;                        /* lone_tid has but one processor, by its own wish */
	bool held;                        /* lone_tid is tied to our processor right now */
	uint32_t faults;                  /* since the last look */
	unsigned long own[MASK_WORDS];    /* the one processor that we are tied to */
	unsigned long all[MASK_WORDS];    /* where the pager thread began */
	unsigned long theirs[MASK_WORDS]; /* where lone_tid may run */
	size_t theirs_bytes;
};

struct pager {
	/* The lock: see pager.c. */
	_Atomic uint32_t lock;
	_Atomic uint32_t callers; /* program threads that wait for it */
	_Atomic uint32_t turns;   /* times that one of them had it */
	_Atomic uint32_t yields;  /* the pager thread waits for a turn to be over */
	_Atomic int window_tid;   /* whose faults are served in a window */
	bool forking;             /* the window is a fork's: nothing is evicted */
	struct mailbox mail;
	uintptr_t doorbell, bell; /* the program's threads', the watching thread's */
	_Atomic uint32_t started; /* the thread: 0 not yet, 1 ready, 2 failed, 3 ended */
	int start_error;

	struct pager_options options;
	char socket_path[108];
	uint64_t child_token;
	bool is_child;
	bool active;
	bool can_move;

	/* Memory of the tables. */
	entry_t *table;
	_Atomic uint64_t *populated; /* a bit for each page of the table that may hold anything */
	struct frame *frames;
	uint32_t frames_used, frames_free; /* high-water mark; list */
	struct queue queue[QUEUES];
	struct range *ranges;
	unsigned ranges_count;
	uint64_t evict_clock;
	unsigned char *limbo; /* pages that were moved out of the program's reach */
	unsigned limbo_used;  /* of which so many hold something */
	struct stores stores; /* the batch that is being put together or under way */
	bool store_under_way;
	unsigned store_failures;
	uint32_t magazine[MAGAZINE_MAX];
	unsigned magazine_count;

	/* The session. */
	struct session_memory *session;
	uint64_t session_len;
	_Atomic uint64_t *held;
	unsigned char *staging;
	struct slots slots;
	void *slots_memory;
	uint64_t slots_len;
	struct mapped_piece *pieces;
	const struct backend *backend;
	page_hash_fn *hash;
	uint32_t session_flags;
	bool slabs_stale; /* a nudge asked to look for closed pieces */
	bool no_space;    /* the supervisor had no more slots when last asked */

	/* thread */
	int fd_uffd, fd_socket, fd_statm, fd_pagemap, fd_task;
	_Atomic uint32_t thread_tid; /* 0 when it has ended */
	uintptr_t thread_handle;
	bool watch_tried;
	bool watching; /* another thread waits for the socket: reading the userfaultfd may wait */
	_Atomic uint32_t watch_tid, watch_ends;
	unsigned char *watch_stack;
	struct uffd_msg message[MESSAGES_MAX];
	unsigned messages;
	bool dropped_messages;
	uint64_t rss_before;
	struct history history[HISTORIES];
	struct placement placement;
	unsigned char *zeros;  /* one page of them */
	unsigned char *bounce; /* a copy of a page that the program's threads may be reading */
	unsigned char *stack;
	unsigned char *tls;
};

/* pager.c */
__attribute__((noreturn)) void pager_broken(const char *promise);
/* The pager thread's side of the lock. False: a window: the owner's faults only. */
bool pager_thread_lock(struct pager *pager);
void pager_thread_unlock(struct pager *pager);
/* Has the pager thread do something; the lock is held. */
int pager_mail(struct pager *pager, enum mail kind, uintptr_t address, size_t len);

/* The window ends before its holder goes on: the errand is done. */
void pager_window_close(struct pager *pager);

/* thread.c */
/* Starts the pager thread and waits until it is ready, or has failed. */
int thread_start(struct pager *pager);
/* Waits until it has ended. */
void thread_join(struct pager *pager);
/* How many threads of the process are the pager's. */
static inline unsigned thread_count(const struct pager *pager)
{
	return pager->watching ? 2 : 1;
}
/* True if the thread's descriptors are in the table of the whole process. */
bool thread_shares_descriptors(void);

/* watch.c */
/* Has another thread wait for the socket, if that pays and can be. */
void watch_start(struct pager *pager);
/* The bell was heard, and what it rang for is done. */
void watch_answer(struct pager *pager);
void watch_end(struct pager *pager);

/* ranges.c: sorted, disjoint, neighbours with equal flags are one. */
struct range *ranges_find(const struct pager *pager, uintptr_t address);
/* The first that ends beyond the address, or NULL. */
struct range *ranges_first(const struct pager *pager, uintptr_t address);
int ranges_add(struct pager *pager, uintptr_t start, uintptr_t end, uint32_t flags);
void ranges_remove(struct pager *pager, uintptr_t start, uintptr_t end);
/* -ENOSPC: it would take too many ranges. */
int ranges_set(struct pager *pager, uintptr_t start, uintptr_t end, uint32_t set, uint32_t clear);
bool ranges_have_room(const struct pager *pager);

/* table.c */
int page_table_map(struct pager *pager);
void page_table_unmap(struct pager *pager);
static inline entry_t page_table_get(const struct pager *pager, uint64_t page)
{
	return pager->table[page];
}
void page_table_set(struct pager *pager, uint64_t page, entry_t entry);
/* The first page from `page` on, below end, whose entry may not be NONE; end if there is none. */
uint64_t page_table_next(const struct pager *pager, uint64_t page, uint64_t end);
/* Gives memory of the table back; all entries of the pages are NONE. */
void page_table_trim(struct pager *pager, uint64_t page, uint64_t end);

/* queues.c */
/* NO_FRAME: there are no more. */
uint32_t queues_add(struct pager *pager, uint64_t page, enum queue_kind kind);
void queues_remove(struct pager *pager, uint32_t frame);
void queues_move(struct pager *pager, uint32_t frame, enum queue_kind kind);
void queues_rename(struct pager *pager, uint32_t frame, uint64_t page);
uint64_t queues_page(const struct pager *pager, uint32_t frame);
/* The frame to evict next, or NO_FRAME. */
uint32_t queues_victim(const struct pager *pager);
uint64_t queues_resident(const struct pager *pager);
/* Tells the supervisor how many pages are resident. */
void queues_publish(struct pager *pager);

/* activate.c */
int activate_register(struct pager *pager, uintptr_t start, uintptr_t end);
/* Whether a raw fork hands the ranges on. */
void activate_inherit(struct pager *pager, bool inherited);
void activate(struct pager *pager);
/* Activates if it is time; returns when to look again, in ns. */
int64_t activate_watch(struct pager *pager);

/* fault.c */
/* `window`: only tables and kernel are to be brought in line before the thread is woken. */
void fault_serve(struct pager *pager, const struct uffd_msg *message, bool window);
void fault_wake(struct pager *pager, uintptr_t address, size_t len);
/* The page is there by now: gives it its frame. */
void fault_settle(struct pager *pager, uint64_t page, enum page_state state, uint32_t slot,
		  enum queue_kind kind);
enum queue_kind fault_queue_of(const struct pager *pager, uint64_t page, entry_t entry);

/* prefetch.c */
/* Notes a fault; returns how many further pages are worth bringing, the first ones first. */
unsigned prefetch_plan(struct pager *pager, uint64_t page, int tid, uint64_t *pages);

/* evict.c */
uint64_t evict_limit(const struct pager *pager);
/* Makes room for n pages at once. */
void evict_for(struct pager *pager, uint64_t n);
/* One batch, if there are more pages than there should be. True: there are still. */
bool evict_background(struct pager *pager);
/* The backend has taken, or refused, the batch. */
void evict_stored(struct pager *pager, int status);
/* Waits until no batch is under way. */
void evict_settle(struct pager *pager);
/* Frees what was lifted: its bytes are stored, or on their way. */
void evict_empty_limbo(struct pager *pager);
/* The page and its slot are forgotten; its memory is somebody else's business. */
void evict_forget(struct pager *pager, uint64_t page);

/* talk.c */
int talk_begin(struct pager *pager);
void talk_end(struct pager *pager);
/* Sends a request, waits for its answer; *fd is a descriptor that came along, or -1. */
int talk_call(struct pager *pager, struct session_message *message, int *fd);
void talk_send(struct pager *pager, const struct session_message *message);
/* Handles one message that has come or will come; those of `awaited` are copied out: true. */
bool talk_receive(struct pager *pager, enum session_message_kind awaited,
		  struct session_message *answer, int *fd);
/* Handles all messages that have come, and waits for none. */
void talk_take_waiting(struct pager *pager);
struct session_message talk_message_of(enum session_message_kind kind);
__attribute__((noreturn)) void talk_fail(struct pager *pager, enum session_failure reason,
					 uint64_t page);
/* Sees to n slots in the magazine; returns how many there are. */
unsigned talk_magazine(struct pager *pager, unsigned n);
void talk_magazine_empty(struct pager *pager);
uint32_t talk_take_slot(struct pager *pager);
void talk_drop_slot(struct pager *pager, uint32_t slot);

/* direct.c */
void direct_unmap_stale(struct pager *pager);
void direct_unmap_all(struct pager *pager);

/* staged.c */
void staged_answer(struct pager *pager, const struct session_message *answer);

/* placement.c */
void placement_init(struct pager *pager);
void placement_note(struct pager *pager, int tid);
/* Around the moment in which a thread is woken. */
void placement_hold(struct pager *pager, int tid);
void placement_release(struct pager *pager);

/* fork.c: the pager thread's part */
int fork_begin(struct pager *pager);
void fork_failed(struct pager *pager);
/* In the child: what its memory needs before anybody touches it. */
int fork_adopt(struct pager *pager);

#define COUNT(pager, counter, n)                                                                  \
	atomic_store_explicit(                                                                    \
		&(pager)->session->counters.counter,                                              \
		atomic_load_explicit(&(pager)->session->counters.counter, memory_order_relaxed) + \
			(n),                                                                      \
		memory_order_relaxed)

static inline uint64_t page_of(uintptr_t address)
{
	return address >> PAGE_SHIFT;
}

static inline uintptr_t address_of(uint64_t page)
{
	return (uintptr_t)(page << PAGE_SHIFT);
}

#endif
