// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration: the states, and the stream of records with memory, registers and the engine's job.
 *
 * A stream is: HEADER, PAGEs (a later one of the same page wins), REGISTERS, END. Each record has a
 * checksum, and END the number of records, so that cut, changed and foreign streams are refused.
 * Numbers are in the host's byte order.
 */
#include <linux/anon_inodes.h>
#include <linux/bitmap.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/moduleparam.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mock.h"

#define RECORD_MAGIC 0x6b636f6d6f696676ULL /* "vfiomock" */
#define STREAM_VERSION 1
#define STREAM_PAGE 4096U

static unsigned int migration = COMPAT_MIGRATION_FLAGS;
module_param(migration, uint, 0444);
MODULE_PARM_DESC(migration, "VFIO_MIGRATION_* flags, with STOP_COPY, or 0 (all the kernel knows)");

enum record_type {
	RECORD_HEADER = 1,
	RECORD_PAGE,
	RECORD_REGISTERS,
	RECORD_END
};

struct record {
	u64 magic;
	u32 type;
	u32 length; /* of the payload that follows */
	u64 number; /* PAGE: the page's number, END: the number of records before it */
	u64 check;
};

struct header_payload {
	u64 version;
	u64 sizes[3]; /* of the memory regions */
};

struct registers_payload {
	struct mock_registers registers;
	struct mock_job job;
	u64 asserted;
};

enum stage {
	STAGE_PRE_COPY,
	STAGE_STOP_COPY,
	STAGE_RESUMING
};

enum tail {
	TAIL_REGISTERS,
	TAIL_END,
	TAIL_DONE
};

/*
 * The file behind a data descriptor. It may outlive the session (it is disabled then), and even
 * the device.
 */
struct mock_migration_file {
	struct kref kref;
	struct mutex lock; /* all that follows */
	struct mock *mock; /* may be gone when disabled is set */
	bool disabled;
	enum stage stage;
	u8 *buffer; /* one record: being read out, or being filled */
	size_t filled;
	size_t taken;
	u64 records;
	/* saving */
	bool headed;
	enum tail tail;
	bool reinit;
	unsigned long *initial; /* pages of the first pass that are still to be sent */
	/* resuming */
	int error;
	bool ended;
	struct registers_payload *registers;
};

/* For poll: one queue for all devices, because a descriptor may outlive its device */
static DECLARE_WAIT_QUEUE_HEAD(migration_wait);

static struct mock_memory *memory_of(struct mock *mock, unsigned int i)
{
	struct mock_memory *memories[] = { &mock->memory, &mock->sparse, &mock->typed };

	return i < ARRAY_SIZE(memories) ? memories[i] : NULL;
}

static u64 num_pages(struct mock *mock)
{
	return (mock->memory.size + mock->sparse.size + mock->typed.size) / STREAM_PAGE;
}

/* Page numbers continue from one memory region to the next */
static void *page_of(struct mock *mock, u64 number)
{
	struct mock_memory *memory;
	unsigned int i;

	for (i = 0; (memory = memory_of(mock, i)); i++) {
		if (number < memory->size / STREAM_PAGE)
			return memory->base + number * STREAM_PAGE;
		number -= memory->size / STREAM_PAGE;
	}
	return NULL;
}

static u64 first_page(struct mock *mock, const struct mock_memory *memory)
{
	if (memory == &mock->memory)
		return 0;
	return (mock->memory.size + (memory == &mock->typed ? mock->sparse.size : 0)) / STREAM_PAGE;
}

/* After the device's memory was written */
void mock_migration_touch(struct mock *mock, const struct mock_memory *memory, u64 offset, u64 size)
{
	u64 number = first_page(mock, memory) + offset / STREAM_PAGE;
	u64 last = first_page(mock, memory) + (offset + size - 1) / STREAM_PAGE;

	for (; number <= last; number++)
		set_bit(number, mock->migration.dirty);
	/* wq_has_sleeper() has the barrier: a sleeper queues first, and then looks for dirty pages */
	if (READ_ONCE(mock->migration.file) && wq_has_sleeper(&migration_wait))
		wake_up_interruptible(&migration_wait);
}

/* --- records --- */

/* Over 64-bit words: a page takes 512 steps instead of 4096 */
static u64 checksum(const struct record *record, const void *payload)
{
	u64 check = 0xcbf29ce484222325ULL ^ record->type ^ ((u64)record->length << 32);
	const u64 *words = payload;
	u32 i;

	check = (check ^ record->number) * 0x100000001b3ULL;
	for (i = 0; i < record->length / sizeof(u64); i++)
		check = (rol64(check, 23) ^ words[i]) * 0x9e3779b97f4a7c15ULL;
	return check ^ (check >> 32);
}

