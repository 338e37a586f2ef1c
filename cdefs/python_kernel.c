/* SPDX-License-Identifier: MIT */
/* How pyvfio._buffer runs the methods of a kernel made of Python (pyvfio.kernel.PythonKernel).
 *
 * An exception of a program's signal handler must not interrupt such a kernel half way. Python runs handlers in the main thread only,
 * between any two steps of the code that it executes. So another thread, the worker, executes the kernel's methods for the main thread,
 * which waits outside the interpreter: a handler runs before or after a request, as with the real kernel.
 *
 * A kernel that takes longer than LONGEST seconds is broken, or its model of a device waits for ever. Then handlers do run, and an
 * exception of one ends the wait; the outcome of the request is unknown. The main thread itself executes what such a handler asks of a
 * kernel, as the worker is busy.
 *
 * Threads are started by PyThread_start_new_thread: the symbols of libpthread have a version that no glibc before 2.34 has. */
#include "door.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 2 };

struct worker {
	_Atomic pid_t id; /* the thread's; 0 before it runs */
	pthread_mutex_t lock;
	pthread_cond_t asked, answered;
	enum { IDLE, ASKED, ANSWERED, ABANDONED, STOPPED } state;
	PyObject *function, *arguments, *more, *result, *type, *value, *trace;
};

/* The worker of the main thread; NULL before it is started. */
static struct worker *worker;
/* Whether the main thread waits for the worker's answer. */
static int waiting;
/* Whether the interpreter has begun to end, after which no other thread runs. */
static int ending;
/* In a worker: the thread that it works for. */
static _Thread_local unsigned long acting_for;
/* The exception that a kernel has raised, until python_kernel_raise() sets it. */
static _Thread_local struct {
	PyObject *type, *value, *trace;
} kept;

unsigned long python_kernel_caller(void)
{
	return acting_for;
}

/* Whether this is the main thread, in which Python runs signal handlers. */
static int is_main_thread(void)
{
	return (pid_t)syscall(SYS_gettid) == getpid();
}

/* Trace and profile as threading.Thread does: for coverage, and debuggers. */
static void follow_threading(const char *get, const char *set)
{
	PyObject *name = PyUnicode_FromString("threading"), *hook = NULL, *done = NULL;
	PyObject *threading = name ? PyImport_GetModule(name) : NULL;
	PyObject *sys = threading ? PyImport_ImportModule("sys") : NULL;

	if (sys)
		hook = PyObject_CallMethod(threading, get, NULL);
	if (hook && hook != Py_None)
		done = PyObject_CallMethod(sys, set, "O", hook);
	PyErr_Clear();
	Py_XDECREF(done);
	Py_XDECREF(hook);
	Py_XDECREF(sys);
	Py_XDECREF(threading);
	Py_XDECREF(name);
}

struct start {
	struct worker *self;
	unsigned long main;
};

static void serve(void *argument)
{
	struct worker *self = ((struct start *)argument)->self;
	PyGILState_STATE gil;
	PyThreadState *thread;

	acting_for = ((struct start *)argument)->main;
	self->id = (pid_t)syscall(SYS_gettid);
	free(argument);
	gil = PyGILState_Ensure();
	follow_threading("gettrace", "settrace");
	follow_threading("getprofile", "setprofile");
	for (;;) {
		thread = PyEval_SaveThread();
		pthread_mutex_lock(&self->lock);
		while (self->state == IDLE || self->state == ANSWERED)
			pthread_cond_wait(&self->asked, &self->lock);
		pthread_mutex_unlock(&self->lock);
		PyEval_RestoreThread(thread);
		if (self->state == STOPPED)
			break;
		self->result = PyObject_Call(self->function, self->arguments, self->more);
		if (!self->result)
			PyErr_Fetch(&self->type, &self->value, &self->trace);
		thread = PyEval_SaveThread();
		pthread_mutex_lock(&self->lock);
		if (self->state == ASKED)
			self->state = ANSWERED;
		pthread_cond_signal(&self->answered);
		pthread_mutex_unlock(&self->lock);
		PyEval_RestoreThread(thread);
		if (self->state == ABANDONED) {
			Py_XDECREF(self->result);
			Py_XDECREF(self->type);
			Py_XDECREF(self->value);
			Py_XDECREF(self->trace);
			Py_DECREF(self->function);
			Py_DECREF(self->arguments);
			Py_XDECREF(self->more);
			free(self);
			break;
		}
	}
	PyGILState_Release(gil);
}

