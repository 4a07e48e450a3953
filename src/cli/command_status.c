/*
 * command_status.c: afar status
 *
 *   Asks every member how full it is, all at once, and waits for the answers as long as a person
 *   waits; reads the volumes' records if the cluster keeps any. What it says in the first line is
 *   derived from both, with the reasons.
 */
#include "cli/cli.h"

#include "afar/error.h"
#include "base/env.h"
#include "base/log.h"
#include "base/size.h"
#include "cluster/cluster.h"
#include "fabric/fabric.h"
#include "node/protocol.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_NS   (2 * NS_PER_S)
#define VOLUMES_MAX   1024u
#define REASONS_BYTES 512u

const char status_usage[] =
	"usage: afar status [OPTION…]\n"
	"\n"
	"Says whether a cluster is well and why not, then its nodes and volumes.\n"
	"\n"
	"  --cluster URI       dir:/path or tcp://host:port,… (default: $AFAR_CLUSTER)\n"
	"  --key-file FILE     the cluster's key\n"
	"  --json              one JSON object instead\n"
	"  --output FILE       write it there\n"
	"  --help              this\n"
	"\n"
	"Exit status: 0 well, 1 degraded, 3 down, 2 the command line makes no sense.\n";

enum health { HEALTH_OK = 0, HEALTH_DEGRADED = 1, HEALTH_DOWN = 3 };

struct status_node {
	struct cluster_member member;
	struct fabric_peer *peer;
	bool answered, gone;
	uint64_t capacity_bytes, used_bytes, slab_bytes;
};

struct status_volume {
	char name[CLUSTER_VOLUME_NAME_BYTES];
	uint64_t size_bytes, mapped_bytes;
	uint32_t replicas, survives; /* failures still tolerated */
	uint32_t pieces_lost;
};

struct status {
	struct status_node nodes[CLUSTER_MEMBERS_MAX];
	struct status_volume volumes[VOLUMES_MAX];
	unsigned nodes_count, volumes_count;
	enum health health;
	char reasons[REASONS_BYTES];
};

struct status_settings {
	const char *cluster, *key_file, *output;
	bool json, help;
};

enum { OPTION_CLUSTER = 256, OPTION_KEY_FILE, OPTION_JSON, OPTION_OUTPUT, OPTION_HELP };

static bool parse(int argc, char **argv, struct status_settings *settings)
{
	static const struct option options[] = {
		{"cluster", required_argument, NULL, OPTION_CLUSTER},
		{"key-file", required_argument, NULL, OPTION_KEY_FILE},
		{"json", no_argument, NULL, OPTION_JSON},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"help", no_argument, NULL, OPTION_HELP},
		{NULL, 0, NULL, 0},
	};

	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (option) {
		case OPTION_CLUSTER:
			settings->cluster = optarg;
			break;
		case OPTION_KEY_FILE:
			settings->key_file = optarg;
			break;
		case OPTION_JSON:
			settings->json = true;
			break;
		case OPTION_OUTPUT:
			settings->output = optarg;
			break;
		case OPTION_HELP:
			settings->help = true;
			break;
		default:
			fprintf(stderr, "Try: afar status --help\n");
			return false;
		}
	}
	settings->cluster = setting_cluster(settings->cluster);
	if (!settings->help && !settings->cluster) {
		fprintf(stderr, "afar status: which cluster? Name it with --cluster dir:/path or "
				"tcp://host:port,…, or in $AFAR_CLUSTER\n");
		return false;
	}
	return true;
}

/* --- asking the nodes ---------------------------------------------------------------------- */

static struct status_node *node_of_peer(struct status *status, const struct fabric_peer *peer)
{
	for (unsigned i = 0; i < status->nodes_count; i++)
		if (status->nodes[i].peer == peer)
			return &status->nodes[i];
	return NULL;
}

static void ask(struct fabric_peer *peer)
{
	struct node_message query = {
		.head = {.magic = NODE_PROTOCOL_MAGIC,
			 .version = NODE_PROTOCOL_VERSION,
			 .kind = NODE_QUERY,
			 .request = 1},
	};

	fabric_send(peer, &query, node_message_bytes(NODE_QUERY));
}

static void hear(struct status_node *node, const struct fabric_event *event)
{
	struct node_message message;

	if (node_message_decode(event->message, event->len_bytes, &message) ||
	    message.head.kind != NODE_STATUS)
		return;
	node->answered = true;
	node->capacity_bytes = message.status.capacity_bytes;
	node->used_bytes = message.status.used_bytes;
	node->slab_bytes = message.status.slab_bytes;
}

static unsigned connect_nodes(struct fabric *fabric, struct status *status)
{
	unsigned waiting = 0;

	for (unsigned i = 0; i < status->nodes_count; i++) {
		struct status_node *node = &status->nodes[i];

		node->gone = true;
		for (unsigned a = 0; a < node->member.addresses && node->gone; a++)
			node->gone =
				fabric_connect(fabric, node->member.address[a], &node->peer) != 0;
		waiting += !node->gone;
	}
	return waiting;
}

