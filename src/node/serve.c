#include "node/serve.h"

#include "base/base.h"
#include "base/env.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "node/slabs.h"

#include <errno.h>
#include <poll.h>

/* Polls in a row that found work, before stop_fd is looked at all the same. */
#define BUSY_POLLS_MAX 64u

/* 1: stop_fd is readable. 0: something else may be. */
static int wait_until(int64_t now_ns, int64_t deadline_ns, int fabric_fd, int stop_fd)
{
	struct pollfd fds[] = {
		{.fd = stop_fd, .events = POLLIN},
		{.fd = fabric_fd, .events = POLLIN},
	};
	int64_t left_ns = max_i64(deadline_ns - now_ns, 0);
	struct timespec timeout = {
		.tv_sec = left_ns / NS_PER_S,
		.tv_nsec = left_ns % NS_PER_S,
	};
	int ready = ppoll(fds, ARRAY_COUNT(fds), deadline_ns == INT64_MAX ? NULL : &timeout, NULL);

	if (ready < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	return fds[0].revents != 0;
}

int node_serve(struct node *node, struct fabric *fabric, struct cluster *cluster, int stop_fd)
{
	struct env *env = node->env;
	unsigned busy_polls = 0;

	for (;;) {
		unsigned done = node_poll(node);
		int64_t now_ns = env_now_ns(env);
		int64_t deadline_ns = min_i64(node_deadline_ns(node), fabric_deadline_ns(fabric));

		if (cluster) {
			cluster_poll(cluster);
			deadline_ns = min_i64(deadline_ns, cluster_deadline_ns(cluster));
		}
		busy_polls = done ? busy_polls + 1 : 0;
		if (done && busy_polls % BUSY_POLLS_MAX != 0)
			continue;
		/* A busy node only looks whether it is to stop. */
		if (done || fabric_arm(fabric))
			deadline_ns = now_ns;

		int stop = wait_until(now_ns, deadline_ns, fabric_fd(fabric), stop_fd);

		if (stop != 0)
			return stop < 0 ? stop : 0;
	}
}
