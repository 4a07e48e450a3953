/*
 * metrics.c: families of series, and their text
 *
 *   A family is a name with its kind and help; a series is one set of labels in it, and the value
 *   that it shows. Both stand in lists, in the order of registration, which is the order of the
 *   text. Registering is rare and short, so searching is linear.
 */
#include "base/metrics.h"

#include "base/base.h"
#include "base/list.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds of a latency, 256 ns to 69 s, and of anything else, 1 to 2^30: powers of two. */
#define SECONDS_BOUND_FIRST 8u
#define SECONDS_BOUND_LAST  36u
#define NUMBER_BOUND_LAST   30u

#define NS_PER_SECOND UINT64_C(1000000000)

enum kind {
	KIND_COUNTER,
	KIND_GAUGE,
	KIND_HISTOGRAM,
};

struct series {
	struct list link;
	const void *owner;
	const void *value; /* of the family's kind */
	char labels[METRICS_TEXT_BYTES];
};

struct family {
	struct list link;
	struct list series;
	enum kind kind;
	char name[METRICS_TEXT_BYTES];
	char help[METRICS_TEXT_BYTES];
};

struct metrics {
	pthread_mutex_t lock;
	struct list families;
	uint32_t series_count;
};

int metrics_create(struct metrics **metrics)
{
	struct metrics *created = calloc(1, sizeof(*created));

	if (!created)
		return -ENOMEM;
	pthread_mutex_init(&created->lock, NULL);
	list_init(&created->families);
	*metrics = created;
	return 0;
}

static void free_family(struct family *family)
{
	list_remove(&family->link);
	free(family);
}

static void free_series(struct metrics *metrics, struct series *series)
{
	list_remove(&series->link);
	free(series);
	metrics->series_count--;
}

void metrics_destroy(struct metrics *metrics)
{
	if (!metrics)
		return;
	list_each(family_link, &metrics->families)
	{
		struct family *family = container_of(family_link, struct family, link);

		list_each(link, &family->series)
		{
			free_series(metrics, container_of(link, struct series, link));
		}
		free_family(family);
	}
	pthread_mutex_destroy(&metrics->lock);
	free(metrics);
}

/* ---- what names and labels may look like ---- */

static bool is_name_char(char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
	       (!first && c >= '0' && c <= '9');
}

static size_t name_len(const char *text)
{
	size_t len = 0;

	while (is_name_char(text[len], len == 0))
		len++;
	return len;
}

/* Steps over one name="value" with its escapes; NULL if none is there. */
static const char *skip_label(const char *text)
{
	size_t len = name_len(text);

	if (len == 0 || text[len] != '=' || text[len + 1] != '"')
		return NULL;
	for (text += len + 2; *text && *text != '"'; text++) {
		if (*text == '\n')
			return NULL;
		if (*text == '\\' && !strchr("\\\"n", *++text))
			return NULL;
		if (!*text)
			return NULL;
	}
	return *text == '"' ? text + 1 : NULL;
}

static bool are_labels(const char *text)
{
	if (!*text)
		return true;
	while ((text = skip_label(text)) && *text == ',')
		text++;
	return text && !*text;
}

static bool is_help(const char *text)
{
	return *text && !strpbrk(text, "\\\n") && strlen(text) < METRICS_TEXT_BYTES;
}

static bool is_well_formed(const char *name, const char *labels, const char *help)
{
	size_t len = name_len(name);

	return len > 0 && !name[len] && len < METRICS_TEXT_BYTES && are_labels(labels) &&
	       strlen(labels) < METRICS_TEXT_BYTES && is_help(help);
}

