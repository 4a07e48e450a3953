#include "store_conformance.h"

#include "afar/error.h"
#include "base/base.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CHILDREN   4
#define INCREMENTS 10

struct fixture {
	const struct store_maker *maker;
	void *place;
	struct store *store, *other;
};

static int begin(void **state)
{
	struct fixture *fixture = test_calloc(1, sizeof(*fixture));

	fixture->maker = *state;
	fixture->place = fixture->maker->begin();
	fixture->store = fixture->maker->open(fixture->place);
	fixture->other = fixture->maker->open(fixture->place);
	*state = fixture;
	return 0;
}

static int end(void **state)
{
	struct fixture *fixture = *state;

	store_close(fixture->store);
	store_close(fixture->other);
	fixture->maker->end(fixture->place);
	test_free(fixture);
	return 0;
}

static void expect(struct store *store, const char *name, const char *text, uint64_t version)
{
	char buf[256];
	size_t len_bytes;
	uint64_t found;

	assert_int_equal(store_get(store, name, buf, sizeof(buf), &len_bytes, &found), 0);
	assert_int_equal(len_bytes, strlen(text));
	assert_memory_equal(buf, text, len_bytes);
	assert_int_equal(found, version);
}

static void expect_none(struct store *store, const char *name)
{
	char buf[8];
	size_t len_bytes;
	uint64_t version;

	assert_int_equal(store_get(store, name, buf, sizeof(buf), &len_bytes, &version), -ENOENT);
}

static uint64_t create(struct store *store, const char *name, const char *text)
{
	uint64_t version = 0;

	assert_int_equal(store_create(store, name, text, strlen(text), &version), 0);
	return version;
}

static void a_record_comes_back_as_it_was_made(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "members/1", "some bytes");

	expect(f->store, "members/1", "some bytes", version);
	expect(f->other, "members/1", "some bytes", version);
	version = create(f->store, "empty", "");
	expect(f->other, "empty", "", version);
}

static void what_is_not_there_is_told(void **state)
{
	struct fixture *f = *state;
	uint64_t version = 7;

	expect_none(f->store, "absent");
	expect_none(f->store, "absent/record");
	assert_int_equal(store_put(f->store, "absent", "x", 1, &version), -ENOENT);
	assert_int_equal(store_remove(f->store, "absent", 7), -ENOENT);
	expect_none(f->store, "absent");
}

static void a_record_is_made_once(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "members/1", "first");
	uint64_t lost = 0;

	assert_int_equal(store_create(f->other, "members/1", "second", 6, &lost), -EEXIST);
	expect(f->other, "members/1", "first", version);
}

static void a_put_replaces_the_version_that_it_names(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "r", "one");
	uint64_t first = version;

	assert_int_equal(store_put(f->other, "r", "longer than one", 15, &version), 0);
	assert_int_not_equal(version, first);
	expect(f->store, "r", "longer than one", version);
	assert_int_equal(store_put(f->store, "r", "2", 1, &version), 0);
	expect(f->other, "r", "2", version);
}

static void a_put_of_an_old_version_changes_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "r", "one");
	uint64_t old = version;

	assert_int_equal(store_put(f->store, "r", "two", 3, &version), 0);
	assert_int_equal(store_put(f->other, "r", "lost", 4, &old), AFAR_ECONFLICT);
	expect(f->store, "r", "two", version);
}

static void a_removed_record_is_gone(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "members/1", "one");

	assert_int_equal(store_remove(f->other, "members/1", version + 1), AFAR_ECONFLICT);
	expect(f->store, "members/1", "one", version);
	assert_int_equal(store_remove(f->other, "members/1", version), 0);
	expect_none(f->store, "members/1");
	assert_int_equal(store_remove(f->other, "members/1", version), -ENOENT);
}

static void no_version_of_a_name_comes_twice(void **state)
{
	struct fixture *f = *state;
	uint64_t first = create(f->store, "r", "one");

	assert_int_equal(store_remove(f->store, "r", first), 0);

	uint64_t second = create(f->other, "r", "two");

	assert_int_not_equal(second, first);
	assert_int_equal(store_put(f->store, "r", "lost", 4, &first), AFAR_ECONFLICT);
	expect(f->store, "r", "two", second);
}

struct names {
	unsigned count;
	char joined[256];
};

