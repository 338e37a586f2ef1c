// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA logging: which pages the device writes.
 *
 * edu moves data 0.1 s after the command. If the pages were marked only at the command, a report in
 * between would clear the marks too early. So a transfer is pending, and its pages are dirty in each
 * report, until the engine was seen idle before they were marked.
 */
#include "edu.h"

/* Called with edu->lock held */
void edu_log_off(struct edu *edu)
{
	struct edu_log *log = &edu->log;

	xa_destroy(&log->dirty);
	kfree(log->ranges);
	log->ranges = NULL;
	log->num_ranges = 0;
	log->active = false;
}

/* Mark the tracked pages that these bytes touch as dirty. Bytes outside the ranges are ignored. */
static void edu_log_mark(struct edu_log *log, u64 iova, u64 count)
{
	u64 start, last, unit;
	u32 i;

	if (!log->active || !count)
		return;
	start = iova & ~(log->page_size - 1);
	last = (iova + count - 1) | (log->page_size - 1);
	for (i = 0; i < log->num_ranges; i++)
		for (unit = max(start, log->ranges[i].start) >> PAGE_SHIFT;
		     unit <= min(last, log->ranges[i].last) >> PAGE_SHIFT; unit++)
			xa_store(&log->dirty, unit, xa_mk_value(1), GFP_KERNEL | __GFP_NOFAIL);
}

/* Called with edu->lock held, when a transfer to memory has been started or continues. */
void edu_log_transfer(struct edu *edu, u64 destination, u64 count)
{
	struct edu_log *log = &edu->log;

	log->pending = true;
	log->pending_start = destination & edu->limits[EDU_DMA_MASK];
	/* With a larger count, QEMU transfers nothing, or aborts */
	log->pending_count = min_t(u64, count, EDU_BUFFER_SIZE);
	edu_log_mark(log, log->pending_start, log->pending_count);
}

/* Called with edu->lock held. Marks the pages of a pending transfer, and checks for its end. */
void edu_log_settle(struct edu *edu)
{
	struct edu_log *log = &edu->log;

	if (!log->pending)
		return;
	/* Check for the end before marking: if the transfer has ended now, it has written all. */
	log->pending = edu_is_moving(edu);
	edu_log_mark(log, log->pending_start, log->pending_count);
}

static int edu_log_start(struct vfio_device *vdev, struct rb_root_cached *root, u32 nnodes,
			 u64 *page_size)
{
	struct edu *edu = to_edu(vdev);
	struct edu_log *log = &edu->log;
	struct log_limits limits;
	struct log_range *ranges;
	u32 count;
	int ret = edu_fault(edu, EDU_LOG_START);

	if (ret)
		return ret;
	edu_lock(edu);
	limits = (struct log_limits){
		.max_ranges = max_t(u64, edu->limits[EDU_LOG_MAX_RANGES], 1),
		.overflow = edu->limits[EDU_LOG_OVERFLOW] ? LOG_REFUSE : LOG_COMBINE,
		.page_min = log_page_size(edu->limits[EDU_LOG_PAGE_MIN]),
		.page_max = log_page_size(edu->limits[EDU_LOG_PAGE_MAX]),
		.size_min = min_t(u64, edu->limits[EDU_LOG_SIZE_MIN], 64),
		.size_max = min_t(u64, edu->limits[EDU_LOG_SIZE_MAX], 64),
	};
	if (log->active)
		ranges = ERR_PTR(-EINVAL);
	else
		ranges = log_plan(&limits, root, nnodes, page_size, &count);
	if (IS_ERR(ranges)) {
		ret = PTR_ERR(ranges);
	} else {
		/* A transfer that has ended wrote before the start of the log */
		edu_log_settle(edu);
		log->page_size = *page_size;
		log->ranges = ranges;
		log->num_ranges = count;
		log->found = 0;
		log->active = true;
		if (log->pending)
			edu_log_mark(log, log->pending_start, log->pending_count);
	}
	edu_unlock(edu);
	return ret;
}

/* Succeeds without a start, as on mlx5 */
static int edu_log_stop(struct vfio_device *vdev)
{
	struct edu *edu = to_edu(vdev);
	int ret = edu_fault(edu, EDU_LOG_STOP);

	if (ret)
		return ret;
	edu_lock(edu);
	edu_log_off(edu);
	edu_unlock(edu);
	return 0;
}

/* An empty or wrapping range is EINVAL: the core does not check for them. */
static int edu_log_read_and_clear(struct vfio_device *vdev, unsigned long iova,
				  unsigned long length, struct iova_bitmap *dirty)
{
	unsigned long unit, last = iova + length - 1;
	struct edu *edu = to_edu(vdev);
	struct edu_log *log = &edu->log;
	void *entry;
	u64 lose;
	int ret = edu_fault(edu, EDU_LOG_REPORT);

	if (ret)
		return ret;
	if (!length || last < iova)
		return -EINVAL;
	edu_lock(edu);
	if (!log->active) {
		ret = -EINVAL;
		goto out;
	}
	lose = edu->limits[EDU_LOG_LOSE];
	edu_log_settle(edu);
	xa_for_each_range(&log->dirty, unit, entry, iova >> PAGE_SHIFT, last >> PAGE_SHIFT) {
		u64 start = max_t(u64, (u64)unit << PAGE_SHIFT, iova);
		u64 end = min_t(u64, ((u64)unit << PAGE_SHIFT) + PAGE_SIZE - 1, last);

		if (!lose || ++log->found % lose)
			iova_bitmap_set(dirty, start, end - start + 1);
		xa_erase(&log->dirty, unit);
	}
out:
	edu_unlock(edu);
	return ret;
}

const struct vfio_log_ops edu_log_ops = {
	.log_start = edu_log_start,
	.log_stop = edu_log_stop,
	.log_read_and_clear = edu_log_read_and_clear,
};
