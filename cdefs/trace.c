/* SPDX-License-Identifier: MIT */
/* The functions that trace.h declares. No Python.h in here either. */
#include <pthread.h>
#include <time.h>

enum { MOST = 4096, MOST_INPUT = 1 << 16 }; /* bytes that are copied of a struct, and of an array */

static struct {
	pthread_mutex_t lock;
	int on, file, error, careful;
	int (*python)(void *, int, unsigned long, void *);
	size_t used;
	char bytes[1 << 20];
} trace = { .lock = PTHREAD_MUTEX_INITIALIZER, .file = -1 };

uint64_t pyvfio_trace_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The caller of this and of put() holds the lock. */
static void write_out(void)
{
	size_t done = 0;
	ssize_t count;

	while (done < trace.used) {
		count = write(trace.file, trace.bytes + done, trace.used - done);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0) {
			if (!trace.error)
				trace.error = count ? -errno : -EIO;
			break;
		}
		done += (size_t)count;
	}
	trace.used = 0;
}

static void put(const void *data, size_t size)
{
	if (!size)
		return;
	memcpy(trace.bytes + trace.used, data, size);
	trace.used += size;
}

static void append(pyvfio_trace_record *record, const void *before, const void *after, const void *input)
{
	static __thread uint32_t thread;
	size_t size = sizeof(*record) + record->before + record->after + record->input;

	if (!thread)
		thread = (uint32_t)syscall(SYS_gettid);
	record->thread = thread;
	pthread_mutex_lock(&trace.lock);
	if (trace.on) {
		if (trace.used + size > sizeof(trace.bytes))
			write_out();
		put(record, sizeof(*record));
		put(before, record->before);
		put(after, record->after);
		put(input, record->input);
	}
	pthread_mutex_unlock(&trace.lock);
}

static uint32_t copy_in(void *into, uint64_t from, size_t size)
{
	if (trace.careful)
		return size && !pyvfio_peek((uintptr_t)from, into, size) ? (uint32_t)size : 0;
	memcpy(into, (const void *)(uintptr_t)from, size);
	return (uint32_t)size;
}

/* The bytes of an argument: most structs start with their own size. */
static uint32_t copy_argument(void *into, unsigned long request, void *argument)
{
	uint64_t from = (uint64_t)(uintptr_t)argument;
	uint32_t size;

	if (!argument)
		return 0;
	switch (request) {
	case VFIO_GET_API_VERSION:
	case VFIO_CHECK_EXTENSION:
	case VFIO_SET_IOMMU:
	case VFIO_GROUP_UNSET_CONTAINER:
	case VFIO_DEVICE_RESET: return 0;
	case VFIO_GROUP_SET_CONTAINER: return copy_in(into, from, sizeof(int32_t));
	case VFIO_GROUP_GET_DEVICE_FD:
		for (size = 0; size < 256; size++) /* byte by byte: a name may stand at the end of a page */
			if (!copy_in((char *)into + size, from + size, 1) || !((char *)into)[size])
				break;
		((char *)into)[size] = 0;
		return size + 1;
	}
	if (!copy_in(&size, from, sizeof(size)) || size < sizeof(size))
		return 0;
	return copy_in(into, from, size < MOST ? size : MOST);
}

/* Copy an array of ranges that a request takes by pointer, so that a replay can make the request again. */
static uint32_t copy_input(void *into, unsigned long request, const void *argument, uint32_t size)
{
	const struct vfio_device_feature *feature = argument;
	const struct vfio_device_feature_dma_logging_control *control = (const void *)(feature + 1);
	const struct iommu_ioas_allow_iovas *allow = argument;
	uint64_t from, count;

	if (request == VFIO_DEVICE_FEATURE && size >= sizeof(*feature) + sizeof(*control) &&
	    feature->flags == (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START)) {
		from = control->ranges;
		count = control->num_ranges;
	} else if (request == IOMMU_IOAS_ALLOW_IOVAS && size >= sizeof(*allow)) {
		from = allow->allowed_iovas;
		count = allow->num_iovas;
	} else {
		return 0;
	}
	return count <= MOST_INPUT / 16 ? copy_in(into, from, count * 16) : 0;
}

/*
 * Always reads with pyvfio_peek: the bitmap may be NULL or read-only. Kernels up to Linux 6.1 report that they could not write it; later
 * ones drop the bits and return success.
 */
