/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Compute the ranges that a device with limits tracks, from those in a request
 * VFIO_DEVICE_FEATURE_DMA_LOGGING_START. The modules of tests/ share this file.
 */
#ifndef MOCK_RANGES_H
#define MOCK_RANGES_H

#include <linux/interval_tree.h>
#include <linux/log2.h>
#include <linux/overflow.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#define LOG_COMBINE 0 /* combine ranges if there are more than max_ranges */
#define LOG_REFUSE 1  /* or return E2BIG */

struct log_range {
	u64 start;
	u64 last;
};

struct log_limits {
	u32 max_ranges;
	u32 overflow; /* LOG_COMBINE or LOG_REFUSE */
	u64 page_min;
	u64 page_max;
	u32 size_min; /* of the sum of the lengths, as ceil(log2()) */
	u32 size_max;
};

static inline u64 log_page_size(unsigned long size)
{
	return size < SZ_4K ? SZ_4K : rounddown_pow_of_two(size);
}

/*
 * Merge the pair with the smallest gap (of equal gaps, the lowest) until at most max ranges are
 * left. The result is that of vfio_combine_iova_ranges(), which 6.1 does not export.
 */
static inline u32 log_combine(struct log_range *ranges, u32 count, u32 max)
{
	while (count > max) {
		u64 gap, smallest = U64_MAX;
		u32 i, merge = 0;

		for (i = 0; i + 1 < count; i++) {
			gap = ranges[i + 1].start - ranges[i].last;
			if (gap < smallest) {
				smallest = gap;
				merge = i;
			}
		}
		ranges[merge].last = ranges[merge + 1].last;
		memmove(&ranges[merge + 1], &ranges[merge + 2],
			(count - merge - 2) * sizeof(*ranges));
		count--;
	}
	return count;
}

/* Return ceil(log2(sum of lengths)), or 65 if the sum does not fit into 64 bits */
static inline unsigned int log_total_shift(const struct log_range *ranges, u32 count)
{
	u64 total = 0;
	u32 i;

	for (i = 0; i < count; i++)
		if (check_add_overflow(total, ranges[i].last - ranges[i].start + 1, &total))
			return 65;
	if (total <= 1)
		return 0;
	return ilog2(total - 1) + 1;
}

/*
 * Negotiate the page size. Return the tracked ranges, which the caller frees, and their number in
 * *count; or an ERR_PTR.
 */
static inline struct log_range *log_plan(const struct log_limits *limits,
					 struct rb_root_cached *root, u32 nnodes, u64 *page_size,
					 u32 *count)
{
	struct interval_tree_node *node;
	struct log_range *ranges;
	unsigned int shift;
	u32 n = 0;

	/* The core accepts page size 0 if all ranges are empty */
	if (!*page_size)
		return ERR_PTR(-EINVAL);
	ranges = kcalloc(nnodes, sizeof(*ranges), GFP_KERNEL_ACCOUNT);
	if (!ranges)
		return ERR_PTR(-ENOMEM);
	for (node = interval_tree_iter_first(root, 0, ULONG_MAX); node && n < nnodes;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		/* The core accepts empty ranges; their last is one below their start. */
		if (node->last + 1 == node->start)
			continue;
		ranges[n].start = node->start;
		ranges[n++].last = node->last;
	}
	if (n > limits->max_ranges) {
		if (limits->overflow == LOG_REFUSE) {
			kfree(ranges);
			return ERR_PTR(-E2BIG);
		}
		n = log_combine(ranges, n, limits->max_ranges);
	}
	shift = log_total_shift(ranges, n);
	if (shift < limits->size_min || shift > limits->size_max) {
		kfree(ranges);
		return ERR_PTR(-EOPNOTSUPP);
	}
	/* The core accepts sizes that are not a power of two. Such a size is rounded down. */
	*page_size = clamp_t(u64, rounddown_pow_of_two(*page_size), limits->page_min,
			     max(limits->page_min, limits->page_max));
	*count = n;
	return ranges;
}

#endif
