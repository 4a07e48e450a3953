/*
 * sim.h: the pool under faults, from a seed
 *
 * What lives here
 *
 *   `sim pool` runs the real node, cluster and pool code on the machines of a simulated world
 *   (base/world.h, fabric/sim.h), breaks what can break, and holds what comes back against the
 *   promises of the pool. A seed is a whole story: how many machines, which kind of network, which
 *   faults and when. The same seed tells the same story again, so a seed that failed is a test.
 *
 *     plan.c     what a seed decides before anything runs
 *     donor.c    a machine that runs a memory node
 *     owner.c    a machine that runs a pool, and the work it does on its volumes
 *     observer.c the maps of volumes, as the store has them
 *     oracle.c   what each page may hold, and what not
 *     fault.c    what goes wrong, and when
 *     run.c      one seed from its beginning to its verdict
 *     main.c     the command: seeds in child processes, results
 *
 * The life of one run
 *
 *     plan ─► donors and owners boot ─► work beside faults ─► everything heals, all work ends
 *          ─► every page is read back ─► (one more donor dies, all is read back again)
 *          ─► volumes are deleted ─► no donor holds a slab ─► all is closed, nothing is left
 *
 * The promises that are checked
 *
 *   1  An acknowledged write is there afterwards, also for the next owner of the volume.
 *   2  While one copy is left, reads succeed; lost copies are made again in time (if they were
 *      not, the next fault of a careful run would lose data that must not be lost).
 *   3  No read returns an older state of a page than one that was acknowledged or read before.
 *   4  Bytes are those of a write of this very page, or zeros where nothing was written; else the
 *      read fails. Each operation ends.
 *   5  Deleted volumes give all memory back.
 *
 *   When is an error allowed? A *careful* run breaks one node at a time and gives the pool time
 *   to recover: volumes with replicas then never lose a page. Where more than a volume's
 *   protection was lost at a time, it is *risky*: its reads may fail, but never lie.
 *
 * Who owns memory, and which thread
 *
 *   A run owns its machines; each machine's objects are freed when it crashes or ends. One
 *   thread; main.c runs seeds in processes of their own, so that an assertion is a verdict too.
 */
#ifndef AFAR_SIM_SIM_H
#define AFAR_SIM_SIM_H

#include "base/world.h"
#include "fabric/sim.h"
#include "sim/oracle.h"

#include <stdbool.h>
#include <stdint.h>

#define SIM_DONORS_MAX  256u
#define SIM_OWNERS_MAX  4u
#define SIM_VOLUMES_MAX 512u
#define SIM_OPS_MAX     48u /* outstanding of one owner */
#define SIM_FAULTS_MAX  64u

/* No operation takes longer while its owner runs; every wait of the pool is far shorter. */
#define SIM_HANG_NS (INT64_C(90) * 1000 * 1000 * 1000)

enum sim_fault_kind {
	FAULT_DONOR_CRASH,
	FAULT_DONOR_PAUSE,
	FAULT_DONOR_SLOW,
	FAULT_CUT,         /* between a donor and an owner, one way or both */
	FAULT_EVICT,       /* a donor's machine runs short of memory */
	FAULT_SHRINK,      /* a donor's capacity is lowered */
	FAULT_NO_MEMORY,   /* a donor cannot make slabs */
	FAULT_ROT,         /* bytes change in the memory of one donor */
	FAULT_OWNER_CRASH, /* then takeover, by itself or by another owner */
	FAULT_OWNER_PAUSE, /* a long one is taken for death, and its volumes are taken over */
	FAULT_OWNER_CUT,   /* an owner is cut off from every donor */
	FAULT_OWNER_ALONE, /* cut off from the donors, then for longer from the store */
	FAULT_STORE_FAILS, /* an owner cannot reach the configuration store */
	FAULT_HAND_OVER,   /* an owner closes a volume, and another one takes it */
	FAULT_DELETE,      /* a volume is deleted, and a new one made */
	FAULT_KINDS,
};

/* What a seed decides. */
struct sim_plan {
	struct sim_net_options net;
	bool store; /* dir: cluster; else a list of nodes */
	bool careful;
	uint32_t donors, owners, volumes;
	uint32_t slab_pages, slabs_each;
	uint32_t volume_pages_max;
	uint32_t faults; /* bits of enum sim_fault_kind */
	uint32_t fault_count;
	bool scarce; /* memory may run out */
	int64_t silence_ns, orphan_ns, member_lease_ns;
	int64_t run_ns, work_gap_ns;
	uint64_t rebuild_bytes_per_s; /* 0: the pool's default */
};

struct sim_options {
	uint64_t seed;
	uint64_t pool_mutations, node_mutations;
	bool verbose;
};

struct sim_run;
struct fabric;
struct cluster;
struct node;
struct pool;
struct volume;
struct log;

struct sim_slab {
	void *memory;
	int memfd;
};

