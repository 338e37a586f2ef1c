/* SPDX-License-Identifier: MIT */
/* Shared by the files of pyvfio._buffer. */
#include <Python.h>
#include <limits.h>
#include <stdint.h>

enum {
    DOOR_FAILED = INT_MIN, /* no result: an exception is set */
    DOOR_RAISED = -4095 /* what a function returns that has raised one, for door_raised(); no errno of the kernel's */
};

typedef int (*door_function)(void *context, int fd, unsigned long request, void *argument);

typedef struct {
    PyObject_HEAD door_function function;
    void *context;
    PyObject *native; /* keeps both of them */
    PyObject *kernel; /* whose close() closes the number; NULL for close(2) */
    PyObject *name;    /* of the descriptor, for messages */
    PyObject *failure; /* what closing raised when the last call to end did it */
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

/* Begin a call: whether the door is open, and its number, which stays open until the call ends. */
int door_begin(struct door_call *call, Door *door, int *number);
void door_end(struct door_call *call);

/* A request, begun again when a signal's handler has run: its result, -errno, or DOOR_FAILED. `raised` (NULL if nobody cares): it is
 * not known what it did, because a kernel made of Python raised. */
int door_request(Door *door, unsigned long request, void *argument, int *raised);
int door_raised(int result, int *raised);

/* Own a number that a call has returned. */
int door_set_number(Door *door, int number);

/* Kernels made of Python, python_kernel.c: raise what one has raised in this thread, if it has; the thread that this one acts for,
 * or 0; and forget, in a forked child, what it does not have. */
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
