/* SPDX-License-Identifier: MIT */
/* Check that the machine's IOMMU translates: a device's DMA must reach the memory that VFIO mapped, and nothing else.
 *
 *     check_translation 0000:00:03.0        the address of QEMU's edu
 *
 * Process 1 of the guest runs this program before the command. An emulated IOMMU can have groups and accept every mapping, and
 * still pass all DMA through untranslated. Exit code: 0 if the IOMMU translates, 1 if it does not, 2 if the check failed. For
 * 1 and 2, stdout has one line with the reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OK, NOT_TRANSLATED, UNKNOWN };

/* The processor's page size. For another one, the compiler gets it as an option. */
#ifndef PAGE
#define PAGE 4096
#endif

/* COPIED: QEMU before 9.1 aborts when a transfer reaches the end of edu's buffer. BLOCKED: virtio's IOMMU logs one line in the
 * kernel's log for each 4 bytes that it blocks. */
enum { COPIED = 2048, BLOCKED = 8 };

enum { LIMIT = 10 /* seconds; the DMA engine takes 0.1 s for each transfer */ };

/* edu: registers of the DMA engine in BAR0, its commands, and the buffer's address as the engine sees it. */
enum { SOURCE = 0x80, DESTINATION = 0x88, COUNT = 0x90, COMMAND = 0x98 };
enum { START = 1, TO_MEMORY = 2, BUFFER = 0x40000 };

enum { PCI_COMMAND = 4, MEMORY_AND_MASTER = 6 };

/* An IOVA below 2^28, which is what edu can address. */
enum { FIRST_IOVA = 0x0a5a0000 };

struct edu {
	int container, group, device;
	uint64_t bar, config; /* offsets of these regions in the device file */
};

/* Fill a page with a pattern that other memory does not have by chance. The pattern depends on the seed. */
static void fill(uint8_t *page, uint8_t seed)
{
	for (int i = 0; i < PAGE; i++)
		page[i] = (uint8_t)(seed + i * 37 + (i >> 8) * 11);
}

static _Noreturn void finish(int code, const char *format, ...)
{
	va_list arguments;

	fputs(code == NOT_TRANSLATED ? "the IOMMU does not translate: " : "cannot check whether the IOMMU translates: ",
	      stdout);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
	exit(code);
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return written < 0 ? -1 : 0;
}

/* Bind the device to the driver `override`, or with "\n" to its native driver. (edu has none and stays unbound.) */
static int bind_to(const char *address, const char *override)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver/unbind", address);
	if (write_text(path, address) && errno != ENOENT)
		return -1;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", address);
	if (write_text(path, override))
		return -1;
	return write_text("/sys/bus/pci/drivers_probe", address);
}

static uint64_t region(int device, uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		finish(UNKNOWN, "VFIO_DEVICE_GET_REGION_INFO of region %u: %s", index, strerror(errno));
	return info.offset;
}

static struct edu open_edu(const char *address)
{
	struct edu edu;
	char link[128], target[128], path[160];
	ssize_t length;
	uint16_t command;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", address);
	if (access(path, F_OK))
		finish(UNKNOWN, "%s: %s", path, strerror(errno));
	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", address);
	length = readlink(link, target, sizeof(target) - 1);
	if (length < 0)
		finish(NOT_TRANSLATED, "the kernel found none, %s has no IOMMU group", address);
	target[length] = 0;
	if (bind_to(address, "vfio-pci"))
		finish(UNKNOWN, "cannot bind %s to vfio-pci: %s", address, strerror(errno));
	snprintf(path, sizeof(path), "/dev/vfio%s", strrchr(target, '/'));
	edu.container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (edu.container < 0)
		finish(UNKNOWN, "/dev/vfio/vfio: %s", strerror(errno));
	edu.group = open(path, O_RDWR | O_CLOEXEC);
	if (edu.group < 0)
		finish(UNKNOWN, "%s: %s", path, strerror(errno));
	if (ioctl(edu.group, VFIO_GROUP_SET_CONTAINER, &edu.container))
		finish(UNKNOWN, "VFIO_GROUP_SET_CONTAINER: %s", strerror(errno));
	if (ioctl(edu.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		finish(UNKNOWN, "VFIO_SET_IOMMU: %s", strerror(errno));
	edu.device = ioctl(edu.group, VFIO_GROUP_GET_DEVICE_FD, address);
	if (edu.device < 0)
		finish(UNKNOWN, "VFIO_GROUP_GET_DEVICE_FD: %s", strerror(errno));
	edu.bar = region(edu.device, VFIO_PCI_BAR0_REGION_INDEX);
	edu.config = region(edu.device, VFIO_PCI_CONFIG_REGION_INDEX);
	if (pread(edu.device, &command, sizeof(command), edu.config + PCI_COMMAND) != sizeof(command))
		finish(UNKNOWN, "cannot read the PCI command register: %s", strerror(errno));
	command |= MEMORY_AND_MASTER;
	if (pwrite(edu.device, &command, sizeof(command), edu.config + PCI_COMMAND) != sizeof(command))
		finish(UNKNOWN, "cannot write the PCI command register: %s", strerror(errno));
	return edu;
}

static void map(const struct edu *edu, void *page, uint64_t iova)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)page,
		.iova = iova,
		.size = PAGE,
	};

	if (ioctl(edu->container, VFIO_IOMMU_MAP_DMA, &map))
		finish(UNKNOWN, "VFIO_IOMMU_MAP_DMA at 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

static void unmap(const struct edu *edu, uint64_t iova)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = iova, .size = PAGE };

	if (ioctl(edu->container, VFIO_IOMMU_UNMAP_DMA, &unmap))
		finish(UNKNOWN, "VFIO_IOMMU_UNMAP_DMA at 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

/* Return the physical address of a pinned page. */
static uint64_t physical(const void *page)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, sizeof(entry), (uintptr_t)page / PAGE * sizeof(entry)) != sizeof(entry))
		finish(UNKNOWN, "/proc/self/pagemap: %s", strerror(errno));
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

