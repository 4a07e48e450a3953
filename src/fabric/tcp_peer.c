/*
 * tcp_peer.c: one connection, from its first byte to its end; tcp.h draws its life
 */
#include "fabric/tcp.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/bits.h"
#include "base/env.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- beginning ---- */

static void set_state(struct tcp_peer *peer, enum tcp_state state)
{
	struct tcp *tcp = peer->tcp;
	bool was_unsettled = peer->state != TCP_OPEN && peer->state != TCP_CLOSED;
	bool is_unsettled = state != TCP_OPEN && state != TCP_CLOSED;

	tcp->open_count += (uint32_t)(state == TCP_OPEN) - (uint32_t)(peer->state == TCP_OPEN);
	tcp->unsettled_count += (uint32_t)is_unsettled - (uint32_t)was_unsettled;
	peer->state = state;
	peer->began_ns = tcp->now_ns;
}

int tcp_peer_create(struct tcp *tcp, int fd, bool accepted, struct tcp_peer **result)
{
	struct tcp_peer *peer = calloc(1, sizeof(*peer));
	struct epoll_event event = {.events = accepted ? EPOLLIN : EPOLLIN | EPOLLOUT};
	int err;

	if (!peer)
		return -ENOMEM;
	peer->peer.transport = &tcp->transport;
	peer->peer.fabric = tcp->transport.fabric;
	peer->peer.accepted = accepted;
	peer->source = (struct tcp_source){.kind = TCP_SOURCE_PEER, .fd = fd};
	peer->tcp = tcp;
	peer->state = TCP_CLOSED;
	event.data.ptr = &peer->source;
	if (epoll_ctl(tcp->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		err = -errno;
		goto fail;
	}
	if (!accepted) {
		err = fabric_peer_enroll(&peer->peer);
		if (err)
			goto fail_epoll;
		peer->enrolled = true;
	}
	list_init(&peer->dirty);
	list_push_last(&tcp->peers, &peer->link);
	tcp->pending_count += accepted;
	tcp->now_ns = env_now_ns(tcp->self.env);
	set_state(peer, TCP_CONNECTING);
	peer->heard_ns = peer->said_ns = tcp->now_ns;
	tcp->timer_ns = min_i64(tcp->timer_ns, tcp->now_ns);
	hello_begin(&peer->hello, &tcp->self, accepted ? HELLO_ACCEPTOR : HELLO_CONNECTOR);
	*result = peer;
	return 0;

fail_epoll:
	epoll_ctl(tcp->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
fail:
	free(peer);
	return err;
}

void tcp_peer_free(struct tcp_peer *peer)
{
	tcp_server_forget(peer);
	out_destroy(&peer->out);
	free(peer->in.buffer);
	free(peer->ops);
	free(peer);
}

/* Memory of the data path, for those who have proven that they belong here. */
static int allocate(struct tcp_peer *peer)
{
	struct fabric *fabric = peer->peer.fabric;
	const struct fabric_options *options = fabric_options_of(fabric);
	uint64_t operations = options->operations_max;
	uint64_t op_slots = round_up_power_of_two(operations);
	/* A request and a reply for each operation either side may have in flight, and messages. */
	uint64_t ring_bytes = 2 * operations * ((uint64_t)WIRE_REQUEST_BYTES + TCP_INLINE_BYTES) +
			      options->send_bytes_max + UINT64_C(2) * FABRIC_MESSAGE_BYTES_MAX;
	int err;

	if (ring_bytes > UINT32_MAX / 2)
		return -ENOMEM;
	err = table_create(&peer->exports, TCP_EXPORTS_MAX, env_random(peer->tcp->self.env));
	if (err)
		return err;
	err = out_create(&peer->out, (uint32_t)ring_bytes, 4 * (uint32_t)operations + 64);
	if (err)
		return err;
	peer->in.buffer = malloc(TCP_IN_BYTES);
	peer->ops = calloc(op_slots, sizeof(*peer->ops));
	peer->ops_mask = (uint32_t)op_slots - 1;
	return peer->in.buffer && peer->ops ? 0 : -ENOMEM;
}

/* ---- ending ---- */

static void close_socket(struct tcp_peer *peer)
{
	struct tcp *tcp = peer->tcp;

	if (peer->wants_out)
		tcp->blocked_count--;
	peer->wants_out = false;
	close(peer->source.fd); /* and epoll forgets it: nobody else has the descriptor */
	peer->source.fd = -1;
	list_remove(&peer->dirty);
	list_remove(&peer->link);
	set_state(peer, TCP_CLOSED);
	/* Those that the fabric does not know (any more) are freed when the poll is over. */
	if (!peer->enrolled || peer->released)
		list_push_last(&tcp->dead, &peer->link);
}

void tcp_peer_lost(struct tcp_peer *peer, int status)
{
	struct fabric_stats *counters = fabric_counters(peer->peer.fabric);
	bool lingered = peer->state == TCP_LINGERING;

	if (peer->state == TCP_CLOSED)
		return;
	if (status == AFAR_EAUTH)
		counters->auth_failures++;
	if (!peer->enrolled) {
		peer->tcp->pending_count--;
		log_info(fabric_options_of(peer->peer.fabric)->log, "connection_refused",
			 "transport=tcp error=%d", status);
	}
	close_socket(peer);
	if (peer->enrolled && !lingered) {
		tcp_client_fail_all(peer);
		fabric_peer_down(&peer->peer, status);
	}
}

void tcp_peer_drop(struct tcp_peer *peer)
{
	if (peer->state == TCP_CLOSED)
		return;
	peer->released = true;
	close_socket(peer);
}

void tcp_peer_broke_protocol(struct tcp_peer *peer)
{
	if (peer->state == TCP_CLOSED)
		return;
	fabric_counters(peer->peer.fabric)->protocol_errors++;
	tcp_peer_lost(peer, -EPROTO);
}

/* All is sent: the other end reads up to our FIN, then closes; we wait for that, not for ever. */
static void linger(struct tcp_peer *peer)
{
	if (out_is_empty(&peer->out))
		shutdown(peer->source.fd, SHUT_WR);
}

void tcp_peer_disconnect(struct fabric_peer *fabric_peer)
{
	struct tcp_peer *peer = tcp_peer_of(fabric_peer);
	bool was_open = peer->state == TCP_OPEN;

	if (!was_open || out_detach(&peer->out, NULL, 0) != 0) {
		tcp_peer_lost(peer, 0);
		return;
	}
	tcp_client_fail_all(peer);
	peer->in.sink_left = 0;
	peer->stalled = false;
	set_state(peer, TCP_LINGERING);
	peer->tcp->timer_ns = 0;
	fabric_peer_down(fabric_peer, 0);
	tcp_peer_flush(peer);
}

/* ---- sending ---- */

void tcp_peer_mark_dirty(struct tcp_peer *peer)
{
	if (!list_is_linked(&peer->dirty))
		list_push_last(&peer->tcp->dirty, &peer->dirty);
}

static void watch_out(struct tcp_peer *peer, bool wanted)
{
	struct epoll_event event = {
		.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN,
		.data.ptr = &peer->source,
	};

	if (peer->wants_out == wanted)
		return;
	peer->wants_out = wanted;
	peer->tcp->blocked_count += (uint32_t)(wanted ? 1 : -1);
	epoll_ctl(peer->tcp->epoll_fd, EPOLL_CTL_MOD, peer->source.fd, &event);
}

void tcp_peer_flush(struct tcp_peer *peer)
{
	size_t sent_bytes;
	int err;

	list_remove(&peer->dirty);
	if (peer->state != TCP_OPEN && peer->state != TCP_LINGERING)
		return;
	err = out_send(&peer->out, peer->source.fd, &sent_bytes);
	if (sent_bytes > 0)
		peer->said_ns = peer->tcp->now_ns;
	if (err && err != -EAGAIN) {
		tcp_peer_lost(peer, AFAR_EPEER_DOWN);
		return;
	}
	watch_out(peer, err == -EAGAIN);
	if (peer->state == TCP_LINGERING)
		linger(peer);
}

int tcp_peer_send(struct fabric_peer *fabric_peer, const void *message, uint32_t len_bytes)
{
	struct tcp_peer *peer = tcp_peer_of(fabric_peer);
	unsigned char *bytes;

	if (out_copied_bytes(&peer->out) + WIRE_SHORT_BYTES + len_bytes >
	    fabric_options_of(fabric_peer->fabric)->send_bytes_max)
		return -EAGAIN;
	bytes = out_reserve(&peer->out, WIRE_SHORT_BYTES + len_bytes);
	if (!bytes)
		return -EAGAIN;
	wire_put_short(bytes, WIRE_MESSAGE, len_bytes);
	if (len_bytes > 0)
		memcpy(bytes + WIRE_SHORT_BYTES, message, len_bytes);
	out_commit(&peer->out, bytes, WIRE_SHORT_BYTES + len_bytes);
	tcp_peer_mark_dirty(peer);
	return 0;
}

void tcp_peer_ping(struct tcp_peer *peer)
{
	unsigned char *bytes =
		out_is_empty(&peer->out) ? out_reserve(&peer->out, WIRE_SHORT_BYTES) : NULL;

	/* With something queued already, that is what we have to say. */
	if (!bytes)
		return;
	wire_put_short(bytes, WIRE_PING, 0);
	out_commit(&peer->out, bytes, WIRE_SHORT_BYTES);
	tcp_peer_flush(peer);
}

/* ---- the hello ---- */

/* A fresh socket takes a frame whole; one that does not is no connection to keep. */
static void send_frame(struct tcp_peer *peer, const struct hello_frame *frame)
{
	ssize_t sent = send(peer->source.fd, frame, sizeof(*frame), MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent != (ssize_t)sizeof(*frame))
		tcp_peer_lost(peer, AFAR_EPEER_DOWN);
}

void tcp_peer_connected(struct tcp_peer *peer)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &peer->source};

	if (!peer->peer.accepted)
		epoll_ctl(peer->tcp->epoll_fd, EPOLL_CTL_MOD, peer->source.fd, &event);
	peer->state = TCP_HELLO; /* within the time that began with CONNECTING */
	if (!peer->peer.accepted)
		send_frame(peer, &peer->hello.ours);
}