static struct worker *new_worker(void)
{
	struct start *start = malloc(sizeof(*start));
	struct worker *self = calloc(1, sizeof(*self));

	if (!start || !self) {
		free(start);
		free(self);
		PyErr_NoMemory();
		return NULL;
	}
	pthread_mutex_init(&self->lock, NULL);
	pthread_cond_init(&self->asked, NULL);
	pthread_cond_init(&self->answered, NULL);
	start->self = self;
	start->main = PyThread_get_thread_ident();
	if (PyThread_start_new_thread(serve, start) == (unsigned long)-1) {
		free(start);
		free(self);
		PyErr_SetString(PyExc_RuntimeError, "no thread can be started for the kernel");
		return NULL;
	}
	return self;
}

/* Wait for the worker's answer, and return whether there is one. The GIL is held on entry and on return. */
static int wait_for_answer(struct worker *self)
{
	PyThreadState *thread = PyEval_SaveThread();
	struct timespec until;
	int failed = 0;

	pthread_mutex_lock(&self->lock);
	self->state = ASKED;
	pthread_cond_signal(&self->asked);
	while (self->state == ASKED) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += LONGEST;
		failed = 0;
		while (self->state == ASKED && failed != ETIMEDOUT)
			failed = pthread_cond_timedwait(&self->answered, &self->lock, &until);
		if (self->state != ASKED)
			break;
		pthread_mutex_unlock(&self->lock);
		PyEval_RestoreThread(thread);
		failed = PyErr_CheckSignals();
		thread = PyEval_SaveThread();
		pthread_mutex_lock(&self->lock);
		if (failed && self->state == ASKED)
			self->state = ABANDONED;
	}
	pthread_mutex_unlock(&self->lock);
	PyEval_RestoreThread(thread);
	return self->state == ANSWERED;
}

/* Call a function of a kernel made of Python; see above. */
static PyObject *run(PyObject *function, PyObject *arguments, PyObject *more)
{
	struct worker *self;
	PyObject *result;
	int answered;

	if (ending || waiting || !is_main_thread())
		return PyObject_Call(function, arguments, more);
	if (!worker) {
		worker = new_worker();
		if (!worker)
			return NULL;
	}
	self = worker;
	Py_INCREF(function);
	Py_INCREF(arguments);
	Py_XINCREF(more);
	self->function = function;
	self->arguments = arguments;
	self->more = more;
	waiting = 1;
	answered = wait_for_answer(self);
	waiting = 0;
	if (!answered) {
		/* The worker is abandoned: its thread frees it. */
		worker = NULL;
		return NULL;
	}
	result = self->result;
	if (PyErr_Occurred()) {
		/* The answer came while a signal handler raised: drop it. */
		Py_XDECREF(result);
		Py_XDECREF(self->type);
		Py_XDECREF(self->value);
		Py_XDECREF(self->trace);
		result = NULL;
	} else if (!result) {
		PyErr_Restore(self->type, self->value, self->trace);
	}
	self->result = self->type = self->value = self->trace = NULL;
	Py_DECREF(function);
	Py_DECREF(arguments);
	Py_XDECREF(more);
	return result;
}

/* The ioctl of doors of kernels made of Python. The context is the kernel, which the owner of the door keeps alive. */
static int python_ioctl(void *context, int fd, unsigned long request, void *argument)
{
	const PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *kernel = context, *function, *arguments, *answer = NULL;
	long result = -1;

	Py_INCREF(kernel);
	function = PyObject_GetAttrString(kernel, "ioctl");
	arguments = Py_BuildValue("(ikK)", fd, request, (unsigned long long)(uintptr_t)argument);
	if (function && arguments)
		answer = run(function, arguments, NULL);
	if (answer)
		result = PyLong_AsLong(answer);
	if (PyErr_Occurred()) {
		Py_XDECREF(kept.type);
		Py_XDECREF(kept.value);
		Py_XDECREF(kept.trace);
		PyErr_Fetch(&kept.type, &kept.value, &kept.trace);
		result = DOOR_RAISED;
	}
	Py_XDECREF(answer);
	Py_XDECREF(arguments);
	Py_XDECREF(function);
	Py_DECREF(kernel);
	PyGILState_Release(gil);
	return (int)result;
}

