/*
 * test_uri.c: addresses, parsed, refused and printed back
 */
#include "base/base.h"
#include "base/uri.h"
#include "seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed;

struct good {
	const char *text;
	enum uri_kind kind;
	uint32_t host_count;
	const char *first_host;
	uint16_t first_port;
	const char *path;
	uint32_t machine;
};

static const struct good good[] = {
	{"tcp://node-1:7000", URI_TCP, 1, "node-1", 7000, "", 0},
	{"tcp://10.0.0.1:0", URI_TCP, 1, "10.0.0.1", 0, "", 0},
	{"tcp://[::1]:65535", URI_TCP, 1, "::1", 65535, "", 0},
	{"tcp://:7000", URI_TCP, 1, "", 7000, "", 0},
	{"tcp://a:1,b:2,[fe80::1]:3", URI_TCP, 3, "a", 1, "", 0},
	{"verbs://host:18515", URI_VERBS, 1, "host", 18515, "", 0},
	{"shm:/run/afar/n1.sock", URI_SHM, 0, "", 0, "/run/afar/n1.sock", 0},
	{"shm:", URI_SHM, 0, "", 0, "", 0},
	{"dir:/var/lib/afar", URI_DIR, 0, "", 0, "/var/lib/afar", 0},
	{"local:", URI_LOCAL, 0, "", 0, "", 0},
	{"sim://17", URI_SIM, 0, "", 0, "", 17},
	{"sim://4294967295", URI_SIM, 0, "", 0, "", UINT32_MAX},
	{"zk://z1:2181,z2:2181/afar/a", URI_ZK, 2, "z1", 2181, "/afar/a", 0},
	{"zk://z1:2181", URI_ZK, 1, "z1", 2181, "", 0},
	{"localhost:9000", URI_HOST, 1, "localhost", 9000, "", 0},
	{"[::]:9000", URI_HOST, 1, "::", 9000, "", 0},
	{":9000", URI_HOST, 1, "", 9000, "", 0},
};

static void every_form_of_address_is_understood(void **state)
{
	for (unsigned i = 0; i < ARRAY_COUNT(good); i++) {
		const char *reason = "";
		char printed[URI_TEXT_BYTES_MAX];
		struct uri uri;

		print_message("  %s\n", good[i].text);
		assert_int_equal(uri_parse(&uri, good[i].text, &reason), 0);
		assert_int_equal(uri.kind, good[i].kind);
		assert_int_equal(uri.host_count, good[i].host_count);
		if (uri.host_count > 0) {
			assert_string_equal(uri.hosts[0].name, good[i].first_host);
			assert_int_equal(uri.hosts[0].port, good[i].first_port);
		}
		assert_string_equal(uri.path, good[i].path);
		assert_int_equal(uri.machine, good[i].machine);
		assert_int_equal(uri_print(&uri, printed, sizeof(printed)), 0);
		assert_string_equal(printed, good[i].text);
		assert_int_equal(uri_print(&uri, printed, strlen(good[i].text)), -EMSGSIZE);
	}
}

static const struct {
	const char *text;
	const char *reason; /* a part of it */
} bad[] = {
	{"", "empty"},
	{"tcp://", "port is missing"},
	{"tcp://host", "port is missing"},
	{"tcp://host:", "port is not a number"},
	{"tcp://host:x", "port is not a number"},
	{"tcp://host:65536", "port is not a number"},
	{"tcp://host:-1", "port is not a number"},
	{"tcp://host:99999999999999999999", "port is not a number"},
	{"tcp://::1:7000", "brackets"},
	{"tcp://[::1:7000", "bracket is not closed"},
	{"tcp://[::1]7000", "port is missing"},
	{"tcp://[nonsense]:7000", "no IPv6 address"},
	{"tcp://ho$t:7000", "character"},
	{"tcp://a:1,", "port is missing"},
	{"tcp://a:1,,b:2", "port is missing"},
	{"tcp://a:1/path", "port is not a number"},
	{"tcp://a b:1", "space"},
	{"tcp://caf\xc3\xa9:1", "non-ASCII"},
	{"tcp://a:1\n", "control"},
	{"verbs://a:1,b:2", "only one host"},
	{"a:1,b:2", "only one host"},
	{"shm:relative", "begin with /"},
	{"dir:", "begin with /"},
	{"dir:relative", "begin with /"},
	{"local:x", "nothing may follow"},
	{"sim://", "number is missing"},
	{"sim://x", "not a number"},
	{"sim://4294967296", "too large"},
	{"http://a:1", "unknown scheme"},
	{"zk://z1:2181,/path", "port is missing"},
	{"zk:///path", "port is missing"},
	{"plainhost", "port is missing"},
};

