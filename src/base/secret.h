/*
 * secret.h: the key of a cluster, and proofs of holding it
 *
 *   Members share one key. Two peers prove to each other that they hold it without showing it:
 *
 *     client                                    server
 *     nonce C                     ────────►
 *                                 ◄────────     nonce S, proof("server", C, S)
 *     checks it
 *     proof("client", C, S)       ────────►     checks it
 *
 *   A proof is an HMAC-SHA256 over the role and both nonces. The role keeps a proof from being
 *   sent back to its maker; fresh nonces on both sides keep it from being used again.
 */
#ifndef AFAR_BASE_SECRET_H
#define AFAR_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECRET_BYTES_MIN   16u
#define SECRET_BYTES_MAX   1024u
#define SECRET_MAC_BYTES   32u
#define SECRET_NONCE_BYTES 32u

struct env;

struct secret {
	size_t len_bytes; /* 0: no key */
	unsigned char bytes[SECRET_BYTES_MAX];
};

/*
 * Reads a key file: a regular file of the caller's user or of root that nobody else may read or
 * write (mode 0600 or 0400). Line ends at its end do not count; SECRET_BYTES_MIN to
 * SECRET_BYTES_MAX bytes remain.
 *
 * -EACCES: owner or mode. -EINVAL: not a regular file, or too short. -EMSGSIZE: too long. Errnos
 * of open and read. *reason, if not NULL, says why in static text. *secret is then empty.
 */
int secret_read(struct secret *secret, const char *path, const char **reason);

/* A key from memory. -EINVAL: too short. -EMSGSIZE: too long. */
int secret_set(struct secret *secret, const void *bytes, size_t len_bytes);

/* Overwrites the key, in a way the compiler keeps. */
void secret_wipe(struct secret *secret);

/* Random bytes from env: unguessable in the real world. */
void secret_nonce(struct env *env, uint8_t nonce[SECRET_NONCE_BYTES]);

/* HMAC-SHA256 of the message under the key, which is not empty. -EIO: OpenSSL failed. */
int hmac_sha256(const struct secret *secret, const void *msg, size_t len_bytes,
		uint8_t mac[SECRET_MAC_BYTES]);

/* The proof of the picture above. `role` is a short text that client and server do not share. */
int secret_prove(const struct secret *secret, const char *role,
		 const uint8_t client_nonce[SECRET_NONCE_BYTES],
		 const uint8_t server_nonce[SECRET_NONCE_BYTES], uint8_t proof[SECRET_MAC_BYTES]);

/* Compares in a time that does not depend on the bytes. */
bool secret_equal(const void *a, const void *b, size_t len_bytes);

#endif
