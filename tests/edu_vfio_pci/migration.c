// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration: the states, and the stream of records that carries the registers.
 *
 * A stream is any number of SNAPSHOTs, taken while the device runs, and one FINAL. Each record
 * has its number and a checksum, so that cut, changed and foreign streams are refused. State that
 * the driver cannot access is not migrated: the 4 KiB buffer, which only DMA reaches, and the
 * direction of the last transfer.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/moduleparam.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "edu.h"

#define RECORD_MAGIC 0x6370696676756465ULL /* "eduvfipc" */

static unsigned int migration = COMPAT_MIGRATION_FLAGS;
module_param(migration, uint, 0444);
MODULE_PARM_DESC(migration, "VFIO_MIGRATION_* flags, with STOP_COPY, or 0 (all the kernel knows)");

enum record_type {
	RECORD_SNAPSHOT = 1,
	RECORD_FINAL
};

struct registers {
	__le32 identification;
	__le32 liveness;
	__le32 factorial; /* the number whose factorial the register shows */
	__le32 status;
	__le32 irq_status;
	__le32 reserved;
	__le64 source;
	__le64 destination;
	__le64 count;
};

struct record {
	__le64 magic;
	__le32 type;
	__le32 number; /* of records before it */
	struct registers registers;
	__le64 check;
};

enum stage {
	STAGE_PRE_COPY,
	STAGE_STOP_COPY,
	STAGE_RESUMING
};

/*
 * The file behind a data descriptor. It may outlive the session (it is disabled then), and even
 * the device.
 */
struct edu_stream {
	struct kref kref;
	struct mutex lock; /* all that follows */
	struct edu *edu;   /* may be gone when disabled is set */
	bool disabled;
	enum stage stage;
	struct record record; /* being read out, or being filled */
	size_t filled;
	size_t taken;
	u32 records; /* so far */
	bool ended;  /* the FINAL is in */
	int error;   /* of a stream that is refused */
};

/* For poll: one queue for all devices, because a descriptor may outlive its device */
static DECLARE_WAIT_QUEUE_HEAD(stream_wait);

u64 edu_migration_flags(void)
{
	return migration & VFIO_MIGRATION_STOP_COPY ? migration & COMPAT_MIGRATION_FLAGS : 0;
}

/* Called with edu->lock held, after a register was written */
void edu_migration_changed(struct edu *edu)
{
	WRITE_ONCE(edu->changed, true);
	if (edu->stream)
		wake_up_interruptible(&stream_wait);
}

/* --- records --- */

/* FNV-1a */
static __le64 checksum(const struct record *record)
{
	const u8 *bytes = (const u8 *)record;
	u64 check = 0xcbf29ce484222325ULL;
	size_t i;

	for (i = 0; i < offsetof(struct record, check); i++)
		check = (check ^ bytes[i]) * 0x100000001b3ULL;
	return cpu_to_le64(check);
}

static int read_registers(struct edu *edu, struct registers *registers)
{
	void __iomem *io = edu->io;
	u16 command;
	int ret = edu_io_begin(edu, &command);

	if (ret)
		return ret;
	*registers = (struct registers){
		.identification = cpu_to_le32(ioread32(io + EDU_IDENTIFICATION)),
		.liveness = cpu_to_le32(ioread32(io + EDU_LIVENESS)),
		.factorial = cpu_to_le32(READ_ONCE(edu->factorial)),
		.status = cpu_to_le32(ioread32(io + EDU_STATUS)),
		.irq_status = cpu_to_le32(ioread32(io + EDU_IRQ_STATUS)),
		.source = cpu_to_le64(readq(io + EDU_DMA_SOURCE)),
		.destination = cpu_to_le64(readq(io + EDU_DMA_DESTINATION)),
		.count = cpu_to_le64(readq(io + EDU_DMA_COUNT)),
	};
	edu_io_end(edu, command);
	return 0;
}

/* The device is stopped, so nothing else writes to it, and no transfer is in progress. */
static int write_registers(struct edu *edu, const struct registers *registers)
{
	void __iomem *io = edu->io;
	u16 command;
	int ret = edu_wait_idle(edu);

	if (!ret)
		ret = edu_io_begin(edu, &command);
	if (ret)
		return ret;
	/* Disable the interrupt at the end of the computation */
	iowrite32(0, io + EDU_STATUS);
	WRITE_ONCE(edu->factorial, le32_to_cpu(registers->factorial));
	iowrite32(edu->factorial, io + EDU_FACTORIAL);
	/* The register reads as the inverse of the written value */
	iowrite32(~le32_to_cpu(registers->liveness), io + EDU_LIVENESS);
	writeq(le64_to_cpu(registers->source), io + EDU_DMA_SOURCE);
	writeq(le64_to_cpu(registers->destination), io + EDU_DMA_DESTINATION);
	writeq(le64_to_cpu(registers->count), io + EDU_DMA_COUNT);
	iowrite32(~0U, io + EDU_IRQ_ACKNOWLEDGE);
	edu_io_end(edu, command);
	ret = edu_wait_idle(edu);
	if (!ret)
		ret = edu_io_begin(edu, &command);
	if (ret)
		return ret;
	iowrite32(le32_to_cpu(registers->status), io + EDU_STATUS);
	if (registers->irq_status)
		iowrite32(le32_to_cpu(registers->irq_status), io + EDU_IRQ_RAISE);
	edu_io_end(edu, command);
	return 0;
}

