/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vfio-mock: one emulated VFIO device and its parts.
 *
 * Locks, outermost first:
 *   migration->lock    the migration state
 *   migf->lock         a migration's data descriptor
 *   mock->lock         registers, and whether the engine runs
 *   engine->step_lock  held during one step; never held while waiting for a step
 *   pins->lock         the pinned pages; the core's unmap takes it, holding no lock that
 *                      pinning takes
 *   log->lock          the dirty log
 *   irqs->gate         VFIO_DEVICE_SET_IRQS, one at a time
 *   irqs->lock         eventfds and masks (a spinlock: taken to raise an interrupt)
 * vfio_dma_rw() is called under step_lock only: it may fault on user memory and sleep for a long
 * time, and the registers must stay readable during that time.
 */
#ifndef MOCK_H
#define MOCK_H

#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/uuid.h>
#include <linux/vfio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "compat.h"
#include "ranges.h"
#include "vfio_mock_regs.h"

#define MOCK_NAME "vfio-mock"
#define MOCK_OFFSET_SHIFT 40
#define MOCK_LOG_SHIFT 12 /* the log's unit, and the smallest page size of reports */

/* The registers that a program writes and that a migration carries */
struct mock_registers {
	__le64 scratch64;
	__le64 dma_iova;
	__le64 dma_length;
	__le64 dma_source;
	__le64 dma_memory;
	__le64 dma_pattern;
	__le64 dma_count;
	__le64 dma_stride;
	__le64 dma_seed;
	__le64 pin_iova;
	__le64 pin_count;
	__le32 scratch32;
	__le32 dma_delay;
	__le32 dma_irq;
	__le32 irq_raise;
	__le16 scratch16;
	u8 scratch8;
	u8 reserved[5];
} __packed;

struct mock_memory {
	u8 *base; /* vmalloc_user(): zeroed, may be mapped */
	u64 size;
	atomic_t mappings;
	bool mapped; /* at some time since migration began to save */
};

/* A job: its parameters from the time of its start, and its progress */
struct mock_job {
	u32 command;
	u32 delay;
	u32 irq;
	u32 status;
	u32 error;
	u32 reserved;
	u64 iova;
	u64 length;
	u64 source;
	u64 memory;
	u64 pattern;
	u64 count;
	u64 stride;
	u64 seed;
	u64 position; /* in the round: bytes, or writes for LIST, TOUCH, SCATTER */
	u64 random;
	u64 rounds;
	u64 steps;
	u64 bytes;
	u64 fault;
};

struct mock_engine {
	struct mock_job job;
	struct mutex step_lock; /* held for the length of one step */
	struct work_struct work;
	wait_queue_head_t wait;
	bool running; /* under mock->lock; a job has been taken up and is not finished */
	bool stop;
	bool paused;
	void *page; /* bounce buffer of the running step */
};

struct mock_log {
	struct mutex lock; /* all that follows */
	bool active;
	u64 page_size;
	u32 num_ranges;
	u32 selected;
	struct log_range *ranges;
	struct xarray chunks; /* bitmaps of one page each, by IOVA */
	u64 dirty;
	u64 marked;
	struct log_limits limits;
};

struct mock_irq {
	struct eventfd_ctx **triggers;
	unsigned int count;
	unsigned int enabled; /* vectors set up since the index was last off; 0: off */
};

struct mock_irqs {
	struct mutex gate; /* VFIO_DEVICE_SET_IRQS, one at a time */
	spinlock_t lock;   /* all that follows; taken by whoever raises an interrupt */
	struct mock_irq index[MOCK_NUM_IRQS];
	bool asserted;
	bool masked;
	struct virqfd *unmask;
	u64 signaled;
};

struct mock_pins {
	struct mutex lock;   /* all that follows */
	struct xarray pages; /* struct page *, by IOVA >> PAGE_SHIFT */
	u64 count;
};

struct mock_migration_file;

struct mock_migration {
	struct mutex lock;		  /* the state and the open session */
	u32 state;			  /* enum vfio_device_mig_state */
	struct mock_migration_file *file; /* of the session that is open */
	unsigned long *dirty; /* pages of the memory regions, written since they were last sent */
	u64 sent;
	u64 received;
	u64 path; /* states that the last request reached, 4 bits each */
};

struct mock_fault {
	u32 nth;
	u32 error;
	u32 calls;
	u32 fired;
};

