/*
 * log.h: what happened, one structured line an event
 *
 *     log_info(log, "slab_evicted", "slab=%u owner=%s free_bytes=%" PRIu64, slab, owner, free);
 *
 *     time=2026-01-31T12:00:00.123456Z level=info event=slab_evicted slab=7 owner="node 3" …
 *     {"time":"2026-01-31T12:00:00.123456Z","level":"info","event":"slab_evicted","slab":7,…}
 *
 *   The format is a list of key=value pairs, parted by single spaces; a value is text and printf
 *   conversions, and the compiler checks them against the arguments. Fields are cut apart in the
 *   format, before any argument is seen: whatever a string argument holds, it stays inside its
 *   field, quoted and escaped. A hostile name cannot forge a line or a key.
 *
 *   A value that is one integer conversion is a number in JSON, all else a string. Known are the
 *   conversions d i u x X c s p g f with flags, width and precision ('*' too) and the lengths
 *   hh h l ll z j t; others are refused in the line itself (value "?").
 *
 *   One line is one write(2), at most LOG_LINE_BYTES long; a longer one loses its last fields and
 *   ends with truncated=1. A line that the descriptor will not take is lost and counted.
 *
 *   A NULL log is silent: a component logs without asking whether anybody listens. Lines may come
 *   from any thread. Nothing is allocated after log_open().
 */
#ifndef AFAR_BASE_LOG_H
#define AFAR_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#define LOG_LINE_BYTES 2048u

struct env;
struct log;

enum log_level {
	LOG_LEVEL_ERROR = 0, /* a promise is broken or about to be: somebody should look now */
	LOG_LEVEL_WARN = 1,  /* it went on, but not as it should */
	LOG_LEVEL_INFO = 2,  /* what an operator wants to read afterwards */
	LOG_LEVEL_DEBUG = 3, /* what a developer wants to read afterwards */
};

enum log_format {
	LOG_FORMAT_TEXT = 0, /* logfmt */
	LOG_FORMAT_JSON = 1, /* one object a line */
};

struct log_options {
	int fd; /* stays the caller's; is not closed */
	enum log_level level;
	enum log_format format;
	struct env *env; /* NULL: wall-clock time; else seconds of this env's clock */
};

/* -EINVAL: a level or format that is none. -ENOMEM. */
int log_open(struct log **log, const struct log_options *options);

/* NULL is fine. Nobody may be writing a line. */
void log_close(struct log *log);

/* Whether a line of this level would be written: for callers whose arguments are dear. */
bool log_wants(const struct log *log, enum log_level level);

/* Lines lost because the descriptor did not take them. */
uint64_t log_lost(const struct log *log);

/* "error", "warn", "info", "debug" to a level. -EINVAL: none of these. */
int log_level_parse(const char *text, enum log_level *level);

void log_write(struct log *log, enum log_level level, const char *event, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * The arguments are evaluated only if the line is wanted. The format is a literal, or left out:
 * log_info(log, "started").
 */
#define LOG_AT(log, level, event, ...)                                       \
	do {                                                                 \
		if (log_wants((log), (level)))                               \
			log_write((log), (level), (event), " " __VA_ARGS__); \
	} while (0)

#define log_error(log, event, ...) LOG_AT(log, LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(log, event, ...)  LOG_AT(log, LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_info(log, event, ...)  LOG_AT(log, LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(log, event, ...) LOG_AT(log, LOG_LEVEL_DEBUG, event, __VA_ARGS__)

/*
 * At most one line a period from places that remote input can make loop. Lives in the component's
 * own structure, zero at first:
 *
 *     if (log_limit_pass(&peer->bad_frames, env_now_ns(env), NS_PER_S))
 *             log_warn(log, "bad_frame", "held_back=%" PRIu64, log_limit_held(&peer->bad_frames));
 */
struct log_limit {
	int64_t next_ns;
	uint64_t held_back; /* lines that did not pass since the last that did */
	uint64_t reported;
};

/* True if the caller may log now. Used by one thread at a time. */
bool log_limit_pass(struct log_limit *limit, int64_t now_ns, int64_t period_ns);

/* How many lines were held back before the one that just passed. */
uint64_t log_limit_held(const struct log_limit *limit);

#endif
