/* SPDX-License-Identifier: MIT */
/* What scripts/bench_map compares with: map and unmap of one page, and of many, in plain C.
 *
 *     bench_map_c MAP_REQUEST UNMAP_REQUEST       compiled as a shared object; the descriptor is the caller's
 */
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>

struct map {
	uint32_t argsz, flags;
	uint64_t vaddr, iova, size;
};

struct unmap {
	uint32_t argsz, flags;
	uint64_t iova, size;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Seconds for mapping `count` pages of memory to `count` places, and for unmapping them: result[0], result[1]. */
int bench(int fd, unsigned long map_request, unsigned long unmap_request, uint64_t address, uint64_t iova, int count,
	  double *result)
{
	double begun = now();
	int i;

	for (i = 0; i < count; i++) {
		struct map map = { sizeof(map), 3, address, iova + i * 8192ull, 4096 };

		if (ioctl(fd, map_request, &map))
			return -1;
	}
	result[0] = now() - begun;
	begun = now();
	for (i = 0; i < count; i++) {
		struct unmap unmap = { sizeof(unmap), 0, iova + i * 8192ull, 4096 };

		if (ioctl(fd, unmap_request, &unmap))
			return -1;
	}
	result[1] = now() - begun;
	return 0;
}
