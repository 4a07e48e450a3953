#include "base/secret.h"

#include "base/base.h"
#include "base/env.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROLE_BYTES 16u

static int fail(const char **reason, const char *text, int err)
{
	*reason = text;
	return err;
}

static int check_file(int fd, const char **reason)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return fail(reason, "its mode cannot be read", -errno);
	if (!S_ISREG(status.st_mode))
		return fail(reason, "not a regular file", -EINVAL);
	if (status.st_uid != geteuid() && status.st_uid != 0)
		return fail(reason, "belongs to another user", -EACCES);
	if (status.st_mode & (S_IRWXG | S_IRWXO))
		return fail(reason, "others may read or write it: the mode must be 0600", -EACCES);
	return 0;
}

/* Reads at most size_bytes; returns how many, or a negative errno. */
static ssize_t read_up_to(int fd, unsigned char *buf, size_t size_bytes)
{
	size_t len = 0;

	while (len < size_bytes) {
		ssize_t n = read(fd, buf + len, size_bytes - len);

		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return -errno;
		len += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)len;
}

static size_t without_line_ends(const unsigned char *bytes, size_t len)
{
	while (len > 0 && (bytes[len - 1] == '\n' || bytes[len - 1] == '\r'))
		len--;
	return len;
}

static int read_key(struct secret *secret, int fd, const char **reason)
{
	unsigned char bytes[SECRET_BYTES_MAX + 3]; /* a line end, and one byte to see more */
	ssize_t len;
	int err = check_file(fd, reason);

	if (err)
		return err;
	len = read_up_to(fd, bytes, sizeof(bytes));
	if (len < 0)
		return fail(reason, "it cannot be read", (int)len);
	err = len == (ssize_t)sizeof(bytes)
		      ? -EMSGSIZE
		      : secret_set(secret, bytes, without_line_ends(bytes, (size_t)len));
	OPENSSL_cleanse(bytes, sizeof(bytes));
	if (err == -EMSGSIZE)
		*reason = "the key is longer than 1024 bytes";
	else if (err)
		*reason = "the key is shorter than 16 bytes";
	return err;
}

int secret_read(struct secret *secret, const char *path, const char **reason)
{
	const char *unused;
	int fd;
	int err;

	reason = reason ? reason : &unused;
	*secret = (struct secret){0};
	/* Nonblocking: the open of a pipe without a writer would wait. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fail(reason, "it cannot be opened", -errno);
	err = read_key(secret, fd, reason);
	close(fd);
	return err;
}

int secret_set(struct secret *secret, const void *bytes, size_t len_bytes)
{
	*secret = (struct secret){0};
	if (len_bytes < SECRET_BYTES_MIN)
		return -EINVAL;
	if (len_bytes > SECRET_BYTES_MAX)
		return -EMSGSIZE;
	memcpy(secret->bytes, bytes, len_bytes);
	secret->len_bytes = len_bytes;
	return 0;
}

void secret_wipe(struct secret *secret)
{
	OPENSSL_cleanse(secret, sizeof(*secret));
}

void secret_nonce(struct env *env, uint8_t nonce[SECRET_NONCE_BYTES])
{
	for (size_t i = 0; i < SECRET_NONCE_BYTES; i += sizeof(uint64_t)) {
		uint64_t random = env_random(env);

		memcpy(nonce + i, &random, sizeof(random));
	}
}

int hmac_sha256(const struct secret *secret, const void *msg, size_t len_bytes,
		uint8_t mac[SECRET_MAC_BYTES])
{
	unsigned mac_bytes = 0;

	assert(secret->len_bytes >= SECRET_BYTES_MIN);
	if (!HMAC(EVP_sha256(), secret->bytes, (int)secret->len_bytes, msg, len_bytes, mac,
		  &mac_bytes))
		return -EIO;
	assert(mac_bytes == SECRET_MAC_BYTES);
	return 0;
}

/* The role has a field of fixed width, so no two triples make the same message. */
int secret_prove(const struct secret *secret, const char *role,
		 const uint8_t client_nonce[SECRET_NONCE_BYTES],
		 const uint8_t server_nonce[SECRET_NONCE_BYTES], uint8_t proof[SECRET_MAC_BYTES])
{
	uint8_t msg[ROLE_BYTES + 2 * SECRET_NONCE_BYTES] = {0};

	assert(strlen(role) <= ROLE_BYTES);
	memcpy(msg, role, strlen(role));
	memcpy(msg + ROLE_BYTES, client_nonce, SECRET_NONCE_BYTES);
	memcpy(msg + ROLE_BYTES + SECRET_NONCE_BYTES, server_nonce, SECRET_NONCE_BYTES);
	return hmac_sha256(secret, msg, sizeof(msg), proof);
}

bool secret_equal(const void *a, const void *b, size_t len_bytes)
{
	return CRYPTO_memcmp(a, b, len_bytes) == 0;
}
