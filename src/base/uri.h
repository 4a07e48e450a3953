/*
 * uri.h: addresses as people type them
 *
 *     tcp://host:port[,host:port…]     verbs://host:port      host:port (bare: URI_HOST)
 *     shm:/path/to/socket              shm: (bare: the caller chooses the path)
 *     zk://host:port[,host:port…]/path dir:/path              local:           sim://N
 *
 *   An IPv6 address stands in brackets. A host may be empty, in front of a port: any address.
 *   Parsing resolves nothing and touches no file. The text may come from a peer: every length and
 *   number is checked, and control characters, spaces and bytes above 126 are refused.
 */
#ifndef AFAR_BASE_URI_H
#define AFAR_BASE_URI_H

#include <stddef.h>
#include <stdint.h>

#define URI_TEXT_BYTES_MAX 4096u /* a longer text is refused */
#define URI_HOSTS_MAX      64u
#define URI_HOST_BYTES     254u /* a DNS name has at most 253 */
#define URI_PATH_BYTES     1024u
#define URI_SHM_PATH_BYTES 108u /* what a sockaddr_un holds */

enum uri_kind {
	URI_HOST,  /* hosts[0] */
	URI_TCP,   /* hosts */
	URI_VERBS, /* hosts[0] */
	URI_SHM,   /* path, or "" */
	URI_ZK,    /* hosts, and path or "" */
	URI_DIR,   /* path */
	URI_LOCAL, /* nothing */
	URI_SIM,   /* machine */
};

struct uri_host {
	char name[URI_HOST_BYTES]; /* without brackets; "" is any address */
	uint16_t port;             /* 0 lets the kernel choose */
};

/* 17 KiB. */
struct uri {
	enum uri_kind kind;
	uint32_t machine;
	uint32_t host_count;
	struct uri_host hosts[URI_HOSTS_MAX];
	char path[URI_PATH_BYTES];
};

/*
 * -EINVAL: malformed; *reason, if not NULL, points to static text that says how, as in
 * "tcp://node:99999: " and the reason. *uri is then undefined.
 */
int uri_parse(struct uri *uri, const char *text, const char **reason);

/* One bare host:port. Errors as for uri_parse. */
int uri_parse_host(struct uri_host *host, const char *text, const char **reason);

/* The text that parses to *uri. -EMSGSIZE: longer than the buffer. */
int uri_print(const struct uri *uri, char *buf, size_t size_bytes);

/* host:port, the host in brackets if it is an IPv6 address. -EMSGSIZE. */
int uri_print_host(const struct uri_host *host, char *buf, size_t size_bytes);

#endif
