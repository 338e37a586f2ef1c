/* SPDX-License-Identifier: MIT */
/* pyvfio._buffer.Record and Ledger: DMA mappings, and the native calls that make and end them.
 *
 * A record is in the ledger before its request is made, and the call itself writes the outcome into it. No Python runs in
 * between, so neither a signal's handler nor another thread can make the kernel and the library disagree. Records are
 * kept by identity: those at one IOVA are a chain, since one may be made there before the end of another is recorded.
 *
 * Only what is simple is decided here: an unmap that meets one whole mapping while nothing else is being mapped. All other
 * cases are pyvfio.spaces.ledger's. */
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
	int unknown;		 /* a callback of Python raised: what its call did is not known */
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

/* Take a record out; harmless when it is not there. It never fails but for want of memory, and then nothing is lost by it. */
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

static int map_range(Ledger *ledger, uint64_t address, uint64_t iova, uint64_t size, int protection, int *raised)
{
	struct vfio_iommu_type1_dma_map type1;
	struct iommu_ioas_map ioas;

	if (ledger->ioas) {
		memset(&ioas, 0, sizeof(ioas));
		ioas.size = sizeof(ioas);
		ioas.flags = IOMMU_IOAS_MAP_FIXED_IOVA | (protection & READ ? IOMMU_IOAS_MAP_READABLE : 0) |
			     (protection & WRITE ? IOMMU_IOAS_MAP_WRITEABLE : 0);
		ioas.ioas_id = ledger->ioas;
		ioas.user_va = address;
		ioas.length = size;
		ioas.iova = iova;
		return door_request(ledger->door, IOMMU_IOAS_MAP, &ioas, raised);
	}
	type1.argsz = sizeof(type1);
	type1.flags =
		(protection & READ ? VFIO_DMA_MAP_FLAG_READ : 0) | (protection & WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0);
	type1.vaddr = address;
	type1.iova = iova;
	type1.size = size;
	return door_request(ledger->door, VFIO_IOMMU_MAP_DMA, &type1, raised);
}

/* 0 and the bytes, or -errno, or DOOR_FAILED. */
static int unmap_range(Ledger *ledger, uint64_t iova, uint64_t size, uint64_t *bytes)
{
	struct vfio_iommu_type1_dma_unmap type1;
	struct iommu_ioas_unmap ioas;
	int result;

	if (ledger->ioas) {
		memset(&ioas, 0, sizeof(ioas));
		ioas.size = sizeof(ioas);
		ioas.ioas_id = ledger->ioas;
		ioas.iova = iova;
		ioas.length = size;
		result = door_request(ledger->door, IOMMU_IOAS_UNMAP, &ioas, &ledger->unknown);
		*bytes = ioas.length;
	} else {
		memset(&type1, 0, sizeof(type1));
		type1.argsz = sizeof(type1);
		type1.iova = iova;
		type1.size = size;
		result = door_request(ledger->door, VFIO_IOMMU_UNMAP_DMA, &type1, &ledger->unknown);
		*bytes = type1.size;
	}
	ledger->unmaps += result >= 0;
	return result < 0 ? result : 0;
}

static Record *new_record(PyObject *kind, PyObject *space, PyObject *buffer, PyObject *held)
{
	allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)kind, Py_tp_alloc);
	Record *record = (Record *)allocate((PyTypeObject *)kind, 0);

	if (!record)
		return NULL;
	Py_INCREF(space);
	record->space = space;
	Py_INCREF(buffer);
	record->buffer = buffer;
	Py_INCREF(held);
	record->held = held;
	return record;
}

PyDoc_STRVAR(
	map_doc,
	"map(type, space, buffer, held, address, iova, size, protection, /)\n\n"
	"Map memory at an IOVA: the record, of the type given, or -errno. A handler that raises while the kernel maps\n"
	"ends the mapping again. What a callback raises leaves a record that is pending.");

