// SPDX-License-Identifier: GPL-2.0-only
/*
 * BAR0 presented as a 64-bit BAR: instead of BAR0 and BAR1 (which edu does not have), the user reads
 * and writes eight bytes of this driver. The BARs of the device and the PCI core do not change.
 */
#include <linux/uaccess.h>

#include "edu.h"

#define BAR_SIZE sizeof_field(struct edu, bar64)

/* At open, the user's BAR has the address of the device's BAR. */
int edu_bar64_open(struct edu *edu)
{
	u32 value;

	pci_read_config_dword(edu->core.pdev, PCI_BASE_ADDRESS_0, &value);
	edu->bar64 = value;
	return 0;
}

/* Return the value that the user reads: the address bits above the BAR's size, and the type bits */
static __le64 edu_bar64_value(struct edu *edu)
{
	struct pci_dev *pdev = edu->core.pdev;
	u64 value = READ_ONCE(edu->bar64) & ~(u64)(pci_resource_len(pdev, 0) - 1);

	value |= PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (pci_resource_flags(pdev, 0) & IORESOURCE_PREFETCH)
		value |= PCI_BASE_ADDRESS_MEM_PREFETCH;
	return cpu_to_le64(value);
}

/*
 * Return how many bytes of the BAR an access covers. They begin at *from in the user's buffer and
 * at *at in the BAR
 */
static size_t edu_bar64_part(u64 pos, size_t count, size_t *from, size_t *at)
{
	u64 start = max_t(u64, pos, PCI_BASE_ADDRESS_0);
	u64 end = min_t(u64, pos + count, PCI_BASE_ADDRESS_0 + BAR_SIZE);

	if (start >= end)
		return 0;
	*from = start - pos;
	*at = start - PCI_BASE_ADDRESS_0;
	return end - start;
}

ssize_t edu_bar64_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	ssize_t ret = vfio_pci_core_read(vdev, buf, count, ppos);
	__le64 value = edu_bar64_value(to_edu(vdev));
	size_t from, at, size;

	if (ret <= 0)
		return ret;
	size = edu_bar64_part(pos, ret, &from, &at);
	if (size && copy_to_user(buf + from, (u8 *)&value + at, size))
		return -EFAULT;
	return ret;
}

ssize_t edu_bar64_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			loff_t *ppos)
{
	struct edu *edu = to_edu(vdev);
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	/* The core does not pass writes to BARs on to the device either. */
	ssize_t ret = vfio_pci_core_write(vdev, buf, count, ppos);
	size_t from, at, size;
	__le64 value;

	if (ret <= 0)
		return ret;
	size = edu_bar64_part(pos, ret, &from, &at);
	if (!size)
		return ret;
	edu_lock(edu);
	value = cpu_to_le64(edu->bar64);
	if (copy_from_user((u8 *)&value + at, buf + from, size))
		ret = -EFAULT;
	else
		WRITE_ONCE(edu->bar64, le64_to_cpu(value));
	edu_unlock(edu);
	return ret;
}