static int open_peer(struct tcp_peer *peer)
{
	struct fabric_peer *fabric_peer = &peer->peer;
	const struct hello_frame *theirs = &peer->hello.theirs;
	const char *boot_id = fabric_boot_id(fabric_peer->fabric);
	int err = allocate(peer);

	if (err)
		return err;
	if (!peer->enrolled) {
		err = fabric_peer_enroll(fabric_peer);
		if (err)
			return err;
		peer->enrolled = true;
		peer->tcp->pending_count--;
	}
	fabric_peer->id = theirs->hello.id;
	fabric_peer->is_local = boot_id[0] && strcmp(boot_id, theirs->hello.boot_id) == 0;
	fabric_peer->operations_max =
		(uint32_t)min_u64(fabric_peer->operations_max, theirs->hello.operations_max);
	set_state(peer, TCP_OPEN);
	return 0;
}

static void take_hello(struct tcp_peer *peer)
{
	struct hello_frame answer;
	bool answers;
	int err = hello_take(&peer->hello, &peer->tcp->self, &peer->hello_in, &answer, &answers);

	peer->hello_in_bytes = 0;
	if (!err && peer->hello.state == HELLO_PROVEN) {
		err = open_peer(peer);
		if (err) {
			hello_refuse(&answer, err);
			answers = true;
		}
	}
	if (answers)
		send_frame(peer, &answer);
	if (peer->state == TCP_CLOSED)
		return;
	if (err == -EPROTO)
		tcp_peer_broke_protocol(peer);
	else if (err)
		tcp_peer_lost(peer, err);
	else if (peer->state == TCP_OPEN)
		fabric_peer_up(&peer->peer);
}

