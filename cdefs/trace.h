/* SPDX-License-Identifier: MIT */
/* Requests as they happen, for pyvfio.tracing. Read by cffi and by C alike.
 *
 * While a trace is on, the ioctl of a door is one of the traced functions, which have the context of the function that they stand
 * for. They copy the request's struct before and after, and append a record to a file; nothing is decoded here. When no trace is on
 * nothing of this is called. */
typedef struct {
    uint64_t start; /* CLOCK_MONOTONIC, ns */
    uint64_t end;
    uint64_t argument; /* the pointer, or the number */
    uint64_t dirty;    /* bits that are set in the bitmap that the request has filled */
    uint32_t thread;
    uint32_t what; /* PYVFIO_TRACE_REQUEST, or the caller's own for pyvfio_trace_note */
    uint32_t request;
    int32_t fd;
    int32_t result; /* as of the door: negative is -errno */
    uint32_t before; /* bytes of the argument before the request; they follow the record */
    uint32_t after;  /* and after it; 0 if it is the same */
    uint32_t input;  /* bytes of an array that the struct points to */
} pyvfio_trace_record;

enum {
    PYVFIO_TRACE_REQUEST = 0
};

int pyvfio_traced_linux(void *context, int fd, unsigned long request, void *argument);
int pyvfio_traced_python(void *context, int fd, unsigned long request, void *argument);

/* Begin to append records to a file, which stays the caller's. `python` is what pyvfio_traced_python stands for. `careful`: callers may
 * pass any address, as tests do; it takes two system calls more for each request. */
void pyvfio_trace_begin(int file, int (*python)(void *, int, unsigned long, void *), int careful);
/* Append a record that is no request, and ends now; begun now if `start` is 0. */
void pyvfio_trace_note(uint32_t what, int fd, uint64_t start, const char *data, size_t size);
/* Have all records in the file: 0, or -errno of a write that failed. */
int pyvfio_trace_flush(void);
/* End it, with all records in the file: 0, or -errno of a write that failed. In a forked child: forget it. */
int pyvfio_trace_end(void);
void pyvfio_trace_forget(void);
uint64_t pyvfio_trace_now(void);