/* Return the payload length of a record type, or 0 if the type does not exist */
static u32 payload_length(u32 type)
{
	BUILD_BUG_ON(sizeof(struct header_payload) % 8 || sizeof(struct registers_payload) % 8);
	switch (type) {
	case RECORD_HEADER:
		return sizeof(struct header_payload);
	case RECORD_PAGE:
		return STREAM_PAGE;
	case RECORD_REGISTERS:
		return sizeof(struct registers_payload);
	case RECORD_END:
		return sizeof(u64);
	}
	return 0;
}

static u64 record_length(u32 type)
{
	return sizeof(struct record) + payload_length(type);
}

static void *payload(struct mock_migration_file *migf)
{
	return migf->buffer + sizeof(struct record);
}

/* The payload is in the buffer already */
static void finish_record(struct mock_migration_file *migf, u32 type, u64 number)
{
	struct record *record = (struct record *)migf->buffer;

	*record = (struct record){ .magic = RECORD_MAGIC,
				   .type = type,
				   .length = payload_length(type),
				   .number = number };
	record->check = checksum(record, payload(migf));
	migf->filled = record_length(type);
	migf->taken = 0;
	migf->records++;
}

static void fill_header(struct mock *mock, struct header_payload *header)
{
	unsigned int i;

	header->version = STREAM_VERSION;
	for (i = 0; i < ARRAY_SIZE(header->sizes); i++)
		header->sizes[i] = memory_of(mock, i)->size;
}

/* Put the next page into the buffer: pages of the first pass, then dirty pages */
static bool fill_page(struct mock_migration_file *migf)
{
	struct mock *mock = migf->mock;
	unsigned long *dirty = mock->migration.dirty;
	u64 end = num_pages(mock), number = find_first_bit(migf->initial, end);

	if (number >= end)
		number = find_first_bit(dirty, end);
	if (number >= end)
		return false;
	clear_bit(number, migf->initial);
	clear_bit(number, dirty);
	/* The page is marked clean before it is copied: later writes make it dirty again */
	smp_mb__after_atomic();
	memcpy(payload(migf), page_of(mock, number), STREAM_PAGE);
	finish_record(migf, RECORD_PAGE, number);
	return true;
}

static void fill_registers(struct mock_migration_file *migf)
{
	struct registers_payload *registers = payload(migf);
	struct mock *mock = migf->mock;

	mutex_lock(&mock->lock);
	registers->registers = mock->registers;
	registers->job = mock->engine.job;
	registers->asserted = READ_ONCE(mock->irqs.asserted);
	mutex_unlock(&mock->lock);
	finish_record(migf, RECORD_REGISTERS, 0);
}

/* Return 1 if the buffer holds another record, 0 at the end of the stream, -ENOMSG if none for now */
static int next_record(struct mock_migration_file *migf)
{
	if (!migf->headed) {
		fill_header(migf->mock, payload(migf));
		finish_record(migf, RECORD_HEADER, 0);
		migf->headed = true;
		return 1;
	}
	if (migf->tail == TAIL_REGISTERS && fill_page(migf))
		return 1;
	if (migf->stage == STAGE_PRE_COPY)
		return -ENOMSG;
	switch (migf->tail) {
	case TAIL_REGISTERS:
		fill_registers(migf);
		migf->tail = TAIL_END;
		return 1;
	case TAIL_END:
		*(u64 *)payload(migf) = 0;
		finish_record(migf, RECORD_END, migf->records);
		migf->tail = TAIL_DONE;
		return 1;
	case TAIL_DONE:
		break;
	}
	return 0;
}

static bool header_fits(struct mock *mock, const struct header_payload *header)
{
	struct header_payload own;

	fill_header(mock, &own);
	return !memcmp(header, &own, sizeof(own));
}

