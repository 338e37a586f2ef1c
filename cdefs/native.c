/* The functions that native.h declares. No Python.h in here: this file compiles and runs without an interpreter. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

int pyvfio_linux_ioctl(void *context, int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	(void)context;
	return result < 0 ? -errno : result;
}

int pyvfio_ioctl(const pyvfio_door *door, unsigned long request, void *argument)
{
	if (door->fd < 0)
		return -EBADF;
	return door->ioctl(door->context, door->fd, request, argument);
}

/* A request is prepared once, whether it then maps one range or a million: only three of its fields change. */
union map_request {
	struct vfio_iommu_type1_dma_map type1;
	struct iommu_ioas_map ioas;
};

union unmap_request {
	struct vfio_iommu_type1_dma_unmap type1;
	struct iommu_ioas_unmap ioas;
};

static void prepare_map(union map_request *map, const pyvfio_space *space, uint32_t prot)
{
	memset(map, 0, sizeof(*map));
	if (space->ioas) {
		map->ioas.size = sizeof(map->ioas);
		map->ioas.flags = IOMMU_IOAS_MAP_FIXED_IOVA;
		if (prot & PYVFIO_PROT_READ)
			map->ioas.flags |= IOMMU_IOAS_MAP_READABLE;
		if (prot & PYVFIO_PROT_WRITE)
			map->ioas.flags |= IOMMU_IOAS_MAP_WRITEABLE;
		map->ioas.ioas_id = space->ioas;
	} else {
		map->type1.argsz = sizeof(map->type1);
		if (prot & PYVFIO_PROT_READ)
			map->type1.flags |= VFIO_DMA_MAP_FLAG_READ;
		if (prot & PYVFIO_PROT_WRITE)
			map->type1.flags |= VFIO_DMA_MAP_FLAG_WRITE;
	}
}

static int map_range(union map_request *map, const pyvfio_space *space, uint64_t address, uint64_t iova, uint64_t size)
{
	if (space->ioas) {
		map->ioas.user_va = address;
		map->ioas.length = size;
		map->ioas.iova = iova;
		return pyvfio_ioctl(space->door, IOMMU_IOAS_MAP, map);
	}
	map->type1.vaddr = address;
	map->type1.iova = iova;
	map->type1.size = size;
	return pyvfio_ioctl(space->door, VFIO_IOMMU_MAP_DMA, map);
}

static void prepare_unmap(union unmap_request *unmap, const pyvfio_space *space)
{
	memset(unmap, 0, sizeof(*unmap));
	if (space->ioas) {
		unmap->ioas.size = sizeof(unmap->ioas);
		unmap->ioas.ioas_id = space->ioas;
	} else {
		unmap->type1.argsz = sizeof(unmap->type1);
	}
}

static uint64_t unmap_range(union unmap_request *unmap, const pyvfio_space *space, uint64_t iova, uint64_t size)
{
	int result;

	if (space->ioas) {
		unmap->ioas.iova = iova;
		unmap->ioas.length = size;
		result = pyvfio_ioctl(space->door, IOMMU_IOAS_UNMAP, unmap);
		return result < 0 ? (uint64_t)(int64_t)result : unmap->ioas.length;
	}
	unmap->type1.iova = iova;
	unmap->type1.size = size;
	result = pyvfio_ioctl(space->door, VFIO_IOMMU_UNMAP_DMA, unmap);
	return result < 0 ? (uint64_t)(int64_t)result : unmap->type1.size;
}

int pyvfio_map(const pyvfio_space *space, uint64_t address, uint64_t iova, uint64_t size, uint32_t prot)
{
	union map_request map;

	prepare_map(&map, space, prot);
	return map_range(&map, space, address, iova, size);
}

uint64_t pyvfio_unmap(const pyvfio_space *space, uint64_t iova, uint64_t size)
{
	union unmap_request unmap;

	prepare_unmap(&unmap, space);
	return unmap_range(&unmap, space, iova, size);
}

int pyvfio_map_many(const pyvfio_space *space, const uint64_t *rows, size_t count, uint32_t prot, size_t *done)
{
	union map_request map;
	size_t at;
	int result = 0;

	prepare_map(&map, space, prot);
	for (at = *done; at < count; at++) {
		result = map_range(&map, space, rows[3 * at], rows[3 * at + 1], rows[3 * at + 2]);
		if (result < 0)
			break;
	}
	*done = at;
	return result < 0 ? result : 0;
}

size_t pyvfio_row_at_the_end(const uint64_t *rows, size_t count)
{
	size_t at;

	for (at = 0; at < count; at++)
		if (rows[3 * at + 2] && rows[3 * at + 1] + rows[3 * at + 2] == 0)
			break;
	return at;
}

