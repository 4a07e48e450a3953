/*
 * log.c: from a checked format and its arguments to one line
 *
 *   The format is walked once. A key is copied up to '='; its value is made conversion by
 *   conversion, each with its own snprintf, into a buffer of its own; then the value is quoted if
 *   it must be. A field goes into the line whole or not at all.
 */
#include "base/log.h"

#include "base/base.h"
#include "base/env.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VALUE_BYTES  1024u
#define SPEC_BYTES   48u
#define ENDING_BYTES 24u /* room kept for the mark of a truncated line and its end */
#define WRITE_TRIES  100

struct log {
	struct log_options options;
	_Atomic uint64_t lost;
};

int log_open(struct log **log, const struct log_options *options)
{
	struct log *opened;

	if (options->level < LOG_LEVEL_ERROR || options->level > LOG_LEVEL_DEBUG ||
	    options->format < LOG_FORMAT_TEXT || options->format > LOG_FORMAT_JSON)
		return -EINVAL;
	opened = calloc(1, sizeof(*opened));
	if (!opened)
		return -ENOMEM;
	opened->options = *options;
	*log = opened;
	return 0;
}

void log_close(struct log *log)
{
	free(log);
}

bool log_wants(const struct log *log, enum log_level level)
{
	return log && level <= log->options.level;
}

uint64_t log_lost(const struct log *log)
{
	return log ? atomic_load_explicit(&log->lost, memory_order_relaxed) : 0;
}

static const char *const level_names[] = {"error", "warn", "info", "debug"};

