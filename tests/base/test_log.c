/*
 * test_log.c: one line an event, whatever its fields hold
 *
 * JSON lines are read back by jansson, a parser that knows nothing of us.
 */
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "seed.h"

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define TEXT_BYTES 8192

static uint64_t seed;

static int64_t still_clock(struct env *env)
{
	return INT64_C(12000000345);
}

static const struct env_ops still_ops = {.now_ns = still_clock};
static struct env still_env = {.ops = &still_ops};

struct world {
	struct log *log;
	int fd;
	char text[TEXT_BYTES];
};

static void begin(struct world *world, enum log_format format)
{
	memset(world, 0, sizeof(*world));
	world->fd = memfd_create("log", MFD_CLOEXEC);
	assert_true(world->fd >= 0);
	assert_int_equal(log_open(&world->log,
				  &(struct log_options){
					  .fd = world->fd,
					  .level = LOG_LEVEL_INFO,
					  .format = format,
					  .env = &still_env,
				  }),
			 0);
}

static void end(struct world *world)
{
	assert_int_equal(log_lost(world->log), 0);
	log_close(world->log);
	close(world->fd);
}

/* What was written since the last call. */
static const char *written(struct world *world)
{
	ssize_t len = pread(world->fd, world->text, TEXT_BYTES - 1, 0);

	assert_true(len >= 0);
	world->text[len] = '\0';
	assert_int_equal(ftruncate(world->fd, 0), 0);
	assert_int_equal(lseek(world->fd, 0, SEEK_SET), 0);
	return world->text;
}

static void fields_become_logfmt(void **state)
{
	struct world world;

	begin(&world, LOG_FORMAT_TEXT);
	log_info(world.log, "slab_evicted", "slab=%u owner=%s free_bytes=%" PRIu64, 7u, "node-3",
		 UINT64_C(1) << 40);
	assert_string_equal(written(&world), "t=12.000000345 level=info event=slab_evicted slab=7 "
					     "owner=node-3 free_bytes=1099511627776\n");
	log_error(world.log, "gone");
	assert_string_equal(written(&world), "t=12.000000345 level=error event=gone\n");
	log_warn(world.log, "odd", "state=open peer=%s:%d share=%.1f%%", "h", 7000, 12.5);
	assert_string_equal(written(&world), "t=12.000000345 level=warn event=odd state=open "
					     "peer=h:7000 share=12.5%\n");
	end(&world);
}

static void fields_become_json(void **state)
{
	struct world world;

	begin(&world, LOG_FORMAT_JSON);
	log_info(world.log, "slab_evicted", "slab=%u owner=%s delta=%d mask=%#x pad=%03d", 7u,
		 "node 3", -5, 255, 7);
	assert_string_equal(written(&world),
			    "{\"t\":12.000000345,\"level\":\"info\",\"event\":\"slab_evicted\","
			    "\"slab\":7,\"owner\":\"node 3\",\"delta\":-5,\"mask\":\"0xff\","
			    "\"pad\":\"007\"}\n");
	end(&world);
}

static void every_conversion_takes_its_own_argument(void **state)
{
	struct world world;
	const char *missing = NULL;

	begin(&world, LOG_FORMAT_TEXT);
	log_info(world.log, "all", "a=%hhd b=%hd c=%ld d=%lld e=%zd f=%jd g=%td h=%c i=%p j=%s",
		 (signed char)-1, (short)-2, -3L, -4LL, (ssize_t)-5, (intmax_t)-6, (ptrdiff_t)-7,
		 'x', (void *)0x10, missing);
	assert_non_null(strstr(written(&world), " a=-1 b=-2 c=-3 d=-4 e=-5 f=-6 g=-7 h=x i=0x10 "
						"j=(null)\n"));
	log_info(world.log, "all", "a=%hhu b=%hu c=%lu d=%llu e=%zu f=%ju g=%tx h=%X i=%5.1f j=%g",
		 (unsigned char)255, (unsigned short)65535, 3UL, 4ULL, (size_t)5, (uintmax_t)6,
		 (ptrdiff_t)7, 0xabcu, 2.25, 0.5);
	assert_non_null(strstr(written(&world), " a=255 b=65535 c=3 d=4 e=5 f=6 g=7 h=ABC "
						"i=\"  2.2\" j=0.5\n"));
	log_info(world.log, "all", "a=%.*s b=%*d c=%-4d d=%% e=%.2s", 2, "xyz", 4, 7, 8, "pqr");
	assert_non_null(strstr(written(&world), " a=xy b=\"   7\" c=\"8   \" d=% e=pq\n"));
	end(&world);
}

