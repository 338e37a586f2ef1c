/* SPDX-License-Identifier: MIT */
/* The comparison for scripts/bench_map: map and unmap single pages in plain C.
 *
 * Compiled as a shared object. The caller passes the container's descriptor and the numbers of the two requests.
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

/* Map one page of memory at `count` IOVAs, and unmap it again. The times in seconds go to result[0] and result[1]. */
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
