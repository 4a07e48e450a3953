/*
 * page_hash.h: the checksum of a page
 *
 *   A 32-bit hash of 4096 bytes and a 64-bit salt, in which the caller puts where and when the
 *   page was written (volume, page, epoch): a stale page, a page of somebody else, a zeroed page
 *   do not validate. It guards against mistakes of machines, not against forgers.
 *
 *   Promised: any change within one aligned 32-bit word, so every single-bit flip, changes the
 *   hash. Any other change that nobody contrived (two words swapped, bytes of another page,
 *   another salt) is missed with probability 2^-32.
 *
 *   A library of its own, for it is also linked into a preloaded library: it calls no function of
 *   libc, keeps no state and never faults but on the page itself. Any thread, any signal handler.
 *
 *   The value is part of what is stored: it is the same on every machine and in every version.
 */
#ifndef AFAR_BASE_PAGE_HASH_H
#define AFAR_BASE_PAGE_HASH_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_HASH_BYTES 4096u

typedef uint32_t page_hash_fn(const void *page, uint64_t salt);

/* The hash, in code that every machine can run. Any alignment. */
uint32_t page_hash(const void *page, uint64_t salt);

/* The fastest implementation for this processor; ask once, keep the pointer. Same values. */
page_hash_fn *page_hash_choose(void);

/* True if all 4096 bytes are 0. Any alignment; ends early at the first that is not. */
bool page_is_zero(const void *page);

#endif
