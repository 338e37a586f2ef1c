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

/* The index of the first row of (address, iova, size) that ends at 2^64-1; `count` if none does. */
size_t pyvfio_row_at_the_end(const uint64_t *rows, size_t count);

/* The lowest and the highest IOVA of rows of (address, iova, size); at least one is needed. */
void pyvfio_hull(const uint64_t *rows, size_t count, uint64_t *hull);

/* Whether rows of (iova, size) are those of (address, iova, size), in the same order. */
int pyvfio_same_places(const uint64_t *mapped, const uint64_t *rows, size_t count);

/* Wait until the count of a non-blocking eventfd is not 0, and return it; 0 after `seconds`, which mean for ever if negative. It
 * takes no door: eventfds are descriptors of this process, whichever kernel signals them. */
int64_t pyvfio_wait(int eventfd, double seconds);

/* Replace the memory at an address by a shared mapping of a descriptor. A failure leaves the memory as it was. 0 or -errno. */
int pyvfio_map_over(void *there, size_t size, int prot, int fd, int64_t offset);

/* Map private zeroed memory at an address. With `hole`: -EEXIST if something is mapped there. 0 or -errno. */
int pyvfio_map_nothing(void *there, size_t size, int hole);

/* Copy this process's own memory by the kernel (process_vm_readv and _writev): an address that is not mapped, or does not permit the
 * access, gives -EFAULT instead of ending the process. For kernels made of Python, whose callers pass addresses. The copy is complete,
 * or it is an error; bytes before the bad page stay copied, as with a kernel's copy_to_user. */
int pyvfio_peek(uintptr_t address, void *into, size_t size);
int pyvfio_poke(uintptr_t address, const void *from, size_t size);

/* Whether a kernel could pin this memory of the process: 0, or -EFAULT if it is not mapped, or may not be read (`write`: written). */
int pyvfio_pinnable(uintptr_t address, uint64_t size, int write);
