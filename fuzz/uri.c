/*
 * uri.c: addresses come from peers' hellos and from the configuration store
 *
 * Whatever parses must print as text that parses to the same; nothing may be written past *uri.
 */
#include "base/uri.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
	static char printed[URI_TEXT_BYTES_MAX + 8];
	static char again[URI_TEXT_BYTES_MAX + 8];
	static struct uri uri;
	const char *reason = NULL;
	/* Of exactly its size, so that a read past the NUL is seen. */
	char *text = malloc(len_bytes + 1);

	if (!text)
		return 0;
	memcpy(text, bytes, len_bytes);
	text[len_bytes] = '\0';
	if (uri_parse(&uri, text, &reason)) {
		assert(reason);
	} else {
		assert(uri.host_count <= URI_HOSTS_MAX);
		assert(uri_print(&uri, printed, sizeof(printed)) == 0);
		assert(uri_parse(&uri, printed, NULL) == 0);
		assert(uri_print(&uri, again, sizeof(again)) == 0);
		assert(strcmp(printed, again) == 0);
	}
	free(text);
	return 0;
}