/* Return 1 if there is another record, 0 at the end of the stream, -ENOMSG if none for now */
static int next_record(struct edu_stream *stream)
{
	struct edu *edu = stream->edu;
	bool final = stream->stage == STAGE_STOP_COPY;
	int ret;

	if (stream->ended)
		return 0;
	if (!final && stream->records && !READ_ONCE(edu->changed))
		return -ENOMSG;
	/* Clear the flag before reading the registers: later writes set it again. */
	WRITE_ONCE(edu->changed, false);
	stream->record = (struct record){
		.magic = cpu_to_le64(RECORD_MAGIC),
		.type = cpu_to_le32(final ? RECORD_FINAL : RECORD_SNAPSHOT),
		.number = cpu_to_le32(stream->records),
	};
	ret = read_registers(edu, &stream->record.registers);
	if (ret)
		return ret;
	stream->record.check = checksum(&stream->record);
	stream->filled = sizeof(stream->record);
	stream->taken = 0;
	stream->records++;
	stream->ended = final;
	return 1;
}

/* Handle a complete record that was received */
static int accept_record(struct edu_stream *stream)
{
	const struct record *record = &stream->record;
	u32 type = le32_to_cpu(record->type);
	struct registers own;
	int ret;

	if (le64_to_cpu(record->magic) != RECORD_MAGIC || record->check != checksum(record) ||
	    (type != RECORD_SNAPSHOT && type != RECORD_FINAL) ||
	    le32_to_cpu(record->number) != stream->records || stream->ended)
		return -EINVAL;
	/* Refuse the state of another revision of the device */
	ret = read_registers(stream->edu, &own);
	if (!ret && record->registers.identification != own.identification)
		ret = -EINVAL;
	if (ret)
		return ret;
	stream->records++;
	stream->ended = type == RECORD_FINAL;
	return 0;
}

/* --- the data descriptor --- */

/* Called with stream->lock held. Whether the session has ended, or a reset is about to end it. */
static bool has_ended(struct edu_stream *stream)
{
	return stream->disabled || READ_ONCE(stream->edu->deferred_reset);
}

static void stream_free(struct kref *kref)
{
	kfree(container_of(kref, struct edu_stream, kref));
}

static int stream_release(struct inode *inode, struct file *file)
{
	struct edu_stream *stream = file->private_data;

	kref_put(&stream->kref, stream_free);
	return 0;
}

static ssize_t stream_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct edu_stream *stream = file->private_data;
	ssize_t done = 0;

	if (pos)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	if (has_ended(stream)) {
		done = -ENODEV;
		goto out;
	}
	done = edu_fault(stream->edu, EDU_MIG_READ);
	while (done >= 0 && done < count) {
		size_t piece;

		if (stream->taken == stream->filled) {
			int ret = next_record(stream);

			if (ret <= 0) {
				done = done ? done : ret;
				break;
			}
		}
		piece = min_t(size_t, count - done, stream->filled - stream->taken);
		if (copy_to_user(buf + done, (u8 *)&stream->record + stream->taken, piece)) {
			done = done ? done : -EFAULT;
			break;
		}
		stream->taken += piece;
		done += piece;
	}
	if (done > 0)
		WRITE_ONCE(stream->edu->sent, stream->edu->sent + done);
out:
	mutex_unlock(&stream->lock);
	return done;
}

static ssize_t stream_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct edu_stream *stream = file->private_data;
	ssize_t done = 0;

	if (pos)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	if (has_ended(stream)) {
		done = -ENODEV;
		goto out;
	}
	done = edu_fault(stream->edu, EDU_MIG_WRITE);
	if (!done && stream->error)
		done = stream->error;
	while (done >= 0 && done < count) {
		size_t piece = min_t(size_t, count - done, sizeof(stream->record) - stream->filled);

		if (copy_from_user((u8 *)&stream->record + stream->filled, buf + done, piece)) {
			done = done ? done : -EFAULT;
			break;
		}
		stream->filled += piece;
		done += piece;
		if (stream->filled == sizeof(stream->record)) {
			stream->error = accept_record(stream);
			/* Keep a FINAL record in the buffer until the state changes. */
			stream->filled = stream->ended ? stream->filled : 0;
		} else if (stream->filled >= sizeof(stream->record.magic) &&
			   le64_to_cpu(stream->record.magic) != RECORD_MAGIC) {
			stream->error = -EINVAL;
		}
		/* No data may follow the FINAL record. */
		if (!stream->error && stream->ended && done < count)
			stream->error = -EINVAL;
		if (stream->error)
			done = stream->error;
	}
