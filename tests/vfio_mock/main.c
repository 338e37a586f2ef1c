// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio-mock: emulated VFIO devices that log dirty pages through the kernel's own path.
 *
 * Each is a platform device bound to this driver (the VFIO core takes the module reference
 * of dev->driver at open), registered with an emulated IOMMU.
 */
#include "mock.h"

static unsigned int devices = 2;
module_param(devices, uint, 0444);
MODULE_PARM_DESC(devices, "number of devices, 1..64 (2)");

unsigned long mock_memory_size = SZ_1M;
module_param_named(memory, mock_memory_size, ulong, 0444);
MODULE_PARM_DESC(memory, "bytes of a device's memory region, rounded up to a page (1 MiB)");

unsigned int mock_reset_set = 1;
module_param_named(reset_set, mock_reset_set, uint, 0444);
MODULE_PARM_DESC(reset_set, "devices that share a set and are reset together, 1..64 (1)");

unsigned int mock_msi = 4;
module_param_named(msi, mock_msi, uint, 0444);
MODULE_PARM_DESC(msi, "MSI vectors, 1..32 (4)");

unsigned int mock_msix = 8;
module_param_named(msix, mock_msix, uint, 0444);
MODULE_PARM_DESC(msix, "MSI-X vectors, 0..2048 (8)");

/* The limits of DMA logging are read at each open and may be written at any time. */
unsigned int mock_log_max_ranges = 255;
module_param_named(log_max_ranges, mock_log_max_ranges, uint, 0644);
MODULE_PARM_DESC(log_max_ranges, "most ranges that a device tracks (255)");

unsigned int mock_log_overflow = MOCK_LOG_COMBINE;
module_param_named(log_overflow, mock_log_overflow, uint, 0644);
MODULE_PARM_DESC(log_overflow, "more ranges than that: 0 combine them, 1 refuse with E2BIG (0)");

unsigned long mock_log_page_min = SZ_4K;
module_param_named(log_page_min, mock_log_page_min, ulong, 0644);
MODULE_PARM_DESC(log_page_min, "smallest page size tracked (4096)");

unsigned long mock_log_page_max = SZ_2M;
module_param_named(log_page_max, mock_log_page_max, ulong, 0644);
MODULE_PARM_DESC(log_page_max, "largest page size tracked (2 MiB)");

unsigned int mock_log_size_min = 12;
module_param_named(log_size_min, mock_log_size_min, uint, 0644);
MODULE_PARM_DESC(log_size_min, "smallest total size tracked, as ceil(log2) (12)");

unsigned int mock_log_size_max = 42;
module_param_named(log_size_max, mock_log_size_max, uint, 0644);
MODULE_PARM_DESC(log_size_max, "largest total size tracked, as ceil(log2) (42)");

struct workqueue_struct *mock_workqueue;

static struct platform_device **pdevs;

static int mock_probe(struct platform_device *pdev)
{
	struct mock *mock = mock_device_add(pdev);

	if (IS_ERR(mock))
		return PTR_ERR(mock);
	platform_set_drvdata(pdev, mock);
	return 0;
}

static REMOVE_RETURN mock_remove(struct platform_device *pdev)
{
	mock_device_del(platform_get_drvdata(pdev));
	return REMOVE_RETURN_VALUE;
}

static struct platform_driver mock_driver = {
	.probe = mock_probe,
	.remove = mock_remove,
	.driver.name = MOCK_NAME,
};

static void mock_unregister(unsigned int count)
{
	while (count--)
		platform_device_unregister(pdevs[count]);
	platform_driver_unregister(&mock_driver);
	destroy_workqueue(mock_workqueue);
	kfree(pdevs);
}

static int __init mock_init(void)
{
	unsigned int i;
	int ret;

	if (!devices || devices > 64 || !mock_reset_set || mock_reset_set > 64 ||
	    !mock_memory_size || !mock_msi || mock_msi > 32 || mock_msix > 2048)
		return -EINVAL;
	mock_memory_size = PAGE_ALIGN(mock_memory_size);

	pdevs = kcalloc(devices, sizeof(*pdevs), GFP_KERNEL);
	if (!pdevs)
		return -ENOMEM;
	mock_workqueue = alloc_workqueue(MOCK_NAME, WQ_UNBOUND, 0);
	if (!mock_workqueue) {
		kfree(pdevs);
		return -ENOMEM;
	}
	ret = platform_driver_register(&mock_driver);
	if (ret) {
		destroy_workqueue(mock_workqueue);
		kfree(pdevs);
		return ret;
	}
	for (i = 0; i < devices; i++) {
		pdevs[i] = platform_device_register_simple(MOCK_NAME, i, NULL, 0);
		if (IS_ERR(pdevs[i])) {
			ret = PTR_ERR(pdevs[i]);
			goto err;
		}
		/* A failed probe leaves the platform device unbound: that is a failed load. */
		if (!platform_get_drvdata(pdevs[i])) {
			i++;
			ret = -ENODEV;
			goto err;
		}
	}
	return 0;
err:
	mock_unregister(i);
	return ret;
}

static void __exit mock_exit(void)
{
	mock_unregister(devices);
}

module_init(mock_init);
module_exit(mock_exit);

COMPAT_IMPORT_NS();
MODULE_DESCRIPTION("Emulated VFIO devices with a DMA engine and DMA logging");
MODULE_LICENSE("GPL");
