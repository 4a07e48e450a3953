#include "node/machine.h"

#include "base/base.h"
#include "base/env.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES         16384u
#define PATH_BYTES         1024u
#define GROUP_ROOT         "/sys/fs/cgroup"
#define GROUPS_MAX         32u /* a path that is nested deeper is looked at no further */
#define PERCENT_HUNDREDTHS 10000u

/* ---- what texts say ---- */

uint64_t machine_parse_available(const char *meminfo)
{
	static const char name[] = "MemAvailable:";
	const char *line = strstr(meminfo, name);

	return line ? strtoull(line + sizeof(name) - 1, NULL, 10) * 1024 : UINT64_MAX;
}

uint64_t machine_parse_group(const char *max, const char *current, const char *stat)
{
	static const char name[] = "\ninactive_file ";
	const char *line = strstr(stat, name);
	char *end;
	uint64_t max_bytes = strtoull(max, &end, 10);
	uint64_t used_bytes = strtoull(current, NULL, 10);
	uint64_t cache_bytes = line ? strtoull(line + sizeof(name) - 1, NULL, 10) : 0;

	/* "max": no limit. */
	if (end == max)
		return UINT64_MAX;
	used_bytes -= min_u64(cache_bytes, used_bytes);
	return max_bytes > used_bytes ? max_bytes - used_bytes : 0;
}

uint32_t machine_parse_pressure(const char *pressure)
{
	static const char name[] = "full avg10=";
	const char *line = strstr(pressure, name);
	char *end;

	/* Two digits follow the point; a number that would overflow saturates far above 100 %. */
	if (!line || !isdigit((unsigned char)line[sizeof(name) - 1]))
		return 0;

	uint64_t whole = min_u64(strtoull(line + sizeof(name) - 1, &end, 10), 100);
	uint64_t hundredths = *end == '.' ? strtoull(end + 1, NULL, 10) : 0;

	return (uint32_t)min_u64(whole * 100 + min_u64(hundredths, 99), PERCENT_HUNDREDTHS);
}

/* ---- the machine ---- */

static bool read_text(struct env *env, const char *path, char text[TEXT_BYTES])
{
	size_t len_bytes;

	if (env_file_read(env, path, text, TEXT_BYTES - 1, &len_bytes) != 0)
		return false;
	text[len_bytes] = '\0';
	return true;
}

static bool read_of_group(struct env *env, const char *group, const char *file,
			  char text[TEXT_BYTES])
{
	char path[PATH_BYTES + 64];

	snprintf(path, sizeof(path), GROUP_ROOT "%s/%s", group, file);
	return read_text(env, path, text);
}

static uint64_t left_in_group(struct env *env, const char *group)
{
	char max[TEXT_BYTES];
	char current[TEXT_BYTES];
	char stat[TEXT_BYTES];

	/* The root has no limit, and groups of the older kind have other files. */
	if (!read_of_group(env, group, "memory.max", max) ||
	    !read_of_group(env, group, "memory.current", current))
		return UINT64_MAX;
	if (!read_of_group(env, group, "memory.stat", stat))
		stat[0] = '\0';
	return machine_parse_group(max, current, stat);
}

/* The least that our group and those above it leave. */
static uint64_t left_in_groups(struct env *env)
{
	char text[TEXT_BYTES];
	char group[PATH_BYTES];
	uint64_t left_bytes = UINT64_MAX;

	if (!read_text(env, "/proc/self/cgroup", text))
		return UINT64_MAX;

	const char *line = strstr(text, "0::/");

	if (!line)
		return UINT64_MAX;
	snprintf(group, sizeof(group), "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
	for (unsigned depth = 0; depth < GROUPS_MAX; depth++) {
		char *slash = strrchr(group, '/');

		left_bytes = min_u64(left_bytes, left_in_group(env, group));
		if (!slash)
			break;
		*slash = '\0';
	}
	return left_bytes;
}

uint64_t machine_available_bytes(struct env *env)
{
	char text[TEXT_BYTES];
	uint64_t bytes = left_in_groups(env);

	if (read_text(env, "/proc/meminfo", text))
		bytes = min_u64(bytes, machine_parse_available(text));
	if (bytes != UINT64_MAX && read_text(env, "/proc/pressure/memory", text))
		bytes -= bytes / PERCENT_HUNDREDTHS * machine_parse_pressure(text);
	return bytes;
}
