// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files for tests, in the folder edu_vfio_pci of the PCI device: limits, planned failures, the
 * log's ranges, the last states.
 */
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/sysfs.h>

#include "edu.h"

/* Called at probe, and with edu->lock held at open */
void edu_limits_reset(struct edu *edu)
{
	unsigned int i;

	for (i = 0; i < EDU_NUM_LIMITS; i++)
		edu->limits[i] = READ_ONCE(edu_defaults[i]);
	/* The failure of open itself has been checked already. */
	spin_lock(&edu->fault_lock);
	memset(edu->faults, 0, sizeof(edu->faults));
	spin_unlock(&edu->fault_lock);
}

/* Count a call, and return the negative errno with which it must fail, or 0 */
int edu_fault(struct edu *edu, enum edu_call call)
{
	struct edu_fault *fault = &edu->faults[call];
	int ret = 0;

	spin_lock(&edu->fault_lock);
	if (fault->nth && !--fault->nth)
		ret = -fault->error;
	spin_unlock(&edu->fault_lock);
	return ret;
}

struct edu_limit_attribute {
	struct device_attribute attr;
	enum edu_limit limit;
};

static ssize_t limit_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	enum edu_limit limit = container_of(attr, struct edu_limit_attribute, attr)->limit;

	return sysfs_emit(buf, "%llu\n", READ_ONCE(edu_of_device(dev)->limits[limit]));
}

static ssize_t limit_store(struct device *dev, struct device_attribute *attr, const char *buf,
			   size_t count)
{
	enum edu_limit limit = container_of(attr, struct edu_limit_attribute, attr)->limit;
	struct edu *edu = edu_of_device(dev);
	u64 value;
	int ret = kstrtou64(buf, 0, &value);

	if (ret)
		return ret;
	edu_lock(edu);
	edu->limits[limit] = value;
	edu_unlock(edu);
	return count;
}

#define LIMIT(file, number) \
	static struct edu_limit_attribute limit_##file = { \
		.attr = __ATTR(file, 0644, limit_show, limit_store), .limit = (number) \
	}

LIMIT(log_max_ranges, EDU_LOG_MAX_RANGES);
LIMIT(log_overflow, EDU_LOG_OVERFLOW);
LIMIT(log_page_min, EDU_LOG_PAGE_MIN);
LIMIT(log_page_max, EDU_LOG_PAGE_MAX);
LIMIT(log_size_min, EDU_LOG_SIZE_MIN);
LIMIT(log_size_max, EDU_LOG_SIZE_MAX);
LIMIT(log_lose, EDU_LOG_LOSE);
LIMIT(dma_mask, EDU_DMA_MASK);
LIMIT(sparse, EDU_SPARSE);
LIMIT(bar64, EDU_BAR64);

static const char *const call_names[EDU_NUM_CALLS] = {
	[EDU_OPEN] = "open",
	[EDU_LOG_START] = "log_start",
	[EDU_LOG_STOP] = "log_stop",
	[EDU_LOG_REPORT] = "log_report",
	[EDU_MIG_SET_STATE] = "mig_set_state",
	[EDU_MIG_GET_STATE] = "mig_get_state",
	[EDU_MIG_DATA_SIZE] = "mig_data_size",
	[EDU_MIG_PRECOPY_INFO] = "mig_precopy_info",
	[EDU_MIG_READ] = "mig_read",
	[EDU_MIG_WRITE] = "mig_write",
};

/* "CALL NTH ERRNO": the n-th next call of this kind fails. NTH 0 cancels it. */
static ssize_t fail_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	struct edu *edu = edu_of_device(dev);
	struct edu_fault fault;
	char name[32];
	int call;

	if (sscanf(buf, "%31s %u %d", name, &fault.nth, &fault.error) != 3)
		return -EINVAL;
	call = match_string(call_names, EDU_NUM_CALLS, name);
	if (call < 0 || fault.error < 1 || fault.error > MAX_ERRNO)
		return -EINVAL;
	spin_lock(&edu->fault_lock);
	edu->faults[call] = fault;
	spin_unlock(&edu->fault_lock);
	return count;
}
static DEVICE_ATTR_WO(fail);

/* Show a line "START-LAST" for each tracked range; empty if logging is off */
static ssize_t log_ranges_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct edu *edu = edu_of_device(dev);
	int length = 0;
	u32 i;

	edu_lock(edu);
	for (i = 0; i < edu->log.num_ranges; i++)
		length += sysfs_emit_at(buf, length, "%#llx-%#llx\n", edu->log.ranges[i].start,
					edu->log.ranges[i].last);
	edu_unlock(edu);
	return length;
}
static DEVICE_ATTR_RO(log_ranges);

/* The states that the last request reached, 4 bits each, the last one in the lowest bits */
static ssize_t mig_path_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%#llx\n", READ_ONCE(edu_of_device(dev)->path));
}
static DEVICE_ATTR_RO(mig_path);

/* Bytes of migration data read since the session began */
static ssize_t mig_sent_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(edu_of_device(dev)->sent));
}
static DEVICE_ATTR_RO(mig_sent);

static struct attribute *edu_attributes[] = {
	&limit_log_max_ranges.attr.attr,
	&limit_log_overflow.attr.attr,
	&limit_log_page_min.attr.attr,
	&limit_log_page_max.attr.attr,
	&limit_log_size_min.attr.attr,
	&limit_log_size_max.attr.attr,
	&limit_log_lose.attr.attr,
	&limit_dma_mask.attr.attr,
	&limit_sparse.attr.attr,
	&limit_bar64.attr.attr,
	&dev_attr_fail.attr,
	&dev_attr_log_ranges.attr,
	&dev_attr_mig_path.attr,
	&dev_attr_mig_sent.attr,
	NULL,
};

static const struct attribute_group edu_group = {
	.name = KBUILD_MODNAME,
	.attrs = edu_attributes,
};

const struct attribute_group *edu_groups[] = {
	&edu_group,
	NULL,
};
