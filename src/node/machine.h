/*
 * machine.h: how much memory the machine has left
 *
 *   Three sources, and the least of them counts:
 *
 *     /proc/meminfo           MemAvailable: what could be had without swapping
 *     the control group       what its limit, and the limits of those above it, leave
 *     /proc/pressure/memory   the share of the last ten seconds in which everybody waited for
 *                             memory is taken off: whoever waits has less than the number says
 *
 *   A machine without one of them is judged by the others.
 */
#ifndef AFAR_NODE_MACHINE_H
#define AFAR_NODE_MACHINE_H

#include <stdint.h>

struct env;

/* Bytes that can be had now; UINT64_MAX: nothing tells. Reads a few small files: some ten µs each.
 */
uint64_t machine_available_bytes(struct env *env);

/*
 * What a text in the form of /proc/meminfo calls MemAvailable, in bytes; UINT64_MAX if it does
 * not. Not MemFree: the page cache gives way to slabs, and a machine at work has no free memory.
 */
uint64_t machine_parse_available(const char *meminfo);

/*
 * What a control group leaves: by the texts of its memory.max, memory.current and memory.stat,
 * the inactive page cache counted as left. UINT64_MAX: no limit.
 */
uint64_t machine_parse_group(const char *max, const char *current, const char *stat);

/* "full avg10" of a text in the form of /proc/pressure/memory, in hundredths of a percent. */
uint32_t machine_parse_pressure(const char *pressure);

#endif