static void what_is_no_address_is_refused_with_the_reason(void **state)
{
	for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
		const char *reason = "none";
		struct uri uri;

		assert_int_equal(uri_parse(&uri, bad[i].text, &reason), -EINVAL);
		print_message("  '%s': %s\n", bad[i].text, reason);
		assert_non_null(strstr(reason, bad[i].reason));
		assert_int_equal(uri_parse(&uri, bad[i].text, NULL), -EINVAL);
	}
}

/* "prefix", then `count` times "piece", then "suffix". */
static const char *repeat(char *buf, const char *prefix, const char *piece, size_t count,
			  const char *suffix)
{
	char *at = stpcpy(buf, prefix);

	while (count-- > 0)
		at = stpcpy(at, piece);
	(void)stpcpy(at, suffix);
	return buf;
}

static void every_length_has_its_limit(void **state)
{
	static char buf[4 * URI_TEXT_BYTES_MAX];
	const char *reason;
	struct uri uri;

	assert_int_equal(uri_parse(&uri, repeat(buf, "tcp://", "h", 253, ":1"), NULL), 0);
	assert_int_equal(uri_parse(&uri, repeat(buf, "tcp://", "h", 254, ":1"), &reason), -EINVAL);
	assert_string_equal(reason, "the host's name is too long");
	assert_int_equal(uri_parse(&uri, repeat(buf, "tcp://", "h:1,", 63, "h:1"), NULL), 0);
	assert_int_equal(uri.host_count, 64);
	assert_int_equal(uri_parse(&uri, repeat(buf, "tcp://", "h:1,", 64, "h:1"), &reason),
			 -EINVAL);
	assert_string_equal(reason, "more than 64 hosts");
	assert_int_equal(uri_parse(&uri, repeat(buf, "shm:/", "p", 106, ""), NULL), 0);
	assert_int_equal(uri_parse(&uri, repeat(buf, "shm:/", "p", 107, ""), &reason), -EINVAL);
	assert_string_equal(reason, "the path is too long");
	assert_int_equal(uri_parse(&uri, repeat(buf, "dir:/", "p", 1022, ""), NULL), 0);
	assert_int_equal(uri_parse(&uri, repeat(buf, "dir:/", "p", 1023, ""), NULL), -EINVAL);
	assert_int_equal(uri_parse(&uri, repeat(buf, "", "x", 4097, ""), &reason), -EINVAL);
	assert_string_equal(reason, "the address is too long");
}

static void a_bare_host_is_parsed_alone(void **state)
{
	struct uri_host host;
	char buf[64];

	assert_int_equal(uri_parse_host(&host, "[::1]:80", NULL), 0);
	assert_string_equal(host.name, "::1");
	assert_int_equal(uri_print_host(&host, buf, sizeof(buf)), 0);
	assert_string_equal(buf, "[::1]:80");
	assert_int_equal(uri_print_host(&host, buf, 8), -EMSGSIZE);
	assert_int_equal(uri_parse_host(&host, "tcp://a:80", NULL), -EINVAL);
	assert_int_equal(uri_parse_host(&host, "", NULL), -EINVAL);
}

/* Damaged addresses are refused, or are addresses: then they print as they were read. */
static void damage_does_no_harm(void **state)
{
	static const char letters[] = "[]:/,.0123456789abfz-\x01\x7f\xff";
	uint64_t random = seed;

	for (int i = 0; i < 100000; i++) {
		char text[64];
		char printed[URI_TEXT_BYTES_MAX];
		char again[URI_TEXT_BYTES_MAX];
		struct uri uri;
		size_t len;

		(void)snprintf(text, sizeof(text), "%s",
			       good[seed_below(&random, ARRAY_COUNT(good))].text);
		len = strlen(text);
		for (uint64_t damage = seed_below(&random, 4); damage > 0; damage--)
			text[seed_below(&random, len)] =
				letters[seed_below(&random, sizeof(letters))];
		if (uri_parse(&uri, text, NULL))
			continue;
		assert_int_equal(uri_print(&uri, printed, sizeof(printed)), 0);
		assert_int_equal(uri_parse(&uri, printed, NULL), 0);
		assert_int_equal(uri_print(&uri, again, sizeof(again)), 0);
		assert_string_equal(printed, again);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_form_of_address_is_understood),
		cmocka_unit_test(what_is_no_address_is_refused_with_the_reason),
		cmocka_unit_test(every_length_has_its_limit),
		cmocka_unit_test(a_bare_host_is_parsed_alone),
		cmocka_unit_test(damage_does_no_harm),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
