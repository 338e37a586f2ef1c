// SPDX-License-Identifier: GPL-2.0-only
/*
 * The register region: a table of registers, and the effects of reading and writing them.
 */
#include "mock.h"

#define PLAIN(name, member) \
	{ \
		.offset = MOCK_REG_##name, \
		.field = offsetof(struct mock_registers, member), \
		.size = sizeof_field(struct mock_registers, member), \
	}

/* Registers without side effects, and the members that hold their values */
static const struct {
	u32 offset;
	u32 field;
	u32 size;
} plain[] = {
	/* clang-format off */
	PLAIN(SCRATCH64, scratch64),
	PLAIN(SCRATCH32, scratch32),
	PLAIN(SCRATCH16, scratch16),
	PLAIN(SCRATCH8, scratch8),
	PLAIN(DMA_IOVA, dma_iova),
	PLAIN(DMA_LENGTH, dma_length),
	PLAIN(DMA_SOURCE, dma_source),
	PLAIN(DMA_MEMORY, dma_memory),
	PLAIN(DMA_PATTERN, dma_pattern),
	PLAIN(DMA_COUNT, dma_count),
	PLAIN(DMA_STRIDE, dma_stride),
	PLAIN(DMA_SEED, dma_seed),
	PLAIN(DMA_DELAY, dma_delay),
	PLAIN(DMA_IRQ, dma_irq),
	PLAIN(PIN_IOVA, pin_iova),
	PLAIN(PIN_COUNT, pin_count),
	/* clang-format on */
};

void mock_registers_reset(struct mock *mock)
{
	memset(&mock->registers, 0, sizeof(mock->registers));
	mock->registers.dma_stride = cpu_to_le64(SZ_4K);
	mock->registers.dma_irq = cpu_to_le32(MOCK_IRQ_NONE);
	mock->registers.irq_raise = cpu_to_le32(MOCK_IRQ_NONE);
}

static void *plain_field(struct mock *mock, u64 offset, unsigned int size)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(plain); i++)
		if (plain[i].offset == offset && plain[i].size == size)
			return (void *)&mock->registers + plain[i].field;
	return NULL;
}

/* Called with mock->lock held */
static int read32(struct mock *mock, u64 offset, u64 *value)
{
	struct mock_job *job = &mock->engine.job;
	struct mock_log *log = &mock->log;

	switch (offset) {
	case MOCK_REG_MAGIC:
		*value = MOCK_MAGIC;
		return 0;
	case MOCK_REG_VERSION:
		*value = MOCK_VERSION;
		return 0;
	case MOCK_REG_INDEX:
		*value = mock->number;
		return 0;
	case MOCK_REG_CAPS:
		*value = MOCK_CAP_LOG | MOCK_CAP_PIN |
			 (mock->vdev.mig_ops ? MOCK_CAP_MIGRATION : 0);
		return 0;
	case MOCK_REG_TRANSFER_MAX:
		*value = mock->transfer_max;
		return 0;
	case MOCK_REG_DMA_COMMAND:
		*value = job->command;
		return 0;
	case MOCK_REG_DMA_STATUS:
		*value = READ_ONCE(job->status);
		return 0;
	case MOCK_REG_DMA_ERRNO:
		*value = READ_ONCE(job->error);
		return 0;
	case MOCK_REG_IRQ_RAISE:
		*value = le32_to_cpu(mock->registers.irq_raise);
		return 0;
	case MOCK_REG_IRQ_LINE:
		*value = READ_ONCE(mock->irqs.asserted);
		return 0;
	case MOCK_REG_IRQ_MASKED:
		*value = READ_ONCE(mock->irqs.masked);
		return 0;
	case MOCK_REG_LOG_MAX_RANGES:
		*value = log->limits.max_ranges;
		return 0;
	case MOCK_REG_LOG_OVERFLOW:
		*value = log->limits.overflow;
		return 0;
	case MOCK_REG_LOG_SIZE_MIN:
		*value = log->limits.size_min;
		return 0;
	case MOCK_REG_LOG_SIZE_MAX:
		*value = log->limits.size_max;
		return 0;
	case MOCK_REG_LOG_ACTIVE:
		*value = log->active;
		return 0;
	case MOCK_REG_LOG_NUM_RANGES:
		*value = log->num_ranges;
		return 0;
	case MOCK_REG_LOG_RANGE:
		*value = log->selected;
		return 0;
	case MOCK_REG_MIG_STATE:
		*value = READ_ONCE(mock->migration.state);
		return 0;
	}
	return -EINVAL;
}

