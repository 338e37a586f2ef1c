// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pinned pages: held until they are unpinned, unmapped (the core's unmap waits for that) or the
 * device is closed.
 */
#include <linux/highmem.h>
#include <linux/iommu.h>
#include <linux/sched/signal.h>

#include "mock.h"

void mock_pins_init(struct mock *mock)
{
	mutex_init(&mock->pins.lock);
	xa_init(&mock->pins.pages);
}

/* Called with pins->lock held */
static void unpin(struct mock *mock, u64 first, u64 last)
{
	struct mock_pins *pins = &mock->pins;
	unsigned long index;
	void *page;

	xa_for_each_range(&pins->pages, index, page, first, last) {
		xa_erase(&pins->pages, index);
		vfio_unpin_pages(&mock->vdev, (u64)index << PAGE_SHIFT, 1);
		pins->count--;
		cond_resched();
	}
}

/*
 * Pin one page at a time: iommufd requires that pages are unpinned in the portions in which they
 * were pinned, and an unmap may cover any part
 */
static int pin_one(struct mock *mock, u64 index)
{
	struct mock_pins *pins = &mock->pins;
	struct page *page;
	int ret = mock_fault(mock, MOCK_FAULT_PIN);

	if (ret)
		return ret;
	if (xa_load(&pins->pages, index))
		return -EEXIST;
	ret = vfio_pin_pages(&mock->vdev, index << PAGE_SHIFT, 1, IOMMU_READ | IOMMU_WRITE, &page);
	if (ret != 1)
		return ret < 0 ? ret : -EFAULT;
	ret = xa_err(xa_store(&pins->pages, index, page, GFP_KERNEL));
	if (ret) {
		vfio_unpin_pages(&mock->vdev, index << PAGE_SHIFT, 1);
		return ret;
	}
	pins->count++;
	return 0;
}

/* Pin all of the pages, or return an error and pin none */
static int pin(struct mock *mock, u64 first, u64 last)
{
	u64 index;
	int ret = 0;

	for (index = first; index <= last && !ret; index++) {
		ret = fatal_signal_pending(current) ? -EINTR : pin_one(mock, index);
		cond_resched();
	}
	if (ret && index - 1 > first)
		unpin(mock, first, index - 2);
	return ret;
}

int mock_pin_command(struct mock *mock, u32 command)
{
	u64 iova, count, first;
	int ret = 0;

	mutex_lock(&mock->lock);
	iova = le64_to_cpu(mock->registers.pin_iova);
	count = le64_to_cpu(mock->registers.pin_count);
	mutex_unlock(&mock->lock);

	if (command != MOCK_PIN_PIN && command != MOCK_PIN_UNPIN)
		return -EINVAL;
	first = iova >> PAGE_SHIFT;
	if (!PAGE_ALIGNED(iova) || !count || count - 1 > (U64_MAX >> PAGE_SHIFT) - first)
		return -EINVAL;
	mutex_lock(&mock->pins.lock);
	if (command == MOCK_PIN_PIN)
		ret = pin(mock, first, first + count - 1);
	else
		unpin(mock, first, first + count - 1);
	mutex_unlock(&mock->pins.lock);
	return ret;
}

/* At unmap, at iommufd's detach (which gives the range of all IOVAs), and at close */
void mock_pins_release(struct mock *mock, u64 iova, u64 length)
{
	u64 last = iova + length - 1;

	mutex_lock(&mock->pins.lock);
	unpin(mock, iova >> PAGE_SHIFT, (last < iova ? U64_MAX : last) >> PAGE_SHIFT);
	mutex_unlock(&mock->pins.lock);
}

/* Access a pinned page for the engine. The access must lie within that page */
int mock_pins_access(struct mock *mock, u64 iova, void *data, size_t size, bool write)
{
	struct page *page;

	/* Hold the lock, so that the page stays pinned during the access */
	mutex_lock(&mock->pins.lock);
	page = xa_load(&mock->pins.pages, iova >> PAGE_SHIFT);
	if (page && write)
		memcpy_to_page(page, offset_in_page(iova), data, size);
	else if (page)
		memcpy_from_page(data, page, offset_in_page(iova), size);
	mutex_unlock(&mock->pins.lock);
	return page ? 0 : -EFAULT;
}