/* Reads no byte beyond the frame that is due. */
static ssize_t receive_hello(struct tcp_peer *peer)
{
	unsigned char *frame = (unsigned char *)&peer->hello_in;
	ssize_t received = recv(peer->source.fd, frame + peer->hello_in_bytes,
				HELLO_FRAME_BYTES - peer->hello_in_bytes, MSG_DONTWAIT);

	if (received > 0) {
		peer->hello_in_bytes += (uint32_t)received;
		if (peer->hello_in_bytes == HELLO_FRAME_BYTES)
			take_hello(peer);
	}
	return received;
}

/* ---- receiving ---- */

static void sink_done(struct tcp_peer *peer)
{
	if (peer->in.sink_is_write)
		tcp_server_write_done(peer);
	else
		tcp_client_read_done(peer);
}

/* Moves what is buffered of a payload to its place. */
static void fill_sink(struct tcp_peer *peer)
{
	struct tcp_in *in = &peer->in;
	uint32_t taken = (uint32_t)min_size(in->sink_left, in->last - in->first);

	if (in->sink) {
		memcpy(in->sink, in->buffer + in->first, taken);
		in->sink += taken;
	}
	in->first += taken;
	in->sink_left -= taken;
	if (in->sink_left == 0)
		sink_done(peer);
}

static void take_message(struct tcp_peer *peer, const struct wire_frame *frame,
			 const unsigned char *payload)
{
	struct fabric_event event = {
		.kind = FABRIC_MESSAGE,
		.peer = &peer->peer,
		.message = payload,
		.len_bytes = frame->len_bytes,
	};

	fabric_event_put(peer->peer.fabric, &event);
}

/* A payload that goes to its place as it arrives, instead of being gathered in the buffer. */
static bool goes_to_sink(const struct tcp_peer *peer, const struct wire_frame *frame)
{
	if (frame->kind == WIRE_REPLY)
		return tcp_client_reads_next(peer);
	return frame->kind == WIRE_WRITE && frame->len_bytes > TCP_WHOLE_BYTES;
}