/* Map a page at an IOVA that differs from its physical address: if they were equal, untranslated DMA would arrive too. */
static uint64_t map_elsewhere(const struct edu *edu, void *page, uint64_t iova)
{
	map(edu, page, iova);
	if (physical(page) != iova)
		return iova;
	unmap(edu, iova);
	map(edu, page, iova + PAGE);
	return iova + PAGE;
}

static uint32_t read_register(const struct edu *edu, uint32_t offset)
{
	uint32_t value;

	if (pread(edu->device, &value, sizeof(value), edu->bar + offset) != sizeof(value))
		finish(UNKNOWN, "cannot read edu's register 0x%x: %s", offset, strerror(errno));
	return value;
}

static void write_register(const struct edu *edu, uint32_t offset, uint32_t value)
{
	if (pwrite(edu->device, &value, sizeof(value), edu->bar + offset) != sizeof(value))
		finish(UNKNOWN, "cannot write edu's register 0x%x: %s", offset, strerror(errno));
}

static void copy(const struct edu *edu, uint32_t source, uint32_t destination, uint32_t size, uint32_t command)
{
	struct timespec pause = { .tv_nsec = 2000000 }, begun, now;

	write_register(edu, SOURCE, source);
	write_register(edu, DESTINATION, destination);
	write_register(edu, COUNT, size);
	write_register(edu, COMMAND, START | command);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	while (read_register(edu, COMMAND) & START) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - begun.tv_sec > LIMIT)
			finish(UNKNOWN, "edu does not finish its DMA");
		nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	struct edu edu;
	uint8_t *pages, *from, *to;
	uint64_t source, destination;
	uint8_t before[PAGE];

	if (argc != 2)
		finish(UNKNOWN, "usage: check_translation ADDRESS");
	pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (pages == MAP_FAILED)
		finish(UNKNOWN, "mmap: %s", strerror(errno));
	from = pages;
	to = pages + PAGE;
	fill(from, 1);
	edu = open_edu(argv[1]);

	source = map_elsewhere(&edu, from, FIRST_IOVA);
	destination = map_elsewhere(&edu, to, FIRST_IOVA + 4 * PAGE);
	copy(&edu, source, BUFFER, COPIED, 0);
	copy(&edu, BUFFER, destination, COPIED, TO_MEMORY);
	if (memcmp(from, to, COPIED))
		finish(NOT_TRANSLATED, "edu copied mapped memory from IOVA 0x%llx to 0x%llx, and it does not arrive",
		       (unsigned long long)source, (unsigned long long)destination);

	/* After the unmap, a write to the same IOVA must not arrive. */
	unmap(&edu, destination);
	fill(to, 2);
	memcpy(before, to, PAGE);
	write_text("/dev/kmsg", "<6>pyvfio-vm: the next fault of the IOMMU is provoked\n");
	copy(&edu, BUFFER, destination, BLOCKED, TO_MEMORY);
	if (memcmp(before, to, PAGE))
		finish(NOT_TRANSLATED, "edu wrote to IOVA 0x%llx, which was no longer mapped, and it arrived",
		       (unsigned long long)destination);

	close(edu.device);
	close(edu.group);
	close(edu.container);
	if (bind_to(argv[1], "\n"))
		finish(UNKNOWN, "cannot take %s back from vfio-pci: %s", argv[1], strerror(errno));
	return OK;
}