int pyvfio_unmap_many(const pyvfio_space *space, const uint64_t *rows, size_t count, size_t *done, uint64_t *bytes)
{
	union unmap_request unmap;
	uint64_t unmapped;

	prepare_unmap(&unmap, space);
	for (; *done < count; ++*done) {
		unmapped = unmap_range(&unmap, space, rows[2 * *done], rows[2 * *done + 1]);
		if (unmapped > (uint64_t)-4096)
			return (int)(int64_t)unmapped;
		*bytes += unmapped;
	}
	return 0;
}

int64_t pyvfio_wait(int eventfd, double seconds)
{
	struct pollfd ready = { .fd = eventfd, .events = POLLIN };
	uint64_t count;
	int limit = -1, result;

	/* Whole milliseconds, rounded up as Python does; what an int cannot hold is as good as for ever. */
	if (seconds >= 0 && seconds < 2e6) {
		limit = (int)(seconds * 1000);
		limit += limit < seconds * 1000;
	}
	if (limit) {
		result = poll(&ready, 1, limit);
		if (result <= 0)
			return result ? -errno : 0;
	}
	if (read(eventfd, &count, sizeof(count)) == sizeof(count))
		return (int64_t)count;
	if (errno != EAGAIN)
		return -errno;
	return limit ? -EINTR : 0; /* another thread was faster: again, with the time that is left */
}

/* Mapped elsewhere first, then moved: mmap(MAP_FIXED) that fails in the driver has already unmapped what was there (Linux before
 * 6.12), and another thread's memory may be in that place by the time its owner unmaps it. */
int pyvfio_map_over(void *there, size_t size, int prot, int fd, int64_t offset)
{
	enum { MAYMOVE = 1, FIXED = 2 }; /* MREMAP_*, which sys/mman.h has for _GNU_SOURCE only */
	void *mapped = mmap(NULL, size, prot, MAP_SHARED, fd, offset);
	int error;

	if (mapped == MAP_FAILED)
		return -errno;
	if (syscall(SYS_mremap, mapped, size, size, (long)(MAYMOVE | FIXED), there) != -1)
		return 0;
	error = errno;
	munmap(mapped, size);
	return -error;
}

int pyvfio_map_nothing(void *there, size_t size, int hole)
{
	enum { FIXED_NOREPLACE = 0x100000 }; /* MAP_*, since Linux 4.17 */
	int flags = MAP_PRIVATE | MAP_ANON | MAP_NORESERVE | (hole ? FIXED_NOREPLACE : MAP_FIXED);
	void *mapped = mmap(there, size, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (mapped == MAP_FAILED)
		return -errno;
	if (mapped == there)
		return 0;
	munmap(mapped, size); /* an older kernel took the address for a hint */
	return -EEXIST;
}

/* The system calls themselves: libc declares their wrappers only for _GNU_SOURCE, too late for a file that is included. */
static int copy_own(long call, uintptr_t address, void *other, size_t size)
{
	struct iovec here = { .iov_base = other, .iov_len = size };
	struct iovec there = { .iov_base = (void *)address, .iov_len = size };
	long copied;

	if (!size)
		return 0;
	copied = syscall(call, (long)getpid(), &here, 1UL, &there, 1UL, 0UL);
	if (copied < 0)
		return -errno;
	return (size_t)copied == size ? 0 : -EFAULT;
}

int pyvfio_peek(uintptr_t address, void *into, size_t size)
{
	return copy_own(SYS_process_vm_readv, address, into, size);
}

int pyvfio_poke(uintptr_t address, const void *from, size_t size)
{
	return copy_own(SYS_process_vm_writev, address, (void *)from, size);
}

/* Memory up to this size is looked at by faulting it in, as pinning does; of more only the permissions are looked at. */
static const uint64_t POPULATED = 4 << 20;

int pyvfio_pinnable(uintptr_t address, uint64_t size, int write)
{
	enum { POPULATE_READ = 22, POPULATE_WRITE = 23 }; /* MADV_*, since Linux 5.14 */
	uintptr_t page = (uintptr_t)getpagesize() - 1;
	uintptr_t next = address & ~page, end = (address + size + page) & ~page;
	unsigned long start, last;
	char read, writable, line[512];
	int result = -EFAULT;
	FILE *maps;

	if (address + size < address || end < next)
		return -EFAULT;
	if (size <= POPULATED && !madvise((void *)next, end - next, write ? POPULATE_WRITE : POPULATE_READ))
		return 0;
	if (size <= POPULATED && errno != EINVAL) /* an older kernel, or a device's memory */
		return -EFAULT;
	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return -errno;
	while (fgets(line, sizeof(line), maps)) {
		/* what is left of a long line has no such form */
		if (sscanf(line, "%lx-%lx %c%c", &start, &last, &read, &writable) != 4 || last <= next)
			continue;
		if (start > next || (write ? writable != 'w' : read != 'r'))
			break;
		next = last;
		if (next >= end) {
			result = 0;
			break;
		}
	}
	fclose(maps);
	return result;
}
