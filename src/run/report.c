/*
 * report.c: the statistics of a run, for people and for programs
 */
#include "run/run.h"

#include "base/size.h"

#include <inttypes.h>
#include <jansson.h>

/* The latency below which `percent` of the faults stayed, in µs: the upper edge of its class. */
static double percentile_us(const struct run_statistics *stats, double percent)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < 64; i++)
		total += stats->latency[i];
	for (unsigned i = 0; i < 64; i++) {
		seen += stats->latency[i];
		if (total && (double)seen >= (double)total * percent / 100)
			return (double)(UINT64_C(2) << i) / 1000;
	}
	return 0;
}

static void report_text(FILE *to, const struct run_statistics *stats)
{
	char local[SIZE_TEXT_BYTES], peak[SIZE_TEXT_BYTES], far[SIZE_TEXT_BYTES],
		far_peak[SIZE_TEXT_BYTES];

	size_print(local, stats->local_bytes);
	size_print(peak, stats->local_peak_bytes);
	size_print(far, stats->far_bytes);
	size_print(far_peak, stats->far_peak_bytes);
	fprintf(to, "afar run: %.2f s, %" PRIu64 " process%s, volume %s (%s)\n", stats->seconds,
		stats->processes, stats->processes == 1 ? "" : "es", stats->volume,
		stats->direct ? "direct" : "staged");
	fprintf(to, "  memory here  %s of %s at most%s\n", peak, local,
		stats->activated ? "" : ": everything fitted, nothing was moved");
	fprintf(to, "  memory far   %s of %s at most\n", far_peak, far);
	if (!stats->activated)
		return;
	fprintf(to,
		"  faults       %" PRIu64 ": %" PRIu64 " first touches, %" PRIu64
		" from afar, %" PRIu64 " first writes\n",
		stats->faults, stats->faults_zero, stats->faults_far, stats->faults_write);
	fprintf(to, "  fault time   mean %.1f us, p50 <= %.0f us, p99 <= %.0f us, max %.0f us\n",
		(double)stats->fault_ns_mean / 1000, percentile_us(stats, 50),
		percentile_us(stats, 99), (double)stats->fault_ns_max / 1000);
	fprintf(to,
		"  pages out    %" PRIu64 " stored, %" PRIu64 " unchanged, %" PRIu64
		" zero, in %" PRIu64 " batches; %" PRIu64 " faults had to wait for room\n",
		stats->pages_stored, stats->pages_dropped_clean, stats->pages_zero_dropped,
		stats->evict_batches, stats->stalls);
	fprintf(to,
		"  pages in     %" PRIu64 ", of them %" PRIu64 " ahead of time (%" PRIu64
		" used)\n",
		stats->pages_loaded, stats->prefetched, stats->prefetched_used);
}

static void report_json(FILE *to, const struct run_statistics *stats)
{
	json_t *object = json_object();
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{"local_bytes", stats->local_bytes},
		{"local_peak_bytes", stats->local_peak_bytes},
		{"far_bytes", stats->far_bytes},
		{"far_peak_bytes", stats->far_peak_bytes},
		{"processes", stats->processes},
		{"faults", stats->faults},
		{"faults_zero", stats->faults_zero},
		{"faults_far", stats->faults_far},
		{"faults_write", stats->faults_write},
		{"fault_ns_mean", stats->fault_ns_mean},
		{"fault_ns_max", stats->fault_ns_max},
		{"pages_stored", stats->pages_stored},
		{"pages_loaded", stats->pages_loaded},
		{"pages_dropped_clean", stats->pages_dropped_clean},
		{"pages_zero_dropped", stats->pages_zero_dropped},
		{"prefetched", stats->prefetched},
		{"prefetched_used", stats->prefetched_used},
		{"evict_batches", stats->evict_batches},
		{"stalls", stats->stalls},
		{"unmanaged_bytes", stats->unmanaged_bytes},
	};

	json_object_set_new(object, "seconds", json_real(stats->seconds));
	json_object_set_new(object, "volume", json_string(stats->volume));
	json_object_set_new(object, "activated", json_boolean(stats->activated));
	json_object_set_new(object, "direct", json_boolean(stats->direct));
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		json_object_set_new(object, numbers[i].name,
				    json_integer((json_int_t)numbers[i].value));
	json_object_set_new(object, "fault_us_p50", json_real(percentile_us(stats, 50)));
	json_object_set_new(object, "fault_us_p99", json_real(percentile_us(stats, 99)));
	json_dumpf(object, to, JSON_INDENT(2));
	fputc('\n', to);
	json_decref(object);
}

void run_report(FILE *to, const struct run_statistics *stats, bool json)
{
	if (json)
		report_json(to, stats);
	else
		report_text(to, stats);
}
