/*
 * test_metrics.c: what is registered is rendered, and served
 */
#include "base/base.h"
#include "base/metrics.h"
#include "base/metrics_http.h"

#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define REPLY_BYTES 65536

static int begin(void **state)
{
	struct metrics *metrics;

	assert_int_equal(metrics_create(&metrics), 0);
	*state = metrics;
	return 0;
}

static int end(void **state)
{
	metrics_destroy(*state);
	return 0;
}

static void assert_renders(struct metrics *metrics, const char *expected)
{
	char *text;
	size_t len;

	assert_int_equal(metrics_render(metrics, &text, &len), 0);
	assert_int_equal(len, strlen(text));
	assert_string_equal(text, expected);
	free(text);
}

static void counters_and_gauges_are_rendered_by_family(void **state)
{
	struct metrics *metrics = *state;
	struct counter shm = {0};
	struct counter tcp = {0};
	struct gauge slabs = {0};

	assert_renders(metrics, "");
	assert_int_equal(metrics_counter(metrics, &shm, "afar_reads_total", "fabric=\"shm\"",
					 "Reads.", &shm),
			 0);
	assert_int_equal(metrics_gauge(metrics, &slabs, "afar_slabs", "", "Slabs held.", &slabs),
			 0);
	assert_int_equal(metrics_counter(metrics, &tcp, "afar_reads_total", "fabric=\"tcp\"",
					 "Reads.", &tcp),
			 0);
	counter_add(&shm, 3);
	counter_add_own(&tcp, 4);
	gauge_set(&slabs, 5);
	gauge_add(&slabs, -7);
	assert_renders(metrics, "# HELP afar_reads_total Reads.\n"
				"# TYPE afar_reads_total counter\n"
				"afar_reads_total{fabric=\"shm\"} 3\n"
				"afar_reads_total{fabric=\"tcp\"} 4\n"
				"# HELP afar_slabs Slabs held.\n"
				"# TYPE afar_slabs gauge\n"
				"afar_slabs -2\n");
	metrics_remove(metrics, &shm);
	metrics_remove(metrics, &slabs);
	assert_renders(metrics, "# HELP afar_reads_total Reads.\n"
				"# TYPE afar_reads_total counter\n"
				"afar_reads_total{fabric=\"tcp\"} 4\n");
}

static void a_histogram_has_cumulative_buckets(void **state)
{
	static struct histogram latency;
	static struct histogram batch;
	char *text;
	size_t len;

	histogram_clear(&latency);
	histogram_clear(&batch);
	assert_int_equal(metrics_histogram(*state, &latency, "afar_read_seconds", "op=\"get\"",
					   "Read latency.", &latency),
			 0);
	assert_int_equal(
		metrics_histogram(*state, &batch, "afar_batch", "", "Batch sizes.", &batch), 0);
	histogram_record(&latency, 255);
	histogram_record(&latency, 256);
	histogram_record(&latency, UINT64_C(2000000000000));
	histogram_record(&batch, 1);
	histogram_record(&batch, 3);
	assert_int_equal(metrics_render(*state, &text, &len), 0);
	assert_non_null(
		strstr(text, "afar_read_seconds_bucket{op=\"get\",le=\"0.000000255\"} 1\n"));
	assert_non_null(
		strstr(text, "afar_read_seconds_bucket{op=\"get\",le=\"0.000000511\"} 2\n"));
	assert_non_null(
		strstr(text, "afar_read_seconds_bucket{op=\"get\",le=\"68.719476735\"} 2\n"));
	assert_non_null(strstr(text, "afar_read_seconds_bucket{op=\"get\",le=\"+Inf\"} 3\n"));
	assert_non_null(strstr(text, "afar_read_seconds_sum{op=\"get\"} 2000.000000511\n"));
	assert_non_null(strstr(text, "afar_read_seconds_count{op=\"get\"} 3\n"));
	assert_non_null(strstr(text, "afar_batch_bucket{le=\"0\"} 0\n"));
	assert_non_null(strstr(text, "afar_batch_bucket{le=\"1\"} 1\n"));
	assert_non_null(strstr(text, "afar_batch_bucket{le=\"3\"} 2\n"));
	assert_non_null(strstr(text, "afar_batch_sum 4\n"));
	free(text);
}

