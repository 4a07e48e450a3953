/*
 * memory.h: what the machine says of its memory
 */
#ifndef AFAR_NODE_MEMORY_H
#define AFAR_NODE_MEMORY_H

#include <stdint.h>

/*
 * What a text in the form of /proc/meminfo calls MemAvailable, in bytes; UINT64_MAX if it does
 * not. Not MemFree: the page cache gives way to slabs, and a machine at work has no free memory.
 */
uint64_t node_memory_parse_available(const char *meminfo);

#endif
