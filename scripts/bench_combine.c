/* SPDX-License-Identifier: MIT */
/* Measure the algorithm of the kernel's vfio_combine_iova_ranges: as long as there are too many ranges, walk all of them to
 * find the smallest gap, and close it. This is a new implementation on a list in address order, which uses the caches
 * better than the kernel's interval tree. The arguments are a count and a limit; standard input has the (start, last) pairs.
 * Prints the time in nanoseconds, and the sum of the sizes to compare results. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct range {
	uint64_t start, last;
	struct range *next;
};

static void combine(struct range *first, size_t count, size_t wanted)
{
	for (; count > wanted; count--) {
		struct range *best = first;
		uint64_t smallest = UINT64_MAX;

		for (struct range *at = first; at->next; at = at->next) {
			uint64_t gap = at->next->start - at->last;

			if (gap < smallest) {
				smallest = gap;
				best = at;
			}
		}
		best->last = best->next->last;
		best->next = best->next->next;
	}
}

int main(int argc, char **argv)
{
	size_t count, limit;
	uint64_t sum = 0;
	struct range *ranges;
	struct timespec begin, end;

	if (argc != 3)
		return 2;
	count = strtoull(argv[1], NULL, 0);
	limit = strtoull(argv[2], NULL, 0);
	ranges = calloc(count, sizeof(*ranges));
	if (!ranges)
		return 1;
	for (size_t i = 0; i < count; i++) {
		uint64_t pair[2];

		if (fread(pair, sizeof(pair), 1, stdin) != 1)
			return 1;
		ranges[i] = (struct range){ pair[0], pair[1], i + 1 < count ? &ranges[i + 1] : NULL };
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	combine(ranges, count, limit);
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (struct range *at = ranges; at; at = at->next)
		sum += at->last - at->start + 1;
	printf("%lld %llu\n", (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec,
	       (unsigned long long)sum);
	free(ranges);
	return 0;
}
