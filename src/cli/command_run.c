/*
 * command_run.c: afar run
 */
#include "cli/cli.h"

#include "base/env.h"
#include "base/log.h"
#include "pool/pool.h"
#include "run/run.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY_NAME "libafar-run.so"

const char run_usage[] =
	"usage: afar run [OPTION…] [--] PROGRAM [ARGUMENT…]\n"
	"\n"
	"Runs an unmodified program that may hold only so much of its data in this machine's\n"
	"memory; the rest lies on memory nodes and is fetched when it is touched.\n"
	"\n"
	"  --local SIZE        data held here at most, by the program and all it starts\n"
	"                      (default: half of the free memory; 64M, 1.5G, 25%)\n"
	"  --far SIZE          far memory at most\n"
	"  --cluster URI       dir:/path or tcp://host:port,… (default: a node of its own)\n"
	"  --protect WHAT      none, or replicas=N: every page on N nodes\n"
	"  --key-file FILE     the cluster's key\n"
	"  --no-prefetch       fetch only what is touched (to compare)\n"
	"  --stats             afterwards, what happened to its memory, to standard error\n"
	"  --json              the same as JSON\n"
	"  --output FILE       write the statistics there\n"
	"  -v, --verbose       tell what happens; twice: tell everything\n"
	"  --help              this\n"
	"\n"
	"example: afar run --local 256M --stats -- sort --parallel=2 big.txt\n"
	"The exit status is the program's; 124: memory was lost, 125: afar failed.\n";

struct run_settings {
	struct run_options options;
	const char *local, *far, *cluster, *protect, *key_file, *output;
	bool stats, json, help;
	unsigned verbosity;
};

enum {
	OPTION_LOCAL = 256,
	OPTION_FAR,
	OPTION_CLUSTER,
	OPTION_PROTECT,
	OPTION_KEY_FILE,
	OPTION_NO_PREFETCH,
	OPTION_STATS,
	OPTION_JSON,
	OPTION_OUTPUT,
	OPTION_HELP
};

static bool parse(int argc, char **argv, struct run_settings *settings)
{
	static const struct option options[] = {
		{"local", required_argument, NULL, OPTION_LOCAL},
		{"far", required_argument, NULL, OPTION_FAR},
		{"cluster", required_argument, NULL, OPTION_CLUSTER},
		{"protect", required_argument, NULL, OPTION_PROTECT},
		{"key-file", required_argument, NULL, OPTION_KEY_FILE},
		{"no-prefetch", no_argument, NULL, OPTION_NO_PREFETCH},
		{"stats", no_argument, NULL, OPTION_STATS},
		{"json", no_argument, NULL, OPTION_JSON},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, OPTION_HELP},
		{NULL, 0, NULL, 0},
	};
	const char *stats = getenv("AFAR_STATS");

	settings->local = getenv("AFAR_LOCAL");
	settings->stats = stats && strcmp(stats, "1") == 0;
	settings->options.prefetch = true;
	/* "+": the program's own options are not ours. */
	for (int option; (option = getopt_long(argc, argv, "+v", options, NULL)) != -1;) {
		switch (option) {
		case OPTION_LOCAL:
			settings->local = optarg;
			break;
		case OPTION_FAR:
			settings->far = optarg;
			break;
		case OPTION_CLUSTER:
			settings->cluster = optarg;
			break;
		case OPTION_PROTECT:
			settings->protect = optarg;
			break;
		case OPTION_KEY_FILE:
			settings->key_file = optarg;
			break;
		case OPTION_NO_PREFETCH:
			settings->options.prefetch = false;
			break;
		case OPTION_STATS:
			settings->stats = true;
			break;
		case OPTION_JSON:
			settings->json = settings->stats = true;
			break;
		case OPTION_OUTPUT:
			settings->output = optarg, settings->stats = true;
			break;
		case 'v':
			settings->verbosity++;
			break;
		case OPTION_HELP:
			settings->help = true;
			break;
		default:
			fprintf(stderr, "Try: afar run --help\n");
			return false;
		}
	}
	settings->options.argv = argv + optind;
	return true;
}

/* The library lies beside this binary (build/), or in ../lib of it, where it is installed. */
static bool find_library(char *path, size_t size)
{
	static const char *const places[] = {"%.*s/" LIBRARY_NAME, "%.*s/../lib/" LIBRARY_NAME,
					     "%.*s/../lib/afar/" LIBRARY_NAME,
					     "%.*s/../lib/x86_64-linux-gnu/" LIBRARY_NAME};
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (len <= 0)
		return false;
	self[len] = '\0';
	int directory = (int)(strrchr(self, '/') - self);
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char candidate[PATH_MAX];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		int n = snprintf(candidate, sizeof(candidate), places[i], directory, self);
#pragma GCC diagnostic pop
		if (n > 0 && (size_t)n < size && access(candidate, R_OK) == 0) {
			memcpy(path, candidate, (size_t)n + 1);
			return true;
		}
	}
	fprintf(stderr, "afar run: %s is not beside %s: build or install it\n", LIBRARY_NAME, self);
	return false;
}

/* Turns texts into values; false: standard error says which makes no sense. */
static bool settle(struct run_settings *settings, struct secret *secret)
{
	struct run_options *options = &settings->options;

	options->replicas = 1;
	if (settings->local && *settings->local &&
	    !setting_size("run", "--local", settings->local, &options->local_bytes))
		return false;
	if (settings->far && !setting_size("run", "--far", settings->far, &options->far_bytes))
		return false;
	if (settings->protect && volume_protection_parse(settings->protect, &options->replicas)) {
		fprintf(stderr, "afar run: --protect %s: write none, replicas=2 or replicas=3\n",
			settings->protect);
		return false;
	}
	options->cluster_uri = setting_cluster(settings->cluster);
	if (options->replicas > 1 && !options->cluster_uri) {
		fprintf(stderr,
			"afar run: --protect %s needs several nodes: name them with "
			"--cluster dir:/path or --cluster tcp://host:port,…\n",
			settings->protect);
		return false;
	}
	if (!setting_key("run", settings->key_file, secret))
		return false;
	if (secret->len_bytes) {
		options->key = secret->bytes;
		options->key_len = secret->len_bytes;
	}
	return true;
}

int command_run(int argc, char **argv)
{
	struct run_settings settings = {0};
	struct run_statistics stats;
	struct secret secret;
	char library[PATH_MAX];
	int status;

	if (!parse(argc, argv, &settings))
		return RUN_EXIT_FAILED;
	if (settings.help) {
		fputs(run_usage, stdout);
		return 0;
	}
	if (!settings.options.argv[0]) {
		fprintf(stderr, "afar run: which program? For instance: afar run --local 256M -- "
				"python3 job.py\n");
		return RUN_EXIT_FAILED;
	}
	if (!settle(&settings, &secret) || !find_library(library, sizeof(library)))
		return RUN_EXIT_FAILED;
	FILE *output = setting_output("run", settings.output, stderr);
	if (!output)
		return RUN_EXIT_FAILED;

	settings.options.library_path = library;
	settings.options.log = setting_log(settings.verbosity);
	int err = run_program(env_real(), &settings.options, &stats, &status);
	if (!err && settings.stats)
		run_report(output, &stats, settings.json);
	if (output != stderr && fclose(output))
		fprintf(stderr, "afar run: --output %s: %s\n", settings.output, strerror(errno));
	log_close(settings.options.log);
	secret_wipe(&secret);
	return status;
}
