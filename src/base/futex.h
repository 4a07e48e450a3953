/*
 * futex.h: sleeping on a word of memory, within a process or between processes
 */
#ifndef AFAR_BASE_FUTEX_H
#define AFAR_BASE_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Sleeps while *word == expected, until futex_wake() or deadline_ns, a time of CLOCK_MONOTONIC
 * (INT64_MAX: no deadline). The word may lie in memory shared between processes.
 *
 * -EAGAIN: woken, or the word had another value: look again. -ETIMEDOUT. -EINTR: a signal
 * handler ran.
 */
int futex_wait_until(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);

/* Wakes all who sleep on the word. */
void futex_wake(_Atomic uint32_t *word);

#endif
