/* SPDX-License-Identifier: MIT */
/* The comparison for scripts/bench_nvme: reads of single blocks from an NVMe disk, and the parts of a read, in plain C.
 *
 * Compiled as a shared object. The caller sets up the controller, its queues, their memory and the eventfd.
 */
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { READ = 2, LIMIT = 10000 };

struct command {
	uint32_t opcode_and_id, namespace, reserved[2];
	uint64_t metadata, page, more;
	uint32_t words[6];
};

struct completion {
	uint32_t result, reserved;
	uint16_t head, queue, id, status;
};

struct queue {
	struct command *submissions;
	volatile struct completion *completions;
	volatile uint32_t *tail, *head; /* doorbells */
	uint32_t entries, at, phase;
	int eventfd; /* -1: poll */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Wait for the eventfd, and return how often it was signalled since the last read; 0 if not within 10 seconds. */
static uint64_t wait_for(int eventfd)
{
	struct pollfd ready = { eventfd, POLLIN, 0 };
	uint64_t count = 0;

	if (poll(&ready, 1, LIMIT) != 1 || read(eventfd, &count, sizeof(count)) != sizeof(count))
		return 0;
	return count;
}

/* Read a block `count` times. Return the number of interrupts, or -1 on errors. */
int64_t reads(struct queue *q, uint32_t namespace, uint64_t iova, int count, double *seconds)
{
	double begun = now();
	int64_t interrupts = 0;

	while (count--) {
		struct command *command = &q->submissions[q->at];
		uint32_t at = q->at;
		uint16_t status;

		memset(command, 0, sizeof(*command));
		command->opcode_and_id = READ | at << 16;
		command->namespace = namespace;
		command->page = iova;
		q->at = (at + 1) % q->entries;
		*q->tail = q->at;
		if (q->eventfd >= 0) {
			uint64_t fired = wait_for(q->eventfd);

			if (!fired)
				return -1;
			interrupts += fired;
		}
		while (((status = q->completions[at].status) & 1) != q->phase)
			;
		if (!q->at)
			q->phase ^= 1;
		*q->head = q->at;
		if (status >> 1)
			return -1;
	}
	*seconds = now() - begun;
	return interrupts;
}

/* Return the time in seconds of `count` loads, of `count` stores, and of `count` rounds of signalling and waiting. */
double loads(volatile uint32_t *address, int count)
{
	double begun = now();

	while (count--)
		(void)*address;
	return now() - begun;
}

double stores(volatile uint32_t *address, uint32_t value, int count)
{
	double begun = now();

	while (count--)
		*address = value;
	return now() - begun;
}

double waits(int eventfd, int count)
{
	double begun = now();
	uint64_t one = 1;

	while (count--)
		if (write(eventfd, &one, sizeof(one)) != sizeof(one) || !wait_for(eventfd))
			return -1;
	return now() - begun;
}
