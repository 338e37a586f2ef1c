/* SPDX-License-Identifier: MIT */
/* pyvfio._buffer.Door: the owner of a descriptor, through which every call on the descriptor goes.
 *
 * A call in progress keeps the descriptor's number open. Each call is an entry in one list, made and removed here while
 * the GIL is held, so no Python runs in between and there is nothing to lock. Closing makes later calls fail and ends
 * waits; the number itself is closed by the last call to end. So it is never used after it may belong to another file.
 *
 * A descriptor that a call returns is put into its Door before any Python runs, so that no signal handler can raise in
 * between and lose it. object.c does the same for the descriptors and ids that requests return. */
#include "door.h"
#include <errno.h>
#include <fcntl.h>
#include <structmember.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct door_call *calls;

/* Not inlined, for gcc 14 would warn of a dangling pointer: it does not see that door_end() takes the call out of the list
 * before the caller returns. */
__attribute__((noinline)) int door_begin(struct door_call *call, Door *door, int *number)
{
	if (door->fd < 0)
		return 0;
	*number = door->fd;
	call->door = door;
	call->thread = PyThread_get_thread_ident();
	call->next = calls;
	calls = call;
	door->busy++;
	return 1;
}

static void write_wake(Door *door)
{
	static const uint64_t one = 1;

	/* EAGAIN means that the counter is full, which ends waits too. No other error is possible. */
	if (door->wake >= 0 && write(door->wake, &one, sizeof(one)) < 0)
		errno = 0;
}

/* Close the number door->closing. An exception is kept in the door. */
static void close_number(Door *door)
{
	PyObject *type, *value, *trace, *result, *again, *kind, *failure, *at;
	int number = door->closing;

	door->closing = -1;
	if (door->wake >= 0 && door->wake != number)
		close(door->wake);
	door->wake = -1;
	PyErr_Fetch(&type, &value, &trace);
	if (door->kernel) {
		result = PyObject_CallMethod(door->kernel, "close", "i", number);
		/* A signal handler raised before the number was closed: it is still open and still ours. Close it again. */
		if (!result && !PyErr_ExceptionMatches(PyExc_Exception) && syscall(SYS_fcntl, number, F_GETFD) != -1) {
			PyErr_Fetch(&kind, &failure, &at);
			again = PyObject_CallMethod(door->kernel, "close", "i", number);
			PyErr_Clear();
			Py_XDECREF(again);
			PyErr_Restore(kind, failure, at);
		}
	} else {
		/* Linux releases the number even if close(2) fails. */
		result = close(number) && errno != EINTR ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(0);
	}
	if (!result) {
		PyErr_Fetch(&kind, &failure, &at);
		PyErr_NormalizeException(&kind, &failure, &at);
		Py_XDECREF(kind);
		Py_XDECREF(at);
		Py_XDECREF(door->failure);
		door->failure = failure;
	}
	Py_XDECREF(result);
	PyErr_Restore(type, value, trace);
}

void door_end(struct door_call *call)
{
	struct door_call **at = &calls;
	Door *door = call->door;

	/* Nearly always the call that ends is the one that began last, the first in the list. */
	while (*at && *at != call)
		at = &(*at)->next;
	if (*at)
		*at = call->next;
	door->busy--;
	if (door->closing < 0)
		return;
	if (door->busy)
		write_wake(door); /* an eventfd that is its own waker: this call may have read the wake-up */
	else
		close_number(door);
}

/* Set the exception that a kernel made of Python has raised. */
int door_raised(int result, int *raised)
{
	if (result != DOOR_RAISED)
		return result;
	if (!python_kernel_raise())
		return -EIO;
	if (raised)
		*raised = 1;
	return DOOR_FAILED;
}

int door_request(Door *door, unsigned long request, void *argument, int *raised)
{
	struct door_call call;
	int number, result;

	for (;;) {
		if (!door->function || !door_begin(&call, door, &number))
			return -EBADF;
		Py_BEGIN_ALLOW_THREADS result = door->function(door->context, number, request, argument);
		Py_END_ALLOW_THREADS door_end(&call);
		if (result != -EINTR)
			return result < 0 ? door_raised(result, raised) : result;
		if (PyErr_CheckSignals())
			return DOOR_FAILED;
	}
}

int door_set_number(Door *door, int number)
{
	if (door->fd >= 0 || door->closing >= 0) {
		PyErr_SetString(PyExc_RuntimeError, "the door has a descriptor already");
		return -1;
	}
	door->fd = number;
	return 0;
}

PyDoc_STRVAR(take_doc, "take(function, *arguments)\n\n"
		       "Call a function and own the descriptor that it returns. No Python code runs in between.");

static PyObject *door_take(PyObject *object, PyObject *arguments)
{
	Door *door = (Door *)object;
	PyObject *rest, *result;
	long number;

	if (PyTuple_Size(arguments) < 1) {
		PyErr_SetString(PyExc_TypeError, "a function is needed");
		return NULL;
	}
	rest = PyTuple_GetSlice(arguments, 1, PY_SSIZE_T_MAX);
	if (!rest)
		return NULL;
	result = PyObject_Call(PyTuple_GetItem(arguments, 0), rest, NULL);
	Py_DECREF(rest);
	if (!result)
		return NULL;
	number = PyLong_AsLong(result);
	if ((number == -1 && PyErr_Occurred()) || door_set_number(door, (int)number)) {
		Py_DECREF(result);
		return NULL;
	}
	return result;
}

