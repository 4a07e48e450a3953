/*
 * replay.c: runs a fuzz target once over every file of its corpus, without a fuzzer
 *
 *   replay DIRECTORY
 *
 * So the inputs that once found a bug are part of the unit tests of every build. A directory that
 * is not there is an empty corpus; the empty input is always tried.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

/* The input is copied to memory of exactly its size, so that a read past its end is seen. */
static int replay_file(const char *directory, const char *name)
{
	static uint8_t buf[INPUT_BYTES_MAX];
	char path[4096];

	if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
		return -1;
	FILE *file = fopen(path, "rb");
	if (!file)
		return -1;
	size_t len_bytes = fread(buf, 1, sizeof(buf), file);
	fclose(file);

	uint8_t *exact = malloc(len_bytes + (len_bytes == 0));
	if (!exact)
		return -1;
	memcpy(exact, buf, len_bytes);
	LLVMFuzzerTestOneInput(exact, len_bytes);
	free(exact);
	return 0;
}

int main(int argc, char **argv)
{
	int replayed = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: replay DIRECTORY\n");
		return 2;
	}
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);

	DIR *corpus = opendir(argv[1]);
	for (struct dirent *entry; corpus && (entry = readdir(corpus));) {
		if (entry->d_name[0] == '.')
			continue;
		if (replay_file(argv[1], entry->d_name) < 0) {
			fprintf(stderr, "replay: cannot read %s/%s\n", argv[1], entry->d_name);
			return 1;
		}
		replayed++;
	}
	if (corpus)
		closedir(corpus);
	printf("%d inputs replayed\n", replayed);
	return 0;
}
