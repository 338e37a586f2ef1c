// SPDX-License-Identifier: GPL-2.0-only
/*
 * The DMA engine. A job is done in steps of at most one page or one write, so that it can be
 * stopped, paused and slowed down between any two; it runs in the writer's own context, or in a
 * kernel thread.
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "mock.h"

static void engine_work(struct work_struct *work);

int mock_engine_init(struct mock *mock)
{
	struct mock_engine *engine = &mock->engine;

	mutex_init(&engine->step_lock);
	init_waitqueue_head(&engine->wait);
	INIT_WORK(&engine->work, engine_work);
	engine->page = (void *)__get_free_page(GFP_KERNEL);
	return engine->page ? 0 : -ENOMEM;
}

void mock_engine_free(struct mock *mock)
{
	free_page((unsigned long)mock->engine.page);
}

/* Called with mock->lock held and nothing running */
void mock_engine_reset(struct mock *mock)
{
	memset(&mock->engine.job, 0, sizeof(mock->engine.job));
}

/*
 * Make one access within one page, by the CPU on behalf of the device: through vfio_dma_rw(), or
 * to a pinned page
 */
static int dma_piece(struct mock *mock, u64 iova, void *data, size_t size, bool write)
{
	int ret = mock_fault(mock, MOCK_FAULT_DMA);

	if (!ret && mock->engine.job.command & MOCK_DMA_PINNED)
		ret = mock_pins_access(mock, iova, data, size, write);
	else if (!ret)
		ret = vfio_dma_rw(&mock->vdev, iova, data, size, write);
	if (ret)
		return ret;
	if (write) {
		mock_log_mark(mock, iova, size);
		WRITE_ONCE(mock->bytes_written, mock->bytes_written + size);
	} else {
		WRITE_ONCE(mock->bytes_read, mock->bytes_read + size);
	}
	return 0;
}

/*
 * Split an access at page boundaries: a mapping may end at one, and after a failure each page has
 * been written and logged completely or not at all.
 */
static int dma(struct mock *mock, u64 iova, void *data, size_t size, bool write)
{
	struct mock_job *job = &mock->engine.job;
	int ret;

	if (size && iova + size - 1 < iova) {
		WRITE_ONCE(job->fault, iova);
		return -EOVERFLOW;
	}
	while (size) {
		size_t piece = min_t(size_t, size, PAGE_SIZE - offset_in_page(iova));

		ret = dma_piece(mock, iova, data, piece, write);
		if (ret) {
			WRITE_ONCE(job->fault, iova);
			return ret;
		}
		WRITE_ONCE(job->bytes, job->bytes + piece);
		iova += piece;
		data += piece;
		size -= piece;
	}
	return 0;
}

/* Return the address of a part of the memory region, or NULL if it is outside */
static void *local(struct mock *mock, u64 offset, u64 size)
{
	if (offset > mock->memory.size || size > mock->memory.size - offset)
		return NULL;
	return mock->memory.base + offset;
}

/* Write to an IOVA; with LOCAL to the memory region, with KEEP to both */
static int store(struct mock *mock, u64 target, void *data, size_t size)
{
	struct mock_job *job = &mock->engine.job;
	u64 offset = target;
	void *memory;
	int ret;

	if (!(job->command & MOCK_DMA_LOCAL)) {
		ret = dma(mock, target, data, size, true);
		if (ret || !(job->command & MOCK_DMA_KEEP))
			return ret;
		offset = job->memory + (target - job->iova);
	}
	memory = local(mock, offset, size);
	if (!memory) {
		WRITE_ONCE(job->fault, target);
		return -ERANGE;
	}
	memcpy(memory, data, size);
	mock_migration_touch(mock, &mock->memory, offset, size);
	/* Bytes that are written to both places count once */
	if (job->command & MOCK_DMA_LOCAL)
		WRITE_ONCE(job->bytes, job->bytes + size);
	return 0;
}

/* Return word k of the pattern in this round */
static __le64 word(const struct mock_job *job, u64 k)
{
	return cpu_to_le64(job->command & MOCK_DMA_COUNTING ? job->pattern + k + job->rounds
							    : job->pattern);
}

/* Return the rest of the round, but not beyond the end of the page at address */
static size_t to_page_end(const struct mock_job *job, u64 address)
{
	return min_t(u64, job->length - job->position, PAGE_SIZE - offset_in_page(address));
}

