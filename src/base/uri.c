#include "base/uri.h"

#include "base/base.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A piece of the text being parsed: from `at`, len bytes, without NUL. */
struct piece {
	const char *at;
	size_t len;
};

static int refuse(const char **reason, const char *text)
{
	*reason = text;
	return -EINVAL;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_host_char(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
	       c == '-' || c == '_';
}

/* Digits to a number not above `most`. */
static int parse_number(struct piece piece, uint64_t most, uint64_t *number, const char **reason)
{
	*number = 0;
	if (piece.len == 0)
		return refuse(reason, "a number is missing");
	for (size_t i = 0; i < piece.len; i++) {
		if (!is_digit(piece.at[i]))
			return refuse(reason, "not a number");
		/* `most` has at most 10 digits: no overflow before the check. */
		*number = *number * 10 + (uint64_t)(piece.at[i] - '0');
		if (*number > most)
			return refuse(reason, "the number is too large");
	}
	return 0;
}

/* ---- host:port ---- */

static bool is_ipv6(const char *name)
{
	struct in6_addr address;

	return inet_pton(AF_INET6, name, &address) == 1;
}

/* Takes "[address]" or "name" off the front of the piece; what follows the name remains. */
static int take_host_name(struct piece *piece, struct uri_host *host, const char **reason)
{
	bool bracketed = piece->len > 0 && piece->at[0] == '[';
	const char *end =
		bracketed ? memchr(piece->at, ']', piece->len) : memchr(piece->at, ':', piece->len);
	struct piece name = *piece;

	if (!end)
		return refuse(reason, bracketed ? "a bracket is not closed"
						: "the port is missing: host:port");
	name.at += bracketed;
	name.len = (size_t)(end - name.at);
	if (name.len >= sizeof(host->name))
		return refuse(reason, "the host's name is too long");
	memcpy(host->name, name.at, name.len);
	host->name[name.len] = '\0';
	if (bracketed && !is_ipv6(host->name))
		return refuse(reason, "no IPv6 address stands in the brackets");
	for (size_t i = 0; !bracketed && i < name.len; i++) {
		if (!is_host_char(name.at[i]))
			return refuse(reason, "the host's name holds a character that none may");
	}
	end += bracketed;
	piece->len -= (size_t)(end - piece->at);
	piece->at = end;
	return 0;
}

static int parse_host(struct piece piece, struct uri_host *host, const char **reason)
{
	uint64_t port;
	int err = take_host_name(&piece, host, reason);

	if (err)
		return err;
	if (piece.len == 0 || piece.at[0] != ':')
		return refuse(reason, "the port is missing: host:port");
	if (memchr(piece.at + 1, ':', piece.len - 1))
		return refuse(reason, "an IPv6 address must stand in brackets: [address]:port");
	piece.at++;
	piece.len--;
	err = parse_number(piece, UINT16_MAX, &port, reason);
	if (err)
		return refuse(reason, "the port is not a number from 0 to 65535");
	host->port = (uint16_t)port;
	return 0;
}

static int parse_hosts(struct piece piece, struct uri *uri, uint32_t most, const char **reason)
{
	for (;;) {
		const char *comma = memchr(piece.at, ',', piece.len);
		struct piece one = {piece.at, comma ? (size_t)(comma - piece.at) : piece.len};
		int err;

		if (uri->host_count == most)
			return refuse(reason, most == 1 ? "only one host is allowed here"
							: "more than 64 hosts");
		err = parse_host(one, &uri->hosts[uri->host_count], reason);
		if (err)
			return err;
		uri->host_count++;
		if (!comma)
			return 0;
		piece.at += one.len + 1;
		piece.len -= one.len + 1;
	}
}

/* ---- paths ---- */

static int parse_path(struct piece piece, struct uri *uri, size_t size_bytes, const char **reason)
{
	if (piece.len == 0 || piece.at[0] != '/')
		return refuse(reason, "the path must begin with /");
	if (piece.len >= size_bytes)
		return refuse(reason, "the path is too long");
	memcpy(uri->path, piece.at, piece.len);
	uri->path[piece.len] = '\0';
	return 0;
}

/* ---- schemes ---- */

/* hosts[/path] */
static int parse_zk(struct piece piece, struct uri *uri, const char **reason)
{
	const char *slash = memchr(piece.at, '/', piece.len);
	struct piece hosts = {piece.at, slash ? (size_t)(slash - piece.at) : piece.len};
	struct piece path = {slash, slash ? piece.len - hosts.len : 0};
	int err = parse_hosts(hosts, uri, URI_HOSTS_MAX, reason);

	if (err || !slash)
		return err;
	return parse_path(path, uri, URI_PATH_BYTES, reason);
}

static int parse_rest(struct piece rest, struct uri *uri, const char **reason)
{
	uint64_t number;
	int err;

	switch (uri->kind) {
	case URI_HOST:
	case URI_VERBS:
		return parse_hosts(rest, uri, 1, reason);
	case URI_TCP:
		return parse_hosts(rest, uri, URI_HOSTS_MAX, reason);
	case URI_ZK:
		return parse_zk(rest, uri, reason);
	case URI_SHM:
		return rest.len == 0 ? 0 : parse_path(rest, uri, URI_SHM_PATH_BYTES, reason);
	case URI_DIR:
		return parse_path(rest, uri, URI_PATH_BYTES, reason);
	case URI_LOCAL:
		return rest.len == 0 ? 0 : refuse(reason, "nothing may follow local:");
	case URI_SIM:
		err = parse_number(rest, UINT32_MAX, &number, reason);
		uri->machine = (uint32_t)number;
		return err;
	}
	return refuse(reason, "unknown scheme");
}

struct scheme {
	const char *prefix;
	enum uri_kind kind;
};

static const struct scheme schemes[] = {
	{"tcp://", URI_TCP}, {"verbs://", URI_VERBS}, {"shm:", URI_SHM},     {"zk://", URI_ZK},
	{"dir:", URI_DIR},   {"sim://", URI_SIM},     {"local:", URI_LOCAL},
};

/* The scheme that the text begins with; a bare host:port has none, and the prefix "". */
static struct scheme scheme_of(const char *text)
{
	for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
		if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
			return schemes[i];
	}
	return (struct scheme){"", URI_HOST};
}