static void take_frame(struct tcp_peer *peer, const struct wire_frame *frame,
		       const unsigned char *payload)
{
	switch (frame->kind) {
	case WIRE_READ:
	case WIRE_CAS:
	case WIRE_FAA:
		tcp_server_request(peer, frame, payload);
		break;
	case WIRE_WRITE:
		if (goes_to_sink(peer, frame))
			tcp_server_write_begin(peer, frame);
		else
			tcp_server_request(peer, frame, payload);
		break;
	case WIRE_REPLY:
		tcp_client_reply(peer, frame, payload);
		break;
	case WIRE_MESSAGE:
		take_message(peer, frame, payload);
		break;
	case WIRE_PING:
	case WIRE_KINDS:
		break;
	}
}

/* Takes one frame, or a piece of payload. false: it is not all there, or there is no room. */
static bool parse_one(struct tcp_peer *peer)
{
	struct tcp_in *in = &peer->in;
	const unsigned char *bytes = in->buffer + in->first;
	uint32_t available = in->last - in->first;
	struct wire_frame frame;
	int head_bytes;

	if (in->sink_left > 0) {
		if (available == 0)
			return false;
		fill_sink(peer);
		return true;
	}
	head_bytes = wire_decode(bytes, available, &frame);
	if (head_bytes < 0)
		tcp_peer_broke_protocol(peer);
	if (head_bytes <= 0)
		return false;
	if (goes_to_sink(peer, &frame)) {
		in->first += (uint32_t)head_bytes;
		take_frame(peer, &frame, NULL);
		return true;
	}
	if (frame.payload_bytes > TCP_WHOLE_BYTES) {
		tcp_peer_broke_protocol(peer);
		return false;
	}
	if (available < (uint32_t)head_bytes + frame.payload_bytes)
		return false;
	peer->stalled = frame.kind == WIRE_MESSAGE && !fabric_event_room(peer->peer.fabric);
	if (peer->stalled)
		return false;
	in->first += (uint32_t)head_bytes + frame.payload_bytes;
	take_frame(peer, &frame, bytes + head_bytes);
	return true;
}

static void parse(struct tcp_peer *peer)
{
	struct tcp_in *in = &peer->in;

	peer->stalled = false;
	while (peer->state == TCP_OPEN && parse_one(peer))
		;
	if (peer->state != TCP_OPEN)
		return;
	if (in->first == in->last) {
		in->first = 0;
		in->last = 0;
	} else if (TCP_IN_BYTES - in->first < TCP_WHOLE_BYTES + WIRE_HEAD_BYTES_MAX) {
		memmove(in->buffer, in->buffer + in->first, in->last - in->first);
		in->last -= in->first;
		in->first = 0;
	}
	if (list_is_linked(&peer->dirty))
		tcp_peer_flush(peer);
}

static ssize_t receive_frames(struct tcp_peer *peer)
{
	struct tcp_in *in = &peer->in;
	struct iovec iov[2] = {
		{.iov_base = in->sink, .iov_len = in->sink_left},
		{.iov_base = in->buffer, .iov_len = TCP_IN_BYTES},
	};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t received;

	/* The buffer is empty whenever a payload is incomplete: parse() ended for want of bytes. */
	if (in->sink_left > 0 && in->sink && in->first == in->last) {
		received = recvmsg(peer->source.fd, &message, MSG_DONTWAIT);
		if (received > 0) {
			uint32_t placed = (uint32_t)min_size((size_t)received, in->sink_left);

			in->first = 0;
			in->last = (uint32_t)received - placed;
			in->sink += placed;
			in->sink_left -= placed;
			if (in->sink_left == 0)
				sink_done(peer);
		}
	} else {
		received = recv(peer->source.fd, in->buffer + in->last, TCP_IN_BYTES - in->last,
				MSG_DONTWAIT);
		if (received > 0)
			in->last += (uint32_t)received;
	}
	if (received > 0)
		parse(peer);
	return received;
}

/* What comes after we disconnected is of no use; but unread, it would make close() a reset. */
static ssize_t receive_rest(struct tcp_peer *peer)
{
	return recv(peer->source.fd, peer->in.buffer, TCP_IN_BYTES, MSG_DONTWAIT);
}

bool tcp_peer_receive(struct tcp_peer *peer)
{
	ssize_t received;

	if (peer->stalled) {
		parse(peer);
		if (peer->stalled || peer->state != TCP_OPEN)
			return true;
	}
	switch (peer->state) {
	case TCP_HELLO:
		received = receive_hello(peer);
		break;
	case TCP_OPEN:
		received = receive_frames(peer);
		break;
	case TCP_LINGERING:
		received = receive_rest(peer);
		break;
	default:
		return false;
	}
	if (received > 0) {
		peer->heard_ns = peer->tcp->now_ns;
		return true;
	}
	if (received < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	tcp_peer_lost(peer, AFAR_EPEER_DOWN);
	return true;
}
