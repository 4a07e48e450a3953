/*
 * poll.c: events, on their way up, and waiting for them
 *
 *   A poll that finds events already queued hands them out and looks at the transports only now
 *   and then (POLLS_PER_LOOK), so that a thread that reads local shared memory pays for no system
 *   calls, and one that never runs out of such reads still hears of the death of a peer.
 */
#include "fabric/fabric_state.h"

#include "base/base.h"
#include "base/env.h"

#include <poll.h>

#define POLLS_PER_LOOK 16u

/* Of one transport; with more it is cheaper to sleep on its epoll. */
#define DESCRIPTORS_PER_SLEEP 6u

/* A spinning wait reads the clock this often. */
#define SPINS_PER_CLOCK 16u

/* ---- events ---- */

bool fabric_event_room(const struct fabric *fabric)
{
	return events_message_room(&fabric->events);
}

void *fabric_message_buffer(struct fabric *fabric)
{
	return events_message_buffer(&fabric->events);
}

void fabric_event_put(struct fabric *fabric, const struct fabric_event *event)
{
	if (event->kind == FABRIC_MESSAGE)
		fabric->stats.messages_received++;
	events_put(&fabric->events, event);
}

void fabric_op_done(struct fabric_peer *peer, uint64_t token, int status)
{
	struct fabric_event event = {
		.kind = FABRIC_DONE,
		.peer = peer,
		.token = token,
		.status = status,
	};

	assert(peer->in_flight > 0);
	peer->in_flight--;
	events_put(&peer->fabric->events, &event);
}

static void look(struct fabric *fabric)
{
	fabric->polls = 0;
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		fabric->transports[i]->ops->poll(fabric->transports[i]);
}

/* Its DOWN was polled: out of the list, kept until the next poll. */
static void bury(struct fabric *fabric, struct fabric_peer *peer)
{
	if (peer->previous)
		peer->previous->next = peer->next;
	else
		fabric->peers = peer->next;
	if (peer->next)
		peer->next->previous = peer->previous;
	peer->next = fabric->buried;
	fabric->buried = peer;
	fabric->peer_count--;
}

static void free_buried(struct fabric *fabric)
{
	while (fabric->buried) {
		struct fabric_peer *peer = fabric->buried;

		fabric->buried = peer->next;
		fabric_peer_free(peer);
	}
}

/* The caller has it now: what its place in the queue stood for is free again. */
static void hand_out(struct fabric *fabric, struct fabric_event *event)
{
	events_take(&fabric->events, event);
	if (event->kind == FABRIC_DONE)
		event->peer->outstanding--;
	else if (event->kind == FABRIC_DOWN)
		bury(fabric, event->peer);
}

unsigned fabric_poll(struct fabric *fabric, struct fabric_event *events, unsigned max)
{
	unsigned count = 0;

	events_release_messages(&fabric->events);
	if (fabric->buried)
		free_buried(fabric);
	fabric_flush(fabric);
	if (events_is_empty(&fabric->events) || ++fabric->polls >= POLLS_PER_LOOK)
		look(fabric);
	while (count < max && !events_is_empty(&fabric->events))
		hand_out(fabric, &events[count++]);
	return count;
}

/* ---- waiting ---- */

int fabric_fd(struct fabric *fabric)
{
	return fabric->epoll_fd;
}

bool fabric_arm(struct fabric *fabric)
{
	bool ready = !events_is_empty(&fabric->events);

	fabric_flush(fabric);
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		ready |= fabric->transports[i]->ops->arm(fabric->transports[i]);
	return ready;
}

int64_t fabric_deadline_ns(struct fabric *fabric)
{
	int64_t deadline_ns = INT64_MAX;

	for (uint32_t i = 0; i < fabric->transport_count; i++)
		deadline_ns =
			min_i64(deadline_ns,
				fabric->transports[i]->ops->deadline_ns(fabric->transports[i]));
	return deadline_ns;
}

/* What to sleep on, without the detour over fabric_fd(): each level of epoll costs a wake-up. */
static unsigned sleep_on(struct transport *transport, struct pollfd *fds)
{
	const struct transport_ops *ops = transport->ops;
	unsigned count =
		ops->descriptors ? ops->descriptors(transport, fds, DESCRIPTORS_PER_SLEEP) : 0;

	if (count > 0)
		return count;
	fds[0] = (struct pollfd){.fd = ops->fd(transport), .events = POLLIN};
	return 1;
}

static int sleep_until(struct fabric *fabric, int64_t deadline_ns)
{
	struct pollfd fds[FABRIC_TRANSPORTS_MAX * DESCRIPTORS_PER_SLEEP];
	struct timespec timeout = {0};
	struct timespec *wait = NULL;
	nfds_t count = 0;

	deadline_ns = min_i64(deadline_ns, fabric_deadline_ns(fabric));
	if (deadline_ns != INT64_MAX) {
		int64_t left_ns = max_i64(0, deadline_ns - env_now_ns(fabric->env));

		timeout.tv_sec = left_ns / NS_PER_S;
		timeout.tv_nsec = left_ns % NS_PER_S;
		wait = &timeout;
	}
	for (uint32_t i = 0; i < fabric->transport_count; i++)
		count += sleep_on(fabric->transports[i], fds + count);
	fabric->stats.sleeps++;
	return ppoll(fds, count, wait, NULL) < 0 ? -errno : 0;
}

static bool spin(struct fabric *fabric, int64_t deadline_ns)
{
	for (uint32_t i = 0; i < fabric->options.spins; i++) {
		look(fabric);
		if (!events_is_empty(&fabric->events))
			return true;
		if (i % SPINS_PER_CLOCK == SPINS_PER_CLOCK - 1 &&
		    env_now_ns(fabric->env) >= deadline_ns)
			return false;
		cpu_relax();
	}
	return false;
}

int fabric_wait(struct fabric *fabric, int64_t deadline_ns)
{
	fabric_flush(fabric);
	if (!events_is_empty(&fabric->events) || spin(fabric, deadline_ns))
		return 0;
	/* Simulated time does not pass in here: whoever moves it waits. */
	if (fabric->options.net) {
		look(fabric);
		return events_is_empty(&fabric->events) ? -ETIMEDOUT : 0;
	}
	for (;;) {
		int err = 0;

		if (!fabric_arm(fabric))
			err = sleep_until(fabric, deadline_ns);
		if (err)
			return err;
		look(fabric);
		if (!events_is_empty(&fabric->events))
			return 0;
		if (env_now_ns(fabric->env) >= deadline_ns)
			return -ETIMEDOUT;
	}
}