/* Called with mock->lock held */
static int read64(struct mock *mock, u64 offset, u64 *value)
{
	struct mock_job *job = &mock->engine.job;
	struct mock_log *log = &mock->log;

	switch (offset) {
	case MOCK_REG_DMA_STEPS:
		*value = READ_ONCE(job->steps);
		return 0;
	case MOCK_REG_DMA_BYTES:
		*value = READ_ONCE(job->bytes);
		return 0;
	case MOCK_REG_DMA_FAULT:
		*value = READ_ONCE(job->fault);
		return 0;
	case MOCK_REG_DMA_ROUNDS:
		*value = READ_ONCE(job->rounds);
		return 0;
	case MOCK_REG_LOG_PAGE_MIN:
		*value = log->limits.page_min;
		return 0;
	case MOCK_REG_LOG_PAGE_MAX:
		*value = log->limits.page_max;
		return 0;
	case MOCK_REG_LOG_PAGE_SIZE:
		*value = log->page_size;
		return 0;
	case MOCK_REG_LOG_RANGE_START:
		*value = log->selected < log->num_ranges ? log->ranges[log->selected].start : 0;
		return 0;
	case MOCK_REG_LOG_RANGE_LAST:
		*value = log->selected < log->num_ranges ? log->ranges[log->selected].last : 0;
		return 0;
	case MOCK_REG_LOG_DIRTY:
		*value = log->dirty;
		return 0;
	case MOCK_REG_BYTES_WRITTEN:
		*value = READ_ONCE(mock->bytes_written);
		return 0;
	case MOCK_REG_BYTES_READ:
		*value = READ_ONCE(mock->bytes_read);
		return 0;
	case MOCK_REG_PAGES_MARKED:
		*value = log->marked;
		return 0;
	case MOCK_REG_IRQS_SIGNALED:
		*value = READ_ONCE(mock->irqs.signaled);
		return 0;
	case MOCK_REG_UNMAPS:
		*value = READ_ONCE(mock->unmaps);
		return 0;
	case MOCK_REG_RESETS:
		*value = mock->resets;
		return 0;
	case MOCK_REG_PIN_PINNED:
		*value = READ_ONCE(mock->pins.count);
		return 0;
	case MOCK_REG_MIG_SENT:
		*value = READ_ONCE(mock->migration.sent);
		return 0;
	case MOCK_REG_MIG_RECEIVED:
		*value = READ_ONCE(mock->migration.received);
		return 0;
	case MOCK_REG_MIG_PATH:
		*value = READ_ONCE(mock->migration.path);
		return 0;
	}
	return -EINVAL;
}

int mock_register_read(struct mock *mock, u64 offset, unsigned int size, u64 *value)
{
	void *field;
	__le64 raw = 0;
	int ret = -EINVAL;

	if (offset >= MOCK_REG_FAULT && offset < MOCK_REG_FAULT + MOCK_NUM_FAULTS * MOCK_FAULT_SIZE)
		return size == 4 ? mock_fault_read(mock, offset - MOCK_REG_FAULT, value) : -EINVAL;

	mutex_lock(&mock->lock);
	mutex_lock(&mock->log.lock);
	field = plain_field(mock, offset, size);
	if (field) {
		memcpy(&raw, field, size);
		*value = le64_to_cpu(raw);
		ret = 0;
	} else if (size == 4) {
		ret = read32(mock, offset, value);
	} else if (size == 8) {
		ret = read64(mock, offset, value);
	}
	mutex_unlock(&mock->log.lock);
	mutex_unlock(&mock->lock);
	return ret;
}

