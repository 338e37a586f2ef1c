// SPDX-License-Identifier: GPL-2.0-only
/*
 * The callbacks of the VFIO core: open, close, ioctl, read, write, mmap.
 */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mock.h"

static int mock_init(struct vfio_device *vdev)
{
	struct mock *mock = to_mock(vdev);
	int ret;

	/* The core identifies a set by any unique address: use one byte of this array for each set */
	static char sets[64];

	mock->number = to_platform_device(vdev->dev)->id;
	mutex_init(&mock->lock);
	spin_lock_init(&mock->fault_lock);
	mock_faults_reset(mock);
	mock_log_init(mock);
	mock_pins_init(mock);
	ret = mock_irqs_init(mock);
	if (ret)
		return ret;
	ret = mock_engine_init(mock);
	if (ret)
		goto err_irqs;
	ret = mock_regions_init(mock);
	if (ret)
		goto err_engine;
	ret = mock_migration_init(mock);
	if (ret)
		goto err_regions;
	vdev->log_ops = &mock_log_ops;
	ret = vfio_assign_device_set(vdev, &sets[mock->number / mock_reset_set]);
	if (ret)
		goto err_migration;
	return 0;

err_migration:
	mock_migration_free(mock);
err_regions:
	mock_regions_free(mock);
err_engine:
	mock_engine_free(mock);
err_irqs:
	mock_irqs_free(mock);
	return ret;
}

static void mock_release(struct vfio_device *vdev)
{
	struct mock *mock = to_mock(vdev);

	mock_migration_free(mock);
	mock_regions_free(mock);
	mock_engine_free(mock);
	mock_irqs_free(mock);
#if !HAVE_IOMMUFD_OPS
	vfio_free_device(vdev);
#endif
}

/*
 * Reset the device to its state after power-on. Logging continues (as on mlx5). Interrupts, limits
 * and failures are kept too.
 */
static void mock_reset(struct mock *mock)
{
	mutex_lock(&mock->migration.lock);
	mock_engine_stop_and_lock(mock);
	mock_engine_reset(mock);
	mock_registers_reset(mock);
	mock_regions_clear(mock);
	mock->resets++;
	mutex_unlock(&mock->lock);
	mock_migration_restart(mock);
	mutex_unlock(&mock->migration.lock);
	mock_irq_deassert(mock);
}

static int mock_open(struct vfio_device *vdev)
{
	struct mock *mock = to_mock(vdev);
	int ret = mock_fault(mock, MOCK_FAULT_OPEN);

	if (ret)
		return ret;
	mock_reset(mock);
	mutex_lock(&mock->lock);
	mock_faults_reset(mock);
	mock_log_limits(mock);
	mock->transfer_max = 0;
	mock->bytes_written = 0;
	mock->bytes_read = 0;
	mock->log.marked = 0;
	mock->irqs.signaled = 0;
	mock->unmaps = 0;
	mock->resets = 0;
	mock->migration.sent = 0;
	mock->migration.received = 0;
	mutex_unlock(&mock->lock);
	return 0;
}

static void mock_close(struct vfio_device *vdev)
{
	struct mock *mock = to_mock(vdev);

	mock_engine_close(mock);
	mutex_lock(&mock->migration.lock);
	mock_migration_restart(mock);
	mutex_unlock(&mock->migration.lock);
	mock_irqs_off(mock);
	mock_log_off(mock);
	mock_pins_release(mock, 0, U64_MAX);
}

static void mock_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct mock *mock = to_mock(vdev);

	WRITE_ONCE(mock->unmaps, mock->unmaps + 1);
	mock_pins_release(mock, iova, length);
}

/* Ask the user to release the device: it is being unbound while it is open */
static void mock_request(struct vfio_device *vdev, unsigned int count)
{
	mock_irq_raise(to_mock(vdev), MOCK_IRQ_REQ << 16);
}

