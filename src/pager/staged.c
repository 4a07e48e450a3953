/*
 * staged.c: far memory on other machines: the supervisor's pool carries the bytes
 *
 *   The first half of the session's staging pages holds the batch that is being stored, one page
 *   an item, until the supervisor says that it is protected; whoever misses one of those pages in
 *   between gets it back from there. The second half receives what is loaded.
 */
#include "pager/state.h"

#include "afar/error.h"

#include <errno.h>

static unsigned char *staging_page(const struct pager *pager, unsigned i)
{
	return pager->staging + (size_t)i * KERNEL_PAGE_BYTES;
}

static int staged_store(struct pager *pager)
{
	struct session_message message = talk_message_of(SESSION_STORE);

	message.count = pager->stores.count;
	for (unsigned i = 0; i < pager->stores.count; i++) {
		struct store *store = &pager->stores.item[i];

		raw_copy(staging_page(pager, i), store->bytes, KERNEL_PAGE_BYTES);
		store->bytes = staging_page(pager, i);
		message.slot[i] = store->slot;
		message.staging[i] = (uint16_t)i;
	}
	talk_send(pager, &message);
	return pager->options.mutations & PAGER_MUTATE_ACK_ORDER ? 0 : 1;
}

void staged_answer(struct pager *pager, const struct session_message *answer)
{
	evict_stored(pager, answer->status);
}

static void staged_load(struct pager *pager, const uint32_t *slot, unsigned n, const void **bytes,
			uint64_t page)
{
	struct session_message message = talk_message_of(SESSION_LOAD);
	int err;

	message.count = n;
	for (unsigned i = 0; i < n; i++) {
		unsigned place = SESSION_STAGING_PAGES / 2 + i;

		message.slot[i] = slot[i];
		message.staging[i] = (uint16_t)place;
		bytes[i] = staging_page(pager, place);
	}
	err = talk_call(pager, &message, NULL);
	if (err)
		talk_fail(pager, err == AFAR_ECHECKSUM ? SESSION_FAIL_CHECKSUM : SESSION_FAIL_LOST,
			  page);
}

const struct backend staged_backend = {
	.store = staged_store,
	.load = staged_load,
	.load_max = LOADS_MAX,
};
