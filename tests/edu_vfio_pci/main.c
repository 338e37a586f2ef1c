// SPDX-License-Identifier: GPL-2.0-only
/*
 * edu-vfio-pci: a variant driver on vfio_pci_core for QEMU's edu device, as mlx5_vfio_pci is for a
 * ConnectX.
 *
 * edu does not record the memory that it writes. All its registers are in the first page of BAR0.
 * So the driver traps that page, and sees each transfer before the device does.
 */
#include <linux/module.h>

#include "edu.h"

unsigned long edu_defaults[EDU_NUM_LIMITS] = {
	[EDU_LOG_MAX_RANGES] = 255,  [EDU_LOG_OVERFLOW] = LOG_COMBINE,
	[EDU_LOG_PAGE_MIN] = SZ_4K,  [EDU_LOG_PAGE_MAX] = SZ_2M,
	[EDU_LOG_SIZE_MIN] = 12,     [EDU_LOG_SIZE_MAX] = 42,
	[EDU_DMA_MASK] = 0x0fffffff, [EDU_SPARSE] = 1,
};

/* These are read at each open, and may be written at any time */
module_param_named(log_max_ranges, edu_defaults[EDU_LOG_MAX_RANGES], ulong, 0644);
MODULE_PARM_DESC(log_max_ranges, "most ranges that a device tracks (255)");
module_param_named(log_overflow, edu_defaults[EDU_LOG_OVERFLOW], ulong, 0644);
MODULE_PARM_DESC(log_overflow, "more ranges than that: 0 combine them, 1 refuse with E2BIG (0)");
module_param_named(log_page_min, edu_defaults[EDU_LOG_PAGE_MIN], ulong, 0644);
MODULE_PARM_DESC(log_page_min, "smallest page size tracked (4096)");
module_param_named(log_page_max, edu_defaults[EDU_LOG_PAGE_MAX], ulong, 0644);
MODULE_PARM_DESC(log_page_max, "largest page size tracked (2 MiB)");
module_param_named(log_size_min, edu_defaults[EDU_LOG_SIZE_MIN], ulong, 0644);
MODULE_PARM_DESC(log_size_min, "smallest total size tracked, as ceil(log2) (12)");
module_param_named(log_size_max, edu_defaults[EDU_LOG_SIZE_MAX], ulong, 0644);
MODULE_PARM_DESC(log_size_max, "largest total size tracked, as ceil(log2) (42)");
module_param_named(log_lose, edu_defaults[EDU_LOG_LOSE], ulong, 0644);
MODULE_PARM_DESC(log_lose, "lose every n-th dirty page, to see that a test notices (0: none)");
module_param_named(dma_mask, edu_defaults[EDU_DMA_MASK], ulong, 0644);
MODULE_PARM_DESC(dma_mask, "dma_mask of QEMU's device, which clamps addresses (0x0fffffff)");

module_param_named(sparse, edu_defaults[EDU_SPARSE], ulong, 0644);
MODULE_PARM_DESC(sparse, "BAR0 can be mapped but for its first page (1), or not at all (0)");
module_param_named(bar64, edu_defaults[EDU_BAR64], ulong, 0644);
MODULE_PARM_DESC(bar64, "BAR0 appears as a BAR of 64 bits (0)");

static bool logging = true;
module_param(logging, bool, 0444);
MODULE_PARM_DESC(logging, "offer DMA logging (Y)");

/*
 * A reset is detected under core.memory_lock, which nests inside edu->lock and a stream's lock. So
 * the reset takes neither, but sets deferred_reset; the next holder of edu->lock does the rest, and
 * streams check the flag.
 */
void edu_lock(struct edu *edu)
{
	bool reset;

	mutex_lock(&edu->lock);
	spin_lock(&edu->reset_lock);
	reset = edu->deferred_reset;
	spin_unlock(&edu->reset_lock);
	if (!reset)
		return;
	/* Clear the flag only after the stream is marked as ended. */
	edu_migration_restart(edu);
	spin_lock(&edu->reset_lock);
	WRITE_ONCE(edu->deferred_reset, false);
	spin_unlock(&edu->reset_lock);
}

void edu_unlock(struct edu *edu)
{
	mutex_unlock(&edu->lock);
}

static void edu_reset_done(struct pci_dev *pdev)
{
	struct edu *edu = edu_of_device(&pdev->dev);

	spin_lock(&edu->reset_lock);
	WRITE_ONCE(edu->deferred_reset, true);
	spin_unlock(&edu->reset_lock);
	edu_migration_wake();
}

static int edu_open(struct vfio_device *vdev)
{
	struct edu *edu = to_edu(vdev);
	int ret = edu_fault(edu, EDU_OPEN);

	if (ret)
		return ret;
	ret = vfio_pci_core_enable(&edu->core);
	if (ret)
		return ret;
	edu->io = pci_iomap(edu->core.pdev, VFIO_PCI_BAR0_REGION_INDEX, EDU_TRAPPED);
	ret = edu->io ? edu_bar64_open(edu) : -ENOMEM;
	if (ret)
		goto err;
	edu_lock(edu);
	edu_limits_reset(edu);
	edu_migration_restart(edu);
	edu->path = 0;
	edu->sent = 0;
	ret = edu_find_transfer(edu);
	edu_unlock(edu);
	if (ret)
		goto err;
	vfio_pci_core_finish_enable(&edu->core);
	return 0;
err:
	if (edu->io)
		pci_iounmap(edu->core.pdev, edu->io);
	vfio_pci_core_disable(&edu->core);
	return ret;
}