/* Handle a complete record that was received */
static int apply_record(struct mock_migration_file *migf)
{
	const struct record *record = (struct record *)migf->buffer;
	struct mock *mock = migf->mock;
	void *page;

	if (record->check != checksum(record, payload(migf)) || migf->ended)
		return -EINVAL;
	/* The first record must be the header, and no other may be one */
	if (migf->records ? record->type == RECORD_HEADER : record->type != RECORD_HEADER)
		return -EINVAL;
	switch (record->type) {
	case RECORD_HEADER:
		if (!header_fits(mock, payload(migf)))
			return -EINVAL;
		break;
	case RECORD_PAGE:
		page = page_of(mock, record->number);
		if (!page)
			return -EINVAL;
		memcpy(page, payload(migf), STREAM_PAGE);
		break;
	case RECORD_REGISTERS:
		if (migf->registers)
			return -EINVAL;
		migf->registers = kmemdup(payload(migf), sizeof(*migf->registers),
					  GFP_KERNEL_ACCOUNT);
		if (!migf->registers)
			return -ENOMEM;
		break;
	case RECORD_END:
		if (!migf->registers || record->number != migf->records)
			return -EINVAL;
		migf->ended = true;
		break;
	}
	migf->records++;
	return 0;
}

/* --- the data descriptor --- */

static void file_free(struct kref *kref)
{
	struct mock_migration_file *migf = container_of(kref, struct mock_migration_file, kref);

	bitmap_free(migf->initial);
	kfree(migf->registers);
	kfree(migf->buffer);
	kfree(migf);
}

static int file_release(struct inode *inode, struct file *file)
{
	struct mock_migration_file *migf = file->private_data;

	kref_put(&migf->kref, file_free);
	return 0;
}

static ssize_t file_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct mock_migration_file *migf = file->private_data;
	ssize_t done = 0;
	int ret;

	if (pos)
		return -ESPIPE;
	mutex_lock(&migf->lock);
	if (migf->disabled) {
		done = -ENODEV;
		goto out;
	}
	done = mock_fault(migf->mock, MOCK_FAULT_MIG_READ);
	while (done >= 0 && done < count) {
		size_t piece;

		if (migf->taken == migf->filled) {
			ret = next_record(migf);
			if (ret <= 0) {
				done = done ? done : ret;
				break;
			}
		}
		piece = min_t(size_t, count - done, migf->filled - migf->taken);
		if (copy_to_user(buf + done, migf->buffer + migf->taken, piece)) {
			done = done ? done : -EFAULT;
			break;
		}
		migf->taken += piece;
		done += piece;
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	if (done > 0)
		migf->mock->migration.sent += done;
out:
	mutex_unlock(&migf->lock);
	return done;
}

static __poll_t file_poll(struct file *file, struct poll_table_struct *table)
{
	struct mock_migration_file *migf = file->private_data;
	__poll_t events = 0;
	u64 end;

	poll_wait(file, &migration_wait, table);
	mutex_lock(&migf->lock);
	if (migf->disabled) {
		events = EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	} else if (migf->stage == STAGE_RESUMING) {
		events = EPOLLOUT | EPOLLWRNORM;
	} else {
		end = num_pages(migf->mock);
		if (migf->stage == STAGE_STOP_COPY || !migf->headed ||
		    migf->taken != migf->filled || find_first_bit(migf->initial, end) < end ||
		    find_first_bit(migf->mock->migration.dirty, end) < end)
			events = EPOLLIN | EPOLLRDNORM;
	}
	mutex_unlock(&migf->lock);
	return events;
}

#if HAVE_PRE_COPY
/*
 * Called with migf->lock held. Returns the remaining bytes of the first pass, and those of pages
 * that became dirty after they were sent.
 */
static void remaining(struct mock_migration_file *migf, u64 *initial, u64 *dirty)
{
	struct mock *mock = migf->mock;
	u64 end = num_pages(mock), number;

	*initial = migf->filled - migf->taken;
	if (!migf->headed)
		*initial += record_length(RECORD_HEADER);
	*initial += bitmap_weight(migf->initial, end) * record_length(RECORD_PAGE);
	*dirty = 0;
	for_each_set_bit(number, mock->migration.dirty, end)
		if (!test_bit(number, migf->initial))
			*dirty += record_length(RECORD_PAGE);
}

static long file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	const size_t minsz = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct mock_migration_file *migf = file->private_data;
	struct vfio_precopy_info info;
	int ret;

	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	mutex_lock(&migf->lock);
	if (migf->disabled)
		ret = -ENODEV;
	else if (migf->stage != STAGE_PRE_COPY)
		ret = -EINVAL;
	else
		ret = mock_fault(migf->mock, MOCK_FAULT_MIG_PRECOPY_INFO);
	if (!ret) {
		remaining(migf, &info.initial_bytes, &info.dirty_bytes);
#ifdef VFIO_PRECOPY_INFO_REINIT
		/* Without the opt-in, flags keeps the value of the program */
		if (migf->mock->vdev.precopy_info_v2) {
			info.flags = migf->reinit ? VFIO_PRECOPY_INFO_REINIT : 0;
			migf->reinit = false;
		}
#endif
	}
	mutex_unlock(&migf->lock);
	if (ret)
		return ret;
	return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
}
#endif

