/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * edu-vfio-pci: vfio-pci for QEMU's edu device, with DMA logging and migration.
 *
 * Locks, outermost first:
 *   edu->lock          registers, log, limits and migration state; taken by edu_lock() alone
 *   stream->lock       a migration's data descriptor
 *   core.memory_lock   the core's lock for access to the BAR
 *   edu->fault_lock    planned failures (a spinlock)
 *   edu->reset_lock    deferred_reset (a spinlock); taken under core.memory_lock
 */
#ifndef EDU_H
#define EDU_H

#include <linux/pci.h>
#include <linux/vfio_pci_core.h>
#include <linux/xarray.h>

#include "compat.h"
#include "ranges.h"

/* Registers of BAR0, which QEMU's documentation describes ("EDU device") */
#define EDU_IDENTIFICATION 0x00
#define EDU_LIVENESS 0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS 0x20
#define EDU_IRQ_STATUS 0x24
#define EDU_IRQ_RAISE 0x60
#define EDU_IRQ_ACKNOWLEDGE 0x64
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_DESTINATION 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98

#define EDU_STATUS_COMPUTING BIT(0)
#define EDU_DMA_START BIT(0) /* reads as 1 until the transfer has ended */
#define EDU_DMA_TO_MEMORY BIT(1)

#define EDU_BUFFER_SIZE SZ_4K /* no transfer is larger */
#define EDU_TRAPPED PAGE_SIZE /* the first bytes of BAR0, with all registers */

/* Limits that a test sets for each device. Module parameters give the values at open. */
enum edu_limit {
	EDU_LOG_MAX_RANGES,
	EDU_LOG_OVERFLOW,
	EDU_LOG_PAGE_MIN,
	EDU_LOG_PAGE_MAX,
	EDU_LOG_SIZE_MIN,
	EDU_LOG_SIZE_MAX,
	EDU_LOG_LOSE,
	EDU_DMA_MASK,
	EDU_SPARSE,
	EDU_BAR64,
	EDU_NUM_LIMITS
};

/* Kinds of calls that can be made to fail */
enum edu_call {
	EDU_OPEN,
	EDU_LOG_START,
	EDU_LOG_STOP,
	EDU_LOG_REPORT,
	EDU_MIG_SET_STATE,
	EDU_MIG_GET_STATE,
	EDU_MIG_DATA_SIZE,
	EDU_MIG_PRECOPY_INFO,
	EDU_MIG_READ,
	EDU_MIG_WRITE,
	EDU_NUM_CALLS
};

struct edu_fault {
	u32 nth; /* the n-th next call fails; 0: none */
	int error;
};

struct edu_log {
	bool active;
	u64 page_size;
	u32 num_ranges;
	struct log_range *ranges;
	struct xarray dirty; /* by IOVA >> PAGE_SHIFT */
	u64 found;	     /* dirty units since the start; every lose-th of them is lost */
	/* A transfer to memory that was started and whose end has not been seen yet */
	bool pending;
	u64 pending_start;
	u64 pending_count;
};

struct edu_stream;

struct edu {
	struct vfio_pci_core_device core;
	void __iomem *io; /* the trapped page, while the device is open */
	struct mutex lock;
	spinlock_t reset_lock; /* deferred_reset */
	bool deferred_reset;
	spinlock_t fault_lock; /* faults */
	struct edu_fault faults[EDU_NUM_CALLS];
	u64 limits[EDU_NUM_LIMITS];
	u64 bar64;     /* the user's value of the BAR that appears as 64 bits */
	u32 factorial; /* the last number written to FACTORIAL, which shows its factorial */
	bool changed;  /* registers were written since the last record of a stream */
	struct edu_log log;
	enum vfio_device_mig_state state;
	struct edu_stream *stream; /* of the session that is open */
	u64 path;		   /* states that the last request reached, 4 bits each */
	u64 sent;
};

static inline struct edu *to_edu(struct vfio_device *vdev)
{
	return container_of(vdev, struct edu, core.vdev);
}

static inline struct edu *edu_of_device(struct device *dev)
{
	return container_of(dev_get_drvdata(dev), struct edu, core);
}

/* main.c */
extern unsigned long edu_defaults[EDU_NUM_LIMITS];
void edu_lock(struct edu *edu);
void edu_unlock(struct edu *edu);

/* registers.c */
int edu_io_begin(struct edu *edu, u16 *command);
void edu_io_end(struct edu *edu, u16 command);
bool edu_is_moving(struct edu *edu);
int edu_find_transfer(struct edu *edu);
int edu_wait_idle(struct edu *edu);
ssize_t edu_write_registers(struct edu *edu, const char __user *buf, size_t count, u64 at);

/* region.c */
#if HAVE_REGION_INFO_CAPS
int edu_get_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
			struct vfio_info_cap *caps);
extern const struct vfio_pci_device_ops edu_pci_ops;
#endif
long edu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg);
int edu_mmap(struct vfio_device *vdev, struct vm_area_struct *vma);

/* bar64.c */
int edu_bar64_open(struct edu *edu);
ssize_t edu_bar64_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos);
ssize_t edu_bar64_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			loff_t *ppos);

/* log.c */
extern const struct vfio_log_ops edu_log_ops;
void edu_log_off(struct edu *edu);
void edu_log_transfer(struct edu *edu, u64 destination, u64 count);
void edu_log_settle(struct edu *edu);

/* migration.c */
extern const struct vfio_migration_ops edu_migration_ops;
u64 edu_migration_flags(void);
void edu_migration_restart(struct edu *edu);
void edu_migration_wake(void);
void edu_migration_changed(struct edu *edu);

/* attributes.c */
extern const struct attribute_group *edu_groups[];
void edu_limits_reset(struct edu *edu);
int edu_fault(struct edu *edu, enum edu_call call);

#endif
