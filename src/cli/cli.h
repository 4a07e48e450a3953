/*
 * cli.h: the `afar` command
 *
 *   One file a subcommand (command_run.c, command_node.c, command_status.c): it reads its options,
 *   calls the storeys below and says in people's words what they answered. What the subcommands
 *   have in common is in settings.c: sizes, the cluster and key that nobody named, where results
 *   go. main.c tells which subcommand is meant.
 *
 *   Messages for people go to standard error, each says what, why, and what to type next; results
 *   go to standard output or to --output. Exit status 2 is a command line that makes no sense.
 */
#ifndef AFAR_CLI_H
#define AFAR_CLI_H

#include "base/secret.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define EXIT_USAGE 2

struct log;

/* Each gets its own name as argv[0], and returns the exit status. */
int command_run(int argc, char **argv);
int command_node(int argc, char **argv);
int command_status(int argc, char **argv);
int command_help(int argc, char **argv);

/* What `--help` of each command prints. */
extern const char run_usage[];
extern const char node_usage[];
extern const char status_usage[];

/*
 * A size as the manual defines it: 64M, 1.5G, 25% (of this machine's memory). False: it is none,
 * and standard error says why in the name of `command`.
 */
bool setting_size(const char *command, const char *option, const char *text, uint64_t *bytes);

/* The cluster: the option's value, else $AFAR_CLUSTER, else NULL. */
const char *setting_cluster(const char *option);

/*
 * The key: from the option's file, else $AFAR_KEY_FILE, ~/.config/afar/key, /etc/afar/key. No key
 * at all is fine: secret->len_bytes is then 0. False: a file that was named or found cannot be
 * used, and standard error says why.
 */
bool setting_key(const char *command, const char *option, struct secret *secret);

/* Opens where results go: `path`, or `otherwise`. NULL: it cannot be written; said so. */
FILE *setting_output(const char *command, const char *path, FILE *otherwise);

/* A log to standard error: warnings, or with -v what happens. */
struct log *setting_log(unsigned verbosity);

/* Total memory of this machine, bytes. */
uint64_t machine_memory_bytes(void);

#endif