static const struct file_operations saving_fops = {
	.owner = THIS_MODULE,
	.read = file_read,
	.poll = file_poll,
#if HAVE_PRE_COPY
	.unlocked_ioctl = file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
#endif
	.release = file_release,
};

static ssize_t file_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct mock_migration_file *migf = file->private_data;
	struct record *record = (struct record *)migf->buffer;
	ssize_t done = 0;

	if (pos)
		return -ESPIPE;
	mutex_lock(&migf->lock);
	if (migf->disabled) {
		done = -ENODEV;
		goto out;
	}
	done = mock_fault(migf->mock, MOCK_FAULT_MIG_WRITE);
	if (!done && migf->error)
		done = migf->error;
	while (done >= 0 && done < count) {
		size_t want = migf->filled < sizeof(*record) ? sizeof(*record)
							     : record_length(record->type);
		size_t piece = min_t(size_t, count - done, want - migf->filled);

		if (copy_from_user(migf->buffer + migf->filled, buf + done, piece)) {
			done = done ? done : -EFAULT;
			break;
		}
		migf->filled += piece;
		done += piece;
		if (migf->filled == sizeof(*record) &&
		    (record->magic != RECORD_MAGIC || !payload_length(record->type) ||
		     record->length != payload_length(record->type)))
			migf->error = -EINVAL;
		if (migf->filled > sizeof(*record) && migf->filled == record_length(record->type)) {
			migf->error = apply_record(migf);
			migf->filled = 0;
		}
		if (migf->error)
			done = migf->error;
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	if (done > 0)
		migf->mock->migration.received += done;
out:
	mutex_unlock(&migf->lock);
	return done;
}

static const struct file_operations resuming_fops = {
	.owner = THIS_MODULE,
	.write = file_write,
	.poll = file_poll,
	.release = file_release,
};

/* --- the states --- */

static bool is_saving(u32 state)
{
	return state == VFIO_DEVICE_STATE_PRE_COPY || state == VFIO_DEVICE_STATE_PRE_COPY_P2P ||
	       state == VFIO_DEVICE_STATE_STOP_COPY;
}

/* The engine cannot distinguish peer memory from other memory, so it pauses in the P2P states too */
static bool is_running(u32 state)
{
	return state == VFIO_DEVICE_STATE_RUNNING || state == VFIO_DEVICE_STATE_PRE_COPY;
}

/* Called with migration->lock held. Ends the session: reads and writes are ENODEV from here on. */
static void end_session(struct mock *mock)
{
	struct mock_migration_file *migf = mock->migration.file;

	if (!migf)
		return;
	WRITE_ONCE(mock->migration.file, NULL);
	mutex_lock(&migf->lock);
	migf->disabled = true;
	mutex_unlock(&migf->lock);
	kref_put(&migf->kref, file_free);
	wake_up_interruptible_all(&migration_wait);
}

/* Called with migration->lock held */
static struct file *begin_session(struct mock *mock, enum stage stage)
{
	struct mock_migration *mig = &mock->migration;
	bool saving = stage != STAGE_RESUMING;
	struct mock_migration_file *migf;
	struct file *file;
	unsigned int i;

	migf = kzalloc(sizeof(*migf), GFP_KERNEL_ACCOUNT);
	if (!migf)
		return ERR_PTR(-ENOMEM);
	kref_init(&migf->kref);
	mutex_init(&migf->lock);
	migf->mock = mock;
	migf->stage = stage;
	migf->buffer = kzalloc(record_length(RECORD_PAGE), GFP_KERNEL_ACCOUNT);
	migf->initial = bitmap_zalloc(num_pages(mock), GFP_KERNEL_ACCOUNT);
	if (!migf->buffer || !migf->initial) {
		file = ERR_PTR(-ENOMEM);
		goto err;
	}
	file = anon_inode_getfile("[vfio-mock-migration]", saving ? &saving_fops : &resuming_fops,
				  migf, saving ? O_RDONLY : O_WRONLY);
	if (IS_ERR(file))
		goto err;
	stream_open(file->f_inode, file);
	if (saving) {
		bitmap_fill(migf->initial, num_pages(mock));
		bitmap_zero(mig->dirty, num_pages(mock));
		for (i = 0; i < 3; i++)
			WRITE_ONCE(memory_of(mock, i)->mapped,
				   atomic_read(&memory_of(mock, i)->mappings));
		mig->sent = 0;
	} else {
		mig->received = 0;
	}
	/* One reference belongs to the file, one to the device */
	kref_get(&migf->kref);
	WRITE_ONCE(mig->file, migf);
	return file;
err:
	kref_put(&migf->kref, file_free);
	return file;
}

