/* SPDX-License-Identifier: MIT */
/* The parts that need Python's C API: the address of a buffer, and the base classes of buffers and windows.
 *
 * pyvfio._buffer.Window: the base of Python classes that access a device's registers in mapped memory. Each load or store is one
 * instruction of exactly one width, and takes a fourth of the time of a function of _abi.
 *
 * pyvfio._buffer.Buffer: the base of Python classes that are buffers of u64, or of bytes. From CPython 3.12 on a class can do that itself,
 * by __buffer__; this base can go when 3.11 is no longer supported.
 *
 * These types do not take part in garbage collection: the owner that a Buffer holds never refers back to it, and the collector must not
 * clear a Buffer whose memory is still being read. */
#include "door.h"

typedef struct {
	PyObject_HEAD
	PyObject *owner; /* whose memory it is; NULL before _export() */
	void *address;
	Py_ssize_t shape[2];
	Py_ssize_t strides[2];
	Py_ssize_t width; /* bytes of an item */
	int dimensions;
	int readonly;
} Buffer;

PyDoc_STRVAR(
	export_doc,
	"_export(owner, address, rows, columns, readonly, width=8)\n\n"
	"Return a buffer of the u64 values at an address: rows x columns, or one dimension if columns is 0. The values stay there as\n"
	"long as owner lives. With a width of 1 the items are bytes.\n"
	"To be called once, by the constructor.");

static PyObject *buffer_export(PyObject *object, PyObject *arguments)
{
	Buffer *self = (Buffer *)object;
	PyObject *owner;
	unsigned long long address;
	Py_ssize_t rows, columns, width = sizeof(uint64_t);
	int readonly;

	if (!PyArg_ParseTuple(arguments, "OKnnp|n:_export", &owner, &address, &rows, &columns, &readonly, &width))
		return NULL;
	if (self->owner) {
		PyErr_SetString(PyExc_TypeError, "it is a buffer already");
		return NULL;
	}
	Py_INCREF(owner);
	self->owner = owner;
	self->address = (void *)(uintptr_t)address;
	self->dimensions = columns ? 2 : 1;
	self->shape[0] = rows;
	self->shape[1] = columns;
	self->width = width;
	self->strides[0] = (columns ? columns : 1) * width;
	self->strides[1] = width;
	self->readonly = readonly;
	/* Not Py_RETURN_NONE: newer headers assume that None is immortal, which it is not on 3.11. */
	Py_INCREF(Py_None);
	return Py_None;
}

static int buffer_get(PyObject *object, Py_buffer *view, int flags)
{
	Buffer *self = (Buffer *)object;

	view->obj = NULL;
	if (!self->owner) {
		PyErr_SetString(PyExc_BufferError, "it was not made by its constructor");
		return -1;
	}
	if (self->readonly && (flags & PyBUF_WRITABLE)) {
		PyErr_SetString(PyExc_BufferError, "it is read-only");
		return -1;
	}
	if (self->dimensions > 1 && (flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS) {
		PyErr_SetString(PyExc_BufferError, "its rows are contiguous, its columns are not");
		return -1;
	}
	view->buf = self->address;
	view->len = self->shape[0] * self->strides[0];
	view->readonly = self->readonly;
	view->itemsize = self->width;
	view->format = flags & PyBUF_FORMAT ? (self->width == 1 ? "B" : "Q") : NULL;
	view->ndim = flags & PyBUF_ND ? self->dimensions : 1;
	view->shape = flags & PyBUF_ND ? self->shape : NULL;
	view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL;
	view->suboffsets = NULL;
	view->internal = NULL;
	Py_INCREF(object);
	view->obj = object;
	return 0;
}

static void buffer_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	Py_XDECREF(((Buffer *)object)->owner);
	release(object);
	Py_DECREF(type);
}

static PyMethodDef buffer_methods[] = {
	{ "_export", buffer_export, METH_VARARGS, export_doc },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot buffer_slots[] = {
	{ Py_tp_doc, "A buffer of u64 values, whose memory belongs to another object." },
	{ Py_tp_new, (void *)PyType_GenericNew },
	{ Py_tp_dealloc, (void *)buffer_dealloc },
	{ Py_tp_methods, buffer_methods },
	{ Py_bf_getbuffer, (void *)buffer_get },
	{ 0, NULL },
};

static PyType_Spec buffer_spec = {
	.name = "pyvfio._buffer.Buffer",
	.basicsize = sizeof(Buffer),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = buffer_slots,
};

PyDoc_STRVAR(
	pinned_doc,
	"pinned(buffer, writable)\n\n"
	"Return the address and the size in bytes of a contiguous buffer, and a memoryview that keeps it in place. The memoryview\n"
	"is the only export that is left.");

static PyObject *module_pinned(PyObject *module, PyObject *arguments)
{
	PyObject *buffer, *held;
	Py_buffer view;
	int writable;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "Op:pinned", &buffer, &writable))
		return NULL;
	held = PyMemoryView_FromObject(buffer);
	if (!held)
		return NULL;
	if (PyObject_GetBuffer(held, &view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0))) {
		Py_DECREF(held);
		return NULL;
	}
	arguments = Py_BuildValue("KnN", (unsigned long long)(uintptr_t)view.buf, view.len, held);
	PyBuffer_Release(&view);
	return arguments;
}

