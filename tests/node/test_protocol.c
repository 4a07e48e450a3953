/*
 * test_protocol.c: the form of messages
 */
#include "node/protocol.h"

#include "afar/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct node_message of_kind(uint16_t kind)
{
	struct node_message message;

	/* Bytes that are no count beyond its bound wherever they stand. */
	memset(&message, 1, sizeof(message));
	message.head = (struct node_message_head){
		.magic = NODE_PROTOCOL_MAGIC,
		.version = NODE_PROTOCOL_VERSION,
		.kind = kind,
		.request = 5,
		.status = -7,
	};
	if (kind == NODE_LIST || kind == NODE_LISTED)
		message.list.count = NODE_KEYS_MAX;
	if (kind == NODE_ACTIVITY || kind == NODE_ACTIVITY_ASK)
		message.activity.count = NODE_KEYS_MAX;
	if (kind == NODE_EVICT_ANSWER)
		message.evict.answer = NODE_EVICT_MOVED;
	return message;
}

static int decode(const struct node_message *message, uint32_t len_bytes, struct node_message *out)
{
	/* Memory of exactly this length, so that the sanitizer sees a read beyond it. */
	void *exact = malloc(len_bytes + (len_bytes == 0));
	int err;

	assert_non_null(exact);
	memcpy(exact, message, len_bytes);
	err = node_message_decode(exact, len_bytes, out);
	free(exact);
	return err;
}

static void each_kind_comes_back_with_zeros_behind_it(void **state)
{
	for (unsigned n = NODE_QUERY; n < NODE_MESSAGE_KINDS; n++) {
		uint16_t kind = (uint16_t)n;
		const struct node_message message = of_kind(kind);
		const unsigned char zeros[sizeof(message)] = {0};
		struct node_message out;
		uint32_t len_bytes = node_message_bytes(kind);

		assert_in_range(len_bytes, sizeof(message.head) + 1, sizeof(message));
		memset(&out, 0xff, sizeof(out));
		assert_int_equal(decode(&message, len_bytes, &out), 0);
		assert_memory_equal(&out, &message, len_bytes);
		assert_memory_equal((char *)&out + len_bytes, zeros, sizeof(out) - len_bytes);
	}
}

static void any_other_length_is_refused(void **state)
{
	for (unsigned n = NODE_QUERY; n < NODE_MESSAGE_KINDS; n++) {
		uint16_t kind = (uint16_t)n;
		const struct node_message message = of_kind(kind);
		struct node_message out;

		for (uint32_t len_bytes = 0; len_bytes <= sizeof(message); len_bytes++) {
			if (len_bytes != node_message_bytes(kind))
				assert_int_equal(decode(&message, len_bytes, &out), -EPROTO);
		}
	}
}

static void unknown_kinds_have_no_length(void **state)
{
	assert_int_equal(node_message_bytes(0), 0);
	assert_int_equal(node_message_bytes(NODE_MESSAGE_KINDS), 0);
	assert_int_equal(node_message_bytes(UINT16_MAX), 0);
}

static void another_version_is_told_apart_from_nonsense(void **state)
{
	struct node_message message = of_kind(NODE_QUERY);
	struct node_message out;

	message.head.version++;
	assert_int_equal(decode(&message, node_message_bytes(NODE_QUERY), &out), AFAR_EVERSION);
	message.head.magic++;
	assert_int_equal(decode(&message, node_message_bytes(NODE_QUERY), &out), -EPROTO);
}

/* The wire's layout, which no compiler and no later version may change. */
static void the_layout_is_that_of_version_1(void **state)
{
	assert_int_equal(offsetof(struct node_message, slab.slab.piece), 24);
	assert_int_equal(offsetof(struct node_message, slab.slab.key), 32);
	assert_int_equal(offsetof(struct node_message, slab.owner), 40);
	assert_int_equal(offsetof(struct node_message, slab.owner_epoch), 48);
	assert_int_equal(offsetof(struct node_message, claim.owner_epoch), 32);
	assert_int_equal(offsetof(struct node_message, list.slabs), 32);
	assert_int_equal(offsetof(struct node_message, activity.keys), 24);
	assert_int_equal(offsetof(struct node_message, activity.activity), 24 + 64 * 8);
	assert_int_equal(offsetof(struct node_message, evict.deadline_ms), 40);
	assert_int_equal(offsetof(struct node_message, evict.answer), 48);
	assert_int_equal(node_message_bytes(NODE_QUERY), 24);
	assert_int_equal(node_message_bytes(NODE_ALLOCATE), 64);
	assert_int_equal(node_message_bytes(NODE_LISTED), 32 + 64 * 24);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_comes_back_with_zeros_behind_it),
		cmocka_unit_test(any_other_length_is_refused),
		cmocka_unit_test(unknown_kinds_have_no_length),
		cmocka_unit_test(another_version_is_told_apart_from_nonsense),
		cmocka_unit_test(the_layout_is_that_of_version_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
