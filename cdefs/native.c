/* SPDX-License-Identifier: MIT */
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

size_t pyvfio_row_at_the_end(const uint64_t *rows, size_t count)
{
	size_t at;

	for (at = 0; at < count; at++)
		if (rows[3 * at + 2] && rows[3 * at + 1] + rows[3 * at + 2] == 0)
			break;
	return at;
}

void pyvfio_hull(const uint64_t *rows, size_t count, uint64_t *hull)
{
	size_t at;

	hull[0] = UINT64_MAX;
	hull[1] = 0;
	for (at = 0; at < count; at++) {
		const uint64_t start = rows[3 * at + 1], size = rows[3 * at + 2];
		const uint64_t last = size && size - 1 > UINT64_MAX - start ? UINT64_MAX : start + size - !!size;

		hull[0] = start < hull[0] ? start : hull[0];
		hull[1] = last > hull[1] ? last : hull[1];
	}
}

int pyvfio_same_places(const uint64_t *mapped, const uint64_t *rows, size_t count)
{
	size_t at;

	for (at = 0; at < count; at++)
		if (mapped[3 * at + 1] != rows[2 * at] || mapped[3 * at + 2] != rows[2 * at + 1])
			return 0;
	return 1;
}

int64_t pyvfio_wait(int eventfd, double seconds)
{
	struct pollfd ready = { .fd = eventfd, .events = POLLIN };
	uint64_t count;
	int limit = -1, result;

	/* Whole milliseconds, rounded up as Python does. A time that does not fit in an int waits for ever. */
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
	return limit ? -EINTR : 0; /* another thread has read the count: wait again for the rest of the time */
}

/* Map elsewhere first, then move the mapping. An mmap(MAP_FIXED) that fails in the driver has already unmapped the old memory (Linux
 * before 6.12), and another thread's memory may be there by the time the owner of the old memory unmaps it. */
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
	munmap(mapped, size); /* a kernel without MAP_FIXED_NOREPLACE took the address for a hint */
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

/* Memory up to this size is checked by faulting it in, as pinning does. Of larger memory only the permissions are checked. */
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
	if (size <= POPULATED && errno != EINVAL) /* EINVAL: a kernel before 5.14, or a device's memory */
		return -EFAULT;
	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return -errno;
	while (fgets(line, sizeof(line), maps)) {
		/* the rest of a line that is longer than the buffer does not match */
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
