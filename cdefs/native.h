/* SPDX-License-Identifier: MIT */
/* The few C functions of pyvfio that call the OS. Read by cffi and by C alike.
 *
 * A door is a function that performs one ioctl, a context for it, and the descriptor. The real kernel's is plain ioctl(2); a
 * mock's calls Python (python_kernel.c). So nothing is ever patched, and the batch calls of pyvfio._buffer (door.h) work on both.
 *
 * Results are >= 0, or -errno. EINTR is passed on, so that Python runs the signal's handler before it tries again. */
typedef struct {
    int (*ioctl)(void *context, int fd, unsigned long request, void *argument);
    void *context;
    int fd;
} pyvfio_door;

int pyvfio_linux_ioctl(void *context, int fd, unsigned long request, void *argument);
int pyvfio_ioctl(const pyvfio_door *door, unsigned long request, void *argument);

/* The first of the rows of (address, iova, size) that ends with the 64 bits; `count` if none does. */
size_t pyvfio_row_at_the_end(const uint64_t *rows, size_t count);

/* The lowest and the highest IOVA of rows of (address, iova, size); at least one is needed. */
void pyvfio_hull(const uint64_t *rows, size_t count, uint64_t *hull);

/* Whether rows of (iova, size) are those of (address, iova, size), in the same order. */
int pyvfio_same_places(const uint64_t *mapped, const uint64_t *rows, size_t count);

/* What a non-blocking eventfd has counted, as soon as that is not 0; 0 when so many seconds have passed, which never happens if
 * they are negative. It takes no door: eventfds are the process's own, whatever kernel signals them. */
int64_t pyvfio_wait(int eventfd, double seconds);

/* Put a descriptor's memory, shared, in the place of memory that is there already, which a failure leaves as it was. 0 or -errno. */
int pyvfio_map_over(void *there, size_t size, int prot, int fd, int64_t offset);

/* Put zeroed memory of this process alone there. Into a hole: -EEXIST if it is one no more. 0 or -errno. */
int pyvfio_map_nothing(void *there, size_t size, int hole);

/* This process's own memory, copied by the kernel (process_vm_readv and _writev): an address that is not there, or that forbids it,
 * is -EFAULT and not the end of the process. For kernels made of Python, whose callers pass addresses. All of it is
 * copied, or the copy is an error; what was copied before the bad page stays copied, as with a kernel's copy_to_user. */
int pyvfio_peek(uintptr_t address, void *into, size_t size);
int pyvfio_poke(uintptr_t address, const void *from, size_t size);

/* Whether a kernel could pin this memory of the process's own: 0, or -EFAULT where it is not there or may not be read (written). */
int pyvfio_pinnable(uintptr_t address, uint64_t size, int write);