out:
	mutex_unlock(&stream->lock);
	return done;
}

static __poll_t stream_poll(struct file *file, struct poll_table_struct *table)
{
	struct edu_stream *stream = file->private_data;
	__poll_t events = 0;

	poll_wait(file, &stream_wait, table);
	mutex_lock(&stream->lock);
	if (has_ended(stream))
		events = EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	else if (stream->stage == STAGE_RESUMING)
		events = EPOLLOUT | EPOLLWRNORM;
	else if (stream->stage == STAGE_STOP_COPY || stream->taken != stream->filled ||
		 !stream->records || READ_ONCE(stream->edu->changed))
		events = EPOLLIN | EPOLLRDNORM;
	mutex_unlock(&stream->lock);
	return events;
}

#if HAVE_PRE_COPY
/* Called with stream->lock held. The first record is initial data; a later one is dirty data. */
static void remaining(struct edu_stream *stream, u64 *initial, u64 *dirty)
{
	u64 rest = stream->filled - stream->taken;

	*initial = !stream->records ? sizeof(stream->record) : stream->records == 1 ? rest : 0;
	*dirty = stream->records > 1 ? rest : 0;
	if (stream->stage == STAGE_PRE_COPY && stream->records && READ_ONCE(stream->edu->changed))
		*dirty += sizeof(stream->record);
}

static long stream_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	const size_t minsz = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct edu_stream *stream = file->private_data;
	struct vfio_precopy_info info;
	u64 initial, dirty;
	int ret;

	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	mutex_lock(&stream->lock);
	if (has_ended(stream)) {
		ret = -ENODEV;
		goto out;
	}
	ret = edu_fault(stream->edu, EDU_MIG_PRECOPY_INFO);
	if (!ret && stream->stage != STAGE_PRE_COPY)
		ret = -EINVAL;
	if (ret)
		goto out;
	remaining(stream, &initial, &dirty);
	info.initial_bytes = initial;
	info.dirty_bytes = dirty;
#ifdef VFIO_PRECOPY_INFO_REINIT
	/* With the opt-in to the second precopy info, flags are output; none is set. */
	if (stream->edu->core.vdev.precopy_info_v2)
		info.flags = 0;
#endif
out:
	mutex_unlock(&stream->lock);
	if (ret)
		return ret;
	return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
}
#endif

static const struct file_operations saving_fops = {
	.owner = THIS_MODULE,
	.read = stream_read,
	.poll = stream_poll,
#if HAVE_PRE_COPY
	.unlocked_ioctl = stream_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
#endif
	.release = stream_release,
};

static const struct file_operations resuming_fops = {
	.owner = THIS_MODULE,
	.write = stream_write,
	.poll = stream_poll,
	.release = stream_release,
};

/* --- the states --- */

static bool is_saving(u32 state)
{
	return state == VFIO_DEVICE_STATE_PRE_COPY || state == VFIO_DEVICE_STATE_PRE_COPY_P2P ||
	       state == VFIO_DEVICE_STATE_STOP_COPY;
}

static bool is_running(u32 state)
{
	return state == VFIO_DEVICE_STATE_RUNNING || state == VFIO_DEVICE_STATE_PRE_COPY;
}

/* Called with edu->lock held. Ends the session: reads and writes are ENODEV from here on. */
static void end_session(struct edu *edu)
{
	struct edu_stream *stream = edu->stream;

	if (!stream)
		return;
	edu->stream = NULL;
	mutex_lock(&stream->lock);
	stream->disabled = true;
	mutex_unlock(&stream->lock);
	kref_put(&stream->kref, stream_free);
	wake_up_interruptible_all(&stream_wait);
}

/* Called with edu->lock held */
static struct file *begin_session(struct edu *edu, enum stage stage)
{
	bool saving = stage != STAGE_RESUMING;
	struct edu_stream *stream = kzalloc(sizeof(*stream), GFP_KERNEL_ACCOUNT);
	struct file *file;

	if (!stream)
		return ERR_PTR(-ENOMEM);
	kref_init(&stream->kref);
	mutex_init(&stream->lock);
	stream->edu = edu;
	stream->stage = stage;
	file = anon_inode_getfile("[edu-vfio-pci-migration]",
				  saving ? &saving_fops : &resuming_fops, stream,
				  saving ? O_RDONLY : O_WRONLY);
	if (IS_ERR(file)) {
		kref_put(&stream->kref, stream_free);
		return file;
	}
	stream_open(file->f_inode, file);
	if (saving)
		WRITE_ONCE(edu->sent, 0);
	/* One reference belongs to the file, one to the device */
	kref_get(&stream->kref);
	edu->stream = stream;
	return file;
}