int metrics_label(char *labels, size_t size_bytes, const char *name, const char *value)
{
	size_t before = strlen(labels);
	size_t len = name_len(name);
	size_t at = before;
	int printed;

	if (len == 0 || name[len])
		return -EINVAL;
	printed = snprintf(labels + at, size_bytes - at, "%s%s=\"", before ? "," : "", name);
	if (printed < 0 || (size_t)printed >= size_bytes - at)
		goto too_long;
	at += (size_t)printed;
	for (; *value; value++) {
		bool escaped = strchr("\\\"\n", *value);

		if (at + 2 >= size_bytes)
			goto too_long;
		if (escaped)
			labels[at++] = '\\';
		labels[at++] = *value;
		if (*value == '\n')
			labels[at - 1] = 'n';
	}
	if (at + 1 >= size_bytes)
		goto too_long;
	labels[at++] = '"';
	labels[at] = '\0';
	return 0;

too_long:
	labels[before] = '\0';
	return -EMSGSIZE;
}

/* ---- registering ---- */

static struct family *find_family(struct metrics *metrics, const char *name)
{
	list_each(link, &metrics->families)
	{
		struct family *family = container_of(link, struct family, link);

		if (strcmp(family->name, name) == 0)
			return family;
	}
	return NULL;
}

static bool has_series(struct family *family, const char *labels)
{
	list_each(link, &family->series)
	{
		if (strcmp(container_of(link, struct series, link)->labels, labels) == 0)
			return true;
	}
	return false;
}

/* The text was checked to fit. */
static void copy_text(char copy[METRICS_TEXT_BYTES], const char *text)
{
	memcpy(copy, text, strlen(text) + 1);
}

static struct family *add_family(struct metrics *metrics, enum kind kind, const char *name,
				 const char *help)
{
	struct family *family = calloc(1, sizeof(*family));

	if (!family)
		return NULL;
	family->kind = kind;
	copy_text(family->name, name);
	copy_text(family->help, help);
	list_init(&family->series);
	list_push_last(&metrics->families, &family->link);
	return family;
}

/* What is to be registered; metrics_counter() and its sisters fill it in. */
struct wish {
	enum kind kind;
	const void *owner;
	const void *value;
	const char *name;
	const char *labels;
	const char *help;
};

static int add_locked(struct metrics *metrics, const struct wish *wish)
{
	struct family *family = find_family(metrics, wish->name);
	struct series *series;

	if (family && family->kind != wish->kind)
		return -EINVAL;
	if (family && has_series(family, wish->labels))
		return -EEXIST;
	if (metrics->series_count == METRICS_SERIES_MAX)
		return -ENOSPC;
	series = calloc(1, sizeof(*series));
	if (!series)
		return -ENOMEM;
	if (!family)
		family = add_family(metrics, wish->kind, wish->name, wish->help);
	if (!family) {
		free(series);
		return -ENOMEM;
	}
	series->owner = wish->owner;
	series->value = wish->value;
	copy_text(series->labels, wish->labels);
	list_push_last(&family->series, &series->link);
	metrics->series_count++;
	return 0;
}

static int add(struct metrics *metrics, const struct wish *wish)
{
	int err;

	if (!metrics)
		return 0;
	if (!is_well_formed(wish->name, wish->labels, wish->help))
		return -EINVAL;
	pthread_mutex_lock(&metrics->lock);
	err = add_locked(metrics, wish);
	pthread_mutex_unlock(&metrics->lock);
	return err;
}

int metrics_counter(struct metrics *metrics, const void *owner, const char *name,
		    const char *labels, const char *help, const struct counter *counter)
{
	return add(metrics, &(struct wish){KIND_COUNTER, owner, counter, name, labels, help});
}

int metrics_gauge(struct metrics *metrics, const void *owner, const char *name, const char *labels,
		  const char *help, const struct gauge *gauge)
{
	return add(metrics, &(struct wish){KIND_GAUGE, owner, gauge, name, labels, help});
}

int metrics_histogram(struct metrics *metrics, const void *owner, const char *name,
		      const char *labels, const char *help, const struct histogram *histogram)
{
	return add(metrics, &(struct wish){KIND_HISTOGRAM, owner, histogram, name, labels, help});
}

void metrics_remove(struct metrics *metrics, const void *owner)
{
	if (!metrics)
		return;
	pthread_mutex_lock(&metrics->lock);
	list_each(family_link, &metrics->families)
	{
		struct family *family = container_of(family_link, struct family, link);

		list_each(link, &family->series)
		{
			struct series *series = container_of(link, struct series, link);

			if (series->owner == owner)
				free_series(metrics, series);
		}
		if (list_is_empty(&family->series))
			free_family(family);
	}
	pthread_mutex_unlock(&metrics->lock);
}

