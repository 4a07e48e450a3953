/*
 * main.c: tells which subcommand is meant
 */
#include "cli/cli.h"

#include "cli/help_texts.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"usage: afar COMMAND [OPTION…]\n"
	"\n"
	"Memory that is not where the program is.\n"
	"\n"
	"  afar run [--local SIZE] -- PROGRAM …   run an unmodified program in far memory\n"
	"  afar node --memory SIZE                donate memory of this machine\n"
	"  afar status [--cluster URI]            is the cluster well, and who is in it\n"
	"  afar help [TOPIC]                      the manual: afar, run, node, status, overview\n"
	"  afar --version\n"
	"\n"
	"Try: afar run --local 64M --stats -- sort --parallel=2 FILE\n"
	"Each command has --help.\n";

static const struct {
	const char *name;
	int (*command)(int argc, char **argv);
} commands[] = {
	{"run", command_run},
	{"node", command_node},
	{"status", command_status},
	{"help", command_help},
};

int command_help(int argc, char **argv)
{
	if (argc < 2) {
		fputs(usage, stdout);
		return 0;
	}
	for (unsigned i = 0; i < help_texts_count; i++)
		if (strcmp(help_texts[i].topic, argv[1]) == 0)
			return fputs(help_texts[i].text, stdout) < 0;
	fprintf(stderr, "afar help: nothing about %s. There is:", argv[1]);
	for (unsigned i = 0; i < help_texts_count; i++)
		fprintf(stderr, " %s", help_texts[i].topic);
	fputc('\n', stderr);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (strcmp(name, "--version") == 0) {
		puts("afar " AFAR_VERSION);
		return 0;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
		fputs(usage, stdout);
		return 0;
	}
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].command(argc - 1, argv + 1);
	if (*name)
		fprintf(stderr, "afar: there is no command %s\n\n", name);
	fputs(usage, stderr);
	return EXIT_USAGE;
}
