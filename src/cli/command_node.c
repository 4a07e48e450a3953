/*
 * command_node.c: afar node
 */
#include "cli/cli.h"

#include "afar/error.h"
#include "base/env.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/metrics_http.h"
#include "base/size.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "node/serve.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_ADDRESS "tcp://127.0.0.1:7170"

const char node_usage[] =
	"usage: afar node [OPTION…]\n"
	"\n"
	"Donates memory of this machine to programs elsewhere, until SIGINT or SIGTERM.\n"
	"\n"
	"  --listen ADDRESS    tcp://host:port, shm:/path.sock or shm: (may be repeated;\n"
	"                      default: tcp://127.0.0.1:7170 and shm:)\n"
	"  --memory SIZE       donate at most so much (default: a quarter of this machine)\n"
	"  --headroom SIZE     keep so much of this machine free (default: a tenth of it)\n"
	"  --slab SIZE         the unit that is given away (default: 64M)\n"
	"  --cluster URI       join dir:/path\n"
	"  --key-file FILE     the cluster's key: needed beyond loopback\n"
	"  --metrics HOST:PORT serve counters for Prometheus at /metrics\n"
	"  -v, --verbose       tell what happens\n"
	"  --help              this\n"
	"\n"
	"example: afar node --listen tcp://10.0.0.7:7170 --key-file /etc/afar/key --memory 4G\n";

struct node_settings {
	const char *listen[CLUSTER_ADDRESSES_MAX];
	unsigned listens;
	const char *memory, *headroom, *slab, *cluster, *key_file, *metrics;
	bool help;
	unsigned verbosity;
};

/* What the daemon holds, in the order in which it is opened. */
struct daemon {
	struct log *log;
	struct metrics *metrics;
	struct metrics_http *http;
	struct fabric *fabric;
	struct cluster *cluster;
	struct node *node;
	struct node_options options;
	struct cluster_member self;
	int signal_fd;
};

enum {
	OPTION_LISTEN = 256,
	OPTION_MEMORY,
	OPTION_HEADROOM,
	OPTION_SLAB,
	OPTION_CLUSTER,
	OPTION_KEY_FILE,
	OPTION_METRICS,
	OPTION_HELP
};

static bool parse(int argc, char **argv, struct node_settings *settings)
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, OPTION_LISTEN},
		{"memory", required_argument, NULL, OPTION_MEMORY},
		{"headroom", required_argument, NULL, OPTION_HEADROOM},
		{"slab", required_argument, NULL, OPTION_SLAB},
		{"cluster", required_argument, NULL, OPTION_CLUSTER},
		{"key-file", required_argument, NULL, OPTION_KEY_FILE},
		{"metrics", required_argument, NULL, OPTION_METRICS},
		{"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, OPTION_HELP},
		{NULL, 0, NULL, 0},
	};

	for (int option; (option = getopt_long(argc, argv, "v", options, NULL)) != -1;) {
		switch (option) {
		case OPTION_LISTEN:
			if (settings->listens == CLUSTER_ADDRESSES_MAX) {
				fprintf(stderr, "afar node: at most %u times --listen\n",
					CLUSTER_ADDRESSES_MAX);
				return false;
			}
			settings->listen[settings->listens++] = optarg;
			break;
		case OPTION_MEMORY:
			settings->memory = optarg;
			break;
		case OPTION_HEADROOM:
			settings->headroom = optarg;
			break;
		case OPTION_SLAB:
			settings->slab = optarg;
			break;
		case OPTION_CLUSTER:
			settings->cluster = optarg;
			break;
		case OPTION_KEY_FILE:
			settings->key_file = optarg;
			break;
		case OPTION_METRICS:
			settings->metrics = optarg;
			break;
		case 'v':
			settings->verbosity++;
			break;
		case OPTION_HELP:
			settings->help = true;
			break;
		default:
			fprintf(stderr, "Try: afar node --help\n");
			return false;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "afar node: what is %s? Try: afar node --help\n", argv[optind]);
		return false;
	}
	return true;
}

