/* What needs Python's own C interface: the place of a buffer in memory, and the base of classes that are buffers.
 *
 * pyvfio._buffer.Buffer: the base of Python classes that are buffers of u64. From CPython 3.12 on a class can do that itself,
 * by __buffer__; when 3.11 is not supported any more, it goes.
 *
 * No part of the garbage collector is here: what a Buffer holds never refers back to it, and clearing it while somebody still
 * reads the memory would be wrong. */
#include <Python.h>

typedef struct {
	PyObject_HEAD
	PyObject *owner;	/* whose memory it is; NULL before _export() */
	void *address;
	Py_ssize_t shape[2];
	Py_ssize_t strides[2];
	int dimensions;
	int readonly;
} Buffer;

PyDoc_STRVAR(export_doc,
"_export(owner, address, rows, columns, readonly)\n\n"
"Be the u64 values at an address, which stay there as long as owner lives: rows x columns, or rows only if columns is 0.\n"
"To be called once, by the constructor.");

static PyObject *buffer_export(PyObject *object, PyObject *arguments)
{
	Buffer *self = (Buffer *)object;
	PyObject *owner;
	unsigned long long address;
	Py_ssize_t rows, columns;
	int readonly;

	if (!PyArg_ParseTuple(arguments, "OKnnp:_export", &owner, &address, &rows, &columns, &readonly))
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
	self->strides[0] = (columns ? columns : 1) * (Py_ssize_t)sizeof(uint64_t);
	self->strides[1] = sizeof(uint64_t);
	self->readonly = readonly;
	/* Py_RETURN_NONE of later headers takes None for immortal, which it is not on 3.11. */
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
	view->itemsize = sizeof(uint64_t);
	view->format = flags & PyBUF_FORMAT ? "Q" : NULL;
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
	{"_export", buffer_export, METH_VARARGS, export_doc},
	{NULL, NULL, 0, NULL}
};

static PyType_Slot buffer_slots[] = {
	{Py_tp_doc, "A buffer of u64 values."},
	{Py_tp_new, (void *)PyType_GenericNew},
	{Py_tp_dealloc, (void *)buffer_dealloc},
	{Py_tp_methods, buffer_methods},
	{Py_bf_getbuffer, (void *)buffer_get},
	{0, NULL}
};

static PyType_Spec buffer_spec = {
	.name = "pyvfio._buffer.Buffer",
	.basicsize = sizeof(Buffer),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = buffer_slots,
};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &buffer_spec, NULL);
	int result;

	if (!type)
		return -1;
	result = PyModule_AddObjectRef(module, "Buffer", type);
	Py_DECREF(type);
	return result;
}

PyDoc_STRVAR(pinned_doc,
"pinned(buffer, writable)\n\n"
"Address and size in bytes of a contiguous buffer, and a memoryview that keeps it in place. No export is left behind but\n"
"the memoryview's own.");

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

static PyMethodDef module_methods[] = {
	{"pinned", module_pinned, METH_VARARGS, pinned_doc},
	{NULL, NULL, 0, NULL}
};

static PyModuleDef_Slot module_slots[] = {
	{Py_mod_exec, (void *)module_exec},
	{0, NULL}
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
