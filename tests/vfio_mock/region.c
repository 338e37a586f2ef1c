// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions: their description, reading, writing and mapping.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "mock.h"

struct mock_area {
	u64 offset;
	u64 size;
};

static const struct mock_area sparse_areas[] = {
	{ MOCK_SPARSE_AREA0_OFFSET, MOCK_SPARSE_AREA0_SIZE },
	{ MOCK_SPARSE_AREA1_OFFSET, MOCK_SPARSE_AREA1_SIZE },
};

static const struct mock_area typed_areas[] = {
	{ MOCK_TYPED_AREA_OFFSET, MOCK_TYPED_AREA_SIZE },
};

static int memory_init(struct mock_memory *memory, u64 size)
{
	memory->base = vmalloc_user(size);
	memory->size = size;
	return memory->base ? 0 : -ENOMEM;
}

int mock_regions_init(struct mock *mock)
{
	if (memory_init(&mock->memory, mock_memory_size) ||
	    memory_init(&mock->sparse, MOCK_SPARSE_SIZE) ||
	    memory_init(&mock->typed, MOCK_TYPED_SIZE)) {
		mock_regions_free(mock);
		return -ENOMEM;
	}
	return 0;
}

void mock_regions_free(struct mock *mock)
{
	vfree(mock->memory.base);
	vfree(mock->sparse.base);
	vfree(mock->typed.base);
}

void mock_regions_clear(struct mock *mock)
{
	memset(mock->memory.base, 0, mock->memory.size);
	memset(mock->sparse.base, 0, mock->sparse.size);
	memset(mock->typed.base, 0, mock->typed.size);
}

/* Return the memory of a region, or NULL if it has none */
static struct mock_memory *region_memory(struct mock *mock, u64 index)
{
	switch (index) {
	case MOCK_REGION_MEMORY:
		return &mock->memory;
	case MOCK_REGION_SPARSE:
		return &mock->sparse;
	case MOCK_REGION_TYPED:
		return &mock->typed;
	}
	return NULL;
}

static int add_sparse(struct vfio_info_cap *caps, const struct mock_area *areas, unsigned int count)
{
	struct vfio_region_info_cap_sparse_mmap *sparse;
	size_t size = struct_size(sparse, areas, count);
	unsigned int i;
	int ret;

	sparse = kzalloc(size, GFP_KERNEL);
	if (!sparse)
		return -ENOMEM;
	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	sparse->nr_areas = count;
	for (i = 0; i < count; i++) {
		sparse->areas[i].offset = areas[i].offset;
		sparse->areas[i].size = areas[i].size;
	}
	ret = vfio_info_add_capability(caps, &sparse->header, size);
	kfree(sparse);
	return ret;
}

static int add_type(struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_type type = {
		.header = { .id = VFIO_REGION_INFO_CAP_TYPE, .version = 1 },
		.type = MOCK_REGION_TYPE,
		.subtype = MOCK_REGION_SUBTYPE,
	};

	return vfio_info_add_capability(caps, &type.header, sizeof(type));
}

int mock_region_info(struct mock *mock, struct vfio_region_info *info, struct vfio_info_cap *caps)
{
	const u32 rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	int ret = 0;

	info->offset = (u64)info->index << MOCK_OFFSET_SHIFT;
	switch (info->index) {
	case MOCK_REGION_REGISTERS:
		info->size = MOCK_REGISTERS_SIZE;
		info->flags = rw;
		return 0;
	case MOCK_REGION_MEMORY:
		info->size = mock->memory.size;
		info->flags = rw | VFIO_REGION_INFO_FLAG_MMAP;
		return 0;
	case MOCK_REGION_SPARSE:
		info->size = mock->sparse.size;
		info->flags = rw | VFIO_REGION_INFO_FLAG_MMAP;
		return add_sparse(caps, sparse_areas, ARRAY_SIZE(sparse_areas));
	case MOCK_REGION_TYPED:
		info->size = mock->typed.size;
		info->flags = rw | VFIO_REGION_INFO_FLAG_MMAP;
		ret = add_type(caps);
		return ret ? ret : add_sparse(caps, typed_areas, ARRAY_SIZE(typed_areas));
	case MOCK_REGION_EMPTY:
		info->size = 0;
		info->flags = 0;
		return 0;
	case MOCK_REGION_ROM:
		info->size = MOCK_ROM_SIZE;
		info->flags = VFIO_REGION_INFO_FLAG_READ;
		return 0;
	}
	return -EINVAL;
}

static bool counts_as_call(u64 pos)
{
	return pos < MOCK_REG_FAULT || pos >= MOCK_REG_FAULT + MOCK_NUM_FAULTS * MOCK_FAULT_SIZE;
}

static ssize_t register_read(struct mock *mock, char __user *buf, size_t count, u64 offset)
{
	__le64 raw;
	u64 value;
	int ret;

	if (count > sizeof(value))
		return -EINVAL;
	ret = mock_register_read(mock, offset, count, &value);
	if (ret)
		return ret;
	raw = cpu_to_le64(value);
	return copy_to_user(buf, &raw, count) ? -EFAULT : count;
}