struct sim_donor {
	struct sim_run *run;
	uint32_t index, machine;
	bool up;
	struct log *log;
	struct fabric *fabric;
	struct cluster *cluster;
	struct node *node;
	struct sim_slab *slabs;
	uint32_t slab_count, slab_room;
	uint64_t other_bytes;        /* of the machine's memory, in other use */
	uint32_t refuse_per_million; /* of requests for memory */
	int64_t cluster_due_ns;
};

/* A volume as the world outside knows it, over all of its owners. */
struct sim_volume {
	uint32_t index;
	char name[32];
	uint32_t replicas;
	uint32_t pages;
	struct oracle_page *page;
	uint32_t owner;       /* who has it or shall have it */
	uint32_t incarnation; /* counts openings */
	uint32_t holder;      /* the incarnation that was READY last: older ones are stale */
	bool made;            /* it was READY once: it must be there */
	bool gone;            /* deleted, or died with its owner */
	bool delete_asked, close_asked;
	bool risky;
	bool prefer_takeover; /* not made yet: which way to try next */
};

/* An owner's handle of a volume. */
struct sim_handle {
	struct sim_volume *what;
	struct volume *volume; /* NULL: the handle is free */
	uint32_t incarnation;
	bool is_new; /* not a takeover */
	bool ready, failed;
	bool risky;         /* its owner is alone: this owner's operations may fail */
	uint32_t next_read; /* when all is read back: the next page */
};

struct sim_op {
	bool busy;
	bool is_write;
	struct sim_handle *handle;
	uint64_t page;
	uint32_t low, high; /* a read's bounds; a write's version is `high` */
	uint32_t serial;
	int64_t deadline_ns;
	unsigned char *buf;
};

struct sim_owner {
	struct sim_run *run;
	uint32_t index, machine;
	bool up;
	struct log *log;
	struct fabric *fabric;
	struct cluster *cluster;
	struct pool *pool;
	struct sim_handle handle[SIM_VOLUMES_MAX];
	uint32_t handles; /* places in use or used once */
	struct sim_op op[SIM_OPS_MAX];
	unsigned char *buffers;
	uint32_t busy, next_serial;
	int64_t work_due_ns, open_due_ns; /* by the machine's clock */
	bool deposed;                     /* a volume of it became another one's while it lived */
	bool asked;                       /* something is asked of one of its volumes */
};

enum sim_phase { PHASE_WORK, PHASE_SETTLE, PHASE_READ_BACK, PHASE_DELETE };

struct sim_counts {
	uint64_t reads, writes, discards, lost, torn, takeovers, faults, late_writes, into_old;
	uint64_t evictions, rebuilt, virtual_ns, events;
};

struct sim_run {
	struct sim_options options;
	struct sim_plan plan;
	struct world *world;
	struct sim_net *net;
	struct sim_donor donor[SIM_DONORS_MAX];
	struct sim_owner owner[SIM_OWNERS_MAX];
	struct sim_volume volume[SIM_VOLUMES_MAX];
	uint32_t volumes;
	enum sim_phase phase;
	char uri[8192];

	struct sim_observer *observer; /* NULL: there is no store to look at */

	/* faults */
	struct sim_fault *faults;
	uint32_t node_faults;          /* that are not over */
	int64_t node_settled_ns;       /* after the last of them, with time to recover */
	bool node_faulted, overlapped; /* there was one; there were several at a time */

	struct sim_counts counts;
	bool violated;
	char what[256];
};

void sim_plan_make(struct world *world, struct sim_plan *plan);

/* Notes the first broken promise; the run ends soon after. */
void sim_violation(struct sim_run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* One line of the story, with -v. */
void sim_tell(const struct sim_run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* A log for a machine's components with -v, else NULL. */
struct log *sim_log(struct sim_run *run, uint32_t machine);

/* donor.c */
void donor_init(struct sim_run *run, uint32_t index);
void donor_boot(struct sim_donor *donor);
void donor_end(struct sim_donor *donor);
void donor_set_pressure(struct sim_donor *donor, uint32_t short_slabs);
void donor_rot(struct sim_donor *donor);
uint64_t donor_used_bytes(const struct sim_donor *donor);

/* owner.c */
void owner_init(struct sim_run *run, uint32_t index);
void owner_boot(struct sim_owner *owner);
void owner_end(struct sim_owner *owner);
void owner_wake(struct sim_owner *owner);
/* Gives all operations so much more time. */
void owner_excuse(struct sim_owner *owner, int64_t ns);
/* The handle by which an owner holds a volume, or NULL. */
struct sim_handle *owner_handle(struct sim_owner *owner, const struct sim_volume *what);
/* A new volume for an owner. */
void volume_add(struct sim_run *run, uint32_t owner);

/* observer.c */
void observer_open(struct sim_run *run);
void observer_look(struct sim_run *run);
void observer_close(struct sim_run *run);

/* fault.c */
void faults_plan(struct sim_run *run);
/* Ends every fault: all machines run, all links carry. */
void faults_heal(struct sim_run *run);
void faults_free(struct sim_run *run);

/* run.c: runs one seed. */
struct sim_verdict {
	bool violated;
	char what[256];
	uint64_t hash;
	struct sim_counts counts;
};
void sim_run(const struct sim_options *options, struct sim_verdict *verdict);

#endif