int log_level_parse(const char *text, enum log_level *level)
{
	for (unsigned i = 0; i < ARRAY_COUNT(level_names); i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* ---- a line ---- */

struct line {
	bool json;
	bool truncated;
	bool cut; /* the field at hand does not fit */
	size_t len;
	char text[LOG_LINE_BYTES];
};

static void put_bytes(struct line *line, const char *bytes, size_t len)
{
	if (line->cut || len > sizeof(line->text) - ENDING_BYTES - line->len) {
		line->cut = true;
		return;
	}
	memcpy(line->text + line->len, bytes, len);
	line->len += len;
}

static void put_text(struct line *line, const char *text)
{
	put_bytes(line, text, strlen(text));
}

/* How many bytes of well-formed UTF-8, of a character that may be shown, are at `text`; 0: none. */
static size_t shown_bytes(const unsigned char *text)
{
	size_t len = text[0] < 0x80 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;

	if (text[0] < 0x20 || text[0] == 0x7f || (text[0] >= 0x80 && text[0] < 0xc2) ||
	    text[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Control characters of 8 bits, overlong forms, surrogates, and what lies past the last. */
	if ((text[0] == 0xc2 && text[1] < 0xa0) || (text[0] == 0xe0 && text[1] < 0xa0) ||
	    (text[0] == 0xed && text[1] > 0x9f) || (text[0] == 0xf0 && text[1] < 0x90) ||
	    (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return len;
}

static void put_quoted(struct line *line, const char *value)
{
	const unsigned char *at = (const unsigned char *)value;

	put_text(line, "\"");
	while (*at) {
		size_t len = shown_bytes(at);
		char escape[8];

		if (*at == '"' || *at == '\\') {
			put_text(line, "\\");
			put_bytes(line, (const char *)at, 1);
		} else if (len > 0) {
			put_bytes(line, (const char *)at, len);
		} else {
			unsigned code = *at < 0x80 ? *at : 0xfffd;

			(void)snprintf(escape, sizeof(escape), "\\u%04x", code);
			put_text(line, escape);
		}
		at += len > 0 ? len : 1;
	}
	put_text(line, "\"");
}

/* True if logfmt can hold the value as it is. */
static bool is_plain(const char *value)
{
	if (!*value)
		return false;
	for (; *value; value++) {
		if (*value <= ' ' || *value == 0x7f || *value == '"' || *value == '\\' ||
		    *value == '=')
			return false;
	}
	return true;
}

static void put_field(struct line *line, const char *key, size_t key_len, const char *value,
		      bool is_number)
{
	size_t before = line->len;

	if (line->truncated)
		return;
	put_text(line, before == 0 ? (line->json ? "{" : "") : (line->json ? "," : " "));
	put_text(line, line->json ? "\"" : "");
	put_bytes(line, key, key_len);
	put_text(line, line->json ? "\":" : "=");
	if (is_number || (!line->json && is_plain(value)))
		put_text(line, value);
	else
		put_quoted(line, value);
	if (line->cut) {
		line->len = before;
		line->truncated = true;
	}
}

static void end_line(struct line *line)
{
	const char *ending = line->json ? (line->truncated ? ",\"truncated\":1}\n" : "}\n")
					: (line->truncated ? " truncated=1\n" : "\n");

	memcpy(line->text + line->len, ending, strlen(ending));
	line->len += strlen(ending);
}

/* ---- conversions ---- */

/* The rest of a format, and the arguments for it. */
struct fields {
	const char *format;
	va_list args;
};

struct spec {
	char text[SPEC_BYTES]; /* as for printf: "%-8.3lu" */
	size_t len;
	char length[3]; /* "", "hh", "h", "l", "ll", "z", "j", "t" */
	char conversion;
	bool is_bare; /* no flags, width or precision */
};

static void spec_put(struct spec *spec, char c)
{
	if (spec->len < sizeof(spec->text) - 1)
		spec->text[spec->len++] = c;
	spec->text[spec->len] = '\0';
}

/* Reads one conversion, from its '%'; a '*' takes its argument and becomes digits. */
static void spec_read(struct spec *spec, struct fields *fields)
{
	*spec = (struct spec){.is_bare = true};
	spec_put(spec, *fields->format++);
	for (; *fields->format && strchr("-+ #0123456789.*", *fields->format); fields->format++) {
		spec->is_bare = false;
		if (*fields->format == '*') {
			char digits[16];

			(void)snprintf(digits, sizeof(digits), "%d", va_arg(fields->args, int));
			for (const char *digit = digits; *digit; digit++)
				spec_put(spec, *digit);
		} else {
			spec_put(spec, *fields->format);
		}
	}
	for (size_t i = 0; *fields->format && strchr("hlzjt", *fields->format); fields->format++) {
		if (i < sizeof(spec->length) - 1)
			spec->length[i++] = *fields->format;
	}
	spec->conversion = *fields->format;
	if (*fields->format)
		fields->format++;
}

static intmax_t signed_argument(const struct spec *spec, struct fields *fields)
{
	if (strcmp(spec->length, "l") == 0)
		return va_arg(fields->args, long);
	if (strcmp(spec->length, "ll") == 0)
		return va_arg(fields->args, long long);
	if (strcmp(spec->length, "z") == 0)
		return va_arg(fields->args, ssize_t);
	if (strcmp(spec->length, "j") == 0)
		return va_arg(fields->args, intmax_t);
	if (strcmp(spec->length, "t") == 0)
		return va_arg(fields->args, ptrdiff_t);
	if (strcmp(spec->length, "h") == 0)
		return (short)va_arg(fields->args, int);
	if (strcmp(spec->length, "hh") == 0)
		return (signed char)va_arg(fields->args, int);
	return va_arg(fields->args, int);
}

static uintmax_t unsigned_argument(const struct spec *spec, struct fields *fields)
{
	if (strcmp(spec->length, "l") == 0)
		return va_arg(fields->args, unsigned long);
	if (strcmp(spec->length, "ll") == 0)
		return va_arg(fields->args, unsigned long long);
	if (strcmp(spec->length, "z") == 0)
		return va_arg(fields->args, size_t);
	if (strcmp(spec->length, "j") == 0)
		return va_arg(fields->args, uintmax_t);
	if (strcmp(spec->length, "t") == 0)
		return (uintmax_t)va_arg(fields->args, ptrdiff_t);
	if (strcmp(spec->length, "h") == 0)
		return (unsigned short)va_arg(fields->args, unsigned);
	if (strcmp(spec->length, "hh") == 0)
		return (unsigned char)va_arg(fields->args, unsigned);
	return va_arg(fields->args, unsigned);
}

/*
 * Prints one conversion as snprintf does. Its text comes from the caller's format, which the
 * compiler has checked; integers are widened to intmax_t first, so that one case serves all.
 */
static int convert(struct spec *spec, struct fields *fields, char *buf, size_t size_bytes)
{
	const char *text;

	if (strchr("diuxX", spec->conversion)) {
		spec_put(spec, 'j');
		spec_put(spec, spec->conversion);
		if (strchr("di", spec->conversion))
			return snprintf(buf, size_bytes, spec->text, signed_argument(spec, fields));
		return snprintf(buf, size_bytes, spec->text, unsigned_argument(spec, fields));
	}
	spec_put(spec, spec->conversion);
	switch (spec->conversion) {
	case 'c':
		return snprintf(buf, size_bytes, spec->text, va_arg(fields->args, int));
	case 's':
		text = va_arg(fields->args, const char *);
		return snprintf(buf, size_bytes, spec->text, text ? text : "(null)");
	case 'p':
		return snprintf(buf, size_bytes, spec->text, va_arg(fields->args, void *));
	case 'f':
	case 'g':
		return snprintf(buf, size_bytes, spec->text, va_arg(fields->args, double));
	default:
		return -1;
	}
}

/*
 * Makes the value that the format describes up to the next space. Sets *is_number if it is one
 * plain integer. false: the format holds a conversion that is not known; the rest is lost, since
 * the place of its arguments is.
 */
static bool read_value(struct fields *fields, char value[VALUE_BYTES], bool *is_number)
{
	size_t len = 0;
	bool alone = true;

	*is_number = false;
	while (*fields->format && *fields->format != ' ') {
		size_t room = VALUE_BYTES - 1 - len;
		struct spec spec;
		int printed;

		if (fields->format[0] == '%' && fields->format[1] != '%') {
			spec_read(&spec, fields);
			printed = convert(&spec, fields, value + len, room + 1);
			if (printed < 0)
				return false;
			*is_number = alone && spec.is_bare && strchr("diu", spec.conversion);
			len += min_size((size_t)printed, room);
		} else {
			fields->format += *fields->format == '%';
			if (room > 0)
				value[len++] = *fields->format;
			fields->format++;
			*is_number = false;
		}
		alone = false;
	}
	value[len] = '\0';
	return true;
}

static void put_fields(struct line *line, struct fields *fields)
{
	bool understood = true;

	while (understood) {
		char value[VALUE_BYTES];
		bool is_number = false;
		const char *key;
		size_t key_len;

		while (*fields->format == ' ')
			fields->format++;
		if (!*fields->format)
			return;
		key = fields->format;
		key_len = strcspn(key, "= ");
		fields->format += key_len;
		fields->format += *fields->format == '=';
		understood = read_value(fields, value, &is_number);
		put_field(line, key, key_len, understood ? value : "?", is_number && understood);
	}
}

/* ---- writing ---- */

static void put_time(struct line *line, struct env *env)
{
	char value[64];
	struct timespec now;
	struct tm parts;
	int64_t now_ns;

	if (env) {
		now_ns = env_now_ns(env);
		(void)snprintf(value, sizeof(value), "%" PRId64 ".%09" PRId64, now_ns / NS_PER_S,
			       now_ns % NS_PER_S);
		put_field(line, "t", 1, value, true);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	(void)snprintf(value, sizeof(value), "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ",
		       parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
		       parts.tm_min, parts.tm_sec, now.tv_nsec / 1000);
	put_field(line, "time", 4, value, false);
}

/* One write, so that lines of several threads and processes do not mix. */
static bool write_line(int fd, const struct line *line)
{
	for (int try = 0; try < WRITE_TRIES; try++) {
		ssize_t written = write(fd, line->text, line->len);

		if (written >= 0)
			return (size_t)written == line->len;
		if (errno != EINTR)
			return false;
	}
	return false;
}

void log_write(struct log *log, enum log_level level, const char *event, const char *format, ...)
{
	struct fields fields = {.format = format};
	struct line line;
	int saved_errno = errno; /* a log line in an error path must not change the error */

	if (!log_wants(log, level))
		return;
	line.json = log->options.format == LOG_FORMAT_JSON;
	line.truncated = false;
	line.cut = false;
	line.len = 0;
	put_time(&line, log->options.env);
	put_field(&line, "level", 5, level_names[level], false);
	put_field(&line, "event", 5, event, false);
	va_start(fields.args, format);
	put_fields(&line, &fields);
	va_end(fields.args);
	end_line(&line);
	if (!write_line(log->options.fd, &line))
		atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed);
	errno = saved_errno;
}

bool log_limit_pass(struct log_limit *limit, int64_t now_ns, int64_t period_ns)
{
	if (now_ns < limit->next_ns) {
		limit->held_back++;
		return false;
	}
	limit->next_ns = now_ns + period_ns;
	limit->reported = limit->held_back;
	limit->held_back = 0;
	return true;
}

uint64_t log_limit_held(const struct log_limit *limit)
{
	return limit->reported;
}