static void a_hostile_value_stays_in_its_field(void **state)
{
	struct world world;

	begin(&world, LOG_FORMAT_TEXT);
	log_info(world.log, "hello", "peer=%s n=%d", "x\nt=0 level=error event=forged", 1);
	assert_non_null(
		strstr(written(&world), " peer=\"x\\u000at=0 level=error event=forged\" n=1\n"));
	log_info(world.log, "hello", "peer=%s n=%d", "a\" n=2 b=\"", 1);
	assert_non_null(strstr(written(&world), " peer=\"a\\\" n=2 b=\\\"\" n=1\n"));
	log_info(world.log, "hello", "peer=%s n=%d", "%s%n%d", 1);
	assert_non_null(strstr(written(&world), " peer=%s%n%d n=1\n"));
	log_info(world.log, "hello", "peer=%s n=%d", "a=b", 1);
	assert_non_null(strstr(written(&world), " peer=\"a=b\" n=1\n"));
	log_info(world.log, "hello", "peer=%s n=%d", "", 1);
	assert_non_null(strstr(written(&world), " peer=\"\" n=1\n"));
	log_info(world.log, "hello", "peer=%s n=%d", "\x1b[31m \xc2\x9b \xff \xc3\xa9", 1);
	assert_non_null(strstr(written(&world), " peer=\"\\u001b[31m \\ufffd\\ufffd \\ufffd "
						"\xc3\xa9\" n=1\n"));
	end(&world);
}

static void json_holds_any_bytes(void **state)
{
	struct world world;
	uint64_t random = seed;

	begin(&world, LOG_FORMAT_JSON);
	for (int i = 0; i < 5000; i++) {
		char value[40];
		size_t len = seed_below(&random, sizeof(value));
		json_t *line;

		for (size_t j = 0; j < len; j++)
			value[j] = (char)(1 + seed_below(&random, 255));
		value[len] = '\0';
		log_info(world.log, "any", "value=%s n=%d", value, i);
		line = json_loads(written(&world), 0, NULL);
		assert_non_null(line);
		assert_int_equal(json_object_size(line), 5);
		assert_int_equal(json_integer_value(json_object_get(line, "n")), i);
		assert_true(json_is_string(json_object_get(line, "value")));
		json_decref(line);
	}
	end(&world);
}

static void a_line_too_long_loses_its_last_fields(void **state)
{
	static char large[4 * LOG_LINE_BYTES];
	struct world world;
	json_t *line;

	memset(large, 'x', sizeof(large) - 1);
	begin(&world, LOG_FORMAT_JSON);
	log_info(world.log, "large", "n=%d a=%s b=%s c=%s d=%d", 1, large, large, large, 4);
	line = json_loads(written(&world), 0, NULL);
	assert_non_null(line);
	assert_true(strlen(world.text) <= LOG_LINE_BYTES);
	assert_int_equal(json_integer_value(json_object_get(line, "n")), 1);
	assert_non_null(json_object_get(line, "a"));
	assert_null(json_object_get(line, "c"));
	assert_null(json_object_get(line, "d"));
	assert_int_equal(json_integer_value(json_object_get(line, "truncated")), 1);
	json_decref(line);
	end(&world);
}

static int count_call(int *calls)
{
	return ++*calls;
}

