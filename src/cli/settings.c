/*
 * settings.c: what the subcommands have in common
 */
#include "cli/cli.h"

#include "base/log.h"
#include "base/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

uint64_t machine_memory_bytes(void)
{
	struct sysinfo info;

	return sysinfo(&info) ? UINT64_C(1) << 30 : (uint64_t)info.totalram * info.mem_unit;
}

/* "25%" of this machine's memory. */
static bool parse_percent(const char *text, uint64_t *bytes)
{
	char *end;
	double percent = strtod(text, &end);

	if (end == text || strcmp(end, "%") != 0 || !(percent > 0) || percent > 100)
		return false;
	*bytes = (uint64_t)((double)machine_memory_bytes() * percent / 100);
	return true;
}

bool setting_size(const char *command, const char *option, const char *text, uint64_t *bytes)
{
	const char *reason = "not a size";

	if (parse_percent(text, bytes) || size_parse(text, bytes, &reason) == 0)
		return true;
	fprintf(stderr, "afar %s: %s %s: %s. Write it like 64M, 1.5G or 25%%.\n", command, option,
		text, reason);
	return false;
}

const char *setting_cluster(const char *option)
{
	const char *environment = getenv("AFAR_CLUSTER");

	if (option)
		return option;
	return environment && *environment ? environment : NULL;
}

bool setting_key(const char *command, const char *option, struct secret *secret)
{
	char home_key[4096] = "";
	const char *home = getenv("HOME");
	const char *environment = getenv("AFAR_KEY_FILE");
	const char *reason = NULL;

	if (!option && environment && *environment)
		option = environment;
	if (home)
		snprintf(home_key, sizeof(home_key), "%s/.config/afar/key", home);
	const char *path = option                                     ? option
			   : *home_key && access(home_key, F_OK) == 0 ? home_key
			   : access("/etc/afar/key", R_OK) == 0       ? "/etc/afar/key"
								      : NULL;

	*secret = (struct secret){0};
	if (!path)
		return true;
	int err = secret_read(secret, path, &reason);
	if (!err)
		return true;
	fprintf(stderr,
		"afar %s: key file %s: %s. Make one with: (umask 077; head -c 32 /dev/urandom "
		"| base64 > %s)\n",
		command, path, reason ? reason : strerror(-err), path);
	return false;
}

FILE *setting_output(const char *command, const char *path, FILE *otherwise)
{
	if (!path)
		return otherwise;
	FILE *file = fopen(path, "we");

	if (!file)
		fprintf(stderr, "afar %s: --output %s: %s\n", command, path, strerror(errno));
	return file;
}

struct log *setting_log(unsigned verbosity)
{
	struct log_options options = {
		.fd = STDERR_FILENO,
		.level = verbosity == 0   ? LOG_LEVEL_WARN
			 : verbosity == 1 ? LOG_LEVEL_INFO
					  : LOG_LEVEL_DEBUG,
	};
	struct log *log;

	return log_open(&log, &options) ? NULL : log;
}