static int step_write(struct mock *mock, struct mock_job *job)
{
	size_t size = to_page_end(job, job->iova + job->position);
	void *memory = local(mock, job->memory + job->position, size);
	int ret;

	if (!memory)
		return -ERANGE;
	/* Copy through the bounce page: a program may change mapped memory meanwhile */
	memcpy(mock->engine.page, memory, size);
	ret = dma(mock, job->iova + job->position, mock->engine.page, size, true);
	return ret ? ret : size;
}

static int step_read(struct mock *mock, struct mock_job *job)
{
	size_t size = to_page_end(job, job->iova + job->position);
	void *memory = local(mock, job->memory + job->position, size);
	int ret;

	if (!memory)
		return -ERANGE;
	ret = dma(mock, job->iova + job->position, mock->engine.page, size, false);
	if (ret)
		return ret;
	memcpy(memory, mock->engine.page, size);
	mock_migration_touch(mock, &mock->memory, job->memory + job->position, size);
	return size;
}

static int step_fill(struct mock *mock, struct mock_job *job)
{
	size_t size = to_page_end(job, job->iova + job->position), i;
	u8 *page = mock->engine.page;
	int ret;

	/* Byte n of the transfer is byte n % 8 of word n / 8 */
	for (i = 0; i < size; i++) {
		__le64 pattern = word(job, (job->position + i) / 8);

		page[i] = ((u8 *)&pattern)[(job->position + i) % 8];
	}
	ret = store(mock, job->iova + job->position, page, size);
	return ret ? ret : size;
}

static int step_copy(struct mock *mock, struct mock_job *job)
{
	size_t size = min(to_page_end(job, job->iova + job->position),
			  to_page_end(job, job->source + job->position));
	u64 bytes = job->bytes;
	int ret;

	/* The bytes of a copy count once */
	ret = dma(mock, job->source + job->position, mock->engine.page, size, false);
	if (ret)
		return ret;
	WRITE_ONCE(job->bytes, bytes);
	ret = dma(mock, job->iova + job->position, mock->engine.page, size, true);
	return ret ? ret : size;
}

static int store_word(struct mock *mock, struct mock_job *job, u64 target)
{
	__le64 pattern = word(job, job->position);
	int ret = store(mock, target, &pattern, sizeof(pattern));

	return ret ? ret : 1;
}

static int step_list(struct mock *mock, struct mock_job *job)
{
	void *entry = local(mock, job->memory + job->position * sizeof(__le64), sizeof(__le64));
	__le64 target;

	if (!entry)
		return -ERANGE;
	memcpy(&target, entry, sizeof(target));
	return store_word(mock, job, le64_to_cpu(target));
}

static int step_touch(struct mock *mock, struct mock_job *job)
{
	return store_word(mock, job, job->iova + job->position * job->stride);
}

static int step_scatter(struct mock *mock, struct mock_job *job)
{
	/* splitmix64: a seed gives one sequence, on every kernel and in any other program */
	u64 z = job->random += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	z ^= z >> 31;
	return store_word(mock, job, job->iova + z % (job->length / job->stride) * job->stride);
}

/* Return the position at which a round ends */
static u64 round_end(const struct mock_job *job)
{
	switch (job->command & MOCK_DMA_OPERATION) {
	case MOCK_DMA_LIST:
	case MOCK_DMA_SCATTER:
		return job->count;
	case MOCK_DMA_TOUCH:
		return job->length / job->stride + !!(job->length % job->stride);
	}
	return job->length;
}

static int step(struct mock *mock, struct mock_job *job)
{
	switch (job->command & MOCK_DMA_OPERATION) {
	case MOCK_DMA_WRITE:
		return step_write(mock, job);
	case MOCK_DMA_READ:
		return step_read(mock, job);
	case MOCK_DMA_FILL:
		return step_fill(mock, job);
	case MOCK_DMA_COPY:
		return step_copy(mock, job);
	case MOCK_DMA_LIST:
		return step_list(mock, job);
	case MOCK_DMA_TOUCH:
		return step_touch(mock, job);
	case MOCK_DMA_SCATTER:
		return step_scatter(mock, job);
	}
	return -EINVAL;
}