static void levels_above_the_chosen_are_silent(void **state)
{
	struct world world;
	enum log_level level;
	int calls = 0;

	begin(&world, LOG_FORMAT_TEXT);
	log_debug(world.log, "unseen", "n=%d", count_call(&calls));
	assert_string_equal(written(&world), "");
	assert_int_equal(calls, 0);
	log_error(NULL, "nobody_listens", "n=%d", count_call(&calls));
	assert_int_equal(calls, 0);
	assert_false(log_wants(NULL, LOG_LEVEL_ERROR));
	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("loud", &level), -EINVAL);
	end(&world);
}

static void a_line_not_taken_is_counted(void **state)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	struct log *log;

	assert_true(fd >= 0);
	assert_int_equal(log_open(&log, &(struct log_options){.fd = fd}), 0);
	errno = ENOTTY;
	log_error(log, "lost", "n=%d", 1);
	assert_int_equal(errno, ENOTTY);
	assert_int_equal(log_lost(log), 1);
	log_close(log);
	close(fd);
}

static void without_an_env_the_time_is_a_date(void **state)
{
	struct log *log;
	char text[128] = "";
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(log_open(&log, &(struct log_options){.fd = fd}), 0);
	log_error(log, "now");
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	for (char *at = text; (at = strpbrk(at, "012345678"));)
		*at = '9';
	assert_string_equal(text, "time=9999-99-99T99:99:99.999999Z level=error event=now\n");
	log_close(log);
	close(fd);
}

static void options_that_are_none_are_refused(void **state)
{
	struct log *log;

	assert_int_equal(log_open(&log, &(struct log_options){.level = (enum log_level)9}),
			 -EINVAL);
	assert_int_equal(log_open(&log, &(struct log_options){.format = (enum log_format)9}),
			 -EINVAL);
}

static void a_limit_lets_one_line_a_period_pass(void **state)
{
	struct log_limit limit = {0};

	assert_true(log_limit_pass(&limit, 1000, 100));
	assert_int_equal(log_limit_held(&limit), 0);
	for (int64_t now = 1001; now < 1100; now++)
		assert_false(log_limit_pass(&limit, now, 100));
	assert_true(log_limit_pass(&limit, 1100, 100));
	assert_int_equal(log_limit_held(&limit), 99);
	assert_true(log_limit_pass(&limit, 5000, 100));
	assert_int_equal(log_limit_held(&limit), 0);
}

static void *log_many(void *arg)
{
	for (int i = 0; i < 500; i++)
		log_info(arg, "line", "text=%s end=1", "from one of several threads");
	return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	pthread_t threads[3];
	struct log *log;
	FILE *lines;
	char line[256];
	int count = 0;

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
	assert_int_equal(log_open(&log, &(struct log_options){.fd = fd,
							      .level = LOG_LEVEL_INFO,
							      .env = &still_env}),
			 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, log), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	lines = fdopen(fd, "r");
	assert_non_null(lines);
	rewind(lines);
	for (; fgets(line, sizeof(line), lines); count++)
		assert_string_equal(line, "t=12.000000345 level=info event=line text=\"from one of "
					  "several threads\" end=1\n");
	assert_int_equal(count, 1500);
	log_close(log);
	assert_int_equal(fclose(lines), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_become_logfmt),
		cmocka_unit_test(fields_become_json),
		cmocka_unit_test(every_conversion_takes_its_own_argument),
		cmocka_unit_test(a_hostile_value_stays_in_its_field),
		cmocka_unit_test(json_holds_any_bytes),
		cmocka_unit_test(a_line_too_long_loses_its_last_fields),
		cmocka_unit_test(levels_above_the_chosen_are_silent),
		cmocka_unit_test(a_line_not_taken_is_counted),
		cmocka_unit_test(without_an_env_the_time_is_a_date),
		cmocka_unit_test(options_that_are_none_are_refused),
		cmocka_unit_test(a_limit_lets_one_line_a_period_pass),
		cmocka_unit_test(lines_of_threads_do_not_mix),
	};

	seed = seed_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
