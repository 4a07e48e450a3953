/*
 * test_secret.c: keys are read with care, proofs prove
 */
#include "base/base.h"
#include "base/env.h"
#include "base/secret.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 64

/* A key file with these bytes and this mode; removed by the caller. */
static void make_key(char path[PATH_BYTES], const void *bytes, size_t len, mode_t mode)
{
	int fd;

	(void)snprintf(path, PATH_BYTES, "/tmp/afar-test-key-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), (ssize_t)len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static int read_key(const void *bytes, size_t len, mode_t mode, struct secret *secret)
{
	const char *reason = NULL;
	char path[PATH_BYTES];
	int err;

	make_key(path, bytes, len, mode);
	err = secret_read(secret, path, &reason);
	assert_true(err == 0 || (reason && secret->len_bytes == 0));
	assert_int_equal(secret_read(secret, path, NULL), err);
	assert_int_equal(unlink(path), 0);
	return err;
}

static void a_key_file_is_read_without_its_line_end(void **state)
{
	struct secret secret;

	assert_int_equal(read_key("0123456789abcdef\n", 17, 0600, &secret), 0);
	assert_int_equal(secret.len_bytes, 16);
	assert_memory_equal(secret.bytes, "0123456789abcdef", 16);
	assert_int_equal(read_key("0123456789abcdefgh\r\n", 20, 0400, &secret), 0);
	assert_int_equal(secret.len_bytes, 18);
	secret_wipe(&secret);
	assert_int_equal(secret.len_bytes, 0);
	assert_int_equal(secret.bytes[0], 0);
}

static void a_key_that_others_may_touch_is_refused(void **state)
{
	static const mode_t modes[] = {0640, 0604, 0620, 0602, 0610, 0777};
	struct secret secret;

	for (unsigned i = 0; i < ARRAY_COUNT(modes); i++)
		assert_int_equal(read_key("0123456789abcdef", 16, modes[i], &secret), -EACCES);
}

static void a_key_has_a_least_and_a_greatest_length(void **state)
{
	static char bytes[2 * SECRET_BYTES_MAX];
	struct secret secret;

	memset(bytes, 'k', sizeof(bytes));
	assert_int_equal(read_key(bytes, SECRET_BYTES_MIN - 1, 0600, &secret), -EINVAL);
	assert_int_equal(read_key("0123456789abcde\n", 16, 0600, &secret), -EINVAL);
	assert_int_equal(read_key(bytes, 0, 0600, &secret), -EINVAL);
	assert_int_equal(read_key(bytes, SECRET_BYTES_MAX, 0600, &secret), 0);
	assert_int_equal(read_key(bytes, SECRET_BYTES_MAX + 1, 0600, &secret), -EMSGSIZE);
	assert_int_equal(read_key(bytes, sizeof(bytes), 0600, &secret), -EMSGSIZE);
}

static void what_is_no_file_is_no_key(void **state)
{
	const char *reason = NULL;
	char dir[] = "/tmp/afar-test-key-XXXXXX";
	char path[PATH_BYTES];
	struct secret secret;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(secret_read(&secret, dir, &reason), -EINVAL);
	assert_true(snprintf(path, sizeof(path), "%s/pipe", dir) < PATH_BYTES);
	assert_int_equal(secret_read(&secret, path, &reason), -ENOENT);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(secret_read(&secret, path, &reason), -EINVAL); /* and does not wait */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
}

/* RFC 4231, test case 3. */
static void the_mac_is_that_of_the_standard(void **state)
{
	static const uint8_t expected[SECRET_MAC_BYTES] = {
		0x77, 0x3e, 0xa9, 0x1e, 0x36, 0x80, 0x0e, 0x46, 0x85, 0x4d, 0xb8,
		0xeb, 0xd0, 0x91, 0x81, 0xa7, 0x29, 0x59, 0x09, 0x8b, 0x3e, 0xf8,
		0xc1, 0x22, 0xd9, 0x63, 0x55, 0x14, 0xce, 0xd5, 0x65, 0xfe,
	};
	uint8_t key[20];
	uint8_t msg[50];
	uint8_t mac[SECRET_MAC_BYTES];
	struct secret secret;

	memset(key, 0xaa, sizeof(key));
	memset(msg, 0xdd, sizeof(msg));
	assert_int_equal(secret_set(&secret, key, sizeof(key)), 0);
	assert_int_equal(hmac_sha256(&secret, msg, sizeof(msg), mac), 0);
	assert_memory_equal(mac, expected, sizeof(mac));
}

static void a_proof_is_of_the_key_the_role_and_both_nonces(void **state)
{
	uint8_t nonces[3][SECRET_NONCE_BYTES];
	uint8_t proof[SECRET_MAC_BYTES];
	uint8_t other[SECRET_MAC_BYTES];
	struct secret secret;
	struct secret another;

	for (int i = 0; i < 3; i++)
		secret_nonce(env_real(), nonces[i]);
	assert_memory_not_equal(nonces[0], nonces[1], SECRET_NONCE_BYTES);
	assert_int_equal(secret_set(&secret, "0123456789abcdef", 16), 0);
	assert_int_equal(secret_set(&another, "0123456789abcdeF", 16), 0);
	assert_int_equal(secret_prove(&secret, "client", nonces[0], nonces[1], proof), 0);
	assert_int_equal(secret_prove(&secret, "client", nonces[0], nonces[1], other), 0);
	assert_true(secret_equal(proof, other, sizeof(proof)));
	assert_int_equal(secret_prove(&another, "client", nonces[0], nonces[1], other), 0);
	assert_false(secret_equal(proof, other, sizeof(proof)));
	assert_int_equal(secret_prove(&secret, "server", nonces[0], nonces[1], other), 0);
	assert_false(secret_equal(proof, other, sizeof(proof)));
	assert_int_equal(secret_prove(&secret, "client", nonces[2], nonces[1], other), 0);
	assert_false(secret_equal(proof, other, sizeof(proof)));
	assert_int_equal(secret_prove(&secret, "client", nonces[0], nonces[2], other), 0);
	assert_false(secret_equal(proof, other, sizeof(proof)));
	assert_int_equal(secret_prove(&secret, "client", nonces[1], nonces[0], other), 0);
	assert_false(secret_equal(proof, other, sizeof(proof)));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_file_is_read_without_its_line_end),
		cmocka_unit_test(a_key_that_others_may_touch_is_refused),
		cmocka_unit_test(a_key_has_a_least_and_a_greatest_length),
		cmocka_unit_test(what_is_no_file_is_no_key),
		cmocka_unit_test(the_mac_is_that_of_the_standard),
		cmocka_unit_test(a_proof_is_of_the_key_the_role_and_both_nonces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
