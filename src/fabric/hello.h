/*
 * hello.h: how two ends of a new connection come to believe each other
 *
 *     connector                              acceptor
 *     HELLO id, boot id, nonce C, limits ──►
 *                                        ◄── HELLO id, boot id, nonce A, limits
 *     PROOF("connector", both hellos)    ──► checks it: only now does it prove anything itself
 *     checks it                          ◄── PROOF("acceptor", both hellos)
 *
 *   A proof is the HMAC-SHA256, under the shared key, of the role and of both HELLO frames as they
 *   were sent. So whatever a HELLO says (id, boot id, limits) is proven with it; fresh nonces keep
 *   a proof from being used again, the role from being sent back to its maker. The acceptor, whom
 *   anybody can reach, shows no proof to a stranger.
 *
 *   Whoever is not convinced sends REFUSED with the reason, so that the other end's operator reads
 *   "wrong key" and not "connection reset", and closes.
 *
 *   Every frame has HELLO_FRAME_BYTES: a transport reads that many and no more before both ends
 *   have proven themselves. This file does no input or output; it is a state machine over frames:
 *
 *     connector   WAIT_HELLO ──HELLO──► WAIT_PROOF ──PROOF──► PROVEN
 *     acceptor    WAIT_HELLO ──HELLO──► WAIT_PROOF ──PROOF──► PROVEN
 *                      └────────── anything else ───────────► REFUSED
 */
#ifndef AFAR_FABRIC_HELLO_H
#define AFAR_FABRIC_HELLO_H

#include "base/secret.h"
#include "fabric/fabric.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HELLO_MAGIC       0x72616661u /* "afar" */
#define HELLO_VERSION     1u
#define HELLO_FRAME_BYTES 128u

/* An end may keep so many operations in flight towards the other, whatever both would like. */
#define HELLO_OPERATIONS_MAX 65536u

enum hello_transport {
	HELLO_TRANSPORT_TCP = 1,
	HELLO_TRANSPORT_SHM = 2,
};

enum hello_kind {
	HELLO_KIND_HELLO = 1,
	HELLO_KIND_PROOF = 2,
	HELLO_KIND_REFUSED = 3,
};

enum hello_role {
	HELLO_CONNECTOR,
	HELLO_ACCEPTOR,
};

enum hello_state {
	HELLO_WAIT_HELLO,
	HELLO_WAIT_PROOF,
	HELLO_PROVEN,
	HELLO_REFUSED,
};

struct hello_frame {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;      /* enum hello_kind */
	int32_t status;     /* REFUSED: why; else 0 */
	uint32_t transport; /* enum hello_transport */
	union {
		struct {
			uint64_t id;
			uint32_t operations_max; /* what this end serves at once */
			uint32_t keyed;          /* 1: this end has a key */
			uint8_t nonce[SECRET_NONCE_BYTES];
			char boot_id[40]; /* zero-terminated, zero-padded; "" where unknown */
			uint8_t reserved[24];
		} hello;
		struct {
			uint8_t mac[SECRET_MAC_BYTES];
			uint8_t reserved[80];
		} proof;
		uint8_t reserved[112];
	};
};

static_assert(sizeof(struct hello_frame) == HELLO_FRAME_BYTES, "version 1");
static_assert(offsetof(struct hello_frame, hello.nonce) == 32, "version 1");
static_assert(offsetof(struct hello_frame, hello.boot_id) == 64, "version 1");
static_assert(offsetof(struct hello_frame, proof.mac) == 16, "version 1");

/* Who we are, the same for every connection of a fabric. */
struct hello_self {
	struct env *env;
	const struct secret *secret; /* empty: no key */
	uint64_t id;
	uint32_t operations_max;
	uint32_t transport; /* a connection of one transport proves nothing to another */
	char boot_id[FABRIC_BOOT_ID_BYTES];
};

/* One connection's handshake. Read `state` and, once PROVEN, `theirs`. */
struct hello {
	enum hello_role role;
	enum hello_state state;
	struct hello_frame ours;
	struct hello_frame theirs;
};

/* Begins, and makes our HELLO; the connector sends it at once. */
void hello_begin(struct hello *hello, const struct hello_self *self, enum hello_role role);

/*
 * Takes a frame that arrived. `answer` is then to be sent if *answers is true, also when the
 * connection is refused.
 *
 * 0: go on; look at hello->state. AFAR_EAUTH: the other end does not hold our key; it or we said
 * so. AFAR_EVERSION. -EPROTO: not a frame, or out of place. Another negative errno: the reason
 * that the other end gave, or no memory. After an error close the connection.
 */
int hello_take(struct hello *hello, const struct hello_self *self, const struct hello_frame *frame,
	       struct hello_frame *answer, bool *answers);

/* Makes the frame that tells the other end why it is turned away. */
void hello_refuse(struct hello_frame *frame, int status);

#endif