struct mock {
	struct vfio_device vdev;
	u32 number;
	struct mutex lock; /* registers, and who runs the engine */
	struct mock_registers registers;
	u32 transfer_max;
	struct mock_memory memory;
	struct mock_memory sparse;
	struct mock_memory typed;
	struct mock_engine engine;
	struct mock_log log;
	struct mock_irqs irqs;
	struct mock_pins pins;
	struct mock_migration migration;
	spinlock_t fault_lock; /* faults */
	struct mock_fault faults[MOCK_NUM_FAULTS];
	u64 bytes_written;
	u64 bytes_read;
	u64 unmaps;
	u64 resets;
};

static inline struct mock *to_mock(struct vfio_device *vdev)
{
	return container_of(vdev, struct mock, vdev);
}

/* main.c: module parameters */
extern unsigned long mock_memory_size;
extern unsigned int mock_reset_set;
extern unsigned int mock_msi;
extern unsigned int mock_msix;
extern unsigned int mock_log_max_ranges;
extern unsigned int mock_log_overflow;
extern unsigned long mock_log_page_min;
extern unsigned long mock_log_page_max;
extern unsigned int mock_log_size_min;
extern unsigned int mock_log_size_max;
extern struct workqueue_struct *mock_workqueue;

/* device.c */
struct mock *mock_device_add(struct platform_device *pdev);
void mock_device_del(struct mock *mock);

/* token.c */
int mock_match(struct vfio_device *vdev, char *buf);
int mock_match_token_uuid(struct vfio_device *vdev, const uuid_t *uuid);

/* registers.c */
void mock_registers_reset(struct mock *mock);
int mock_register_read(struct mock *mock, u64 offset, unsigned int size, u64 *value);
int mock_register_write(struct mock *mock, u64 offset, unsigned int size, u64 value);

/* region.c */
int mock_regions_init(struct mock *mock);
void mock_regions_free(struct mock *mock);
void mock_regions_clear(struct mock *mock);
int mock_region_info(struct mock *mock, struct vfio_region_info *info, struct vfio_info_cap *caps);
ssize_t mock_region_read(struct mock *mock, char __user *buf, size_t count, u64 pos);
ssize_t mock_region_write(struct mock *mock, const char __user *buf, size_t count, u64 pos);
int mock_region_mmap(struct mock *mock, struct vm_area_struct *vma);

/* engine.c */
int mock_engine_init(struct mock *mock);
void mock_engine_free(struct mock *mock);
int mock_engine_start(struct mock *mock, u32 command);
void mock_engine_stop(struct mock *mock);
void mock_engine_close(struct mock *mock);
void mock_engine_stop_and_lock(struct mock *mock);
void mock_engine_reset(struct mock *mock);
void mock_engine_pause(struct mock *mock);
void mock_engine_unpause(struct mock *mock);
int mock_engine_restore(struct mock *mock, const struct mock_job *job,
			const struct mock_registers *registers);

/* log.c */
extern const struct vfio_log_ops mock_log_ops;
void mock_log_init(struct mock *mock);
void mock_log_limits(struct mock *mock);
void mock_log_off(struct mock *mock);
void mock_log_mark(struct mock *mock, u64 iova, u64 length);

/* irq.c */
int mock_irqs_init(struct mock *mock);
void mock_irqs_free(struct mock *mock);
void mock_irqs_off(struct mock *mock);
int mock_irq_info(struct vfio_irq_info *info);
int mock_irqs_set(struct mock *mock, const struct vfio_irq_set *set, void *data);
int mock_irq_count(unsigned int index);
int mock_irq_raise(struct mock *mock, u32 irq);
void mock_irq_deassert(struct mock *mock);

/* pin.c */
void mock_pins_init(struct mock *mock);
int mock_pin_command(struct mock *mock, u32 command);
void mock_pins_release(struct mock *mock, u64 iova, u64 length);
int mock_pins_access(struct mock *mock, u64 iova, void *data, size_t size, bool write);

/* migration.c */
int mock_migration_init(struct mock *mock);
void mock_migration_free(struct mock *mock);
void mock_migration_restart(struct mock *mock);
int mock_migration_reinit(struct mock *mock);
void mock_migration_touch(struct mock *mock, const struct mock_memory *memory, u64 offset,
			  u64 size);

/* fault.c */
void mock_faults_reset(struct mock *mock);
int mock_fault(struct mock *mock, unsigned int kind);
int mock_fault_read(struct mock *mock, u32 offset, u64 *value);
int mock_fault_write(struct mock *mock, u32 offset, u64 value);

#endif