static void join_name(void *context, const char *name)
{
	struct names *names = context;

	names->count++;
	strcat(names->joined, name);
	strcat(names->joined, " ");
}

static void a_folder_lists_its_records(void **state)
{
	struct fixture *f = *state;
	struct names names = {0};

	assert_int_equal(store_list(f->store, "members", join_name, &names), 0);
	assert_int_equal(names.count, 0);

	create(f->store, "members/b", "");

	uint64_t version = create(f->other, "members/a", "");

	create(f->store, "volumes/c", "");
	assert_int_equal(store_list(f->store, "members", join_name, &names), 0);
	assert_int_equal(names.count, 2);
	assert_non_null(strstr(names.joined, "a "));
	assert_non_null(strstr(names.joined, "b "));

	assert_int_equal(store_remove(f->store, "members/a", version), 0);
	names = (struct names){0};
	assert_int_equal(store_list(f->other, "members", join_name, &names), 0);
	assert_string_equal(names.joined, "b ");
}

static void names_that_are_none_are_refused(void **state)
{
	static const char *const names[] = {"",      ".",   "..",   "a/..", "../a", "/a", "a/",
					    "a/b/c", "a b", "a\nb", ".a",   "a/.b", "ä"};
	struct fixture *f = *state;
	char too_long[STORE_NAME_BYTES + 1];
	char buf[8];
	size_t len_bytes;
	uint64_t version = 1;

	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		assert_int_equal(store_create(f->store, names[i], "x", 1, &version), -EINVAL);
		assert_int_equal(store_put(f->store, names[i], "x", 1, &version), -EINVAL);
		assert_int_equal(store_remove(f->store, names[i], 1), -EINVAL);
		assert_int_equal(
			store_get(f->store, names[i], buf, sizeof(buf), &len_bytes, &version),
			-EINVAL);
	}
	memset(too_long, 'a', STORE_NAME_BYTES);
	too_long[STORE_NAME_BYTES] = '\0';
	assert_int_equal(store_create(f->store, too_long, "x", 1, &version), -EINVAL);
	too_long[STORE_NAME_BYTES - 1] = '\0';
	assert_int_equal(store_create(f->store, too_long, "x", 1, &version), 0);
}

static void a_short_buffer_is_told(void **state)
{
	struct fixture *f = *state;
	char buf[4];
	size_t len_bytes;
	uint64_t version = create(f->store, "r", "12345");

	assert_int_equal(store_get(f->store, "r", buf, sizeof(buf), &len_bytes, &version),
			 -EMSGSIZE);
}

static void the_largest_record_fits_and_no_larger(void **state)
{
	struct fixture *f = *state;
	unsigned char *bytes = test_malloc(STORE_RECORD_BYTES_MAX + 1);
	unsigned char *found = test_malloc(STORE_RECORD_BYTES_MAX);
	size_t len_bytes;
	uint64_t version;

	for (size_t i = 0; i <= STORE_RECORD_BYTES_MAX; i++)
		bytes[i] = (unsigned char)(i * 7 + i / 251);
	assert_int_equal(
		store_create(f->store, "large", bytes, STORE_RECORD_BYTES_MAX + 1, &version),
		-EMSGSIZE);
	assert_int_equal(store_create(f->store, "large", bytes, STORE_RECORD_BYTES_MAX, &version),
			 0);
	assert_int_equal(
		store_get(f->other, "large", found, STORE_RECORD_BYTES_MAX, &len_bytes, &version),
		0);
	assert_int_equal(len_bytes, STORE_RECORD_BYTES_MAX);
	assert_memory_equal(found, bytes, STORE_RECORD_BYTES_MAX);
	test_free(bytes);
	test_free(found);
}

static void what_was_put_is_there_after_all_closed(void **state)
{
	struct fixture *f = *state;
	uint64_t version = create(f->store, "r", "one");

	store_close(f->store);
	store_close(f->other);
	f->store = f->maker->open(f->place);
	f->other = f->maker->open(f->place);
	expect(f->store, "r", "one", version);
}