int python_kernel_raise(void)
{
	if (!kept.type)
		return 0;
	PyErr_Restore(kept.type, kept.value, kept.trace);
	kept.type = kept.value = kept.trace = NULL;
	return 1;
}

PyDoc_STRVAR(
	uninterrupted_doc,
	"uninterrupted(function, *arguments, **more)\n\n"
	"Call a function of a kernel that is made of Python. Signal handlers run before or after the function, not in it.");

static PyObject *module_uninterrupted(PyObject *module, PyObject *arguments, PyObject *more)
{
	PyObject *rest, *result;

	(void)module;
	if (PyTuple_Size(arguments) < 1) {
		PyErr_SetString(PyExc_TypeError, "a function is needed");
		return NULL;
	}
	rest = PyTuple_GetSlice(arguments, 1, PY_SSIZE_T_MAX);
	if (!rest)
		return NULL;
	result = run(PyTuple_GetItem(arguments, 0), rest, more);
	Py_DECREF(rest);
	return result;
}

PyDoc_STRVAR(caller_doc, "caller()\n\nReturn the thread that this thread acts for, or this thread.");

static PyObject *module_caller(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromUnsignedLong(acting_for ? acting_for : PyThread_get_thread_ident());
}

/* Wait until the operating system has removed a thread. */
static void wait_for_end(pid_t id)
{
	const struct timespec moment = { .tv_nsec = 20000 };

	while (!syscall(SYS_tgkill, getpid(), id, 0))
		nanosleep(&moment, NULL);
}

static void stop_worker(void)
{
	struct worker *self = worker;

	/* A method of the kernel itself may fork or exit, in the worker: the worker cannot wait for its own end. A handler may fork while
	 * the main thread waits for an answer: the wait goes on with the worker. */
	if (!self || waiting || acting_for || !is_main_thread())
		return;
	worker = NULL;
	Py_BEGIN_ALLOW_THREADS
	{
		pthread_mutex_lock(&self->lock);
		self->state = STOPPED;
		pthread_cond_signal(&self->asked);
		pthread_mutex_unlock(&self->lock);
		wait_for_end(self->id);
	}
	Py_END_ALLOW_THREADS free(self);
}

PyDoc_STRVAR(at_end_doc, "at_end()\n\n"
			 "End the worker for good; from now on the main thread answers its own requests.");

static PyObject *module_at_end(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	ending = 1;
	stop_worker();
	Py_INCREF(Py_None);
	return Py_None;
}

PyDoc_STRVAR(before_fork_doc, "before_fork()\n\n"
			      "End the worker, so that a program with one thread forks with one thread.");

static PyObject *module_before_fork(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	stop_worker();
	Py_INCREF(Py_None);
	return Py_None;
}

void python_kernel_after_fork(void)
{
	worker = NULL;
	waiting = 0;
	acting_for = 0;
}

PyMethodDef python_kernel_functions[] = {
	{ "uninterrupted", (PyCFunction)(void (*)(void))module_uninterrupted, METH_VARARGS | METH_KEYWORDS,
	  uninterrupted_doc },
	{ "caller", module_caller, METH_NOARGS, caller_doc },
	{ "at_end", module_at_end, METH_NOARGS, at_end_doc },
	{ "before_fork", module_before_fork, METH_NOARGS, before_fork_doc },
	{ NULL, NULL, 0, NULL },
};

int python_kernel_add(PyObject *module)
{
	PyObject *address = PyLong_FromVoidPtr((void *)(uintptr_t)python_ioctl);
	int result;

	if (!address)
		return -1;
	result = PyModule_AddObjectRef(module, "PYTHON_IOCTL", address);
	Py_DECREF(address);
	return result || PyModule_AddFunctions(module, python_kernel_functions) ? -1 : 0;
}
