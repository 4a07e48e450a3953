/*
 * attacker.h: the other end of a connection as somebody without manners would be it
 *
 *   A blocking socket, and the hello as an honest peer would say it, so that a test can leave the
 *   path at any step. On tcp an attacker may also listen, and be what a fabric connects to.
 */
#ifndef AFAR_TESTS_FABRIC_ATTACKER_H
#define AFAR_TESTS_FABRIC_ATTACKER_H

#include "fabric/hello.h"
#include "harness.h"

struct attacker {
	int fd;
	int listen_fd; /* -1 */
	enum net_kind kind;
	struct secret secret;
	struct hello_self self;
	struct hello hello;
};

/* Connects to the member. Nothing was said yet. */
void attacker_connect(struct attacker *attacker, struct net *net, const struct member *member);
void attacker_close(struct attacker *attacker);

/* Says the hello up to its proof, which it prepares in *proof. Pumps the net meanwhile. */
void attacker_begin_hello(struct attacker *attacker, struct net *net, struct hello_frame *proof);
/* The whole hello; returns the peer as the member sees it. shm: with this session. */
struct fabric_peer *attacker_hello(struct attacker *attacker, struct net *net,
				   struct member *member, int session_fd);

/* tcp: listens. `address` is where. */
void attacker_listen(struct attacker *attacker, char *address);
/* tcp: a fabric is connecting: the whole hello from the acceptor's side. */
void attacker_accept(struct attacker *attacker, struct net *net);

/* Sends all of it; with a descriptor if fd is not -1. Pumps where the socket is full. */
void attacker_send(struct attacker *attacker, struct net *net, const void *bytes, size_t len_bytes);
void attacker_send_fd(struct attacker *attacker, const void *bytes, size_t len_bytes, int fd);
/* Receives exactly so much. false: the connection ended before. */
bool attacker_receive(struct attacker *attacker, struct net *net, void *buf, size_t len_bytes);
/* Pumps until the other end closed the connection. Returns the last whole frame's status. */
int attacker_expect_end(struct attacker *attacker, struct net *net);

#endif