PyDoc_STRVAR(
	connect_doc,
	"_connect(native, address)\n\n"
	"Make requests through the pyvfio_door at an address, which `native` keeps there. Call it again after the\n"
	"door's function has changed.");

static PyObject *door_connect(PyObject *object, PyObject *arguments)
{
	Door *door = (Door *)object;
	PyObject *native;
	unsigned long long address;
	/* The layout of pyvfio_door in native.h. */
	const struct {
		door_function function;
		void *context;
		int fd;
	} *from;

	if (!PyArg_ParseTuple(arguments, "OK:_connect", &native, &address))
		return NULL;
	if (door->native && door->native != native) {
		PyErr_SetString(PyExc_RuntimeError, "the door is connected already");
		return NULL;
	}
	from = (const void *)(uintptr_t)address;
	if (!door->native) {
		Py_INCREF(native);
		door->native = native;
	}
	door->function = from->function;
	door->context = from->context;
	Py_INCREF(Py_None);
	return Py_None;
}

PyDoc_STRVAR(ioctl_doc, "ioctl(request, argument, /)\n\n"
			"Make a request; return its result, or -errno. `argument` is an address or a number.");

static PyObject *door_ioctl(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	unsigned long long request, argument;
	int result;

	if (count != 2) {
		PyErr_Format(PyExc_TypeError, "a request and its argument are needed, not %zd arguments", count);
		return NULL;
	}
	request = PyLong_AsUnsignedLongLong(arguments[0]);
	if (request == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	argument = PyLong_AsUnsignedLongLong(arguments[1]);
	if (argument == (unsigned long long)-1 && PyErr_Occurred())
		return NULL;
	result = door_request((Door *)object, (unsigned long)request, (void *)(uintptr_t)argument, NULL);
	return result == DOOR_FAILED ? NULL : PyLong_FromLong(result);
}

PyDoc_STRVAR(call_doc,
	     "call(function, *arguments)\n\n"
	     "Call a function with the descriptor and the arguments. The number stays open until it returns.");

static PyObject *door_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
	Door *door = (Door *)object;
	struct door_call call;
	PyObject *all, *result;
	Py_ssize_t i;
	int number;

	if (count < 1) {
		PyErr_SetString(PyExc_TypeError, "a function is needed");
		return NULL;
	}
	all = PyTuple_New(count);
	if (!all)
		return NULL;
	for (i = 1; i < count; i++) {
		Py_INCREF(arguments[i]);
		if (PyTuple_SetItem(all, i, arguments[i])) {
			Py_DECREF(all);
			return NULL;
		}
	}
	if (!door_begin(&call, door, &number)) {
		Py_DECREF(all);
		errno = EBADF;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	result = PyLong_FromLong(number);
	result = result && !PyTuple_SetItem(all, 0, result) ? PyObject_Call(arguments[0], all, NULL) : NULL;
	door_end(&call);
	Py_DECREF(all);
	return result;
}

PyDoc_STRVAR(
	shut_doc,
	"shut()\n\n"
	"Make later calls fail, end waits, and close the number; if calls are in progress, the last one to end closes it.\n"
	"Return whether the number is closed. It may be called again.");

static PyObject *door_shut(PyObject *object, PyObject *unused)
{
	Door *door = (Door *)object;

	(void)unused;
	if (door->fd >= 0) {
		door->closing = door->fd;
		door->fd = -1;
		if (door->busy)
			write_wake(door);
	}
	if (door->closing >= 0 && !door->busy)
		close_number(door);
	if (door->failure) {
		PyObject *failure = door->failure;

		door->failure = NULL;
		PyErr_SetObject((PyObject *)Py_TYPE(failure), failure);
		Py_DECREF(failure);
		return NULL;
	}
	return PyBool_FromLong(door->closing < 0);
}

PyDoc_STRVAR(inherit_doc, "inherit()\n\n"
			  "Make later calls fail, in a forked child; shut() closes the number.");

static PyObject *door_inherit(PyObject *object, PyObject *unused)
{
	Door *door = (Door *)object;

	(void)unused;
	if (door->fd >= 0) {
		door->closing = door->fd;
		door->fd = -1;
	}
	Py_INCREF(Py_None);
	return Py_None;
}

PyDoc_STRVAR(
	waker_doc,
	"waker(itself)\n\n"
	"Return the eventfd that shut() signals, created at the first call; with `itself`, the descriptor serves as it.");

static PyObject *door_waker(PyObject *object, PyObject *itself)
{
	Door *door = (Door *)object;
	int true_ = PyObject_IsTrue(itself);

	if (true_ < 0)
		return NULL;
	if (door->fd >= 0 && door->wake < 0) {
		door->wake = true_ ? door->fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (door->wake < 0)
			return PyErr_SetFromErrno(PyExc_OSError);
	}
	return PyLong_FromLong(door->wake);
}

static int door_init(PyObject *object, PyObject *arguments, PyObject *more)
{
	Door *door = (Door *)object;
	PyObject *kernel;

	if (more && PyDict_Size(more)) {
		PyErr_SetString(PyExc_TypeError, "no keyword arguments are taken");
		return -1;
	}
	if (!PyArg_ParseTuple(arguments, "O:Door", &kernel))
		return -1;
	if (kernel != Py_None && !door->kernel) {
		Py_INCREF(kernel);
		door->kernel = kernel;
	}
	return 0;
}

static PyObject *door_new(PyTypeObject *type, PyObject *arguments, PyObject *more)
{
	Door *door = (Door *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);

	(void)arguments;
	(void)more;
	if (door)
		door->fd = door->closing = door->wake = -1;
	return (PyObject *)door;
}

/* In C and not in a Python __del__, where an exception of a signal handler would be lost. */
static void warn_of_a_leak(Door *door)
{
	PyObject *type, *value, *trace;

	PyErr_Fetch(&type, &value, &trace);
	if (door->name && PyErr_WarnFormat(PyExc_ResourceWarning, 1, "%S was never closed", door->name))
		PyErr_WriteUnraisable(door->name);
	PyErr_Restore(type, value, trace);
}

/* No call is in progress, since each call holds a reference to the door. */
static void door_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	Door *door = (Door *)object;

	if (door->fd >= 0) {
		warn_of_a_leak(door);
		door->closing = door->fd;
		door->fd = -1;
	}
	if (door->closing >= 0)
		close_number(door);
	Py_XDECREF(door->name);
	Py_XDECREF(door->native);
	Py_XDECREF(door->kernel);
	Py_XDECREF(door->failure);
	release(object);
	Py_DECREF(type);
}