static void what_is_malformed_or_double_is_refused(void **state)
{
	static const struct {
		const char *name;
		const char *labels;
		const char *help;
	} bad[] = {
		{"", "", "Help."},
		{"9lives", "", "Help."},
		{"with space", "", "Help."},
		{"name", "x", "Help."},
		{"name", "x=1", "Help."},
		{"name", "x=\"1", "Help."},
		{"name", "x=\"1\",", "Help."},
		{"name", "x=\"1\"y=\"2\"", "Help."},
		{"name", "x=\"\\q\"", "Help."},
		{"name", "x=\"1\\", "Help."},
		{"name", "x=\"\n\"", "Help."},
		{"name", "", ""},
		{"name", "", "two\nlines"},
	};
	struct counter counter = {0};
	struct gauge gauge = {0};

	for (unsigned i = 0; i < ARRAY_COUNT(bad); i++)
		assert_int_equal(metrics_counter(*state, &counter, bad[i].name, bad[i].labels,
						 bad[i].help, &counter),
				 -EINVAL);
	assert_int_equal(metrics_counter(*state, &counter, "name", "", "Help.", &counter), 0);
	assert_int_equal(metrics_counter(*state, &counter, "name", "", "Help.", &counter), -EEXIST);
	assert_int_equal(metrics_gauge(*state, &gauge, "name", "x=\"1\"", "Help.", &gauge),
			 -EINVAL);
}

static void labels_are_escaped(void **state)
{
	char labels[64] = "";
	struct counter counter = {0};

	assert_int_equal(metrics_label(labels, sizeof(labels), "peer", "a\"b\\c\nd"), 0);
	assert_int_equal(metrics_label(labels, sizeof(labels), "n", ""), 0);
	assert_string_equal(labels, "peer=\"a\\\"b\\\\c\\nd\",n=\"\"");
	assert_int_equal(metrics_counter(*state, &counter, "name", labels, "Help.", &counter), 0);
	assert_int_equal(metrics_label(labels, sizeof(labels), "bad-name", "x"), -EINVAL);
	for (size_t size = strlen(labels) + 1; size < strlen(labels) + 8; size++) {
		assert_int_equal(metrics_label(labels, size, "m", "1\n"), -EMSGSIZE);
		assert_string_equal(labels, "peer=\"a\\\"b\\\\c\\nd\",n=\"\"");
	}
	assert_int_equal(metrics_label(labels, strlen(labels) + 9, "m", "1\n"), 0);
}

static void the_number_of_series_is_bounded(void **state)
{
	struct counter counter = {0};

	for (unsigned i = 0; i <= METRICS_SERIES_MAX; i++) {
		char name[32];
		char labels[32];

		(void)snprintf(name, sizeof(name), "family_%u", i % 64);
		(void)snprintf(labels, sizeof(labels), "n=\"%u\"", i);
		assert_int_equal(metrics_counter(*state, &counter, name, labels, "Help.", &counter),
				 i < METRICS_SERIES_MAX ? 0 : -ENOSPC);
	}
	metrics_remove(*state, &counter);
	assert_renders(*state, "");
	assert_int_equal(metrics_counter(*state, &counter, "name", "", "Help.", &counter), 0);
}

static void no_registry_accepts_everything(void **state)
{
	struct counter counter = {0};

	assert_int_equal(metrics_counter(NULL, &counter, "", "", "", &counter), 0);
	metrics_remove(NULL, &counter);
	assert_renders(NULL, "");
}

/* ---- over HTTP ---- */

static int connect_to(uint16_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *address;
	char text[8];
	int fd;

	(void)snprintf(text, sizeof(text), "%u", port);
	assert_int_equal(getaddrinfo("127.0.0.1", text, &hints, &address), 0);
	fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, address->ai_addr, address->ai_addrlen), 0);
	freeaddrinfo(address);
	return fd;
}