/* Reads a number, writes one more, until it did so INCREMENTS times. 0 if nothing went wrong. */
static int increment(struct store *store)
{
	for (int done = 0; done < INCREMENTS;) {
		uint64_t number;
		uint64_t version;
		size_t len_bytes;
		int err = store_get(store, "n", &number, sizeof(number), &len_bytes, &version);

		if (err || len_bytes != sizeof(number))
			return 1;
		number++;
		err = store_put(store, "n", &number, sizeof(number), &version);
		if (err && err != AFAR_ECONFLICT)
			return 1;
		done += err == 0;
	}
	return 0;
}

static pid_t fork_child(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void of_many_processes_none_loses_an_increment(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;
	uint64_t version;
	size_t len_bytes;

	if (!f->maker->processes)
		return;
	assert_int_equal(store_create(f->store, "n", &number, sizeof(number), &version), 0);
	for (int i = 0; i < CHILDREN; i++) {
		if (fork_child() == 0)
			_exit(increment(f->maker->open(f->place)));
	}
	for (int i = 0; i < CHILDREN; i++) {
		int status;

		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	assert_int_equal(store_get(f->store, "n", &number, sizeof(number), &len_bytes, &version),
			 0);
	assert_int_equal(number, CHILDREN * INCREMENTS);
}

/* The nth state of a record: 64 KiB of n. */
static void put_states(struct store *store)
{
	static unsigned char bytes[65536];
	uint64_t version;
	size_t len_bytes;

	for (unsigned n = 1;; n++) {
		if (store_get(store, "r", bytes, sizeof(bytes), &len_bytes, &version))
			_exit(1);
		memset(bytes, (int)n, sizeof(bytes));
		if (store_put(store, "r", bytes, sizeof(bytes), &version))
			_exit(1);
	}
}

static void a_killed_writer_leaves_a_whole_record(void **state)
{
	static unsigned char bytes[65536];
	struct fixture *f = *state;
	uint64_t first;
	uint64_t version;
	size_t len_bytes;

	if (!f->maker->processes)
		return;
	assert_int_equal(store_create(f->store, "r", bytes, sizeof(bytes), &first), 0);
	for (int run = 0; run < 5; run++) {
		pid_t pid = fork_child();

		if (pid == 0)
			put_states(f->maker->open(f->place));
		/* Once it is at it, and while it is: each look sees a whole record. */
		do {
			assert_int_equal(store_get(f->store, "r", bytes, sizeof(bytes), &len_bytes,
						   &version),
					 0);
			assert_int_equal(len_bytes, sizeof(bytes));
			assert_memory_equal(bytes, bytes + 1, sizeof(bytes) - 1);
			assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
		} while (version < first + 3);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);

		assert_int_equal(
			store_get(f->store, "r", bytes, sizeof(bytes), &len_bytes, &version), 0);
		assert_memory_equal(bytes, bytes + 1, sizeof(bytes) - 1);
		/* Its lock died with it. */
		assert_int_equal(store_put(f->store, "r", bytes, sizeof(bytes), &version), 0);
		first = version;
	}
}

int store_conformance(const struct store_maker *maker)
{
	/* The maker is each test's first state, which begin() replaces by the fixture. */
#define CONFORMANCE(test)                                                                      \
	{                                                                                      \
		.name = #test, .test_func = (test), .setup_func = begin, .teardown_func = end, \
		.initial_state = (void *)(uintptr_t)maker,                                     \
	}
	const struct CMUnitTest tests[] = {
		CONFORMANCE(a_record_comes_back_as_it_was_made),
		CONFORMANCE(what_is_not_there_is_told),
		CONFORMANCE(a_record_is_made_once),
		CONFORMANCE(a_put_replaces_the_version_that_it_names),
		CONFORMANCE(a_put_of_an_old_version_changes_nothing),
		CONFORMANCE(a_removed_record_is_gone),
		CONFORMANCE(no_version_of_a_name_comes_twice),
		CONFORMANCE(a_folder_lists_its_records),
		CONFORMANCE(names_that_are_none_are_refused),
		CONFORMANCE(a_short_buffer_is_told),
		CONFORMANCE(the_largest_record_fits_and_no_larger),
		CONFORMANCE(what_was_put_is_there_after_all_closed),
		CONFORMANCE(of_many_processes_none_loses_an_increment),
		CONFORMANCE(a_killed_writer_leaves_a_whole_record),
	};

	return cmocka_run_group_tests_name(maker->name, tests, NULL, NULL);
}