static void ask_nodes(struct fabric *fabric, struct status *status)
{
	int64_t deadline_ns = env_now_ns(env_real()) + PATIENCE_NS;
	unsigned waiting = connect_nodes(fabric, status);

	while (waiting && env_now_ns(env_real()) < deadline_ns) {
		struct fabric_event events[16];
		unsigned n = fabric_poll(fabric, events, 16);

		for (unsigned i = 0; i < n; i++) {
			struct status_node *node = node_of_peer(status, events[i].peer);

			if (!node || node->gone)
				continue;
			if (events[i].kind == FABRIC_UP) {
				/* Lists of addresses know no ids. */
				node->member.id = fabric_peer_id(events[i].peer);
				ask(events[i].peer);
			} else if (events[i].kind == FABRIC_DOWN)
				node->gone = true;
			else if (events[i].kind == FABRIC_MESSAGE && !node->answered)
				hear(node, &events[i]);
			waiting -=
				node->gone || (events[i].kind == FABRIC_MESSAGE && node->answered);
		}
		if (n == 0)
			fabric_wait(fabric, deadline_ns);
	}
}

/* --- volumes and health -------------------------------------------------------------------- */

static bool node_lives(const struct status *status, uint64_t id)
{
	for (unsigned i = 0; i < status->nodes_count; i++)
		if (status->nodes[i].member.id == id)
			return status->nodes[i].answered;
	return false;
}

/* How many copies of a piece are on nodes that answered. */
static uint32_t copies_alive(const struct status *status, const struct volume_piece_record *piece)
{
	uint32_t alive = 0;

	for (unsigned c = 0; c < CLUSTER_COPIES_MAX; c++)
		alive += piece->copies[c].key && node_lives(status, piece->copies[c].node);
	return alive;
}

static void describe(struct status *status, const struct volume_record *record)
{
	struct status_volume *volume = &status->volumes[status->volumes_count++];

	snprintf(volume->name, sizeof(volume->name), "%s", record->name);
	volume->size_bytes = record->size_bytes;
	volume->replicas = record->replicas;
	volume->survives = record->replicas - 1;
	for (uint32_t i = 0; i < record->pieces; i++) {
		const struct volume_piece_record *piece = &record->map[i];
		uint32_t alive = copies_alive(status, piece);

		if (piece->piece_epoch == 0 ||
		    !(piece->copies[0].key || piece->copies[1].key || piece->copies[2].key))
			continue;
		volume->mapped_bytes += record->slab_bytes;
		volume->pieces_lost += alive == 0;
		if (alive && alive - 1 < volume->survives)
			volume->survives = alive - 1;
	}
}

struct volumes_context {
	struct cluster *cluster;
	struct status *status;
};

/* A volume may be removed while we look: then it is none of the answer. */
static void add_volume(void *context, const char *name)
{
	struct volumes_context *volumes = context;
	struct volume_record record;

	if (volumes->status->volumes_count == VOLUMES_MAX ||
	    volume_record_read(volumes->cluster, name, &record))
		return;
	describe(volumes->status, &record);
	volume_record_release(&record);
}

static void worse(struct status *status, enum health health, const char *reason, const char *what)
{
	size_t len = strlen(status->reasons);

	if (health > status->health)
		status->health = health;
	snprintf(status->reasons + len, sizeof(status->reasons) - len, "%s%s%s", len ? "; " : "",
		 what, reason);
}

static void judge(struct status *status)
{
	unsigned answered = 0;
	char count[48];

	for (unsigned i = 0; i < status->nodes_count; i++)
		answered += status->nodes[i].answered;
	if (answered == 0)
		worse(status, HEALTH_DOWN, "",
		      status->nodes_count ? "no node answers" : "no nodes");
	else if (answered < status->nodes_count) {
		snprintf(count, sizeof(count), "%u of %u nodes", status->nodes_count - answered,
			 status->nodes_count);
		worse(status, HEALTH_DEGRADED, " do not answer", count);
	}
	for (unsigned i = 0; i < status->volumes_count; i++) {
		const struct status_volume *volume = &status->volumes[i];

		if (volume->pieces_lost)
			worse(status, HEALTH_DOWN, " has lost data", volume->name);
		else if (volume->survives + 1 < volume->replicas)
			worse(status, HEALTH_DEGRADED, " has fewer copies than it should",
			      volume->name);
	}
}

/* --- saying it ----------------------------------------------------------------------------- */

static const char *health_word(enum health health)
{
	return health == HEALTH_OK ? "ok" : health == HEALTH_DEGRADED ? "degraded" : "down";
}

