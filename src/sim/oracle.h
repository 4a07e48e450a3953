/*
 * oracle.h: what a page may hold
 *
 *   Every write of a page and every discard gets the page's next *version*; a page that was never
 *   written has version 0, zeros. Operations on a page take effect in the order of their
 *   submission (pool.h, P2), which is the order of versions. So one number says what is known to
 *   have happened: the *floor*, the highest version that was acknowledged or read. Above it are
 *   the versions whose fate is open: in flight, or failed.
 *
 *       versions   0 … floor  floor+1 … next
 *                  past        open
 *
 *   A read must return a version from what was the floor when it began (or a higher one that was
 *   acknowledged in the meantime, if it was submitted before the read) up to `next` when it began.
 *
 *   Discards are not acknowledged, and die with their owner: within one incarnation of the volume
 *   a discard is a floor too, for the next owner it is open.
 *
 *   The bytes of a version are made of volume, page and version, each cache line for itself, so
 *   that a page of several writes can be told from any single one.
 */
#ifndef AFAR_SIM_ORACLE_H
#define AFAR_SIM_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#define ORACLE_OPEN_MAX 40u /* versions above the floor */

struct oracle_page {
	uint32_t floor, next;
	uint32_t discard;    /* the last discard that is certain for its incarnation */
	uint32_t discard_by; /* the incarnation */
	bool shaky;          /* a takeover found open versions: copies may differ, it may be lost */
	uint32_t shaky_below; /* until a version above this is acknowledged */
	uint64_t zeros;       /* bit v % 64: version v is a discard; of the last 64 */
};

/* Whether another version may be submitted. */
bool oracle_has_room(const struct oracle_page *page);

/* A write or discard is submitted: its version. */
uint32_t oracle_write(struct oracle_page *page);
uint32_t oracle_discard(struct oracle_page *page, uint32_t incarnation);
/* The write was acknowledged. */
void oracle_acknowledge(struct oracle_page *page, uint32_t version);
/* The volume is opened by another owner, or by the same one after its death. */
void oracle_take_over(struct oracle_page *page);

/* The lowest version that a read may return which this incarnation submits now. */
uint32_t oracle_low(const struct oracle_page *page, uint32_t incarnation);

/* The bytes of a version. */
void oracle_fill(uint32_t volume, uint64_t page, uint32_t version, unsigned char *bytes);

enum oracle_verdict {
	ORACLE_GOOD,
	ORACLE_TORN,    /* every cache line is of an allowed version, but not of one */
	ORACLE_OLD,     /* an older version */
	ORACLE_ZERO,    /* zeros, where something was written */
	ORACLE_FOREIGN, /* nothing that was ever written here */
};

/*
 * Judges what a read returned whose bounds were [low, high]. A good version becomes the floor. What
 * a paused owner began long ago, 64 versions back, cannot be judged any more: it is good.
 */
enum oracle_verdict oracle_judge(struct oracle_page *state, uint32_t volume, uint64_t page,
				 const uint32_t bounds[2], const unsigned char *bytes);

#endif
