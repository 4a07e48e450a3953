/*
 * hello.c: the handshake; hello.h tells its story
 */
#include "fabric/hello.h"

#include "afar/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Without a key both ends prove that they have none: the same code, and no way around it. */
static const char no_key[] = "afar: a fabric without a key";

static void frame_begin(struct hello_frame *frame, enum hello_kind kind)
{
	memset(frame, 0, sizeof(*frame));
	frame->magic = HELLO_MAGIC;
	frame->version = HELLO_VERSION;
	frame->kind = (uint16_t)kind;
}

void hello_begin(struct hello *hello, const struct hello_self *self, enum hello_role role)
{
	memset(hello, 0, sizeof(*hello));
	hello->role = role;
	hello->state = HELLO_WAIT_HELLO;
	frame_begin(&hello->ours, HELLO_KIND_HELLO);
	hello->ours.transport = self->transport;
	hello->ours.hello.id = self->id;
	hello->ours.hello.operations_max = self->operations_max;
	hello->ours.hello.keyed = self->secret->len_bytes > 0;
	memcpy(hello->ours.hello.boot_id, self->boot_id, sizeof(self->boot_id));
	secret_nonce(self->env, hello->ours.hello.nonce);
}

void hello_refuse(struct hello_frame *frame, int status)
{
	frame_begin(frame, HELLO_KIND_REFUSED);
	frame->status = status;
}

/* What `role` must show on this connection. */
static int prove(const struct hello *hello, const struct hello_self *self, enum hello_role role,
		 uint8_t mac[SECRET_MAC_BYTES])
{
	bool we_connect = hello->role == HELLO_CONNECTOR;
	struct {
		char role[16];
		struct hello_frame connector;
		struct hello_frame acceptor;
	} transcript = {
		.connector = we_connect ? hello->ours : hello->theirs,
		.acceptor = we_connect ? hello->theirs : hello->ours,
	};
	struct secret none;
	const struct secret *secret = self->secret;

	if (secret->len_bytes == 0) {
		(void)secret_set(&none, no_key, sizeof(no_key));
		secret = &none;
	}
	snprintf(transcript.role, sizeof(transcript.role), "%s",
		 role == HELLO_CONNECTOR ? "connector" : "acceptor");
	return hmac_sha256(secret, &transcript, sizeof(transcript), mac);
}

static int send_proof(struct hello *hello, const struct hello_self *self,
		      struct hello_frame *answer, bool *answers)
{
	frame_begin(answer, HELLO_KIND_PROOF);
	*answers = true;
	return prove(hello, self, hello->role, answer->proof.mac);
}

static int take_hello(struct hello *hello, const struct hello_self *self,
		      const struct hello_frame *frame, struct hello_frame *answer, bool *answers)
{
	if (frame->kind != HELLO_KIND_HELLO || frame->hello.id == 0 ||
	    frame->transport != self->transport || frame->hello.operations_max == 0 ||
	    frame->hello.operations_max > HELLO_OPERATIONS_MAX ||
	    memchr(frame->hello.boot_id, 0, FABRIC_BOOT_ID_BYTES) == NULL)
		return -EPROTO;
	/* Somebody who plays our own frames back to us. */
	if (memcmp(frame->hello.nonce, hello->ours.hello.nonce, SECRET_NONCE_BYTES) == 0)
		return AFAR_EAUTH;
	hello->theirs = *frame;
	/* Told apart from a wrong key only for the operator's sake: the proofs would not match. */
	if (frame->hello.keyed != hello->ours.hello.keyed)
		return AFAR_EAUTH;
	hello->state = HELLO_WAIT_PROOF;
	if (hello->role == HELLO_CONNECTOR)
		return send_proof(hello, self, answer, answers);
	*answer = hello->ours;
	*answers = true;
	return 0;
}

static int take_proof(struct hello *hello, const struct hello_self *self,
		      const struct hello_frame *frame, struct hello_frame *answer, bool *answers)
{
	enum hello_role other = hello->role == HELLO_CONNECTOR ? HELLO_ACCEPTOR : HELLO_CONNECTOR;
	uint8_t mac[SECRET_MAC_BYTES];
	int err;

	if (frame->kind != HELLO_KIND_PROOF)
		return -EPROTO;
	err = prove(hello, self, other, mac);
	if (err < 0)
		return err;
	if (!secret_equal(mac, frame->proof.mac, sizeof(mac)))
		return AFAR_EAUTH;
	if (hello->role == HELLO_ACCEPTOR)
		err = send_proof(hello, self, answer, answers);
	if (err < 0)
		return err;
	hello->state = HELLO_PROVEN;
	return 0;
}

/* A reason that came over the wire is some error, or it is nonsense. */
static int refusal(const struct hello_frame *frame)
{
	return frame->status < 0 && frame->status > -4096 ? frame->status : -EPROTO;
}

int hello_take(struct hello *hello, const struct hello_self *self, const struct hello_frame *frame,
	       struct hello_frame *answer, bool *answers)
{
	int err = -EPROTO;

	*answers = false;
	if (frame->magic == HELLO_MAGIC && frame->version != HELLO_VERSION)
		err = AFAR_EVERSION;
	else if (frame->magic == HELLO_MAGIC && frame->kind == HELLO_KIND_REFUSED) {
		hello->state = HELLO_REFUSED;
		return refusal(frame);
	} else if (frame->magic == HELLO_MAGIC && hello->state == HELLO_WAIT_HELLO)
		err = take_hello(hello, self, frame, answer, answers);
	else if (frame->magic == HELLO_MAGIC && hello->state == HELLO_WAIT_PROOF)
		err = take_proof(hello, self, frame, answer, answers);

	if (err < 0) {
		hello->state = HELLO_REFUSED;
		hello_refuse(answer, err);
		*answers = true;
	}
	return err;
}
