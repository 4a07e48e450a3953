/*
 * attacker.c: raw sockets against a fabric; attacker.h says how
 */
#include "attacker.h"

#include "base/base.h"
#include "base/env.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_NS (60 * NS_PER_S)

static void prepare(struct attacker *attacker, enum net_kind kind)
{
	*attacker = (struct attacker){.fd = -1, .listen_fd = -1, .kind = kind};
	secret_set(&attacker->secret, NET_KEY, strlen(NET_KEY));
	attacker->self = (struct hello_self){
		.env = env_real(),
		.secret = &attacker->secret,
		.id = 666,
		.operations_max = 256,
		.transport = kind == NET_TCP ? HELLO_TRANSPORT_TCP : HELLO_TRANSPORT_SHM,
	};
}

static void connect_tcp(struct attacker *attacker, const char *address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	in.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
	attacker->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(attacker->fd, (struct sockaddr *)&in, sizeof(in)), 0);
}

static void connect_shm(struct attacker *attacker, const char *address)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	strcpy(un.sun_path, address + strlen("shm:"));
	attacker->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(attacker->fd, (struct sockaddr *)&un, sizeof(un)), 0);
}

void attacker_connect(struct attacker *attacker, struct net *net, const struct member *member)
{
	prepare(attacker, net->kind);
	if (net->kind == NET_TCP)
		connect_tcp(attacker, member->address);
	else
		connect_shm(attacker, member->address);
	hello_begin(&attacker->hello, &attacker->self, HELLO_CONNECTOR);
}

void attacker_close(struct attacker *attacker)
{
	close(attacker->fd);
	attacker->fd = -1;
	if (attacker->listen_fd >= 0)
		close(attacker->listen_fd);
}

void attacker_send(struct attacker *attacker, struct net *net, const void *bytes, size_t len_bytes)
{
	for (size_t sent = 0; sent < len_bytes;) {
		ssize_t once = send(attacker->fd, (const char *)bytes + sent, len_bytes - sent,
				    MSG_DONTWAIT | MSG_NOSIGNAL);

		if (once > 0)
			sent += (size_t)once;
		else if (once < 0 && errno != EAGAIN)
			return; /* cut off in the middle: the test will see */
		net_pump(net);
	}
}

void attacker_send_fd(struct attacker *attacker, const void *bytes, size_t len_bytes, int fd)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len_bytes};
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = fd < 0 ? NULL : &control,
		.msg_controllen = fd < 0 ? 0 : sizeof(control.bytes),
	};

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	sendmsg(attacker->fd, &message, MSG_NOSIGNAL);
}

bool attacker_receive(struct attacker *attacker, struct net *net, void *buf, size_t len_bytes)
{
	int64_t end_ns = env_now_ns(env_real()) + PATIENCE_NS;
	size_t have = 0;

	while (have < len_bytes) {
		ssize_t received =
			recv(attacker->fd, (char *)buf + have, len_bytes - have, MSG_DONTWAIT);

		if (received > 0)
			have += (size_t)received;
		else if (received == 0 || errno != EAGAIN)
			return false;
		else if (net_pump(net) == 0) {
			struct pollfd poll_fd = {.fd = attacker->fd, .events = POLLIN};

			poll(&poll_fd, 1, 1);
		}
		assert_true(env_now_ns(env_real()) < end_ns);
	}
	return true;
}

int attacker_expect_end(struct attacker *attacker, struct net *net)
{
	struct hello_frame frame;
	int status = 0;

	while (attacker_receive(attacker, net, &frame, sizeof(frame)))
		status = frame.magic == HELLO_MAGIC ? frame.status : status;
	return status;
}

void attacker_begin_hello(struct attacker *attacker, struct net *net, struct hello_frame *proof)
{
	struct hello_frame frame;
	bool answers;

	attacker_send(attacker, net, &attacker->hello.ours, sizeof(frame));
	assert_true(attacker_receive(attacker, net, &frame, sizeof(frame)));
	assert_int_equal(hello_take(&attacker->hello, &attacker->self, &frame, proof, &answers), 0);
	assert_true(answers);
}

struct fabric_peer *attacker_hello(struct attacker *attacker, struct net *net,
				   struct member *member, int session_fd)
{
	struct hello_frame frame;
	struct hello_frame proof;
	bool answers;

	attacker_begin_hello(attacker, net, &proof);
	if (session_fd >= 0)
		attacker_send_fd(attacker, &proof, sizeof(proof), session_fd);
	else
		attacker_send(attacker, net, &proof, sizeof(proof));
	assert_true(attacker_receive(attacker, net, &frame, sizeof(frame)));
	assert_int_equal(hello_take(&attacker->hello, &attacker->self, &frame, &proof, &answers),
			 0);
	assert_int_equal(attacker->hello.state, HELLO_PROVEN);
	return net_expect(net, member, FABRIC_UP).peer;
}

void attacker_listen(struct attacker *attacker, char *address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len_bytes = sizeof(in);

	prepare(attacker, NET_TCP);
	attacker->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(attacker->listen_fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(attacker->listen_fd, 1), 0);
	getsockname(attacker->listen_fd, (struct sockaddr *)&in, &len_bytes);
	snprintf(address, FABRIC_ADDRESS_BYTES, "tcp://127.0.0.1:%u", ntohs(in.sin_port));
}

void attacker_accept(struct attacker *attacker, struct net *net)
{
	attacker->fd = accept(attacker->listen_fd, NULL, NULL);
	assert_true(attacker->fd >= 0);
	hello_begin(&attacker->hello, &attacker->self, HELLO_ACCEPTOR);
	while (attacker->hello.state != HELLO_PROVEN) {
		struct hello_frame frame;
		struct hello_frame answer;
		bool answers;

		assert_true(attacker_receive(attacker, net, &frame, sizeof(frame)));
		assert_int_equal(
			hello_take(&attacker->hello, &attacker->self, &frame, &answer, &answers),
			0);
		if (answers)
			attacker_send(attacker, net, &answer, sizeof(answer));
	}
}
