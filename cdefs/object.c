/* SPDX-License-Identifier: MIT */
/* pyvfio._buffer.Object and receive(): the objects that requests create and destroy.
 *
 * A request may return a descriptor, the id of an object, or both. The caller makes the owners first: a Door for a
 * descriptor, an Object for an id. One native call makes the request and fills the owners; another destroys an object and
 * records that. No Python runs in between, so no signal handler can raise between an answer and its record. */
#include "door.h"
#include <errno.h>
#include <stddef.h>
#include <structmember.h>

enum { PENDING, PRESENT, GONE };

typedef struct {
	PyObject_HEAD
	unsigned int id;
	int state;
} Object;

static PyTypeObject *object_type_object; /* static, as door_type_object is */

/* Whether a receiver is empty and can own a descriptor or id that a request returns. */
static int can_receive(PyObject *receiver)
{
	if (PyObject_TypeCheck(receiver, door_type_object))
		return ((Door *)receiver)->fd < 0 && ((Door *)receiver)->closing < 0;
	return PyObject_TypeCheck(receiver, object_type_object) && ((Object *)receiver)->state == PENDING;
}

static void give(PyObject *receiver, int number)
{
	if (!PyObject_TypeCheck(receiver, door_type_object)) {
		((Object *)receiver)->id = (unsigned int)number;
		((Object *)receiver)->state = PRESENT;
	} else if (number >= 0) {
		door_set_number((Door *)receiver, number);
	}
}

PyDoc_STRVAR(
	receive_doc,
	"receive(door, request, argument, places, receivers, /)\n\n"
	"Make a request and own the descriptors and ids that it returns; return its result, or -errno. `places` are the\n"
	"addresses of the 32-bit fields that it fills, one for each receiver; 0 for the result itself. A receiver is a\n"
	"Door or an Object.");

static PyObject *module_receive(PyObject *module, PyObject *arguments)
{
	unsigned long long request, argument, addresses[4];
	PyObject *door, *places, *receivers;
	Py_ssize_t count, i;
	int result;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "O!KKO!O!:receive", door_type_object, &door, &request, &argument,
			      &PyTuple_Type, &places, &PyTuple_Type, &receivers))
		return NULL;
	count = PyTuple_Size(receivers);
	if (count > 4 || count != PyTuple_Size(places)) {
		PyErr_SetString(PyExc_ValueError, "a place is needed for each of at most 4 receivers");
		return NULL;
	}
	for (i = 0; i < count; i++) {
		addresses[i] = PyLong_AsUnsignedLongLong(PyTuple_GetItem(places, i));
		if (addresses[i] == (unsigned long long)-1 && PyErr_Occurred())
			return NULL;
		if (!can_receive(PyTuple_GetItem(receivers, i))) {
			PyErr_SetString(PyExc_RuntimeError, "a receiver is a Door or an Object that has nothing yet");
			return NULL;
		}
	}
	result = door_request((Door *)door, (unsigned long)request, (void *)(uintptr_t)argument, NULL);
	if (result == DOOR_FAILED)
		return NULL;
	for (i = 0; result >= 0 && i < count; i++) {
		const int32_t *place = (const int32_t *)(uintptr_t)addresses[i];

		give(PyTuple_GetItem(receivers, i), place ? *place : result);
	}
	return PyLong_FromLong(result);
}

PyDoc_STRVAR(
	end_doc,
	"end(door, request, argument, /)\n\n"
	"Make the request that destroys the object; return its result, or -errno. After ENOENT the object is gone too.");

static PyObject *object_end(PyObject *object, PyObject *arguments)
{
	unsigned long long request, argument;
	PyObject *door;
	int result;

	if (!PyArg_ParseTuple(arguments, "O!KK:end", door_type_object, &door, &request, &argument))
		return NULL;
	result = door_request((Door *)door, (unsigned long)request, (void *)(uintptr_t)argument, NULL);
	if (result == DOOR_FAILED)
		return NULL;
	if (result >= 0 || result == -ENOENT)
		((Object *)object)->state = GONE;
	return PyLong_FromLong(result);
}

static PyObject *object_present(PyObject *object, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((Object *)object)->state == PRESENT);
}

static PyObject *object_gone(PyObject *object, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((Object *)object)->state == GONE);
}

static int object_init(PyObject *object, PyObject *arguments, PyObject *more)
{
	Object *self = (Object *)object;

	if (more && PyDict_Size(more)) {
		PyErr_SetString(PyExc_TypeError, "no keyword arguments are taken");
		return -1;
	}
	if (!PyArg_ParseTuple(arguments, "|I:Object", &self->id))
		return -1;
	self->state = PyTuple_Size(arguments) ? PRESENT : PENDING;
	return 0;
}

static void object_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	release(object);
	Py_DECREF(type);
}

PyMethodDef object_functions[] = {
	{ "receive", module_receive, METH_VARARGS, receive_doc },
	{ NULL, NULL, 0, NULL },
};

static PyMethodDef object_methods[] = {
	{ "end", object_end, METH_VARARGS, end_doc },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef object_members[] = {
	{ "id", T_UINT, offsetof(Object, id), READONLY,
	  "Its id, which it keeps when it is gone; 0 before there is one." },
	{ NULL, 0, 0, 0, NULL },
};

static PyGetSetDef object_getset[] = {
	{ "present", object_present, NULL, "Whether a request has made it, and none has ended it.", NULL },
	{ "gone", object_gone, NULL, "Whether a request has ended it.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot object_slots[] = {
	{ Py_tp_doc,
	  "Object([id], /)\n\nAn object of the kernel: an existing one, or one that a request will create." },
	{ Py_tp_new, (void *)PyType_GenericNew },
	{ Py_tp_init, (void *)object_init },
	{ Py_tp_dealloc, (void *)object_dealloc },
	{ Py_tp_methods, object_methods },
	{ Py_tp_members, object_members },
	{ Py_tp_getset, object_getset },
	{ 0, NULL },
};

static PyType_Spec object_spec = {
	.name = "pyvfio._buffer.Object",
	.basicsize = sizeof(Object),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = object_slots,
};

PyObject *object_type(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &object_spec, NULL);

	Py_XINCREF(type);
	object_type_object = (PyTypeObject *)type;
	return type;
}
