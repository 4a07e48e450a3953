#include "base/metrics_http.h"

#include "base/base.h"
#include "base/metrics.h"
#include "base/uri.h"

#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 16

struct metrics_http {
	struct MHD_Daemon *daemon;
	struct metrics *metrics;
	uint16_t port;
};

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status,
				   const char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer_metrics(struct MHD_Connection *connection, struct metrics *metrics)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	size_t len_bytes;
	char *text;

	if (metrics_render(metrics, &text, &len_bytes))
		return answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
	response = MHD_create_response_from_buffer(len_bytes, text, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(text);
		return MHD_NO;
	}
	(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
				      "text/plain; version=0.0.4; charset=utf-8");
	result = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return result;
}

/* NOLINTNEXTLINE(readability-function-size): the signature is the library's */
static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *upload,
			      size_t *upload_bytes, void **request)
{
	struct metrics_http *http = context;

	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
	if (strcmp(url, "/metrics") != 0)
		return answer_text(connection, MHD_HTTP_NOT_FOUND, "try /metrics\n");
	return answer_metrics(connection, http->metrics);
}

static int listen_on(const struct addrinfo *address)
{
	int yes = 1;
	int err;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
	    bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

/* Listens on the first address of the host that allows it; else the error of the last. */
static int listen_at(const struct uri_host *host, const char **reason)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *addresses;
	char port[8];
	int fd = -ENOENT;
	int failure;

	(void)snprintf(port, sizeof(port), "%u", host->port);
	failure = getaddrinfo(*host->name ? host->name : NULL, port, &hints, &addresses);
	if (failure) {
		*reason = gai_strerror(failure);
		return -ENOENT;
	}
	for (struct addrinfo *address = addresses; address && fd < 0; address = address->ai_next)
		fd = listen_on(address);
	freeaddrinfo(addresses);
	if (fd < 0)
		*reason = "the address cannot be listened on";
	return fd;
}

static uint16_t port_of(int fd)
{
	char port[8];
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0 ||
	    getnameinfo((struct sockaddr *)&address, len, NULL, 0, port, sizeof(port),
			NI_NUMERICSERV) != 0)
		return 0;
	return (uint16_t)strtoul(port, NULL, 10);
}

int metrics_http_start(struct metrics_http **http, struct metrics *metrics, const char *address,
		       const char **reason)
{
	const char *unused;
	struct metrics_http *started;
	struct uri_host host;
	int err;
	int fd;

	reason = reason ? reason : &unused;
	err = uri_parse_host(&host, address, reason);
	if (err)
		return err;
	started = calloc(1, sizeof(*started));
	if (!started) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	fd = listen_at(&host, reason);
	if (fd < 0) {
		free(started);
		return fd;
	}
	started->metrics = metrics;
	started->port = port_of(fd);
	started->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer, started,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		METRICS_HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, METRICS_HTTP_TIMEOUT_S,
		MHD_OPTION_END);
	if (!started->daemon) {
		*reason = "the server did not start";
		close(fd);
		free(started);
		return -EAGAIN;
	}
	*http = started;
	return 0;
}

uint16_t metrics_http_port(const struct metrics_http *http)
{
	return http->port;
}

void metrics_http_stop(struct metrics_http *http)
{
	if (!http)
		return;
	MHD_stop_daemon(http->daemon); /* closes the socket too */
	free(http);
}
