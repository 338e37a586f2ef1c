/* SPDX-License-Identifier: MIT */
/* VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA, IOMMU_IOAS_MAP and IOMMU_IOAS_UNMAP are made here, by pyvfio._buffer.Ledger, which
 * keeps a Record of each mapping. Their errnos and reasons are declared in pyvfio/spaces/mapping.py.
 *
 * A record is in the ledger before its request is made, and the call itself writes the outcome into it. No Python runs in
 * between, so neither a signal's handler nor another thread can make the kernel and the library disagree. Records are
 * kept by identity: those at one IOVA are a chain, since one may be made there before the end of another is recorded.
 *
 * Only one kind of unmap is handled here: of one whole mapping, while nothing else is being mapped. pyvfio.spaces.ledger
 * handles all others. */
#include <stddef.h>
#include "door.h"
#include <errno.h>
#include <string.h>
#include <structmember.h>
#include <time.h>
#include "vfio.h"
#include "iommufd.h"

enum { PENDING, PRESENT, GONE };
enum { READ = 1, WRITE = 2 };

typedef struct record {
	PyObject_HEAD
	PyObject *space;
	PyObject *buffer;
	PyObject *held;
	struct record *under; /* an older one at the same IOVA */
	unsigned long long address;
	unsigned long long iova;
	unsigned long long size;
	unsigned long long serial; /* of the map that made it */
	int protection;
	int state;
} Record;

typedef struct {
	PyObject_HEAD
	PyObject *at; /* IOVA -> the newest record there */
	Door *door;
	uint32_t ioas;		 /* 0: a type1 container */
	unsigned unmaps;	 /* unmaps and other requests that have succeeded */
	int unknown;		 /* a kernel made of Python raised: the outcome of its request is not known */
	int mapping;		 /* maps in progress */
	unsigned long long maps; /* maps begun */
} Ledger;

static int record_traverse(PyObject *object, visitproc visit, void *arg)
{
	Record *record = (Record *)object;

	Py_VISIT(Py_TYPE(object));
	Py_VISIT(record->space);
	Py_VISIT(record->buffer);
	Py_VISIT(record->held);
	Py_VISIT((PyObject *)record->under);
	return 0;
}

static int record_clear(PyObject *object)
{
	Record *record = (Record *)object;

	Py_CLEAR(record->space);
	Py_CLEAR(record->buffer);
	Py_CLEAR(record->held);
	Py_CLEAR(record->under);
	return 0;
}

static void record_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	PyObject_GC_UnTrack(object);
	record_clear(object);
	release(object);
	Py_DECREF(type);
}