static ssize_t register_write(struct mock *mock, const char __user *buf, size_t count, u64 offset)
{
	__le64 raw = 0;
	int ret;

	if (count > sizeof(raw))
		return -EINVAL;
	if (copy_from_user(&raw, buf, count))
		return -EFAULT;
	ret = mock_register_write(mock, offset, count, le64_to_cpu(raw));
	return ret ? ret : count;
}

static ssize_t rom_read(char __user *buf, size_t count, u64 offset)
{
	u8 bytes[256];
	size_t i, chunk, done;

	if (offset >= MOCK_ROM_SIZE)
		return -EINVAL;
	count = min_t(u64, count, MOCK_ROM_SIZE - offset);
	for (done = 0; done < count; done += chunk) {
		chunk = min(count - done, sizeof(bytes));
		for (i = 0; i < chunk; i++)
			bytes[i] = offset + done + i;
		if (copy_to_user(buf + done, bytes, chunk))
			return -EFAULT;
	}
	return count;
}

/*
 * Return the number of bytes that a transfer moves: at most to the region's end, as in vfio-pci,
 * and at most TRANSFER_MAX
 */
static ssize_t clip(struct mock *mock, struct mock_memory *memory, size_t count, u64 offset)
{
	u32 max = READ_ONCE(mock->transfer_max);

	if (!memory || offset >= memory->size)
		return -EINVAL;
	count = min_t(u64, count, memory->size - offset);
	return max ? min_t(size_t, count, max) : count;
}

ssize_t mock_region_read(struct mock *mock, char __user *buf, size_t count, u64 pos)
{
	u64 index = pos >> MOCK_OFFSET_SHIFT, offset = pos & (BIT_ULL(MOCK_OFFSET_SHIFT) - 1);
	struct mock_memory *memory = region_memory(mock, index);
	ssize_t ret;

	if (counts_as_call(pos)) {
		ret = mock_fault(mock, MOCK_FAULT_REGION_READ);
		if (ret)
			return ret;
	}
	if (!count)
		return 0;
	if (index == MOCK_REGION_REGISTERS)
		return register_read(mock, buf, count, offset);
	if (index == MOCK_REGION_ROM)
		return rom_read(buf, count, offset);
	ret = clip(mock, memory, count, offset);
	if (ret < 0)
		return ret;
	return copy_to_user(buf, memory->base + offset, ret) ? -EFAULT : ret;
}

ssize_t mock_region_write(struct mock *mock, const char __user *buf, size_t count, u64 pos)
{
	u64 index = pos >> MOCK_OFFSET_SHIFT, offset = pos & (BIT_ULL(MOCK_OFFSET_SHIFT) - 1);
	struct mock_memory *memory = region_memory(mock, index);
	ssize_t ret, size;

	if (counts_as_call(pos)) {
		ret = mock_fault(mock, MOCK_FAULT_REGION_WRITE);
		if (ret)
			return ret;
	}
	if (!count)
		return 0;
	if (index == MOCK_REGION_REGISTERS)
		return register_write(mock, buf, count, offset);
	size = clip(mock, memory, count, offset);
	if (size < 0)
		return size;
	ret = copy_from_user(memory->base + offset, buf, size) ? -EFAULT : size;
	/* A failed copy may have written a part */
	mock_migration_touch(mock, memory, offset, size);
	return ret;
}

/* Count the mappings, because migration cannot detect stores through them */
static void mapping_open(struct vm_area_struct *vma)
{
	struct mock_memory *memory = vma->vm_private_data;

	atomic_inc(&memory->mappings);
	WRITE_ONCE(memory->mapped, true);
}

static void mapping_close(struct vm_area_struct *vma)
{
	struct mock_memory *memory = vma->vm_private_data;

	atomic_dec(&memory->mappings);
}

static const struct vm_operations_struct mapping_ops = {
	.open = mapping_open,
	.close = mapping_close,
};

static bool within(u64 offset, u64 size, const struct mock_area *areas, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (offset >= areas[i].offset && offset + size <= areas[i].offset + areas[i].size)
			return true;
	return false;
}

int mock_region_mmap(struct mock *mock, struct vm_area_struct *vma)
{
	u64 index = vma->vm_pgoff >> (MOCK_OFFSET_SHIFT - PAGE_SHIFT);
	u64 page = vma->vm_pgoff & (BIT_ULL(MOCK_OFFSET_SHIFT - PAGE_SHIFT) - 1);
	u64 offset = page << PAGE_SHIFT, size = vma->vm_end - vma->vm_start;
	struct mock_memory *memory = region_memory(mock, index);
	int ret = mock_fault(mock, MOCK_FAULT_REGION_MMAP);

	if (ret)
		return ret;
	if (!memory || offset >= memory->size || size > memory->size - offset ||
	    !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (index == MOCK_REGION_SPARSE &&
	    !within(offset, size, sparse_areas, ARRAY_SIZE(sparse_areas)))
		return -EINVAL;
	if (index == MOCK_REGION_TYPED &&
	    !within(offset, size, typed_areas, ARRAY_SIZE(typed_areas)))
		return -EINVAL;
	ret = remap_vmalloc_range(vma, memory->base, page);
	if (ret)
		return ret;
	vma->vm_ops = &mapping_ops;
	vma->vm_private_data = memory;
	mapping_open(vma);
	return 0;
}