static bool settle(const struct node_settings *settings, struct node_options *options)
{
	uint64_t machine = machine_memory_bytes();

	options->capacity_bytes = machine / 4;
	options->headroom_bytes = machine / 10;
	options->slab_bytes = NODE_SLAB_BYTES_DEFAULT;
	if (settings->memory &&
	    !setting_size("node", "--memory", settings->memory, &options->capacity_bytes))
		return false;
	if (settings->headroom &&
	    !setting_size("node", "--headroom", settings->headroom, &options->headroom_bytes))
		return false;
	if (settings->slab && !setting_size("node", "--slab", settings->slab, &options->slab_bytes))
		return false;
	if (options->slab_bytes == 0 || options->slab_bytes % (2 * MIB) ||
	    options->slab_bytes > GIB) {
		fprintf(stderr, "afar node: --slab: a multiple of 2M up to 1G\n");
		return false;
	}
	if (options->capacity_bytes < options->slab_bytes) {
		fprintf(stderr, "afar node: --memory is less than one slab: give more memory, or "
				"smaller slabs with --slab\n");
		return false;
	}
	return true;
}

/* "shm:" is a socket of this node's name, in the user's runtime directory or in /run. */
static bool resolve(const char *address, uint64_t id, char resolved[FABRIC_ADDRESS_BYTES])
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char directory[FABRIC_ADDRESS_BYTES / 2];

	if (strcmp(address, "shm:") != 0)
		return (size_t)snprintf(resolved, FABRIC_ADDRESS_BYTES, "%s", address) <
		       FABRIC_ADDRESS_BYTES;
	int n = snprintf(directory, sizeof(directory), "%s/afar",
			 runtime && *runtime ? runtime : "/run");
	if (n <= 0 || (size_t)n >= sizeof(directory) || (mkdir(directory, 0755) && errno != EEXIST))
		return false;
	snprintf(resolved, FABRIC_ADDRESS_BYTES, "shm:%s/%016" PRIx64 ".sock", directory, id);
	return true;
}

static bool listen_at(struct daemon *daemon, const char *address)
{
	char resolved[FABRIC_ADDRESS_BYTES];
	struct cluster_member *self = &daemon->self;

	if (!resolve(address, self->id, resolved)) {
		fprintf(stderr, "afar node: --listen %s: %s\n", address, strerror(errno));
		return false;
	}
	int err = fabric_listen(daemon->fabric, resolved, self->address[self->addresses]);
	if (err) {
		fprintf(stderr, "afar node: --listen %s: %s%s\n", address, afar_strerror(err),
			err == -EACCES ? ". Beyond loopback a node needs a key: see --key-file"
			: err == -EADDRINUSE ? ". Is another node running? Use another port"
					     : "");
		return false;
	}
	self->addresses++;
	return true;
}

static bool listen_everywhere(struct daemon *daemon, const struct node_settings *settings)
{
	for (unsigned i = 0; i < settings->listens; i++)
		if (!listen_at(daemon, settings->listen[i]))
			return false;
	if (settings->listens == 0)
		return listen_at(daemon, DEFAULT_ADDRESS) && listen_at(daemon, "shm:");
	return true;
}

static bool open_metrics(struct daemon *daemon, const char *address)
{
	const char *reason = NULL;

	if (!address)
		return true;
	int err = metrics_create(&daemon->metrics);
	if (!err)
		err = metrics_http_start(&daemon->http, daemon->metrics, address, &reason);
	if (!err)
		return true;
	fprintf(stderr, "afar node: --metrics %s: %s\n", address,
		reason ? reason : afar_strerror(err));
	return false;
}