/* Called with migration->lock held. Switches between pre-copy and stop-copy in the same session. */
static void change_stage(struct mock *mock, enum stage stage)
{
	struct mock_migration_file *migf = mock->migration.file;
	unsigned int i;

	mutex_lock(&migf->lock);
	/*
	 * Stores through a mapping are not detected. So a region that is or was mapped during the
	 * session counts as changed
	 */
	for (i = 0; stage == STAGE_STOP_COPY && i < 3; i++) {
		struct mock_memory *memory = memory_of(mock, i);

		if (READ_ONCE(memory->mapped))
			bitmap_set(mock->migration.dirty, first_page(mock, memory),
				   memory->size / STREAM_PAGE);
	}
	migf->stage = stage;
	mutex_unlock(&migf->lock);
	wake_up_interruptible_all(&migration_wait);
}

/* Called with migration->lock held. Memory is loaded already. The stream must be complete. */
static int load(struct mock *mock)
{
	struct mock_migration_file *migf = mock->migration.file;
	int ret;

	mutex_lock(&migf->lock);
	ret = migf->error;
	if (!ret && (!migf->ended || migf->filled))
		ret = -EINVAL;
	if (!ret)
		ret = mock_engine_restore(mock, &migf->registers->job, &migf->registers->registers);
	if (!ret && migf->registers->asserted)
		mock_irq_raise(mock, MOCK_IRQ_INTX << 16);
	mutex_unlock(&migf->lock);
	return ret;
}

/* Called with migration->lock held. One arc of the kernel's state machine. */
static struct file *step(struct mock *mock, u32 new)
{
	struct mock_migration *mig = &mock->migration;
	struct file *file = NULL;
	u32 old = mig->state;
	int ret = mock_fault(mock, MOCK_FAULT_MIG_SET_STATE);

	if (ret == -ENOTRECOVERABLE)
		goto lost;
	if (ret)
		return ERR_PTR(ret);

	/* Open the session first: if that fails, nothing has to be undone */
	if (is_saving(new) && !is_saving(old)) {
		file = begin_session(mock, new == VFIO_DEVICE_STATE_STOP_COPY ? STAGE_STOP_COPY
									      : STAGE_PRE_COPY);
	} else if (new == VFIO_DEVICE_STATE_RESUMING) {
		file = begin_session(mock, STAGE_RESUMING);
		if (!IS_ERR(file)) {
			mock_engine_stop_and_lock(mock);
			mock_engine_reset(mock);
			mutex_unlock(&mock->lock);
		}
	}
	if (IS_ERR(file))
		return file;

	if (!is_running(new))
		mock_engine_pause(mock);
	if (old == VFIO_DEVICE_STATE_RESUMING) {
		ret = load(mock);
		if (ret)
			goto lost;
	}
	if (is_saving(old) && is_saving(new))
		change_stage(mock,
			     new == VFIO_DEVICE_STATE_STOP_COPY ? STAGE_STOP_COPY : STAGE_PRE_COPY);
	else if (!file)
		end_session(mock);
	if (is_running(new))
		mock_engine_unpause(mock);
	WRITE_ONCE(mig->state, new);
	WRITE_ONCE(mig->path, mig->path << 4 | new);
	return file;

lost:
	mock_engine_pause(mock);
	end_session(mock);
	WRITE_ONCE(mig->state, VFIO_DEVICE_STATE_ERROR);
	return ERR_PTR(ret);
}

/*
 * vfio_mig_get_next_state() must not be called for these transitions: it warns (out of ERROR, which
 * only a reset does), or loops for ever (to ERROR, or from STOP_COPY back to PRE_COPY) in releases
 * without a fix, such as 6.12.95 and 6.1.192.
 */
static bool no_way(u32 old, u32 new)
{
	return old == VFIO_DEVICE_STATE_ERROR || new == VFIO_DEVICE_STATE_ERROR ||
	       (old == VFIO_DEVICE_STATE_STOP_COPY && is_saving(new) && new != old);
}