static void print_text(FILE *to, const struct status *status)
{
	char used[SIZE_TEXT_BYTES], size[SIZE_TEXT_BYTES];

	fprintf(to, "%s%s%s\n", health_word(status->health), *status->reasons ? ": " : "",
		status->reasons);
	for (unsigned i = 0; i < status->nodes_count; i++) {
		const struct status_node *node = &status->nodes[i];

		fprintf(to, "node %016" PRIx64 "  %s  ", node->member.id, node->member.address[0]);
		if (node->answered)
			fprintf(to, "%s of %s given away, slabs of %" PRIu64 " MiB\n",
				size_print(used, node->used_bytes),
				size_print(size, node->capacity_bytes), node->slab_bytes / MIB);
		else
			fprintf(to, "does not answer\n");
	}
	for (unsigned i = 0; i < status->volumes_count; i++) {
		const struct status_volume *volume = &status->volumes[i];

		fprintf(to, "volume %s  %s of %s mapped, %u cop%s, survives %u failure%s\n",
			volume->name, size_print(used, volume->mapped_bytes),
			size_print(size, volume->size_bytes), volume->replicas,
			volume->replicas == 1 ? "y" : "ies", volume->survives,
			volume->survives == 1 ? "" : "s");
	}
}

static void print_json(FILE *to, const struct status *status)
{
	json_t *nodes = json_array(), *volumes = json_array();

	for (unsigned i = 0; i < status->nodes_count; i++) {
		const struct status_node *node = &status->nodes[i];
		char id[24];

		snprintf(id, sizeof(id), "%016" PRIx64, node->member.id);
		json_array_append_new(nodes, json_pack("{s:s, s:s, s:b, s:I, s:I, s:I}", "id", id,
						       "address", node->member.address[0],
						       "answers", node->answered, "capacity_bytes",
						       (json_int_t)node->capacity_bytes,
						       "used_bytes", (json_int_t)node->used_bytes,
						       "slab_bytes", (json_int_t)node->slab_bytes));
	}
	for (unsigned i = 0; i < status->volumes_count; i++) {
		const struct status_volume *volume = &status->volumes[i];

		json_array_append_new(
			volumes,
			json_pack("{s:s, s:I, s:I, s:i, s:i, s:i}", "name", volume->name,
				  "size_bytes", (json_int_t)volume->size_bytes, "mapped_bytes",
				  (json_int_t)volume->mapped_bytes, "copies", (int)volume->replicas,
				  "failures_survived", (int)volume->survives, "pieces_lost",
				  (int)volume->pieces_lost));
	}
	json_t *all = json_pack("{s:s, s:s, s:o, s:o}", "health", health_word(status->health),
				"reasons", status->reasons, "nodes", nodes, "volumes", volumes);
	json_dumpf(all, to, JSON_INDENT(2));
	fputc('\n', to);
	json_decref(all);
}

static int gather(struct cluster *cluster, const struct secret *secret, struct status *status)
{
	struct cluster_member *members = calloc(CLUSTER_MEMBERS_MAX, sizeof(*members));
	struct fabric_options options = {
		.id = env_random(env_real()) | 1,
		.key = secret->len_bytes ? secret->bytes : NULL,
		.key_len = secret->len_bytes,
	};
	struct fabric *fabric;

	if (!members)
		return -ENOMEM;
	int err = fabric_open(env_real(), &options, &fabric);
	if (!err) {
		status->nodes_count = cluster_members(cluster, members, CLUSTER_MEMBERS_MAX);
		for (unsigned i = 0; i < status->nodes_count; i++)
			status->nodes[i].member = members[i];
		ask_nodes(fabric, status);
		fabric_close(fabric);
		if (cluster_has_store(cluster))
			volume_record_list(cluster, add_volume,
					   &(struct volumes_context){cluster, status});
		judge(status);
	}
	free(members);
	return err;
}

int command_status(int argc, char **argv)
{
	struct status_settings settings = {0};
	struct cluster *cluster;
	struct secret secret;

	if (!parse(argc, argv, &settings))
		return EXIT_USAGE;
	if (settings.help) {
		fputs(status_usage, stdout);
		return 0;
	}
	if (!setting_key("status", settings.key_file, &secret))
		return EXIT_USAGE;
	struct log *log = setting_log(0);
	struct status *status = calloc(1, sizeof(*status));
	int err = status ? cluster_open(env_real(), settings.cluster, log, &cluster) : -ENOMEM;
	if (!err) {
		err = gather(cluster, &secret, status);
		cluster_close(cluster);
	}
	int result = err ? HEALTH_DOWN : (int)status->health;
	FILE *output = err ? NULL : setting_output("status", settings.output, stdout);
	if (err)
		fprintf(stderr, "afar status: %s: %s\n", settings.cluster, afar_strerror(err));
	else if (!output)
		result = HEALTH_DOWN;
	else if (settings.json)
		print_json(output, status);
	else
		print_text(output, status);
	if (output && output != stdout)
		fclose(output);
	free(status);
	log_close(log);
	secret_wipe(&secret);
	return result;
}