typedef struct {
	PyObject_HEAD
	uintptr_t address;
	size_t size; /* bytes; 0 refuses everything */
} Window;

PyDoc_STRVAR(open_doc, "_open(address, size)\n\n"
		       "Access the memory at an address; with size 0, none. The caller must keep the memory mapped.");

static PyObject *window_open(PyObject *object, PyObject *arguments)
{
	Window *self = (Window *)object;
	unsigned long long address;
	Py_ssize_t size;

	if (!PyArg_ParseTuple(arguments, "Kn:_open", &address, &size))
		return NULL;
	self->address = (uintptr_t)address;
	self->size = (size_t)size;
	Py_INCREF(Py_None);
	return Py_None;
}

/* The value of an int, or of an object with __index__. */
static unsigned long long number(PyObject *object)
{
	unsigned long long value;

	if (PyLong_Check(object))
		return PyLong_AsUnsignedLongLong(object);
	object = PyNumber_Index(object);
	if (!object)
		return (unsigned long long)-1;
	value = PyLong_AsUnsignedLongLong(object);
	Py_DECREF(object);
	return value;
}

/* Barriers. Memory that is written before a register is stored is visible to the device first, and memory that is read after a register
 * is loaded is at least as new as the register. x86 keeps these orders by itself. */
#if defined(__x86_64__) || defined(__i386__)
#define BEFORE_STORE() __asm__ __volatile__("" ::: "memory")
#define AFTER_LOAD() __asm__ __volatile__("" ::: "memory")
#elif defined(__aarch64__)
#define BEFORE_STORE() __asm__ __volatile__("dmb oshst" ::: "memory")
#define AFTER_LOAD() __asm__ __volatile__("dmb oshld" ::: "memory")
#else
#define BEFORE_STORE() __sync_synchronize()
#define AFTER_LOAD() __sync_synchronize()
#endif

/* Convert an argument to a number: 1; 0 if it is not a number or does not fit in 64 bits, which refuse() reports; -1 if its
 * __index__ raised another exception. */
static int as_number(PyObject *argument, unsigned long long *value)
{
	if (PyBool_Check(argument))
		return 0;
	*value = number(argument);
	if (*value != (unsigned long long)-1 || !PyErr_Occurred())
		return 1;
	if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError) &&
	    !PyErr_ExceptionMatches(PyExc_TypeError))
		return -1;
	PyErr_Clear();
	return 0;
}

/* Return the address of an access; 0 if it is not possible, which refuse() reports. Called last: no Python runs between this and the
 * access, which could close the window. */
static uintptr_t window_place(const Window *self, unsigned long long at, size_t width)
{
	return at < self->size && width <= self->size - at && !(at & (width - 1)) ? self->address + (uintptr_t)at : 0;
}

/* Call self._refuse(offset, width, value), which raises, and return NULL. The value is Ellipsis for a read. */
static PyObject *refuse(PyObject *self, PyObject *offset, size_t width, PyObject *value)
{
	PyObject *result = PyObject_CallMethod(self, "_refuse", "OnO", offset, (Py_ssize_t)width, value);

	if (result) {
		Py_DECREF(result);
		PyErr_SetString(PyExc_SystemError, "_refuse() raised nothing");
	}
	return NULL;
}

static PyObject *window_load(PyObject *object, PyObject *offset, size_t width)
{
	unsigned long long index, value;
	uintptr_t at;
	int valid = as_number(offset, &index);

	if (valid < 0)
		return NULL;
	at = valid ? window_place((Window *)object, index, width) : 0;
	if (!at)
		return refuse(object, offset, width, Py_Ellipsis);
	switch (width) {
	case 1: value = *(const volatile uint8_t *)at; break;
	case 2: value = *(const volatile uint16_t *)at; break;
	case 4: value = *(const volatile uint32_t *)at; break;
	default: value = *(const volatile uint64_t *)at;
	}
	AFTER_LOAD();
	return PyLong_FromUnsignedLongLong(value);
}

