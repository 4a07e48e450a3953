/*
 * placement.c: which processor the pager runs on, and where it wakes a thread
 *
 *   Handing a fault to a thread on another processor costs an interrupt there and back, and
 *   taking a page away from a program that has run on two of them asks both to forget it; in a
 *   virtual machine each is tens of microseconds, several times the work itself. While a program
 *   has one thread nothing is gained by a second processor: that thread sleeps while it is
 *   served. So the pager thread ties itself to the processor on which the lone thread runs.
 *
 *   That is half of it. The kernel places a thread that is woken on an idle processor, and the one
 *   that we run on is not idle. For the moment of waking the lone thread is therefore tied to our
 *   processor as well, and released before the lock is: a program that asks for its affinity
 *   under the lock never sees it. It sleeps meanwhile, so it cannot fork or ask.
 */
#include "pager/state.h"

#define FAULTS_FIRST         16u /* looks at the threads of the program after so many faults */
#define FAULTS_NEXT          256u
#define STAT_BYTES           1024u
#define STAT_PROCESSOR_FIELD 39u
#define DIRECTORY_LINKS      2u /* of a directory that holds no other */

void placement_init(struct pager *pager)
{
	struct placement *placement = &pager->placement;

	*placement = (struct placement){0};
	kernel_getaffinity(0, placement->all, sizeof(placement->all));
}

/* Appends a decimal number to a text; returns its end. */
static char *append_number(char *text, unsigned number)
{
	char digits[12];
	unsigned n = 0;

	do {
		digits[n++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	while (n > 0)
		*text++ = digits[--n];
	return text;
}

static char *append_text(char *text, const char *more)
{
	while (*more)
		*text++ = *more++;
	return text;
}

/* The processor that the thread ran on last, or -1. */
static int processor_of(int tid)
{
	char path[64];
	char text[STAT_BYTES];
	char *end = append_number(append_text(path, "/proc/self/task/"), (unsigned)tid);
	unsigned field = 2;
	int processor = 0;
	long len;
	long i;
	int fd;

	*append_text(end, "/stat") = 0;
	fd = (int)kernel_open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	len = kernel_read(fd, text, sizeof(text));
	kernel_close(fd);
	/* The name, in parentheses, may hold anything: fields are counted from its end. */
	for (i = len - 1; i >= 0 && text[i] != ')'; i--)
		;
	for (i += 1; i > 0 && i < len && field < STAT_PROCESSOR_FIELD; i++)
		field += text[i] == ' ';
	if (i <= 0 || i >= len)
		return -1;
	for (; i < len && text[i] >= '0' && text[i] <= '9'; i++)
		processor = processor * 10 + (text[i] - '0');
	return processor;
}

static bool is_lone(const struct pager *pager)
{
	struct stat stat = {0};

	if (pager->placement.several || kernel_fstat(pager->fd_task, &stat))
		return false;
	return stat.st_nlink == DIRECTORY_LINKS + thread_count(pager) + 1;
}

/* Whether the thread may run on one processor only: then it needs no tying. */
static bool is_tied(struct placement *placement, int tid)
{
	long bytes = kernel_getaffinity(tid, placement->theirs, sizeof(placement->theirs));
	unsigned count = 0;

	for (long i = 0; i < bytes / (long)sizeof(unsigned long); i++)
		count += (unsigned)__builtin_popcountl(placement->theirs[i]);
	return count == 1;
}

static void join_processor(struct placement *placement, int tid)
{
	int processor = processor_of(tid);
	unsigned long own[MASK_WORDS] = {0};

	placement->lone_tid = 0;
	if (processor < 0 || processor >= (int)(MASK_WORDS * 64))
		return;
	own[processor / 64] = 1ul << processor % 64;
	if (kernel_setaffinity(0, own, sizeof(own)))
		return;
	for (unsigned i = 0; i < MASK_WORDS; i++)
		placement->own[i] = own[i];
	placement->lone_tid = tid;
	placement->tied = is_tied(placement, tid);
}

void placement_note(struct pager *pager, int tid)
{
	struct placement *placement = &pager->placement;
	uint32_t period = placement->lone_tid ? FAULTS_NEXT : FAULTS_FIRST;

	if (placement->last_tid != tid && placement->last_tid != 0) {
		placement->several = true;
		if (placement->lone_tid)
			period = 0; /* look now */
	}
	placement->last_tid = tid;
	if (++placement->faults < period)
		return;
	placement->faults = 0;
	if (is_lone(pager)) {
		join_processor(placement, tid);
	} else if (placement->lone_tid) {
		placement->lone_tid = 0;
		kernel_setaffinity(0, placement->all, sizeof(placement->all));
	}
	placement->several = false;
}

void placement_hold(struct pager *pager, int tid)
{
	struct placement *placement = &pager->placement;
	long bytes;

	if (placement->lone_tid != tid || tid == 0 || placement->tied)
		return;
	bytes = kernel_getaffinity(tid, placement->theirs, sizeof(placement->theirs));
	if (bytes <= 0)
		return;
	placement->theirs_bytes = (size_t)bytes;
	placement->held = kernel_setaffinity(tid, placement->own, sizeof(placement->own)) == 0;
}

void placement_release(struct pager *pager)
{
	struct placement *placement = &pager->placement;

	if (placement->held)
		kernel_setaffinity(placement->lone_tid, placement->theirs, placement->theirs_bytes);
	placement->held = false;
}