/* Called with edu->lock held. Switches between pre-copy and stop-copy in the same session. */
static void change_stage(struct edu *edu, enum stage stage)
{
	mutex_lock(&edu->stream->lock);
	edu->stream->stage = stage;
	mutex_unlock(&edu->stream->lock);
	wake_up_interruptible_all(&stream_wait);
}

/* Called with edu->lock held. The stream must be complete. */
static int load(struct edu *edu)
{
	struct edu_stream *stream = edu->stream;
	int ret;

	mutex_lock(&stream->lock);
	ret = stream->error;
	if (!ret && !stream->ended)
		ret = -EINVAL;
	if (!ret)
		ret = write_registers(edu, &stream->record.registers);
	mutex_unlock(&stream->lock);
	return ret;
}

/* Called with edu->lock held. One arc of the kernel's state machine. */
static struct file *step(struct edu *edu, u32 new)
{
	struct file *file = NULL;
	u32 old = edu->state;
	int ret = edu_fault(edu, EDU_MIG_SET_STATE);

	if (ret == -ENOTRECOVERABLE)
		goto lost;
	/* edu cannot distinguish peer memory from other memory, so it pauses in the P2P states too. */
	if (!ret && is_running(old) && !is_running(new))
		ret = edu_wait_idle(edu);
	if (ret)
		return ERR_PTR(ret);

	/* Open the session first: if that fails, nothing has to be undone */
	if (is_saving(new) && !is_saving(old))
		file = begin_session(edu, new == VFIO_DEVICE_STATE_STOP_COPY ? STAGE_STOP_COPY
									     : STAGE_PRE_COPY);
	else if (new == VFIO_DEVICE_STATE_RESUMING)
		file = begin_session(edu, STAGE_RESUMING);
	if (IS_ERR(file))
		return file;

	if (old == VFIO_DEVICE_STATE_RESUMING) {
		ret = load(edu);
		if (ret)
			goto lost;
	}
	if (is_saving(old) && is_saving(new))
		change_stage(edu,
			     new == VFIO_DEVICE_STATE_STOP_COPY ? STAGE_STOP_COPY : STAGE_PRE_COPY);
	else if (!file)
		end_session(edu);
	edu->state = new;
	WRITE_ONCE(edu->path, edu->path << 4 | new);
	return file;

lost:
	end_session(edu);
	edu->state = VFIO_DEVICE_STATE_ERROR;
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

static struct file *edu_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new)
{
	struct edu *edu = to_edu(vdev);
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int ret;

	edu_lock(edu);
	WRITE_ONCE(edu->path, 0);
	if (no_way(edu->state, new))
		file = ERR_PTR(-EINVAL);
	while (!file && edu->state != new) {
		ret = vfio_mig_get_next_state(vdev, edu->state, new, &next);
		file = ret ? ERR_PTR(ret) : step(edu, next);
	}
	edu_unlock(edu);
	return file;
}

static int edu_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct edu *edu = to_edu(vdev);
	int ret = edu_fault(edu, EDU_MIG_GET_STATE);

	if (ret)
		return ret;
	edu_lock(edu);
	*state = edu->state;
	edu_unlock(edu);
	return 0;
}

#if HAVE_PRE_COPY
/* The number of bytes that STOP_COPY would send: a record already in the buffer, and the FINAL */
static int edu_get_data_size(struct vfio_device *vdev, unsigned long *size)
{
	struct edu *edu = to_edu(vdev);
	int ret = edu_fault(edu, EDU_MIG_DATA_SIZE);

	if (ret)
		return ret;
	edu_lock(edu);
	*size = sizeof(struct record);
	if (is_saving(edu->state)) {
		mutex_lock(&edu->stream->lock);
		if (edu->stream->ended)
			*size = 0;
		*size += edu->stream->filled - edu->stream->taken;
		mutex_unlock(&edu->stream->lock);
	}
	edu_unlock(edu);
	return 0;
}
#endif

const struct vfio_migration_ops edu_migration_ops = {
	.migration_set_state = edu_set_state,
	.migration_get_state = edu_get_state,
#if HAVE_PRE_COPY
	.migration_get_data_size = edu_get_data_size,
#endif
};

/* After the end of a session was marked */
void edu_migration_wake(void)
{
	wake_up_interruptible_all(&stream_wait);
}

/* At reset, open and close, called with edu->lock held */
void edu_migration_restart(struct edu *edu)
{
	end_session(edu);
	edu->state = VFIO_DEVICE_STATE_RUNNING;
}
