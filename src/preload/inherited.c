/* inherited.c: see inherited.h */
#include "preload/inherited.h"

#include "pager/session.h"

#include <string.h>

#define PRELOAD_NAME "LD_PRELOAD="
#define SOCKET_NAME  SESSION_SOCKET_ENV "="
#define TOKEN_NAME   SESSION_TOKEN_ENV "="

static bool begins_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

bool inherited_lists(const char *names, const char *path)
{
	size_t len = strlen(path);

	while (*names) {
		size_t name_len = strcspn(names, ": ");

		if (name_len == len && memcmp(names, path, len) == 0)
			return true;
		names += name_len;
		names += strspn(names, ": ");
	}
	return false;
}

/* One of the entries that we answer for. */
static bool is_ours(const char *entry)
{
	return begins_with(entry, PRELOAD_NAME) || begins_with(entry, SOCKET_NAME) ||
	       begins_with(entry, TOKEN_NAME);
}

static const char *our_path(const struct inherited *inherited)
{
	return inherited->preload + strlen(PRELOAD_NAME);
}

/* What the environment says of LD_PRELOAD: the first entry counts, as for the loader. */
static const char *preload_of(char *const *environment)
{
	for (size_t i = 0; environment && environment[i]; i++) {
		if (begins_with(environment[i], PRELOAD_NAME))
			return environment[i] + strlen(PRELOAD_NAME);
	}
	return NULL;
}

static bool is_right(const struct inherited *inherited, char *const *environment)
{
	const char *preload = preload_of(environment);
	bool socket = false, token = false;

	if (!preload || !inherited_lists(preload, our_path(inherited)))
		return false;
	for (size_t i = 0; environment[i]; i++) {
		if (begins_with(environment[i], SOCKET_NAME)) {
			if (strcmp(environment[i], inherited->socket) != 0)
				return false;
			socket = true;
		} else if (begins_with(environment[i], TOKEN_NAME)) {
			if (strcmp(environment[i], inherited->token) != 0)
				return false;
			token = true;
		}
	}
	return socket && token;
}

size_t inherited_bytes(const struct inherited *inherited, char *const *environment)
{
	const char *preload = preload_of(environment);
	size_t entries = 0;

	if (is_right(inherited, environment))
		return 0;
	while (environment && environment[entries])
		entries++;
	/* Three of ours, the end; and LD_PRELOAD joined from both. */
	return (entries + 4) * sizeof(char *) + strlen(inherited->preload) + 1 +
	       (preload ? strlen(preload) : 0) + 1;
}

/* Copies the text with its end, and returns where that is. */
static char *append(char *at, const char *text)
{
	size_t len = strlen(text);

	memcpy(at, text, len + 1);
	return at + len;
}

char *const *inherited_merge(const struct inherited *inherited, char *const *environment,
			     void *memory)
{
	const char *preload = preload_of(environment);
	char **list = memory;
	size_t entries = 0, kept = 0;
	char *joined;

	while (environment && environment[entries])
		entries++;
	for (size_t i = 0; i < entries; i++) {
		if (!is_ours(environment[i]))
			list[kept++] = environment[i];
	}
	joined = (char *)(list + entries + 4);
	if (preload && inherited_lists(preload, our_path(inherited))) {
		append(append(joined, PRELOAD_NAME), preload);
	} else {
		char *end = append(joined, inherited->preload);

		if (preload && *preload)
			append(append(end, ":"), preload);
	}
	list[kept++] = joined;
	list[kept++] = (char *)inherited->socket;
	list[kept++] = (char *)inherited->token;
	list[kept] = NULL;
	return list;
}