static uint64_t bits(uint64_t bitmap, uint64_t pages)
{
	uint64_t words[512], count = 0, left = (pages + 63) / 64;

	while (left) {
		size_t block = left < 512 ? (size_t)left : 512, at;

		if (pyvfio_peek((uintptr_t)bitmap, words, 8 * block))
			break;
		for (at = 0; at < block; at++)
			count += (uint64_t)__builtin_popcountll(words[at]);
		bitmap += 8 * block;
		left -= block;
	}
	return count;
}

/* The bits of the bitmap of dirty pages that a request has filled. */
static uint64_t count_dirty(unsigned long request, const void *argument, uint32_t size)
{
	const struct vfio_device_feature *feature = argument;
	const struct vfio_device_feature_dma_logging_report *report = (const void *)(feature + 1);
	const struct iommu_hwpt_get_dirty_bitmap *table = argument;
	const struct vfio_iommu_type1_dirty_bitmap *dirty = argument;
	const struct vfio_iommu_type1_dirty_bitmap_get *get = (const void *)(dirty + 1);

	if (request == VFIO_DEVICE_FEATURE && size >= sizeof(*feature) + sizeof(*report) && report->page_size &&
	    feature->flags == (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT))
		return bits(report->bitmap, report->length / report->page_size);
	if (request == IOMMU_HWPT_GET_DIRTY_BITMAP && size >= sizeof(*table) && table->page_size)
		return bits(table->data, table->length / table->page_size);
	if (request == VFIO_IOMMU_DIRTY_PAGES && size >= sizeof(*dirty) + sizeof(*get) &&
	    dirty->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP && get->bitmap.pgsize)
		return bits((uint64_t)(uintptr_t)get->bitmap.data, get->size / get->bitmap.pgsize);
	return 0;
}

static int traced(int (*function)(void *, int, unsigned long, void *), void *context, int fd, unsigned long request,
		  void *argument)
{
	pyvfio_trace_record record = { .request = (uint32_t)request, .fd = fd };
	_Alignas(8) char before[MOST], after[MOST];
	char *input = NULL;
	int result;

	if (!trace.on)
		return function(context, fd, request, argument);
	record.argument = (uint64_t)(uintptr_t)argument;
	record.before = copy_argument(before, request, argument);
	if (request == VFIO_DEVICE_FEATURE || request == IOMMU_IOAS_ALLOW_IOVAS) {
		input = malloc(MOST_INPUT);
		record.input = input ? copy_input(input, request, before, record.before) : 0;
	}
	record.start = pyvfio_trace_now();
	result = function(context, fd, request, argument);
	record.end = pyvfio_trace_now();
	record.result = result;
	record.after = record.before ? copy_in(after, record.argument, record.before) : 0;
	if (result >= 0)
		record.dirty = count_dirty(request, before, record.before);
	if (record.after && !memcmp(before, after, record.after))
		record.after = 0;
	append(&record, before, after, input);
	free(input);
	return result;
}

int pyvfio_traced_linux(void *context, int fd, unsigned long request, void *argument)
{
	return traced(pyvfio_linux_ioctl, context, fd, request, argument);
}

int pyvfio_traced_python(void *context, int fd, unsigned long request, void *argument)
{
	return traced(trace.python, context, fd, request, argument);
}

void pyvfio_trace_begin(int file, int (*python)(void *, int, unsigned long, void *), int careful)
{
	pthread_mutex_lock(&trace.lock);
	trace.python = python;
	trace.file = file;
	trace.careful = careful;
	trace.error = 0;
	trace.used = 0;
	trace.on = 1;
	pthread_mutex_unlock(&trace.lock);
}

void pyvfio_trace_note(uint32_t what, int fd, uint64_t start, const char *data, size_t size)
{
	pyvfio_trace_record record = { .what = what, .fd = fd, .end = pyvfio_trace_now() };

	record.start = start ? start : record.end;
	record.before = size < MOST_INPUT ? (uint32_t)size : MOST_INPUT;
	append(&record, data, NULL, NULL);
}

static int flush(int on)
{
	int error;

	pthread_mutex_lock(&trace.lock);
	trace.on = on;
	write_out();
	error = trace.error;
	pthread_mutex_unlock(&trace.lock);
	return error;
}

int pyvfio_trace_flush(void)
{
	return flush(1);
}

int pyvfio_trace_end(void)
{
	return flush(0);
}

void pyvfio_trace_forget(void)
{
	pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

	trace.lock = fresh;
	trace.on = 0;
	trace.used = 0;
}