static PyMemberDef record_members[] = {
	{ "space", T_OBJECT_EX, offsetof(Record, space), READONLY, "The address space." },
	{ "buffer", T_OBJECT, offsetof(Record, buffer), READONLY, "What was mapped." },
	{ "iova", T_ULONGLONG, offsetof(Record, iova), READONLY, "Where devices see it." },
	{ "size", T_ULONGLONG, offsetof(Record, size), READONLY, "Bytes." },
	{ "_held", T_OBJECT, offsetof(Record, held), READONLY, NULL },
	{ "_under", T_OBJECT, offsetof(Record, under), READONLY, NULL },
	{ "_address", T_ULONGLONG, offsetof(Record, address), READONLY, NULL },
	{ "_serial", T_ULONGLONG, offsetof(Record, serial), READONLY, NULL },
	{ "_protection", T_INT, offsetof(Record, protection), READONLY, NULL },
	{ "_state", T_INT, offsetof(Record, state), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot record_slots[] = {
	{ Py_tp_doc, "A DMA mapping as the ledger keeps it." },
	{ Py_tp_traverse, (void *)record_traverse },
	{ Py_tp_clear, (void *)record_clear },
	{ Py_tp_dealloc, (void *)record_dealloc },
	{ Py_tp_members, record_members },
	{ 0, NULL },
};

static PyType_Spec record_spec = {
	.name = "pyvfio._buffer.Record",
	.basicsize = sizeof(Record),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.slots = record_slots,
};

/* Put a record on top of those at its IOVA. */
static int insert(Ledger *ledger, Record *record, PyObject *iova)
{
	PyObject *above = PyDict_GetItemWithError(ledger->at, iova);

	if (!above && PyErr_Occurred())
		return -1;
	Py_XINCREF(above);
	record->under = (Record *)above;
	return PyDict_SetItem(ledger->at, iova, (PyObject *)record);
}

/* Remove a record from the ledger, if it is there. Without memory to do so, the record stays there and counts as gone. */
static void drop(Ledger *ledger, Record *record)
{
	PyObject *type, *value, *trace, *iova;
	Record **link, *top, *under;

	record->state = GONE;
	PyErr_Fetch(&type, &value, &trace);
	iova = PyLong_FromUnsignedLongLong(record->iova);
	top = iova ? (Record *)PyDict_GetItemWithError(ledger->at, iova) : NULL;
	if (top == record) {
		under = record->under;
		record->under = NULL;
		if (under) {
			PyDict_SetItem(ledger->at, iova, (PyObject *)under);
			Py_DECREF((PyObject *)under);
		} else {
			PyDict_DelItem(ledger->at, iova);
		}
	} else if (top) {
		for (link = &top->under; *link && *link != record; link = &(*link)->under)
			;
		if (*link) {
			*link = record->under;
			record->under = NULL;
			Py_DECREF((PyObject *)record);
		}
	}
	Py_XDECREF(iova);
	PyErr_Restore(type, value, trace);
}

/* One of the four requests that map and unmap. */
typedef struct {
	unsigned long number;
	union {
		struct vfio_iommu_type1_dma_map map;
		struct vfio_iommu_type1_dma_unmap unmap;
		struct iommu_ioas_map ioas_map;
		struct iommu_ioas_unmap ioas_unmap;
	} argument;
} Request;

/* Choose the request, and fill in the fields that are the same for all rows. `protection` is used by maps only. */
static void prepare(Request *request, const Ledger *ledger, int maps, int protection)
{
	memset(&request->argument, 0, sizeof(request->argument));
	if (ledger->ioas && maps) {
		request->number = IOMMU_IOAS_MAP;
		request->argument.ioas_map.size = sizeof(struct iommu_ioas_map);
		request->argument.ioas_map.flags = IOMMU_IOAS_MAP_FIXED_IOVA |
						   (protection & READ ? IOMMU_IOAS_MAP_READABLE : 0) |
						   (protection & WRITE ? IOMMU_IOAS_MAP_WRITEABLE : 0);
		request->argument.ioas_map.ioas_id = ledger->ioas;
	} else if (ledger->ioas) {
		request->number = IOMMU_IOAS_UNMAP;
		request->argument.ioas_unmap.size = sizeof(struct iommu_ioas_unmap);
		request->argument.ioas_unmap.ioas_id = ledger->ioas;
	} else if (maps) {
		request->number = VFIO_IOMMU_MAP_DMA;
		request->argument.map.argsz = sizeof(struct vfio_iommu_type1_dma_map);
		request->argument.map.flags = (protection & READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
					      (protection & WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0);
	} else {
		request->number = VFIO_IOMMU_UNMAP_DMA;
		request->argument.unmap.argsz = sizeof(struct vfio_iommu_type1_dma_unmap);
	}
}

static void fill_in(Request *request, uint64_t address, uint64_t iova, uint64_t size)
{
	switch (request->number) {
	case IOMMU_IOAS_MAP:
		request->argument.ioas_map.user_va = address;
		request->argument.ioas_map.iova = iova;
		request->argument.ioas_map.length = size;
		break;
	case IOMMU_IOAS_UNMAP:
		request->argument.ioas_unmap.iova = iova;
		request->argument.ioas_unmap.length = size;
		break;
	case VFIO_IOMMU_MAP_DMA:
		request->argument.map.vaddr = address;
		request->argument.map.iova = iova;
		request->argument.map.size = size;
		break;
	default: request->argument.unmap.iova = iova; request->argument.unmap.size = size;
	}
}

/* The bytes that an unmap has removed, as the kernel wrote them. */
static uint64_t removed(const Request *request)
{
	return request->number == IOMMU_IOAS_UNMAP ? request->argument.ioas_unmap.length : request->argument.unmap.size;
}

static int map_range(Ledger *ledger, uint64_t address, uint64_t iova, uint64_t size, int protection, int *raised)
{
	Request request;

	prepare(&request, ledger, 1, protection);
	fill_in(&request, address, iova, size);
	return door_request(ledger->door, request.number, &request.argument, raised);
}

/* Returns 0 with the bytes unmapped in `bytes`, or -errno, or DOOR_FAILED. */
static int unmap_range(Ledger *ledger, uint64_t iova, uint64_t size, uint64_t *bytes)
{
	Request request;
	int result;

	prepare(&request, ledger, 0, 0);
	fill_in(&request, 0, iova, size);
	result = door_request(ledger->door, request.number, &request.argument, &ledger->unknown);
	*bytes = removed(&request);
	ledger->unmaps += result >= 0;
	return result < 0 ? result : 0;
}

/* The fields of a record, as the methods get them in their arguments. */
struct fields {
	PyObject *kind, *space, *buffer, *held;
	unsigned long long address, iova, size;
	int protection;
};

static Record *new_record(const struct fields *given)
{
	allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)given->kind, Py_tp_alloc);
	Record *record = (Record *)allocate((PyTypeObject *)given->kind, 0);

	if (!record)
		return NULL;
	Py_INCREF(given->space);
	record->space = given->space;
	Py_INCREF(given->buffer);
	record->buffer = given->buffer;
	Py_INCREF(given->held);
	record->held = given->held;
	record->address = given->address;
	record->iova = given->iova;
	record->size = given->size;
	record->protection = given->protection;
	return record;
}

/* Whether an argument is a u64; else an exception is set. */
static int as_u64(PyObject *argument, unsigned long long *value)
{
	*value = PyLong_AsUnsignedLongLong(argument);
	return *value != (unsigned long long)-1 || !PyErr_Occurred();
}

static int as_range(PyObject *const *arguments, Py_ssize_t count, unsigned long long *iova, unsigned long long *size)
{
	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "2 arguments are needed");
		return 0;
	}
	return as_u64(arguments[0], iova) && as_u64(arguments[1], size);
}

