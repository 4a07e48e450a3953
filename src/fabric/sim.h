/*
 * sim.h: the simulated network: what a test may do to it
 *
 *   Behind fabric.h lies a network of the simulated world (base/world.h). Its addresses are
 *   sim://N with any number N; a fabric says which machine it runs on. What can go wrong between
 *   machines goes wrong here, from the world's seed:
 *
 *     messages      of one connection come in order, late, or not before a cut has healed
 *     operations    overtake each other and messages; they take effect at one moment or, torn, at
 *                   two, cache line by cache line
 *     silence       a connection over a cut, or to a paused machine, dies after silence_ns
 *     crashes       of a machine: the other ends hear of it soon, or only by silence; what was on
 *                   its way arrives, arrives in part, or does not
 *     late writes   what was submitted may land after its sender heard FABRIC_DOWN, after the
 *                   owner withdrew the key, after a takeover
 *
 *   How late a write may land depends on what the network resembles:
 *
 *     SIM_LIKE_TCP    the owner's program executes each access: it must run, and the connection
 *                     must still stand at its end; key, epoch and bounds are checked on arrival.
 *     SIM_LIKE_VERBS  the same checks by the owner's network card: the program may be paused.
 *     SIM_LIKE_SHM    a mapping: an access needs nothing of its owner, not even its life; it is
 *                     done when the sender's program runs. fabric_withdraw() says -EBUSY, and late
 *                     writes land in the old memory, of which the net has a mapping of its own.
 *                     Cuts do not stop accesses.
 */
#ifndef AFAR_FABRIC_SIM_H
#define AFAR_FABRIC_SIM_H

#include <stdbool.h>
#include <stdint.h>

struct sim_net;
struct world;

enum sim_kind { SIM_LIKE_TCP, SIM_LIKE_VERBS, SIM_LIKE_SHM };

struct sim_net_options {
	enum sim_kind kind;
	int64_t delay_ns_min, delay_ns_max; /* one way; both 0: 2 and 30 µs */
	int64_t resend_ns_max;              /* until what was lost is sent again; 0: 200 ms */
	uint32_t loss_per_million;          /* of packets; they come after a resend */
	uint32_t break_per_million;         /* of packets: the connection is reset instead */
	uint32_t torn_per_million;          /* of reads and writes: done in two steps */
};

/* The world must outlive the net, and the net every fabric on it. -EINVAL; -ENOMEM. */
int sim_net_open(struct world *world, const struct sim_net_options *options, struct sim_net **net);
void sim_net_close(struct sim_net *net);

/* Loses (cut) or carries again everything from one machine to another: the way back is another. */
void sim_net_cut(struct sim_net *net, uint32_t from, uint32_t to, bool cut);
/* Everything to and from the machine takes up to delay_ns longer. */
void sim_net_slow(struct sim_net *net, uint32_t machine, int64_t delay_ns);
/*
 * The machine's fabrics are gone without a word; to be called in world_program.crashed before the
 * objects above them are freed, which then cannot reach anybody any more.
 */
void sim_net_crash(struct sim_net *net, uint32_t machine);

/* What happened so far: a test that needs late writes can see that there were some. */
struct sim_net_stats {
	uint64_t messages, operations;
	uint64_t resent, broken, torn, torn_by_crash;
	uint64_t late;     /* took effect after the sender had heard FABRIC_DOWN */
	uint64_t into_old; /* SIM_LIKE_SHM: landed in withdrawn memory */
	uint64_t fenced;   /* refused: withdrawn, or another epoch */
	uint64_t silence_downs;
};
void sim_net_stats(const struct sim_net *net, struct sim_net_stats *stats);

#endif