static long mock_get_info(struct mock *mock, void __user *arg)
{
	const size_t minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;
	int ret = mock_fault(mock, MOCK_FAULT_GET_INFO);

	if (ret)
		return ret;
	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	/*
	 * PLATFORM is the device's bus, and what the flag means is true: regions and interrupts
	 * are device-specific. The flag PCI would mean that there is a configuration space.
	 */
	info.flags = VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = MOCK_NUM_REGIONS;
	info.num_irqs = MOCK_NUM_IRQS;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long mock_get_irq_info(struct mock *mock, void __user *arg)
{
	const size_t minsz = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info;
	int ret = mock_fault(mock, MOCK_FAULT_IRQ_INFO);

	if (ret)
		return ret;
	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	ret = mock_irq_info(&info);
	if (ret)
		return ret;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long mock_set_irqs(struct mock *mock, void __user *arg)
{
	const size_t minsz = offsetofend(struct vfio_irq_set, count);
	struct vfio_irq_set set;
	void *data = NULL;
	size_t size;
	int ret = mock_fault(mock, MOCK_FAULT_SET_IRQS);

	if (ret)
		return ret;
	if (copy_from_user(&set, arg, minsz))
		return -EFAULT;
	ret = vfio_set_irqs_validate_and_prepare(&set, mock_irq_count(set.index), MOCK_NUM_IRQS,
						 &size);
	if (ret)
		return ret;
	if (size) {
		data = memdup_user(arg + minsz, size);
		if (IS_ERR(data))
			return PTR_ERR(data);
	}
	ret = mock_irqs_set(mock, &set, data);
	kfree(data);
	return ret;
}

/* Reset all devices of the set; EBUSY while another one of them is open */
static long mock_ioctl_reset(struct mock *mock)
{
	struct vfio_device_set *set = mock->vdev.dev_set;
	struct vfio_device *other;
	int ret = mock_fault(mock, MOCK_FAULT_RESET);

	if (ret)
		return ret;
	mutex_lock(&set->lock);
	list_for_each_entry(other, &set->device_list, dev_set_list)
		if (other != &mock->vdev && other->open_count)
			ret = -EBUSY;
	if (!ret)
		list_for_each_entry(other, &set->device_list, dev_set_list)
			mock_reset(to_mock(other));
	mutex_unlock(&set->lock);
	return ret;
}

static int mock_get_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
				struct vfio_info_cap *caps)
{
	struct mock *mock = to_mock(vdev);
	int ret = mock_fault(mock, MOCK_FAULT_REGION_INFO);

	return ret ? ret : mock_region_info(mock, info, caps);
}

#if !HAVE_REGION_INFO_CAPS
static long mock_ioctl_region_info(struct mock *mock, void __user *arg)
{
	const size_t minsz = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info = {};
	struct vfio_info_cap caps = {};
	int ret;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	info.cap_offset = 0;
	ret = mock_get_region_info(&mock->vdev, &info, &caps);
	if (ret)
		goto out;
	if (caps.size) {
		info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		if (info.argsz < sizeof(info) + caps.size) {
			info.argsz = sizeof(info) + caps.size;
		} else {
			vfio_info_cap_shift(&caps, sizeof(info));
			if (copy_to_user(arg + sizeof(info), caps.buf, caps.size)) {
				ret = -EFAULT;
				goto out;
			}
			info.cap_offset = sizeof(info);
		}
	}
	if (copy_to_user(arg, &info, minsz))
		ret = -EFAULT;
out:
	kfree(caps.buf);
	return ret;
}
#endif

static long mock_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct mock *mock = to_mock(vdev);

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return mock_get_info(mock, (void __user *)arg);
#if !HAVE_REGION_INFO_CAPS
	case VFIO_DEVICE_GET_REGION_INFO:
		return mock_ioctl_region_info(mock, (void __user *)arg);
#endif
	case VFIO_DEVICE_GET_IRQ_INFO:
		return mock_get_irq_info(mock, (void __user *)arg);
	case VFIO_DEVICE_SET_IRQS:
		return mock_set_irqs(mock, (void __user *)arg);
	case VFIO_DEVICE_RESET:
		return mock_ioctl_reset(mock);
	}
	return -ENOTTY;
}

static ssize_t mock_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	ssize_t ret = mock_region_read(to_mock(vdev), buf, count, *ppos);

	if (ret > 0)
		*ppos += ret;
	return ret;
}

static ssize_t mock_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			  loff_t *ppos)
{
	ssize_t ret = mock_region_write(to_mock(vdev), buf, count, *ppos);

	if (ret > 0)
		*ppos += ret;
	return ret;
}

static int mock_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	return mock_region_mmap(to_mock(vdev), vma);
}

static const struct vfio_device_ops mock_ops = {
	.name = MOCK_NAME,
	.init = mock_init,
	.release = mock_release,
	.open_device = mock_open,
	.close_device = mock_close,
	.read = mock_read,
	.write = mock_write,
	.ioctl = mock_ioctl,
	.mmap = mock_mmap,
	.request = mock_request,
	.dma_unmap = mock_dma_unmap,
	.match = mock_match,
#if HAVE_MATCH_TOKEN_UUID
	.match_token_uuid = mock_match_token_uuid,
#endif
#if HAVE_REGION_INFO_CAPS
	.get_region_info_caps = mock_get_region_info,
#endif
#if HAVE_IOMMUFD_OPS
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
#endif
#if HAVE_DETACH_IOAS
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
};

struct mock *mock_device_add(struct platform_device *pdev)
{
	struct mock *mock;
	int ret;

	mock = vfio_alloc_device(mock, vdev, &pdev->dev, &mock_ops);
	if (IS_ERR(mock))
		return mock;
	ret = vfio_register_emulated_iommu_dev(&mock->vdev);
	if (ret) {
		vfio_put_device(&mock->vdev);
		return ERR_PTR(ret);
	}
	return mock;
}

void mock_device_del(struct mock *mock)
{
	vfio_unregister_group_dev(&mock->vdev);
	vfio_put_device(&mock->vdev);
}
