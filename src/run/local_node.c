/*
 * local_node.c: a node of the run's own where no cluster is named
 *
 *   A child process with the same node that `afar node` runs, listening on a socket in the run's
 *   directory. It ends when the supervisor closes its end of a pipe, or dies, and takes the
 *   directory with it: it is the last one who needs it.
 */
#include "run/supervisor.h"

#include "afar/error.h"
#include "base/env.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "node/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int serve(struct supervisor *run, int ready_fd, int stop_fd)
{
	char address[FABRIC_ADDRESS_BYTES];
	struct fabric_options fabric_options = {.id = env_random(run->env) | 1};
	struct node_options options = {
		.slab_bytes = run->slab_bytes,
		.capacity_bytes = run->far_bytes,
		.log = run->log,
	};
	struct fabric *fabric = NULL;
	struct node *node = NULL;
	int err = fabric_open(run->env, &fabric_options, &fabric);

	if (err)
		return err;
	snprintf(address, sizeof(address), "shm:%s/node", run->directory);
	err = fabric_listen(fabric, address, NULL);
	if (err)
		goto out_fabric;
	err = node_memory_open(run->log, options.slab_bytes, options.capacity_bytes,
			       &options.memory);
	if (err)
		goto out_fabric;
	err = node_open(run->env, fabric, &options, &node);
	if (err)
		goto out_memory;
	if (write(ready_fd, "r", 1) == 1)
		err = node_serve(node, fabric, NULL, stop_fd);
	node_close(node);
out_memory:
	node_memory_close(&options.memory);
out_fabric:
	fabric_close(fabric);
	return err;
}

/* The node's process; never returns. */
static void __attribute__((noreturn)) become_node(struct supervisor *run, int ready_fd, int stop_fd)
{
	/* The terminal's signals are for the program; we end when the supervisor does. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);

	int err = serve(run, ready_fd, stop_fd);

	if (err)
		fprintf(stderr, "afar run: the node of this run: %s\n", afar_strerror(err));
	unlink(run->socket_path);
	rmdir(run->directory);
	_exit(err ? 1 : 0);
}

int local_node_start(struct supervisor *run)
{
	int ready[2], stop[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC))
		return -errno;
	if (pipe2(stop, O_CLOEXEC)) {
		close(ready[0]);
		close(ready[1]);
		return -errno;
	}
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[0]);
		close(stop[1]);
		become_node(run, ready[1], stop[0]);
	}
	close(ready[1]);
	close(stop[0]);
	/* Its byte, or the end of the pipe if it failed: it has said why. */
	ssize_t n = pid > 0 ? read(ready[0], &byte, 1) : -1;
	close(ready[0]);
	run->node = (struct local_node){.pid = pid, .stop_fd = stop[1]};
	if (n == 1)
		return 0;
	local_node_stop(&run->node);
	return -ECHILD;
}

void local_node_stop(struct local_node *node)
{
	if (node->pid <= 0)
		return;
	close(node->stop_fd);
	waitpid(node->pid, NULL, 0);
	node->pid = 0;
}