static PyObject *ledger_map(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	unsigned long long address, iova, size;
	Ledger *ledger = (Ledger *)object;
	int result, raised = 0;
	uint64_t bytes;
	Record *record;

	if (count != 8) {
		PyErr_SetString(PyExc_TypeError, "8 arguments are needed");
		return NULL;
	}
	address = PyLong_AsUnsignedLongLong(arguments[4]);
	if (address == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	iova = PyLong_AsUnsignedLongLong(arguments[5]);
	if (iova == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	size = PyLong_AsUnsignedLongLong(arguments[6]);
	if (size == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	record = new_record(arguments[0], arguments[1], arguments[2], arguments[3]);
	if (!record)
		return NULL;
	record->address = address;
	record->iova = iova;
	record->size = size;
	record->protection = (int)PyLong_AsLong(arguments[7]);
	if (insert(ledger, record, arguments[5])) {
		Py_DECREF((PyObject *)record);
		return NULL;
	}
	record->serial = ++ledger->maps;
	ledger->mapping++;
	result = map_range(ledger, address, iova, size, record->protection, &raised);
	ledger->mapping--;
	if (result == 0 && record->state == PENDING) {
		record->state = PRESENT;
		if (!PyErr_CheckSignals())
			return (PyObject *)record;
		/* The kernel may have pinned for seconds: all of it or none. What cannot be undone stays recorded. */
		{
			PyObject *type, *value, *trace;

			PyErr_Fetch(&type, &value, &trace);
			if (record->state == PRESENT && !unmap_range(ledger, iova, size, &bytes))
				drop(ledger, record);
			PyErr_Clear();
			PyErr_Restore(type, value, trace);
		}
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
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(
	place_doc,
	"place(type, space, buffer, held, size, protection, request, argument, offset, /)\n\n"
	"Make a request that maps, and fills the u64 at an offset of its struct with the IOVA: the record, or -errno.");

static PyObject *ledger_place(PyObject *object, PyObject *arguments)
{
	unsigned long long size, request, argument, offset;
	PyObject *kind, *space, *buffer, *held, *iova;
	Ledger *ledger = (Ledger *)object;
	int protection, result, tries, raised = 0;
	uint64_t bytes;
	Record *record;

	if (!PyArg_ParseTuple(arguments, "OOOOKiKKK:place", &kind, &space, &buffer, &held, &size, &protection, &request,
			      &argument, &offset))
		return NULL;
	record = new_record(kind, space, buffer, held);
	if (!record)
		return NULL;
	record->size = size;
	record->protection = protection;
	record->serial = ++ledger->maps;
	/* An unmap of another thread may have met it, and could not know that. Then it is made again. */
	for (tries = 8;; tries--) {
		const unsigned unmaps = ledger->unmaps;

		ledger->mapping++;
		result = door_request(ledger->door, (unsigned long)request, (void *)(uintptr_t)argument, &raised);
		ledger->mapping--;
		if (result < 0 || unmaps == ledger->unmaps || !tries)
			break;
		unmap_range(ledger, *(const uint64_t *)(uintptr_t)(argument + offset), size, &bytes);
		PyErr_Clear();
	}
	if (raised)
		ledger->unknown = 1;
	if (result < 0) {
		Py_DECREF((PyObject *)record);
		return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
	}
	record->iova = *(const uint64_t *)(uintptr_t)(argument + offset);
	record->state = PRESENT;
	iova = PyLong_FromUnsignedLongLong(record->iova);
	if (!iova || insert(ledger, record, iova)) {
		unmap_range(ledger, record->iova, size, &bytes);
		Py_XDECREF(iova);
		Py_DECREF((PyObject *)record);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	Py_DECREF(iova);
	return (PyObject *)record;
}

PyDoc_STRVAR(add_doc, "add(type, space, buffer, held, address, iova, size, protection, /)\n\n"
		      "Record what is mapped already.");

static PyObject *ledger_add(PyObject *object, PyObject *arguments)
{
	PyObject *kind, *space, *buffer, *held, *iova;
	unsigned long long address, start, size;
	Ledger *ledger = (Ledger *)object;
	Record *record;
	int protection;

	if (!PyArg_ParseTuple(arguments, "OOOOKKKi:add", &kind, &space, &buffer, &held, &address, &start, &size,
			      &protection))
		return NULL;
	record = new_record(kind, space, buffer, held);
	if (!record)
		return NULL;
	record->address = address;
	record->iova = start;
	record->size = size;
	record->protection = protection;
	record->state = PRESENT;
	iova = PyLong_FromUnsignedLongLong(start);
	if (!iova || insert(ledger, record, iova)) {
		Py_XDECREF(iova);
		Py_DECREF((PyObject *)record);
		return NULL;
	}
	Py_DECREF(iova);
	return (PyObject *)record;
}

PyDoc_STRVAR(
	unmap_doc,
	"unmap(iova, size, /)\n\n"
	"Unmap what is one whole mapping: the bytes, or -errno. None if it is not, or something else is being mapped:\n"
	"then nothing has been done.");

static PyObject *ledger_unmap(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	Ledger *ledger = (Ledger *)object;
	unsigned long long iova, size;
	uint64_t bytes = 0;
	Record *record;
	int result;

	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "2 arguments are needed");
		return NULL;
	}
	iova = PyLong_AsUnsignedLongLong(arguments[0]);
	if (iova == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	size = PyLong_AsUnsignedLongLong(arguments[1]);
	if (size == (unsigned long long)-1 && PyErr_Occurred())
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
	/* What was made at that IOVA meanwhile is another record. With success this one is not there any more. */
	if (!result && (bytes == size || record->state == GONE))
		drop(ledger, record);
	Py_DECREF((PyObject *)record);
	if (result)
		return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
	return PyLong_FromUnsignedLongLong(bytes);
}

PyDoc_STRVAR(raw_map_doc, "raw_map(address, iova, size, protection, /)\n\nMap without a record: 0 or -errno.");

static PyObject *ledger_raw_map(PyObject *object, PyObject *arguments)
{
	unsigned long long address, iova, size;
	int protection, result;

	if (!PyArg_ParseTuple(arguments, "KKKi:raw_map", &address, &iova, &size, &protection))
		return NULL;
	result = map_range((Ledger *)object, address, iova, size, protection, NULL);
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(raw_unmap_doc, "raw_unmap(iova, size, /)\n\nUnmap and leave the records as they are: bytes, or -errno.");

static PyObject *ledger_raw_unmap(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	unsigned long long iova, size;
	uint64_t bytes = 0;
	int result;

	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "2 arguments are needed");
		return NULL;
	}
	iova = PyLong_AsUnsignedLongLong(arguments[0]);
	if (iova == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	size = PyLong_AsUnsignedLongLong(arguments[1]);
	if (size == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	result = unmap_range((Ledger *)object, iova, size, &bytes);
	if (result == DOOR_FAILED)
		return NULL;
	return result ? PyLong_FromLong(result) : PyLong_FromUnsignedLongLong(bytes);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Rows per step, and seconds: between steps Python's handlers run, and other threads may. */
enum { STEP = 4096 };
static const double STEP_SECONDS = 0.05;

/* The batches release the GIL for a step of many rows, so the request goes straight through the door. */
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
			struct vfio_iommu_type1_dma_unmap unmap;
			struct iommu_ioas_unmap ioas_unmap;
			struct vfio_iommu_type1_dma_map map;
			struct iommu_ioas_map ioas_map;
			unsigned long request;
			void *argument;
			uint64_t *length;

			memset(&unmap, 0, sizeof(unmap));
			memset(&ioas_unmap, 0, sizeof(ioas_unmap));
			memset(&ioas_map, 0, sizeof(ioas_map));
			unmap.argsz = sizeof(unmap);
			ioas_unmap.size = sizeof(ioas_unmap);
			ioas_unmap.ioas_id = ledger->ioas;
			map.argsz = sizeof(map);
			map.flags = (protection & READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
				    (protection & WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0);
			ioas_map.size = sizeof(ioas_map);
			ioas_map.flags = IOMMU_IOAS_MAP_FIXED_IOVA | (protection & READ ? IOMMU_IOAS_MAP_READABLE : 0) |
					 (protection & WRITE ? IOMMU_IOAS_MAP_WRITEABLE : 0);
			ioas_map.ioas_id = ledger->ioas;
			do {
				const uint64_t *row = rows + *done * (protection ? 3 : 2);

				if (protection && ledger->ioas) {
					request = IOMMU_IOAS_MAP;
					argument = &ioas_map;
					ioas_map.user_va = row[0];
					ioas_map.iova = row[1];
					ioas_map.length = row[2];
					length = NULL;
				} else if (protection) {
					request = VFIO_IOMMU_MAP_DMA;
					argument = &map;
					map.vaddr = row[0];
					map.iova = row[1];
					map.size = row[2];
					length = NULL;
				} else if (ledger->ioas) {
					request = IOMMU_IOAS_UNMAP;
					argument = &ioas_unmap;
					ioas_unmap.iova = row[0];
					ioas_unmap.length = row[1];
					length = (uint64_t *)&ioas_unmap.length;
				} else {
					request = VFIO_IOMMU_UNMAP_DMA;
					argument = &unmap;
					unmap.iova = row[0];
					unmap.size = row[1];
					length = (uint64_t *)&unmap.size;
				}
				result = door->function(door->context, number, request, argument);
				if (result < 0)
					break;
				if (length)
					*bytes += *length;
				++*done;
			} while (*done < end && now() < until);
		}
		Py_END_ALLOW_THREADS door_end(&call);
		if (result == -EINTR)
			result = 0;
		else if (result < 0)
			result = door_raised(door, result, &ledger->unknown);
		if (result >= 0 && PyErr_CheckSignals())
			return DOOR_FAILED;
	}
	return result < 0 ? result : 0;
}

PyDoc_STRVAR(
	run_doc,
	"run(rows, protection, state, /)\n\n"
	"Map rows of (address, iova, size), or with a protection of 0 unmap rows of (iova, size): 0, or -errno of the\n"
	"first that failed. `state` is a writable buffer of three u64: rows done, from which it goes on; bytes unmapped;\n"
	"and how many of these were records of just the size of their row, which are gone now.");

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
	/* Which records the rows mean is looked up before: by the end there may be others in their places. */
	found = PyMem_Malloc((count - begun + 1) * sizeof(*found));
	if (!found) {
		PyErr_NoMemory();
		goto out;
	}
	for (at = begun; at < count; at++) {
		const uint64_t *row = (const uint64_t *)rows.buf + 2 * at;
		Record *record = NULL;

		if (PyDict_Size(ledger->at)) {
			PyObject *iova = PyLong_FromUnsignedLongLong(row[0]);

			record = iova ? (Record *)PyDict_GetItem(ledger->at, iova) : NULL;
			Py_XDECREF(iova);
		}
		while (record && (record->state != PRESENT || record->size != row[1]))
			record = record->under;
		Py_XINCREF((PyObject *)record);
		found[at - begun] = record;
	}
	result = run_rows(ledger, rows.buf, count, 0, &done, counts + 1);
	ledger->unmaps += done > begun;
	if (done > counts[0]) /* another thread may go through the same rows */
		counts[0] = done;
	for (at = begun; at < count; at++) {
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
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(
	request_doc,
	"request(request, argument, state, /)\n\n"
	"Make a request on the file of the address space: its result, or -errno. The first u64 of `state` becomes 1\n"
	"when it has succeeded.");

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
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(settle_doc, "settle(record, present, /)\n\nSay that a record is of what is mapped, or is gone.");

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
	{ "map", (PyCFunction)(void (*)(void))ledger_map, METH_FASTCALL, map_doc },
	{ "place", ledger_place, METH_VARARGS, place_doc },
	{ "add", ledger_add, METH_VARARGS, add_doc },
	{ "unmap", (PyCFunction)(void (*)(void))ledger_unmap, METH_FASTCALL, unmap_doc },
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
	{ Py_tp_doc, "What is mapped in an address space." },
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
