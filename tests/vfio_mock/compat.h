/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between the kernels 6.1 to 7.3, in one place for the modules of tests/.
 */
#ifndef MOCK_COMPAT_H
#define MOCK_COMPAT_H

#include <linux/eventfd.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/version.h>
#include <linux/vfio.h>

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

/* Since then, the driver's release callback does not free the device any more */
#define HAVE_IOMMUFD_OPS SINCE(6, 2)
/* The same release has the migration data size */
#define HAVE_PRE_COPY SINCE(6, 2)
#define HAVE_DETACH_IOAS SINCE(6, 6)
#define HAVE_PASID_ATTACH SINCE(6, 15)
#define HAVE_MATCH_TOKEN_UUID SINCE(6, 17)
/* Since then, GET_REGION_INFO has its own callback and does not reach .ioctl */
#define HAVE_REGION_INFO_CAPS SINCE(6, 19)

#if HAVE_PRE_COPY
#define COMPAT_MIGRATION_FLAGS \
	(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY)
#else
#define COMPAT_MIGRATION_FLAGS (VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P)
#define VFIO_DEVICE_STATE_PRE_COPY 6
#define VFIO_DEVICE_STATE_PRE_COPY_P2P 7
#endif

#if SINCE(6, 11)
#define REMOVE_RETURN void
#define REMOVE_RETURN_VALUE
#else
#define REMOVE_RETURN int
#define REMOVE_RETURN_VALUE 0
#endif

static inline void compat_eventfd_signal(struct eventfd_ctx *ctx)
{
#if SINCE(6, 8)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* The namespace of iova_bitmap_set(). Before its move to iommufd in 6.12, vfio exported it */
#if SINCE(6, 13)
#define COMPAT_IMPORT_NS() MODULE_IMPORT_NS("IOMMUFD")
#else
#define COMPAT_IMPORT_NS() MODULE_IMPORT_NS(IOMMUFD)
#endif

#endif
