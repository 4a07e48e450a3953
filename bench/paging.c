/*
 * paging.c: programs that need more memory than they may have: paging WHAT MIB [SECONDS]
 *
 *   Knows nothing of afar: bench/run.py runs it under `afar run` and under kernel swap alike.
 *
 *     random MIB SECONDS       random pages, every second access writes: accesses a second
 *     sequential MIB SECONDS   page after page, one word read of each: MB a second
 *     latency MIB SECONDS      touches far pages while there is room (nothing is evicted), then
 *                              while there is none: ns at the 99th percentile of each
 *
 *   Pages hold words that no compressor can guess and no page is zero. Prints `name value` lines.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES   4096u
#define PAGE_WORDS   (PAGE_BYTES / sizeof(uint64_t))
#define FAULT_NS_MIN 3000 /* what takes less was here */
#define SAMPLES_MAX  (1u << 20)

static uint64_t state = 88172645463325252u;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static uint64_t *map_pages(size_t pages)
{
	void *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return memory;
}

static void fill(uint64_t *memory, size_t pages)
{
	for (size_t i = 0; i < pages * PAGE_WORDS; i++)
		memory[i] = next_random() | 1;
}

static void access_page(uint64_t *memory, size_t page, uint64_t random)
{
	volatile uint64_t *word = memory + page * PAGE_WORDS + random % PAGE_WORDS;

	if (random >> 32 & 1)
		*word = random | 1;
	else
		(void)*word;
}

static void random_accesses(size_t pages, double seconds)
{
	uint64_t *memory = map_pages(pages);
	uint64_t done = 0;

	assert(pages > 0);
	fill(memory, pages);
	/* A pass that is not measured: what is resident then is chosen by the paging, not by us. */
	for (size_t i = 0; i < pages; i++)
		access_page(memory, next_random() % pages, next_random());
	int64_t begin_ns = now_ns(), end_ns = begin_ns + (int64_t)(seconds * 1e9);
	while (now_ns() < end_ns)
		for (unsigned i = 0; i < 64; i++, done++)
			access_page(memory, next_random() % pages, next_random());
	printf("accesses_per_s %.0f\n", (double)done * 1e9 / (double)(now_ns() - begin_ns));
}

static void sequential_reads(size_t pages, double seconds)
{
	uint64_t *memory = map_pages(pages);
	uint64_t done = 0;

	fill(memory, pages);
	int64_t begin_ns = now_ns(), end_ns = begin_ns + (int64_t)(seconds * 1e9);
	do {
		for (size_t page = 0; page < pages; page++)
			(void)*(volatile uint64_t *)(memory + page * PAGE_WORDS);
		done += pages;
	} while (now_ns() < end_ns);
	printf("mb_per_s %.1f\n",
	       (double)done * PAGE_BYTES / 1e6 * 1e9 / (double)(now_ns() - begin_ns));
}

static int ascending(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static uint32_t *samples;

static double p99(size_t n)
{
	qsort(samples, n, sizeof(*samples), ascending);
	return n ? samples[n - 1 - n / 100] : 0;
}

/* Reads pages and keeps the times of those that were not here. */
static size_t sample_faults(uint64_t *memory, size_t first, size_t pages, size_t touches)
{
	size_t n = 0;

	assert(pages > 0);
	for (size_t i = 0; i < touches && n < SAMPLES_MAX; i++) {
		size_t page = first + next_random() % pages;
		int64_t begin_ns = now_ns();

		(void)*(volatile uint64_t *)(memory + page * PAGE_WORDS);
		int64_t took_ns = now_ns() - begin_ns;
		if (took_ns >= FAULT_NS_MIN)
			samples[n++] = (uint32_t)(took_ns > UINT32_MAX ? UINT32_MAX : took_ns);
	}
	return n;
}

/* Half of the memory may be local: `far` is pushed out by `room`, which then is given back. */
static void fault_latency(size_t pages)
{
	size_t half = pages / 2;

	assert(half > 0);
	uint64_t *far = map_pages(pages);
	uint64_t *room = map_pages(half);

	samples = calloc(SAMPLES_MAX, sizeof(*samples));
	if (!samples)
		exit(1);
	fill(far, pages);
	fill(room, half);
	munmap(room, half * PAGE_BYTES);
	printf("p99_room_ns %.0f\n", p99(sample_faults(far, 0, half / 2, half / 2)));
	/* Fill what room is left, then go on for as many faults again. */
	sample_faults(far, 0, pages, pages);
	printf("p99_evicting_ns %.0f\n", p99(sample_faults(far, 0, pages, pages)));
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: paging random|sequential|latency MIB [SECONDS]\n");
		return 2;
	}
	size_t pages = (size_t)strtoull(argv[2], NULL, 10) * 256;
	double seconds = argc > 3 ? strtod(argv[3], NULL) : 1;

	if (strcmp(argv[1], "random") == 0)
		random_accesses(pages, seconds);
	else if (strcmp(argv[1], "sequential") == 0)
		sequential_reads(pages, seconds);
	else if (strcmp(argv[1], "latency") == 0)
		fault_latency(pages);
	else
		return 2;
	return 0;
}