static PyObject *window_store(PyObject *object, PyObject *const *arguments, Py_ssize_t count, size_t width)
{
	unsigned long long index, value;
	uintptr_t at;
	int valid;

	if (count != 2) {
		PyErr_Format(PyExc_TypeError, "an offset and a value are needed, not %zd arguments", count);
		return NULL;
	}
	valid = as_number(arguments[0], &index);
	if (valid >= 0)
		valid &= as_number(arguments[1], &value);
	if (valid < 0)
		return NULL;
	/* After __index__ of both arguments, which may have run any Python code. */
	at = valid ? window_place((Window *)object, index, width) : 0;
	if (!at || (width < sizeof(value) && value >> 8 * width))
		return refuse(object, arguments[0], width, arguments[1]);
	BEFORE_STORE();
	switch (width) {
	case 1: *(volatile uint8_t *)at = (uint8_t)value; break;
	case 2: *(volatile uint16_t *)at = (uint16_t)value; break;
	case 4: *(volatile uint32_t *)at = (uint32_t)value; break;
	default: *(volatile uint64_t *)at = (uint64_t)value;
	}
	Py_INCREF(Py_None);
	return Py_None;
}

PyDoc_STRVAR(barrier_doc,
	     "barrier()\n\n"
	     "Order all memory accesses before this call ahead of all those after it, also as devices see them.");

static PyObject *module_barrier(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	__sync_synchronize();
#ifdef __aarch64__
	__asm__ __volatile__("dsb sy" ::: "memory");
#endif
	Py_INCREF(Py_None);
	return Py_None;
}

#define ACCESS(bits) \
	static PyObject *window_read##bits(PyObject *self, PyObject *offset) \
	{ \
		return window_load(self, offset, bits / 8); \
	} \
	static PyObject *window_write##bits(PyObject *self, PyObject *const *arguments, Py_ssize_t count) \
	{ \
		return window_store(self, arguments, count, bits / 8); \
	}

ACCESS(8)
ACCESS(16)
ACCESS(32)
ACCESS(64)

#define READ_DOC(bits) \
	"read" #bits "($self, offset, /)\n--\n\n" \
	"Return the " #bits " bits at an offset. Later accesses to memory come after it."
#define WRITE_DOC(bits) \
	"write" #bits "($self, offset, value, /)\n--\n\n" \
	"Write " #bits " bits at an offset. Earlier writes to memory are visible to the device first."
#define READ(bits) { "read" #bits, window_read##bits, METH_O, READ_DOC(bits) }
#define WRITE(bits) { "write" #bits, (PyCFunction)(void (*)(void))window_write##bits, METH_FASTCALL, WRITE_DOC(bits) }

static PyMethodDef window_methods[] = {
	{ "_open", window_open, METH_VARARGS, open_doc },
	READ(8),
	WRITE(8),
	READ(16),
	WRITE(16),
	READ(32),
	WRITE(32),
	READ(64),
	WRITE(64),
	{ NULL, NULL, 0, NULL },
};

static void window_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	release(object);
	Py_DECREF(type);
}

static PyType_Slot window_slots[] = {
	{ Py_tp_doc, "Registers of a device that are mapped into memory." },
	{ Py_tp_new, (void *)PyType_GenericNew },
	{ Py_tp_dealloc, (void *)window_dealloc },
	{ Py_tp_methods, window_methods },
	{ 0, NULL },
};

static PyType_Spec window_spec = {
	.name = "pyvfio._buffer.Window",
	.basicsize = sizeof(Window),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = window_slots,
};

static PyMethodDef module_methods[] = {
	{ "barrier", module_barrier, METH_NOARGS, barrier_doc },
	{ "pinned", module_pinned, METH_VARARGS, pinned_doc },
	{ NULL, NULL, 0, NULL },
};

static int add_type(PyObject *module, const char *name, PyObject *type)
{
	int result;

	if (!type)
		return -1;
	result = PyModule_AddObjectRef(module, name, type);
	Py_DECREF(type);
	return result;
}

static int module_exec(PyObject *module)
{
	if (add_type(module, "Buffer", PyType_FromModuleAndSpec(module, &buffer_spec, NULL)) ||
	    add_type(module, "Window", PyType_FromModuleAndSpec(module, &window_spec, NULL)) ||
	    add_type(module, "Door", door_type(module)) || add_type(module, "Object", object_type(module)) ||
	    add_type(module, "Record", record_type(module)) || add_type(module, "Ledger", ledger_type(module)))
		return -1;
	if (PyModule_AddFunctions(module, door_functions) || PyModule_AddFunctions(module, object_functions))
		return -1;
	return python_kernel_add(module);
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, (void *)module_exec },
#ifdef Py_mod_gil /* Python 3.13, and no stable ABI of an older one */
	/* Doors and records rely on the GIL: a free-threaded Python turns it on. */
	{ Py_mod_gil, Py_MOD_GIL_USED },
#endif
	{ 0, NULL },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "pyvfio._buffer",
	.m_methods = module_methods,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__buffer(void)
{
	return PyModuleDef_Init(&module);
}
