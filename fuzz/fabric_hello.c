/*
 * fabric_hello.c: whatever somebody without the key says, in either role, he is never believed
 */
#include "base/env.h"
#include "fabric/hello.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static uint64_t same_number(struct env *env)
{
	return 4;
}

/* Deterministic: an input does the same whenever it is tried. */
static const struct env_ops ops = {.random = same_number};

static void listen_to(enum hello_role role, const uint8_t *bytes, size_t len_bytes)
{
	struct env env = {.ops = &ops};
	struct secret secret;
	struct hello_self self = {
		.env = &env,
		.secret = &secret,
		.id = 1,
		.operations_max = 1,
		.transport = HELLO_TRANSPORT_TCP,
	};
	struct hello hello;

	secret_set(&secret, "a key that no input can hold", 28);
	hello_begin(&hello, &self, role);
	for (; len_bytes >= HELLO_FRAME_BYTES;
	     bytes += HELLO_FRAME_BYTES, len_bytes -= HELLO_FRAME_BYTES) {
		struct hello_frame frame;
		struct hello_frame answer;
		bool answers;

		memcpy(&frame, bytes, sizeof(frame));
		if (hello_take(&hello, &self, &frame, &answer, &answers) != 0) {
			if (hello.state != HELLO_REFUSED)
				abort();
			return;
		}
		if (hello.state == HELLO_PROVEN || hello.theirs.hello.id == 0)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	listen_to(HELLO_CONNECTOR, bytes, len_bytes);
	listen_to(HELLO_ACCEPTOR, bytes, len_bytes);
	return 0;
}
