/* SPDX-License-Identifier: MIT */
/* Record requests as they happen, for pyvfio.tracing. Read by cffi and by C alike.
 *
 * While a trace is on, the ioctl of each door is one of the traced functions, with the context of the function that it replaces. They
 * copy the request's struct before and after, and append a record to a file; nothing is decoded here. While no trace is on, none of
 * this is called. */
typedef struct {
    uint64_t start; /* CLOCK_MONOTONIC, ns */
    uint64_t end;
    uint64_t argument; /* the pointer, or the number */
    uint64_t dirty;    /* number of bits set in the bitmap of dirty pages that the request has filled */
    uint32_t thread;
    uint32_t what; /* PYVFIO_TRACE_REQUEST, or the caller's own for pyvfio_trace_note */
    uint32_t request;
    int32_t fd;
    int32_t result; /* as of the door: negative is -errno */
    uint32_t before; /* bytes of the argument before the request; they follow the record */
    uint32_t after;  /* bytes of it after the request; 0 if it is unchanged */
    uint32_t input;  /* bytes of an array that the struct points to */
} pyvfio_trace_record;

enum {
    PYVFIO_TRACE_REQUEST = 0
};

int pyvfio_traced_linux(void *context, int fd, unsigned long request, void *argument);
int pyvfio_traced_python(void *context, int fd, unsigned long request, void *argument);

/* Begin to append records to a file, which stays the caller's. `python` is the function that pyvfio_traced_python calls. `careful`:
 * programs may pass any address, as tests do; this takes two more system calls for each request. */
void pyvfio_trace_begin(int file, int (*python)(void *, int, unsigned long, void *), int careful);
/* Append a record that is not a request. It ends now, and began at `start`, or now if that is 0. */
void pyvfio_trace_note(uint32_t what, int fd, uint64_t start, const char *data, size_t size);
/* Write all records to the file: 0, or -errno of a write that failed. */
int pyvfio_trace_flush(void);
/* End the trace, with all records in the file: 0, or -errno of a write that failed. forget() is for a forked child. */
int pyvfio_trace_end(void);
void pyvfio_trace_forget(void);
uint64_t pyvfio_trace_now(void);
