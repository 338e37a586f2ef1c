// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA logging: which pages the engine wrote.
 *
 * Dirty bits are kept in units of 4 KiB, whatever page size was negotiated: a write dirties
 * all units of the tracked page that it touches, and a report clears the units that it reports and
 * no others, so reports of any part of a range, in any page size, lose nothing.
 */
#include <linux/bitmap.h>
#include <linux/slab.h>

#include "mock.h"

#define CHUNK_BITS (PAGE_SIZE * BITS_PER_BYTE)

void mock_log_init(struct mock *mock)
{
	mutex_init(&mock->log.lock);
	xa_init(&mock->log.chunks);
}

/* At open, take the limits from the module parameters */
void mock_log_limits(struct mock *mock)
{
	struct mock_log *log = &mock->log;

	mutex_lock(&log->lock);
	log->limits.max_ranges = max(READ_ONCE(mock_log_max_ranges), 1U);
	log->limits.overflow = READ_ONCE(mock_log_overflow) ? LOG_REFUSE : LOG_COMBINE;
	log->limits.page_min = log_page_size(READ_ONCE(mock_log_page_min));
	log->limits.page_max = log_page_size(READ_ONCE(mock_log_page_max));
	log->limits.size_min = min(READ_ONCE(mock_log_size_min), 64U);
	log->limits.size_max = min(READ_ONCE(mock_log_size_max), 64U);
	log->selected = 0;
	mutex_unlock(&log->lock);
}

/* Called with log->lock held */
static void forget(struct mock_log *log)
{
	unsigned long index;
	void *chunk;

	xa_for_each(&log->chunks, index, chunk)
		bitmap_free(chunk);
	xa_destroy(&log->chunks);
	kfree(log->ranges);
	log->ranges = NULL;
	log->num_ranges = 0;
	log->page_size = 0;
	log->dirty = 0;
	log->active = false;
}

void mock_log_off(struct mock *mock)
{
	mutex_lock(&mock->log.lock);
	forget(&mock->log);
	mutex_unlock(&mock->log.lock);
}

static int mock_log_start(struct vfio_device *vdev, struct rb_root_cached *root, u32 nnodes,
			  u64 *page_size)
{
	struct mock *mock = to_mock(vdev);
	struct mock_log *log = &mock->log;
	struct log_range *ranges;
	u32 count;
	int ret = mock_fault(mock, MOCK_FAULT_LOG_START);

	if (ret)
		return ret;
	mutex_lock(&log->lock);
	if (log->active)
		ranges = ERR_PTR(-EINVAL);
	else
		ranges = log_plan(&log->limits, root, nnodes, page_size, &count);
	if (IS_ERR(ranges)) {
		ret = PTR_ERR(ranges);
	} else {
		log->page_size = *page_size;
		log->ranges = ranges;
		log->num_ranges = count;
		log->dirty = 0;
		log->active = true;
	}
	mutex_unlock(&log->lock);
	return ret;
}

/* Succeeds without a start, as on mlx5 */
static int mock_log_stop(struct vfio_device *vdev)
{
	struct mock *mock = to_mock(vdev);
	int ret = mock_fault(mock, MOCK_FAULT_LOG_STOP);

	if (ret)
		return ret;
	mock_log_off(mock);
	return 0;
}

/* Called with log->lock held. Sets and clears the dirty units in first..last of one chunk. */
static void report_chunk(struct mock_log *log, unsigned long *bits, u64 chunk, u64 first, u64 last,
			 u64 iova, u64 iova_last, struct iova_bitmap *dirty)
{
	unsigned long from = first - chunk * CHUNK_BITS, to = last - chunk * CHUNK_BITS, start, end;

	for (start = find_next_bit(bits, to + 1, from); start <= to;
	     start = find_next_bit(bits, to + 1, end)) {
		u64 run, run_last;

		end = find_next_zero_bit(bits, to + 1, start);
		run = max((chunk * CHUNK_BITS + start) << MOCK_LOG_SHIFT, iova);
		run_last = min(((chunk * CHUNK_BITS + end) << MOCK_LOG_SHIFT) - 1, iova_last);
		iova_bitmap_set(dirty, run, run_last - run + 1);
		bitmap_clear(bits, start, end - start);
		log->dirty -= end - start;
		cond_resched();
	}
}