PyDoc_STRVAR(
	in_call_doc,
	"in_call()\n\n"
	"Return whether this thread is in a call through any door: code of a kernel made of Python or of a signal handler can be.");

static PyObject *module_in_call(PyObject *module, PyObject *unused)
{
	unsigned long me = PyThread_get_thread_ident(), caller = python_kernel_caller();
	struct door_call *at;

	(void)module;
	(void)unused;
	for (at = calls; at; at = at->next)
		if (at->thread == me || (caller && at->thread == caller))
			break;
	return PyBool_FromLong(at != NULL);
}

PyDoc_STRVAR(after_fork_doc, "after_fork()\n\nForget the calls of threads that do not exist in the child.");

static PyObject *module_after_fork(PyObject *module, PyObject *unused)
{
	unsigned long me = PyThread_get_thread_ident();
	struct door_call **at = &calls;

	(void)module;
	(void)unused;
	python_kernel_after_fork();
	while (*at) {
		if ((*at)->thread == me) {
			at = &(*at)->next;
		} else {
			(*at)->door->busy--;
			*at = (*at)->next;
		}
	}
	Py_INCREF(Py_None);
	return Py_None;
}

PyMethodDef door_functions[] = {
	{ "in_call", module_in_call, METH_NOARGS, in_call_doc },
	{ "after_fork", module_after_fork, METH_NOARGS, after_fork_doc },
	{ NULL, NULL, 0, NULL },
};

static PyMethodDef door_methods[] = {
	{ "take", door_take, METH_VARARGS, take_doc },
	{ "_connect", door_connect, METH_VARARGS, connect_doc },
	{ "ioctl", (PyCFunction)(void (*)(void))door_ioctl, METH_FASTCALL, ioctl_doc },
	{ "call", (PyCFunction)(void (*)(void))door_call, METH_FASTCALL, call_doc },
	{ "shut", door_shut, METH_NOARGS, shut_doc },
	{ "inherit", door_inherit, METH_NOARGS, inherit_doc },
	{ "waker", door_waker, METH_O, waker_doc },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef door_members[] = {
	{ "fd", T_INT, offsetof(Door, fd), READONLY, "The descriptor; -1 before there is one, and once it is closed." },
	{ "native", T_OBJECT, offsetof(Door, native), READONLY, "The pyvfio_door of this descriptor." },
	{ "name", T_OBJECT, offsetof(Door, name), 0, "Its name, for messages." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot door_slots[] = {
	{ Py_tp_doc, "The owner of a descriptor; every system call on the descriptor goes through it." },
	{ Py_tp_new, (void *)door_new },
	{ Py_tp_init, (void *)door_init },
	{ Py_tp_dealloc, (void *)door_dealloc },
	{ Py_tp_methods, door_methods },
	{ Py_tp_members, door_members },
	{ 0, NULL },
};

static PyType_Spec door_spec = {
	.name = "pyvfio._buffer.Door",
	.basicsize = sizeof(Door),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = door_slots,
};

PyTypeObject *door_type_object; /* static, as the list of calls is: there is one interpreter */

PyObject *door_type(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &door_spec, NULL);

	Py_XINCREF(type);
	door_type_object = (PyTypeObject *)type;
	return type;
}
