/* The few C functions of pyvfio that call the OS. Read by cffi and by C alike.
 *
 * Each takes a door: a function that performs one ioctl, a context for it, and the descriptor. The real kernel's door is
 * plain ioctl(2); a mock's is a Python callback. So nothing is ever patched, and the batch calls work on both. Closing a
 * descriptor sets its door's fd to -1, and whatever comes later is EBADF with no check anywhere else.
 *
 * Results are >= 0, or -errno. EINTR is passed on, so that Python runs the signal's handler before it tries again. */
typedef struct {
    int (*ioctl)(void *context, int fd, unsigned long request, void *argument);
    void *context;
    int fd;
} pyvfio_door;

/* What a callback of Python returns when it raised: its exception is kept for whoever made the request. No errno of the kernel's. */
enum {
    PYVFIO_RAISED = -4095
};

int pyvfio_linux_ioctl(void *context, int fd, unsigned long request, void *argument);
int pyvfio_ioctl(const pyvfio_door *door, unsigned long request, void *argument);

/* Where DMA mappings are made: a type1 container (ioas 0), or one IOAS of an iommufd (its object id, never 0). */
typedef struct {
    const pyvfio_door *door;
    uint32_t ioas;
} pyvfio_space;

enum {
    PYVFIO_PROT_READ = 1,
    PYVFIO_PROT_WRITE = 2
};

/* VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP. */
int pyvfio_map(const pyvfio_space *space, uint64_t address, uint64_t iova, uint64_t size, uint32_t prot);

/* VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP. The result is the bytes unmapped, or -errno as the highest 4095 values
 * (the kernel's own convention: a count of bytes is a multiple of a page, so it is never one of them). */
uint64_t pyvfio_unmap(const pyvfio_space *space, uint64_t iova, uint64_t size);

/* Rows of (address, iova, size), and of (iova, size). `done` counts the rows that succeeded, so on an error it is the
 * index of the row that failed; the caller decides what becomes of the rows before it. `bytes` adds up what was unmapped. */
int pyvfio_map_many(const pyvfio_space *space, const uint64_t *rows, size_t count, uint32_t prot, size_t *done);
int pyvfio_unmap_many(const pyvfio_space *space, const uint64_t *rows, size_t count, size_t *done, uint64_t *bytes);
/* The first row of three that ends with the 64 bits; `count` if none does. */
size_t pyvfio_row_at_the_end(const uint64_t *rows, size_t count);

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