/* Check a job's parameters before it starts */
static int check(const struct mock *mock, const struct mock_job *job)
{
	const u32 known = MOCK_DMA_OPERATION | MOCK_DMA_BACKGROUND | MOCK_DMA_REPEAT |
			  MOCK_DMA_RAISE | MOCK_DMA_COUNTING | MOCK_DMA_LOCAL | MOCK_DMA_PINNED |
			  MOCK_DMA_KEEP;
	u32 operation = job->command & MOCK_DMA_OPERATION;
	bool keep = job->command & MOCK_DMA_KEEP;
	u64 room = job->command & MOCK_DMA_LOCAL ? mock->memory.size - 1 : U64_MAX;

	if (job->command & ~known || (keep && job->command & MOCK_DMA_LOCAL))
		return -EINVAL;
	switch (operation) {
	case MOCK_DMA_WRITE:
	case MOCK_DMA_READ:
	case MOCK_DMA_COPY:
		if (job->command & (MOCK_DMA_LOCAL | MOCK_DMA_KEEP))
			return -EINVAL;
		fallthrough;
	case MOCK_DMA_FILL:
		if (!job->length)
			return -EINVAL;
		break;
	case MOCK_DMA_TOUCH:
		if (!job->length || !job->stride)
			return -EINVAL;
		break;
	case MOCK_DMA_SCATTER:
		if (!job->count || !job->stride || job->length < job->stride)
			return -EINVAL;
		break;
	case MOCK_DMA_LIST:
		if (!job->count || keep)
			return -EINVAL;
		if (job->memory > mock->memory.size ||
		    job->count > (mock->memory.size - job->memory) / 8)
			return -ERANGE;
		return 0;
	default:
		return -EINVAL;
	}
	if (job->iova > room || job->length - 1 > room - job->iova)
		return -EOVERFLOW;
	if (operation == MOCK_DMA_COPY && job->length - 1 > U64_MAX - job->source)
		return -EOVERFLOW;
	if ((operation == MOCK_DMA_WRITE || operation == MOCK_DMA_READ || keep) &&
	    (job->memory > mock->memory.size || job->length > mock->memory.size - job->memory))
		return -ERANGE;
	return 0;
}

/*
 * Do the next step, in the next round if this one is over. Return 1 to continue, 0 if the job is
 * finished, or -errno.
 */
static int advance(struct mock *mock)
{
	struct mock_engine *engine = &mock->engine;
	struct mock_job *job = &engine->job;
	int ret;

	if (job->position >= round_end(job)) {
		if (!(job->command & MOCK_DMA_REPEAT))
			return 0;
		job->position = 0;
		WRITE_ONCE(job->rounds, job->rounds + 1);
		if (job->command & MOCK_DMA_RAISE)
			mock_irq_raise(mock, job->irq);
	}
	ret = step(mock, job);
	if (ret < 0)
		return ret;
	job->position += ret;
	WRITE_ONCE(job->steps, job->steps + 1);
	return 1;
}

/*
 * Between two steps: sleep for the delay, and while the device is paused. Return 0 if another step
 * may follow.
 */
static int between_steps(struct mock_engine *engine, bool background)
{
	ktime_t delay = ns_to_ktime((u64)engine->job.delay * NSEC_PER_USEC);

	if (background) {
		/*
		 * Kernel threads get no signals. The sleeps are interruptible or idle only so
		 * that they are not reported as hangs
		 */
		if (engine->job.delay)
			wait_event_interruptible_hrtimeout(engine->wait, READ_ONCE(engine->stop),
							   delay);
		wait_event_idle(engine->wait,
				READ_ONCE(engine->stop) || !READ_ONCE(engine->paused));
	} else if (fatal_signal_pending(current) ||
		   wait_event_killable(engine->wait,
				       READ_ONCE(engine->stop) || !READ_ONCE(engine->paused))) {
		return -EINTR;
	}
	return READ_ONCE(engine->stop) ? -ECANCELED : 0;
}

static void run(struct mock *mock, bool background)
{
	struct mock_engine *engine = &mock->engine;
	struct mock_job *job = &engine->job;
	u32 raise;
	int ret;

	do {
		ret = between_steps(engine, background);
		if (ret)
			break;
		mutex_lock(&engine->step_lock);
		/*
		 * Check again under step_lock: after mock_engine_pause() has returned, no step
		 * may run
		 */
		ret = READ_ONCE(engine->paused) ? 1 : advance(mock);
		mutex_unlock(&engine->step_lock);
		cond_resched();
	} while (ret > 0);

	mutex_lock(&mock->lock);
	/* A job that was stopped (-ECANCELED) has no error */
	WRITE_ONCE(job->error, ret < 0 && ret != -ECANCELED ? -ret : 0);
	WRITE_ONCE(job->status, job->error ? MOCK_DMA_ERROR : MOCK_DMA_DONE);
	raise = job->command & MOCK_DMA_RAISE && ret != -ECANCELED ? job->irq : MOCK_IRQ_NONE;
	WRITE_ONCE(engine->running, false);
	mutex_unlock(&mock->lock);
	/* Raise the interrupt after the status is set: its handler reads the status */
	mock_irq_raise(mock, raise);
	wake_up_all(&engine->wait);
}

