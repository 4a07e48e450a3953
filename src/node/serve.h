/*
 * serve.h: the loop of a node: works while there is work, sleeps else
 *
 *   Shared by the daemon and by `afar run`, which has a node of its own in local: clusters. The
 *   loop uses no processor while nothing happens.
 */
#ifndef AFAR_NODE_SERVE_H
#define AFAR_NODE_SERVE_H

struct cluster;
struct fabric;
struct node;

/*
 * Drives the node, its fabric and, if it is not NULL, the cluster, until stop_fd turns readable
 * (stop_fd is not read). Then it returns 0; all objects stay the caller's, who leaves the cluster
 * and closes them. On the thread that opened them.
 *
 * A negative errno: the kernel refused to wait.
 */
int node_serve(struct node *node, struct fabric *fabric, struct cluster *cluster, int stop_fd);

#endif
