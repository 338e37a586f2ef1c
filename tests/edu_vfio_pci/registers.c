// SPDX-License-Identifier: GPL-2.0-only
/*
 * The trapped page: what the user writes to the registers, and the driver's own accesses.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/pm_runtime.h>
#include <linux/uaccess.h>

#include "edu.h"

/*
 * Makes the registers accessible to the driver itself. The user may have memory decoding off, as
 * QEMU has when it loads a device's state.
 */
int edu_io_begin(struct edu *edu, u16 *command)
{
	struct pci_dev *pdev = edu->core.pdev;

	/* Before memory_lock: the core's resume callback takes it. */
	if (pm_runtime_resume_and_get(&pdev->dev))
		return -EIO;
	down_write(&edu->core.memory_lock);
	pci_read_config_word(pdev, PCI_COMMAND, command);
	if (!(*command & PCI_COMMAND_MEMORY))
		pci_write_config_word(pdev, PCI_COMMAND, *command | PCI_COMMAND_MEMORY);
	return 0;
}

void edu_io_end(struct edu *edu, u16 command)
{
	struct pci_dev *pdev = edu->core.pdev;

	if (!(command & PCI_COMMAND_MEMORY))
		pci_write_config_word(pdev, PCI_COMMAND, command);
	up_write(&edu->core.memory_lock);
	pm_runtime_put(&pdev->dev);
}

static int edu_read32(struct edu *edu, unsigned int at, u32 *value)
{
	u16 command;
	int ret = edu_io_begin(edu, &command);

	if (ret)
		return ret;
	*value = ioread32(edu->io + at);
	edu_io_end(edu, command);
	return 0;
}

/* Whether a transfer is under way. Without an answer it is, for all that is known. */
bool edu_is_moving(struct edu *edu)
{
	u32 command;

	return edu_read32(edu, EDU_DMA_COMMAND, &command) || command & EDU_DMA_START;
}

/* Takes up the transfer that an earlier user has left under way, for edu has no reset. */
int edu_find_transfer(struct edu *edu)
{
	u64 destination, count;
	u16 memory;
	u32 command;
	int ret = edu_io_begin(edu, &memory);

	if (ret)
		return ret;
	command = ioread32(edu->io + EDU_DMA_COMMAND);
	destination = readq(edu->io + EDU_DMA_DESTINATION);
	count = readq(edu->io + EDU_DMA_COUNT);
	edu_io_end(edu, memory);
	if (command & EDU_DMA_START && command & EDU_DMA_TO_MEMORY)
		edu_log_transfer(edu, destination, count);
	return 0;
}

/* Waits until the device neither moves nor computes anything, which takes it a tenth of a second */
int edu_wait_idle(struct edu *edu)
{
	u32 command, status;
	int tries, ret;

	for (tries = 0; tries < 100; tries++) {
		ret = edu_read32(edu, EDU_DMA_COMMAND, &command);
		if (!ret)
			ret = edu_read32(edu, EDU_STATUS, &status);
		if (ret)
			return ret;
		if (!(command & EDU_DMA_START) && !(status & EDU_STATUS_COMPUTING))
			return 0;
		msleep(20);
	}
	return -ETIMEDOUT;
}

static bool edu_may_run(struct edu *edu)
{
	return edu->state == VFIO_DEVICE_STATE_RUNNING || edu->state == VFIO_DEVICE_STATE_PRE_COPY;
}

/*
 * One register, with edu->lock held. What the engine does after a command is read back from it, for
 * during a transfer it ignores what is written to its registers.
 */
static int edu_write_register(struct edu *edu, unsigned int at, u64 value, unsigned int size)
{
	bool starts = at == EDU_DMA_COMMAND && value & EDU_DMA_START;
	struct pci_dev *pdev = edu->core.pdev;
	u64 destination = 0, count = 0;
	u32 transfer = 0;
	u16 command;
	int ret = 0;

	if ((starts || at == EDU_FACTORIAL) && !edu_may_run(edu))
		return -EBUSY;
	if (pm_runtime_resume_and_get(&pdev->dev))
		return -EIO;
	/* Either the transfer before this one has ended, or this command will be ignored. */
	if (starts)
		edu_log_settle(edu);
	down_read(&edu->core.memory_lock);
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (!(command & PCI_COMMAND_MEMORY)) {
		ret = -EIO; /* as the core has it */
	} else if (at == EDU_FACTORIAL) {
		/* While it computes, the device ignores the number: so it does not get it. */
		if (!(ioread32(edu->io + EDU_STATUS) & EDU_STATUS_COMPUTING)) {
			edu->factorial = value;
			iowrite32(value, edu->io + at);
		}
	} else if (size == sizeof(u64)) {
		writeq(value, edu->io + at);
	} else {
		iowrite32(value, edu->io + at);
	}
	if (!ret && starts) {
		transfer = ioread32(edu->io + EDU_DMA_COMMAND);
		destination = readq(edu->io + EDU_DMA_DESTINATION);
		count = readq(edu->io + EDU_DMA_COUNT);
	}
	up_read(&edu->core.memory_lock);
	pm_runtime_put(&pdev->dev);
	/* Not under memory_lock, for it allocates; the device needs a tenth of a second. */
	if (transfer & EDU_DMA_TO_MEMORY)
		edu_log_transfer(edu, destination, count);
	if (!ret)
		edu_migration_changed(edu);
	return ret;
}

/*
 * The user's write to the trapped page, with edu->lock held. A register takes 4 bytes, those of the
 * engine 8 too; a longer write is one of several registers, as the core has it.
 */
ssize_t edu_write_registers(struct edu *edu, const char __user *buf, size_t count, u64 at)
{
	unsigned int size = count == 8 && at >= EDU_DMA_SOURCE && !(at % 8) ? 8 : 4;
	size_t done;
	int ret = 0;

	count = min_t(size_t, count, EDU_TRAPPED - at);
	if (at % size || count % size)
		return -EINVAL;
	for (done = 0; done < count; done += size) {
		__le64 value = 0;

		if (copy_from_user(&value, buf + done, size))
			ret = -EFAULT;
		else
			ret = edu_write_register(edu, at + done, le64_to_cpu(value), size);
		if (ret)
			return ret;
	}
	return done;
}