static void engine_work(struct work_struct *work)
{
	run(container_of(work, struct mock, engine.work), true);
}

/* Called with mock->lock held and nothing running. Wakes waiters for the end of another job. */
static void take_up(struct mock_engine *engine, bool background)
{
	WRITE_ONCE(engine->stop, false);
	WRITE_ONCE(engine->running, true);
	wake_up_all(&engine->wait);
	if (background)
		queue_work(mock_workqueue, &engine->work);
}

/*
 * Start a job with the registers' current values as parameters. Its result is in the status
 * registers. The returned errno only means that the job could not be started.
 */
int mock_engine_start(struct mock *mock, u32 command)
{
	struct mock_engine *engine = &mock->engine;
	struct mock_registers *registers = &mock->registers;
	struct mock_job *job = &engine->job;
	bool background = command & (MOCK_DMA_BACKGROUND | MOCK_DMA_REPEAT);
	u32 raise;
	int ret;

	mutex_lock(&mock->lock);
	if (engine->running || (engine->paused && !background)) {
		mutex_unlock(&mock->lock);
		return -EBUSY;
	}
	*job = (struct mock_job){
		.command = command,
		.status = MOCK_DMA_BUSY,
		.delay = le32_to_cpu(registers->dma_delay),
		.irq = le32_to_cpu(registers->dma_irq),
		.iova = le64_to_cpu(registers->dma_iova),
		.length = le64_to_cpu(registers->dma_length),
		.source = le64_to_cpu(registers->dma_source),
		.memory = le64_to_cpu(registers->dma_memory),
		.pattern = le64_to_cpu(registers->dma_pattern),
		.count = le64_to_cpu(registers->dma_count),
		.stride = le64_to_cpu(registers->dma_stride),
		.seed = le64_to_cpu(registers->dma_seed),
		.random = le64_to_cpu(registers->dma_seed),
	};
	ret = check(mock, job);
	if (ret) {
		job->error = -ret;
		job->status = MOCK_DMA_ERROR;
		raise = job->command & MOCK_DMA_RAISE ? job->irq : MOCK_IRQ_NONE;
		mutex_unlock(&mock->lock);
		mock_irq_raise(mock, raise);
		return 0;
	}
	take_up(engine, background);
	mutex_unlock(&mock->lock);
	if (!background)
		run(mock, false);
	return 0;
}

/*
 * Stop all jobs. Returns with mock->lock held when no job runs, so that no other one can start.
 */
void mock_engine_stop_and_lock(struct mock *mock)
{
	struct mock_engine *engine = &mock->engine;

	mutex_lock(&mock->lock);
	while (engine->running) {
		WRITE_ONCE(engine->stop, true);
		wake_up_all(&engine->wait);
		mutex_unlock(&mock->lock);
		/*
		 * After the stopped job has ended, another one may have started, for which stop
		 * is not set: return to stop it too
		 */
		wait_event(engine->wait, !READ_ONCE(engine->running) || !READ_ONCE(engine->stop));
		mutex_lock(&mock->lock);
	}
}

void mock_engine_stop(struct mock *mock)
{
	mock_engine_stop_and_lock(mock);
	mutex_unlock(&mock->lock);
}

/* At close, when no job can start any more: wait until the background thread has finished */
void mock_engine_close(struct mock *mock)
{
	mock_engine_stop(mock);
	flush_work(&mock->engine.work);
}

/* Pause. Returns when no step is in progress. After unpause, a job continues where it was */
void mock_engine_pause(struct mock *mock)
{
	WRITE_ONCE(mock->engine.paused, true);
	mutex_lock(&mock->engine.step_lock);
	mutex_unlock(&mock->engine.step_lock);
}

void mock_engine_unpause(struct mock *mock)
{
	WRITE_ONCE(mock->engine.paused, false);
	wake_up_all(&mock->engine.wait);
}

/*
 * Set registers and the job. A job that was running continues in the background after unpause
 */
int mock_engine_restore(struct mock *mock, const struct mock_job *job,
			const struct mock_registers *registers)
{
	struct mock_engine *engine = &mock->engine;

	if (job->status > MOCK_DMA_ERROR || (job->status == MOCK_DMA_BUSY && check(mock, job)))
		return -EINVAL;
	mock_engine_stop_and_lock(mock);
	mock->registers = *registers;
	engine->job = *job;
	if (job->status == MOCK_DMA_BUSY)
		take_up(engine, true);
	mutex_unlock(&mock->lock);
	return 0;
}