static const char *ask(uint16_t port, const char *request, char reply[REPLY_BYTES])
{
	size_t len = 0;
	int fd = connect_to(port);
	ssize_t n;

	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	while ((n = recv(fd, reply + len, REPLY_BYTES - 1 - len, 0)) > 0)
		len += (size_t)n;
	reply[len] = '\0';
	close(fd);
	return reply;
}

#define REQUEST(line) line " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

static void metrics_are_served(void **state)
{
	static char reply[REPLY_BYTES];
	struct counter counter = {0};
	struct metrics_http *http;
	uint16_t port;

	assert_int_equal(metrics_counter(*state, &counter, "name_total", "", "Help.", &counter), 0);
	assert_int_equal(metrics_http_start(&http, *state, "127.0.0.1:0", NULL), 0);
	port = metrics_http_port(http);
	assert_true(port > 0);
	counter_add(&counter, 42);
	ask(port, REQUEST("GET /metrics"), reply);
	assert_non_null(strstr(reply, "HTTP/1.1 200"));
	assert_non_null(strstr(reply, "text/plain; version=0.0.4"));
	assert_non_null(strstr(reply, "\nname_total 42\n"));
	assert_non_null(strstr(ask(port, REQUEST("GET /"), reply), "HTTP/1.1 404"));
	assert_non_null(strstr(ask(port, REQUEST("DELETE /metrics"), reply), "HTTP/1.1 405"));
	ask(port, REQUEST("HEAD /metrics"), reply);
	assert_non_null(strstr(reply, "HTTP/1.1 200"));
	assert_null(strstr(reply, "name_total"));
	ask(port, "junk\r\n\r\n", reply);
	assert_null(strstr(reply, " 200 "));
	metrics_http_stop(http);
}

static void an_address_that_is_none_is_refused(void **state)
{
	const char *reason = NULL;
	struct metrics_http *first;
	struct metrics_http *second;
	char address[32];

	assert_int_equal(metrics_http_start(&first, *state, "nonsense", &reason), -EINVAL);
	assert_non_null(reason);
	assert_int_equal(metrics_http_start(&first, *state, "127.0.0.1:0", &reason), 0);
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", metrics_http_port(first));
	reason = NULL;
	assert_int_equal(metrics_http_start(&second, *state, address, &reason), -EADDRINUSE);
	assert_non_null(reason);
	metrics_http_stop(first);
	metrics_http_stop(NULL);
}

static void *register_and_remove(void *arg)
{
	struct metrics *metrics = arg;

	for (int i = 0; i < 300; i++) {
		struct counter *counter = calloc(1, sizeof(*counter));

		if (!counter ||
		    metrics_counter(metrics, counter, "brief_total", "", "Help.", counter))
			return counter;
		counter_add(counter, 1);
		metrics_remove(metrics, counter);
		free(counter);
	}
	return NULL;
}

/* Under a sanitizer, a render that reads what was removed is an error. */
static void what_is_removed_is_not_read_any_more(void **state)
{
	struct metrics *metrics = *state;
	pthread_t thread;
	void *failed;

	assert_int_equal(pthread_create(&thread, NULL, register_and_remove, metrics), 0);
	for (int i = 0; i < 300; i++) {
		char *text;
		size_t len;

		assert_int_equal(metrics_render(metrics, &text, &len), 0);
		free(text);
	}
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
}

int main(void)
{
#define WITH_REGISTRY(test) cmocka_unit_test_setup_teardown(test, begin, end)
	static const struct CMUnitTest tests[] = {
		WITH_REGISTRY(counters_and_gauges_are_rendered_by_family),
		WITH_REGISTRY(a_histogram_has_cumulative_buckets),
		WITH_REGISTRY(what_is_malformed_or_double_is_refused),
		WITH_REGISTRY(labels_are_escaped),
		WITH_REGISTRY(the_number_of_series_is_bounded),
		cmocka_unit_test(no_registry_accepts_everything),
		WITH_REGISTRY(metrics_are_served),
		WITH_REGISTRY(an_address_that_is_none_is_refused),
		WITH_REGISTRY(what_is_removed_is_not_read_any_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