/*
 * Report only the bits of iova .. + length, whatever the tracked page size. Addresses outside the
 * tracked ranges are clean. An empty or wrapping range is EINVAL: the core does not check for them.
 */
static int mock_log_read_and_clear(struct vfio_device *vdev, unsigned long iova,
				   unsigned long length, struct iova_bitmap *dirty)
{
	struct mock *mock = to_mock(vdev);
	struct mock_log *log = &mock->log;
	u64 iova_last = iova + length - 1;
	unsigned long chunk;
	u64 first, last;
	void *bits;
	int ret = mock_fault(mock, MOCK_FAULT_LOG_REPORT);

	if (ret)
		return ret;
	if (!length || iova_last < iova)
		return -EINVAL;
	mutex_lock(&log->lock);
	if (!log->active) {
		mutex_unlock(&log->lock);
		return -EINVAL;
	}
	first = iova >> MOCK_LOG_SHIFT;
	last = iova_last >> MOCK_LOG_SHIFT;
	xa_for_each_range(&log->chunks, chunk, bits, first / CHUNK_BITS, last / CHUNK_BITS)
		report_chunk(log, bits, chunk, max_t(u64, first, (u64)chunk * CHUNK_BITS),
			     min_t(u64, last, ((u64)chunk + 1) * CHUNK_BITS - 1), iova, iova_last,
			     dirty);
	mutex_unlock(&log->lock);
	return 0;
}

const struct vfio_log_ops mock_log_ops = {
	.log_start = mock_log_start,
	.log_stop = mock_log_stop,
	.log_read_and_clear = mock_log_read_and_clear,
};

/* A mark must not be lost, so this allocation must not fail: it waits for memory. */
static unsigned long *chunk_bits(struct mock_log *log, unsigned long chunk)
{
	unsigned long *bits = xa_load(&log->chunks, chunk);

	if (!bits) {
		bits = bitmap_zalloc(CHUNK_BITS, GFP_KERNEL | __GFP_NOFAIL);
		xa_store(&log->chunks, chunk, bits, GFP_KERNEL | __GFP_NOFAIL);
	}
	return bits;
}

static void mark_units(struct mock_log *log, u64 unit, u64 last)
{
	while (unit <= last) {
		unsigned long *bits = chunk_bits(log, unit / CHUNK_BITS);
		u64 end = min(last, (unit / CHUNK_BITS + 1) * CHUNK_BITS - 1);

		for (; unit <= end; unit++) {
			if (__test_and_set_bit(unit % CHUNK_BITS, bits))
				continue;
			log->dirty++;
			log->marked++;
		}
	}
}

/*
 * Mark the tracked pages that a write touched as dirty. Call this after the write, never before:
 * otherwise a report in between would clear the bit of a write that is still to come.
 */
void mock_log_mark(struct mock *mock, u64 iova, u64 length)
{
	struct mock_log *log = &mock->log;
	u64 start, last;
	u32 i;

	mutex_lock(&log->lock);
	start = iova & ~(log->page_size - 1);
	last = (iova + length - 1) | (log->page_size - 1);
	for (i = 0; log->active && i < log->num_ranges; i++)
		if (log->ranges[i].start <= last && log->ranges[i].last >= start)
			mark_units(log, max(start, log->ranges[i].start) >> MOCK_LOG_SHIFT,
				   min(last, log->ranges[i].last) >> MOCK_LOG_SHIFT);
	mutex_unlock(&log->lock);
}
