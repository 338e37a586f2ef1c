// SPDX-License-Identifier: GPL-2.0-only
/*
 * BAR0 without its first page: nothing may reach the registers but edu_write_registers(), be it by
 * a mapping, by another device (dma-buf) or by an eventfd.
 */
#include <linux/uaccess.h>

#include "edu.h"

struct edu_sparse_cap {
	struct vfio_region_info_cap_sparse_mmap head;
	struct vfio_region_sparse_mmap_area area;
};

/* Adapts what the core says of BAR0; true if the capability is to be added. */
static bool edu_sparse_info(struct edu *edu, struct vfio_region_info *info,
			    struct edu_sparse_cap *cap)
{
	if (!edu->limits[EDU_SPARSE] || !(info->flags & VFIO_REGION_INFO_FLAG_MMAP)) {
		info->flags &= ~VFIO_REGION_INFO_FLAG_MMAP;
		return false;
	}
	*cap = (struct edu_sparse_cap){
		.head.header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP,
		.head.header.version = 1,
		.head.nr_areas = 1,
		.area.offset = EDU_TRAPPED,
		.area.size = info->size - EDU_TRAPPED,
	};
	return true;
}

#if HAVE_REGION_INFO_CAPS
int edu_get_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
			struct vfio_info_cap *caps)
{
	int ret = vfio_pci_ioctl_get_region_info(vdev, info, caps);
	struct edu_sparse_cap cap;

	if (ret || info->index != VFIO_PCI_BAR0_REGION_INDEX ||
	    !edu_sparse_info(to_edu(vdev), info, &cap))
		return ret;
	return vfio_info_add_capability(caps, &cap.head.header, sizeof(cap));
}
#else
/* The core has answered; it knows no capability of this BAR. */
static int edu_amend_region_info(struct edu *edu, void __user *arg)
{
	struct vfio_region_info info;
	struct edu_sparse_cap cap;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	if (info.index != VFIO_PCI_BAR0_REGION_INDEX)
		return 0;
	if (edu_sparse_info(edu, &info, &cap)) {
		info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		info.cap_offset = 0;
		if (info.argsz < sizeof(info) + sizeof(cap)) {
			info.argsz = sizeof(info) + sizeof(cap);
		} else {
			info.cap_offset = sizeof(info);
			if (copy_to_user(arg + sizeof(info), &cap, sizeof(cap)))
				return -EFAULT;
		}
	}
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}
#endif

static bool edu_is_trapped(u64 offset)
{
	return VFIO_PCI_OFFSET_TO_INDEX(offset) == VFIO_PCI_BAR0_REGION_INDEX &&
	       (offset & VFIO_PCI_OFFSET_MASK) < EDU_TRAPPED;
}

long edu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct vfio_device_ioeventfd __user *ioeventfd = (void __user *)arg;
	u64 offset;
	long ret;

	if (cmd == VFIO_DEVICE_IOEVENTFD) {
		if (get_user(offset, &ioeventfd->offset))
			return -EFAULT;
		if (edu_is_trapped(offset))
			return -EINVAL;
	}
	ret = vfio_pci_core_ioctl(vdev, cmd, arg);
#if !HAVE_REGION_INFO_CAPS
	if (!ret && cmd == VFIO_DEVICE_GET_REGION_INFO)
		ret = edu_amend_region_info(to_edu(vdev), (void __user *)arg);
#endif
	return ret;
}

int edu_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (VFIO_PCI_OFFSET_TO_INDEX(offset) == VFIO_PCI_BAR0_REGION_INDEX &&
	    (!to_edu(vdev)->limits[EDU_SPARSE] || edu_is_trapped(offset)))
		return -EINVAL;
	return vfio_pci_core_mmap(vdev, vma);
}

#if HAVE_REGION_INFO_CAPS
static int edu_get_dmabuf_phys(struct vfio_pci_core_device *core, struct p2pdma_provider **provider,
			       unsigned int region_index, struct phys_vec *phys_vec,
			       struct vfio_region_dma_range *dma_ranges, size_t nr_ranges)
{
	struct edu *edu = container_of(core, struct edu, core);
	size_t i;

	for (i = 0; region_index == VFIO_PCI_BAR0_REGION_INDEX && i < nr_ranges; i++)
		if (!edu->limits[EDU_SPARSE] || dma_ranges[i].offset < EDU_TRAPPED)
			return -EINVAL;
	return vfio_pci_core_get_dmabuf_phys(core, provider, region_index, phys_vec, dma_ranges,
					     nr_ranges);
}

const struct vfio_pci_device_ops edu_pci_ops = {
	.get_dmabuf_phys = edu_get_dmabuf_phys,
};
#endif
