/*
 * fabric_state.h: what a fabric holds, for fabric.c, access.c and poll.c only
 */
#ifndef AFAR_FABRIC_STATE_H
#define AFAR_FABRIC_STATE_H

#include "base/secret.h"
#include "fabric/events.h"
#include "fabric/fabric.h"
#include "fabric/transport.h"

#define FABRIC_TRANSPORTS_MAX 3u

struct fabric {
	struct env *env;
	struct fabric_options options;
	struct secret secret;
	char boot_id[FABRIC_BOOT_ID_BYTES];
	struct fabric_peer *peers;
	struct fabric_peer *buried; /* their DOWN was polled: the next poll frees them */
	uint32_t peer_count;
	uint32_t polls;
	struct events events;
	struct transport *transports[FABRIC_TRANSPORTS_MAX];
	uint32_t transport_count;
	int epoll_fd;
	struct fabric_stats stats;
};

/* Closes what hangs from a peer and frees it. */
void fabric_peer_free(struct fabric_peer *peer);

#endif