/* The value that a method returns for a negative result: -errno, or NULL for the exception that is set. */
static PyObject *failed(int result)
{
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(
	map_dma_doc,
	"map_dma(type, space, buffer, held, address, iova, size, protection, /)\n\n"
	"Map memory at an IOVA; return the record, of the given type, or -errno. If a signal handler raises during the request,\n"
	"the memory is unmapped again. If a callback of the kernel raises, the record stays pending.");

static PyObject *ledger_map_dma(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	PyObject *type, *value, *trace;
	Ledger *ledger = (Ledger *)object;
	int result, raised = 0;
	struct fields given;
	uint64_t bytes;
	Record *record;

	if (count != 8) {
		PyErr_SetString(PyExc_TypeError, "8 arguments are needed");
		return NULL;
	}
	given.kind = arguments[0];
	given.space = arguments[1];
	given.buffer = arguments[2];
	given.held = arguments[3];
	if (!as_u64(arguments[4], &given.address) || !as_u64(arguments[5], &given.iova) ||
	    !as_u64(arguments[6], &given.size))
		return NULL;
	given.protection = (int)PyLong_AsLong(arguments[7]);
	record = new_record(&given);
	if (!record)
		return NULL;
	if (insert(ledger, record, arguments[5])) {
		Py_DECREF((PyObject *)record);
		return NULL;
	}
	record->serial = ++ledger->maps;
	ledger->mapping++;
	result = map_range(ledger, given.address, given.iova, given.size, given.protection, &raised);
	ledger->mapping--;
	if (result == 0 && record->state == PENDING) {
		record->state = PRESENT;
		if (!PyErr_CheckSignals())
			return (PyObject *)record;
		/* A signal handler raised; the kernel may have pinned for seconds. Undo the mapping. If that fails, it stays recorded. */
		PyErr_Fetch(&type, &value, &trace);
		if (record->state == PRESENT && !unmap_range(ledger, given.iova, given.size, &bytes))
			drop(ledger, record);
		PyErr_Clear();
		PyErr_Restore(type, value, trace);
		Py_DECREF((PyObject *)record);
		return NULL;
	}
	if (result == 0) /* unmapped by another thread by now */
		return (PyObject *)record;
	if (raised)
		ledger->unknown = 1;
	else
		drop(ledger, record);
	Py_DECREF((PyObject *)record);
	return failed(result);
}

PyDoc_STRVAR(place_doc,
	     "place(type, space, buffer, held, size, protection, request, argument, offset, /)\n\n"
	     "Make a request that maps and stores the IOVA at an offset of its struct; return the record, or -errno.");

static PyObject *ledger_place(PyObject *object, PyObject *arguments)
{
	unsigned long long request, argument, offset;
	Ledger *ledger = (Ledger *)object;
	int result, tries, raised = 0;
	struct fields given = { 0 };
	uint64_t bytes;
	Record *record;
	PyObject *iova;

	if (!PyArg_ParseTuple(arguments, "OOOOKiKKK:place", &given.kind, &given.space, &given.buffer, &given.held,
			      &given.size, &given.protection, &request, &argument, &offset))
		return NULL;
	record = new_record(&given);
	if (!record)
		return NULL;
	record->serial = ++ledger->maps;
	/* If another thread has unmapped something meanwhile, it may have removed this mapping, which has no record yet: unmap it,
	 * and make the request again. */
	for (tries = 8;; tries--) {
		const unsigned unmaps = ledger->unmaps;

		ledger->mapping++;
		result = door_request(ledger->door, (unsigned long)request, (void *)(uintptr_t)argument, &raised);
		ledger->mapping--;
		if (result < 0 || unmaps == ledger->unmaps || !tries)
			break;
		unmap_range(ledger, *(const uint64_t *)(uintptr_t)(argument + offset), given.size, &bytes);
		PyErr_Clear();
	}
	if (raised)
		ledger->unknown = 1;
	if (result < 0) {
		Py_DECREF((PyObject *)record);
		return failed(result);
	}
	record->iova = *(const uint64_t *)(uintptr_t)(argument + offset);
	record->state = PRESENT;
	iova = PyLong_FromUnsignedLongLong(record->iova);
	if (!iova || insert(ledger, record, iova)) {
		unmap_range(ledger, record->iova, given.size, &bytes);
		Py_XDECREF(iova);
		Py_DECREF((PyObject *)record);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	Py_DECREF(iova);
	return (PyObject *)record;
}

PyDoc_STRVAR(add_doc, "add(type, space, buffer, held, address, iova, size, protection, /)\n\n"
		      "Record an existing mapping.");

static PyObject *ledger_add(PyObject *object, PyObject *arguments)
{
	struct fields given;
	Record *record;
	PyObject *iova;

	if (!PyArg_ParseTuple(arguments, "OOOOKKKi:add", &given.kind, &given.space, &given.buffer, &given.held,
			      &given.address, &given.iova, &given.size, &given.protection))
		return NULL;
	record = new_record(&given);
	if (!record)
		return NULL;
	record->state = PRESENT;
	iova = PyLong_FromUnsignedLongLong(given.iova);
	if (!iova || insert((Ledger *)object, record, iova)) {
		Py_XDECREF(iova);
		Py_DECREF((PyObject *)record);
		return NULL;
	}
	Py_DECREF(iova);
	return (PyObject *)record;
}

PyDoc_STRVAR(
	unmap_dma_doc,
	"unmap_dma(iova, size, /)\n\n"
	"Unmap one whole mapping; return the bytes unmapped, or -errno. Return None, and do nothing, if the range is not one\n"
	"mapping or if a map is in progress.");

static PyObject *ledger_unmap_dma(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	Ledger *ledger = (Ledger *)object;
	unsigned long long iova, size;
	uint64_t bytes = 0;
	Record *record;
	int result;

	if (!as_range(arguments, count, &iova, &size))
		return NULL;
	record = (Record *)PyDict_GetItemWithError(ledger->at, arguments[0]);
	if (!record || record->state != PRESENT || record->under || record->size != size || ledger->mapping) {
		if (PyErr_Occurred())
			return NULL;
		Py_INCREF(Py_None);
		return Py_None;
	}
	Py_INCREF((PyObject *)record);
	result = unmap_range(ledger, iova, size, &bytes);
	/* A mapping that was made at this IOVA meanwhile has a record of its own. If the unmap succeeded, this one is gone. */
	if (!result && (bytes == size || record->state == GONE))
		drop(ledger, record);
	Py_DECREF((PyObject *)record);
	return result ? failed(result) : PyLong_FromUnsignedLongLong(bytes);
}

PyDoc_STRVAR(raw_map_doc, "raw_map(address, iova, size, protection, /)\n\nMap without a record; return 0 or -errno.");

static PyObject *ledger_raw_map(PyObject *object, PyObject *arguments)
{
	unsigned long long address, iova, size;
	int protection, result;

	if (!PyArg_ParseTuple(arguments, "KKKi:raw_map", &address, &iova, &size, &protection))
		return NULL;
	result = map_range((Ledger *)object, address, iova, size, protection, NULL);
	return failed(result);
}

PyDoc_STRVAR(raw_unmap_doc,
	     "raw_unmap(iova, size, /)\n\nUnmap without changing the records; return the bytes unmapped, or -errno.");

static PyObject *ledger_raw_unmap(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	unsigned long long iova, size;
	uint64_t bytes = 0;
	int result;

	if (!as_range(arguments, count, &iova, &size))
		return NULL;
	result = unmap_range((Ledger *)object, iova, size, &bytes);
	return result ? failed(result) : PyLong_FromUnsignedLongLong(bytes);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The most rows and seconds of a step: between steps signal handlers run, and other threads can. */
enum { STEP = 4096 };
static const double STEP_SECONDS = 0.05;
/* The clock is read after 64 rows. A large row, which may take the kernel long, counts as one more row for each of these sizes. */
#define LOOK (1ULL << 18)

/* A step of many rows runs without the GIL, so it calls the door's function itself, not door_request(). */
static int run_rows(Ledger *ledger, const uint64_t *rows, size_t count, int protection, size_t *done, uint64_t *bytes)
{
	Door *door = ledger->door;
	struct door_call call;
	int result = 0, number;

	while (*done < count && result >= 0) {
		if (!door_begin(&call, door, &number))
			return -EBADF;
		Py_BEGIN_ALLOW_THREADS
		{
			const size_t end = count - *done > STEP ? *done + STEP : count;
			const double until = now() + STEP_SECONDS;
			const int columns = protection ? 3 : 2;
			uint64_t work = 0;
			Request request;

			prepare(&request, ledger, protection, protection);
			do {
				const uint64_t *row = rows + *done * columns;

				fill_in(&request, row[0], row[columns - 2], row[columns - 1]);
				result = door->function(door->context, number, request.number, &request.argument);
				if (result < 0)
					break;
				if (!protection)
					*bytes += removed(&request);
				++*done;
				work += row[columns - 1] / LOOK + 1;
				if (work >= 64) {
					if (now() >= until)
						break;
					work = 0;
				}
			} while (*done < end);
		}
		Py_END_ALLOW_THREADS door_end(&call);
		if (result == -EINTR)
			result = 0;
		else if (result < 0)
			result = door_raised(result, &ledger->unknown);
		if (result >= 0 && PyErr_CheckSignals())
			return DOOR_FAILED;
	}
	return result < 0 ? result : 0;
}

PyDoc_STRVAR(
	run_doc,
	"run(rows, protection, state, /)\n\n"
	"Map rows of (address, iova, size), or with a protection of 0 unmap rows of (iova, size); return 0, or -errno of\n"
	"the first row that failed. `state` is a writable buffer of three u64: the rows done, where the next call\n"
	"continues; the bytes unmapped; and how many of these bytes had records, which are gone now.");

static PyObject *ledger_run(PyObject *object, PyObject *arguments)
{
	Ledger *ledger = (Ledger *)object;
	PyObject *rows_object, *state_object;
	size_t count, begun, done, at;
	Record **found = NULL;
	Py_buffer rows, state;
	uint64_t *counts;
	int protection;
	int result = DOOR_FAILED;

	if (!PyArg_ParseTuple(arguments, "OiO:run", &rows_object, &protection, &state_object))
		return NULL;
	if (PyObject_GetBuffer(rows_object, &rows, PyBUF_C_CONTIGUOUS))
		return NULL;
	if (PyObject_GetBuffer(state_object, &state, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) {
		PyBuffer_Release(&rows);
		return NULL;
	}
	count = (size_t)rows.len / (protection ? 24 : 16);
	counts = state.buf;
	if (state.len < 24) {
		PyErr_SetString(PyExc_ValueError, "three u64 are needed");
		goto out;
	}
	begun = done = (size_t)counts[0];
	if (protection) {
		ledger->maps++;
		ledger->mapping++;
		result = run_rows(ledger, rows.buf, count, protection, &done, counts + 1);
		ledger->mapping--;
		counts[0] = done;
		goto out;
	}
	/* Look up the records of the rows first: after the unmap, other records may be at the same IOVAs. */
	if (PyDict_Size(ledger->at)) {
		found = PyMem_Malloc((count - begun + 1) * sizeof(*found));
		if (!found) {
			PyErr_NoMemory();
			goto out;
		}
	}
	for (at = begun; found && at < count; at++) {
		const uint64_t *row = (const uint64_t *)rows.buf + 2 * at;
		PyObject *iova = PyLong_FromUnsignedLongLong(row[0]);
		Record *record = iova ? (Record *)PyDict_GetItem(ledger->at, iova) : NULL;

		Py_XDECREF(iova);
		while (record && (record->state != PRESENT || record->size != row[1]))
			record = record->under;
		Py_XINCREF((PyObject *)record);
		found[at - begun] = record;
	}
	result = run_rows(ledger, rows.buf, count, 0, &done, counts + 1);
	ledger->unmaps += done > begun;
	if (done > counts[0]) /* another thread may go through the same rows */
		counts[0] = done;
	for (at = begun; found && at < count; at++) {
		Record *record = found[at - begun];

		if (record && at < done && record->state == PRESENT) {
			counts[2] += record->size;
			drop(ledger, record);
		}
		Py_XDECREF((PyObject *)record);
	}
out:
	PyMem_Free(found);
	PyBuffer_Release(&rows);
	PyBuffer_Release(&state);
	return failed(result);
}

PyDoc_STRVAR(
	request_doc,
	"request(request, argument, state, /)\n\n"
	"Make a request on the file of the address space; return its result, or -errno. The first u64 of `state` becomes 1\n"
	"if the request succeeds.");

static PyObject *ledger_request(PyObject *object, PyObject *arguments)
{
	unsigned long long request, argument;
	Ledger *ledger = (Ledger *)object;
	PyObject *state_object;
	Py_buffer state;
	int result;

	if (!PyArg_ParseTuple(arguments, "KKO:request", &request, &argument, &state_object))
		return NULL;
	if (PyObject_GetBuffer(state_object, &state, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE))
		return NULL;
	result = door_request(ledger->door, (unsigned long)request, (void *)(uintptr_t)argument, &ledger->unknown);
	if (result >= 0 && state.len >= 8)
		*(uint64_t *)state.buf = 1;
	ledger->unmaps += result >= 0;
	PyBuffer_Release(&state);
	return failed(result);
}

PyDoc_STRVAR(settle_doc, "settle(record, present, /)\n\nSet a record to present or to gone.");

static PyObject *ledger_settle(PyObject *object, PyObject *arguments)
{
	PyObject *record;
	int present;

	if (!PyArg_ParseTuple(arguments, "Op:settle", &record, &present))
		return NULL;
	if (present)
		((Record *)record)->state = PRESENT;
	else
		drop((Ledger *)object, (Record *)record);
	Py_INCREF(Py_None);
	return Py_None;
}

static int ledger_init(PyObject *object, PyObject *arguments, PyObject *more)
{
	Ledger *ledger = (Ledger *)object;
	PyObject *door;
	unsigned int ioas;

	if (more && PyDict_Size(more)) {
		PyErr_SetString(PyExc_TypeError, "no keyword arguments are taken");
		return -1;
	}
	if (!PyArg_ParseTuple(arguments, "O!I:Ledger", door_type_object, &door, &ioas))
		return -1;
	if (ledger->at) {
		PyErr_SetString(PyExc_RuntimeError, "it is initialized already");
		return -1;
	}
	ledger->at = PyDict_New();
	if (!ledger->at)
		return -1;
	Py_INCREF(door);
	ledger->door = (Door *)door;
	ledger->ioas = ioas;
	return 0;
}

static int ledger_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((Ledger *)object)->at);
	return 0;
}

static int ledger_clear(PyObject *object)
{
	Py_CLEAR(((Ledger *)object)->at);
	return 0;
}

static void ledger_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	PyObject_GC_UnTrack(object);
	ledger_clear(object);
	Py_XDECREF((PyObject *)((Ledger *)object)->door);
	release(object);
	Py_DECREF(type);
}

static PyMethodDef ledger_methods[] = {
	{ "map_dma", (PyCFunction)(void (*)(void))ledger_map_dma, METH_FASTCALL, map_dma_doc },
	{ "place", ledger_place, METH_VARARGS, place_doc },
	{ "add", ledger_add, METH_VARARGS, add_doc },
	{ "unmap_dma", (PyCFunction)(void (*)(void))ledger_unmap_dma, METH_FASTCALL, unmap_dma_doc },
	{ "raw_map", ledger_raw_map, METH_VARARGS, raw_map_doc },
	{ "raw_unmap", (PyCFunction)(void (*)(void))ledger_raw_unmap, METH_FASTCALL, raw_unmap_doc },
	{ "run", ledger_run, METH_VARARGS, run_doc },
	{ "request", ledger_request, METH_VARARGS, request_doc },
	{ "settle", ledger_settle, METH_VARARGS, settle_doc },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef ledger_members[] = {
	{ "at", T_OBJECT, offsetof(Ledger, at), READONLY,
	  "IOVA -> the newest record there; `_under` leads to older ones." },
	{ "maps", T_ULONGLONG, offsetof(Ledger, maps), READONLY, "How many maps have begun." },
	{ "mapping", T_INT, offsetof(Ledger, mapping), READONLY, "How many maps are in progress." },
	{ "unknown", T_INT, offsetof(Ledger, unknown), 0,
	  "A callback of Python raised: what its call did is not known." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot ledger_slots[] = {
	{ Py_tp_doc, "The records of an address space's mappings." },
	{ Py_tp_new, (void *)PyType_GenericNew },
	{ Py_tp_init, (void *)ledger_init },
	{ Py_tp_traverse, (void *)ledger_traverse },
	{ Py_tp_clear, (void *)ledger_clear },
	{ Py_tp_dealloc, (void *)ledger_dealloc },
	{ Py_tp_methods, ledger_methods },
	{ Py_tp_members, ledger_members },
	{ 0, NULL },
};

static PyType_Spec ledger_spec = {
	.name = "pyvfio._buffer.Ledger",
	.basicsize = sizeof(Ledger),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.slots = ledger_slots,
};

PyObject *record_type(PyObject *module)
{
	return PyType_FromModuleAndSpec(module, &record_spec, NULL);
}

PyObject *ledger_type(PyObject *module)
{
	return PyType_FromModuleAndSpec(module, &ledger_spec, NULL);
}
