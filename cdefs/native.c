/* The functions that native.h declares. No Python.h in here: this file compiles and runs without an interpreter. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

int pyvfio_linux_ioctl(void *context, int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	(void)context;
	return result < 0 ? -errno : result;
}

int pyvfio_ioctl(const pyvfio_door *door, unsigned long request, void *argument)
{
	return door->ioctl(door->context, door->fd, request, argument);
}

int pyvfio_map(const pyvfio_space *space, uint64_t address, uint64_t iova, uint64_t size, uint32_t prot)
{
	if (space->ioas) {
		struct iommu_ioas_map map;

		memset(&map, 0, sizeof(map));
		map.size = sizeof(map);
		map.flags = IOMMU_IOAS_MAP_FIXED_IOVA;
		if (prot & PYVFIO_PROT_READ)
			map.flags |= IOMMU_IOAS_MAP_READABLE;
		if (prot & PYVFIO_PROT_WRITE)
			map.flags |= IOMMU_IOAS_MAP_WRITEABLE;
		map.ioas_id = space->ioas;
		map.user_va = address;
		map.length = size;
		map.iova = iova;
		return pyvfio_ioctl(space->door, IOMMU_IOAS_MAP, &map);
	} else {
		struct vfio_iommu_type1_dma_map map;

		memset(&map, 0, sizeof(map));
		map.argsz = sizeof(map);
		if (prot & PYVFIO_PROT_READ)
			map.flags |= VFIO_DMA_MAP_FLAG_READ;
		if (prot & PYVFIO_PROT_WRITE)
			map.flags |= VFIO_DMA_MAP_FLAG_WRITE;
		map.vaddr = address;
		map.iova = iova;
		map.size = size;
		return pyvfio_ioctl(space->door, VFIO_IOMMU_MAP_DMA, &map);
	}
}

uint64_t pyvfio_unmap(const pyvfio_space *space, uint64_t iova, uint64_t size)
{
	int result;

	if (space->ioas) {
		struct iommu_ioas_unmap unmap;

		memset(&unmap, 0, sizeof(unmap));
		unmap.size = sizeof(unmap);
		unmap.ioas_id = space->ioas;
		unmap.iova = iova;
		unmap.length = size;
		result = pyvfio_ioctl(space->door, IOMMU_IOAS_UNMAP, &unmap);
		return result < 0 ? (uint64_t)(int64_t)result : unmap.length;
	} else {
		struct vfio_iommu_type1_dma_unmap unmap;

		memset(&unmap, 0, sizeof(unmap));
		unmap.argsz = sizeof(unmap);
		unmap.iova = iova;
		unmap.size = size;
		result = pyvfio_ioctl(space->door, VFIO_IOMMU_UNMAP_DMA, &unmap);
		return result < 0 ? (uint64_t)(int64_t)result : unmap.size;
	}
}

int pyvfio_map_many(const pyvfio_space *space, const uint64_t *rows, size_t count, uint32_t prot, size_t *done)
{
	int result = 0;

	while (*done < count) {
		const uint64_t *row = rows + 3 * *done;

		result = pyvfio_map(space, row[0], row[1], row[2], prot);
		if (result < 0)
			return result;
		++*done;
	}
	return 0;
}

int pyvfio_unmap_many(const pyvfio_space *space, const uint64_t *rows, size_t count, size_t *done, uint64_t *bytes)
{
	while (*done < count) {
		const uint64_t *row = rows + 2 * *done;
		uint64_t unmapped = pyvfio_unmap(space, row[0], row[1]);

		if (unmapped > (uint64_t)-4096)
			return (int)(int64_t)unmapped;
		*bytes += unmapped;
		++*done;
	}
	return 0;
}

uint8_t pyvfio_read8(uintptr_t address)
{
	return *(const volatile uint8_t *)address;
}

uint16_t pyvfio_read16(uintptr_t address)
{
	return *(const volatile uint16_t *)address;
}

uint32_t pyvfio_read32(uintptr_t address)
{
	return *(const volatile uint32_t *)address;
}

uint64_t pyvfio_read64(uintptr_t address)
{
	return *(const volatile uint64_t *)address;
}

void pyvfio_write8(uintptr_t address, uint8_t value)
{
	*(volatile uint8_t *)address = value;
}

void pyvfio_write16(uintptr_t address, uint16_t value)
{
	*(volatile uint16_t *)address = value;
}

void pyvfio_write32(uintptr_t address, uint32_t value)
{
	*(volatile uint32_t *)address = value;
}

void pyvfio_write64(uintptr_t address, uint64_t value)
{
	*(volatile uint64_t *)address = value;
}
