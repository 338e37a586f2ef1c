/* SPDX-License-Identifier: MIT */
/* Shared by the files of pyvfio._buffer. */
#include <Python.h>
#include <limits.h>
#include <stdint.h>

enum {
    DOOR_FAILED = INT_MIN, /* no result: an exception is set */
    DOOR_RAISED = -4095 /* a door's function has raised an exception, see door_raised(); not an errno of the kernel */
};

typedef int (*door_function)(void *context, int fd, unsigned long request, void *argument);

typedef struct {
    PyObject_HEAD door_function function;
    void *context;
    PyObject *native; /* the pyvfio_door that they come from, kept alive */
    PyObject *kernel; /* whose close() closes the number; NULL for close(2) */
    PyObject *name;    /* of the descriptor, for messages */
    PyObject *failure; /* the exception of closing the number, until shut() raises it */
    int fd; /* -1: nothing yet, or closed */
    int closing; /* the number that is closed when the last call ends; -1: none */
    int wake; /* an eventfd that ends waits, or the descriptor itself; -1: none */
    int busy; /* calls in progress */
} Door;

/* An entry of the list of calls in progress; it lies on the stack of the function that makes the call. */
struct door_call {
    struct door_call *next;
    Door *door;
    unsigned long thread;
};

/* Begin a call. Returns whether the door is open, and its number, which stays open until door_end(). */
int door_begin(struct door_call *call, Door *door, int *number);
void door_end(struct door_call *call);

/* Make a request; after EINTR run signal handlers and repeat it. Returns its result, -errno, or DOOR_FAILED. `raised` (may be NULL)
 * becomes 1 if a kernel made of Python raised, so that the outcome of the request is unknown. */
int door_request(Door *door, unsigned long request, void *argument, int *raised);
int door_raised(int result, int *raised);

/* Put a descriptor that a call has returned into a door. */
int door_set_number(Door *door, int number);

/* For kernels made of Python (python_kernel.c). The first sets the exception that such a kernel has raised in this thread, and returns
 * whether there is one. The second returns the thread that this one acts for, or 0. The third makes a forked child forget the worker
 * thread, which only its parent has. */
int python_kernel_raise(void);
unsigned long python_kernel_caller(void);
void python_kernel_after_fork(void);
int python_kernel_add(PyObject *module);

extern PyTypeObject *door_type_object;
PyObject *door_type(PyObject *module);
PyObject *object_type(PyObject *module);
PyObject *record_type(PyObject *module);
PyObject *ledger_type(PyObject *module);
extern PyMethodDef door_functions[], object_functions[];