static void edu_close(struct vfio_device *vdev)
{
	struct edu *edu = to_edu(vdev);

	edu_lock(edu);
	edu_log_off(edu);
	edu_migration_restart(edu);
	edu_unlock(edu);
	vfio_pci_core_close_device(vdev);
	pci_iounmap(edu->core.pdev, edu->io);
}

static ssize_t edu_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	if (to_edu(vdev)->limits[EDU_BAR64] &&
	    VFIO_PCI_OFFSET_TO_INDEX(*ppos) == VFIO_PCI_CONFIG_REGION_INDEX)
		return edu_bar64_read(vdev, buf, count, ppos);
	return vfio_pci_core_read(vdev, buf, count, ppos);
}

static ssize_t edu_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			 loff_t *ppos)
{
	u64 at = *ppos & VFIO_PCI_OFFSET_MASK;
	struct edu *edu = to_edu(vdev);
	ssize_t ret;

	switch (VFIO_PCI_OFFSET_TO_INDEX(*ppos)) {
	case VFIO_PCI_CONFIG_REGION_INDEX:
		if (edu->limits[EDU_BAR64])
			return edu_bar64_write(vdev, buf, count, ppos);
		break;
	case VFIO_PCI_BAR0_REGION_INDEX:
		if (at >= EDU_TRAPPED)
			break;
		edu_lock(edu);
		ret = edu_write_registers(edu, buf, count, at);
		edu_unlock(edu);
		if (ret > 0)
			*ppos += ret;
		return ret;
	}
	return vfio_pci_core_write(vdev, buf, count, ppos);
}

static int edu_init(struct vfio_device *vdev)
{
	struct edu *edu = to_edu(vdev);
	int ret = vfio_pci_core_init_dev(vdev);

	if (ret)
		return ret;
	mutex_init(&edu->lock);
	spin_lock_init(&edu->reset_lock);
	spin_lock_init(&edu->fault_lock);
	xa_init(&edu->log.dirty);
	edu->state = VFIO_DEVICE_STATE_RUNNING;
	vdev->migration_flags = edu_migration_flags();
	if (vdev->migration_flags)
		vdev->mig_ops = &edu_migration_ops;
	if (logging)
		vdev->log_ops = &edu_log_ops;
#if HAVE_REGION_INFO_CAPS
	edu->core.pci_ops = &edu_pci_ops;
#endif
	return 0;
}

static const struct vfio_device_ops edu_ops = {
	.name = "edu-vfio-pci",
	.init = edu_init,
	.release = vfio_pci_core_release_dev,
	.open_device = edu_open,
	.close_device = edu_close,
	.ioctl = edu_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = edu_read,
	.write = edu_write,
	.mmap = edu_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
#if HAVE_REGION_INFO_CAPS
	.get_region_info_caps = edu_get_region_info,
#endif
#if HAVE_MATCH_TOKEN_UUID
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#endif
#if HAVE_IOMMUFD_OPS
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
#endif
#if HAVE_DETACH_IOAS
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
#endif
#if HAVE_PASID_ATTACH
	.pasid_attach_ioas = vfio_iommufd_physical_pasid_attach_ioas,
	.pasid_detach_ioas = vfio_iommufd_physical_pasid_detach_ioas,
#endif
};

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu *edu = vfio_alloc_device(edu, core.vdev, &pdev->dev, &edu_ops);
	int ret;

	if (IS_ERR(edu))
		return PTR_ERR(edu);
	edu_limits_reset(edu);
	/* The core requires its own structure as drvdata. */
	dev_set_drvdata(&pdev->dev, &edu->core);
	ret = vfio_pci_core_register_device(&edu->core);
	if (ret)
		vfio_put_device(&edu->core.vdev);
	return ret;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = edu_of_device(&pdev->dev);

	vfio_pci_core_unregister_device(&edu->core);
	vfio_put_device(&edu->core.vdev);
}

/* Bind by driver_override only: edu has no other driver, but a test may need it unbound. */
static const struct pci_device_id edu_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(0x1234, 0x11e8) },
	{},
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static const struct pci_error_handlers edu_err_handlers = {
	.reset_done = edu_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
};

static struct pci_driver edu_driver = {
	.name = KBUILD_MODNAME,
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.err_handler = &edu_err_handlers,
	.dev_groups = edu_groups,
	.driver_managed_dma = true,
};
module_pci_driver(edu_driver);

COMPAT_IMPORT_NS();
MODULE_DESCRIPTION("VFIO for QEMU's edu device, with DMA logging and migration");
MODULE_LICENSE("GPL");