static bool join(struct daemon *daemon, const char *uri)
{
	FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (boot) {
		if (fscanf(boot, "%36s", daemon->self.boot_id) != 1)
			daemon->self.boot_id[0] = '\0';
		fclose(boot);
	}
	if (!uri)
		return true;
	int err = cluster_open(env_real(), uri, daemon->log, &daemon->cluster);
	if (!err && !cluster_has_store(daemon->cluster))
		err = -ENOTSUP;
	if (!err)
		err = cluster_join(daemon->cluster, &daemon->self, CLUSTER_LEASE_NS_DEFAULT);
	if (!err)
		return true;
	fprintf(stderr, "afar node: --cluster %s: %s%s\n", uri, afar_strerror(err),
		err == -ENOTEMPTY ? ": the directory holds something else: name an empty one"
		: err == -ENOTSUP ? ": a node joins dir:/path; lists of nodes are for clients"
				  : "");
	return false;
}

static int open_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void announce(const struct daemon *daemon)
{
	char size[SIZE_TEXT_BYTES];

	printf("afar node %016" PRIx64 ": donates up to %s\n", daemon->self.id,
	       size_print(size, daemon->options.capacity_bytes));
	for (unsigned i = 0; i < daemon->self.addresses; i++)
		printf("listening on %s\n", daemon->self.address[i]);
	if (daemon->http)
		printf("metrics on port %u\n", metrics_http_port(daemon->http));
	fflush(stdout);
}

static bool open_node(struct daemon *daemon)
{
	struct node_options *options = &daemon->options;
	int err = node_memory_open(daemon->log, options->slab_bytes, options->capacity_bytes,
				   &options->memory);

	if (!err)
		err = node_open(env_real(), daemon->fabric, options, &daemon->node);
	if (!err)
		return true;
	fprintf(stderr, "afar node: %s\n", afar_strerror(err));
	return false;
}

static void close_daemon(struct daemon *daemon)
{
	if (daemon->cluster) {
		cluster_leave(daemon->cluster);
		cluster_close(daemon->cluster);
	}
	if (daemon->node)
		node_close(daemon->node);
	if (daemon->options.memory.slab_make)
		node_memory_close(&daemon->options.memory);
	if (daemon->fabric)
		fabric_close(daemon->fabric);
	metrics_http_stop(daemon->http);
	if (daemon->metrics)
		metrics_destroy(daemon->metrics);
	log_close(daemon->log);
	if (daemon->signal_fd >= 0)
		close(daemon->signal_fd);
}

int command_node(int argc, char **argv)
{
	struct node_settings settings = {0};
	struct daemon daemon = {.signal_fd = -1};
	struct secret secret;
	int status = EXIT_FAILURE;

	if (!parse(argc, argv, &settings))
		return EXIT_USAGE;
	if (settings.help) {
		fputs(node_usage, stdout);
		return 0;
	}
	if (!settle(&settings, &daemon.options))
		return EXIT_USAGE;
	if (!setting_key("node", settings.key_file, &secret))
		return EXIT_FAILURE;

	daemon.log = setting_log(settings.verbosity);
	daemon.self.id = env_random(env_real()) | 1;
	/* Before threads start: all of them are to leave the signals to the descriptor. */
	daemon.signal_fd = open_signals();

	struct fabric_options fabric_options = {
		.id = daemon.self.id,
		.key = secret.len_bytes ? secret.bytes : NULL,
		.key_len = secret.len_bytes,
		.log = daemon.log,
	};
	int err = daemon.signal_fd < 0 ? -errno
				       : fabric_open(env_real(), &fabric_options, &daemon.fabric);
	secret_wipe(&secret);
	if (err)
		fprintf(stderr, "afar node: %s\n", afar_strerror(err));
	else if (listen_everywhere(&daemon, &settings) && open_metrics(&daemon, settings.metrics) &&
		 (daemon.options.metrics = daemon.metrics, daemon.options.log = daemon.log,
		  open_node(&daemon)) &&
		 join(&daemon, setting_cluster(settings.cluster))) {
		announce(&daemon);
		err = node_serve(daemon.node, daemon.fabric, daemon.cluster, daemon.signal_fd);
		if (err)
			fprintf(stderr, "afar node: %s\n", afar_strerror(err));
		status = err ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	close_daemon(&daemon);
	return status;
}