static struct file *mock_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new)
{
	struct mock *mock = to_mock(vdev);
	struct mock_migration *mig = &mock->migration;
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int ret;

	mutex_lock(&mig->lock);
	WRITE_ONCE(mig->path, 0);
	if (no_way(mig->state, new))
		file = ERR_PTR(-EINVAL);
	while (!file && mig->state != new) {
		ret = vfio_mig_get_next_state(vdev, mig->state, new, &next);
		file = ret ? ERR_PTR(ret) : step(mock, next);
	}
	mutex_unlock(&mig->lock);
	return file;
}

static int mock_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct mock *mock = to_mock(vdev);
	int ret = mock_fault(mock, MOCK_FAULT_MIG_GET_STATE);

	if (ret)
		return ret;
	mutex_lock(&mock->migration.lock);
	*state = mock->migration.state;
	mutex_unlock(&mock->migration.lock);
	return 0;
}

#if HAVE_PRE_COPY
/* The number of bytes that STOP_COPY would send: the rest in a session, otherwise everything */
static int mock_get_data_size(struct vfio_device *vdev, unsigned long *size)
{
	struct mock *mock = to_mock(vdev);
	struct mock_migration *mig = &mock->migration;
	u64 initial, dirty;
	int ret = mock_fault(mock, MOCK_FAULT_MIG_DATA_SIZE);

	if (ret)
		return ret;
	mutex_lock(&mig->lock);
	if (is_saving(mig->state)) {
		mutex_lock(&mig->file->lock);
		remaining(mig->file, &initial, &dirty);
		if (mig->file->tail == TAIL_REGISTERS)
			initial += record_length(RECORD_REGISTERS);
		if (mig->file->tail != TAIL_DONE)
			initial += record_length(RECORD_END);
		mutex_unlock(&mig->file->lock);
		*size = initial + dirty;
	} else {
		*size = record_length(RECORD_HEADER) +
			num_pages(mock) * record_length(RECORD_PAGE) +
			record_length(RECORD_REGISTERS) + record_length(RECORD_END);
	}
	mutex_unlock(&mig->lock);
	return 0;
}
#endif

static const struct vfio_migration_ops mock_migration_ops = {
	.migration_set_state = mock_set_state,
	.migration_get_state = mock_get_state,
#if HAVE_PRE_COPY
	.migration_get_data_size = mock_get_data_size,
#endif
};

/*
 * Simulate new initial data: with the opt-in to the second precopy info, start a new first pass;
 * without it, all pages become dirty
 */
int mock_migration_reinit(struct mock *mock)
{
	struct mock_migration *mig = &mock->migration;
	int ret = -EINVAL;

	mutex_lock(&mig->lock);
	if (mig->file && is_saving(mig->state) && mig->state != VFIO_DEVICE_STATE_STOP_COPY) {
		mutex_lock(&mig->file->lock);
#ifdef VFIO_PRECOPY_INFO_REINIT
		mig->file->reinit = mock->vdev.precopy_info_v2;
#endif
		if (mig->file->reinit) {
			bitmap_fill(mig->file->initial, num_pages(mock));
			bitmap_zero(mig->dirty, num_pages(mock));
		} else {
			bitmap_fill(mig->dirty, num_pages(mock));
		}
		mutex_unlock(&mig->file->lock);
		wake_up_interruptible_all(&migration_wait);
		ret = 0;
	}
	mutex_unlock(&mig->lock);
	return ret;
}

/* At reset, open and close, called with migration->lock held */
void mock_migration_restart(struct mock *mock)
{
	end_session(mock);
	WRITE_ONCE(mock->migration.state, VFIO_DEVICE_STATE_RUNNING);
	mock_engine_unpause(mock);
}

int mock_migration_init(struct mock *mock)
{
	struct mock_migration *mig = &mock->migration;

	mutex_init(&mig->lock);
	mig->state = VFIO_DEVICE_STATE_RUNNING;
	mig->dirty = bitmap_zalloc(num_pages(mock), GFP_KERNEL);
	if (!mig->dirty)
		return -ENOMEM;
	if (migration & VFIO_MIGRATION_STOP_COPY) {
		mock->vdev.migration_flags = migration & COMPAT_MIGRATION_FLAGS;
		mock->vdev.mig_ops = &mock_migration_ops;
	}
	return 0;
}

void mock_migration_free(struct mock *mock)
{
	bitmap_free(mock->migration.dirty);
}
