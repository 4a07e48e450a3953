/*
 * size.h: sizes and durations as people type and read them
 *
 *   Sizes are powers of 1024: "4G", "64M", "1.5G", "512K", "4096", "4GiB", "2T", "64MB", in either
 *   case. Durations need a unit: "10ms", "2s", "1.5s", "250us", "100ns", "5m", "1h". Digits,
 *   at most one point, a unit, nothing else: no sign, no space. A fraction is cut down to whole
 *   bytes or nanoseconds; a fraction of a single byte or nanosecond is refused.
 */
#ifndef AFAR_BASE_SIZE_H
#define AFAR_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

#define SIZE_TEXT_BYTES 32u /* enough for any text that the printers make, with NUL */

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

/*
 * -EINVAL: not a size. -ERANGE: 2^64 bytes or more. *bytes is then unchanged, and *reason, if
 * not NULL, points to static text that says why.
 */
int size_parse(const char *text, uint64_t *bytes, const char **reason);

/* As size_parse, in nanoseconds; -ERANGE from 2^63 up. */
int duration_parse(const char *text, int64_t *ns, const char **reason);

/* Three significant digits or an exact number: "4G", "1.5G", "512K", "17". Returns buf. */
char *size_print(char buf[SIZE_TEXT_BYTES], uint64_t bytes);

/* "10ms", "2s", "1.53us", "17ns", "-3s". Returns buf. */
char *duration_print(char buf[SIZE_TEXT_BYTES], int64_t ns);

#endif