/* Called with mock->lock held. Sets a limit of the log. A running log is not affected. */
static int write_limit(struct mock *mock, u64 offset, u64 value)
{
	struct mock_log *log = &mock->log;

	switch (offset) {
	case MOCK_REG_LOG_MAX_RANGES:
		if (!value)
			return -EINVAL;
		log->limits.max_ranges = value;
		return 0;
	case MOCK_REG_LOG_OVERFLOW:
		if (value > MOCK_LOG_REFUSE)
			return -EINVAL;
		log->limits.overflow = value;
		return 0;
	case MOCK_REG_LOG_PAGE_MIN:
		if (value < SZ_4K || !is_power_of_2(value))
			return -EINVAL;
		log->limits.page_min = value;
		return 0;
	case MOCK_REG_LOG_PAGE_MAX:
		if (value < SZ_4K || !is_power_of_2(value))
			return -EINVAL;
		log->limits.page_max = value;
		return 0;
	case MOCK_REG_LOG_SIZE_MIN:
		if (value > 64)
			return -EINVAL;
		log->limits.size_min = value;
		return 0;
	case MOCK_REG_LOG_SIZE_MAX:
		if (value > 64)
			return -EINVAL;
		log->limits.size_max = value;
		return 0;
	case MOCK_REG_LOG_RANGE:
		log->selected = value;
		return 0;
	}
	return -EINVAL;
}

static bool is_limit(u64 offset, unsigned int size)
{
	switch (offset) {
	case MOCK_REG_LOG_PAGE_MIN:
	case MOCK_REG_LOG_PAGE_MAX:
		return size == 8;
	case MOCK_REG_LOG_MAX_RANGES:
	case MOCK_REG_LOG_OVERFLOW:
	case MOCK_REG_LOG_SIZE_MIN:
	case MOCK_REG_LOG_SIZE_MAX:
	case MOCK_REG_LOG_RANGE:
		return size == 4;
	}
	return false;
}

int mock_register_write(struct mock *mock, u64 offset, unsigned int size, u64 value)
{
	__le64 raw = cpu_to_le64(value);
	void *field;
	int ret = 0;

	if (offset >= MOCK_REG_FAULT && offset < MOCK_REG_FAULT + MOCK_NUM_FAULTS * MOCK_FAULT_SIZE)
		return size == 4 ? mock_fault_write(mock, offset - MOCK_REG_FAULT, value) : -EINVAL;

	/* Registers with effects. Their functions take the locks that they need */
	if (size == 4) {
		switch (offset) {
		case MOCK_REG_DMA_COMMAND:
			if (value != MOCK_DMA_STOP)
				return mock_engine_start(mock, value);
			mock_engine_stop(mock);
			return 0;
		case MOCK_REG_IRQ_RAISE:
			mutex_lock(&mock->lock);
			mock->registers.irq_raise = cpu_to_le32(value);
			mutex_unlock(&mock->lock);
			return mock_irq_raise(mock, value);
		case MOCK_REG_PIN_COMMAND:
			return mock_pin_command(mock, value);
		case MOCK_REG_MIG_REINIT:
			return value == 1 ? mock_migration_reinit(mock) : -EINVAL;
		case MOCK_REG_IRQ_LINE:
			if (value & 1)
				mock_irq_deassert(mock);
			return 0;
		}
	}

	mutex_lock(&mock->lock);
	field = plain_field(mock, offset, size);
	if (field) {
		memcpy(field, &raw, size);
	} else if (offset == MOCK_REG_TRANSFER_MAX && size == 4) {
		WRITE_ONCE(mock->transfer_max, value);
	} else if (is_limit(offset, size)) {
		mutex_lock(&mock->log.lock);
		ret = write_limit(mock, offset, value);
		mutex_unlock(&mock->log.lock);
	} else {
		ret = -EINVAL;
	}
	mutex_unlock(&mock->lock);
	return ret;
}
