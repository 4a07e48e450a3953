/*
 * sim_stub.c: stands in until sim.c is there
 */
#include "fabric/transport.h"

#include <errno.h>

int transport_sim_open(struct fabric *fabric, struct transport **transport)
{
	return -ENOTSUP;
}
