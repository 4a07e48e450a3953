/*
 * metrics_http.h: GET /metrics for Prometheus
 *
 *   One thread of libmicrohttpd's own serves the registry, to a bounded number of connections
 *   with a time limit each. It speaks plain HTTP and asks nobody who they are: give it an address
 *   of the loopback or of a network that only operators reach.
 */
#ifndef AFAR_BASE_METRICS_HTTP_H
#define AFAR_BASE_METRICS_HTTP_H

#include <stdint.h>

#define METRICS_HTTP_CONNECTIONS_MAX 16u
#define METRICS_HTTP_TIMEOUT_S       10u

struct metrics;
struct metrics_http;

/*
 * Serves `metrics`, which must outlive it, at "host:port" ("[::1]:9000", ":9000" for all
 * addresses; port 0 lets the kernel choose).
 *
 * -EINVAL: no such form of address. -ENOENT: the host has no address. -EADDRINUSE, -EACCES and
 * other errnos of bind. *reason, if not NULL, then says more in static text.
 */
int metrics_http_start(struct metrics_http **http, struct metrics *metrics, const char *address,
		       const char **reason);

/* The port that is listened on. */
uint16_t metrics_http_port(const struct metrics_http *http);

/* Ends open connections and the thread. NULL is fine. */
void metrics_http_stop(struct metrics_http *http);

#endif
