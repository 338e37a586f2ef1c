/* Shared by the files of pyvfio._buffer. */
#include <Python.h>
#include <limits.h>
#include <stdint.h>

enum {
    DOOR_FAILED = INT_MIN
}; /* no result: an exception is set */

typedef int (*door_function)(void *context, int fd, unsigned long request, void *argument);

typedef struct {
    PyObject_HEAD door_function function;
    void *context;
    PyObject *native;  /* keeps both of them */
    PyObject *closer;  /* called with the number to close it; NULL for close(2) */
    PyObject *raiser;  /* called to raise what a callback of Python has kept */
    PyObject *failure; /* what closing raised when the last call to end did it */
    int fd;            /* -1: nothing yet, or closed */
    int closing;       /* the number that is closed when the last call ends; -1: none */
    int wake;          /* an eventfd that ends waits, or the descriptor itself; -1: none */
    int busy;          /* calls in progress */
} Door;

int door_request(Door *door, unsigned long request, void *argument);
PyObject *door_type(PyObject *module);
extern PyMethodDef door_functions[];