static int check_text(const char *text, size_t *len, const char **reason)
{
	*len = strnlen(text, URI_TEXT_BYTES_MAX + 1);
	if (*len == 0)
		return refuse(reason, "the address is empty");
	if (*len > URI_TEXT_BYTES_MAX)
		return refuse(reason, "the address is too long");
	for (size_t i = 0; i < *len; i++) {
		if (text[i] <= ' ' || text[i] >= 0x7f)
			return refuse(reason, "a space, a control or a non-ASCII character");
	}
	return 0;
}

int uri_parse(struct uri *uri, const char *text, const char **reason)
{
	const char *unused;
	struct scheme scheme;
	struct piece rest;
	size_t len;
	int err;

	reason = reason ? reason : &unused;
	err = check_text(text, &len, reason);
	if (err)
		return err;
	scheme = scheme_of(text);
	if (scheme.kind == URI_HOST && strstr(text, "://"))
		return refuse(reason, "unknown scheme: tcp, verbs, shm, zk, dir, local and sim "
				      "are known");
	uri->kind = scheme.kind;
	uri->machine = 0;
	uri->host_count = 0;
	uri->path[0] = '\0';
	rest.at = text + strlen(scheme.prefix);
	rest.len = len - strlen(scheme.prefix);
	return parse_rest(rest, uri, reason);
}

int uri_parse_host(struct uri_host *host, const char *text, const char **reason)
{
	const char *unused;
	size_t len;
	int err;

	reason = reason ? reason : &unused;
	err = check_text(text, &len, reason);
	return err ? err : parse_host((struct piece){text, len}, host, reason);
}

/* ---- printing ---- */

/* Text appended piece by piece; -EMSGSIZE sticks. */
struct print {
	char *buf;
	size_t size_bytes;
	size_t len;
	int err;
};

__attribute__((format(printf, 2, 3))) static void print(struct print *print, const char *format,
							...)
{
	size_t room = print->size_bytes - print->len;
	va_list args;
	int printed;

	if (print->err)
		return;
	va_start(args, format);
	printed = vsnprintf(print->buf + print->len, room, format, args);
	va_end(args);
	if (printed < 0 || (size_t)printed >= room)
		print->err = -EMSGSIZE;
	else
		print->len += (size_t)printed;
}

static void print_host(struct print *out, const struct uri_host *host)
{
	bool bracketed = strchr(host->name, ':');

	print(out, "%s%s%s:%u", bracketed ? "[" : "", host->name, bracketed ? "]" : "", host->port);
}

int uri_print_host(const struct uri_host *host, char *buf, size_t size_bytes)
{
	struct print out = {.buf = buf, .size_bytes = size_bytes};

	print_host(&out, host);
	return out.err;
}

int uri_print(const struct uri *uri, char *buf, size_t size_bytes)
{
	struct print out = {.buf = buf, .size_bytes = size_bytes};

	for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
		if (schemes[i].kind == uri->kind)
			print(&out, "%s", schemes[i].prefix);
	}
	for (uint32_t i = 0; i < uri->host_count; i++) {
		print(&out, "%s", i > 0 ? "," : "");
		print_host(&out, &uri->hosts[i]);
	}
	if (uri->kind == URI_SIM)
		print(&out, "%" PRIu32, uri->machine);
	print(&out, "%s", uri->path);
	return out.err;
}
