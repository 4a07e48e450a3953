/*
 * metrics.h: what was counted, and its rendering for Prometheus
 *
 *   A component counts in counters, gauges and histograms inside its own structures, whether
 *   anybody looks or not. To be seen it registers them, with itself as owner, and takes them back
 *   before its memory goes:
 *
 *     metrics_counter(metrics, node, "afar_node_slabs_evicted_total", "reason=\"headroom\"",
 *                     "Slabs evicted.", &node->evicted);
 *     …
 *     metrics_remove(metrics, node);
 *
 *   A NULL registry accepts everything and does nothing.
 *
 *   Names follow Prometheus: counters end in _total; a histogram whose name ends in _seconds
 *   holds nanoseconds and is shown in seconds. Series of one name share help and kind, and differ
 *   in labels.
 *
 *   Registering, removing and rendering take the registry's lock, so a render on another thread
 *   never sees memory that metrics_remove() has returned from. Counting takes none.
 */
#ifndef AFAR_BASE_METRICS_H
#define AFAR_BASE_METRICS_H

#include "base/histogram.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define METRICS_SERIES_MAX 4096u
#define METRICS_TEXT_BYTES 256u /* the most a name, the labels or the help may take, with NUL */

struct metrics;

struct counter {
	_Atomic uint64_t value;
};

struct gauge {
	_Atomic int64_t value;
};

/* From any thread. Relaxed: the number is all that is told, nothing is ordered by it. */
static inline void counter_add(struct counter *counter, uint64_t amount)
{
	atomic_fetch_add_explicit(&counter->value, amount, memory_order_relaxed);
}

/* From the one thread that writes this counter: no locked instruction. */
static inline void counter_add_own(struct counter *counter, uint64_t amount)
{
	uint64_t value = atomic_load_explicit(&counter->value, memory_order_relaxed);

	atomic_store_explicit(&counter->value, value + amount, memory_order_relaxed);
}

static inline uint64_t counter_read(const struct counter *counter)
{
	return atomic_load_explicit(&counter->value, memory_order_relaxed);
}

static inline void gauge_set(struct gauge *gauge, int64_t value)
{
	atomic_store_explicit(&gauge->value, value, memory_order_relaxed);
}

static inline void gauge_add(struct gauge *gauge, int64_t amount)
{
	atomic_fetch_add_explicit(&gauge->value, amount, memory_order_relaxed);
}

static inline int64_t gauge_read(const struct gauge *gauge)
{
	return atomic_load_explicit(&gauge->value, memory_order_relaxed);
}

/* -ENOMEM. */
int metrics_create(struct metrics **metrics);

/* NULL is fine. Whoever serves it (metrics_http.h) must have stopped. */
void metrics_destroy(struct metrics *metrics);

/*
 * Shows a value under a name. `labels` is "" or key="value" pairs parted by commas, as
 * metrics_label() makes them; name, labels and help are copied, the value is not.
 *
 * -EINVAL: the name, the labels or the help is malformed or too long, or the name was registered
 * as another kind. -EEXIST: this name with these labels is there. -ENOSPC: METRICS_SERIES_MAX.
 * -ENOMEM.
 */
int metrics_counter(struct metrics *metrics, const void *owner, const char *name,
		    const char *labels, const char *help, const struct counter *counter);
int metrics_gauge(struct metrics *metrics, const void *owner, const char *name, const char *labels,
		  const char *help, const struct gauge *gauge);
int metrics_histogram(struct metrics *metrics, const void *owner, const char *name,
		      const char *labels, const char *help, const struct histogram *histogram);

/* Forgets all that this owner registered. On return nobody reads its values any more. */
void metrics_remove(struct metrics *metrics, const void *owner);

/* Appends a label to `labels`, which holds a string of size_bytes at most; the value is escaped.
 * -EMSGSIZE: it does not fit; `labels` is unchanged. -EINVAL: no label's name. */
int metrics_label(char *labels, size_t size_bytes, const char *name, const char *value);

/* The registry in Prometheus' text format 0.0.4. *text is the caller's to free(). -ENOMEM. */
int metrics_render(struct metrics *metrics, char **text, size_t *len_bytes);

#endif