/* ---- rendering ---- */

/* name{labels} value, with the braces only where there are labels. */
static void render_name(FILE *out, const char *name, const char *suffix, const char *labels)
{
	(void)fprintf(out, "%s%s%s%s%s ", name, suffix, *labels ? "{" : "", labels,
		      *labels ? "}" : "");
}

static bool ends_with(const char *text, const char *ending)
{
	size_t len = strlen(text);
	size_t ending_len = strlen(ending);

	return len >= ending_len && strcmp(text + len - ending_len, ending) == 0;
}

static void render_number(FILE *out, uint64_t value, bool in_seconds)
{
	if (in_seconds)
		(void)fprintf(out, "%" PRIu64 ".%09" PRIu64, value / NS_PER_SECOND,
			      value % NS_PER_SECOND);
	else
		(void)fprintf(out, "%" PRIu64, value);
}

/*
 * A bucket "le" holds the values up to and with its bound. Ours end one below a power of two,
 * where they are exact. The counts are read one by one while they grow: the total is read last
 * and so is never below any of them, as the format demands.
 */
static void render_histogram(FILE *out, const char *name, const struct series *series)
{
	const struct histogram *histogram = series->value;
	bool in_seconds = ends_with(name, "_seconds");
	unsigned bit = in_seconds ? SECONDS_BOUND_FIRST : 0;
	unsigned last_bit = in_seconds ? SECONDS_BOUND_LAST : NUMBER_BOUND_LAST;
	const char *comma = *series->labels ? "," : "";
	uint64_t below = 0;
	uint64_t count;

	for (; bit <= last_bit; bit++) {
		uint64_t bound = UINT64_C(1) << bit;

		/* A value recorded meanwhile must not make a later bucket the smaller. */
		below = max_u64(below, histogram_count_below(histogram, bound));
		(void)fprintf(out, "%s_bucket{%s%sle=\"", name, series->labels, comma);
		render_number(out, bound - 1, in_seconds);
		(void)fprintf(out, "\"} %" PRIu64 "\n", below);
	}
	count = max_u64(below, histogram_count(histogram));
	(void)fprintf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, series->labels, comma,
		      count);
	render_name(out, name, "_sum", series->labels);
	render_number(out, histogram_sum(histogram), in_seconds);
	(void)fputc('\n', out);
	render_name(out, name, "_count", series->labels);
	(void)fprintf(out, "%" PRIu64 "\n", count);
}

static void render_series(FILE *out, const struct family *family, const struct series *series)
{
	switch (family->kind) {
	case KIND_COUNTER:
		render_name(out, family->name, "", series->labels);
		(void)fprintf(out, "%" PRIu64 "\n", counter_read(series->value));
		break;
	case KIND_GAUGE:
		render_name(out, family->name, "", series->labels);
		(void)fprintf(out, "%" PRId64 "\n", gauge_read(series->value));
		break;
	case KIND_HISTOGRAM:
		render_histogram(out, family->name, series);
		break;
	}
}

static void render_family(FILE *out, const struct family *family)
{
	static const char *const kinds[] = {"counter", "gauge", "histogram"};

	(void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help, family->name,
		      kinds[family->kind]);
	list_each(link, &family->series)
	{
		render_series(out, family, container_of(link, struct series, link));
	}
}

int metrics_render(struct metrics *metrics, char **text, size_t *len_bytes)
{
	FILE *out = open_memstream(text, len_bytes);
	bool failed;

	if (!out)
		return -ENOMEM;
	if (metrics) {
		pthread_mutex_lock(&metrics->lock);
		list_each(link, &metrics->families)
		{
			render_family(out, container_of(link, struct family, link));
		}
		pthread_mutex_unlock(&metrics->lock);
	}
	/* Each write's failure stays in the stream until here. */
	failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		free(*text);
		*text = NULL;
		return -ENOMEM;
	}
	return 0;
}
